//! What an agent may do to another: the verbs of `msg` grants, and sets of them.

use std::fmt;
use std::str::FromStr;

/// One thing that a message may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verb {
    /// A one-way message.
    Send,
    /// A message that expects an answer; implies the correlated reply and the cancel.
    Request,
    /// Opening a stream.
    Stream,
    /// Publishing to a topic.
    Publish,
    /// Subscribing to a topic.
    Subscribe,
}

/// What one agent offers to others by name (`call:deploy`), or one power over it (`admin:drain`).
/// In a grant the name may be `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skill {
    kind: SkillKind,
    /// None: every one of the kind.
    name: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SkillKind {
    /// An MCP tool or an A2A skill.
    Call,
    Admin,
}

/// A set of verbs. The default is empty and allows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerbSet(u8);

impl Verb {
    /// Every verb, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [
        Self::Send,
        Self::Request,
        Self::Stream,
        Self::Publish,
        Self::Subscribe,
    ];

    /// The word in the policy file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Request => "request",
            Self::Stream => "stream",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

impl VerbSet {
    /// Adds one; false where it was there before.
    pub fn insert(&mut self, verb: Verb) -> bool {
        let before = self.0;
        self.0 |= verb.bit();
        self.0 != before
    }

    /// Whether the verb is in the set.
    pub fn contains(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }

    /// Whether no verb is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The verbs, in the order of [`Verb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL
            .into_iter()
            .filter(move |verb| self.contains(*verb))
    }
}

impl Skill {
    /// Whether a grant of this allows what is asked for.
    pub fn covers(&self, asked: &Self) -> bool {
        self.kind == asked.kind && (self.name.is_none() || self.name == asked.name)
    }

    /// Whether it stands for every name of its kind.
    pub fn is_every(&self) -> bool {
        self.name.is_none()
    }
}

impl fmt::Display for Skill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SkillKind::Call => "call",
            SkillKind::Admin => "admin",
        };
        write!(f, "{kind}:{}", self.name.as_deref().unwrap_or("*"))
    }
}

impl FromStr for Skill {
    type Err = ParseVerbError;

    fn from_str(text: &str) -> Result<Self, ParseVerbError> {
        let (kind, name) = match text.split_once(':') {
            Some(("call", name)) => (SkillKind::Call, name),
            Some(("admin", name)) => (SkillKind::Admin, name),
            _ => return Err(ParseVerbError),
        };
        // The names of MCP tools (its specification of 2025-11-25: letters, digits, _ - . /).
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./".contains(&b);
        match name {
            "*" => Ok(Self { kind, name: None }),
            _ if (1..=128).contains(&name.len()) && name.bytes().all(plain) => Ok(Self {
                kind,
                name: Some(name.into()),
            }),
            _ => Err(ParseVerbError),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = ParseVerbError;

    fn from_str(text: &str) -> Result<Self, ParseVerbError> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or(ParseVerbError)
    }
}

/// The word is not a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a verb is one of send, request, stream, publish, subscribe, call:TOOL, admin:POWER")]
pub struct ParseVerbError;
