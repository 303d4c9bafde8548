//! Who is meant: the selectors of sources and destinations.
//!
//! ```text
//! *  tag:prod  group:ops  ana@example.com  autogroup:member|tagged|self  nas  gw-a  10.20.0.0/16
//! agent:NAME@NODESEL    NAME or *, at the first `@`
//! ```

use std::fmt;

use identity::{AgentName, NodeName, Tag, UserName};

use super::prefix::{ParsePrefixError, Prefix};
use crate::diagnostic::{Diagnostic, nearest};
use crate::document::Names;
use crate::document::reader::{Spanned, not_enforced};

/// One entry of a source or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    /// `None`: the node itself, and with it every agent there.
    pub agent: Option<AgentPattern>,
    pub node: NodeSelector,
}

/// Which agents of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    Tag(Tag),
    /// With its prefix.
    Group(Box<str>),
    User(UserName),
    Named(NodeName),
    /// Has an address in the block; a host alias stands for its block.
    Within(Prefix),
}

/// On which side of a rule a selector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Parts of the full language that this version would not execute.
const LATER: [&str; 5] = ["topic:", "internet:", "svc:", "ipset:", "posture:"];

/// Autogroups that mean something to Tailscale, and nothing here yet.
const LATER_AUTOGROUPS: [&str; 10] = [
    "autogroup:internet",
    "autogroup:shared",
    "autogroup:admin",
    "autogroup:owner",
    "autogroup:it-admin",
    "autogroup:network-admin",
    "autogroup:billing-admin",
    "autogroup:auditor",
    "autogroup:nonroot",
    "autogroup:danger-all",
];

impl Selector {
    /// Reads one selector. The second diagnostic of a success is a warning.
    pub fn parse(
        text: &Spanned<String>,
        side: Side,
        names: &Names,
    ) -> Result<(Self, Option<Diagnostic>), Diagnostic> {
        let refused = |code, message: String| Diagnostic::error(code, text.span.clone(), message);
        if let Some(kind) = LATER.iter().find(|kind| text.value.starts_with(**kind)) {
            return Err(not_enforced(kind, text.span.clone()));
        }
        let Some(agent) = text.value.strip_prefix("agent:") else {
            let (node, warning) = NodeSelector::parse(&text.value, text, side, names)?;
            return Ok((Self { agent: None, node }, warning));
        };
        let Some((name, node)) = agent.split_once('@') else {
            let message = format!("{:?} names no gateway", text.value);
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
        let (node, warning) = NodeSelector::parse(node, text, side, names)?;
        if matches!(node, NodeSelector::Within(_)) {
            let message = format!(
                "{:?}: an agent lives on a gateway, not at an address",
                text.value
            );
            return Err(refused("E020", message)
                .help("name the gateway, a tag, a group, a user, an autogroup or *"));
        }
        Ok((
            Self {
                agent: Some(pattern),
                node,
            },
            warning,
        ))
    }
}

impl NodeSelector {
    /// Reads the part that selects nodes: all of `whole`, or what follows its `agent:NAME@`.
    fn parse(
        text: &str,
        whole: &Spanned<String>,
        side: Side,
        names: &Names,
    ) -> Result<(Self, Option<Diagnostic>), Diagnostic> {
        let refused = |code, message: String| Diagnostic::error(code, whole.span.clone(), message);
        let named = |error: identity::ParseNameError| refused("E020", format!("{text:?}: {error}"));
        let field = match side {
            Side::Source => "src",
            Side::Destination => "dst",
        };
        let unknown = |kind: &str, known: &mut dyn Iterator<Item = &str>| {
            let diagnostic = refused("E021", format!("{field}={kind} not found: {text:?}"));
            match nearest(text, known) {
                Some(meant) => diagnostic.help(format!("did you mean {meant:?}?")),
                None => diagnostic.help(match kind {
                    "tag" => format!("give it an owner: \"tagOwners\": {{{text:?}: [..]}}"),
                    _ => format!("define it: \"groups\": {{{text:?}: [..]}}"),
                }),
            }
        };
        let selector = match text {
            "*" => Self::Every,
            "autogroup:member" => Self::Member,
            "autogroup:tagged" => Self::Tagged,
            "autogroup:self" if side == Side::Source => {
                let message = "\"autogroup:self\" not valid on the src side of a rule";
                return Err(refused("E035", message.into())
                    .help("write \"autogroup:member\": self means the source's own gateways"));
            }
            "autogroup:self" => Self::OfSourceUser,
            _ if LATER_AUTOGROUPS.contains(&text) => {
                return Err(not_enforced(text, whole.span.clone()));
            }
            _ if text.starts_with("autogroup:") => {
                let known = ["autogroup:member", "autogroup:tagged", "autogroup:self"];
                let help = match nearest(text, known) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                return Err(
                    refused("E021", format!("{field}=autogroup not found: {text:?}")).help(help),
                );
            }
            _ if text.starts_with("tag:") => {
                let tag: Tag = text.parse().map_err(named)?;
                if !names.tags.contains_key(&tag) {
                    return Err(unknown("tag", &mut names.tags.keys().map(Tag::as_str)));
                }
                Self::Tag(tag)
            }
            _ if text.starts_with("group:") => {
                if !names.groups.contains_key(text) {
                    return Err(unknown(
                        "group",
                        &mut names.groups.keys().map(|name| &**name),
                    ));
                }
                Self::Group(text.into())
            }
            _ if text.contains('@') => Self::User(text.parse().map_err(named)?),
            _ => return Self::parse_bare(text, whole, side, names),
        };
        Ok((selector, None))
    }

    /// A host alias, an address, a block of addresses, or else the name of a gateway.
    fn parse_bare(
        text: &str,
        whole: &Spanned<String>,
        side: Side,
        names: &Names,
    ) -> Result<(Self, Option<Diagnostic>), Diagnostic> {
        let refused = |code, message: String| Diagnostic::error(code, whole.span.clone(), message);
        if let Some(prefix) = names.hosts.get(text) {
            return Ok((Self::Within(*prefix), None));
        }
        match text.parse::<Prefix>() {
            Ok(prefix) if prefix.is_everything() && side == Side::Destination => {
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
        let warning = nearest(text, names.hosts.keys().map(|host| &**host)).map(|meant| {
            let message = format!("{text:?} is not in hosts: taken as the name of a gateway");
            Diagnostic::warning("W105", whole.span.clone(), message)
                .help(format!("did you mean {meant:?}?"))
        });
        Ok((Self::Named(name), warning))
    }

    /// Whether it can only match nodes that have a user.
    pub fn is_of_users(&self) -> bool {
        matches!(self, Self::Member | Self::Group(_) | Self::User(_))
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
        match &self.agent {
            None => self.node.fmt(f),
            Some(AgentPattern::Every) => write!(f, "agent:*@{}", self.node),
            Some(AgentPattern::Named(name)) => write!(f, "agent:{name}@{}", self.node),
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
            Self::Tag(tag) => tag.fmt(f),
            Self::Group(group) => f.write_str(group),
            Self::User(user) => user.fmt(f),
            Self::Named(name) => name.fmt(f),
            Self::Within(prefix) => prefix.fmt(f),
        }
    }
}
