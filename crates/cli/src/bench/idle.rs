//! A gateway with many peers that have nothing to say: its memory, and its share of a core.

use std::time::{Duration, Instant};

use super::{Effort, Row, mesh};
use crate::demo::process::Stage;
use crate::failure::Failure;

/// The two rows. Only the gateway that is measured has grants with all others: those with each
/// other would be 1225 pairs more on this one machine, and change nothing for it.
pub async fn measure(stage: &mut Stage, effort: Effort) -> Result<Vec<Row>, Failure> {
    mesh::found(stage, POLICY).await?;
    mesh::join(stage, "gw-hub", "tag:hub").await?;
    let names: Vec<String> = (1..=effort.peers).map(|n| format!("gw-{n}")).collect();
    for name in &names {
        mesh::join(stage, name, "tag:peer").await?;
    }
    for name in &names {
        mesh::up(stage, name, "full").await?;
    }
    mesh::up(stage, "gw-hub", "full").await?;
    mesh::direct(stage, "gw-hub", effort.peers, MET_WITHIN).await?;
    tokio::time::sleep(effort.settle).await;

    let pid = stage
        .pid("gw-hub")
        .ok_or_else(|| Failure::failed("gw-hub has ended"))?;
    let (begun, before) = (Instant::now(), cpu_seconds(pid)?);
    tokio::time::sleep(effort.idle).await;
    let share = (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let (resident, peak) = (memory(pid, "VmRSS:")?, memory(pid, "VmHWM:")?);
    let peers = effort.peers;
    Ok(vec![
        Row {
            what: "idle gateway with 50 peers: memory",
            figure: format!("{resident:.1} MB"),
            limit: format!("at most {MOST_MEMORY:.0} MB"),
            pass: resident <= MOST_MEMORY,
            note: format!(
                "resident, {peers} peers, all direct; at most {peak:.1} MB while it met them"
            ),
        },
        Row {
            what: "idle gateway with 50 peers: CPU",
            figure: format!("{share:.2} %"),
            limit: format!("below {MOST_SHARE:.0} % of a core"),
            pass: share < MOST_SHARE,
            note: format!("over {:.0} s", effort.idle.as_secs_f64()),
        },
    ])
}

/// User and system time of a process: fields 14 and 15 of proc_pid_stat(5).
pub(super) fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS)
}

/// A line of proc_pid_status(5), in MB.
pub(super) fn memory(pid: u32, name: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kb| kb.parse::<f64>().ok());
    kilobytes
        .map(|kb| kb * 1024e-6)
        .ok_or_else(|| Failure::failed(format!("/proc/{pid}/status has no {name}")))
}

const POLICY: &str = r#"{
  "tagOwners": {"tag:hub": ["bench@example.com"], "tag:peer": ["bench@example.com"]},
  "grants": [{"src": ["agent:*@tag:hub"], "dst": ["agent:*@tag:peer"], "msg": ["send", "request"]}],
}"#;

/// Both from issue 3.
const MOST_MEMORY: f64 = 40.0;
/// See [`MOST_MEMORY`].
const MOST_SHARE: f64 = 1.0;

/// USER_HZ, the same on every Linux that we build for.
const TICKS: f64 = 100.0;

const MET_WITHIN: Duration = Duration::from_secs(90);
