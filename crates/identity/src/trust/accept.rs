//! The only way in: each kind of document, verified whoever brought it.

use std::cmp::Ordering;

use crate::cbor::FormatError;
use crate::certificate::{Certificate, Subject};
use crate::record::{self, RECORD_LIFE};
use crate::trust::{Alarm, Change, Pin, SKEW, Trust, TrustError};
use crate::trust_log::Epoch;
use crate::{
    IdentityPublic, KeyRole, NodeId, Order, PolicyBundle, Revocations, Standing, TrustLog, UnixTime,
};

impl Trust {
    /// Takes a newer trust log. Nothing else is asked of it (no floor, no date), so that no stolen
    /// role key can stop root's entry from arriving.
    pub fn accept_trust_log(&mut self, bytes: &[u8], now: UnixTime) -> Result<Change, TrustError> {
        if bytes == self.log.bytes() {
            return Ok(Change::None);
        }
        let log = TrustLog::parse(bytes)?;
        if log.mesh() != self.log.mesh() {
            return Err(TrustError::OtherMesh);
        }
        if log.signed_at() < self.log.signed_at() {
            return Err(TrustError::Older);
        }
        if log.signed_at() == self.log.signed_at() {
            self.alarm(Alarm::TrustLogFork);
            return Err(TrustError::Conflict);
        }
        if !log.extends(&self.log) {
            self.alarm(Alarm::TrustLogFork);
        }
        self.raise_floor(log.signed_at(), now);
        self.log = log;
        // An ended policy permits nothing any more; ended revocations stay until the first
        // complete set of the new epoch, or whoever withholds it could take them back.
        if !self
            .policy
            .as_ref()
            .is_some_and(|policy| self.policy_in_force(&policy.bytes))
        {
            self.policy = None;
        }
        Ok(Change::Newer)
    }

    /// Takes a newer policy.
    pub fn accept_policy(&mut self, bytes: &[u8], now: UnixTime) -> Result<Change, TrustError> {
        let (sealed, bundle) = PolicyBundle::read(bytes)?;
        let key = self.current_key(KeyRole::Policy, bundle.order.epoch)?;
        sealed.verify(&self.mesh(), &key)?;
        self.check_floor(bundle.order, |floors| floors.policy)?;
        if let Some(held) = &self.policy {
            match (bundle.order.cmp(&held.order), bundle.digest == held.digest) {
                (_, true) => return Ok(Change::None),
                (Ordering::Less, _) => return Err(TrustError::Older),
                (Ordering::Equal, _) => {
                    self.alarm(Alarm::PolicyConflict {
                        order: bundle.order,
                    });
                    return Err(TrustError::Conflict);
                }
                (Ordering::Greater, _) => {}
            }
        }
        self.raise_floor(bundle.signed_at, now);
        self.policy = Some(bundle);
        Ok(Change::Newer)
    }

