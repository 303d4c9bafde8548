//! `crabmesh status` and `ping`: what the node knows.

use std::time::{Duration, Instant};

use api::{PathKind, PeerStatus, Ping, PingRequest, Status};
use serde_json::json;

use crate::client::{Client, MaybeAsAgent};
use crate::context::Context;
use crate::duration::{self, short};
use crate::failure::{Exit, Failure};
use crate::output::{Output, note};
use crate::terminal::{self, printable};

/// Show this node, its beacons and its peers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  crabmesh status\n  crabmesh status --json | jq .peers\n  crabmesh status --watch"
)]
pub struct StatusArgs {
    /// Show it anew every two seconds
    #[arg(long)]
    pub watch: bool,
}

/// Measure the way to a gateway, or to an agent on it: which path, how long, or lost.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  crabmesh ping gw-b\n  crabmesh ping coder@gw-b --as planner -c 3 --json\n\nExit 4 when every probe was lost, 3 when the policy forbids the agent."
)]
pub struct PingArgs {
    /// The gateway, or the agent on it
    #[arg(value_name = "AGENT@GATEWAY|GATEWAY")]
    pub target: String,
    /// How many probes
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    pub count: u64,
    /// The time between two
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub interval: Duration,
    #[command(flatten)]
    pub who: MaybeAsAgent,
}

pub fn status(args: &StatusArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_admin(context)?;
    let output = context.output();
    context.block_on(async move {
        loop {
            let status: Status = client.get("/v1/status").await?;
            match output.json() {
                true => output.object(&status)?,
                false => {
                    // Only a terminal has a screen to clear.
                    let clear = args.watch && std::io::IsTerminal::is_terminal(&std::io::stdout());
                    show_status(
                        output,
                        &status,
                        if clear { "\u{1b}[H\u{1b}[2J" } else { "" },
                    )?;
                }
            }
            if !args.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH).await;
        }
    })
}

pub fn ping(args: PingArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_anyone(context, &args.who)?;
    let output = context.output();
    context.block_on(async move {
        let start = Instant::now();
        let request = PingRequest {
            target: args.target,
            timeout_ms: Some(PROBE_TIMEOUT_MS),
        };
        let (mut answered, mut worst, mut sum) = (0_u64, 0.0_f64, 0.0_f64);
        let mut next = tokio::time::Instant::now();
        for seq in 1..=args.count {
            tokio::time::sleep_until(next).await;
            next += args.interval;
            let at_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let ping: Ping = client.post("/v1/ping", &request).await?;
            if let Some(rtt) = ping.rtt_ms {
                (answered, worst, sum) = (answered + 1, worst.max(rtt), sum + rtt);
            }
            match output.json() {
                true => output.object(
                    &json!({"seq": seq, "at_ms": at_ms, "path": ping.path, "rtt_ms": ping.rtt_ms}),
                )?,
                false => output.line(probe_line(seq, &ping))?,
            }
        }
        match (answered, args.count) {
            (0, 1..) => Err(Failure::new(Exit::TimedOut, "every probe was lost")
                .hint("`crabmesh status` says why there is no path")),
            (0, 0) => Ok(()),
            _ => {
                let mean = sum / answered as f64;
                note(format!(
                    "{answered} of {} answered, {mean:.3} ms on average, {worst:.3} ms at worst",
                    args.count
                ));
                Ok(())
            }
        }
    })
}

fn probe_line(seq: u64, ping: &Ping) -> String {
    let way = match (&ping.path.kind, &ping.path.remote) {
        (PathKind::None, _) => "no path".to_owned(),
        (kind, Some(remote)) => format!("{} {}", kind.as_str(), printable(remote)),
        (kind, None) => kind.as_str().to_owned(),
    };
    match ping.rtt_ms {
        Some(rtt) => format!("{seq}: {way}, {rtt:.3} ms"),
        None => format!("{seq}: {way}, lost"),
    }
}

fn show_status(output: Output, status: &Status, before: &str) -> Result<(), Failure> {
    let name = status
        .node
        .name
        .as_ref()
        .map_or("(no membership yet)".to_owned(), ToString::to_string);
    let tags: Vec<&str> = status.node.tags.iter().map(identity::Tag::as_str).collect();
    let expires = status
        .node
        .expires_at
        .map_or(String::new(), |at| format!(", until {at}"));
    let mut text = format!(
        "{before}{name} in mesh {}  {}{expires}\n",
        printable(&status.mesh),
        tags.join(" ")
    );
    text.push_str(&match &status.policy {
        Some(policy) => format!(
            "policy     {} (signed {} ago)\n",
            printable(&policy.version),
            short(policy.age_s)
        ),
        None => "policy     none: nothing is allowed\n".to_owned(),
    });
    let kills = status.revocations.as_ref().map(|it| it.kills.as_slice());
    for kill in kills.unwrap_or_default() {
        text.push_str(&format!("killed     {}\n", printable(kill)));
    }
    text.push_str(&match status.map.age_s {
        Some(age) => format!("map        {} old\n", short(age)),
        None => "map        none yet\n".to_owned(),
    });
    text.push_str(match status.node.isolation {
        api::Isolation::None => "isolation  none: agents may run under the node's own uid\n",
        api::Isolation::Uid => "isolation  uid\n",
    });
    text.push('\n');
    let mut beacons = vec![row(["BEACON", "STATE", "RTT"])];
    beacons.extend(status.beacons.iter().map(|beacon| {
        vec![
            beacon.address.to_string(),
            printable(&beacon.state),
            millis(beacon.rtt_ms),
        ]
    }));
    text.push_str(&terminal::table(&beacons));
    text.push('\n');
    let mut peers = vec![row([
        "GATEWAY",
        "TAGS",
        "ONLINE",
        "PATH",
        "RTT",
        "HANDSHAKE",
        "SENT",
        "RECEIVED",
        "QUEUED",
        "WHY",
    ])];
    peers.extend(status.peers.iter().map(peer_row));
    text.push_str(&terminal::table(&peers));
    output.line(text)
}

fn peer_row(peer: &PeerStatus) -> Vec<String> {
    let tags: Vec<&str> = peer.tags.iter().map(identity::Tag::as_str).collect();
    let path = match &peer.path.remote {
        Some(remote) => format!("{} {}", peer.path.kind.as_str(), printable(remote)),
        None => peer.path.kind.as_str().to_owned(),
    };
    vec![
        peer.name.to_string(),
        if tags.is_empty() {
            "-".to_owned()
        } else {
            tags.join(",")
        },
        (if peer.online { "yes" } else { "no" }).to_owned(),
        path,
        millis(peer.rtt_ms),
        peer.last_handshake_s
            .map_or("-".to_owned(), |s| format!("{} ago", short(s))),
        bytes(peer.tx_bytes),
        bytes(peer.rx_bytes),
        peer.queued.to_string(),
        printable(&peer.path.why),
    ]
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn millis(rtt: Option<f64>) -> String {
    rtt.map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms"))
}

fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

const WATCH: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT_MS: u64 = 1000;
