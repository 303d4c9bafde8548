//! Which requests a grant with `http` lets through: methods and paths.

use jsonc_parser::ast::Value;

use super::pattern::Levels;
use super::reader::{Keys, Reader, span};
use crate::diagnostic::Diagnostic;

/// One entry of `http`: every one of its methods on every one of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpRule {
    /// In capitals; none: every method.
    pub methods: Vec<Box<str>>,
    /// None: every path.
    pub paths: Vec<Levels>,
}

impl HttpRule {
    /// Whether a request is meant. Methods are case-sensitive (RFC 9110 §9.1).
    pub fn matches(&self, method: &str, path: &str) -> bool {
        let methods =
            self.methods.is_empty() || self.methods.iter().any(|known| **known == *method);
        let paths =
            self.paths.is_empty() || self.paths.iter().any(|known| known.matches_path(path));
        methods && paths
    }
}

impl std::fmt::Display for HttpRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.methods.is_empty() {
            true => f.write_str("any method")?,
            false => f.write_str(&self.methods.join("|"))?,
        }
        for path in &self.paths {
            write!(f, " {path}")?;
        }
        Ok(())
    }
}

const HTTP: Keys = Keys {
    of: "an entry of http",
    known: &["methods", "paths"],
    ignored: &[],
};

pub(super) fn read(reader: &mut Reader, value: &Value<'_>) -> Vec<HttpRule> {
    let mut rules = Vec::new();
    for (_, object) in reader.objects("http", value) {
        let fields = reader.fields(object, &HTTP);
        let mut rule = HttpRule {
            methods: Vec::new(),
            paths: Vec::new(),
        };
        for text in fields
            .get("methods")
            .map_or(Vec::new(), |field| reader.strings("methods", &field.value))
        {
            match is_method(&text.value) {
                true => rule.methods.push(text.value.into()),
                false => {
                    let message = format!("{:?} is no HTTP method", text.value);
                    let wrong = Diagnostic::error("E048", text.span, message);
                    reader
                        .say(wrong.help(format!("did you mean {:?}?", text.value.to_uppercase())));
                }
            }
        }
        for text in fields
            .get("paths")
            .map_or(Vec::new(), |field| reader.strings("paths", &field.value))
        {
            match Levels::path(&text.value) {
                Ok(path) => rule.paths.push(path),
                Err(why) => {
                    let message = format!("{:?} is no path: {why}", text.value);
                    let wrong = Diagnostic::error("E048", text.span, message);
                    reader.say(wrong.help("write \"/api/v1/**\": * is one level, ** the rest"));
                }
            }
        }
        if fields.is_empty() {
            let wrong = Diagnostic::error("E048", span(object), "an empty entry of http".into());
            reader.say(wrong.help("give it methods or paths, or leave it out"));
        }
        rules.push(rule);
    }
    rules
}

/// A token of capitals, as every registered method is (RFC 9110 §16.1).
pub(super) fn is_method(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
}
