//! Results, on stdout: lines for people or JSON for programs. A write that fails ends the
//! command; a reader that went away ends it in peace.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::terminal;

/// The way to stdout.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether facts are printed as JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// One line, as it is. Only for words of our own: see [`terminal::printable`] for others.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(text.as_ref().as_bytes(), true)
    }

    /// One object on one line.
    pub fn object(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut bytes =
            serde_json::to_vec(value).map_err(|error| Failure::failed(error.to_string()))?;
        bytes.push(b'\n');
        self.bytes(&bytes, false)
    }

    /// A body from afar: escaped where a terminal would obey it, verbatim into a pipe.
    pub fn body(&self, body: &[u8]) -> Result<(), Failure> {
        if !io::stdout().is_terminal() {
            return self.bytes(body, true);
        }
        match std::str::from_utf8(body) {
            Ok(text) => self.line(terminal::printable_lines(text)),
            Err(_) => self.line(format!(
                "({} bytes that are not text; --json has them in base64)",
                body.len()
            )),
        }
    }

    /// A piece of text from afar that others follow: as [`Self::body`], without a line end.
    pub fn part(&self, text: &str) -> Result<(), Failure> {
        match io::stdout().is_terminal() {
            true => self.bytes(terminal::printable_lines(text).as_bytes(), false),
            false => self.bytes(text.as_bytes(), false),
        }
    }

    /// The line end after such pieces, where they had none.
    pub fn end_parts(&self, text: &str) -> Result<(), Failure> {
        match text.ends_with('\n') {
            true => Ok(()),
            false => self.bytes(b"\n", false),
        }
    }

    /// A table with aligned columns; the first row is its head.
    pub fn table(&self, rows: &[Vec<String>]) -> Result<(), Failure> {
        self.bytes(terminal::table(rows).as_bytes(), false)
    }

    /// Bytes, and a line end where wanted and missing; flushed, so that a pipe sees them now.
    fn bytes(&self, bytes: &[u8], end_line: bool) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        if end_line && !bytes.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(())
    }
}

/// A remark for the person at the terminal, on stderr; one that cannot be said is not missed.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}
