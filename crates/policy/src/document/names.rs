//! What the file gives names to, before any rule uses them: groups, hosts, IP sets, tags, postures,
//! and who may approve routes.

use std::collections::{BTreeMap, BTreeSet};

use identity::{Tag, UserName};
use jsonc_parser::ast::ObjectProp;

use super::is_plain;
use super::posture::Assertion;
use super::reader::{Fields, Keys, Reader, Spanned, span};
use super::selector::{NodeSelector, Side};
use crate::address::{AddressSet, ParsePrefixError, Prefix};
use crate::diagnostic::Diagnostic;

/// The names of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Members by group, its name with the prefix.
    pub groups: BTreeMap<Box<str>, BTreeSet<UserName>>,
    pub hosts: BTreeMap<Box<str>, Prefix>,
    /// By the set's name with the prefix.
    pub ipsets: BTreeMap<Box<str>, AddressSet>,
    /// Owners by tag, as written.
    pub tags: BTreeMap<Tag, Vec<String>>,
    /// All must hold; by the posture's name with the prefix.
    pub postures: BTreeMap<Box<str>, Vec<Assertion>>,
    pub approvers: Approvers,
}

/// Whose routes count without asking anybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Approvers {
    /// For routes inside these blocks.
    pub routes: Vec<(Prefix, Vec<NodeSelector>)>,
    /// For the way to the internet.
    pub exit_node: Vec<NodeSelector>,
}

impl Names {
    pub fn read(reader: &mut Reader, sections: &Fields<'_>) -> Self {
        let mut names = Self::default();
        if let Some(section) = sections.get("groups") {
            names.read_groups(reader, section);
        }
        if let Some(section) = sections.get("hosts") {
            names.read_hosts(reader, section);
        }
        if let Some(section) = sections.get("ipsets") {
            names.read_ipsets(reader, section);
        }
        if let Some(section) = sections.get("tagOwners") {
            names.read_tags(reader, section);
        }
        if let Some(section) = sections.get("postures") {
            names.read_postures(reader, section);
        }
        if let Some(section) = sections.get("autoApprovers") {
            names.read_approvers(reader, section);
        }
        names
    }

