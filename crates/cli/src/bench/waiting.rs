//! A gateway whose agents are away: what a hundred full inboxes cost in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use api::{SendAnswer, SendRequest, State};
use identity::{AgentAddress, AgentName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;

use super::idle::memory;
use super::worker::{Worker, orders};
use super::{BODY, Effort, Row, mesh, role};
use crate::client::Client;
use crate::context::Context;
use crate::demo::process::Stage;
use crate::failure::Failure;

/// Two rows: as the inboxes filled, and after a restart. Four gateways fill each inbox, as one may fill a quarter of it; and each of eight fills
/// every other one, as one may have messages waiting for 64 agents.
pub async fn measure(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    mesh::found(stage, mesh::OPEN_POLICY).await?;
    mesh::join(stage, "gw-hub", "tag:gateway").await?;
    mesh::up(stage, "gw-hub", "full").await?;
    for n in 0..effort.inboxes {
        mesh::agent(stage, "gw-hub", &format!("agent-{n}")).await?;
    }
    let mut senders = Vec::new();
    for n in 0..SENDERS {
        let gateway = format!("gw-{n}");
        mesh::join(stage, &gateway, "tag:gateway").await?;
        mesh::up(stage, &gateway, "full").await?;
        let token = mesh::agent(stage, &gateway, "sender").await?;
        let (token, inboxes) = (token.display().to_string(), effort.inboxes.to_string());
        let state = stage.path(&gateway);
        senders.push(Worker::start(
            Some(state.as_os_str()),
            &["filler", "sender", &token, &inboxes],
        )?);
    }
    mesh::direct(stage, "gw-hub", SENDERS, MET_WITHIN).await?;
    for n in 0..SENDERS {
        mesh::direct(stage, &format!("gw-{n}"), 1, MET_WITHIN).await?;
    }
    let each = effort.waiting / (SENDERS / 2);
    for (n, sender) in senders.iter_mut().enumerate() {
        sender.tell(&format!("fill {each} {}", n % 2)).await?;
    }
    for sender in &mut senders {
        let _: Filled = sender.hear().await?;
    }
    let wanted = effort.inboxes * each * SENDERS / 2;
    arrived(stage, wanted).await?;
    let inboxes = effort.inboxes;
    let what = "100 inboxes with 1,000 waiting messages of 1 KiB: memory";
    let filled = row(
        stage,
        effort,
        what,
        &format!("{wanted} messages in {inboxes} inboxes"),
    )
    .await?;
    stage.end("gw-hub").await?;
    mesh::up(stage, "gw-hub", "full").await?;
    let restarted = row(stage, effort, "the same after a restart", "read from disk").await?;
    Ok(vec![filled, restarted])
}

async fn row(stage: &Stage, effort: Effort, what: &'static str, how: &str) -> Result<Row, Failure> {
    tokio::time::sleep(effort.settle).await;
    let pid = stage
        .pid("gw-hub")
        .ok_or_else(|| Failure::failed("gw-hub has ended"))?;
    let (resident, peak) = (memory(pid, "VmRSS:")?, memory(pid, "VmHWM:")?);
    Ok(Row {
        what,
        figure: format!("{resident:.1} MB"),
        limit: format!("below {MOST_MEMORY:.0} MB"),
        pass: resident < MOST_MEMORY,
        note: format!("resident, {how}; at most {peak:.1} MB"),
    })
}

/// Waits until all have arrived.
async fn arrived(stage: &Stage, wanted: usize) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let mut queued = 0;
        for n in 0..SENDERS {
            let said = stage
                .done(&format!("gw-{n}"), &["--json", "status"], "")
                .await?;
            let said: Value = serde_json::from_str(&said).map_err(anyhow::Error::from)?;
            let peers = said["peers"].as_array().cloned().unwrap_or_default();
            queued += peers
                .iter()
                .filter_map(|peer| peer["queued"].as_u64())
                .sum::<u64>();
        }
        if queued == 0 {
            return Ok(());
        }
        if begun.elapsed() > ARRIVED_WITHIN {
            return Err(Failure::failed(format!(
                "{queued} of {wanted} have not arrived"
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Filled {
    sent: usize,
}

/// Sends to all agents of the hub in turn.
pub async fn filler(
    context: &Context,
    agent: AgentName,
    token: &Path,
    inboxes: usize,
) -> Result<(), Failure> {
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        let words = order
            .strip_prefix("fill ")
            .and_then(|it| it.split_once(' '));
        let numbers = words.and_then(|(each, half)| Some((each.parse().ok()?, half.parse().ok()?)));
        let (each, half): (usize, usize) = numbers.ok_or_else(|| Failure::usage(&*order))?;
        let mut filling = JoinSet::new();
        for lane in 0..AT_ONCE {
            let client = role::client(context, agent.clone(), token.to_owned())?;
            let mine = (0..inboxes).filter(|n| n % 2 == half);
            let names: Vec<_> = mine.filter(|n| n / 2 % AT_ONCE == lane).collect();
            filling.spawn(fill(client, names, each));
        }
        let mut sent = 0;
        while let Some(done) = filling.join_next().await {
            sent += done.map_err(|error| Failure::failed(error.to_string()))??;
        }
        context.output().object(&Filled { sent })?;
    }
    Ok(())
}

async fn fill(mut client: Client, names: Vec<usize>, each: usize) -> Result<usize, Failure> {
    let mut sent = 0;
    for name in names {
        let to: AgentAddress = format!("agent-{name}@gw-hub")
            .parse()
            .map_err(anyhow::Error::from)?;
        let mut left = each;
        while left > 0 {
            let message = SendRequest {
                to: to.clone(),
                body: Some("m".repeat(BODY)),
                body_base64: None,
                content_type: None,
                ttl_s: None,
                id: None,
                reply_expected: false,
                cause: Some("none".into()),
                conversation: None,
            };
            let answer = client
                .post_raw("/v1/send", &message, Duration::ZERO)
                .await?;
            let answer: SendAnswer = serde_json::from_slice(&answer.body)
                .map_err(|error| Failure::failed(error.to_string()))?;
            match (answer.state, answer.error) {
                (State::Accepted, _) => (sent, left) = (sent + 1, left - 1),
                // The hub is slower than this one: a moment later there is room.
                (_, Some(error)) if error.code == "outbox_full" => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                (state, error) => {
                    return Err(Failure::failed(format!("{state:?}: {error:?}")));
                }
            }
        }
    }
    Ok(sent)
}

const SENDERS: usize = 8;

/// Calls of one sender at once.
const AT_ONCE: usize = 16;

/// From issue 4.
const MOST_MEMORY: f64 = 120.0;

const MET_WITHIN: Duration = Duration::from_secs(60);
const ARRIVED_WITHIN: Duration = Duration::from_secs(120);
