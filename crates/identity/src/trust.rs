//! What one node (gateway, beacon or operator) believes, and why nothing else can get in.
//!
//! [`Trust`] holds the trust log, the policy, the revocations and a pin for each member that this
//! node has met. `accept_*` (in `trust/accept.rs`) is the only way in: every document is verified
//! there whoever brought it. The shell persists [`Trust::snapshot`] after a [`Change`] and before
//! it acts on it.

mod accept;
mod error;
mod snapshot;

use std::collections::BTreeMap;
use std::time::Duration;

pub use error::{Alarm, TrustError};

use crate::cbor::FormatError;
use crate::certificate::Certificate;
use crate::trust_log::Epoch;
use crate::{
    AgentAddress, BoundedClock, Heads, IdentityPublic, KeyRole, Member, MeshId, MeshName, NodeId,
    NodeName, NodeRecord, PolicyBundle, Revocations, TrustLog, UnixTime, WireGuardPublic,
};

/// The belief of one node.
#[derive(Clone, Debug)]
pub struct Trust {
    log: TrustLog,
    policy: Option<PolicyBundle>,
    revocations: Option<Revocations>,
    pins: BTreeMap<NodeId, Pin>,
    /// Which sessions proved both their identity and this WireGuard key.
    proven: BTreeMap<WireGuardPublic, NodeId>,
    /// This node itself, once it has a membership.
    holder: Option<NodeId>,
    /// Role-signed time that the clock may not fall behind.
    floor: UnixTime,
    alarms: Vec<Alarm>,
}

/// One member that this node has met. **Invariant:** the identity key changes only by a
/// membership of higher order that names the new one.
#[derive(Clone, Debug)]
struct Pin {
    member: Member,
    certificate: Vec<u8>,
    /// When this membership was first seen here, by this node's own clock.
    pinned_at: UnixTime,
    record: Option<(NodeRecord, Vec<u8>)>,
}

/// What came of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new.
    None,
    /// Stored: persist the snapshot before acting on it, then publish.
    Newer,
}

/// Where a member stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In.
    Good,
    /// Its membership is over, or its issuer was replaced; only a renewal cures it.
    Expired,
    /// By node id, minimum serial, block, or a receipt of a revoked beacon.
    Revoked,
    /// Never met, or not valid yet.
    Unknown,
}

/// What a beacon learns of a joiner: it signs a receipt for exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The node that the token makes.
    pub node: NodeId,
    /// The key that the token's holder bound to it.
    pub identity: IdentityPublic,
    /// As the issuer signed it.
    pub name: NodeName,
    /// After this no receipt counts.
    pub until: UnixTime,
}

impl Trust {
    /// Begins with a trust log. Its first entry is the anchor: whoever hands it over (a token, a
    /// claimant) decides which mesh this is.
    pub fn new(trust_log: &[u8], now: UnixTime) -> Result<Self, TrustError> {
        let log = TrustLog::parse(trust_log)?;
        let mut trust = Self {
            log,
            policy: None,
            revocations: None,
            pins: BTreeMap::new(),
            proven: BTreeMap::new(),
            holder: None,
            floor: UnixTime(0),
            alarms: Vec::new(),
        };
        trust.raise_floor(trust.log.signed_at(), now);
        Ok(trust)
    }

    /// Which mesh.
    pub fn mesh(&self) -> MeshId {
        self.log.mesh()
    }

    /// What its founder called it.
    pub fn mesh_name(&self) -> &MeshName {
        self.log.name()
    }

    /// What two nodes compare in their hello.
    pub fn heads(&self) -> Heads {
        Heads {
            trust_log: Some(self.log.head()),
            policy: self
                .policy
                .as_ref()
                .map(|policy| (policy.order, policy.digest)),
            revocations: self
                .revocations
                .as_ref()
                .map(|held| (held.order, held.digest)),
        }
    }

    /// This node, once enrolled.
    pub fn holder(&self) -> Option<NodeId> {
        self.holder
    }

    /// The trust log as received.
    pub fn trust_log(&self) -> &[u8] {
        self.log.bytes()
    }

