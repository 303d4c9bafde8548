//! `policy show`: the policy in force at this gateway, or the rules of a file as a table.

use std::path::PathBuf;

use super::File;
use super::file::{Read, tell};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;
use crate::{client, terminal};

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// A policy file, to list its rules; without one, the running gateway is asked
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `policy show`.
pub fn show(args: ShowArgs, context: &Context) -> Result<(), Failure> {
    match args.file {
        Some(file) => show_file(&File { file: Some(file) }, context),
        None => show_active(context),
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
