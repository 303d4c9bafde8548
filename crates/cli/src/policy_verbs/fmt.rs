//! `policy fmt`: one layout for every policy file.

use std::fs::{self, File as Opened};
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::File;
use super::file::Read;
use crate::context::Context;
use crate::failure::Failure;
use crate::terminal;

#[derive(Debug, clap::Args)]
pub struct FmtArgs {
    #[command(flatten)]
    pub file: File,
    /// Change nothing; exit 1 where the file is not formatted
    #[arg(long)]
    pub check: bool,
}

/// After the help.
pub const HELP: &str = "\
Comments, strings and numbers are kept as they are; the file is replaced whole, or not at all.
What comes from stdin (-) goes to stdout.

Examples:
  crabmesh policy fmt policy.hujson
  crabmesh policy fmt --check policy.hujson";

/// `policy fmt`.
pub fn fmt(args: &FmtArgs, context: &Context) -> Result<(), Failure> {
    let read = Read::new(&args.file, context)?;
    let formatted = read
        .text()
        .and_then(|text| policy::format(&read.name, text))
        .map_err(|said| read.refused(&said))?;
    let changed = formatted.as_bytes() != read.bytes;
    if args.check && changed {
        return Err(Failure::failed(format!("{} is not formatted", read.name))
            .hint("`crabmesh policy fmt` formats it"));
    }
    let Some(path) = read.path.as_deref().filter(|_| !args.check) else {
        // Of a check of stdin nothing is wanted but the exit code.
        return match args.check {
            true => said(&read, changed, context),
            false => context.output().line(formatted),
        };
    };
    if changed {
        replace(path, formatted.as_bytes())
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", read.name)))?;
    }
    said(&read, changed, context)
}

fn said(read: &Read, changed: bool, context: &Context) -> Result<(), Failure> {
    if context.json {
        let fact = json!({"file": read.name, "changed": changed});
        return context.output().object(&fact);
    }
    let what = match changed {
        true => "formatted",
        false => "is formatted already",
    };
    let name = terminal::printable(&read.name);
    context.output().line(format!("{name}: {what}"))
}

/// Replaces a file whole: whoever reads it meets the old text or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays a link.
    let path = fs::canonicalize(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = || {
        let mut file = Opened::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::metadata(&path)?.permissions())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        Opened::open(folder)?.sync_all()
    };
    written().inspect_err(|_| {
        // It may never have been there.
        let _ = fs::remove_file(&temporary);
    })
}
