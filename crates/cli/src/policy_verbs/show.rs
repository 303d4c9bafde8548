//! `policy show`: the policy in force at this gateway, or the rules of a file as a table.

use std::path::PathBuf;

use super::File;
use super::file::{Read, tell};
use super::history::{self, Version};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;
use crate::{client, operator, terminal};

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// A policy file, to list its rules; without one, the running gateway is asked
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The text of a policy that was signed on this machine
    #[arg(long, value_name = "VERSION", conflicts_with = "file")]
    pub version: Option<Version>,
}

/// After the help of `show`.
pub const HELP: &str = "Examples:
  crabmesh policy show > policy.hujson
  crabmesh policy show policy.hujson
  crabmesh policy show --version 3        on the operator's machine";

/// `policy show`.
pub fn show(args: ShowArgs, context: &Context) -> Result<(), Failure> {
    match (args.file, args.version) {
        (Some(file), _) => show_file(&File { file: Some(file) }, context),
        (None, Some(version)) => show_signed(version, context),
        (None, None) => show_active(context),
    }
}

fn show_file(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    tell(&warnings);
    if context.json {
        return document
            .summary()
            .try_for_each(|rule| context.output().object(&rule));
    }
    let head = ["RULE", "FROM", "TO", "MAY", "ONLY"]
        .map(str::to_owned)
        .to_vec();
    let rows = document.summary().map(|rule| {
        let may: Vec<String> = rule
            .msg
            .into_iter()
            .chain(rule.ip)
            .chain(rule.app)
            .collect();
        let name = match rule.kind {
            "grant" => rule.name,
            kind => format!("{kind} {}", rule.name),
        };
        vec![
            name,
            rule.src.join(", "),
            rule.dst.join(", "),
            may.join(", "),
            rule.only.join("; "),
        ]
    });
    context
        .output()
        .table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn show_signed(version: Version, context: &Context) -> Result<(), Failure> {
    let (signed, _) = history::find(version, context)?;
    let text = operator::signed_text(context, signed.order)?;
    if context.json {
        return context.output().object(&api::Policy {
            version: signed.version(),
            signed_at: history::timestamp(&signed),
            text,
        });
    }
    note(format!(
        "policy {}, signed {}",
        signed.version(),
        history::timestamp(&signed)
    ));
    context.output().line(terminal::printable_lines(&text))
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
