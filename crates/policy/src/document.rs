//! The policy file as written: sections, rules and tests with the places where they stand.
//!
//! What is in a [`Document`] is well-formed and means something: names that the file must define
//! are defined, and nothing is in it that this version would not enforce.

mod ports;
mod prefix;
mod reader;
mod rule;
mod selector;
mod test;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use identity::{Tag, UserName};
use jsonc_parser::ast::{ObjectProp, Value};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use miette::NamedSource;

pub(crate) use self::ports::{Ports, UDP};
pub(crate) use self::prefix::Prefix;
pub(crate) use self::rule::Rule;
pub use self::rule::RuleSummary;
pub(crate) use self::selector::{AgentPattern, NodeSelector, Selector};
pub(crate) use self::test::{Expectation, Target};

use self::reader::{Fields, Keys, Reader, Spanned, span};
use crate::diagnostic::{Diagnostic, Source};

/// The longest policy file, in bytes: signed, it must fit the 960 KiB of a document (`identity`)
/// and with that one frame.
pub const MAX_TEXT: usize = 950 << 10;

/// The most rules of one file.
pub(crate) const MAX_RULES: usize = 10_000;

/// A policy file, parsed and checked.
#[derive(Clone, Debug)]
pub struct Document {
    pub(crate) names: Names,
    pub(crate) rules: Vec<Rule>,
    pub(crate) expectations: Vec<Expectation>,
    pub(crate) source: Source,
}

/// What the file gives names to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Members by group, its name with the prefix.
    pub groups: BTreeMap<Box<str>, BTreeSet<UserName>>,
    pub hosts: BTreeMap<Box<str>, Prefix>,
    /// Owners by tag, as written.
    pub tags: BTreeMap<Tag, Vec<String>>,
}

const POLICY: Keys = Keys {
    of: "the policy",
    known: &["groups", "hosts", "tagOwners", "grants", "acls", "tests"],
    later: &["ipsets", "postures", "autoApprovers", "guards", "blocks"],
    ignored: &[
        "ssh",
        "sshTests",
        "nodeAttrs",
        "derpMap",
        "disableIPv4",
        "randomizeClientPort",
        "OneCGNATRoute",
    ],
};

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

impl Document {
    /// Reads a policy file called `name`: the document and its warnings, or all that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
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
        if let Some((at, c)) = text.char_indices().find(|(_, c)| is_treacherous(*c)) {
            let message = format!("invisible character U+{:04X}", u32::from(c));
            let treacherous = Diagnostic::error("E007", at..at + c.len_utf8(), message);
            return Err(vec![treacherous.label("here").help("take it out")]);
        }
        let parsed = parse_to_ast(text, &CollectOptions::default(), &HUJSON).map_err(|error| {
            let at = span(&error.range());
            // A place inside a character cannot be shown.
            let shown = text.get(at.clone()).map_or(0..0, |_| at);
            vec![
                Diagnostic::error("E002", shown, error.kind().to_string())
                    .label("here")
                    .with_source(&source),
            ]
        })?;
        let Some(root) = parsed.value else {
            let empty = Diagnostic::error("E005", 0..0, "the file has no policy in it".into());
            return Err(vec![empty.help(
                "the smallest policy is {\"grants\": []}, and denies everything",
            )]);
        };
        Self::read(&root, &source)
    }

    /// Reads a policy file from bytes, which must be UTF-8.
    pub fn parse_bytes(
        name: &str,
        bytes: &[u8],
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(name, text),
            Err(error) => {
                let message = format!("{name} is not UTF-8 (at byte {})", error.valid_up_to());
                Err(vec![Diagnostic::error("E001", 0..0, message)])
            }
        }
    }

    /// Whether the file gives the tag an owner, so that rules may name it.
    pub fn declares(&self, tag: &Tag) -> bool {
        self.names.tags.contains_key(tag)
    }

    /// How many rules it has: entries of `grants`, and destinations of `acls`.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// What each rule says, in the order of the file.
    pub fn summary(&self) -> impl Iterator<Item = RuleSummary> {
        self.rules.iter().map(RuleSummary::new)
    }

    /// How many expectations its `tests` have.
    pub fn expectation_count(&self) -> usize {
        self.expectations.len()
    }

    fn read(root: &Value<'_>, source: &Source) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut reader = Reader::new(source.clone());
        let (mut names, mut rules, mut expectations) = (Names::default(), Vec::new(), Vec::new());
        if let Some(object) = reader.object("the policy", root) {
            let sections = reader.fields(object, &POLICY);
            names = Names::read(&mut reader, &sections);
            rules = rule::read(&mut reader, &sections, &names);
            expectations = test::read(&mut reader, &sections, &names);
            if rules.is_empty() {
                reader.say(
                    Diagnostic::warning("W102", 0..0, "no grants: everything is denied".into())
                        .help("unlike at Tailscale, a file without grants permits nothing"),
                );
            }
            if expectations.is_empty() {
                reader.say(Diagnostic::warning("W103", 0..0, "no tests".into()).help(
                    "add \"tests\": they refuse the push of a policy that no longer means \
                         what you meant",
                ));
            }
        }
        match reader.finish() {
            (diagnostics, true) => Err(diagnostics),
            (warnings, false) => Ok((
                Self {
                    names,
                    rules,
                    expectations,
                    source: source.clone(),
                },
                warnings,
            )),
        }
    }
}

