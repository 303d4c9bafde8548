//! Who and what is meant: the selectors of sources and destinations.
//!
//! ```text
//! *  tag:prod  group:ops  ana@example.com  user:*@example.com  autogroup:member
//! nas  gw-a  10.20.0.0/16  ipset:dbs
//! agent:NAME@NODESEL        NAME or *, at the first `@`
//! topic:builds/*   internet:*.example.com:443   svc:db       destinations only
//! ```

use std::fmt;

use identity::{AgentName, NodeName, Tag, UserName};

use super::is_plain;
use super::pattern::{Domain, Levels};
use super::reader::Spanned;
use crate::address::{ParsePrefixError, Prefix};
use crate::diagnostic::{Diagnostic, Hints, nearest};
use crate::document::Names;

/// One entry of a source or destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// The nodes themselves, and in a message with them every agent there.
    Node(NodeSelector),
    /// These agents on those nodes.
    Agent(AgentPattern, NodeSelector),
    /// Topics.
    Topic(Levels),
    /// Names of the internet.
    Internet(Domain),
    /// A service by its name, without the prefix.
    Service(Box<str>),
}

/// Which agents of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AgentPattern {
    Every,
    Named(AgentName),
}

/// Which nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeSelector {
    /// `*`: every gateway of the mesh.
    Every,
    /// `autogroup:member`: has a user, so no tags.
    Member,
    /// `autogroup:tagged`.
    Tagged,
    /// `autogroup:self`: has the user that the source has. Destinations only.
    OfSourceUser,
    /// `autogroup:internet`: no node; what lies behind those that are a way out. Destinations only.
    Internet,
    /// `autogroup:danger-all`: any address at all. Sources only.
    Anywhere,
    /// A role that only Tailscale has, by its whole name: nobody here.
    Role(Box<str>),
    Tag(Tag),
    /// With its prefix.
    Group(Box<str>),
    User(UserName),
    /// `user:*@example.com`: every user whose address is in that domain.
    UsersOf(Box<str>),
    Named(NodeName),
    /// Has an address in the block, or is the way to it; a host alias stands for its block.
    Within(Prefix),
    /// The same for a set, by its name with the prefix.
    Set(Box<str>),
    /// Meets a posture, by its name with the prefix. Not written in rules as a selector: a
    /// posture divides the nodes in the same way.
    Posture(Box<str>),
}

/// On which side of a rule a selector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
    /// The destination of a guard, which alone may name the whole internet.
    Guarded,
    /// Either end, of a block.
    Either,
}

/// The names of the file, and how often they may be searched.
pub(crate) type Known<'a> = (&'a Names, &'a Hints);

/// What is wrong with a selector, or may be.
type Parsed<T> = Result<(T, Option<Diagnostic>), Diagnostic>;

impl Selector {
    /// Reads one selector. The second part of a success is a warning.
    pub fn parse(text: &Spanned<String>, side: Side, known: Known<'_>) -> Parsed<Self> {
        let refused = |code, message: String| Diagnostic::error(code, text.span.clone(), message);
        let whole = text.value.as_str();
        let kind = whole.split_once(':').map_or("", |(kind, _)| kind);
        if matches!(kind, "topic" | "internet" | "svc") {
            if side == Side::Source {
                let message = format!("{whole:?} not valid on the src side of a rule");
                return Err(refused("E035", message));
            }
            return Self::parse_resource(text, side).map(|selector| (selector, None));
        }
        let Some(agent) = whole.strip_prefix("agent:") else {
            let (node, warning) = NodeSelector::parse(whole, text, side, known)?;
            return Ok((Self::Node(node), warning));
        };
        let Some((name, node)) = agent.split_once('@') else {
            let message = format!("{whole:?} names no gateway");
            let help = format!("write \"agent:{agent}@*\" for that agent on every gateway");
            return Err(refused("E020", message).help(help));
        };
        let pattern = match name {
            "*" => AgentPattern::Every,
            name => {
                let name = name.parse().map_err(|error| {
                    refused("E020", format!("agent {name:?}: {error}"))
                        .help("write \"*\" for every agent; other patterns do not exist")
                })?;
                AgentPattern::Named(name)
            }
        };
        let (node, warning) = NodeSelector::parse(node, text, side, known)?;
        if node.is_of_addresses() {
            let message = format!("{whole:?}: an agent lives on a gateway, not at an address");
            return Err(refused("E020", message)
                .help("name the gateway, a tag, a group, a user, an autogroup or *"));
        }
        Ok((Self::Agent(pattern, node), warning))
    }

