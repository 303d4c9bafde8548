//! `crabmesh policy`: the HuJSON access policy, from the file to the beacons.
//!
//! All but `push`, `history`, `rollback`, `nodes` and `show` without a file need no mesh: they read
//! a file, and the gateways that it is held against come from the operator's ledger, from
//! `--nodes FILE`, or are imagined. What is wrong with a file goes to stderr as people read it, or
//! with `--json` to stdout as one object.

mod check;
mod diff;
mod explain;
mod file;
mod fmt;
mod history;
mod known;
mod matrix;
mod nodes;
mod push;
mod show;
mod tailscale;

use crate::context::Context;
use crate::failure::Failure;

use self::file::File;
use self::known::Known;

/// The access policy: one HuJSON file, default deny.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read the file and point at what is wrong, or may be
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Run the tests that the file carries
    #[command(
        after_help = "Example:\n  crabmesh policy test policy.hujson\n  crabmesh policy test policy.hujson --nodes nodes.json"
    )]
    Test(check::TestArgs),
    /// Say whether something is allowed, and why
    #[command(after_help = explain::HELP)]
    Explain(explain::ExplainArgs),
    /// Say who gains and who loses what by a new version of a file
    #[command(after_help = diff::HELP)]
    Diff(diff::DiffArgs),
    /// Show who may reach whom, as a table or as a picture
    #[command(after_help = matrix::HELP)]
    Matrix(matrix::MatrixArgs),
    /// Format the file, keeping its comments
    #[command(after_help = fmt::HELP)]
    Fmt(fmt::FmtArgs),
    /// Turn a policy file of Tailscale's into one of ours
    #[command(after_help = tailscale::IMPORT_HELP)]
    Import(tailscale::ImportArgs),
    /// Turn the file into one that Tailscale accepts
    #[command(after_help = tailscale::EXPORT_HELP)]
    Export(tailscale::ExportArgs),
    /// Print the gateways of this mesh, as `--nodes` reads them
    #[command(after_help = "Example:\n  crabmesh policy nodes > nodes.json")]
    Nodes,
    /// Sign the file and push it to every beacon; refuses one whose tests fail
    #[command(after_help = push::HELP)]
    Push(push::PushArgs),
    /// List the policies that were signed on this machine
    #[command(after_help = history::HELP)]
    History,
    /// Push the text of an earlier policy as a new version, with the checks of `push`
    #[command(after_help = push::ROLLBACK_HELP)]
    Rollback(push::RollbackArgs),
    /// Show the policy in force at this gateway, one that was signed here, or the rules of a file
    #[command(after_help = show::HELP)]
    Show(show::ShowArgs),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Check(args) => check::check(&args, context),
        Command::Test(args) => check::test(&args, context),
        Command::Explain(args) => explain::explain(&args, context),
        Command::Diff(args) => diff::diff(&args, context),
        Command::Matrix(args) => matrix::matrix(&args, context),
        Command::Fmt(args) => fmt::fmt(&args, context),
        Command::Import(args) => tailscale::import(&args, context),
        Command::Export(args) => tailscale::export(&args, context),
        Command::Nodes => nodes::nodes(context),
        Command::Push(args) => push::push(&args, context),
        Command::History => history::history(context),
        Command::Rollback(args) => push::rollback(&args, context),
        Command::Show(args) => show::show(args, context),
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