    fn read_groups(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        for (name, value) in reader.members("groups", &section.value) {
            if !named(reader, &name, "groups", "group:") {
                continue;
            }
            let what = format!("groups[{:?}]", name.value);
            let mut members = BTreeSet::new();
            for member in reader.strings(&what, value) {
                match member.value.parse::<UserName>() {
                    Ok(user) => drop(members.insert(user)),
                    Err(_) if member.value.starts_with("group:") => {
                        let message = format!(
                            "{what}: {:?}: group members cannot be recursive",
                            member.value
                        );
                        reader.error("E060", member.span, message);
                    }
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
                let message = format!("{what}: not a host name");
                let wrong = Diagnostic::error("E024", name.span, message);
                reader.say(wrong.help("a host is named by letters, digits, . _ or -"));
                continue;
            }
            let Some(address) = reader.string(&what, value) else {
                continue;
            };
            if let Some(prefix) = read_prefix(reader, &what, &address) {
                self.hosts.insert(name.value.into(), prefix);
            }
        }
    }

    /// `["add host:lab", "add 10.0.0.0/8", "remove 10.20.9.0/24"]`, in this order.
    fn read_ipsets(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        for (name, value) in reader.members("ipsets", &section.value) {
            if !named(reader, &name, "ipsets", "ipset:") {
                continue;
            }
            if self.ipsets.len() >= MAX_IPSETS {
                let message = format!("more than {MAX_IPSETS} ipsets");
                reader.error("E005", name.span, message);
                return;
            }
            let what = format!("ipsets[{:?}]", name.value);
            let mut set = AddressSet::default();
            for entry in reader.strings(&what, value) {
                let (verb, block) = match entry.value.split_once(' ') {
                    Some((verb @ ("add" | "remove"), block)) => (verb, block.trim()),
                    _ => ("add", entry.value.as_str()),
                };
                let Some(block) = self.read_block(reader, &what, block, &entry) else {
                    continue;
                };
                match verb {
                    "add" => set.insert(block),
                    _ => set.remove(block),
                }
            }
            self.ipsets.insert(name.value.into(), set);
        }
    }

    fn read_block(
        &self,
        reader: &mut Reader,
        what: &str,
        block: &str,
        entry: &Spanned<String>,
    ) -> Option<Prefix> {
        let host = block.strip_prefix("host:").unwrap_or(block);
        if let Some(prefix) = self.hosts.get(host) {
            return Some(*prefix);
        }
        if block.starts_with("host:") {
            let message = format!("{what}: host not found: {host:?}");
            let unknown = Diagnostic::error("E021", entry.span.clone(), message);
            let known = self.hosts.keys().map(|host| &**host);
            let meant = reader.hints().nearest(host, known);
            reader.say(match meant {
                Some(meant) => unknown.help(format!("did you mean \"host:{meant}\"?")),
                None => unknown.help(format!("define it: \"hosts\": {{{host:?}: \"10.0.0.1\"}}")),
            });
            return None;
        }
        if block.starts_with("ipset:") {
            let message = format!("{what}: an ipset is made of hosts and blocks, not of ipsets");
            reader.error("E044", entry.span.clone(), message);
            return None;
        }
        let block = Spanned {
            value: block.to_owned(),
            span: entry.span.clone(),
        };
        read_prefix(reader, what, &block)
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
                    _ if text.starts_with("autogroup:") => OWNING_AUTOGROUPS.contains(&text),
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

    fn read_postures(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        for (name, value) in reader.members("postures", &section.value) {
            if !named(reader, &name, "postures", "posture:") {
                continue;
            }
            let what = format!("postures[{:?}]", name.value);
            let mut assertions = Vec::new();
            for text in reader.strings(&what, value) {
                match Assertion::parse(&text.value) {
                    Ok(assertion) => assertions.push(assertion),
                    Err(why) => {
                        let wrong = Diagnostic::error("E080", text.span, format!("{what}: {why}"));
                        reader.say(wrong.help(
                            "an assertion is \"node:keyAgeDays < 90\" or \"node:os IN ['linux']\"",
                        ));
                    }
                }
            }
            if assertions.is_empty() {
                let message = format!("{what} asserts nothing: nobody would be kept out");
                reader.error("E080", name.span, message);
                continue;
            }
            self.postures.insert(name.value.into(), assertions);
        }
    }

    fn read_approvers(&mut self, reader: &mut Reader, section: &ObjectProp<'_>) {
        let Some(object) = reader.object("autoApprovers", &section.value) else {
            return;
        };
        let fields = reader.fields(object, &APPROVERS);
        if let Some(field) = fields.get("routes") {
            for (name, value) in reader.members("autoApprovers.routes", &field.value) {
                let Some(block) = read_prefix(reader, "autoApprovers.routes", &name) else {
                    continue;
                };
                let what = format!("autoApprovers.routes[{:?}]", name.value);
                let listed = reader.strings(&what, value);
                let owners = self.read_owners(reader, listed);
                self.approvers.routes.push((block, owners));
            }
        }
        if let Some(field) = fields.get("exitNode") {
            let listed = reader.strings("autoApprovers.exitNode", &field.value);
            self.approvers.exit_node = self.read_owners(reader, listed);
        }
        if self.approvers.routes.len() > MAX_APPROVED {
            let message = format!("more than {MAX_APPROVED} routes in autoApprovers");
            reader.error("E005", span(object), message);
            self.approvers.routes.clear();
        }
    }

    fn read_owners(&self, reader: &mut Reader, listed: Vec<Spanned<String>>) -> Vec<NodeSelector> {
        let mut owners = Vec::new();
        for text in listed {
            match NodeSelector::parse(&text.value, &text, Side::Source, (self, &reader.hints())) {
                Ok((owner, _)) if owner.is_of_users() || matches!(owner, NodeSelector::Tag(_)) => {
                    owners.push(owner);
                }
                Ok(_) => {
                    let message = format!("{:?} approves nothing", text.value);
                    let wrong = Diagnostic::error("E024", text.span, message);
                    reader.say(wrong.help("name users, groups, tags or autogroup:member"));
                }
                Err(error) => reader.say(error),
            }
        }
        owners
    }
}

/// Whether a name has its prefix and is plain after it; says so where not.
fn named(reader: &mut Reader, name: &Spanned<String>, section: &str, prefix: &str) -> bool {
    let good = name.value.strip_prefix(prefix).is_some_and(is_plain);
    if !good {
        let kind = prefix.trim_end_matches(':');
        let message = format!("{section}[{:?}]: not a {kind} name", name.value);
        let wrong = Diagnostic::error("E024", name.span.clone(), message);
        let article = if kind == "ipset" { "an" } else { "a" };
        reader.say(wrong.help(format!(
            "{article} {kind} is {prefix} and letters, digits, . _ or -"
        )));
    }
    good
}

fn read_prefix(reader: &mut Reader, what: &str, text: &Spanned<String>) -> Option<Prefix> {
    match text.value.parse::<Prefix>() {
        Ok(prefix) => return Some(prefix),
        Err(ParsePrefixError::HostBits(meant)) => reader.say(
            Diagnostic::error(
                "E044",
                text.span.clone(),
                format!("{what}: {:?} has bits set after its prefix", text.value),
            )
            .help(format!("did you mean {meant}?")),
        ),
        Err(ParsePrefixError::Syntax) => {
            let message = format!(
                "{what}: {:?} is no IP address and no CIDR block",
                text.value
            );
            reader.error("E044", text.span.clone(), message);
        }
    }
    None
}

const APPROVERS: Keys = Keys {
    of: "autoApprovers",
    known: &["routes", "exitNode"],
    ignored: &["services"],
};

const OWNING_AUTOGROUPS: [&str; 5] = [
    "autogroup:member",
    "autogroup:admin",
    "autogroup:owner",
    "autogroup:it-admin",
    "autogroup:network-admin",
];

/// Each is held against the addresses of every node.
const MAX_IPSETS: usize = 1_000;

/// Each is held against the routes of every node.
const MAX_APPROVED: usize = 10_000;