    /// Takes a newer revocation set.
    pub fn accept_revocations(
        &mut self,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<Change, TrustError> {
        let (sealed, newer) = Revocations::read(bytes)?;
        let key = self.current_key(KeyRole::Revoker, newer.order.epoch)?;
        sealed.verify(&self.mesh(), &key)?;
        self.check_floor(newer.order, |floors| floors.revocations)?;
        if let Some(held) = self
            .revocations
            .as_ref()
            .filter(|held| self.set_in_force(&held.bytes))
        {
            let shrinks = !newer.set.contains(&held.set);
            match (newer.order.cmp(&held.order), newer.digest == held.digest) {
                (_, true) => return Ok(Change::None),
                (Ordering::Less, _) => return Err(TrustError::Older),
                (Ordering::Equal, _) => {
                    self.alarm(Alarm::RevocationsConflict { order: newer.order });
                    return Err(TrustError::Conflict);
                }
                (Ordering::Greater, _) if shrinks => {
                    self.alarm(Alarm::RevocationsConflict { order: newer.order });
                    return Err(TrustError::Shrinks);
                }
                (Ordering::Greater, _) => {}
            }
        }
        self.raise_floor(newer.signed_at, now);
        self.revocations = Some(newer);
        Ok(Change::Newer)
    }

    /// Takes this node's own certificate, which must be for the identity key `own`: its floors and
    /// its issue time bind this node from here on. Its not-before is not judged: a clock that is
    /// unset learns the time from it.
    pub fn enroll(
        &mut self,
        certificate: &[u8],
        own: &IdentityPublic,
        now: UnixTime,
    ) -> Result<NodeId, TrustError> {
        let member = self.examine_certificate(certificate)?;
        if member.identity != *own {
            return Err(TrustError::OtherKey);
        }
        self.current_issuer(member.issuer_epoch)?;
        self.holder = Some(member.node);
        let pinned_at = self.clock(now).max(member.issued_at);
        let held = self.pins.get(&member.node);
        if held.is_none_or(|held| held.member.order() < member.order()) {
            self.raise_floor(member.issued_at, now);
            self.pin(certificate, member.clone(), pinned_at);
        }
        Ok(member.node)
    }

    /// Takes a member's certificate: pins it at first sight, renews it later.
    pub fn accept_certificate(
        &mut self,
        bytes: &[u8],
        now: UnixTime,
    ) -> Result<Change, TrustError> {
        let member = self.examine_certificate(bytes)?;
        let time = self.clock(now);
        if let Some(held) = self.pins.get(&member.node).map(|pin| &pin.member) {
            let node = member.node;
            let rival = held.identity != member.identity;
            match member.order().cmp(&held.order()) {
                Ordering::Less => return Err(TrustError::Older),
                Ordering::Equal if held.membership != member.membership => {
                    self.alarm(Alarm::MembershipConflict { node });
                    return Err(TrustError::Conflict);
                }
                Ordering::Equal if rival => {
                    self.alarm(Alarm::RivalIdentity { node });
                    return Err(TrustError::PinnedOther);
                }
                Ordering::Equal => return Ok(Change::None),
                // Only the issuer's own word overrides a pin, never a token's holder.
                Ordering::Greater if rival && member.enrolled_by.is_some() => {
                    self.alarm(Alarm::RivalIdentity { node });
                    return Err(TrustError::PinnedOther);
                }
                Ordering::Greater => {}
            }
        }
        self.current_issuer(member.issuer_epoch)?;
        if self.is_revoked(&member) {
            return Err(TrustError::Revoked);
        }
        if time > member.expires_at.plus(SKEW) {
            return Err(TrustError::Expired);
        }
        // A clock that is unset cannot tell what lies ahead of it: issue times are what sets it.
        if time.plus(SKEW) < member.not_before && !self.clock_is_behind(now) {
            return Err(TrustError::NotYetValid);
        }
        self.raise_floor(member.issued_at, now);
        self.pin(bytes, member, time);
        Ok(Change::Newer)
    }

    /// Takes a member's newer record; the member must be known.
    pub fn accept_record(&mut self, bytes: &[u8], now: UnixTime) -> Result<Change, TrustError> {
        let (sealed, record) = record::read(bytes)?;
        let (mesh, time) = (self.mesh(), self.clock(now));
        let node = record.node;
        let pin = self.pins.get(&node).ok_or(TrustError::UnknownNode)?;
        sealed.verify(&mesh, &pin.member.identity)?;
        match self.standing(&node, now) {
            Standing::Good => {}
            Standing::Revoked => return Err(TrustError::Revoked),
            Standing::Expired => return Err(TrustError::Expired),
            Standing::Unknown => return Err(TrustError::NotYetValid),
        }
        if time > record.expires_at.plus(SKEW) {
            return Err(TrustError::Expired);
        }
        if record.expires_at > time.plus(RECORD_LIFE).plus(SKEW) && !self.clock_is_behind(now) {
            return Err(TrustError::LivesTooLong);
        }
        if let Some((held, held_bytes)) = &pin.record {
            match record.sequence.cmp(&held.sequence) {
                _ if held_bytes == bytes => return Ok(Change::None),
                Ordering::Less => return Err(TrustError::Older),
                Ordering::Equal => {
                    self.alarm(Alarm::RecordConflict { node });
                    return Err(TrustError::Conflict);
                }
                Ordering::Greater => {}
            }
        }
        // What a session proved of an earlier key of this node is over.
        let wireguard = record.wireguard;
        self.proven
            .retain(|key, proven| *proven != node || *key == wireguard);
        if let Some(pin) = self.pins.get_mut(&node) {
            pin.record = Some((record, bytes.to_vec()));
        }
        Ok(Change::Newer)
    }

    fn pin(&mut self, certificate: &[u8], member: crate::Member, pinned_at: UnixTime) {
        let held = self.pins.remove(&member.node);
        // An old identity key's record says nothing once the issuer named another.
        let record = held
            .filter(|pin| pin.member.identity == member.identity)
            .and_then(|pin| pin.record);
        if record.is_none() {
            self.proven.retain(|_, node| *node != member.node);
        }
        let pin = Pin {
            certificate: certificate.to_vec(),
            pinned_at,
            record,
            member,
        };
        self.pins.insert(pin.member.node, pin);
    }

    /// A floor counts while its issuer is in force: a stolen issuer key must not raise one for
    /// longer than that.
    fn check_floor(
        &self,
        order: Order,
        floor: fn(&crate::Floors) -> Order,
    ) -> Result<(), TrustError> {
        let Some(own) = self.own() else { return Ok(()) };
        let in_force = matches!(
            self.log.epoch(KeyRole::Issuer, own.issuer_epoch),
            Epoch::Current(_)
        );
        let below = order < floor(&own.floors) || self.log.signed_at() < own.floors.trust_log;
        match in_force && below {
            true => Err(TrustError::BelowFloor),
            false => Ok(()),
        }
    }

    fn current_key(&self, role: KeyRole, epoch: u32) -> Result<IdentityPublic, TrustError> {
        let (current, key) = self.log.current(role);
        match epoch.cmp(&current) {
            Ordering::Less => Err(TrustError::EndedEpoch),
            Ordering::Equal => Ok(key),
            Ordering::Greater => Err(TrustError::UnknownEpoch),
        }
    }

    fn policy_in_force(&self, bytes: &[u8]) -> bool {
        PolicyBundle::read(bytes).is_ok_and(|(sealed, bundle)| {
            self.current_key(KeyRole::Policy, bundle.order.epoch)
                .is_ok_and(|key| sealed.verify(&self.mesh(), &key).is_ok())
        })
    }

    fn set_in_force(&self, bytes: &[u8]) -> bool {
        Revocations::read(bytes).is_ok_and(|(sealed, held)| {
            self.current_key(KeyRole::Revoker, held.order.epoch)
                .is_ok_and(|key| sealed.verify(&self.mesh(), &key).is_ok())
        })
    }
}

/// The identity key that a certificate claims, unverified: to read back one's own snapshot.
pub(super) fn claimed_identity(
    certificate: &Certificate<'_>,
    mesh: &crate::MeshId,
) -> Result<IdentityPublic, FormatError> {
    match certificate.membership.subject {
        Subject::Identity(identity) => Ok(identity),
        Subject::Token(_) => certificate
            .bound_identity(mesh)
            .ok()
            .flatten()
            .ok_or(FormatError::Malformed),
    }
}
