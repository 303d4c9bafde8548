//! Receipts: a token is redeemed once, by one identity key, inside its window, at the beacon that
//! its membership names (identity.md §4). The same key that asks again gets the same receipt, so a
//! joiner whose answer was lost just asks again; another key is told that the token is spent.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use identity::{IdentityKey, Joining, NodeId, Trust, UnixTime};
use wire::link::Refusal;

use crate::accept;
use crate::store::{Spent, Write};

/// The receipts of one beacon.
#[derive(Debug)]
pub struct Enrolment {
    key: Arc<IdentityKey>,
    spent: BTreeMap<NodeId, Spent>,
}

impl Enrolment {
    /// As it was stored; `key` signs receipts.
    pub fn restore(key: Arc<IdentityKey>, spent: &[Spent]) -> Self {
        let spent = spent
            .iter()
            .map(|spent| (spent.node, spent.clone()))
            .collect();
        Self { key, spent }
    }

    /// Whether this joiner may ask here: its papers verify, and nobody else redeemed its token.
    pub fn check(
        &self,
        trust: &Trust,
        beacon: NodeId,
        certificate: &[u8],
        now: UnixTime,
    ) -> Result<Joining, Refusal> {
        let joining = trust
            .verify_enrolment(certificate, &beacon, now)
            .map_err(|error| {
                tracing::debug!(%error, "refused an enrolment");
                accept::refusal(&error)
            })?;
        match self.spent.get(&joining.node) {
            Some(spent) if spent.identity != joining.identity => Err(Refusal::TokenSpent),
            _ => Ok(joining),
        }
    }

    /// Redeems the token of this certificate. The write, if any, must be durable before the
    /// receipt is told.
    pub fn redeem(
        &mut self,
        trust: &Trust,
        beacon: NodeId,
        certificate: &[u8],
        now: UnixTime,
    ) -> Result<(Bytes, Option<Write>), Refusal> {
        let joining = self.check(trust, beacon, certificate, now)?;
        if let Some(spent) = self.spent.get(&joining.node) {
            return Ok((spent.receipt.clone(), None));
        }
        let Joining { node, identity, .. } = joining;
        let receipt = identity::make_receipt(&node, &identity, &trust.mesh(), &self.key, now);
        let spent = Spent {
            node,
            identity,
            receipt: receipt.into(),
        };
        self.spent.insert(node, spent.clone());
        Ok((spent.receipt.clone(), Some(Write::Spent(spent))))
    }
}