    fn parse_resource(text: &Spanned<String>, side: Side) -> Result<Self, Diagnostic> {
        let refused = |message: String| Diagnostic::error("E020", text.span.clone(), message);
        let whole = text.value.as_str();
        let (kind, rest) = whole.split_once(':').unwrap_or((whole, ""));
        match kind {
            "topic" => Levels::topic(rest).map(Self::Topic).map_err(|why| {
                refused(format!("{whole:?} is no topic: {why}"))
                    .help("a topic is topic:builds/linux; * is one level, ** the rest")
            }),
            "internet" => match Domain::parse(rest) {
                Ok(domain) if domain.is_every() && side != Side::Guarded => {
                    let message = format!("{whole:?}: a grant names what it opens");
                    Err(refused(message).help("only guards may name the whole internet"))
                }
                Ok(domain) => Ok(Self::Internet(domain)),
                Err(why) => Err(
                    refused(format!("{whole:?} is no place on the internet: {why}"))
                        .help("write internet:api.example.com:443, or *. for all names below one"),
                ),
            },
            _ if is_plain(rest) => Ok(Self::Service(rest.into())),
            _ => Err(refused(format!("{whole:?} is no service"))
                .help("a service is svc: and letters, digits, . _ or -")),
        }
    }

    /// The nodes that it is about; resources are on none.
    pub fn node(&self) -> Option<&NodeSelector> {
        match self {
            Self::Node(node) | Self::Agent(_, node) => Some(node),
            Self::Topic(_) | Self::Internet(_) | Self::Service(_) => None,
        }
    }

    /// The agents that it names apart from their nodes.
    pub fn agent(&self) -> Option<&AgentPattern> {
        match self {
            Self::Agent(agent, _) => Some(agent),
            _ => None,
        }
    }
}

impl NodeSelector {
    /// Reads the part that selects nodes: all of `whole`, or what follows its `agent:NAME@`.
    pub fn parse(
        text: &str,
        whole: &Spanned<String>,
        side: Side,
        (names, hints): Known<'_>,
    ) -> Parsed<Self> {
        let field = match side {
            Side::Source => "src",
            Side::Destination | Side::Guarded => "dst",
            Side::Either => "match",
        };
        let refused = |code, message: String| Diagnostic::error(code, whole.span.clone(), message);
        let named =
            |error: identity::ParseNameError| refused("E020", format!("{field}={text:?}: {error}"));
        let unknown = |kind: &str, known: &mut dyn Iterator<Item = &str>| {
            let diagnostic = refused("E021", format!("{field}={kind} not found: {text:?}"));
            match hints.nearest(text, known) {
                Some(meant) => diagnostic.help(format!("did you mean {meant:?}?")),
                None => diagnostic.help(match kind {
                    "tag" => format!("give it an owner: \"tagOwners\": {{{text:?}: [..]}}"),
                    "ipset" => format!("define it: \"ipsets\": {{{text:?}: [..]}}"),
                    _ => format!("define it: \"groups\": {{{text:?}: [..]}}"),
                }),
            }
        };
        let selector = match text.split_once(':') {
            _ if text == "*" => Self::Every,
            Some(("autogroup", name)) => return Self::parse_autogroup(name, text, whole, side),
            Some(("tag", _)) => {
                let tag: Tag = text.parse().map_err(named)?;
                if !names.tags.contains_key(&tag) {
                    return Err(unknown("tag", &mut names.tags.keys().map(Tag::as_str)));
                }
                Self::Tag(tag)
            }
            Some(("group", _)) => match names.groups.contains_key(text) {
                true => Self::Group(text.into()),
                false => return Err(unknown("group", &mut keys(&names.groups))),
            },
            Some(("ipset", _)) => match names.ipsets.contains_key(text) {
                true => Self::Set(text.into()),
                false => return Err(unknown("ipset", &mut keys(&names.ipsets))),
            },
            Some(("user", rest)) if rest.starts_with("*@") => {
                let domain = &rest[2..];
                // Whatever a user name may have after its `@`.
                format!("any@{domain}").parse::<UserName>().map_err(named)?;
                Self::UsersOf(domain.to_ascii_lowercase().into())
            }
            _ if text.contains('@') => Self::User(text.parse().map_err(named)?),
            _ => return Self::parse_bare(text, whole, side, (names, hints)),
        };
        Ok((selector, None))
    }

    fn parse_autogroup(
        name: &str,
        text: &str,
        whole: &Spanned<String>,
        side: Side,
    ) -> Parsed<Self> {
        let refused = |code, message: String| Diagnostic::error(code, whole.span.clone(), message);
        let wrong_side = |side: &str| {
            let message = format!("\"{text}\" not valid on the {side} side of a rule");
            refused("E035", message)
        };
        let to_source = matches!(side, Side::Source | Side::Either);
        let selector = match name {
            "member" => Self::Member,
            "tagged" => Self::Tagged,
            "self" if to_source => {
                return Err(wrong_side("src")
                    .help("write \"autogroup:member\": self means the source's own gateways"));
            }
            "self" => Self::OfSourceUser,
            "internet" if to_source => return Err(wrong_side("src")),
            "internet" => Self::Internet,
            "danger-all" if side != Side::Source => return Err(wrong_side("dst")),
            "danger-all" => Self::Anywhere,
            _ if ROLES.contains(&name) => {
                let warning = nobody_has_a_role(text, whole);
                return Ok((Self::Role(text.into()), Some(warning)));
            }
            _ => {
                let field = if to_source { "src" } else { "dst" };
                let known = ["member", "tagged", "self", "internet", "danger-all"];
                let help = match nearest(name, known.into_iter().chain(ROLES)) {
                    Some(meant) => format!("did you mean \"autogroup:{meant}\"?"),
                    None => "known here: autogroup:member, autogroup:tagged, autogroup:self".into(),
                };
                let message = format!("{field}=autogroup not found: {text:?}");
                return Err(refused("E021", message).help(help));
            }
        };
        Ok((selector, None))
    }

