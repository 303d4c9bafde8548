//! `crabmesh beacon`: coordinator and relay, in the foreground.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coordinator::Coordinator;
use node::state::StateDir;
use relay::{Cut, Limits, Relay, RelayConfig, RelayError};
use serde::Deserialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::{Context, Owner, start_log};
use crate::failure::Failure;
use crate::output::note;

/// Run a beacon on a public host: coordinator and relay, UDP and TCP on one port number. A beacon
/// that nobody has claimed prints one line, `claim C`, and waits for `crabmesh init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crabmesh beacon --listen 0.0.0.0:4747")]
pub struct Args {
    /// Where to listen.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "Where to listen, UDP and TCP [default: [::]:4747, that is every address]"
    )]
    pub listen: Option<SocketAddr>,
    /// A JSON file with further settings
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
}

/// The file of `--config`; the command line wins.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// As `--listen`.
    listen: Option<SocketAddr>,
}

/// Runs until SIGINT or SIGTERM.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    start_log("info")?;
    let config = args
        .config
        .as_deref()
        .map(read_config)
        .transpose()?
        .unwrap_or_default();
    let listen = args.listen.or(config.listen);
    let dir = StateDir::create(&context.state_dir(Owner::Beacon)?)?;
    let _lock = dir.lock()?;
    let coordinator = Coordinator::open(dir.path()).map_err(anyhow::Error::from)?;
    context.block_on(serve(Arc::new(coordinator), listen, &dir, context))
}

async fn serve(
    coordinator: Arc<Coordinator>,
    listen: Option<SocketAddr>,
    dir: &StateDir,
    context: &Context,
) -> Result<(), Failure> {
    // Before anything is printed: who reads the claim may end us at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sessions, admitted) = mpsc::channel(SESSIONS);
    let cut = Cut::new();
    let gatekeeper: Arc<dyn net::beacon::Gatekeeper> = coordinator.clone();
    let bind = |listen| {
        let config = RelayConfig {
            listen,
            cut: cut.clone(),
            limits: Limits::default(),
        };
        Relay::bind(config, Arc::clone(&gatekeeper), sessions.clone())
    };
    let relay = match (bind(listen.unwrap_or(EVERYWHERE)).await, listen) {
        // A kernel without IPv6.
        (Err(error), None) if lacks_ipv6(&error) => {
            bind(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                EVERYWHERE.port(),
            ))
            .await
        }
        (bound, _) => bound,
    };
    let relay = relay.map_err(|error| match &error {
        RelayError::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::from(anyhow::Error::from(error))
                .hint("ports below 1024 need the capability CAP_NET_BIND_SERVICE")
        }
        _ => Failure::from(anyhow::Error::from(error)),
    })?;
    drop((sessions, gatekeeper));
    let local = relay.local_addr();
    dir.write_json(LISTEN, &json!({"listen": local}))?;
    match (coordinator.claim_text(), context.json) {
        (Some(claim), true) => context
            .output()
            .object(&json!({"claim": *claim, "listen": local}))?,
        (Some(claim), false) => context.output().line(format!("claim {}", *claim))?,
        (None, true) => context
            .output()
            .object(&json!({"claim": null, "listen": local}))?,
        (None, false) => note(format!("this beacon serves its mesh on {local}")),
    }
    notify_ready();

    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("going away");
    };
    let cut_off = Box::new(move |node| cut.cut(node));
    // The coordinator goes last: it writes what the last clients published.
    let (drained, all_drained) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(coordinator.run(admitted, cut_off, async move {
        let _ = all_drained.await;
    }));
    relay.run(shutdown).await;
    drop(drained);
    match serving.await {
        Ok(result) => result.map_err(|error| anyhow::Error::from(error).into()),
        Err(error) => Err(Failure::failed(format!(
            "the coordinator broke down: {error}"
        ))),
    }
}

fn read_config(path: &Path) -> Result<Config, Failure> {
    let name = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::usage(format!("{name} makes no sense: {error}"))
            .hint("it may say {\"listen\": \"ADDR:PORT\"}")
    })
}

fn lacks_ipv6(error: &RelayError) -> bool {
    match error {
        RelayError::Bind { source, .. } => {
            let code = source
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error);
            let lacking = [
                rustix::io::Errno::AFNOSUPPORT,
                rustix::io::Errno::ADDRNOTAVAIL,
            ];
            code.is_some_and(|code| lacking.contains(&code))
        }
        _ => false,
    }
}

/// Tells systemd that we are up (sd_notify(3)); nobody else sets that variable.
fn notify_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let told =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the service manager that the beacon is up");
    }
}

/// Every address of the host, IPv4 and IPv6.
const EVERYWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 4747);

/// Where the beacon listens, for scripts: with port 0 the system chose.
const LISTEN: &str = "listen.json";

/// Clients that were let in while the coordinator was busy.
const SESSIONS: usize = 256;
