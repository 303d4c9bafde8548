//! Whom a kill names: by what the issuer signed of a member, or one agent.
//!
//! **Invariant:** one more block never lets anybody back in. So [`Block::Everyone`] holds its
//! exceptions in itself: of two of them each takes out whom it does not except, and together they
//! spare only who is excepted by both.

use std::collections::BTreeSet;
use std::fmt;

use crate::{AgentAddress, Member, NodeId, ParseNameError, Role, Tag, UserName};

/// A kill by what the issuer signed of a member, or of one agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// All nodes of a person.
    User(UserName),
    /// All nodes of a tag.
    Tag(Tag),
    /// One agent; its gateway goes on. Whoever carries messages asks
    /// [`RevocationSet::blocks_agent`](crate::RevocationSet::blocks_agent).
    Agent(AgentAddress),
    /// Every gateway but these. Beacons stay: they are how it is told, and how it is lifted.
    Everyone {
        /// Who goes on.
        except: BTreeSet<Exception>,
    },
}

/// Whom a kill of everyone spares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exception {
    /// All nodes of a person.
    User(UserName),
    /// All nodes of a tag.
    Tag(Tag),
    /// One gateway. By its id, which a name that is issued again does not inherit.
    Node(NodeId),
}

impl Block {
    /// Whether it takes this member out of the mesh.
    pub fn names(&self, member: &Member) -> bool {
        match self {
            Self::User(user) => member.user.as_ref() == Some(user),
            Self::Tag(tag) => member.tags.contains(tag),
            Self::Agent(_) => false,
            Self::Everyone { except } => {
                member.role == Role::Gateway && !except.iter().any(|spared| spared.names(member))
            }
        }
    }
}

impl Exception {
    /// Whether it spares this member.
    pub fn names(&self, member: &Member) -> bool {
        match self {
            Self::User(user) => member.user.as_ref() == Some(user),
            Self::Tag(tag) => member.tags.contains(tag),
            Self::Node(node) => member.node == *node,
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Agent(agent) => write!(f, "agent:{agent}"),
            Self::Everyone { except } if except.is_empty() => f.write_str("everyone"),
            Self::Everyone { except } => {
                f.write_str("everyone except ")?;
                for (at, spared) in except.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{spared}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Node(node) => write!(f, "node:{}", node.to_hex()),
        }
    }
}

/// Reads all forms but that of everyone, whose exceptions are fields of their own where it is
/// signed.
impl std::str::FromStr for Block {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match (text.strip_prefix("user:"), text.strip_prefix("agent:")) {
            (Some(user), _) => user.parse().map(Self::User),
            (_, Some(agent)) => agent.parse().map(Self::Agent),
            _ => text.parse().map(Self::Tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_whom_it_names_in_the_words_of_the_command() {
        let everyone = |except: &[Exception]| Block::Everyone {
            except: except.iter().cloned().collect(),
        };
        let ana = Exception::User("ana@example.com".parse().expect("a user"));
        let node = Exception::Node(NodeId([7; 16]));
        let tag = Exception::Tag("tag:home".parse().expect("a tag"));

        assert_eq!(everyone(&[]).to_string(), "everyone");
        assert_eq!(
            everyone(&[node, tag, ana]).to_string(),
            "everyone except user:ana@example.com, tag:home, node:07070707070707070707070707070707"
        );
        for text in ["user:ana@example.com", "tag:home", "agent:coder@gw-b"] {
            let block: Block = text.parse().expect("a block");
            assert_eq!(block.to_string(), text);
        }
        assert!("everyone".parse::<Block>().is_err());
    }
}
