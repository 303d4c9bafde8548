//! From the tree to the one layout: a list on one line where it fits and no line comment is in it,
//! or else an item a line. Sections with several members, or with rules, always have a line each.
//!
//! Nothing is aligned in columns: whoever changes one name must not touch its neighbours.

use super::{Brackets, Comment, Item, List, Node, Text};
use crate::MAX_TEXT;

/// The formatted text would be no policy file.
pub(super) struct TooLong;

pub(super) fn print(text: &Text) -> Result<String, TooLong> {
    let mut printer = Printer {
        out: String::new(),
        line: 0,
    };
    printer.item(&Laid::new(&text.root), 0, true, false)?;
    for comment in &text.end {
        printer.own_line(comment, 0, false)?;
    }
    printer.push("\n")?;
    Ok(printer.out)
}

struct Printer {
    out: String,
    /// Where the current line begins.
    line: usize,
}

/// An item, with how wide it is on one line.
struct Laid<'a> {
    item: &'a Item,
    /// The value alone; none where it does not go on one line.
    width: Option<usize>,
    children: Vec<Self>,
}

impl<'a> Laid<'a> {
    fn new(item: &'a Item) -> Self {
        let (width, children) = match &item.value {
            Node::Scalar(text) => (line_width(text), Vec::new()),
            Node::List(list) => {
                let children: Vec<Self> = list.items.iter().map(Self::new).collect();
                (list_width(list, &children), children)
            }
        };
        Self {
            item,
            width,
            children,
        }
    }

    /// All of it, with its comments.
    fn whole_width(&self) -> Option<usize> {
        let item = self.item;
        let key = item
            .key
            .as_deref()
            .map_or(Some(0), |key| Some(line_width(key)? + 2))?;
        let before = comments_width(&item.before)?;
        Some(before + key + self.width? + comments_width(&item.after)?)
    }
}

impl Printer {
    /// One item, from the start of its line to the end of its last one.
    fn item(
        &mut self,
        laid: &Laid<'_>,
        depth: usize,
        first: bool,
        comma: bool,
    ) -> Result<(), TooLong> {
        let item = laid.item;
        let above = item.before.iter().filter(|comment| !comment.inline);
        let mut first = first;
        for comment in above {
            self.own_line(comment, depth, first)?;
            first = false;
        }
        let mut inline = item
            .before
            .iter()
            .filter(|comment| comment.inline)
            .peekable();
        let blank = inline.peek().map_or(item.blank, |comment| comment.blank);
        self.start_line(depth, first, blank)?;
        for comment in inline {
            self.push(&comment.text)?;
            self.push(" ")?;
        }
        if let Some(key) = &item.key {
            self.push(key)?;
            self.push(": ")?;
        }
        match &item.value {
            Node::List(list) if !self.fits(laid, list, depth) => {
                self.tall(list, &laid.children, depth)?;
            }
            value => self.flat(value)?,
        }
        if comma {
            self.push(",")?;
        }
        for comment in &item.after {
            self.push(" ")?;
            self.push(&comment.text)?;
        }
        Ok(())
    }

    fn fits(&self, laid: &Laid<'_>, list: &List, depth: usize) -> bool {
        let nested = |item: &Item| matches!(item.value, Node::List(_));
        let tall = match (depth, list.brackets) {
            (0, _) => !list.items.is_empty(),
            (1, Brackets::Object) => list.items.len() > 1,
            (1, Brackets::Array) => list.items.iter().any(nested),
            _ => false,
        };
        let column = self.out[self.line..].chars().count();
        !tall && laid.width.is_some_and(|width| column + width < COLUMNS)
    }

    /// An item a line.
    fn tall(&mut self, list: &List, children: &[Laid<'_>], depth: usize) -> Result<(), TooLong> {
        let (open, close) = list.brackets.pair();
        self.push(open)?;
        for (index, child) in children.iter().enumerate() {
            self.item(child, depth + 1, index == 0, true)?;
        }
        for (index, comment) in list.end.iter().enumerate() {
            self.own_line(comment, depth + 1, children.is_empty() && index == 0)?;
        }
        self.start_line(depth, true, false)?;
        self.push(close)
    }

    fn flat(&mut self, value: &Node) -> Result<(), TooLong> {
        let list = match value {
            Node::Scalar(text) => return self.push(text),
            Node::List(list) => list,
        };
        let (open, close) = list.brackets.pair();
        self.push(open)?;
        for (index, item) in list.items.iter().enumerate() {
            if index > 0 {
                self.push(", ")?;
            }
            for comment in &item.before {
                self.push(&comment.text)?;
                self.push(" ")?;
            }
            if let Some(key) = &item.key {
                self.push(key)?;
                self.push(": ")?;
            }
            self.flat(&item.value)?;
            for comment in &item.after {
                self.push(" ")?;
                self.push(&comment.text)?;
            }
        }
        for (index, comment) in list.end.iter().enumerate() {
            if index > 0 || !list.items.is_empty() {
                self.push(" ")?;
            }
            self.push(&comment.text)?;
        }
        self.push(close)
    }

    fn own_line(&mut self, comment: &Comment, depth: usize, first: bool) -> Result<(), TooLong> {
        self.start_line(depth, first, comment.blank)?;
        self.push(&comment.text)
    }

    /// Goes to a new line, with a blank one before it where that is wanted and not the first.
    fn start_line(&mut self, depth: usize, first: bool, blank: bool) -> Result<(), TooLong> {
        if !self.out.is_empty() {
            self.push(if blank && !first { "\n\n" } else { "\n" })?;
        }
        self.line = self.out.len();
        for _ in 0..depth {
            self.push("  ")?;
        }
        Ok(())
    }

    fn push(&mut self, text: &str) -> Result<(), TooLong> {
        self.out.push_str(text);
        match self.out.len() > MAX_TEXT {
            true => Err(TooLong),
            false => Ok(()),
        }
    }
}

impl Brackets {
    fn pair(self) -> (&'static str, &'static str) {
        match self {
            Self::Object => ("{", "}"),
            Self::Array => ("[", "]"),
        }
    }
}

fn list_width(list: &List, children: &[Laid<'_>]) -> Option<usize> {
    let mut width = 2 + 2 * children.len().saturating_sub(1) + comments_width(&list.end)?;
    for child in children {
        width += child.whole_width()?;
    }
    Some(width)
}

/// Each with the blank beside it; none where one of them ends its line.
fn comments_width(comments: &[Comment]) -> Option<usize> {
    let widths = comments.iter().map(|comment| {
        let width = comment.text.chars().count() + 1;
        comment.is_short().then_some(width)
    });
    widths.sum()
}

fn line_width(text: &str) -> Option<usize> {
    (!text.contains(['\n', '\r'])).then(|| text.chars().count())
}

/// As wide as two of them beside each other on a screen, and as a line of this project.
const COLUMNS: usize = 100;
