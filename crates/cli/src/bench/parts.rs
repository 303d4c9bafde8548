//! Many answers in parts at once, between two gateways: whether every part arrives once and in
//! order, and what they cost a gateway.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::{AskRequest, Part, ReplyRequest, SendAnswer, State};
use bytes::Bytes;
use hyper::Method;
use identity::AgentAddress;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::idle::cpu_seconds;
use super::worker::{Worker, orders};
use super::{Effort, Row, mesh};
use crate::client::Client;
use crate::demo::process::Stage;
use crate::failure::Failure;
use crate::output::Output;

/// The two rows.
pub async fn measure(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    mesh::found(stage, mesh::OPEN_POLICY).await?;
    let mut tokens = Vec::new();
    for (gateway, agent) in [("gw-a", "planner"), ("gw-b", "coder")] {
        mesh::join(stage, gateway, "tag:gateway").await?;
        mesh::up(stage, gateway, "full").await?;
        tokens.push(mesh::agent(stage, gateway, agent).await?);
    }
    mesh::direct(stage, "gw-a", 1, MET_WITHIN).await?;
    mesh::direct(stage, "gw-b", 1, MET_WITHIN).await?;
    let [planner, coder] = [0, 1].map(|n| tokens[n].display().to_string());
    let [state_a, state_b] = ["gw-a", "gw-b"].map(|gateway| stage.path(gateway));
    let parts = effort.parts.to_string();
    let _answerer = Worker::start(
        Some(state_b.as_os_str()),
        &["parts-answerer", "coder", &coder, &parts],
    )?;
    let mut asker = Worker::start(
        Some(state_a.as_os_str()),
        &["parts-asker", "planner", &planner, "coder@gw-b"],
    )?;
    let _: Heard = asker.ask("ask 1").await?;

    let pid = |gateway| {
        let pid = stage.pid(gateway);
        pid.ok_or_else(|| Failure::failed(format!("{gateway} has ended")))
    };
    let pids = [pid("gw-a")?, pid("gw-b")?];
    let before = [cpu_seconds(pids[0])?, cpu_seconds(pids[1])?];
    let begun = Instant::now();
    let heard: Heard = asker.ask(&format!("ask {}", effort.streams)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let shares = [0, 1].map(|n| cpu_seconds(pids[n]).map(|now| (now - before[n]) / seconds));
    let [asking, answering] = shares;
    let (asking, answering) = (asking?, answering?);
    let wanted = effort.streams * effort.parts;
    let most = asking.max(answering);
    let streams = effort.streams;
    Ok(vec![
        Row {
            what: "answers in parts: parts that came once and in order",
            figure: format!("{} of {wanted}", heard.in_order),
            limit: "all".into(),
            pass: heard.in_order == wanted && heard.wrong == 0,
            note: format!(
                "{streams} at once, {RATE} a second each, for {seconds:.1} s; {} wrong",
                heard.wrong
            ),
        },
        Row {
            what: "answers in parts: CPU of a gateway",
            figure: format!("{most:.2} of a core"),
            limit: format!("below {MOST_SHARE} of a core"),
            pass: most < MOST_SHARE,
            note: format!("asking gateway {asking:.2}, answering gateway {answering:.2}"),
        },
    ])
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Heard {
    in_order: usize,
    wrong: usize,
}

/// Asks so many questions at once, and reads all their parts.
pub async fn asker(
    client: impl Fn() -> Result<Client, Failure>,
    to: AgentAddress,
    output: Output,
) -> Result<(), Failure> {
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        let count = order.strip_prefix("ask ").and_then(|it| it.parse().ok());
        let count: usize = count.ok_or_else(|| Failure::usage(&*order))?;
        let mut asking = JoinSet::new();
        for _ in 0..count {
            asking.spawn(ask(client()?, to.clone()));
        }
        let mut all = Heard::default();
        while let Some(heard) = asking.join_next().await {
            let heard = heard.map_err(|error| Failure::failed(error.to_string()))??;
            all.in_order += heard.in_order;
            all.wrong += heard.wrong;
        }
        output.object(&all)?;
    }
    Ok(())
}

async fn ask(mut client: Client, to: AgentAddress) -> Result<Heard, Failure> {
    let ask = AskRequest {
        to,
        body: Some("go on".into()),
        body_base64: None,
        content_type: None,
        ttl_s: None,
        id: None,
        timeout_ms: Some(120_000),
        stream: true,
        cause: Some("none".into()),
        conversation: None,
    };
    let body = serde_json::to_vec(&ask).map_err(|error| Failure::failed(error.to_string()))?;
    let asked = client.events(Method::POST, "/v1/ask", Some(Bytes::from(body)));
    let mut events = match asked.await? {
        Ok(events) => events,
        Err(refused) => return Err(refused.done().err().unwrap_or_else(|| Failure::failed("?"))),
    };
    let mut heard = Heard::default();
    loop {
        let Some(event) = events.next().await? else {
            return Err(Failure::failed("the stream ended without an answer"));
        };
        match &*event.name {
            "part" => {
                let part: Part = event.read()?;
                match usize::try_from(part.seq) == Ok(heard.in_order + 1) {
                    true => heard.in_order += 1,
                    false => heard.wrong += 1,
                }
            }
            "answer" => {
                let answer: SendAnswer = event.read()?;
                heard.wrong += usize::from(answer.state != State::Done);
                return Ok(heard);
            }
            "accepted" => {}
            _ => heard.wrong += 1,
        }
    }
}

/// Answers every question in so many parts.
pub async fn answerer(
    client: impl Fn() -> Result<Client, Failure>,
    parts: usize,
) -> Result<(), Failure> {
    let mut orders = orders();
    let mut stream = client()?.follow().await?;
    let mut answering = JoinSet::new();
    let mut begun = BTreeMap::new();
    loop {
        tokio::select! {
            received = stream.next() => {
                let Some(received) = received? else { return Ok(()) };
                if begun.insert(received.id.clone(), ()).is_none() {
                    answering.spawn(answer(client()?, received.id, parts));
                }
            }
            Some(answered) = answering.join_next() => {
                answered.map_err(|error| Failure::failed(error.to_string()))??;
            }
            // The parent has gone.
            order = orders.recv() => if order.is_none() { return Ok(()) },
        }
    }
}

async fn answer(mut client: Client, id: String, parts: usize) -> Result<(), Failure> {
    let upload = client.upload(&format!("/v1/messages/{id}/parts")).await?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    for seq in 1..=parts {
        tick.tick().await;
        let line = format!("{{\"seq\":{seq},\"text\":\"token \"}}\n");
        if upload.lines.send(line.into()).await.is_err() {
            break;
        }
    }
    upload.end().await?.done()?;
    let reply = ReplyRequest {
        body: Some("token ".repeat(parts)),
        ..ReplyRequest::default()
    };
    let path = format!("/v1/messages/{id}/reply");
    let _: SendAnswer = client.post(&path, &reply).await?;
    Ok(())
}

/// Parts a second of one answer: a fast model's tokens.
const RATE: u32 = 50;

/// From issue 4.
const MOST_SHARE: f64 = 0.5;

const MET_WITHIN: Duration = Duration::from_secs(30);
