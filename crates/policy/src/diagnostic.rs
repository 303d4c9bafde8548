//! What the author of a policy file is told: a code, one sentence, the place, and one thing to try.
//!
//! Rendered for people by [`miette`], and serialised for programs with line and column.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use miette::{LabeledSpan, NamedSource};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How much a [`Diagnostic`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file loads, but may not mean what was meant.
    Warning,
}

/// One thing to tell the author of a policy file.
///
/// The text is Tailscale's own where it has one for the case, so that a search finds it.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    code: &'static str,
    severity: Severity,
    message: String,
    span: Range<usize>,
    label: Option<String>,
    help: Option<String>,
    source: Option<Source>,
}

/// The text that the spans point into, shared by all that is said about it.
pub(crate) type Source = Arc<NamedSource<String>>;

impl Diagnostic {
    pub(crate) fn error(code: &'static str, span: Range<usize>, message: String) -> Self {
        let severity = Severity::Error;
        Self {
            code,
            severity,
            message,
            span,
            label: None,
            help: None,
            source: None,
        }
    }

    pub(crate) fn warning(code: &'static str, span: Range<usize>, message: String) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    pub(crate) fn label(mut self, text: impl Into<String>) -> Self {
        self.label = Some(text.into());
        self
    }

    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    pub(crate) fn with_source(mut self, source: &Source) -> Self {
        self.source = Some(source.clone());
        self
    }

    /// `E…` for errors, `W…` for warnings; stable.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Whether the file loads in spite of it.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// One sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is said about the place.
    pub fn label_text(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// What may help.
    pub fn hint(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The bytes of the text that it is about; empty at 0 where it is about the whole file.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line and column, both from 1, the column in characters.
    pub fn position(&self) -> (usize, usize) {
        self.line_and_column(self.span.start)
    }

    /// The same of the first character after it.
    pub fn end_position(&self) -> (usize, usize) {
        self.line_and_column(self.span.end)
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let text = self
            .source
            .as_ref()
            .map_or("", |source| source.inner().as_str());
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// For people: headline, the lines that it is about, label and help.
    pub fn render(&self, color: bool) -> String {
        let theme = match color {
            true => miette::GraphicalTheme::unicode(),
            false => miette::GraphicalTheme::unicode_nocolor(),
        };
        let handler = miette::GraphicalReportHandler::new_themed(theme).with_width(100);
        let mut text = String::new();
        match handler.render_report(&mut text, self) {
            Ok(()) => text,
            Err(fmt::Error) => format!("{self}\n"),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source
            .as_ref()
            .map(|source| source.as_ref() as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.span.is_empty() && self.label.is_none() {
            return None;
        }
        let label = LabeledSpan::new(self.label.clone(), self.span.start, self.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.position();
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut fields = serializer.serialize_struct("Diagnostic", 9)?;
        fields.serialize_field("code", self.code)?;
        fields.serialize_field("severity", severity)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("label", &self.label)?;
        fields.serialize_field("help", &self.help)?;
        fields.serialize_field("file", &self.source.as_ref().map(|source| source.name()))?;
        fields.serialize_field("line", &line)?;
        fields.serialize_field("column", &column)?;
        fields.serialize_field("span", &[self.span.start, self.span.end])?;
        fields.end()
    }
}

/// How often a file's own names are still searched for what was meant: a search costs as much as
/// there are names, and a file may have a hundred thousand mistakes.
#[derive(Clone, Debug)]
pub(crate) struct Hints(Rc<Cell<u32>>);

impl Hints {
    /// [`nearest`], while there is something left to spend.
    pub fn nearest<'a>(
        &self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a str> {
        let left = self.0.get().checked_sub(1)?;
        self.0.set(left);
        nearest(word, candidates)
    }
}

impl Default for Hints {
    fn default() -> Self {
        Self(Rc::new(Cell::new(MAX_HINTS)))
    }
}

/// Whoever has corrected so many reads the file again.
const MAX_HINTS: u32 = 20;

/// The candidate that was probably meant, for a "did you mean".
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer words are no typing mistake, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    candidates
        .into_iter()
        // The distance is at least the difference of the lengths.
        .filter(|candidate| candidate.len().abs_diff(lower.len()) <= bound(candidate))
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= bound(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many typing mistakes a word may have.
fn bound(word: &str) -> usize {
    (word.len() / 3).max(1)
}

/// The edit distance over bytes, where two neighbours swapped count once (optimal string
/// alignment): the most common typing mistake.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::with_capacity(b.len() + 1);
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row: Vec<usize> = Vec::with_capacity(b.len() + 1);
    for i in 1..=a.len() {
        row.clear();
        row.push(i);
        for j in 1..=b.len() {
            let (x, y) = (a[i - 1], b[j - 1]);
            let substituted = last[j - 1] + usize::from(x != y);
            let mut best = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && x == b[j - 2] && y == a[i - 2] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        // The row before last becomes the next one.
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_typing_mistake_away() {
        assert_eq!(
            nearest("grnats", ["groups", "grants", "hosts"]),
            Some("grants")
        );
        assert_eq!(nearest("TagOwner", ["tagOwners"]), Some("tagOwners"));
        assert_eq!(nearest("unrelated", ["groups", "grants"]), None);
    }

    #[test]
    fn the_position_counts_lines_and_characters() {
        let source = Arc::new(NamedSource::new("a.hujson", "{\n  \"ä\": 1\n}".to_owned()));
        let said = Diagnostic::error("E000", 10..11, "here".into()).with_source(&source);

        assert_eq!(said.position(), (2, 8));
        assert!(said.render(false).contains("a.hujson:2"));
    }
}
