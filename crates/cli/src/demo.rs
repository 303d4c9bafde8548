//! `crabmesh demo`: the whole road on one machine, by the public commands alone. A beacon and two
//! gateways run as processes of their own, each with its own state in a temporary directory.

pub mod process;
mod story;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::process::Stage;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Show it all on this machine, without root: a beacon, two gateways and two agents as separate
/// processes; they ask and answer both ways, run into a refusal, and print the status table. Ends
/// by itself, and leaves nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crabmesh demo")]
pub struct Args {
    /// Leave the state and the logs in place, and say where they are
    #[arg(long)]
    pub keep: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let keep = args.keep;
    let output = context.output();
    context.block_on(async move {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut stage = Stage::build(keep)?;
        let told = tokio::select! {
            told = story::tell(&mut stage, output) => told,
            () = tokio::time::sleep(BOUND) => {
                Err(Failure::new(Exit::TimedOut, format!("the demo did not end within {} s", BOUND.as_secs())))
            }
            _ = terminate.recv() => Err(Failure::failed("stopped")),
            _ = interrupt.recv() => Err(Failure::failed("stopped")),
        };
        if told.is_err() {
            stage.show_logs();
        }
        stage.strike().await;
        told
    })
}

/// Far more than it needs on a busy machine of two cores.
const BOUND: Duration = Duration::from_secs(120);
