//! The outermost layer of a policy file: what it may not hold whatever it says, and its syntax.

use std::sync::Arc;

use jsonc_parser::ast::Value;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use miette::NamedSource;

use super::MAX_TEXT;
use super::reader::span;
use crate::diagnostic::{Diagnostic, Source};

/// HuJSON is JSON with comments and trailing commas, and nothing else.
const HUJSON: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The text of a file, which must be UTF-8.
pub fn text_of<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Vec<Diagnostic>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("{name} is not UTF-8 (at byte {})", error.valid_up_to());
        vec![Diagnostic::error("E001", 0..0, message)]
    })
}

/// A text that is short enough and shows what it is.
pub(crate) fn source(name: &str, text: &str) -> Result<Source, Vec<Diagnostic>> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "the file has {} bytes; {MAX_TEXT} are the limit",
            text.len()
        );
        return Err(vec![Diagnostic::error("E001", 0..0, message)]);
    }
    // The byte order mark that some editors write first is as good as its three bytes of blanks.
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => format!("   {rest}"),
        None => text.to_owned(),
    };
    let source: Source = Arc::new(NamedSource::new(name, text));
    let text = source.inner().as_str();
    if let Some((at, c)) = treacherous(text) {
        let message = format!("invisible character U+{:04X}", u32::from(c));
        let treacherous = Diagnostic::error("E007", at..at + c.len_utf8(), message);
        return Err(vec![treacherous.label("here").help("take it out")]);
    }
    Ok(source)
}

/// The only value of the text.
pub(crate) fn root(source: &Source) -> Result<Value<'_>, Vec<Diagnostic>> {
    let text = source.inner().as_str();
    let parsed = parse_to_ast(text, &CollectOptions::default(), &HUJSON).map_err(|error| {
        let at = span(&error.range());
        // A place inside a character cannot be shown.
        let shown = text.get(at.clone()).map_or(0..0, |_| at);
        vec![
            Diagnostic::error("E002", shown, error.kind().to_string())
                .label("here")
                .with_source(source),
        ]
    })?;
    parsed.value.ok_or_else(|| {
        let empty = Diagnostic::error("E005", 0..0, "the file has no policy in it".into());
        vec![empty.help("the smallest policy is {\"grants\": []}, and denies everything")]
    })
}

/// The first character that a reader does not see as what it is, and where it stands.
fn treacherous(text: &str) -> Option<(usize, char)> {
    // Most files are plain ASCII throughout, which a look at the bytes tells at once.
    let plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
    if text.bytes().all(plain) {
        return None;
    }
    text.char_indices().find(|(_, c)| is_treacherous(*c))
}

/// What a reader does not see and an editor or terminal obeys: control characters, and those that
/// reorder or hide text. A reviewed file must mean what it shows.
fn is_treacherous(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{feff}' | '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        _ => c.is_control(),
    }
}
