//! `crabmesh up`: the gateway, in the foreground.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, Owner, start_log};
use crate::failure::Failure;
use crate::output::note;

/// Run the gateway in the foreground, without root and without any capability. Prints one line
/// `ready` once the local API answers, beacon or not, and tells systemd.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  crabmesh up\n  CRABMESH_LOG=node=debug crabmesh up --config /etc/crabmesh/gateway.json"
)]
pub struct Args {
    /// A JSON file with settings; see configs/gateway.json
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
}

pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let state_dir = context.state_dir(Owner::Gateway)?;
    let config = match &args.config {
        Some(file) => node::Config::load(state_dir.clone(), file)
            .map_err(|error| Failure::usage(error.to_string()))?,
        None => node::Config::new(state_dir.clone()),
    };
    start_log(config.log.as_deref().unwrap_or(LOG))?;
    if !state_dir.join(node::files::CERTIFICATE).exists() {
        return Err(Failure::failed(format!(
            "{} is no gateway of any mesh yet",
            state_dir.display()
        ))
        .hint("`crabmesh join -` with the token of `crabmesh invite` makes it one"));
    }
    let output = context.output();
    let json = context.json;
    context.block_on(async move {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let ready = move |ready: &node::Ready| {
            // A supervisor that closed our stdout does not want to hear it.
            let _ = match json {
                true => output.object(&serde_json::json!({
                    "ready": true,
                    "api": format!("http://{}", ready.api.loopback),
                    "socket": ready.api.socket,
                })),
                false => output.line("ready"),
            };
            if let Err(error) = tell_systemd("READY=1") {
                note(format!("crabmesh: systemd was not told: {error}"));
            }
        };
        node::run(config, ready, stop)
            .await
            .map_err(|error| anyhow::Error::from(error).into())
    })
}

/// sd_notify(3): one datagram to the socket that `NOTIFY_SOCKET` names.
pub fn tell_systemd(state: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// Changes that users feel, and what is odd; the audit trail.
const LOG: &str = "info";