    /// The trust log, verified.
    pub fn log(&self) -> &TrustLog {
        &self.log
    }

    /// The active policy. `None` permits nothing.
    pub fn policy(&self) -> Option<&PolicyBundle> {
        self.policy.as_ref()
    }

    /// The active revocations.
    pub fn revocations(&self) -> Option<&Revocations> {
        self.revocations.as_ref()
    }

    /// A member that was met, whatever its standing.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.pins.get(node).map(|pin| &pin.member)
    }

    /// All members that were met, gateways and beacons, whatever their standing.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.pins.values().map(|pin| &pin.member)
    }

    /// The member of this name. Where a replacement is on its way two may bear it: one that is
    /// not revoked goes first, then the one that the issuer signed last.
    pub fn member_named(&self, name: &NodeName) -> Option<&Member> {
        let named = self.members().filter(|member| member.name == *name);
        named.max_by_key(|member| (!self.is_revoked(member), member.order()))
    }

    /// A member's certificate as received.
    pub fn certificate(&self, node: &NodeId) -> Option<&[u8]> {
        self.pins.get(node).map(|pin| pin.certificate.as_slice())
    }

    /// A member's record, and as received. It may be over: see
    /// [`expires_at`](NodeRecord::expires_at) and [`forget_expired`](Self::forget_expired).
    pub fn record(&self, node: &NodeId) -> Option<(&NodeRecord, &[u8])> {
        let (record, bytes) = self.pins.get(node)?.record.as_ref()?;
        Some((record, bytes))
    }

    /// The key by which an operator proves itself to beacons.
    pub fn operator_key(&self) -> Option<IdentityPublic> {
        Some(self.log.current(KeyRole::Operator).1)
    }

    /// Whether the revoker killed this agent.
    pub fn blocks_agent(&self, agent: &AgentAddress) -> bool {
        self.revocations
            .as_ref()
            .is_some_and(|held| held.set.blocks_agent(agent))
    }

    /// Where a member stands.
    pub fn standing(&self, node: &NodeId, now: UnixTime) -> Standing {
        match self.pins.get(node) {
            Some(pin) => self.standing_of(&pin.member, now),
            None => match self.revocations.as_ref() {
                Some(held) if held.set.nodes.contains(node) => Standing::Revoked,
                _ => Standing::Unknown,
            },
        }
    }

    /// Where an examined member stands; it need not be pinned here.
    pub fn standing_of(&self, member: &Member, now: UnixTime) -> Standing {
        let time = self.clock(now);
        if self.is_revoked(member) {
            return Standing::Revoked;
        }
        if time > member.expires_at.plus(SKEW) {
            return Standing::Expired;
        }
        if time.plus(SKEW) < member.not_before {
            return Standing::Unknown;
        }
        match self.log.epoch(KeyRole::Issuer, member.issuer_epoch) {
            Epoch::Current(_) => Standing::Good,
            Epoch::Unknown => Standing::Unknown,
            // Dates signed by an ended key prove nothing, so only what was seen here in time stays.
            Epoch::Ended { not_before, .. } => {
                let pinned = self.pins.get(&member.node).is_some_and(|pin| {
                    pin.member.membership == member.membership && pin.pinned_at < not_before
                });
                match pinned && time < not_before.plus(GRACE) {
                    true => Standing::Good,
                    false => Standing::Expired,
                }
            }
        }
    }

    /// Verifies a certificate's signatures, and neither dates nor revocations; stores nothing. For
    /// a beacon that must know who calls before it serves him his cure only.
    pub fn examine_certificate(&self, bytes: &[u8]) -> Result<Member, TrustError> {
        let mesh = self.mesh();
        let certificate = Certificate::parse(bytes, &mesh)?;
        let epoch = certificate.membership.issuer_epoch;
        let issuer = match self.log.epoch(KeyRole::Issuer, epoch) {
            Epoch::Current(key) | Epoch::Ended { key, .. } => key,
            Epoch::Unknown => return Err(TrustError::UnknownEpoch),
        };
        certificate.verify_issuer(&mesh, &issuer)?;
        let identity = certificate
            .bound_identity(&mesh)?
            .ok_or(TrustError::NoBinding)?;
        if let crate::certificate::Subject::Token(window) = &certificate.membership.subject {
            let beacon = self.pins.get(&window.beacon).map(|pin| &pin.member);
            let beacon = beacon
                .filter(|member| member.role == crate::Role::Beacon)
                .ok_or(TrustError::UnknownBeacon)?;
            let at = certificate
                .receipt_at(&mesh, &identity, &beacon.identity)?
                .ok_or(TrustError::NoReceipt)?;
            if at < window.opens || at > window.closes || at > beacon.expires_at {
                return Err(TrustError::OutsideWindow);
            }
        }
        Ok(certificate.member(&mesh, identity))
    }

    /// At a beacon: checks a joiner's membership and binding, that they name this beacon, and
    /// that nobody else redeemed the token. The beacon stores the certificate with its receipt by
    /// [`accept_certificate`](Self::accept_certificate) before it hands the receipt out.
    pub fn verify_enrolment(
        &self,
        certificate: &[u8],
        beacon: &NodeId,
        now: UnixTime,
    ) -> Result<Joining, TrustError> {
        let mesh = self.mesh();
        let certificate = Certificate::parse(certificate, &mesh)?;
        let membership = &certificate.membership;
        let crate::certificate::Subject::Token(window) = &membership.subject else {
            return Err(TrustError::NoReceiptNeeded);
        };
        let issuer = self.current_issuer(membership.issuer_epoch)?;
        certificate.verify_issuer(&mesh, &issuer)?;
        let identity = certificate
            .bound_identity(&mesh)?
            .ok_or(TrustError::NoBinding)?;
        if window.beacon != *beacon {
            return Err(TrustError::OtherBeacon);
        }
        let time = self.clock(now);
        if time < window.opens || time > window.closes {
            return Err(TrustError::OutsideWindow);
        }
        let member = certificate.member(&mesh, identity);
        if self.is_revoked(&member) {
            return Err(TrustError::Revoked);
        }
        let spent = |pin: &Pin| {
            pin.member.identity != identity || pin.member.membership != member.membership
        };
        match self.pins.get(&member.node).is_some_and(spent) {
            true => Err(TrustError::TokenSpent),
            false => {
                let until = window.closes;
                Ok(Joining {
                    node: member.node,
                    identity,
                    name: member.name,
                    until,
                })
            }
        }
    }

    /// The node whose session proved this key; where none did, the first of those that claim it.
    pub fn by_wireguard(&self, key: &WireGuardPublic) -> Option<NodeId> {
        match self.proven.get(key) {
            Some(node) => Some(*node),
            None => self.claimants(key).next(),
        }
    }

    /// Every member whose record claims this key. A claim excludes nobody: try them all.
    pub fn claimants(&self, key: &WireGuardPublic) -> impl Iterator<Item = NodeId> {
        let claims = move |pin: &&Pin| match &pin.record {
            Some((record, _)) => record.wireguard == *key,
            None => false,
        };
        self.pins.values().filter(claims).map(|pin| pin.member.node)
    }

    /// A session proved both: the tunnel decrypted with this key, and inside it TLS proved the
    /// identity key of the node whose record names it.
    pub fn pin_wireguard(&mut self, node: &NodeId, key: &WireGuardPublic) -> Change {
        let names = self.claimants(key).any(|claimant| claimant == *node);
        match names && self.proven.insert(*key, *node) != Some(*node) {
            true => Change::Newer,
            false => Change::None,
        }
    }

    /// Drops pins 30 days after their membership's end, and records that are over.
    pub fn forget_expired(&mut self, now: UnixTime) -> Change {
        let (time, holder) = (self.clock(now), self.holder);
        let mut change = Change::None;
        self.pins.retain(|node, pin| {
            let over = time > pin.member.expires_at.plus(GRACE) && Some(*node) != holder;
            let stale = |record: &(NodeRecord, Vec<u8>)| time > record.0.expires_at.plus(SKEW);
            if over || pin.record.take_if(|record| stale(record)).is_some() {
                change = Change::Newer;
            }
            !over
        });
        let pins = &self.pins;
        self.proven.retain(|_, node| pins.contains_key(node));
        change
    }

    /// What a person must hear of, since the last call.
    pub fn take_alarms(&mut self) -> Vec<Alarm> {
        std::mem::take(&mut self.alarms)
    }

    /// The time by which dates are judged. A clock before one's own membership's issue (before one
    /// has any: before root last signed) is unset: then the highest role-signed time counts, at
    /// most one's expiry. A clock that fell behind the persisted floor is the floor.
    pub fn clock(&self, now: UnixTime) -> UnixTime {
        // What an unset clock is taken for asks every member: only where it is.
        match now.plus(SKEW) < self.set_after() {
            true => self.bounded_clock().at(now),
            false => self.held_to_floor().at(now),
        }
    }

    /// Whether the local clock is unset or behind the floor: worth an alarm.
    pub fn clock_is_behind(&self, now: UnixTime) -> bool {
        self.held_to_floor().is_behind(now)
    }

    /// The same for whoever judges dates with these beliefs later.
    pub fn bounded_clock(&self) -> BoundedClock {
        let latest = self.own().map_or(UnixTime(u64::MAX), |own| own.expires_at);
        BoundedClock {
            unset: self.role_time().min(latest),
            ..self.held_to_floor()
        }
    }

    fn held_to_floor(&self) -> BoundedClock {
        BoundedClock {
            set_after: self.set_after(),
            floor: self.floor,
            ..BoundedClock::default()
        }
    }

    /// A clock before this cannot be right.
    fn set_after(&self) -> UnixTime {
        self.own().map_or(self.log.signed_at(), |own| own.issued_at)
    }

    fn own(&self) -> Option<&Member> {
        self.member(self.holder.as_ref()?)
    }

    /// The highest time that root or a role key in force signed.
    fn role_time(&self) -> UnixTime {
        let in_force = |member: &&Member| {
            matches!(
                self.log.epoch(KeyRole::Issuer, member.issuer_epoch),
                Epoch::Current(_)
            )
        };
        let memberships = self
            .members()
            .filter(in_force)
            .map(|member| member.issued_at);
        let policy = self.policy.as_ref().map(|policy| policy.signed_at);
        let revocations = self.revocations.as_ref().map(|held| held.signed_at);
        let all = memberships
            .chain(policy)
            .chain(revocations)
            .chain([self.log.signed_at()]);
        all.max().unwrap_or_default()
    }

    fn is_revoked(&self, member: &Member) -> bool {
        let Some(Revocations { set, .. }) = &self.revocations else {
            return false;
        };
        let void = |beacon: &NodeId| set.nodes.contains(beacon);
        set.names(member) || member.enrolled_by.as_ref().is_some_and(void)
    }

    pub(crate) fn current_issuer(&self, epoch: u32) -> Result<IdentityPublic, TrustError> {
        match self.log.epoch(KeyRole::Issuer, epoch) {
            Epoch::Current(key) => Ok(key),
            Epoch::Ended { .. } => Err(TrustError::EndedEpoch),
            Epoch::Unknown => Err(TrustError::UnknownEpoch),
        }
    }

    /// Only times signed by root or role keys come here; a local clock that is unset lifts nothing.
    fn raise_floor(&mut self, signed_at: UnixTime, now: UnixTime) {
        self.floor = self.floor.max(signed_at.min(now.plus(MAX_FLOOR_LEAD)));
    }

    fn alarm(&mut self, alarm: Alarm) {
        if self.alarms.len() < MAX_ALARMS && !self.alarms.contains(&alarm) {
            self.alarms.push(alarm);
        }
    }
}

impl From<FormatError> for TrustError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// How far two honest clocks may differ (identity.md §6).
pub const SKEW: Duration = Duration::from_secs(5 * 60);

/// How long what root ended, and a pin after its expiry, lingers (identity.md §4, §6).
pub const GRACE: Duration = Duration::from_secs(30 * 86_400);

/// The floor never leads the local clock by more (identity.md §6): a role key cannot move clocks.
const MAX_FLOOR_LEAD: Duration = Duration::from_secs(86_400);

/// Alarms wait for the shell; the same one waits once.
const MAX_ALARMS: usize = 64;
