//! The names that people write: agents, gateways, tags, users, beacon addresses.
//!
//! Parsed once at the edge; a value of these types always satisfies its grammar, so text from
//! afar that does not is refused before anything looks at it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An agent's name on its gateway: `[a-z0-9][a-z0-9._-]{0,62}`. Shared, as a message names its
/// sender and its receiver in several places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(Arc<str>);

/// A gateway's or beacon's name: `[a-z0-9][a-z0-9-]{0,62}`, a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// The name of a mesh: `[a-z0-9][a-z0-9.-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshName(Box<str>);

/// A tag with its prefix: `tag:` and `[a-zA-Z][a-zA-Z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

/// A person, written as an e-mail address of at most 254 bytes, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Box<str>);

/// Where a beacon listens: `HOST:PORT`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

/// An agent on a gateway: `agent@gateway`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentAddress {
    /// The agent's name on that gateway.
    pub agent: AgentName,
    /// The gateway's name in the mesh.
    pub node: NodeName,
}

impl HostPort {
    /// The host: a DNS name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, UDP and TCP alike.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn label(text: &str, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len()) && first(bytes[0]) && bytes.iter().all(|&b| rest(b))
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

impl FromStr for AgentName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match label(text, lower, |b| lower(b) || matches!(b, b'.' | b'_' | b'-')) {
            true => Ok(Self(text.into())),
            false => Err(ParseNameError::Agent),
        }
    }
}

impl FromStr for NodeName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match label(text, lower, |b| lower(b) || b == b'-') {
            true => Ok(Self(text.into())),
            false => Err(ParseNameError::Node),
        }
    }
}

impl FromStr for MeshName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match label(text, lower, |b| lower(b) || matches!(b, b'.' | b'-')) {
            true => Ok(Self(text.into())),
            false => Err(ParseNameError::Mesh),
        }
    }
}

impl FromStr for Tag {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let name = text.strip_prefix("tag:").ok_or(ParseNameError::Tag)?;
        match label(
            name,
            |b| b.is_ascii_alphabetic(),
            |b| b.is_ascii_alphanumeric() || b == b'-',
        ) {
            true => Ok(Self(text.into())),
            false => Err(ParseNameError::Tag),
        }
    }
}

impl FromStr for UserName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'@' | b'"' | b'\\' | b',' | b':');
        let (local, domain) = text.split_once('@').ok_or(ParseNameError::User)?;
        let fits = text.len() <= 254 && !local.is_empty() && !domain.is_empty();
        match fits && local.bytes().chain(domain.bytes()).all(plain) {
            true => Ok(Self(text.to_ascii_lowercase().into())),
            false => Err(ParseNameError::User),
        }
    }
}

impl FromStr for HostPort {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let (host, port) = text.rsplit_once(':').ok_or(ParseNameError::HostPort)?;
        let port: u16 = port.parse().map_err(|_| ParseNameError::HostPort)?;
        let host = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(inner) => inner
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| ParseNameError::HostPort)?
                .to_string(),
            None => host.to_ascii_lowercase(),
        };
        let named = |b: u8| lower(b) || matches!(b, b'.' | b'-');
        let fits = (1..=253).contains(&host.len())
            && (host.bytes().all(named) || host.parse::<std::net::Ipv6Addr>().is_ok());
        match fits && port != 0 && (!host.contains(':') || text.starts_with('[')) {
            true => Ok(Self {
                host: host.into(),
                port,
            }),
            false => Err(ParseNameError::HostPort),
        }
    }
}

impl FromStr for AgentAddress {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let (agent, node) = text.split_once('@').ok_or(ParseNameError::Address)?;
        Ok(Self {
            agent: agent.parse()?,
            node: node.parse()?,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.agent, self.node)
    }
}

macro_rules! text_newtype {
    ($($name:ident),*) => {$(
        impl $name {
            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    )*};
}

macro_rules! text_serialize {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

macro_rules! text_deserialize {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_newtype!(AgentName, NodeName, MeshName, Tag, UserName);
text_serialize!(HostPort, AgentAddress);
text_deserialize!(
    AgentName,
    NodeName,
    MeshName,
    Tag,
    UserName,
    HostPort,
    AgentAddress
);

/// The text breaks the grammar of the name that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// Not an agent name.
    #[error("an agent name is 1 to 63 of a-z 0-9 . _ - and starts with a letter or digit")]
    Agent,
    /// Not a gateway or beacon name.
    #[error("a gateway name is 1 to 63 of a-z 0-9 - and starts with a letter or digit")]
    Node,
    /// Not the name of a mesh.
    #[error("a mesh name is 1 to 63 of a-z 0-9 . - and starts with a letter or digit")]
    Mesh,
    /// Not a tag.
    #[error("a tag is tag: and 1 to 63 letters, digits or -, starting with a letter")]
    Tag,
    /// Not a user.
    #[error("a user is written as an e-mail address, name@domain")]
    User,
    /// Not `HOST:PORT`.
    #[error("an address is HOST:PORT, with an IPv6 host in brackets")]
    HostPort,
    /// Not `agent@gateway`.
    #[error("an agent's address is AGENT@GATEWAY")]
    Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_their_grammar_are_refused() {
        assert!("coder.v2".parse::<AgentName>().is_ok());
        assert!("Coder".parse::<AgentName>().is_err());
        assert!("".parse::<AgentName>().is_err());
        assert!("gw-a".parse::<NodeName>().is_ok());
        assert!("gw.a".parse::<NodeName>().is_err());
        assert!("tag:home".parse::<Tag>().is_ok());
        assert!("home".parse::<Tag>().is_err());
        assert_eq!(
            "Ana@Example.com".parse::<UserName>().map(|u| u.to_string()),
            Ok("ana@example.com".into())
        );
        assert!("a\u{202e}b@x".parse::<UserName>().is_err());
    }

    #[test]
    fn an_address_reads_back_what_it_prints() {
        for text in [
            "beacon.example.com:443",
            "192.0.2.1:4747",
            "[2001:db8::1]:443",
        ] {
            assert_eq!(
                text.parse::<HostPort>().map(|a| a.to_string()),
                Ok(text.into())
            );
        }
        assert!("beacon".parse::<HostPort>().is_err());
        assert!("2001:db8::1:443".parse::<HostPort>().is_err());
        assert!("coder@gw-a".parse::<AgentAddress>().is_ok());
    }
}