    /// A host alias, an address, a block of addresses, or else the name of a gateway.
    fn parse_bare(
        text: &str,
        whole: &Spanned<String>,
        side: Side,
        (names, hints): Known<'_>,
    ) -> Parsed<Self> {
        let refused = |code, message: String| Diagnostic::error(code, whole.span.clone(), message);
        if let Some(prefix) = names.hosts.get(text) {
            return Ok((Self::Within(*prefix), None));
        }
        match text.parse::<Prefix>() {
            Ok(prefix) if prefix.is_everything() && side != Side::Source => {
                let message = format!(
                    "dst {text:?}: to allow all IP addresses, use \"*\" or \"autogroup:internet\""
                );
                return Err(refused("E043", message));
            }
            Ok(prefix) => return Ok((Self::Within(prefix), None)),
            Err(ParsePrefixError::HostBits(meant)) => {
                let message = format!("{text:?} has bits set after its prefix");
                return Err(refused("E044", message).help(format!("did you mean {meant}?")));
            }
            Err(ParsePrefixError::Syntax) => {}
        }
        let Ok(name) = text.parse::<NodeName>() else {
            let help = match nearest(text, ["tag:", "group:", "agent:", "autogroup:"]) {
                Some(meant) => format!("did you mean {meant:?} and a name?"),
                None => {
                    "a selector is *, tag:.., group:.., autogroup:.., a user, a host, an address, \
                         a gateway, or agent:NAME@ and one of these"
                        .to_owned()
                }
            };
            return Err(refused("E020", format!("{text:?} is not a selector")).help(help));
        };
        // Gateways are not in the file, so a mistyped host would silently match nobody.
        let warning = hints
            .nearest(text, names.hosts.keys().map(|host| &**host))
            .map(|meant| {
                let message = format!("{text:?} is not in hosts: taken as the name of a gateway");
                Diagnostic::warning("W105", whole.span.clone(), message)
                    .help(format!("did you mean {meant:?}?"))
            });
        Ok((Self::Named(name), warning))
    }

    /// Whether it can only match nodes that have a user.
    pub fn is_of_users(&self) -> bool {
        matches!(
            self,
            Self::Member | Self::Group(_) | Self::User(_) | Self::UsersOf(_) | Self::Role(_)
        )
    }

    /// Whether it is about addresses rather than nodes.
    pub fn is_of_addresses(&self) -> bool {
        matches!(
            self,
            Self::Within(_) | Self::Set(_) | Self::Internet | Self::Anywhere
        )
    }
}

impl AgentPattern {
    pub fn matches(&self, name: &AgentName) -> bool {
        match self {
            Self::Every => true,
            Self::Named(named) => named == name,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Agent(AgentPattern::Every, node) => write!(f, "agent:*@{node}"),
            Self::Agent(AgentPattern::Named(name), node) => write!(f, "agent:{name}@{node}"),
            Self::Topic(levels) => write!(f, "topic:{levels}"),
            Self::Internet(domain) => domain.fmt(f),
            Self::Service(name) => write!(f, "svc:{name}"),
        }
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::Member => f.write_str("autogroup:member"),
            Self::Tagged => f.write_str("autogroup:tagged"),
            Self::OfSourceUser => f.write_str("autogroup:self"),
            Self::Internet => f.write_str("autogroup:internet"),
            Self::Anywhere => f.write_str("autogroup:danger-all"),
            Self::Role(name) | Self::Group(name) | Self::Set(name) | Self::Posture(name) => {
                f.write_str(name)
            }
            Self::Tag(tag) => tag.fmt(f),
            Self::User(user) => user.fmt(f),
            Self::UsersOf(domain) => write!(f, "user:*@{domain}"),
            Self::Named(name) => name.fmt(f),
            Self::Within(prefix) => prefix.fmt(f),
        }
    }
}

fn nobody_has_a_role(text: &str, whole: &Spanned<String>) -> Diagnostic {
    let message = format!("\"{text}\" matches nobody: this mesh has no such roles");
    Diagnostic::warning("W108", whole.span.clone(), message).help("name the people in a group")
}

fn keys<T>(map: &std::collections::BTreeMap<Box<str>, T>) -> impl Iterator<Item = &str> {
    map.keys().map(|key| &**key)
}

/// Autogroups of people by what they may do at Tailscale, and of nodes that came from other tailnets.
const ROLES: [&str; 7] = [
    "admin",
    "owner",
    "it-admin",
    "network-admin",
    "billing-admin",
    "auditor",
    "shared",
];
