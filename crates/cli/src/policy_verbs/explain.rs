//! `policy explain`: one question, its verdict, and every rule that has a say in it.

use policy::{Explanation, Policy};

use super::file::{Read, tell};
use super::{File, Known};
use crate::context::{Context, moment};
use crate::failure::{Exit, Failure};
use crate::output::note;

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Who: agent:NAME@GATEWAY, a gateway, or any selector of the policy
    #[arg(value_name = "SRC")]
    pub src: String,
    /// To what: agent:NAME@GATEWAY, a gateway, topic:.., internet:HOST:PORT, svc:.., a selector
    #[arg(value_name = "DST")]
    pub dst: String,
    /// What: a verb (send, request, ..), call:TOOL, a port (22, udp:53), or 'GET /path'
    #[arg(value_name = "OP")]
    pub operation: String,
    #[command(flatten)]
    pub file: File,
    /// At this moment (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    #[command(flatten)]
    pub known: Known,
}

/// After the help.
pub const HELP: &str = "\
Exit code: 0 allowed, 3 denied.

Examples:
  crabmesh policy explain agent:planner@gw-a agent:coder@gw-b request
  crabmesh policy explain tag:prod tag:ci tcp:22 policy.hujson
  crabmesh policy explain agent:coder@tag:ci tag:prod:8080 'POST /api/v1/jobs' policy.hujson
  crabmesh policy explain agent:oncall@ana@example.com agent:*@tag:prod request --at 2026-11-23T09:00:00+01:00";

/// `policy explain`.
pub fn explain(args: &ExplainArgs, context: &Context) -> Result<(), Failure> {
    let at = moment(args.at.as_deref())?;
    let read = Read::new(&args.file, context)?;
    let gateways = args.known.gateways(context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    if !context.json {
        tell(&warnings);
    }
    let (src, dst, operation) = (&args.src, &args.dst, &args.operation);
    let answers =
        Policy::explain(&document, &gateways, src, dst, operation, at).map_err(|why| {
            let failure = Failure::usage(why.to_string());
            match why.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
    if answers.is_empty() {
        return Err(Failure::failed(format!(
            "{src} to {dst}: nothing can match: the group is empty, or the source has no user"
        )));
    }
    for answer in &answers {
        match context.json {
            true => context.output().object(answer)?,
            false => print(answer, context)?,
        }
    }
    let denied = answers.iter().filter(|answer| !answer.allowed).count();
    if denied == 0 {
        return Ok(());
    }
    let of = match answers.len() {
        1 => String::new(),
        all => format!(" in {denied} of {all} cases"),
    };
    Err(Failure::new(Exit::Denied, format!("denied{of}")))
}

fn print(answer: &Explanation, context: &Context) -> Result<(), Failure> {
    let output = context.output();
    let verdict = if answer.allowed { "allowed" } else { "DENIED" };
    output.line(format!(
        "{verdict}  {} -> {}  by {}",
        answer.src, answer.dst, answer.decided_by
    ))?;
    output.line(format!("         {}", answer.reason))?;
    for finding in &answer.findings {
        let mark = if finding.applies { '*' } else { ' ' };
        output.line(format!(
            "       {mark} {} {}: {}",
            finding.kind, finding.name, finding.says
        ))?;
    }
    if let Some(grant) = &answer.missing_grant {
        note(format!("missing grant: {grant}"));
    }
    Ok(())
}
