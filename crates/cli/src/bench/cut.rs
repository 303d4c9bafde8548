//! How long a gateway goes on after it may no longer: from the moment in which the operator's command
//! starts until what hung in the air at that gateway has ended as denied, and it refuses what is new.
//!
//! One gateway has grants with all others, and every gateway has an open ask: the others to it, it to
//! one of them. A policy, a kill by the beacon, and a kill by hand with the beacon dead then end them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{AskRequest, SendAnswer, SendRequest, State};
use identity::AgentAddress;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use wire::MessageId;

use super::worker::{Worker, orders};
use super::{Effort, Row, mesh, quantile};
use crate::client::Client;
use crate::context::Context;
use crate::demo::process::Stage;
use crate::failure::{Exit, Failure};
use crate::output::{Output, note};

/// What the asking process tells: when it was over at each gateway, in milliseconds since 1970.
#[derive(Serialize, Deserialize)]
pub struct Ended {
    at_ms: Vec<f64>,
}

/// The rows over direct paths, by all three ways.
pub async fn direct(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    let mut cut = Cut::begin(stage, effort, "direct", true).await?;
    let policy = cut.policies().await?;
    let beacon = cut.kills_by_beacon().await?;
    let hand = cut.kills_by_hand().await?;
    let everyone = cut.kill_of_everyone_by_hand().await?;
    Ok(vec![
        row("cut by a policy, direct", &policy),
        row("cut by a kill, direct", &beacon),
        row(
            "cut by a kill, direct, beacon dead, from one gateway",
            &hand,
        ),
        row("cut by a kill of all, direct, beacon dead", &everyone),
    ])
}

/// The rows over the beacon's relay; none where this host has more than loopback, by which the
/// gateways meet after all.
pub async fn relayed(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    let mut cut = Cut::begin(stage, effort, "relayed", false).await?;
    if !cut.is_relayed().await? {
        note(
            "not measured relayed: this host has another interface than lo, and the gateways meet there; hint: unshare -n",
        );
        return Ok(Vec::new());
    }
    let policy = cut.policies().await?;
    let beacon = cut.kills_by_beacon().await?;
    Ok(vec![
        row("cut by a policy, relayed", &policy),
        row("cut by a kill, relayed", &beacon),
    ])
}

/// A mesh in which everybody waits for an answer.
struct Cut<'a> {
    stage: &'a mut Stage,
    effort: Effort,
    gateways: Vec<String>,
    asks: usize,
}

impl<'a> Cut<'a> {
    async fn begin(
        stage: &'a mut Stage,
        effort: Effort,
        how: &str,
        loopback: bool,
    ) -> Result<Self, Failure> {
        mesh::found(stage, &open()).await?;
        let others = (1..effort.peers.max(FEWEST)).map(|n| format!("gw-{n}"));
        let gateways: Vec<String> = std::iter::once(HUB.to_owned()).chain(others).collect();
        note(format!("{} gateways, {how}", gateways.len()));
        for name in &gateways {
            let tag = if name == HUB { "tag:hub" } else { "tag:peer" };
            mesh::join(stage, name, tag).await?;
        }
        for name in &gateways {
            mesh::up_on(stage, name, "full", loopback).await?;
            mesh::agent(stage, name, ASKER).await?;
        }
        // One for each kill: it does not come back.
        for n in 0..2 * effort.rounds + 1 {
            mesh::agent(stage, HUB, &victim(n)).await?;
        }
        let peers = gateways.len() - 1;
        match loopback {
            true => mesh::direct(stage, HUB, peers, MET_WITHIN).await?,
            false => mesh::known(stage, HUB, peers, MET_WITHIN).await?,
        }
        Ok(Self {
            stage,
            effort,
            gateways,
            asks: 0,
        })
    }

    /// Whether every path of the hub is a relay's.
    async fn is_relayed(&mut self) -> Result<bool, Failure> {
        drop(self.all_ask(&victim(0)).await?);
        let relayed = mesh::paths(self.stage, HUB).await?;
        Ok(relayed.iter().all(|kind| kind == "relay"))
    }

    async fn policies(&mut self) -> Result<Vec<f64>, Failure> {
        let open = self.stage.write("open.hujson", &open())?;
        let shut = self.stage.write("shut.hujson", SHUT)?;
        let mut all = Vec::new();
        for _ in 0..self.effort.rounds {
            self.operate(&["policy", "push", &text(&open)]).await?;
            let asking = self.all_ask(&victim(0)).await?;
            all.extend(self.cut(asking, &["policy", "push", &text(&shut)]).await?);
        }
        self.operate(&["policy", "push", &text(&open)]).await?;
        Ok(all)
    }

