//! `policy import` and `policy export`: between Tailscale's policy files and ours.

use policy::{Document, Policy, Translated};
use serde_json::json;

use super::File;
use super::file::{Read, tell};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::output::note;

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The file is Tailscale's
    #[arg(long, required = true)]
    pub tailscale: bool,
    /// Their policy, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    pub file: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// For Tailscale
    #[arg(long, required = true)]
    pub tailscale: bool,
    #[command(flatten)]
    pub file: File,
}

/// After the help of `import`.
pub const IMPORT_HELP: &str = "\
The policy goes to stdout; what is different in it is said on stderr.

Example:
  crabmesh policy import --tailscale acl.hujson > policy.hujson";

/// After the help of `export`.
pub const EXPORT_HELP: &str = "\
What is exported never permits more. What only crabmesh can say becomes capabilities of
crabmesh.dev, or is left out and named on stderr.

Example:
  crabmesh policy export --tailscale policy.hujson > acl.hujson";

/// `policy import`.
pub fn import(args: &ImportArgs, context: &Context) -> Result<(), Failure> {
    let file = File {
        file: args.file.clone(),
    };
    let read = Read::new(&file, context)?;
    let imported = read
        .text()
        .and_then(|text| policy::import_from_tailscale(&read.name, text))
        .map_err(|said| read.refused(&said))?;
    let (document, warnings) = Document::parse("the imported policy", &imported.text)
        .map_err(|said| read.refused(&said))?;
    tell(&warnings);
    let report = Policy::run_tests(&document, &[], now());
    if !report.passed() {
        let failed: Vec<_> = report
            .outcomes
            .iter()
            .filter_map(|o| o.diagnostic.clone())
            .collect();
        tell(&failed);
        let (failed, all) = (report.failures(), report.outcomes.len());
        note(format!("tests that do not hold here: {failed} of {all}"));
    }
    print(&imported, context)
}

/// `policy export`.
pub fn export(args: &ExportArgs, context: &Context) -> Result<(), Failure> {
    let read = Read::new(&args.file, context)?;
    let exported = read
        .text()
        .and_then(|text| policy::export_to_tailscale(&read.name, text, now()))
        .map_err(|said| read.refused(&said))?;
    print(&exported, context)
}

fn print(translated: &Translated, context: &Context) -> Result<(), Failure> {
    let Translated { text, notes } = translated;
    if context.json {
        return context
            .output()
            .object(&json!({"text": text, "notes": notes}));
    }
    notes
        .iter()
        .for_each(|words| note(crate::terminal::printable(words)));
    context.output().line(text)
}
