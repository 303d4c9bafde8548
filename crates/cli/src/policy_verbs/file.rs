//! A policy file on the command line: where it is read from, and how what is wrong with it is told.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use policy::{Diagnostic, Document, Severity};

use super::count;
use crate::context::{Context, Owner, argument_or_stdin};
use crate::failure::Failure;
use crate::output::note;

#[derive(Debug, clap::Args)]
pub struct File {
    /// The policy, or - for stdin [default: policy.hujson in the operator's state directory]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// A policy file as read, and how it is called in messages.
pub struct Read {
    pub name: String,
    /// None: it came from stdin.
    pub path: Option<PathBuf>,
    pub bytes: Vec<u8>,
}

impl Read {
    pub fn new(file: &File, context: &Context) -> Result<Self, Failure> {
        let path = match &file.file {
            Some(path) => path.clone(),
            None => context.state_dir(Owner::Operator)?.join("policy.hujson"),
        };
        if path == Path::new("-") {
            return Ok(Self {
                name: "stdin".into(),
                path: None,
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
        let path = Some(path);
        Ok(Self { name, path, bytes })
    }

    pub fn parse(&self) -> Result<(Document, Vec<Diagnostic>), Vec<Diagnostic>> {
        Document::parse_bytes(&self.name, &self.bytes)
    }

    /// The file as text.
    pub fn text(&self) -> Result<&str, Vec<Diagnostic>> {
        policy::text_of(&self.name, &self.bytes)
    }

    /// Says what is wrong, and ends the command.
    pub fn refused(&self, said: &[Diagnostic]) -> Failure {
        tell(said);
        let errors = said
            .iter()
            .filter(|d| d.severity() == Severity::Error)
            .count();
        Failure::failed(format!("{}: {}", self.name, count(errors, "error")))
    }
}

/// What is said of a file, for people.
pub fn tell(said: &[Diagnostic]) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for diagnostic in said {
        note(diagnostic.render(color).trim_end());
    }
}
