//! What the operator's machine signs from day to day: memberships, policy, revocations.

use std::time::Duration;

use crate::certificate::{Certificate, Membership, Subject, Window};
use crate::keys::IdentityKey;
use crate::ledger::{Issued, Ledger};
use crate::trust::SKEW;
use crate::{
    Enrolment, Floors, HostPort, IdentityPublic, KeyRole, MeshId, NodeId, NodeName, Order,
    PolicyBundle, RevocationSet, Revocations, Role, RoleKey, Tag, Token, Trust, UnixTime, UserName,
};

/// Signs memberships and enters them in the ledger.
#[derive(Debug)]
pub struct Issuer<'a> {
    key: &'a RoleKey,
    trust: &'a Trust,
    ledger: &'a mut Ledger,
}

/// What a membership says of a gateway.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Unique among the living.
    pub name: NodeName,
    /// Whose it is; never together with tags.
    pub user: Option<UserName>,
    /// What it is.
    pub tags: Vec<Tag>,
    /// How long the membership lasts: a year unless asked otherwise.
    pub valid_for: Duration,
    /// Whether a living node of this name gives way. Its id is in the answer, for the revoker.
    pub replace: bool,
}

/// What came of an invitation.
#[derive(Debug)]
pub struct Invited {
    /// To hand over.
    pub token: Token,
    /// The new node.
    pub node: NodeId,
    /// The old node of the same name, to be revoked.
    pub replaced: Option<NodeId>,
}

impl<'a> Issuer<'a> {
    /// An issuer that knows what `trust` knows: floors and beacons are taken from there.
    pub fn new(
        key: &'a RoleKey,
        trust: &'a Trust,
        ledger: &'a mut Ledger,
    ) -> Result<Self, IssueError> {
        match trust.log().current(KeyRole::Issuer) == (key.epoch(), key.public()) {
            true => Ok(Self { key, trust, ledger }),
            false => Err(IssueError::NotIssuer),
        }
    }

    /// Invites whoever holds a token of this (random) seed, to be redeemed at that beacon.
    pub fn invite(
        &mut self,
        terms: &Terms,
        beacon: &NodeId,
        window: Duration,
        seed: [u8; 32],
        now: UnixTime,
    ) -> Result<Invited, IssueError> {
        let key = IdentityKey::generate(seed);
        let known = self
            .trust
            .member(beacon)
            .is_some_and(|member| member.role == Role::Beacon);
        if !known {
            return Err(IssueError::NoBeacon);
        }
        let window = Window {
            opens: now.minus(SKEW),
            closes: now.plus(window),
            beacon: *beacon,
        };
        let enrolment = Enrolment::Token(key.public());
        self.admit(terms, enrolment, Subject::Token(window), Some(key), now)
    }

    /// Invites the key that made a request. Needs no beacon and no secret.
    pub fn invite_key(
        &mut self,
        terms: &Terms,
        identity: IdentityPublic,
        now: UnixTime,
    ) -> Result<Invited, IssueError> {
        self.admit(
            terms,
            Enrolment::Key(identity),
            Subject::Identity(identity),
            None,
            now,
        )
    }

    /// Signs a beacon's membership for the key of its claim: its certificate.
    pub fn beacon(
        &mut self,
        name: NodeName,
        address: HostPort,
        identity: IdentityPublic,
        valid_for: Duration,
        now: UnixTime,
    ) -> Result<Vec<u8>, IssueError> {
        if self.ledger.knows(&identity) {
            return Err(IssueError::KnownKey);
        }
        if self.ledger.named(&name, now).is_some() {
            return Err(IssueError::NameTaken(name));
        }
        if self.ledger.beacon_at(&address).is_some() {
            return Err(IssueError::AddressTaken(address));
        }
        let terms = Terms {
            name,
            user: None,
            tags: Vec::new(),
            valid_for,
            replace: false,
        };
        let enrolment = Enrolment::Key(identity);
        let (bytes, _) = self.sign(
            &terms,
            Some(address),
            enrolment,
            Subject::Identity(identity),
            now,
        )?;
        Ok(Certificate::join(&[&bytes]))
    }