impl Names {
    fn read(reader: &mut Reader, sections: &Fields<'_>) -> Self {
        let mut names = Self::default();
        if let Some(section) = sections.get("groups") {
            names.read_groups(reader, section);
        }
        if let Some(section) = sections.get("hosts") {
            names.read_hosts(reader, section);
        }
        if let Some(section) = sections.get("tagOwners") {
            names.read_tags(reader, section);
        }
        names
    }

    fn read_groups(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        for (name, value) in reader.members("groups", &section.value) {
            if !name.value.strip_prefix("group:").is_some_and(is_plain) {
                let message = format!("groups[{:?}]: not a group name", name.value);
                let wrong = Diagnostic::error("E024", name.span.clone(), message);
                reader.say(wrong.help("a group is group: and letters, digits, . _ or -"));
                continue;
            }
            let what = format!("groups[{:?}]", name.value);
            let mut members = BTreeSet::new();
            for member in reader.strings(&what, value) {
                match member.value.parse::<UserName>() {
                    Ok(user) => drop(members.insert(user)),
                    Err(_) if member.value.starts_with("group:") => reader.error(
                        "E060",
                        member.span,
                        format!(
                            "{what}: {:?}: group members cannot be recursive",
                            member.value
                        ),
                    ),
                    Err(error) => {
                        let message = format!("{what}: {:?}: {error}", member.value);
                        reader.error("E024", member.span, message);
                    }
                }
            }
            self.groups.insert(name.value.into(), members);
        }
    }

    fn read_hosts(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        for (name, value) in reader.members("hosts", &section.value) {
            let what = format!("hosts[{:?}]", name.value);
            if !is_plain(&name.value) || name.value.parse::<Prefix>().is_ok() {
                let wrong =
                    Diagnostic::error("E024", name.span, format!("{what}: not a host name"));
                reader.say(wrong.help("a host is named by letters, digits, . _ or -"));
                continue;
            }
            let Some(address) = reader.string(&what, value) else {
                continue;
            };
            match address.value.parse::<Prefix>() {
                Ok(prefix) => drop(self.hosts.insert(name.value.into(), prefix)),
                Err(prefix::ParsePrefixError::HostBits(meant)) => reader.say(
                    Diagnostic::error(
                        "E044",
                        address.span,
                        format!("{what}: {:?} has bits set after its prefix", address.value),
                    )
                    .help(format!("did you mean {meant}?")),
                ),
                Err(prefix::ParsePrefixError::Syntax) => {
                    let message = format!(
                        "{what}: {:?} is no IP address and no CIDR block",
                        address.value
                    );
                    reader.error("E044", address.span, message);
                }
            }
        }
    }

    fn read_tags(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        let mut owners: Vec<(Tag, Vec<Spanned<String>>)> = Vec::new();
        for (name, value) in reader.members("tagOwners", &section.value) {
            let what = format!("tagOwners[{:?}]", name.value);
            let listed = reader.strings(&what, value);
            match name.value.parse() {
                Ok(tag) => owners.push((tag, listed)),
                Err(error) => reader.error("E024", name.span, format!("{what}: {error}")),
            }
        }
        let tags: BTreeSet<Tag> = owners.iter().map(|(tag, _)| tag.clone()).collect();
        for (tag, listed) in owners {
            for owner in &listed {
                let text = owner.value.as_str();
                let known = match text {
                    "autogroup:member" | "autogroup:admin" | "autogroup:owner" => true,
                    _ if text.starts_with("group:") => self.groups.contains_key(text),
                    _ if text.starts_with("tag:") => {
                        text.parse::<Tag>().is_ok_and(|tag| tags.contains(&tag))
                    }
                    _ => text.parse::<UserName>().is_ok(),
                };
                if !known {
                    let message = format!("tagOwners[\"{tag}\"]: owner not found: {text:?}");
                    let wrong = Diagnostic::error("E021", owner.span.clone(), message);
                    reader.say(wrong.help("an owner is a user, or a group or tag of this file"));
                }
            }
            self.tags
                .insert(tag, listed.into_iter().map(|owner| owner.value).collect());
        }
    }
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

/// The grammar of names that only this file defines: plain ASCII, so that none looks like another.
fn is_plain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}
