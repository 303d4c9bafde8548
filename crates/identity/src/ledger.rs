//! What an issuer issued, so that no name and no key is given twice. Lives with the operator's
//! files; plain data, for the shell to store.

use serde::{Deserialize, Serialize};

use crate::{
    Enrolment, HostPort, IdentityPublic, Member, NodeId, NodeName, Role, Tag, UnixTime, UserName,
};

/// Everything that was issued, revoked ones too: a key that was known once stays known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    last_serial: u64,
    issued: Vec<Issued>,
}

/// The newest membership of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Whose.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Whose it is.
    pub user: Option<UserName>,
    /// What it is.
    pub tags: Vec<Tag>,
    /// Set for a beacon: where it listens.
    pub beacon: Option<HostPort>,
    /// How it came in.
    pub enrolment: Enrolment,
    /// The identity key, once this machine verified it.
    pub identity: Option<IdentityPublic>,
    /// The beacon whose receipt its certificate rests on, until it is renewed.
    pub enrolled_by: Option<NodeId>,
    /// Of its newest membership.
    pub serial: u64,
    /// When that was signed.
    pub issued_at: UnixTime,
    /// When that ends.
    pub expires_at: UnixTime,
    /// When a token that nobody redeemed is worth nothing any more.
    pub redeem_until: Option<UnixTime>,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Ledger {
    /// All, in the order of first issue.
    pub fn issued(&self) -> impl Iterator<Item = &Issued> {
        self.issued.iter()
    }

    /// The living node of this name. A token that ran out unused no longer holds its name.
    pub fn named(&self, name: &NodeName, now: UnixTime) -> Option<&Issued> {
        self.issued
            .iter()
            .rfind(|issued| issued.name == *name && issued.is_living(now))
    }

    /// A node by its id.
    pub fn node(&self, node: &NodeId) -> Option<&Issued> {
        self.issued.iter().find(|issued| issued.node == *node)
    }

    /// The living beacon at this address.
    pub fn beacon_at(&self, address: &HostPort) -> Option<&Issued> {
        let at = |issued: &&Issued| !issued.revoked && issued.beacon.as_ref() == Some(address);
        self.issued.iter().rfind(at)
    }

    /// Whether this key was enrolled or verified before, for anybody.
    pub fn knows(&self, key: &IdentityPublic) -> bool {
        self.issued.iter().any(|issued| {
            let (Enrolment::Key(enrolled) | Enrolment::Token(enrolled)) = &issued.enrolment;
            enrolled == key || issued.identity.as_ref() == Some(key)
        })
    }

    /// Notes the identity key of a member whose certificate this machine verified. The first one
    /// stays; `false` where it is another one.
    pub fn verified(&mut self, member: &Member) -> bool {
        let Some(issued) = self
            .issued
            .iter_mut()
            .find(|issued| issued.node == member.node)
        else {
            return false;
        };
        issued.redeem_until = None;
        *issued.identity.get_or_insert(member.identity) == member.identity
    }

    /// Marks a node as revoked; the revocation itself is the revoker's to sign.
    pub fn revoke(&mut self, node: &NodeId) {
        if let Some(issued) = self.issued.iter_mut().find(|issued| issued.node == *node) {
            issued.revoked = true;
        }
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    pub(crate) fn enter(&mut self, entry: Issued) {
        match self
            .issued
            .iter_mut()
            .find(|issued| issued.node == entry.node)
        {
            Some(issued) => *issued = entry,
            None => self.issued.push(entry),
        }
    }
}

impl Issued {
    /// Gateway or beacon.
    pub fn role(&self) -> Role {
        if self.beacon.is_some() {
            Role::Beacon
        } else {
            Role::Gateway
        }
    }

    /// Not revoked, not over, and not a token that ran out unused.
    pub fn is_living(&self, now: UnixTime) -> bool {
        !self.revoked
            && now <= self.expires_at
            && self.redeem_until.is_none_or(|until| now <= until)
    }
}
