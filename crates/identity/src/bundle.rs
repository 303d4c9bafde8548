//! The two documents that the operator versions: the policy and the revocation set.

use std::collections::{BTreeMap, BTreeSet};

use crate::cbor::{FormatError, FromValue, Value};
use crate::envelope::{self, Kind, Sealed};
use crate::keys::IdentityKey;
use crate::{AgentAddress, Block, Digest, Exception, Member, MeshId, NodeId, Order, UnixTime};

/// The policy as the policy key signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyBundle {
    /// Its epoch and version.
    pub order: Order,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// When it was signed: what its age counts from.
    pub signed_at: UnixTime,
    /// The HuJSON file.
    pub text: String,
    /// As received.
    pub bytes: Vec<u8>,
}

/// The revocation set as the revoker key signed it: always the whole set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// Its epoch and version.
    pub order: Order,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// When it was signed.
    pub signed_at: UnixTime,
    /// What it revokes.
    pub set: RevocationSet,
    /// As received.
    pub bytes: Vec<u8>,
}

/// Who is out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationSet {
    /// These nodes.
    pub nodes: BTreeSet<NodeId>,
    /// The memberships of these nodes below that (issuer epoch, serial).
    pub minimum: BTreeMap<NodeId, (u32, u64)>,
    /// Whom these name.
    pub blocks: BTreeSet<Block>,
}

impl RevocationSet {
    /// Whether this membership is out.
    pub fn names(&self, member: &Member) -> bool {
        let below = |minimum: &(u32, u64)| member.order() < *minimum;
        self.nodes.contains(&member.node)
            || self.minimum.get(&member.node).is_some_and(below)
            || self.block_of(member).is_some()
    }

    /// The block that names this membership, where it is out by one.
    pub fn block_of(&self, member: &Member) -> Option<&Block> {
        self.blocks.iter().find(|block| block.names(member))
    }

    /// Whether this agent is out.
    pub fn blocks_agent(&self, agent: &AgentAddress) -> bool {
        self.blocks.contains(&Block::Agent(agent.clone()))
    }

    /// Within an epoch sets only grow, so that no older part can be left out on the way.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        let kept = |(node, minimum): (&NodeId, &(u32, u64))| {
            self.minimum.get(node).is_some_and(|mine| mine >= minimum)
        };
        self.nodes.is_superset(&other.nodes)
            && self.blocks.is_superset(&other.blocks)
            && other.minimum.iter().all(kept)
    }
}

