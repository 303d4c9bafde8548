//! The policy file as written: sections, rules and tests with the places where they stand.
//!
//! What is in a [`Document`] is well-formed and means something: names that the file must define
//! are defined, and nothing is in it that this version would not enforce.

mod block;
mod guard;
mod http;
pub(crate) mod hujson;
mod names;
mod pattern;
mod ports;
mod posture;
mod reader;
mod rule;
mod selector;
mod summary;
mod test;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use identity::{Tag, UserName};
use jsonc_parser::ast::Value;

pub(crate) use self::block::Block;
pub use self::guard::RateKey;
pub(crate) use self::guard::{Approve, Guard, Rate, Spend};
pub(crate) use self::http::HttpRule;
pub use self::hujson::text_of;
pub(crate) use self::names::Names;
pub(crate) use self::pattern::{Domain, Levels};
pub(crate) use self::ports::{Ports, TCP, UDP, has_ports};
pub(crate) use self::posture::Assertion;
pub use self::posture::{Attribute, Attributes};
pub(crate) use self::reader::Spanned;
pub(crate) use self::rule::{Capability, Rule};
pub(crate) use self::selector::{AgentPattern, NodeSelector, Selector};
pub use self::summary::RuleSummary;
pub(crate) use self::test::{Expectation, FAILED, Target};
pub use self::window::parse_time;
pub(crate) use self::window::{Valid, Window, rfc3339};

use self::reader::{Fields, Keys, Reader};
use crate::diagnostic::{Diagnostic, Source};

/// The longest policy file that is read, in bytes: twice what the most rules of one file take.
pub const MAX_TEXT: usize = 3 << 20;

/// The longest policy file that can be pushed, in bytes: signed, it must fit the 960 KiB of a
/// document (`identity`) and with that one frame.
pub const MAX_PUSHED: usize = 950 << 10;

/// The most rules of one file.
pub(crate) const MAX_RULES: usize = 10_000;

/// A policy file, parsed and checked.
#[derive(Clone, Debug)]
pub struct Document {
    pub(crate) names: Names,
    pub(crate) rules: Vec<Rule>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) expectations: Vec<Expectation>,
    pub(crate) source: Source,
}

/// What a gateway must be able to do to hold what a file demands: see [`Document::demands`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Feature {
    /// `rate` of a guard.
    Rate,
    /// `maxBytes` of a guard.
    MaxBytes,
    /// `deny` of a guard.
    DenyWindows,
    /// `approve` of a guard.
    Approve,
    /// `spend` of a guard.
    Spend,
}

/// The sections that only mean something to Tailscale.
pub(crate) const IGNORED: [&str; 7] = [
    "ssh",
    "sshTests",
    "nodeAttrs",
    "derpMap",
    "disableIPv4",
    "randomizeClientPort",
    "OneCGNATRoute",
];

const POLICY: Keys = Keys {
    of: "the policy",
    known: &[
        "groups",
        "hosts",
        "ipsets",
        "tagOwners",
        "postures",
        "autoApprovers",
        "grants",
        "acls",
        "guards",
        "blocks",
        "tests",
    ],
    ignored: &IGNORED,
};

impl Document {
    /// Reads a policy file called `name`: the document and its warnings, or all that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let source = hujson::source(name, text)?;
        Self::read(&hujson::root(&source)?, &source)
    }

    /// Reads a policy file from bytes, which must be UTF-8.
    pub fn parse_bytes(
        name: &str,
        bytes: &[u8],
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        text_of(name, bytes).and_then(|text| Self::parse(name, text))
    }

    /// Whether the file gives the tag an owner, so that rules may name it.
    pub fn declares(&self, tag: &Tag) -> bool {
        self.names.tags.contains_key(tag)
    }

    /// How many rules it has: entries of `grants`, and destinations of `acls`.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// What each grant, guard and block says, in the order of the file.
    pub fn summary(&self) -> impl Iterator<Item = RuleSummary> {
        summary::of(self)
    }

    /// The same names, and nothing that uses them: the policy that grants nothing.
    pub(crate) fn without_rules(&self) -> Self {
        Self {
            names: self.names.clone(),
            rules: Vec::new(),
            guards: Vec::new(),
            blocks: Vec::new(),
            expectations: Vec::new(),
            source: self.source.clone(),
        }
    }

    /// The people of a group, its name with the prefix; none where the file has no such group.
    pub fn members_of(&self, group: &str) -> Option<&BTreeSet<UserName>> {
        self.names.groups.get(group)
    }

    /// Whether some grant asks what its source is like: then verdicts may change as gateways age.
    pub fn asks_for_postures(&self) -> bool {
        self.rules.iter().any(|rule| !rule.postures.is_empty())
    }

    /// How many expectations its `tests` have.
    pub fn expectation_count(&self) -> usize {
        self.expectations.len()
    }

    /// What its guards demand of the gateways that enforce it, each with the first guard that does.
    pub fn demands(&self) -> BTreeMap<Feature, &str> {
        let mut demands = BTreeMap::new();
        for guard in &self.guards {
            for feature in guard.features() {
                demands.entry(feature).or_insert(guard.name.as_str());
            }
        }
        demands
    }

    /// The same for a gateway that does not know what time it is: what holds at some times holds
    /// at none, and what denies at some times denies.
    pub fn without_clock(&self) -> Self {
        let mut document = self.clone();
        document.rules.retain(|rule| rule.valid.is_none());
        for guard in &mut document.guards {
            if !guard.deny.is_empty() {
                guard.deny = vec![Window::always()];
            }
        }
        for block in &mut document.blocks {
            block.until = None;
        }
        document
    }

    fn read(root: &Value<'_>, source: &Source) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut reader = Reader::new(source.clone());
        let mut document = Self {
            names: Names::default(),
            rules: Vec::new(),
            guards: Vec::new(),
            blocks: Vec::new(),
            expectations: Vec::new(),
            source: source.clone(),
        };
        if let Some(object) = reader.object("the policy", root) {
            let sections = reader.fields(object, &POLICY);
            let names = Names::read(&mut reader, &sections);
            document.rules = rule::read(&mut reader, &sections, &names);
            document.guards = guard::read(&mut reader, &sections, &names);
            document.blocks = block::read(&mut reader, &sections, &names);
            document.expectations = test::read(&mut reader, &sections, &names);
            document.names = names;
            if document.rules.is_empty() {
                reader.say(
                    Diagnostic::warning("W102", 0..0, "no grants: everything is denied".into())
                        .help("unlike at Tailscale, a file without grants permits nothing"),
                );
            }
            if document.expectations.is_empty() {
                reader.say(Diagnostic::warning("W103", 0..0, "no tests".into()).help(
                    "add \"tests\": they refuse the push of a policy that no longer means \
                         what you meant",
                ));
            }
        }
        match reader.finish() {
            (diagnostics, true) => Err(diagnostics),
            (warnings, false) => Ok((document, warnings)),
        }
    }
}

impl Feature {
    /// The words in the policy file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::MaxBytes => "maxBytes",
            Self::DenyWindows => "deny",
            Self::Approve => "approve",
            Self::Spend => "spend",
        }
    }
}

/// The grammar of names that only this file defines: plain ASCII, so that none looks like another.
fn is_plain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}
