//! The words of a verdict: what decided, and what the refused are told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use identity::{AgentName, NodeId, UserName};

use crate::document::Rate;
use crate::resolve::{Place, ResolvedGuard};

/// May it pass?
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Yes, by this grant.
    Allowed {
        /// The first grant of the file that allows it.
        grant: GrantRef,
        /// What it draws from before it passes, by the guards that are about it.
        buckets: Vec<Bucket>,
    },
    /// No.
    Denied(Denial),
}

/// Names a grant, guard or block to people: its `id`, or its place in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantRef(pub(crate) Arc<str>);

/// Why not, and what would change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// For programs: `no_policy`, `unknown_node`, `no_grant`, `guard` or `blocked`.
    pub code: &'static str,
    /// One sentence for people.
    pub reason: String,
    /// What decided, where something in the file did: a guard or a block.
    pub rule: Option<GrantRef>,
    /// A grant in HuJSON that would allow exactly this, to paste into the file.
    pub missing_grant: Option<String>,
}

/// A token bucket that a message draws one token from; who keeps the buckets decides whether there
/// is one. Equal keys are one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The guard that demands it.
    pub guard: GrantRef,
    /// What has a bucket of its own.
    pub key: BucketKey,
    /// Tokens that come back in each `per`.
    pub limit: u32,
    /// See `limit`.
    pub per: Duration,
    /// The most tokens that it holds.
    pub burst: u32,
}

/// Which bucket of a guard.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    src: Option<(NodeId, Option<AgentName>)>,
    dst: Option<(NodeId, Option<AgentName>)>,
    user: Option<(NodeId, Option<UserName>)>,
}

impl Bucket {
    pub(crate) fn new(
        guard: &ResolvedGuard,
        rate: &Rate,
        src: (&Place, Option<&AgentName>),
        dst: (Option<&Place>, Option<&AgentName>),
    ) -> Self {
        // A gateway without a user counts for itself; the gateways of one user count together.
        let user = match &src.0.facts.user {
            Some(user) => (NodeId([0; 16]), Some(user.clone())),
            None => (src.0.facts.id, None),
        };
        let key = BucketKey {
            src: rate.key.src.then(|| (src.0.facts.id, src.1.cloned())),
            dst: dst
                .0
                .filter(|_| rate.key.dst)
                .map(|place| (place.facts.id, dst.1.cloned())),
            user: rate.key.user.then_some(user),
        };
        Self {
            guard: guard.name.clone(),
            key,
            limit: rate.limit,
            per: rate.per,
            burst: rate.burst,
        }
    }
}

impl Verdict {
    /// Whether it may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl GrantRef {
    /// The `id`, or the place: `grants[3]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the subject of a sentence: `grant plan-code`, or `grants[3]`.
    pub(crate) fn phrase(&self, kind: &str) -> String {
        match self.0.contains('[') {
            true => self.0.to_string(),
            false => format!("{kind} {}", self.0),
        }
    }
}

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
