//! A mesh on a stage, made by the public commands.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo::process::Stage;
use crate::failure::Failure;

/// A beacon with a policy.
pub async fn found(stage: &mut Stage, policy: &str) -> Result<(), Failure> {
    let said = stage
        .start(
            "beacon",
            "beacon",
            &["--json", "beacon", "--listen", "127.0.0.1:0"],
            Some("{"),
        )
        .await?;
    let said: Value = serde_json::from_str(&said).map_err(anyhow::Error::from)?;
    let (claim, listen) = (text(&said, "claim")?, text(&said, "listen")?);
    let init = [
        "init",
        "--mesh",
        "bench",
        "--beacon",
        &listen,
        "--claim",
        &claim,
        "--user",
        "bench@example.com",
    ];
    stage.done("operator", &init, "").await?;
    let policy = stage.write("policy.hujson", policy)?.display().to_string();
    stage
        .done("operator", &["policy", "push", &policy], "")
        .await?;
    Ok(())
}

/// A gateway that is a member, and not up.
pub async fn join(stage: &Stage, name: &str, tag: &str) -> Result<(), Failure> {
    let token = stage
        .done("operator", &["invite", "--name", name, "--tag", tag], "")
        .await?;
    stage.done(name, &["join", "-"], &token).await?;
    Ok(())
}

/// Starts it.
pub async fn up(stage: &mut Stage, name: &str, durability: &str) -> Result<(), Failure> {
    up_on(stage, name, durability, true).await
}

/// The same; without `loopback` it meets nobody on this host's loopback.
pub async fn up_on(
    stage: &mut Stage,
    name: &str,
    durability: &str,
    loopback: bool,
) -> Result<(), Failure> {
    let config = CONFIG.replace("DURABILITY", durability);
    let config = config.replace("LOOPBACK", &loopback.to_string());
    let config = stage.write(&format!("{name}.json"), &config)?;
    let config = config.display().to_string();
    stage
        .start(name, name, &["up", "--config", &config], Some("ready"))
        .await?;
    Ok(())
}

/// Adds an agent; returns the file with its token.
pub async fn agent(stage: &Stage, gateway: &str, name: &str) -> Result<PathBuf, Failure> {
    let said = stage
        .done(gateway, &["--json", "agent", "add", name], "")
        .await?;
    let said: Value = serde_json::from_str(&said).map_err(anyhow::Error::from)?;
    stage.write(&format!("{gateway}.{name}.token"), &text(&said, "token")?)
}

/// Waits until a gateway has direct paths to so many peers.
pub async fn direct(
    stage: &Stage,
    gateway: &str,
    peers: usize,
    within: Duration,
) -> Result<(), Failure> {
    await_peers(stage, gateway, peers, within, |peer| {
        peer["path"]["kind"] == "direct"
    })
    .await
}

/// Waits until a gateway knows so many peers and its policy.
pub async fn known(
    stage: &Stage,
    gateway: &str,
    peers: usize,
    within: Duration,
) -> Result<(), Failure> {
    await_peers(stage, gateway, peers, within, |_| true).await
}

/// The kind of the path to each peer.
pub async fn paths(stage: &Stage, gateway: &str) -> Result<Vec<String>, Failure> {
    let said = stage.done(gateway, &["--json", "status"], "").await?;
    let said: Value = serde_json::from_str(&said).map_err(anyhow::Error::from)?;
    let peers = said["peers"].as_array().cloned().unwrap_or_default();
    peers
        .iter()
        .map(|peer| text(&peer["path"], "kind"))
        .collect()
}

async fn await_peers(
    stage: &Stage,
    gateway: &str,
    wanted: usize,
    within: Duration,
    counts: fn(&Value) -> bool,
) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let said = stage.done(gateway, &["--json", "status"], "").await?;
        let said: Value = serde_json::from_str(&said).map_err(anyhow::Error::from)?;
        let peers = said["peers"].as_array().cloned().unwrap_or_default();
        let met = peers.iter().filter(|peer| counts(peer)).count();
        if met >= wanted && !said["policy"].is_null() {
            return Ok(());
        }
        if begun.elapsed() > within {
            let last = peers
                .iter()
                .find(|peer| !counts(peer))
                .map(|peer| peer["path"].to_string());
            return Err(Failure::failed(format!(
                "{gateway} met {met} of {wanted} peers; another: {}",
                last.unwrap_or_default()
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn text(said: &Value, field: &str) -> Result<String, Failure> {
    said[field]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::failed(format!("no {field:?} was said")))
}

/// Gateways that meet on loopback, and callers that are never too fast.
const CONFIG: &str = r#"{
  "allow_loopback": LOOPBACK,
  "durability": "DURABILITY",
  "log": "warn",
  "api": {"calls_per_second": 1000000, "burst": 1000000}
}"#;

/// Everybody may ask and tell everybody.
pub const OPEN_POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["bench@example.com"]},
  "grants": [{"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request", "stream"]}],
}"#;
