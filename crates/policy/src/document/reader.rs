//! From HuJSON values to checked fields, collecting everything there is to complain about.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jsonc_parser::ast::{Array, Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;

use crate::diagnostic::{Diagnostic, Hints, Severity, Source, nearest};

/// The most that is said about one file: after that many mistakes, another one helps nobody.
const MAX_DIAGNOSTICS: usize = 100;

/// No object of a well-formed file has more fields of its own.
const FEW: usize = 16;

/// A value, and where it stands in the text.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// Collects diagnostics while the sections are read.
pub(crate) struct Reader {
    source: Source,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    hints: Hints,
}

/// Which keys an object may have.
pub(crate) struct Keys {
    /// How the object is called in messages: `the policy`, `a grant`.
    pub of: &'static str,
    /// Keys that are read.
    pub known: &'static [&'static str],
    /// Keys that only mean something to Tailscale.
    pub ignored: &'static [&'static str],
}

/// The fields of an object, by canonical key.
pub(crate) type Fields<'a> = BTreeMap<&'static str, &'a ObjectProp<'a>>;

impl Reader {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            diagnostics: Vec::new(),
            errors: 0,
            hints: Hints::default(),
        }
    }

    /// Everything that was said, and whether the file is refused.
    pub fn finish(self) -> (Vec<Diagnostic>, bool) {
        (self.diagnostics, self.errors > 0)
    }

    pub fn say(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity() == Severity::Error);
        if self.diagnostics.len() < MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic.with_source(&self.source));
        }
    }

    /// For what searches the file's own names.
    pub fn hints(&self) -> Hints {
        self.hints.clone()
    }

    /// Whether nothing more is shown: what would help with one more mistake need not be found out.
    pub fn is_full(&self) -> bool {
        self.diagnostics.len() >= MAX_DIAGNOSTICS
    }

    /// Whether the file is refused and nothing more is shown: to read on would change neither.
    pub fn is_lost(&self) -> bool {
        self.errors > 0 && self.is_full()
    }

    pub fn error(&mut self, code: &'static str, span: Range<usize>, message: impl Into<String>) {
        self.say(Diagnostic::error(code, span, message.into()));
    }

    /// Sorts the properties of an object by canonical key. Keys match whatever their case, as they
    /// do at Tailscale; twice the same is an error, because only one could count.
    pub fn fields<'a>(&mut self, object: &'a Object<'a>, keys: &Keys) -> Fields<'a> {
        let mut fields = Fields::new();
        let mut seen = BTreeSet::new();
        for (at, property) in object.properties.iter().enumerate() {
            let name = property.name.as_str();
            let span = name_span(property);
            // Few names are compared faster than they are sorted.
            let again = match object.properties.len() <= FEW {
                true => object.properties[..at]
                    .iter()
                    .any(|before| before.name.as_str().eq_ignore_ascii_case(name)),
                false => !seen.insert(name.to_ascii_lowercase()),
            };
            if again {
                self.error(
                    "E003",
                    span,
                    format!("duplicate object member name {name:?}"),
                );
                continue;
            }
            let among = |list: &[&'static str]| {
                list.iter()
                    .copied()
                    .find(|key| key.eq_ignore_ascii_case(name))
            };
            if let Some(key) = among(keys.known) {
                fields.insert(key, property);
            } else if let Some(key) = among(keys.ignored) {
                let message = format!("{key:?} is ignored here");
                self.say(
                    Diagnostic::warning("W101", span, message).help(
                        "it only means something to Tailscale; crabmesh permits nothing by it",
                    ),
                );
            } else {
                let message = format!("unknown key {name:?} in {}", keys.of);
                let unknown = Diagnostic::error("E010", span, message);
                let all = keys.known.iter().chain(keys.ignored).copied();
                self.say(match nearest(name, all) {
                    Some(meant) => unknown.help(format!("did you mean {meant:?}?")),
                    None => unknown.help(format!("known here: {}", keys.known.join(", "))),
                });
            }
        }
        fields
    }

    pub fn object<'a>(&mut self, what: &str, value: &'a Value<'a>) -> Option<&'a Object<'a>> {
        let object = value.as_object();
        if object.is_none() {
            self.error("E004", span(value), format!("{what} must be an object"));
        }
        object
    }

    pub fn array<'a>(&mut self, what: &str, value: &'a Value<'a>) -> Option<&'a Array<'a>> {
        let array = value.as_array();
        if array.is_none() {
            self.error("E004", span(value), format!("{what} must be an array"));
        }
        array
    }

    pub fn string(&mut self, what: &str, value: &Value<'_>) -> Option<Spanned<String>> {
        let text = value.as_string_lit();
        if text.is_none() {
            self.error("E004", span(value), format!("{what} must be a string"));
        }
        text.map(|text| Spanned {
            value: text.value.to_string(),
            span: span(value),
        })
    }

    /// A whole number that is not negative.
    pub fn number(&mut self, what: &str, value: &Value<'_>) -> Option<u64> {
        let number = value
            .as_number_lit()
            .and_then(|literal| literal.value.parse().ok());
        if number.is_none() {
            self.error(
                "E004",
                span(value),
                format!("{what} must be a whole number"),
            );
        }
        number
    }

    pub fn boolean(&mut self, what: &str, value: &Value<'_>) -> Option<bool> {
        let boolean = value.as_boolean_lit().map(|literal| literal.value);
        if boolean.is_none() {
            self.error("E004", span(value), format!("{what} must be true or false"));
        }
        boolean
    }

    /// The objects of an array, each with its place in it.
    pub fn objects<'a>(
        &mut self,
        what: &str,
        value: &'a Value<'a>,
    ) -> Vec<(String, &'a Object<'a>)> {
        let Some(array) = self.array(what, value) else {
            return Vec::new();
        };
        let mut objects = Vec::new();
        for (index, element) in array.elements.iter().enumerate() {
            let place = format!("{what}[{index}]");
            if let Some(object) = self.object(&place, element) {
                objects.push((place, object));
            }
        }
        objects
    }

    /// The text of a field that may be absent.
    pub fn text(&mut self, fields: &Fields<'_>, key: &str) -> Option<Spanned<String>> {
        let field = fields.get(key)?;
        self.string(key, &field.value)
    }

    /// An array of strings.
    pub fn strings(&mut self, what: &str, value: &Value<'_>) -> Vec<Spanned<String>> {
        let Some(array) = value.as_array() else {
            let message = format!("{what} must be an array of strings");
            let wrong = Diagnostic::error("E004", span(value), message);
            self.say(match value.as_string_lit() {
                Some(text) => wrong.help(format!("write [{:?}]", text.value)),
                None => wrong,
            });
            return Vec::new();
        };
        let entry = format!("an entry of {what}");
        array
            .elements
            .iter()
            .filter_map(|value| self.string(&entry, value))
            .collect()
    }

    /// The members of an object whose keys are names of the author's, each once.
    pub fn members<'a>(
        &mut self,
        what: &str,
        value: &'a Value<'a>,
    ) -> Vec<(Spanned<String>, &'a Value<'a>)> {
        let Some(object) = self.object(what, value) else {
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let mut members = Vec::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let span = name_span(property);
            if seen.insert(name) {
                members.push((
                    Spanned {
                        value: name.to_owned(),
                        span,
                    },
                    &property.value,
                ));
            } else {
                self.error(
                    "E003",
                    span,
                    format!("duplicate object member name {name:?}"),
                );
            }
        }
        members
    }
}

pub(crate) fn span(value: &impl Ranged) -> Range<usize> {
    let range = value.range();
    range.start..range.end
}

fn name_span(property: &ObjectProp<'_>) -> Range<usize> {
    span(&property.name)
}
