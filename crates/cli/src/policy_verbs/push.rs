//! `policy push` and `policy rollback`: from the operator's machine to the beacons, if the file
//! holds what it promises, if gateways can hold what it demands, and if it locks nobody out who
//! pushes it.

use policy::{Document, Policy, PolicyDiff};
use serde_json::json;

use super::check::require;
use super::file::{Read, tell};
use super::history::{self, Version};
use super::{File, count, diff};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::operator::{self, Standing, version};
use crate::output::note;

#[derive(Debug, clap::Args)]
pub struct PushArgs {
    #[command(flatten)]
    pub file: File,
    #[command(flatten)]
    pub how: How,
}

#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// The version, as `crabmesh policy history` lists it
    /// [default: the last one that says something else than the one in force]
    #[arg(value_name = "VERSION")]
    pub version: Option<Version>,
    #[command(flatten)]
    pub how: How,
}

/// How it is pushed.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Do everything but sign and push, and say what that would change
    #[arg(long)]
    pub dry_run: bool,
    /// It is meant: also to take away your own last grant
    #[arg(long)]
    pub yes: bool,
}

/// After the help of `push`.
pub const HELP: &str = "Examples:
  crabmesh policy push policy.hujson
  crabmesh policy push policy.hujson --dry-run

Refused are a file whose tests fail, a guard that no gateway can enforce yet, and a policy that has
no grant any more for the person of `crabmesh init --user` where the one in force has (--yes).";

/// After the help of `rollback`.
pub const ROLLBACK_HELP: &str = "Examples:
  crabmesh policy rollback
  crabmesh policy rollback 3 --dry-run";

/// `policy push`.
pub fn push(args: &PushArgs, context: &Context) -> Result<(), Failure> {
    offer(Read::new(&args.file, context)?, &args.how, context)
}

/// `policy rollback`.
pub fn rollback(args: &RollbackArgs, context: &Context) -> Result<(), Failure> {
    let (signed, in_force) = match args.version {
        Some(version) => history::find(version, context)?,
        None => last_other(context)?,
    };
    if Some(signed.order) == in_force {
        return Err(
            Failure::usage(format!("policy {} is in force already", signed.version()))
                .hint("`crabmesh policy push` brings it to beacons that missed it"),
        );
    }
    let read = Read {
        name: format!("policy {}", signed.version()),
        path: None,
        bytes: operator::signed_text(context, signed.order)?.into_bytes(),
    };
    offer(read, &args.how, context)?;
    if !args.how.dry_run {
        note(format!(
            "policy.hujson is as it was; `crabmesh policy show --version {}` prints what is in force",
            signed.version()
        ));
    }
    Ok(())
}

/// The newest before the one in force that is another text.
fn last_other(
    context: &Context,
) -> Result<(operator::SignedPolicy, Option<identity::Order>), Failure> {
    let (signed, in_force) = operator::history(context)?;
    let current = signed.iter().find(|it| Some(it.order) == in_force);
    let hash = current.map(|it| it.sha256.clone());
    let before = signed
        .into_iter()
        .rev()
        .filter(|it| Some(it.order) < in_force)
        .find(|it| Some(&it.sha256) != hash.as_ref());
    match before {
        Some(before) => Ok((before, in_force)),
        None => Err(
            Failure::failed("no other policy was signed on this machine before")
                .hint("see `crabmesh policy history`"),
        ),
    }
}

/// Checks a policy, and pushes it.
fn offer(read: Read, how: &How, context: &Context) -> Result<(), Failure> {
    let (document, mut warnings) = read.parse().map_err(|said| read.refused(&said))?;
    let standing = operator::standing(context)?;
    warnings.extend(document.lint(&standing.gateways));
    tell(&warnings);
    if read.bytes.len() > policy::MAX_PUSHED {
        let failure = Failure::failed(format!(
            "{} has {} bytes; {} can be signed",
            read.name,
            read.bytes.len(),
            policy::MAX_PUSHED
        ));
        return Err(failure.hint("nothing was pushed; take comments out, or name groups and tags"));
    }
    let unenforced = document.unenforced(&node::world::ENFORCES);
    if !unenforced.is_empty() {
        return Err(read.refused(&unenforced).hint("nothing was pushed"));
    }
    let report = Policy::run_tests(&document, &standing.gateways, now());
    require(&read, &report, &standing.gateways).map_err(|failure| {
        failure.hint("nothing was pushed; `crabmesh policy test` shows every verdict")
    })?;
    // One that this version cannot read gives nobody anything, and compares with nothing.
    let before = standing.in_force.as_ref();
    let before = before.and_then(|(_, text)| Document::parse("the policy in force", text).ok());
    let before = before.map(|(before, _)| before);
    if !how.yes {
        refuse_lock_out(&document, before.as_ref(), &standing)?;
    }
    let text =
        String::from_utf8(read.bytes).map_err(|_| Failure::usage("the policy is not UTF-8"))?;
    match how.dry_run {
        true => {
            let compare =
                |before| PolicyDiff::between(before, &document, &standing.gateways, now());
            let plan = Plan {
                rules: document.rule_count(),
                tests: report.outcomes.len(),
                text: &text,
                diff: before.as_ref().map(compare),
            };
            plan.tell(&standing, context)
        }
        false => operator::push_policy(context, &text),
    }
}

/// The person of `init --user` does not take the own last grant by mistake.
fn refuse_lock_out(
    document: &Document,
    before: Option<&Document>,
    standing: &Standing,
) -> Result<(), Failure> {
    let (Some(owner), Some(before)) = (&standing.owner, before) else {
        return Ok(());
    };
    let something = |file: &Document| file.grants_something_to(owner, &standing.gateways, now());
    match something(before) && !something(document) {
        true => Err(Failure::failed(format!(
            "this policy locks you out: {owner} has a grant by the policy in force, and none by this one"
        ))
        .hint("nothing was pushed; add a grant, or say that it is meant with --yes")),
        false => Ok(()),
    }
}

/// What a push would do.
struct Plan<'a> {
    rules: usize,
    tests: usize,
    text: &'a str,
    /// None where there is nothing to compare with.
    diff: Option<PolicyDiff>,
}

impl Plan<'_> {
    fn tell(&self, standing: &Standing, context: &Context) -> Result<(), Failure> {
        let in_force = standing.in_force.as_ref();
        let changes = in_force.is_none_or(|(_, held)| held != self.text);
        let current = in_force.map(|(order, _)| version(*order));
        let pushed = match (&current, changes) {
            (Some(current), false) => current.clone(),
            _ => version(standing.next),
        };
        if context.json {
            return context.output().object(&json!({
                "dry_run": true, "version": pushed, "in_force": current, "changes": changes,
                "rules": self.rules, "tests": self.tests,
                "gateways": standing.gateways.len(), "diff": self.diff,
            }));
        }
        let now_in_force = current.map_or("none is in force now".to_owned(), |current| {
            format!("{current} is in force now")
        });
        let what = match changes {
            true => format!("would be signed as policy {pushed}; {now_in_force}"),
            false => format!("is policy {pushed}, which is in force; it would be pushed again"),
        };
        context.output().line(format!(
            "{}, {} passed against {}: {what}",
            count(self.rules, "rule"),
            count(self.tests, "test"),
            count(standing.gateways.len(), "gateway")
        ))?;
        match &self.diff {
            Some(diff) if !diff.complete => {
                note("there is more to compare than is compared: this is not all");
                diff::print(diff, context)
            }
            Some(diff) => diff::print(diff, context),
            None => Ok(()),
        }
    }
}
