//! The `crabmesh` binary: which command runs what. Results go to stdout, everything else to
//! stderr; the exit code says how it ended (see [`failure::Exit`]).
#![forbid(unsafe_code)]

mod agent;
mod agents;
mod beacon;
mod bench;
mod client;
mod connect;
mod context;
mod demo;
mod duration;
mod failure;
mod inspect;
mod join;
mod mcp;
mod operator;
mod output;
mod policy_verbs;
mod receive;
mod send;
mod terminal;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// A mesh for AI-agent gateways: agents on one gateway message agents on another, end to end,
/// with no port open on either side.
#[derive(Parser)]
#[command(name = "crabmesh", version, max_term_width = 100, after_help = OVERVIEW)]
struct Cli {
    /// Where this process keeps its state [default: $XDG_STATE_HOME/crabmesh]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print facts as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it all on this machine: a beacon, two gateways, two agents, an answer, a refusal
    Demo(demo::Args),
    /// Run a beacon on a public host: where gateways meet, and relay
    Beacon(beacon::Args),
    /// Make a mesh: its keys, its first policy, and the claim of its first beacon
    Init(operator::InitArgs),
    /// Make a one-time token by which a gateway joins, or add one more beacon
    Invite(operator::InviteArgs),
    /// Revoke a gateway or a beacon
    Remove(operator::RemoveArgs),
    /// Cut off an agent, a gateway, a person or everybody, at once
    Kill(operator::KillArgs),
    /// Sign memberships anew before they end
    Renew(operator::RenewArgs),
    /// What only the recovery code can do
    Root(operator::RootArgs),
    /// Make this host a gateway of a mesh
    Join(join::Args),
    /// Run the gateway, in the foreground
    Up(up::Args),
    /// Local agents and their API tokens
    Agent(agent::Args),
    /// Put the agents of an agent gateway on the mesh
    Connect(connect::Args),
    /// Take back what `connect` did
    Disconnect(connect::DisconnectArgs),
    /// Send a message to an agent, and wait for its answer if asked to
    Send(send::SendArgs),
    /// Receive what waits for an agent, or also what comes
    Recv(receive::Args),
    /// Answer a message; implies the ack
    Reply(send::ReplyArgs),
    /// Settle a message, so that it is never shown again
    Ack(send::AckArgs),
    /// Take back a message that was sent
    Cancel(send::CancelArgs),
    /// Say that a message will never be done
    Reject(send::RejectArgs),
    /// Serve the mesh as tools for a model (MCP), on stdin and stdout
    Mcp(mcp::Args),
    /// List every agent that may be reached: where, whether it is there, what it can do
    Agents(agents::AgentsArgs),
    /// Measure the way to a gateway or an agent
    Ping(inspect::PingArgs),
    /// Check, test, push or show the access policy
    Policy(policy_verbs::Args),
    /// Show this node, its beacons and its peers
    Status(inspect::StatusArgs),
    /// Measure this machine, beside plain QUIC and plain SQLite in the same run
    Bench(bench::Args),
}

/// The system's allocator; `bench` proves with it that the data plane allocates nothing for a packet.
#[global_allocator]
static ALLOCATOR: net::allocations::Counting = net::allocations::Counting;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results; what remains is a usage error. Either way clap has
            // chosen the right stream, and one that is closed changes nothing.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            });
        }
    };
    let context = Context::new(cli.state_dir, cli.json);
    match run(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(&args, context),
        Command::Beacon(args) => beacon::run(args, context),
        Command::Init(args) => operator::init(args, context),
        Command::Invite(args) => operator::invite(args, context),
        Command::Remove(args) => operator::remove(args, context),
        Command::Kill(args) => operator::kill(&args, context),
        Command::Renew(args) => operator::renew(args, context),
        Command::Root(args) => operator::root(args, context),
        Command::Join(args) => join::run(args, context),
        Command::Up(args) => up::run(&args, context),
        Command::Agent(args) => agent::run(args, context),
        Command::Connect(args) => connect::connect(args, context),
        Command::Disconnect(args) => connect::disconnect(args, context),
        Command::Send(args) => send::send(args, context),
        Command::Recv(args) => receive::run(args, context),
        Command::Reply(args) => send::reply(args, context),
        Command::Ack(args) => send::ack(&args, context),
        Command::Cancel(args) => send::cancel(&args, context),
        Command::Reject(args) => send::reject(args, context),
        Command::Mcp(args) => mcp::run(&args, context),
        Command::Agents(args) => agents::run(args, context),
        Command::Ping(args) => inspect::ping(args, context),
        Command::Policy(args) => policy_verbs::run(args, context),
        Command::Status(args) => inspect::status(&args, context),
        Command::Bench(args) => bench::run(args, context),
    }
}

const OVERVIEW: &str = "\
First steps:
  crabmesh demo                                       see it work on this machine
  crabmesh beacon                                     on a public host; prints `claim C`
  crabmesh init --mesh home --beacon HOST:PORT --claim C
  crabmesh invite --name gw-a --tag tag:gateway | ssh gw-a crabmesh join -
  crabmesh up                                         on the gateway

Exit codes:
  0 done   2 usage   3 denied by policy   4 timed out or expired
  5 the local node does not answer   1 anything else

Environment:
  CRABMESH_STATE_DIR  as --state-dir
  CRABMESH_TOKEN      an agent's API token, for --as
  CRABMESH_API        the API of a node of another user: http://127.0.0.1:PORT or a socket path";
