//! What a gateway must be like: assertions about its attributes, in Tailscale's grammar.
//!
//! ```text
//! node:keyAgeDays < 90        node:os == 'linux'        node:os IN ['linux', 'macos']
//! node:version >= '1.40.2'    custom:tier IS SET        node:auditScore NOT SET
//! ```
//! An attribute that is not known meets no assertion but `NOT SET`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// What is known of a gateway, by the attribute's name.
pub type Attributes = BTreeMap<Box<str>, Attribute>;

/// The value of one attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// Text; compared by order as versions are, number by number.
    Text(Box<str>),
    /// A number.
    Number(f64),
    /// True or false.
    Bool(bool),
}

/// One assertion of a posture.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Assertion {
    attribute: Box<str>,
    test: Test,
    text: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Compare(Operator, Attribute),
    /// One of these.
    In(Vec<Attribute>),
    NotIn(Vec<Attribute>),
    IsSet,
    NotSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Assertion {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text
            .find(|c: char| c.is_whitespace() || "=!<>".contains(c))
            .ok_or_else(|| format!("{text:?} compares nothing"))?;
        let (attribute, rest) = text.split_at(end);
        let named = attribute.split_once(':').is_some_and(|(space, name)| {
            let plain = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            };
            plain(space) && plain(name) && attribute.len() <= 64
        });
        if !named {
            return Err(format!("{attribute:?} is no attribute"));
        }
        Ok(Self {
            attribute: attribute.into(),
            test: Test::parse(rest.trim())?,
            text: text.into(),
        })
    }

    /// Whether a gateway with these attributes meets it.
    pub fn holds(&self, attributes: &Attributes) -> bool {
        let known = attributes.get(&self.attribute);
        match (&self.test, known) {
            (Test::NotSet, known) => known.is_none(),
            (_, None) => false,
            (Test::IsSet, Some(_)) => true,
            (Test::In(list), Some(known)) => list.contains(known),
            (Test::NotIn(list), Some(known)) => !list.contains(known),
            (Test::Compare(operator, value), Some(known)) => operator.holds(known, value),
        }
    }

    /// Whether it can only hold where the attribute is known.
    pub fn asks_value(&self) -> bool {
        self.test != Test::NotSet
    }

    /// The attribute that it is about.
    pub fn attribute(&self) -> &str {
        &self.attribute
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["IS", "SET"] => return Ok(Self::IsSet),
            ["NOT", "SET"] | ["IS", "NOT", "SET"] => return Ok(Self::NotSet),
            _ => {}
        }
        if let Some(list) = text.strip_prefix("NOT IN") {
            return list_of(list).map(Self::NotIn);
        }
        if let Some(list) = text.strip_prefix("IN") {
            return list_of(list).map(Self::In);
        }
        for (sign, operator) in OPERATORS {
            if let Some(value) = text.strip_prefix(sign) {
                return Ok(Self::Compare(operator, Attribute::parse(value.trim())?));
            }
        }
        Err(format!("{text:?}: no such comparison"))
    }
}

impl Operator {
    fn holds(self, known: &Attribute, value: &Attribute) -> bool {
        // A number is not less than a text: what cannot be compared is only unequal.
        let Some(order) = known.compare(value) else {
            return self == Self::Unequal;
        };
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

impl Attribute {
    /// `'linux'`, `"linux"`, `90`, `1.5`, `true`.
    fn parse(text: &str) -> Result<Self, String> {
        let quoted = ['\'', '"']
            .into_iter()
            .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
        if let Some(quoted) = quoted {
            return Ok(Self::Text(quoted.into()));
        }
        match text {
            "true" => Ok(Self::Bool(true)),
            "false" => Ok(Self::Bool(false)),
            _ => number(text)
                .map(Self::Number)
                .ok_or_else(|| format!("{text:?} is no value: text needs quotes, 'linux'")),
        }
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => Some(a.total_cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(compare_versions(a, b)),
            _ => None,
        }
    }
}

/// Text in the order of versions: `1.9` before `1.10`, `1.10` before `1.10.1`.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Digits with at most one point and one sign: nothing that only a float parser knows.
fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

fn list_of(text: &str) -> Result<Vec<Attribute>, String> {
    let inner = text
        .trim()
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or_else(|| format!("{:?} is no list: write ['a', 'b']", text.trim()))?;
    inner
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(Attribute::parse)
        .collect()
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Attribute {}

impl PartialOrd for Attribute {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A total order for sets and keys; `Attribute::compare` is the one that means something.
impl Ord for Attribute {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| match value {
            Self::Text(_) => 0,
            Self::Number(_) => 1,
            Self::Bool(_) => 2,
        };
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The longer signs first: `<=` begins with `<`.
const OPERATORS: [(&str, Operator); 7] = [
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::More),
    ("=", Operator::Equal),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(assertion: &str, known: Attribute) -> bool {
        let attributes = Attributes::from([("node:x".into(), known)]);
        Assertion::parse(assertion)
            .expect(assertion)
            .holds(&attributes)
    }

    #[test]
    fn assertions_compare_numbers_versions_and_lists() {
        assert!(holds("node:x < 90", Attribute::Number(89.5)));
        assert!(!holds("node:x<90", Attribute::Number(90.0)));
        assert!(holds("node:x >= '1.9'", Attribute::Text("1.10".into())));
        assert!(!holds("node:x >= '1.10.1'", Attribute::Text("1.10".into())));
        assert!(holds(
            "node:x IN ['linux', 'macos']",
            Attribute::Text("macos".into())
        ));
        assert!(holds(
            "node:x NOT IN ['linux']",
            Attribute::Text("macos".into())
        ));
        assert!(holds("node:x != 'linux'", Attribute::Text("macos".into())));
        assert!(holds("node:x == true", Attribute::Bool(true)));
        assert!(holds("node:x IS SET", Attribute::Bool(false)));
    }

    #[test]
    fn what_is_not_known_or_of_another_kind_meets_nothing() {
        let nothing = Attributes::new();

        for text in [
            "node:x < 90",
            "node:x != 1",
            "node:x NOT IN ['a']",
            "node:x IS SET",
        ] {
            assert!(
                !Assertion::parse(text).expect(text).holds(&nothing),
                "{text}"
            );
        }
        assert!(
            Assertion::parse("node:x NOT SET")
                .expect("it")
                .holds(&nothing)
        );
        assert!(!holds("node:x < 90", Attribute::Text("5".into())));
        assert!(!holds("node:x == 'true'", Attribute::Bool(true)));
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "node:x",
            "x < 1",
            "node:x <> 1",
            "node:x < linux",
            "node:x IN 'a'",
            "node:x == inf",
            "node: == 1",
        ] {
            assert!(Assertion::parse(text).is_err(), "{text}");
        }
    }
}
