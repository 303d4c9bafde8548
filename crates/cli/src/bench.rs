//! `crabmesh bench`: what this machine does, beside plain quinn and plain SQLite in the same run.

use crate::context::Context;
use crate::failure::Failure;

/// Measure this machine, beside plain QUIC and plain SQLite in the same run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crabmesh bench")]
pub struct Args {}

pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let _ = (args, context);
    Err(Failure::failed("bench: not wired yet"))
}