    /// Signs the identity key that this machine verified (see [`Ledger::verified`]) again, with a
    /// higher serial: never a token key, never what a beacon reports. `identity` may be another
    /// key than before only where the operator read it from the gateway itself.
    pub fn renew(
        &mut self,
        node: &NodeId,
        identity: IdentityPublic,
        valid_for: Option<Duration>,
        now: UnixTime,
    ) -> Result<Vec<u8>, IssueError> {
        let issued = self
            .ledger
            .node(node)
            .ok_or(IssueError::UnknownNode)?
            .clone();
        if issued.revoked {
            return Err(IssueError::Revoked);
        }
        let before = issued.expires_at.0.saturating_sub(issued.issued_at.0);
        let terms = Terms {
            name: issued.name,
            user: issued.user,
            tags: issued.tags,
            valid_for: valid_for.unwrap_or(Duration::from_secs(before)),
            replace: false,
        };
        let subject = Subject::Identity(identity);
        let (bytes, _) = self.sign(&terms, issued.beacon, issued.enrolment, subject, now)?;
        Ok(Certificate::join(&[&bytes]))
    }

    fn admit(
        &mut self,
        terms: &Terms,
        enrolment: Enrolment,
        subject: Subject,
        key: Option<IdentityKey>,
        now: UnixTime,
    ) -> Result<Invited, IssueError> {
        let (Enrolment::Key(enrolled) | Enrolment::Token(enrolled)) = &enrolment;
        if self.ledger.knows(enrolled) {
            return Err(IssueError::KnownKey);
        }
        let replaced = self
            .ledger
            .named(&terms.name, now)
            .map(|issued| issued.node);
        if replaced.is_some() && !terms.replace {
            return Err(IssueError::NameTaken(terms.name.clone()));
        }
        let (membership, node) = self.sign(terms, None, enrolment, subject, now)?;
        if let Some(old) = &replaced {
            self.ledger.revoke(old);
        }
        let token = Token {
            membership,
            trust_log: self.trust.trust_log().to_vec(),
            key,
            beacons: self.beacons(&subject, now),
        };
        Ok(Invited {
            token,
            node,
            replaced,
        })
    }

    fn sign(
        &mut self,
        terms: &Terms,
        beacon: Option<HostPort>,
        enrolment: Enrolment,
        subject: Subject,
        now: UnixTime,
    ) -> Result<(Vec<u8>, NodeId), IssueError> {
        if terms.user.is_some() && !terms.tags.is_empty() {
            return Err(IssueError::UserAndTags);
        }
        let mut tags = terms.tags.clone();
        tags.sort();
        tags.dedup();
        let mesh = self.trust.mesh();
        let node = enrolment.node_id(&mesh);
        let serial = self.ledger.next_serial();
        let expires_at = now.plus(terms.valid_for);
        let membership = Membership {
            serial,
            issuer_epoch: self.key.epoch(),
            enrolment,
            role: if beacon.is_some() {
                Role::Beacon
            } else {
                Role::Gateway
            },
            name: terms.name.clone(),
            user: terms.user.clone(),
            tags: tags.clone(),
            beacon: beacon.clone(),
            issued_at: now,
            not_before: now.minus(SKEW),
            expires_at,
            floors: self.floors(),
            subject,
        };
        let bytes = membership.sign(&mesh, self.key.key());
        let certificate = Certificate::join(&[&bytes]);
        Certificate::parse(&certificate, &mesh).map_err(|_| IssueError::TooMuch)?;
        let (identity, window) = match subject {
            Subject::Identity(identity) => (Some(identity), None),
            Subject::Token(window) => (None, Some(window)),
        };
        self.ledger.enter(Issued {
            node,
            name: terms.name.clone(),
            user: terms.user.clone(),
            tags,
            beacon,
            enrolment,
            identity,
            enrolled_by: window.map(|window| window.beacon),
            serial,
            issued_at: now,
            expires_at,
            redeem_until: window.map(|window| window.closes),
            revoked: false,
        });
        Ok((bytes, node))
    }

    /// Nobody who is invited today has to accept what was replaced yesterday.
    fn floors(&self) -> Floors {
        let heads = self.trust.heads();
        Floors {
            trust_log: self.trust.log().signed_at(),
            policy: heads.policy.map(|(order, _)| order).unwrap_or_default(),
            revocations: heads
                .revocations
                .map(|(order, _)| order)
                .unwrap_or_default(),
        }
    }

