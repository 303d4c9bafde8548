//! `policy diff`: who gains and who loses what by a new version of a file.

use policy::{Access, Document, PolicyDiff};

use super::file::{Read, tell};
use super::{File, Known};
use crate::context::{Context, moment};
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::terminal::printable;

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The version before, or - for stdin
    #[arg(value_name = "OLD")]
    pub old: std::path::PathBuf,
    /// The version after
    #[arg(value_name = "NEW")]
    pub new: std::path::PathBuf,
    /// At this moment (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    #[command(flatten)]
    pub known: Known,
}

/// After the help.
pub const HELP: &str = "\
Order, names of rules and how grants are divided make no difference. A line that begins with + is
gained, with - lost, with ~ the same under other conditions, with ! a guard, block, posture, tag
owner or approver.

Exit code: 0 both mean the same, 1 they differ (or could not be compared in full), 2 a file is wrong.

Examples:
  crabmesh policy diff old.hujson new.hujson
  git show main:policy.hujson | crabmesh policy diff - policy.hujson --nodes nodes.json
  crabmesh policy diff old.hujson new.hujson --at 2026-12-31T00:00:00Z --json";

/// `policy diff`.
pub fn diff(args: &DiffArgs, context: &Context) -> Result<(), Failure> {
    let at = moment(args.at.as_deref())?;
    let gateways = args.known.gateways(context)?;
    let (old, new) = (version(&args.old, context)?, version(&args.new, context)?);
    let diff = PolicyDiff::between(&old, &new, &gateways, at);
    let output = context.output();
    if context.json {
        output.object(&diff)?;
    } else {
        print(&diff, context)?;
    }
    if !diff.complete {
        note(
            "more gateways and rules than can be compared: this is by selectors alone, or not all of it",
        );
    }
    match diff.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "")),
    }
}

/// A version that must be right: what is wrong is told, and is no difference.
fn version(path: &std::path::Path, context: &Context) -> Result<Document, Failure> {
    let file = Some(path.to_owned());
    let read = Read::new(&File { file }, context)?;
    match read.parse() {
        Ok((document, _)) => Ok(document),
        Err(said) => {
            tell(&said);
            let sentence = format!("{} is not a policy", read.name);
            Err(Failure::new(Exit::Usage, sentence))
        }
    }
}

/// The differences, for people.
pub fn print(diff: &PolicyDiff, context: &Context) -> Result<(), Failure> {
    let output = context.output();
    if diff.is_empty() {
        return output.line("no difference: both mean the same");
    }
    for (sign, list) in [('+', &diff.gains), ('-', &diff.losses)] {
        for access in list {
            output.line(printable(&format!("{sign} {}{}", line(access), by(access))))?;
        }
    }
    for change in &diff.conditions {
        let (access, was, is) = (line(&change.access), &change.was, &change.is);
        output.line(printable(&format!(
            "~ {access}: was granted {was}, is granted {is}"
        )))?;
    }
    for rule in &diff.rules {
        let says = match (&rule.was, &rule.is) {
            (Some(was), Some(is)) => format!("was {was}; is {is}"),
            (None, Some(is)) => format!("new: {is}"),
            (Some(was), None) => format!("gone: {was}"),
            (None, None) => continue,
        };
        output.line(printable(&format!("! {} {}: {says}", rule.kind, rule.name)))?;
    }
    Ok(())
}

fn line(access: &Access) -> String {
    format!(
        "{} -> {}  {}",
        access.src,
        access.dst,
        access.what.join(", ")
    )
}

fn by(access: &Access) -> String {
    match access.by.len() {
        0 => String::new(),
        1..=3 => format!("  by {}", access.by.join(", ")),
        more => format!("  by {} and {} more", access.by[..2].join(", "), more - 2),
    }
}
