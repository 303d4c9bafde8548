//! `crabmesh policy`: the HuJSON access policy, from the file to the beacons.
//!
//! `check` and `test` need no mesh; where this machine is the operator's, they also hold the file
//! against the gateways that were invited. What is wrong with a file goes to stderr as people read
//! it, or with `--json` to stdout as one object.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use policy::{Diagnostic, Document, Node, Policy, Severity, TestReport};
use serde_json::json;

use crate::context::{Context, Owner, argument_or_stdin, now};
use crate::failure::Failure;
use crate::output::note;
use crate::{client, operator, terminal};

/// The access policy: one HuJSON file, default deny.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read the file and point at what is wrong
    #[command(after_help = "Example:\n  crabmesh policy check policy.hujson")]
    Check(File),
    /// Run the tests that the file carries
    #[command(after_help = "Example:\n  crabmesh policy test policy.hujson")]
    Test(File),
    /// Sign the file and push it to every beacon; refuses one whose tests fail
    #[command(after_help = "Example:\n  crabmesh policy push policy.hujson")]
    Push(File),
    /// Show the policy in force at this gateway, or the rules of a file
    #[command(
        after_help = "Examples:\n  crabmesh policy show > policy.hujson\n  crabmesh policy show policy.hujson"
    )]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub struct File {
    /// The policy, or - for stdin [default: policy.hujson in the operator's state directory]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// A policy file, to list its rules; without one, the running gateway is asked
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Check(file) => check(&file, context),
        Command::Test(file) => test(&file, context),
        Command::Push(file) => push(&file, context),
        Command::Show(ShowArgs { file: Some(file) }) => {
            show_file(&File { file: Some(file) }, context)
        }
        Command::Show(ShowArgs { file: None }) => show_active(context),
    }
}

fn check(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let gateways = operator::gateways(context)?;
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
        explain(&said);
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

fn test(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let gateways = operator::gateways(context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    explain(&warnings);
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

fn push(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let gateways = operator::gateways(context)?;
    let (document, mut warnings) = read.parse().map_err(|said| read.refused(&said))?;
    if !gateways.is_empty() {
        warnings.extend(document.lint(&gateways));
    }
    explain(&warnings);
    let report = Policy::run_tests(&document, &gateways, now());
    require(&read, &report, &gateways).map_err(|failure| {
        failure.hint("nothing was pushed; `crabmesh policy test` shows every verdict")
    })?;
    let text =
        String::from_utf8(read.bytes).map_err(|_| Failure::usage("the policy is not UTF-8"))?;
    operator::push_policy(context, text)
}

fn show_file(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    explain(&warnings);
    if context.json {
        return document
            .summary()
            .try_for_each(|rule| context.output().object(&rule));
    }
    let head = ["GRANT", "FROM", "TO", "MAY"].map(str::to_owned).to_vec();
    let rows = document.summary().map(|rule| {
        let may: Vec<String> = rule.msg.into_iter().chain(rule.ip).collect();
        vec![
            rule.name,
            rule.src.join(", "),
            rule.dst.join(", "),
            may.join(", "),
        ]
    });
    context
        .output()
        .table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn show_active(context: &Context) -> Result<(), Failure> {
    let active: api::Policy = client::policy(context)?;
    if context.json {
        return context.output().object(&active);
    }
    note(format!(
        "policy {}, signed {}",
        active.version, active.signed_at
    ));
    context
        .output()
        .line(terminal::printable_lines(&active.text))
}

/// A policy file as read, and how it is called in messages.
struct Read {
    name: String,
    bytes: Vec<u8>,
}

impl Read {
    fn new(file: &File, context: &Context) -> Result<Self, Failure> {
        let path = match &file.file {
            Some(path) => path.clone(),
            None => context.state_dir(Owner::Operator)?.join("policy.hujson"),
        };
        if path == Path::new("-") {
            return Ok(Self {
                name: "stdin".into(),
                bytes: argument_or_stdin("-", policy::MAX_TEXT)?,
            });
        }
        let name = path.display().to_string();
        // What cannot be a policy is not read to its end.
        let limit = u64::try_from(policy::MAX_TEXT)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|opened| {
                std::io::Read::read_to_end(&mut std::io::Read::take(opened, limit), &mut bytes)
            })
            .map_err(|error| {
                let failure = Failure::usage(format!("cannot read {name}: {error}"));
                match file.file {
                    Some(_) => failure,
                    None => failure.hint("name a FILE, or make a mesh with `crabmesh init`"),
                }
            })?;
        Ok(Self { name, bytes })
    }

    fn parse(&self) -> Result<(Document, Vec<Diagnostic>), Vec<Diagnostic>> {
        Document::parse_bytes(&self.name, &self.bytes)
    }

    /// Says what is wrong, and ends the command.
    fn refused(&self, said: &[Diagnostic]) -> Failure {
        explain(said);
        let errors = said
            .iter()
            .filter(|d| d.severity() == Severity::Error)
            .count();
        Failure::failed(format!("{}: {}", self.name, count(errors, "error")))
    }
}

/// Ends the command where a test failed.
fn require(read: &Read, report: &TestReport, gateways: &[Node]) -> Result<(), Failure> {
    if report.passed() {
        return Ok(());
    }
    let failed: Vec<_> = report
        .outcomes
        .iter()
        .filter_map(|o| o.diagnostic.clone())
        .collect();
    explain(&failed);
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

fn explain(said: &[Diagnostic]) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for diagnostic in said {
        note(diagnostic.render(color).trim_end());
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
