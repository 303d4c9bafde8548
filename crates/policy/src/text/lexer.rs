//! From text to brackets, commas, colons and scalars, each with the comments before it.
//!
//! Only for text that is known to be HuJSON; of other text it makes nothing useful, and no harm.

/// One token.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// As written: a bracket, a comma, a colon, or a whole scalar.
    pub text: &'a str,
    pub gap: Gap<'a>,
}

/// What stands between two tokens.
#[derive(Debug, Default)]
pub(super) struct Gap<'a> {
    pub comments: Vec<Found<'a>>,
    /// Line ends between the last comment, or else the token before, and the token after.
    pub lines: usize,
}

/// One comment.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub text: &'a str,
    /// Line ends between it and what is before it.
    pub lines: usize,
}

/// The rest of a text.
pub(super) struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// The next token, or what is left before the end.
    pub fn next(&mut self) -> Result<Token<'a>, Gap<'a>> {
        let gap = self.gap();
        let length = match self.rest.as_bytes().first() {
            None => return Err(gap),
            Some(b'{' | b'}' | b'[' | b']' | b',' | b':') => 1,
            Some(b'"') => string(self.rest),
            Some(_) => self
                .rest
                .find(|c: char| c.is_whitespace() || "{}[],:\"/".contains(c))
                .unwrap_or(self.rest.len()),
        };
        // At least one character, so that it ends.
        let first = self.rest.chars().next().map_or(0, char::len_utf8);
        Ok(Token {
            text: self.take(length.max(first)),
            gap,
        })
    }

    fn gap(&mut self) -> Gap<'a> {
        let mut gap = Gap::default();
        loop {
            let blanks = self.rest.len() - self.rest.trim_start().len();
            gap.lines += line_ends(self.take(blanks));
            let length = match self.rest.as_bytes() {
                [b'/', b'/', ..] => self.rest.find(['\n', '\r']),
                [b'/', b'*', ..] => self.rest[2..].find("*/").map(|end| end + 4),
                _ => return gap,
            };
            gap.comments.push(Found {
                text: self.take(length.unwrap_or(self.rest.len())),
                lines: std::mem::take(&mut gap.lines),
            });
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }
}

/// How long the string at the start is, with its quotes.
fn string(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// `\n`, `\r\n` and a lone `\r` count once each.
fn line_ends(blanks: &str) -> usize {
    let all = blanks.matches(['\n', '\r']).count();
    all - blanks.matches("\r\n").count()
}
