//! `crabmesh connect` and `crabmesh disconnect`: an agent gateway's agents on the mesh, and off it
//! again. Every change is told, and is in a journal by which it is taken back.
//!
//! ```text
//! gateway (where its configuration is, who its agents are)
//!    └─► plan ─► plugin files, mesh agents, credentials, the configuration
//!                   each: told; with --dry-run told alone; in the journal before it is done
//! ```

mod choice;
mod document;
mod files;
mod gateway;
mod inbound;
mod journal;
mod openclaw;
mod plain;
mod plugin;
mod undo;

use std::path::PathBuf;

use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;

/// Put the agents of an agent gateway on the mesh: each becomes an agent of this node, with a token
/// of its own. Doing it again changes nothing, or what is new.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// The OpenClaw gateway of this user: installs and configures the plugin, and prints each change
    #[command(after_help = CONNECT_EXAMPLES)]
    Openclaw(OpenclawArgs),
}

#[derive(Debug, clap::Args)]
pub struct OpenclawArgs {
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Only this agent, under that name on the mesh; again for more [default: every agent]
    #[arg(long = "agent", value_name = "ID[=NAME]")]
    pub agents: Vec<String>,
    /// Write to the gateway's agents by its A2A channel, or by its WebSocket where it has none, and let
    /// it ask by MCP; by itself where it loads no plugins
    #[arg(long)]
    pub without_plugin: bool,
    /// Without the plugin, and by the WebSocket although there is an A2A channel: with cancel and
    /// tokens as they come, for the gateway's own token
    #[arg(long)]
    pub websocket: bool,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Take back what `connect` did; what was changed by others since stays.
#[derive(Debug, clap::Args)]
pub struct DisconnectArgs {
    #[command(subcommand)]
    pub what: DisconnectWhat,
}

#[derive(Debug, clap::Subcommand)]
pub enum DisconnectWhat {
    /// The OpenClaw gateway of this user: its plugin, its settings, its agents on the mesh
    #[command(after_help = DISCONNECT_EXAMPLES)]
    Openclaw(DisconnectOpenclawArgs),
}

#[derive(Debug, clap::Args)]
pub struct DisconnectOpenclawArgs {
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which gateway.
#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// Its configuration [default: OPENCLAW_CONFIG_PATH, openclaw.json in OPENCLAW_STATE_DIR, or
    /// ~/.openclaw/openclaw.json]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub fn connect(args: Args, context: &Context) -> Result<(), Failure> {
    match args.what {
        What::Openclaw(args) => openclaw::connect(&args, context),
    }
}

pub fn disconnect(args: DisconnectArgs, context: &Context) -> Result<(), Failure> {
    match args.what {
        DisconnectWhat::Openclaw(args) => undo::disconnect(&args, context),
    }
}

/// Tells changes, one a line, and whether they are only planned.
pub(crate) struct Teller {
    output: Output,
    dry_run: bool,
    /// How many were told.
    pub(crate) count: usize,
}

impl Teller {
    fn new(output: Output, dry_run: bool) -> Self {
        Self {
            output,
            dry_run,
            count: 0,
        }
    }

    /// One change.
    fn change(&mut self, text: &str) -> Result<(), Failure> {
        self.count += 1;
        match (self.output.json(), self.dry_run) {
            (true, dry_run) => self
                .output
                .object(&json!({"change": text, "dry_run": dry_run})),
            (false, true) => self.output.line(format!("would: {text}")),
            (false, false) => self.output.line(text),
        }
    }

    /// What is to be known, and is no change.
    fn remark(&self, text: &str) -> Result<(), Failure> {
        match self.output.json() {
            true => self.output.object(&json!({"remark": text})),
            false => self.output.line(text),
        }
    }
}

const CONNECT_EXAMPLES: &str = "\
Examples:
  crabmesh connect openclaw --dry-run              what would change
  crabmesh connect openclaw                        every agent, under its own name
  crabmesh connect openclaw --agent main=planner   one agent, under another name
  crabmesh connect openclaw --without-plugin       for a gateway that is to load no plugin
  crabmesh connect openclaw --websocket            the same, by its WebSocket

Run it as the user of the gateway, while `crabmesh up` runs. A running gateway takes the change over
by itself.";

const DISCONNECT_EXAMPLES: &str = "\
Examples:
  crabmesh disconnect openclaw --dry-run
  crabmesh disconnect openclaw";
