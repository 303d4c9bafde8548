//! How many messages one gateway accepts a second, each on its disk before its sender hears
//! `accepted`. They are for a gateway that is down, so nothing but accepting is measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::{SendAnswer, SendRequest, State};
use identity::AgentAddress;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::caller::Caller;
use super::worker::{Worker, orders};
use super::{BODY, Effort, Row, disk, median, mesh, spread};
use crate::client;
use crate::context::Context;
use crate::demo::process::Stage;
use crate::failure::Failure;

/// The row.
pub async fn measure(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    mesh::found(stage, mesh::OPEN_POLICY).await?;
    mesh::join(stage, "gw-down", "tag:gateway").await?;
    mesh::join(stage, "gw-a", "tag:gateway").await?;
    mesh::up(stage, "gw-a", "full").await?;
    mesh::known(stage, "gw-a", 1, KNOWN_WITHIN).await?;
    for agent in 0..AGENTS {
        mesh::agent(stage, "gw-a", &format!("agent-{agent}")).await?;
    }
    let tokens = stage.path("gw-a.").display().to_string();
    let state = stage.path("gw-a");
    let mut senders = Worker::start(
        Some(state.as_os_str()),
        &["senders", "nobody@gw-down", &tokens, &AGENTS.to_string()],
    )?;
    let _: Sent = senders.ask(&format!("send {}", SENDERS)).await?;

    let (mut ratios, mut rates, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let home = stage.path("");
    for _ in 0..effort.rounds.min(MOST_ROUNDS) {
        let (home, rows) = (home.clone(), effort.accepts);
        let beside = tokio::task::spawn_blocking(move || disk::bare_sqlite(&home, rows)).await;
        let beside = beside.map_err(|error| Failure::failed(error.to_string()))??;
        let sent: Sent = senders.ask(&format!("send {}", effort.accepts)).await?;
        let rate = sent.accepted as f64 / sent.seconds;
        ratios.push(rate / beside);
        rates.push(rate);
        bare.push(beside);
    }
    let ratio = median(ratios.iter().copied());
    Ok(vec![Row {
        what: "durable accepts of 1 KiB, beside bare SQLite",
        figure: format!("{ratio:.2}x"),
        limit: format!("at least {LEAST_RATIO}x"),
        pass: ratio >= LEAST_RATIO,
        note: format!(
            "{:.0} a second by {SENDERS} senders at one API; bare SQLite, 256 a commit: {:.0}; rounds {}x",
            median(rates),
            median(bare),
            spread(&ratios, 2)
        ),
    }])
}

#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    accepted: usize,
    seconds: f64,
}

/// Many callers, each on a connection of its own, each with one call at a time.
pub async fn senders(
    context: &Context,
    to: &AgentAddress,
    tokens: &Path,
    agents: usize,
) -> Result<(), Failure> {
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
    let message = serde_json::to_string(&message).map_err(anyhow::Error::from)?;
    let socket = client::socket(context)?;
    let mut callers = Vec::new();
    for sender in 0..SENDERS {
        let token = format!("{}agent-{}.token", tokens.display(), sender % agents);
        let token = Zeroizing::new(std::fs::read_to_string(token)?);
        callers.push(Caller::connect(&socket, token.trim(), "/v1/send", &message).await?);
    }
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        let count = order
            .strip_prefix("send ")
            .and_then(|count| count.parse().ok());
        let count: usize = count.ok_or_else(|| Failure::usage(&*order))?;
        let left = Arc::new(AtomicUsize::new(count));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in callers.drain(..) {
            tasks.spawn(send(caller, left.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            callers.push(ended.map_err(|error| Failure::failed(error.to_string()))??);
        }
        let seconds = begun.elapsed().as_secs_f64();
        context.output().object(&Sent {
            accepted: count,
            seconds,
        })?;
    }
    Ok(())
}

/// Sends until all senders together have sent enough.
async fn send(mut caller: Caller, left: Arc<AtomicUsize>) -> Result<Caller, Failure> {
    let one = |left: usize| left.checked_sub(1);
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one)
        .is_ok()
    {
        let answer = caller.call().await?;
        let sent: SendAnswer = serde_json::from_slice(answer).map_err(anyhow::Error::from)?;
        if sent.state != State::Accepted {
            return Err(Failure::failed(format!("not accepted: {sent:?}")));
        }
    }
    Ok(caller)
}

/// Each has room for 10,000 messages on their way (`router::limits::OUTBOX_ROWS`).
const AGENTS: usize = 10;

/// Calls at once: as many as the spool commits at once.
const SENDERS: usize = 256;

/// So that the outboxes never fill up.
const MOST_ROUNDS: usize = 5;

const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// From issue 3.
const LEAST_RATIO: f64 = 0.25;