    async fn kills_by_beacon(&mut self) -> Result<Vec<f64>, Failure> {
        let mut all = Vec::new();
        for n in 0..self.effort.rounds {
            let asking = self.all_ask(&victim(n + 1)).await?;
            let agent = format!("{}@{HUB}", victim(n + 1));
            all.extend(self.cut(asking, &["kill", "agent", &agent]).await?);
        }
        Ok(all)
    }

    async fn kills_by_hand(&mut self) -> Result<Vec<f64>, Failure> {
        self.stage.end("beacon").await?;
        let mut all = Vec::new();
        for n in self.effort.rounds..2 * self.effort.rounds {
            let agent = format!("{}@{HUB}", victim(n + 1));
            let file = self.kill_file(&["agent", &agent]).await?;
            let asking = self.all_ask(&victim(n + 1)).await?;
            all.extend(self.apply(asking, &file).await?);
        }
        Ok(all)
    }

    async fn kill_of_everyone_by_hand(&mut self) -> Result<Vec<f64>, Failure> {
        let file = self.kill_file(&["all", "--yes"]).await?;
        let asking = self.all_ask(&victim(0)).await?;
        self.apply(asking, &file).await
    }

    /// With the beacon dead the operator's command says so, and leaves the file.
    async fn kill_file(&mut self, what: &[&str]) -> Result<PathBuf, Failure> {
        let file = self.stage.path("kill.txt");
        let out = text(&file);
        let kill = [&["kill"], what, &["--out", &out]].concat();
        let ended = self.stage.run("operator", &kill, "").await?;
        match ended.code == Some(1) && file.exists() {
            true => Ok(file),
            false => Err(Failure::failed(format!("no kill file: {}", ended.stderr))),
        }
    }

    async fn operate(&mut self, command: &[&str]) -> Result<(), Failure> {
        self.stage.done("operator", command, "").await.map(drop)
    }

    /// Every gateway asks, and nobody answers. Returns when all of it is stored where it goes.
    async fn all_ask(&mut self, victim: &str) -> Result<Worker, Failure> {
        self.asks += 1;
        let mut lines = Vec::new();
        for name in &self.gateways {
            let (asker, to) = match name == HUB {
                true => (victim, format!("{ASKER}@{}", self.gateways[1])),
                false => (ASKER, format!("{victim}@{HUB}")),
            };
            let (state, token) = (
                text(&self.stage.path(name)),
                text(&self.stage.path(&format!("{name}.{asker}.token"))),
            );
            lines.push(format!("{state}\t{token}\t{asker}\t{to}"));
        }
        let file = format!("asks-{}.txt", self.asks);
        let asks = text(&self.stage.write(&file, &lines.join("\n"))?);
        let mut worker = Worker::start(None, &["waiters", &asks])?;
        let _: serde_json::Value = worker.hear().await?;
        Ok(worker)
    }

    /// Runs the operator's command, and waits until it is felt everywhere.
    async fn cut(&mut self, asking: Worker, command: &[&str]) -> Result<Vec<f64>, Failure> {
        self.felt(asking, "operator", command).await
    }

    async fn apply(&mut self, asking: Worker, file: &Path) -> Result<Vec<f64>, Failure> {
        let first = self.gateways[1].clone();
        self.felt(asking, &first, &["kill", "--apply", &text(file)])
            .await
    }

    async fn felt(
        &mut self,
        mut asking: Worker,
        state: &str,
        command: &[&str],
    ) -> Result<Vec<f64>, Failure> {
        let begun = unix_ms();
        self.stage.done(state, command, "").await?;
        let ended: Ended = asking.hear().await?;
        Ok(ended.at_ms.iter().map(|at| at - begun).collect())
    }
}

/// The role that waits: opens an ask for each line of the file, says so, and tells when all ended.
pub async fn waiters(asks: &Path, output: Output) -> Result<(), Failure> {
    let mut asking = JoinSet::new();
    let mut others = Vec::new();
    for line in std::fs::read_to_string(asks)?.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[state, token, agent, to] = fields.as_slice() else {
            return Err(Failure::usage(format!("not an ask: {line}")));
        };
        let to: AgentAddress = to.parse().map_err(wrong)?;
        let context = Context::new(Some(state.into()), true);
        let client = || {
            let agent = agent.parse().map_err(wrong)?;
            super::role::client(&context, agent, token.into())
        };
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(|error| Failure::failed(error.to_string()))?;
        let id = MessageId::new(unix_ms() as u64, random);
        asking.spawn(felt(client()?, to, id));
        others.push((client()?, id));
    }
    for (client, id) in &mut others {
        until_stored(client, *id).await?;
    }
    output.object(&json!({"open": others.len()}))?;
    let mut orders = orders();
    let mut at_ms = Vec::new();
    loop {
        tokio::select! {
            ended = asking.join_next() => match ended {
                Some(Ok(ended)) => at_ms.push(ended?),
                Some(Err(error)) => return Err(Failure::failed(error.to_string())),
                None => break,
            },
            // Its parent is gone, or needs it no more.
            None = orders.recv() => return Ok(()),
        }
    }
    output.object(&Ended { at_ms })
}

