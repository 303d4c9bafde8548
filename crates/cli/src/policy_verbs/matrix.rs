//! `policy matrix`: who may reach whom, as a table and as a picture.

use std::path::{Path, PathBuf};

use policy::{Matrix, MatrixCell, MatrixKind};

use super::file::{Read, tell};
use super::{File, Known};
use crate::context::{Context, moment};
use crate::failure::Failure;
use crate::output::note;
use crate::terminal::printable;

#[derive(Debug, clap::Args)]
pub struct MatrixArgs {
    #[command(flatten)]
    pub file: File,
    /// Write it as a picture; - for stdout
    #[arg(long, value_name = "OUT")]
    pub svg: Option<PathBuf>,
    /// At this moment (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    #[command(flatten)]
    pub known: Known,
}

/// After the help.
pub const HELP: &str = "\
A mark in the table: m messages, p ports and other things, b both, . nothing.

Examples:
  crabmesh policy matrix policy.hujson
  crabmesh policy matrix policy.hujson --svg matrix.svg --nodes nodes.json";

/// `policy matrix`.
pub fn matrix(args: &MatrixArgs, context: &Context) -> Result<(), Failure> {
    let at = moment(args.at.as_deref())?;
    let read = Read::new(&args.file, context)?;
    let gateways = args.known.gateways(context)?;
    let (document, warnings) = read.parse().map_err(|said| read.refused(&said))?;
    if !context.json {
        tell(&warnings);
    }
    let matrix = Matrix::new(&document, &gateways, at);
    if !matrix.complete {
        note("more than fits: this is by selectors alone, or not all of it");
    }
    let output = context.output();
    if let Some(path) = &args.svg {
        let name = Path::new(&read.name).file_name();
        let name = name.map_or(read.name.clone(), |name| {
            name.to_string_lossy().into_owned()
        });
        let svg = matrix.to_svg(&format!("Who may reach whom by {name}"));
        if path == Path::new("-") {
            return output.line(svg);
        }
        std::fs::write(path, svg).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        note(format!("wrote {}", path.display()));
    }
    match context.json {
        true => output.object(&matrix),
        false => print(&matrix, context),
    }
}

fn print(matrix: &Matrix, context: &Context) -> Result<(), Failure> {
    let output = context.output();
    if matrix.cells.is_empty() {
        return output.line("nothing may pass");
    }
    let number = |column: usize| (column + 1).to_string();
    let mut head = vec!["FROM / TO".to_owned()];
    head.extend((0..matrix.columns.len()).map(number));
    let mut rows = vec![head];
    for (row, kind) in matrix.rows.iter().enumerate() {
        let marks = (0..matrix.columns.len()).map(|column| mark(matrix.cell(row, column)));
        rows.push(
            std::iter::once(called(kind))
                .chain(marks.map(str::to_owned))
                .collect(),
        );
    }
    output.table(&rows)?;
    output.line("")?;
    for (column, kind) in matrix.columns.iter().enumerate() {
        output.line(format!("{:>3} {}", number(column), called(kind)))?;
    }
    output.line("")?;
    let mut rows = vec![["FROM", "TO", "MAY"].map(str::to_owned).to_vec()];
    for cell in &matrix.cells {
        let says = cell.messages.iter().chain(&cell.others);
        let ends = (&matrix.rows[cell.row], &matrix.columns[cell.column]);
        for (index, text) in says.enumerate() {
            let [from, to] = match index {
                0 => [called(ends.0), called(ends.1)],
                _ => [String::new(), String::new()],
            };
            rows.push(vec![from, to, printable(text)]);
        }
    }
    output.table(&rows)
}

fn called(kind: &MatrixKind) -> String {
    let name = printable(&kind.name);
    match kind.gateways {
        None | Some(0) => name,
        Some(count) => format!("{name} ({count})"),
    }
}

fn mark(cell: Option<&MatrixCell>) -> &'static str {
    match cell.map(|cell| (!cell.messages.is_empty(), !cell.others.is_empty())) {
        Some((true, true)) => "b",
        Some((true, false)) => "m",
        Some((false, true)) => "p",
        Some((false, false)) | None => ".",
    }
}
