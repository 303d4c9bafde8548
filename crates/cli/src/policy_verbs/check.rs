//! `policy check` and `policy test`: what is wrong with a file, and whether it means what it says.

use policy::{Diagnostic, Document, Node, Policy, Severity, TestReport};
use serde_json::json;

use super::file::{Read, tell};
use super::{File, Known, count};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::{operator, terminal};

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub file: File,
    /// Print SARIF 2.1.0, for services that annotate a change in review
    #[arg(long)]
    pub sarif: bool,
    #[command(flatten)]
    pub known: Known,
}

#[derive(Debug, clap::Args)]
pub struct TestArgs {
    #[command(flatten)]
    pub file: File,
    #[command(flatten)]
    pub known: Known,
}

/// After the help of `check`.
pub const HELP: &str = "\
On the operator's machine it is also held against the policy in force, unless --nodes is given.

Exit code: 0 it loads, 1 it does not, 2 it cannot be read; warnings change nothing.

Examples:
  crabmesh policy check policy.hujson
  crabmesh policy check policy.hujson --nodes nodes.json
  crabmesh policy check policy.hujson --sarif > policy.sarif";

/// `policy check`.
pub fn check(args: &CheckArgs, context: &Context) -> Result<(), Failure> {
    let read = Read::new(&args.file, context)?;
    let gateways = args.known.gateways(context)?;
    let (document, mut said) = match read.parse() {
        Ok((document, warnings)) => (Some(document), warnings),
        Err(said) => (None, said),
    };
    if let Some(document) = &document {
        said.extend(document.lint(&gateways));
        if args.known.nodes.is_none() {
            said.extend(since(document, &gateways, context)?);
        }
    }
    let of = |severity| said.iter().filter(|d| d.severity() == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let (rules, tests) = document.as_ref().map_or((0, 0), |document| {
        (document.rule_count(), document.expectation_count())
    });
    if args.sarif {
        context.output().object(&policy::sarif(&read.name, &said))?;
    } else if context.json {
        context.output().object(&json!({
            "file": read.name, "ok": errors == 0, "errors": errors, "warnings": warnings,
            "rules": rules, "tests": tests, "diagnostics": said,
        }))?;
    } else {
        tell(&said);
    }
    if errors > 0 {
        return Err(Failure::failed(format!(
            "{}: {}",
            read.name,
            count(errors, "error")
        )));
    }
    if !context.json && !args.sarif {
        context.output().line(format!(
            "{}: {}, {}, {}",
            terminal::printable(&read.name),
            count(rules, "rule"),
            count(tests, "test"),
            count(warnings, "warning")
        ))?;
    }
    Ok(())
}

/// What the file takes away altogether, and permits beyond the policy in force.
fn since(
    document: &Document,
    gateways: &[Node],
    context: &Context,
) -> Result<Vec<Diagnostic>, Failure> {
    let Some(text) = operator::policy_in_force(context)? else {
        return Ok(Vec::new());
    };
    // An older crabmesh may have signed what this one does not read: then there is nothing to say.
    let before = Document::parse("the policy in force", &text);
    Ok(before.map_or(Vec::new(), |(before, _)| {
        document.lint_since(&before, gateways, now())
    }))
}

/// `policy test`.
pub fn test(args: &TestArgs, context: &Context) -> Result<(), Failure> {
    let read = Read::new(&args.file, context)?;
    let gateways = args.known.gateways(context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    tell(&warnings);
    let report = Policy::run_tests(&document, &gateways, now());
    for outcome in &report.outcomes {
        if context.json {
            context.output().object(outcome)?;
        } else {
            let verdict = if outcome.passed { "ok" } else { "FAILED" };
            context.output().line(format!(
                "{verdict:6} {} {} -> {}: {}",
                outcome.expected, outcome.src, outcome.dst, outcome.reason
            ))?;
        }
    }
    require(&read, &report, &gateways)?;
    if !context.json {
        context
            .output()
            .line(format!("{} passed", count(report.outcomes.len(), "test")))?;
    }
    Ok(())
}

/// Ends the command where a test failed.
pub fn require(read: &Read, report: &TestReport, gateways: &[Node]) -> Result<(), Failure> {
    if report.passed() {
        return Ok(());
    }
    let failed: Vec<_> = report
        .outcomes
        .iter()
        .filter_map(|o| o.diagnostic.clone())
        .collect();
    tell(&failed);
    let (failures, all) = (report.failures(), count(report.outcomes.len(), "test"));
    let against = match gateways.len() {
        0 => String::new(),
        known => format!(", against {} of this mesh", count(known, "gateway")),
    };
    Err(Failure::failed(format!(
        "{}: {failures} of {all} failed{against}",
        read.name
    )))
}
