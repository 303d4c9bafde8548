//! The round trip of 1 KiB from agent to agent: HTTP at both gateways, the tunnel between them, the
//! answerer following by server-sent events.

use std::path::Path;
use std::time::{Duration, Instant};

use api::{AskRequest, ReplyRequest, SendAnswer};
use identity::AgentAddress;
use serde_json::json;

use super::cores::{self, Side};
use super::plain::Asked;
use super::worker::{Worker, orders};
use super::{BODY, Effort, Row, bulk, disk, median, mesh, plain, quantile, spread};
use crate::client::Client;
use crate::demo::process::Stage;
use crate::failure::Failure;
use crate::output::Output;

/// The two rows, and the floor between them: the same question over QUIC in the tunnel alone.
pub async fn measure(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    mesh::found(stage, mesh::OPEN_POLICY).await?;
    let mut light = agents(stage, ["gw-a", "gw-b"], "none").await?;
    let mut durable = agents(stage, ["gw-c", "gw-d"], "full").await?;
    let (mut plain, mut tunnel) = (plain::pair().await?, bulk::pair().await?);
    for (asking, answering) in [&plain, &tunnel, &light, &durable] {
        asking.keep(Side::Asking)?;
        answering.keep(Side::Answering)?;
    }
    for (gateway, side) in [
        ("gw-a", Side::Asking),
        ("gw-b", Side::Answering),
        ("gw-c", Side::Asking),
        ("gw-d", Side::Answering),
    ] {
        cores::keep(stage.pid(gateway), side)?;
    }
    let home = stage.path("");

    let mut all = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let mut p50s = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let (mut ratios, mut excess, mut fsyncs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=effort.rounds {
        let askers = [&mut plain.0, &mut tunnel.0, &mut light.0, &mut durable.0];
        let mut p50 = [0.0; 4];
        for (at, asker) in askers.into_iter().enumerate() {
            let Asked { micros } = asker.ask(&format!("ask {}", effort.asks)).await?;
            p50[at] = median(micros.iter().copied());
            // The first round warms everything up.
            if round > 0 {
                p50s[at].push(p50[at]);
                all[at].extend(micros);
            }
        }
        let fsync = fsync(&home, effort.asks / 4).await?;
        if round > 0 {
            ratios.push(p50[2] / p50[0]);
            excess.push((p50[3] - p50[2]) / fsync);
            fsyncs.push(fsync);
        }
    }
    let told = |at: usize| {
        let p99 = quantile(all[at].iter().copied(), 0.99);
        format!(
            "p50 {:.0} us, p99 {p99:.0} us",
            median(p50s[at].iter().copied())
        )
    };
    let (ratio, waits) = (
        median(ratios.iter().copied()),
        median(excess.iter().copied()),
    );
    Ok(vec![
        Row {
            what: "ask of 1 KiB without the disk, beside plain quinn",
            figure: format!("{ratio:.1}x"),
            limit: format!("at most {MOST_RATIO:.0}x"),
            pass: ratio <= MOST_RATIO,
            note: format!(
                "{}; plain {}; QUIC in the tunnel {}; rounds {}x",
                told(2),
                told(0),
                told(1),
                spread(&ratios, 1)
            ),
        },
        Row {
            what: "ask of 1 KiB, durable: beyond that, in bare fsyncs",
            figure: format!("{waits:.1}"),
            limit: format!("at most {MOST_FSYNCS:.0}"),
            pass: waits <= MOST_FSYNCS,
            note: format!(
                "{}; one bare fsync {:.0} us; rounds {}",
                told(3),
                median(fsyncs.iter().copied()),
                spread(&excess, 1)
            ),
        },
    ])
}

/// Two agents on two gateways: who asks, and who answers.
async fn agents(
    stage: &mut Stage,
    gateways: [&str; 2],
    durability: &str,
) -> Result<(Worker, Worker), Failure> {
    for gateway in gateways {
        mesh::join(stage, gateway, "tag:gateway").await?;
        mesh::up(stage, gateway, durability).await?;
    }
    let [here, there] = gateways;
    let tokens = [
        mesh::agent(stage, here, "planner").await?,
        mesh::agent(stage, there, "coder").await?,
    ];
    let tokens = tokens.map(|token| token.display().to_string());
    mesh::direct(stage, here, 1, MET_WITHIN).await?;
    let (here, there_state) = (stage.path(here), stage.path(there));
    let mut answerer = Worker::start(
        Some(there_state.as_os_str()),
        &["answerer", "coder", &tokens[1]],
    )?;
    let _: serde_json::Value = answerer.hear().await?;
    let address = format!("coder@{there}");
    let asker = Worker::start(
        Some(here.as_os_str()),
        &["asker", "planner", &tokens[0], &address],
    )?;
    Ok((asker, answerer))
}

/// Asks until it is told to stop; every question in its turn.
pub async fn asker(mut client: Client, to: AgentAddress, output: Output) -> Result<(), Failure> {
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        let count = order
            .strip_prefix("ask ")
            .and_then(|count| count.parse().ok());
        let count: usize = count.ok_or_else(|| Failure::usage(&*order))?;
        let mut micros = Vec::new();
        let begun = Instant::now();
        while micros.len() < count {
            let asked = Instant::now();
            let answer: Result<SendAnswer, Failure> = ask(&mut client, &to).await;
            match answer {
                Ok(SendAnswer { reply: Some(_), .. }) => {
                    micros.push(asked.elapsed().as_secs_f64() * 1e6)
                }
                // The gateways may not know each other yet.
                Ok(_) | Err(_) if begun.elapsed() < KNOWN_WITHIN => tokio::time::sleep(AGAIN).await,
                Ok(answer) => return Err(Failure::failed(format!("no answer: {answer:?}"))),
                Err(error) => return Err(error),
            }
        }
        output.object(&Asked { micros })?;
    }
    Ok(())
}

async fn ask(client: &mut Client, to: &AgentAddress) -> Result<SendAnswer, Failure> {
    let question = AskRequest {
        to: to.clone(),
        body: Some("q".repeat(BODY)),
        body_base64: None,
        content_type: None,
        ttl_s: None,
        id: None,
        timeout_ms: Some(10_000),
        stream: false,
        cause: Some("none".into()),
        conversation: None,
    };
    client
        .post_raw("/v1/ask", &question, Duration::from_secs(10))
        .await?
        .read()
}

/// Answers until its parent is gone.
pub async fn answerer(
    mut follower: Client,
    mut client: Client,
    output: Output,
) -> Result<(), Failure> {
    let mut stream = follower.follow().await?;
    output.object(&json!({"following": true}))?;
    let mut orders = orders();
    loop {
        let received = tokio::select! {
            received = stream.next() => received?,
            _ = orders.recv() => return Ok(()),
        };
        let Some(received) = received else {
            return Ok(());
        };
        let reply = ReplyRequest {
            body: Some("a".repeat(BODY)),
            ..ReplyRequest::default()
        };
        let path = format!("/v1/messages/{}/reply", received.id);
        let _: SendAnswer = client.post(&path, &reply).await?;
    }
}

async fn fsync(home: &Path, times: usize) -> Result<f64, Failure> {
    let home = home.to_owned();
    tokio::task::spawn_blocking(move || disk::bare_fsync(&home, times.max(5)))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
}

/// Both from issue 3.
const MOST_RATIO: f64 = 8.0;
/// See [`MOST_RATIO`].
const MOST_FSYNCS: f64 = 4.0;

const MET_WITHIN: Duration = Duration::from_secs(60);
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);