    /// The living beacons' certificates, the one that redeems first.
    fn beacons(&self, subject: &Subject, now: UnixTime) -> Vec<Vec<u8>> {
        let redeems =
            |node: &NodeId| matches!(subject, Subject::Token(window) if window.beacon == *node);
        let mut living: Vec<&NodeId> = self
            .trust
            .members()
            .filter(|member| member.role == Role::Beacon)
            .map(|member| &member.node)
            .filter(|node| self.trust.standing(node, now) == crate::Standing::Good)
            .collect();
        living.sort_by_key(|node| !redeems(node));
        let bytes = living
            .into_iter()
            .filter_map(|node| self.trust.certificate(node));
        bytes.take(MAX_TOKEN_BEACONS).map(<[u8]>::to_vec).collect()
    }
}

impl RoleKey {
    /// Signs the next policy after `previous`.
    pub fn sign_policy(
        &self,
        text: &str,
        previous: Option<&PolicyBundle>,
        mesh: &MeshId,
        now: UnixTime,
    ) -> Result<Vec<u8>, IssueError> {
        if self.role() != KeyRole::Policy {
            return Err(IssueError::NotPolicy);
        }
        let order = self.next(previous.map(|previous| previous.order));
        let bytes = PolicyBundle::sign(order, text, mesh, self.key(), now);
        match bytes.len() > crate::cbor::MAX_DOCUMENT {
            true => Err(IssueError::TooMuch),
            false => Ok(bytes),
        }
    }

    /// Signs the next revocation set after `previous`. The whole set: within an epoch it must hold
    /// everything that the previous one held.
    pub fn sign_revocations(
        &self,
        set: &RevocationSet,
        previous: Option<&Revocations>,
        mesh: &MeshId,
        now: UnixTime,
    ) -> Result<Vec<u8>, IssueError> {
        if self.role() != KeyRole::Revoker {
            return Err(IssueError::NotRevoker);
        }
        let same = previous.filter(|previous| previous.order.epoch == self.epoch());
        if same.is_some_and(|previous| !set.contains(&previous.set)) {
            return Err(IssueError::Shrinks);
        }
        let order = self.next(previous.map(|previous| previous.order));
        let bytes = Revocations::sign(order, set, mesh, self.key(), now);
        match bytes.len() > crate::cbor::MAX_DOCUMENT {
            true => Err(IssueError::TooMuch),
            false => Ok(bytes),
        }
    }

    fn next(&self, previous: Option<Order>) -> Order {
        let previous = previous.filter(|previous| previous.epoch == self.epoch());
        let version = previous.map_or(0, |previous| previous.version) + 1;
        Order {
            epoch: self.epoch(),
            version,
        }
    }
}

/// A joiner that cannot reach these can be given others by hand.
const MAX_TOKEN_BEACONS: usize = 8;

/// Why the operator's machine will not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The key is not the issuer in force.
    #[error("this key is not the mesh's issuer (any more)")]
    NotIssuer,
    /// The key is not the policy key.
    #[error("this key does not sign policies")]
    NotPolicy,
    /// The key is not the revoker.
    #[error("this key does not sign revocations")]
    NotRevoker,
    /// A living node has this name.
    #[error("the name {0} is taken")]
    NameTaken(NodeName),
    /// A living beacon has this address.
    #[error("there is a beacon at {0} already")]
    AddressTaken(HostPort),
    /// The key was enrolled before.
    #[error("this key was enrolled before")]
    KnownKey,
    /// No such beacon to redeem the token at.
    #[error("there is no such beacon to redeem the token at")]
    NoBeacon,
    /// Nobody issued it here.
    #[error("the node was not issued by this operator")]
    UnknownNode,
    /// Revoked; only a new invitation helps.
    #[error("the node was revoked")]
    Revoked,
    /// A node has a user or tags.
    #[error("a gateway has a user or tags, not both")]
    UserAndTags,
    /// The document would exceed its limit.
    #[error("that is more than one document can hold")]
    TooMuch,
    /// Within an epoch sets only grow.
    #[error("a revocation cannot be taken back within the revoker's epoch")]
    Shrinks,
}
