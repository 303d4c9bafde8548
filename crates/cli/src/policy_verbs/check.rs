//! `policy check` and `policy test`: what is wrong with a file, and whether it means what it says.

use policy::{Node, Policy, Severity, TestReport};
use serde_json::json;

use super::file::{Read, tell};
use super::{File, Known, count};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::terminal;

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub file: File,
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
pub const HELP: &str = "Examples:\n  crabmesh policy check policy.hujson\n  crabmesh policy check policy.hujson --nodes nodes.json";

/// `policy check`.
pub fn check(args: &CheckArgs, context: &Context) -> Result<(), Failure> {
    let read = Read::new(&args.file, context)?;
    let gateways = args.known.gateways(context)?;
    let (document, mut said) = match read.parse() {
        Ok((document, warnings)) => (Some(document), warnings),
        Err(said) => (None, said),
    };
    // Before the first invitation every name would match nobody.
    if let Some(document) = document.as_ref().filter(|_| !gateways.is_empty()) {
        said.extend(document.lint(&gateways));
    }
    let of = |severity| said.iter().filter(|d| d.severity() == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let (rules, tests) = document.as_ref().map_or((0, 0), |document| {
        (document.rule_count(), document.expectation_count())
    });
    if context.json {
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
    if !context.json {
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