/// Asks, and says when that had ended as denied and the next was refused too: the other gateway's
/// word may end it before its own has heard why.
async fn felt(mut client: Client, to: AgentAddress, id: MessageId) -> Result<f64, Failure> {
    wait(&mut client, &to, id).await?;
    let begun = std::time::Instant::now();
    while !is_refused(&mut client, &to).await? {
        if begun.elapsed() >= KNOWN_WITHIN {
            return Err(Failure::failed("the next is not refused"));
        }
    }
    Ok(unix_ms())
}

/// Asks until that ends as denied.
async fn wait(client: &mut Client, to: &AgentAddress, id: MessageId) -> Result<(), Failure> {
    let ask = AskRequest {
        to: to.clone(),
        body: Some("?".into()),
        body_base64: None,
        content_type: None,
        ttl_s: None,
        id: Some(id.to_string()),
        timeout_ms: Some(WAITS_MS),
        stream: false,
        cause: Some("none".into()),
        conversation: None,
    };
    let begun = std::time::Instant::now();
    loop {
        let answer = client
            .post_raw("/v1/ask", &ask, Duration::from_millis(WAITS_MS))
            .await?;
        match answer.read::<SendAnswer>() {
            Ok(SendAnswer {
                state: State::Denied,
                ..
            }) => return Ok(()),
            // What a policy of before forbade: this one is not there yet.
            Err(error) if error.exit() == Exit::Denied && begun.elapsed() < KNOWN_WITHIN => {
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) if begun.elapsed() >= KNOWN_WITHIN => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN).await,
            Ok(answer) => {
                return Err(Failure::failed(format!(
                    "it did not end as denied: {answer:?}"
                )));
            }
        }
    }
}

async fn until_stored(client: &mut Client, id: MessageId) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    loop {
        let answer: Result<SendAnswer, Failure> = client.get(&format!("/v1/messages/{id}")).await;
        match answer {
            Ok(SendAnswer {
                state: State::Stored | State::Delivered,
                ..
            }) => return Ok(()),
            _ if begun.elapsed() < KNOWN_WITHIN => tokio::time::sleep(AGAIN).await,
            Ok(answer) => return Err(Failure::failed(format!("never stored: {answer:?}"))),
            Err(error) => return Err(error),
        }
    }
}

async fn is_refused(client: &mut Client, to: &AgentAddress) -> Result<bool, Failure> {
    let send = SendRequest {
        to: to.clone(),
        body: Some("!".into()),
        body_base64: None,
        content_type: None,
        ttl_s: None,
        id: None,
        reply_expected: false,
        cause: Some("none".into()),
        conversation: None,
    };
    let sent: Result<SendAnswer, Failure> = client.post("/v1/send", &send).await;
    Ok(sent.is_err_and(|error| error.exit() == Exit::Denied))
}

fn row(what: &'static str, all: &[f64]) -> Row {
    let (p50, p99) = (
        quantile(all.iter().copied(), 0.5),
        quantile(all.iter().copied(), 0.99),
    );
    Row {
        what,
        figure: format!("p99 {p99:.0} ms"),
        limit: format!("p99 at most {MOST_MS:.0} ms"),
        pass: !all.is_empty() && p99 <= MOST_MS,
        note: format!(
            "p50 {p50:.0} ms, last {:.0} ms, of {} asks that ended",
            quantile(all.iter().copied(), 1.0),
            all.len()
        ),
    }
}

fn victim(n: usize) -> String {
    format!("victim-{n}")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn wrong(error: identity::ParseNameError) -> Failure {
    Failure::usage(error.to_string())
}

fn unix_ms() -> f64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs_f64() * 1e3
}

fn open() -> String {
    SHUT.replace("\"grants\": []", GRANTS)
}

const SHUT: &str = r#"{
  "tagOwners": {"tag:hub": ["bench@example.com"], "tag:peer": ["bench@example.com"]},
  "grants": [],
}"#;

const GRANTS: &str = r#""grants": [
    {"src": ["agent:*@tag:peer"], "dst": ["agent:*@tag:hub"], "msg": ["send", "request"]},
    {"src": ["agent:*@tag:hub"], "dst": ["agent:*@tag:peer"], "msg": ["send", "request"]},
  ]"#;

const HUB: &str = "gw-hub";

const ASKER: &str = "asker";

/// The hub, where a kill is applied, and one that hears of it at second hand.
const FEWEST: usize = 3;

/// From issue 5.
const MOST_MS: f64 = 1000.0;

/// Far longer than any cut.
const WAITS_MS: u64 = 90_000;

const MET_WITHIN: Duration = Duration::from_secs(90);
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);
