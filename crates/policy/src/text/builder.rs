//! From tokens to the tree: which comment belongs to what.

use super::lexer::{Found, Gap, Lexer, Token};
use super::{Brackets, Comment, Item, List, Node, Text};

/// The tree of a text that is HuJSON; none of another.
pub(super) fn build(text: &str) -> Option<Text> {
    let mut builder = Builder {
        lexer: Lexer::new(text),
    };
    let first = builder.lexer.next().ok()?;
    let mut gap = Pending::default();
    gap.pass(first.gap);
    let mut root = Item::new(None, Node::Scalar(String::new()));
    gap.lead(&mut root);
    root.value = builder.value(first.text)?;
    let rest = builder.lexer.next().err()?;
    let mut gap = Pending::default();
    gap.pass(rest);
    root.after = gap.end_of_line(true);
    let end = gap.own_lines();
    Some(Text { root, end })
}

struct Builder<'a> {
    lexer: Lexer<'a>,
}

/// The comments since the last item, until it is known whose they are.
#[derive(Default)]
struct Pending<'a> {
    /// Each with whether a comma stands between it and the item.
    comments: Vec<(Found<'a>, bool)>,
    /// Line ends since the last of them.
    lines: usize,
    comma: bool,
}

impl<'a> Builder<'a> {
    /// The value that begins with this token.
    fn value(&mut self, text: &'a str) -> Option<Node> {
        match text {
            "{" => self.list(Brackets::Object).map(Node::List),
            "[" => self.list(Brackets::Array).map(Node::List),
            "}" | "]" | "," | ":" => None,
            scalar => Some(Node::Scalar(scalar.to_owned())),
        }
    }

    fn list(&mut self, brackets: Brackets) -> Option<List> {
        let mut items: Vec<Item> = Vec::new();
        let mut gap = Pending::default();
        loop {
            let token = self.lexer.next().ok()?;
            gap.pass(token.gap);
            match token.text {
                "," => gap.comma = true,
                "}" | "]" => {
                    if let Some(last) = items.last_mut() {
                        last.after = gap.end_of_line(true);
                    }
                    let end = gap.own_lines();
                    return Some(List {
                        brackets,
                        items,
                        end,
                    });
                }
                first => {
                    if let Some(last) = items.last_mut() {
                        last.after = gap.end_of_line(false);
                    }
                    items.push(self.item(first, brackets, &mut gap)?);
                }
            }
        }
    }

    fn item(&mut self, first: &'a str, brackets: Brackets, gap: &mut Pending<'a>) -> Option<Item> {
        let mut item = Item::new(None, Node::Scalar(String::new()));
        if brackets == Brackets::Array {
            gap.lead(&mut item);
            item.value = self.value(first)?;
            return Some(item);
        }
        let colon: Token<'a> = self.lexer.next().ok().filter(|token| token.text == ":")?;
        let value = self.lexer.next().ok()?;
        // Comments inside a member move before it: a line has room for none but at its end.
        let inside = !colon.gap.comments.is_empty() || !value.gap.comments.is_empty();
        if inside {
            gap.pass(colon.gap);
            gap.pass(value.gap);
        }
        gap.lead(&mut item);
        item.blank &= !inside;
        item.key = Some(first.to_owned());
        item.value = self.value(value.text)?;
        Some(item)
    }
}

impl<'a> Pending<'a> {
    fn pass(&mut self, gap: Gap<'a>) {
        for mut comment in gap.comments {
            comment.lines += std::mem::take(&mut self.lines);
            self.comments.push((comment, self.comma));
        }
        self.lines += gap.lines;
    }

    /// Takes those that end the line of the item before. What stands between a comma and the next
    /// item, on one line with it, is that item's.
    fn end_of_line(&mut self, last: bool) -> Vec<Comment> {
        let of_line = self.comments.iter().take_while(|(it, _)| it.lines == 0);
        let mut count = of_line.count();
        if !last && count == self.comments.len() && self.lines == 0 {
            count = self.comments.iter().take_while(|(_, comma)| !comma).count();
        }
        let taken = self.comments.drain(..count);
        taken
            .map(|(found, _)| Comment::new(&found, false))
            .collect()
    }

    /// Gives those that are left to an item.
    fn lead(&mut self, item: &mut Item) {
        item.blank = self.lines > 1;
        let mut inline = self.lines == 0;
        for (found, _) in self.comments.drain(..).rev() {
            let mut comment = Comment::new(&found, inline);
            comment.inline &= comment.is_short();
            inline = comment.inline && found.lines == 0;
            item.before.push(comment);
        }
        item.before.reverse();
        *self = Self::default();
    }

    /// Those that are left stand on lines of their own.
    fn own_lines(self) -> Vec<Comment> {
        let comments = self.comments.iter();
        comments.map(|(it, _)| Comment::new(it, false)).collect()
    }
}

impl Comment {
    fn new(found: &Found<'_>, inline: bool) -> Self {
        let text = match found.text.starts_with("//") {
            true => found.text.trim_end().to_owned(),
            false => found.text.replace("\r\n", "\n").replace('\r', "\n"),
        };
        Self {
            text,
            blank: found.lines > 1,
            inline,
        }
    }
}
