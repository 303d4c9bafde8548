//! `crabmesh mcp`: a client of MCP that starts its servers as commands, joined to the node's `/mcp`.
//!
//! ```text
//! stdin ─► lines ─► Bridge ─ one POST a message ─► the node
//! stdout ◄─ lines ◄─────── events as they come ◄──┘
//! ```
//! The bridge knows no tool: it carries JSON-RPC from lines to HTTP and back. It holds what the
//! protocol asks a client to hold, the session, so that a restart of the node is not felt: it begins
//! another session by the client's own `initialize`. **Invariants.** Every request is answered, by
//! the node or by the bridge. A tool that writes is never called twice.

mod bridge;
mod call;
mod lines;
mod session;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::client::{AsAgent, Client};
use crate::context::Context;
use crate::failure::Failure;

/// Serve the mesh as tools (MCP) on stdin and stdout, for one local agent. For clients that start
/// their servers as commands; others speak to http://127.0.0.1:PORT/mcp with the agent's token.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  claude mcp add mesh -- crabmesh mcp --as planner
  CRABMESH_API=http://127.0.0.1:PORT CRABMESH_TOKEN=cma_... crabmesh mcp --as planner

It speaks JSON-RPC, one message a line; what goes wrong is on stderr. A restart of the node is
waited for. See docs/mcp.md.")]
pub struct Args {
    #[command(flatten)]
    pub who: AsAgent,
}

pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let client = Client::for_agent(context, &args.who)?;
    context.block_on(async move {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let (out, printed) = lines::stdout();
        let bridge = Arc::new(bridge::Bridge::new(client, out));
        let mut input = lines::stdin();
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                line = input.recv() => match line {
                    Some(line) => tokio::select! {
                        () = bridge.take(line, &mut calls) => {}
                        _ = terminate.recv() => break,
                        _ = interrupt.recv() => break,
                    },
                    None => break,
                },
                Some(_) = calls.join_next() => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        // Who closes our stdin wants us to end; what is nearly done may still be told.
        let rest = async { while calls.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, rest).await;
        calls.shutdown().await;
        bridge.end().await;
        drop(bridge);
        let _ = tokio::time::timeout(GRACE, printed).await;
        Ok(())
    })
}

/// Clients wait about two seconds before they signal.
const GRACE: Duration = Duration::from_millis(800);