impl PolicyBundle {
    pub(crate) fn sign(
        order: Order,
        text: &str,
        mesh: &MeshId,
        key: &IdentityKey,
        now: UnixTime,
    ) -> Vec<u8> {
        let payload = Value::map([
            (EPOCH, Some(Value::Uint(u64::from(order.epoch)))),
            (VERSION, Some(Value::Uint(order.version))),
            (SIGNED_AT, Some(Value::Uint(now.0))),
            (TEXT, Some(Value::Text(text))),
        ])
        .encode();
        envelope::sign(Kind::Policy, mesh, &payload, key)
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<(Sealed<'_>, Self), FormatError> {
        let sealed = Sealed::open(Kind::Policy, bytes)?;
        let mut fields = sealed.claims()?;
        let order = Order {
            epoch: fields.required(EPOCH)?,
            version: fields.required(VERSION)?,
        };
        let signed_at = fields.required(SIGNED_AT)?;
        let text = fields.required::<&str>(TEXT)?.to_owned();
        fields.finish()?;
        let bundle = Self {
            order,
            digest: sealed.digest(),
            signed_at,
            text,
            bytes: bytes.to_vec(),
        };
        Ok((sealed, bundle))
    }
}

impl Revocations {
    pub(crate) fn sign(
        order: Order,
        set: &RevocationSet,
        mesh: &MeshId,
        key: &IdentityKey,
        now: UnixTime,
    ) -> Vec<u8> {
        let mut blocks: Vec<String> = Vec::new();
        let mut everyone: Vec<Vec<String>> = Vec::new();
        for block in &set.blocks {
            match block {
                Block::Everyone { except } => {
                    everyone.push(except.iter().map(ToString::to_string).collect());
                }
                block => blocks.push(block.to_string()),
            }
        }
        let minimum = set.minimum.iter().map(|(node, (epoch, serial))| {
            Value::Array(vec![
                Value::Bytes(&node.0),
                Value::Uint(u64::from(*epoch)),
                Value::Uint(*serial),
            ])
        });
        let payload = Value::map([
            (EPOCH, Some(Value::Uint(u64::from(order.epoch)))),
            (VERSION, Some(Value::Uint(order.version))),
            (SIGNED_AT, Some(Value::Uint(now.0))),
            (
                NODES,
                Some(Value::Array(
                    set.nodes.iter().map(|n| Value::Bytes(&n.0)).collect(),
                )),
            ),
            (MINIMUM, Some(Value::Array(minimum.collect()))),
            (BLOCKS, Some(texts(&blocks))),
            (
                EVERYONE,
                (!everyone.is_empty())
                    .then(|| Value::Array(everyone.iter().map(|except| texts(except)).collect())),
            ),
        ])
        .encode();
        envelope::sign(Kind::Revocations, mesh, &payload, key)
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<(Sealed<'_>, Self), FormatError> {
        let sealed = Sealed::open(Kind::Revocations, bytes)?;
        let mut fields = sealed.claims()?;
        let order = Order {
            epoch: fields.required(EPOCH)?,
            version: fields.required(VERSION)?,
        };
        let signed_at = fields.required(SIGNED_AT)?;
        let nodes: Vec<NodeId> = fields.required(NODES)?;
        let minimum: Vec<Vec<Value<'_>>> = fields.required(MINIMUM)?;
        let blocks: Vec<&str> = fields.required(BLOCKS)?;
        let everyone: Option<Vec<Vec<Value<'_>>>> = fields.optional(EVERYONE)?;
        fields.finish()?;
        let mut set = RevocationSet {
            nodes: nodes.into_iter().collect(),
            ..Default::default()
        };
        for parts in minimum {
            let [node, epoch, serial] =
                <[Value<'_>; 3]>::try_from(parts).map_err(|_| FormatError::Malformed)?;
            let order = (u32::from_value(epoch)?, u64::from_value(serial)?);
            set.minimum.insert(NodeId::from_value(node)?, order);
        }
        for block in blocks {
            set.blocks.insert(block.parse()?);
        }
        for except in everyone.unwrap_or_default() {
            let except = except.into_iter().map(read_exception);
            let except = except.collect::<Result<_, _>>()?;
            set.blocks.insert(Block::Everyone { except });
        }
        let revocations = Self {
            order,
            digest: sealed.digest(),
            signed_at,
            set,
            bytes: bytes.to_vec(),
        };
        Ok((sealed, revocations))
    }
}

fn texts(texts: &[String]) -> Value<'_> {
    Value::Array(texts.iter().map(|text| Value::Text(text)).collect())
}

fn read_exception(value: Value<'_>) -> Result<Exception, FormatError> {
    let text = <&str>::from_value(value)?;
    Ok(
        match (text.strip_prefix("user:"), text.strip_prefix("node:")) {
            (Some(user), _) => Exception::User(user.parse()?),
            (_, Some(node)) => Exception::Node(node.parse().map_err(|_| FormatError::Malformed)?),
            _ => Exception::Tag(text.parse()?),
        },
    )
}

const EPOCH: u64 = 0;
const VERSION: u64 = 1;
const SIGNED_AT: u64 = 2;
const TEXT: u64 = 3;
const NODES: u64 = 4;
const MINIMUM: u64 = 5;
const BLOCKS: u64 = 6;
/// Absent where nobody was so bold: a set without it reads and hashes as it did before there was
/// such a kill. A version that does not know it refuses the whole set, rather than obey half of it.
const EVERYONE: u64 = 7;
