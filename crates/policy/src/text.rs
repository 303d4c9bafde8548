//! A HuJSON text as a tree that keeps every comment: what `fmt`, `import` and `export` work on.
//!
//! ```text
//! text ─► lexer ─► builder ─► Text ─► printer ─► text
//! ```
//! A comment belongs to the item before it where it ends that item's line, and else to the item
//! after it, or to the end of its list. **Invariant:** no comment is lost and none overtakes
//! another; scalars are kept as they are written, byte by byte.

mod builder;
mod lexer;
mod printer;

use crate::diagnostic::{Diagnostic, Source};
use crate::document::hujson;

/// A whole text.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub root: Item,
    /// What follows the policy.
    pub end: Vec<Comment>,
}

/// One member of an object, one element of an array, or the root.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub before: Vec<Comment>,
    /// Whether a blank line stands right before it.
    pub blank: bool,
    /// Of a member: as written, with its quotes.
    pub key: Option<String>,
    pub value: Node,
    /// Comments that end its line.
    pub after: Vec<Comment>,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A string, number or word, as written.
    Scalar(String),
    /// An object or array.
    List(List),
}

/// An object or array.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub brackets: Brackets,
    pub items: Vec<Item>,
    /// What stands before the closing bracket.
    pub end: Vec<Comment>,
}

/// Which kind of list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brackets {
    Object,
    Array,
}

/// One comment, with its slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comment {
    pub text: String,
    /// Whether a blank line stands before it.
    pub blank: bool,
    /// Whether it stands on the line of what it is before.
    pub inline: bool,
}

/// Formats a policy file: one layout for all, whoever wrote it.
///
/// Comments are kept, strings and numbers stay as they are written, and what is formatted twice is
/// as if formatted once. The text must be HuJSON; what it says about access may be wrong.
pub fn format(name: &str, text: &str) -> Result<String, Vec<Diagnostic>> {
    Text::parse(&hujson::source(name, text)?)?.print()
}

impl Text {
    /// Reads what [`hujson::source`] let through.
    pub fn parse(source: &Source) -> Result<Self, Vec<Diagnostic>> {
        // What is wrong is said by the parser that also reads policies.
        hujson::root(source)?;
        builder::build(source.inner()).ok_or_else(|| {
            let message = "the layout of the file cannot be read".to_owned();
            vec![Diagnostic::error("E002", 0..0, message)]
        })
    }

    /// The formatted text; an error where it would be longer than a policy file may be.
    pub fn print(&self) -> Result<String, Vec<Diagnostic>> {
        printer::print(self).map_err(|printer::TooLong| {
            let message = format!(
                "formatted, the file has more than {} bytes",
                crate::MAX_TEXT
            );
            vec![Diagnostic::error("E001", 0..0, message).help("split its longest lists")]
        })
    }

    /// The sections of the policy; none where it is no object.
    pub fn sections(&mut self) -> Option<&mut List> {
        match &mut self.root.value {
            Node::List(list) if list.brackets == Brackets::Object => Some(list),
            _ => None,
        }
    }
}

impl Item {
    pub fn new(key: Option<&str>, value: Node) -> Self {
        Self {
            before: Vec::new(),
            blank: false,
            key: key.map(quoted),
            value,
            after: Vec::new(),
        }
    }

    /// The name of a member, without quotes and escapes.
    pub fn name(&self) -> Option<String> {
        self.key.as_deref().map(unquoted)
    }

    /// Whether it is the member of that name; keys match whatever their case.
    pub fn is(&self, name: &str) -> bool {
        self.name()
            .is_some_and(|key| key.eq_ignore_ascii_case(name))
    }

    /// Adds a comment on a line of its own above it.
    pub fn remark(&mut self, words: &str) {
        self.before.push(Comment::line(words));
    }
}

impl Node {
    /// A value made here: from JSON, without comments.
    pub fn from_json(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Object(members) => Self::List(List {
                brackets: Brackets::Object,
                items: members
                    .iter()
                    .map(|(key, value)| Item::new(Some(key), Self::from_json(value)))
                    .collect(),
                end: Vec::new(),
            }),
            serde_json::Value::Array(elements) => Self::List(List {
                brackets: Brackets::Array,
                items: elements
                    .iter()
                    .map(|value| Item::new(None, Self::from_json(value)))
                    .collect(),
                end: Vec::new(),
            }),
            scalar => Self::Scalar(scalar.to_string()),
        }
    }

    pub fn list(&mut self) -> Option<&mut List> {
        match self {
            Self::List(list) => Some(list),
            Self::Scalar(_) => None,
        }
    }

    /// The text of a string.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Scalar(text) if text.starts_with('"') => Some(unquoted(text)),
            _ => None,
        }
    }
}

impl List {
    /// The member of that name.
    pub fn member(&mut self, name: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.is(name))
    }

    /// Takes an item out. The comments above it stay, with those that are given after them.
    pub fn remove(&mut self, index: usize, remarks: Vec<Comment>) -> Item {
        let mut item = self.items.remove(index);
        let mut stay = std::mem::take(&mut item.before);
        stay.extend(remarks);
        stay.iter_mut().for_each(|comment| comment.inline = false);
        let next = match self.items.get_mut(index) {
            Some(next) => &mut next.before,
            None => &mut self.end,
        };
        next.splice(0..0, stay);
        item
    }
}

impl Comment {
    /// A line of words.
    pub fn line(words: &str) -> Self {
        // Words of others may hold whatever a string can.
        let words: String = words
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self {
            text: format!("// {}", words.trim_end()),
            blank: false,
            inline: false,
        }
    }

    /// Whether more may follow on its line.
    fn is_short(&self) -> bool {
        self.text.starts_with("/*") && !self.text.contains('\n')
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(crate) fn unquoted(text: &str) -> String {
    serde_json::from_str(text).unwrap_or_else(|_| text.trim_matches('"').to_owned())
}
