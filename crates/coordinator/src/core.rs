//! The coordinator that decides: what is accepted, who is told, who is cut off. No tokio, no file,
//! no clock.
//!
//! It is an untrusted cache, and still verifies everything that it stores, with the same
//! [`identity::Trust`] as a gateway: what it cannot verify it would only spread. **Invariant:** a
//! document is on disk before it is answered or told; a revocation restricts sessions before even
//! that, since being too early harms nobody but the revoked. Their links are cut a moment later:
//! a kill of everyone would else reach nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{IdentityKey, IdentityPublic, NodeId, Role, Standing, Token, Trust, UnixTime};
use net::beacon::Who;
use wire::link::Refusal;
use wire::map::{Document, MapRequest, MapUpdate, PublishError};

use crate::accept::{self, Accepted};
use crate::enroll::Enrolment;
use crate::log::ChangeLog;
use crate::presence::Presence;
use crate::session::{HEADS, Map, Session, SessionId};
use crate::store::{Key, Loaded, Row, Write};

/// The moment of an input, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For delays.
    pub instant: Instant,
    /// For dates in documents.
    pub clock: UnixTime,
}

/// What the shell does for the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Close every link of this node, at once.
    Cut(NodeId),
}

/// Writes that must be durable together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Returned with [`Core::handle_stored`].
    pub ticket: u64,
    /// The last place of the log that is among them.
    pub through: u64,
    /// In order.
    pub writes: Vec<Write>,
}

/// The state of one beacon's coordinator.
pub struct Core {
    key: IdentityPublic,
    trust: Option<Trust>,
    me: Option<NodeId>,
    log: ChangeLog,
    presence: Presence,
    enrolment: Enrolment,
    sessions: BTreeMap<SessionId, Session>,
    next_session: u64,
    queued: Vec<Write>,
    ticket: u64,
    stored_ticket: u64,
    reviewed_at: Option<Instant>,
    /// Links to close, when the last word is out.
    cuts: BTreeMap<NodeId, Instant>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// The coordinator of the beacon with this identity key, as it was stored.
    pub fn restore(key: Arc<IdentityKey>, loaded: &Loaded) -> Self {
        let mut core = Self {
            key: key.public(),
            trust: None,
            me: None,
            log: ChangeLog::restore(loaded),
            presence: Presence::default(),
            enrolment: Enrolment::restore(key, &loaded.spent),
            sessions: BTreeMap::new(),
            next_session: 0,
            queued: Vec::new(),
            ticket: 0,
            stored_ticket: 0,
            reviewed_at: None,
            cuts: BTreeMap::new(),
            outputs: VecDeque::new(),
        };
        core.replay(&loaded.rows);
        core
    }

    /// Believes again what was believed before the restart. A certificate may rest on a beacon's
    /// that stands later in the log, so what fails is tried again while anything else succeeds.
    fn replay(&mut self, rows: &[Row]) {
        let mut waiting: Vec<&Row> = rows.iter().collect();
        loop {
            let before = waiting.len();
            waiting.retain(|row| !self.replay_one(row));
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        for row in waiting {
            tracing::warn!(key = ?row.key, "a stored document is no longer accepted");
        }
    }

    fn replay_one(&mut self, row: &Row) -> bool {
        match &mut self.trust {
            Some(trust) => {
                let document = row.key.document(row.bytes.clone());
                let accepted = accept::accept(trust, &document, row.accepted_at).is_ok();
                if let (Key::Certificate(node), true) = (row.key, accepted) {
                    self.recognise(node, row.accepted_at);
                }
                accepted
            }
            None if row.key == Key::TrustLog => {
                self.trust = Trust::new(&row.bytes, row.accepted_at).ok();
                self.trust.is_some()
            }
            None => false,
        }
    }

    /// Whether a mesh has claimed this beacon.
    pub fn is_claimed(&self) -> bool {
        self.me.is_some()
    }

    /// This beacon's node id, once it is claimed.
    pub fn node(&self) -> Option<NodeId> {
        self.me
    }

    /// What this beacon believes, once a claim was begun.
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// How many nodes have a link here.
    pub fn online(&self) -> usize {
        self.presence.online()
    }

    /// Who shows this certificate, and which key it must prove: nothing is kept of it before that.
    pub fn handle_shown(
        &self,
        certificate: &[u8],
        now: Now,
    ) -> Result<(NodeId, IdentityPublic), Refusal> {
        let trust = self
            .trust
            .as_ref()
            .filter(|_| self.is_claimed())
            .ok_or(Refusal::Unclaimed)?;
        let shown = accept::shown(trust, certificate, now.clock)?;
        Ok((shown.node, shown.identity))
    }

    /// A member that proved its key shows its papers: news among them is kept. Returns what it may
    /// not have.
    pub fn handle_papers(
        &mut self,
        certificate: &Bytes,
        record: &Bytes,
        now: Now,
    ) -> Result<Option<Refusal>, Refusal> {
        let papers = [
            Document::Certificate(certificate.clone()),
            Document::Record(record.clone()),
        ];
        for document in papers {
            // An expired certificate or record is no news; it is judged below.
            let _ = self.accept(&document, now);
        }
        let trust = self.trust.as_ref().ok_or(Refusal::Unclaimed)?;
        match accept::shown(trust, certificate, now.clock)?.standing {
            Standing::Good => Ok(None),
            Standing::Revoked => Ok(Some(Refusal::Revoked)),
            Standing::Expired => Ok(Some(Refusal::Expired)),
            _ => Err(Refusal::Unproven),
        }
    }

    /// A client was admitted and proved itself.
    pub fn handle_opened(&mut self, who: Who, restricted: Option<Refusal>, now: Now) -> SessionId {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        // What happened between the proof and now counts: the restriction is judged again.
        let restricted = match (restricted, who) {
            (None, Who::Member(node)) => self.restriction(node, now.clock),
            (restricted, _) => restricted,
        };
        self.sessions
            .insert(id, Session::new(who, restricted, now.instant));
        if let (Who::Member(node), None) = (who, restricted) {
            self.presence.handle_up(node, now.clock);
            self.tell_presence();
        }
        id
    }

    /// A client is gone.
    pub fn handle_closed(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        if let (Who::Member(node), None) = (session.who, session.restricted) {
            self.presence.handle_down(node, now.instant, now.clock);
        }
    }

    /// Whether this client may ask: not while it is owed too many answers.
    pub fn takes_requests(&self, id: SessionId) -> bool {
        self.sessions
            .get(&id)
            .is_none_or(|session| session.owed() < MAX_OWED)
    }

    /// A client asks.
    pub fn handle_request(&mut self, id: SessionId, request: MapRequest, now: Now) {
        if !self.sessions.contains_key(&id) {
            return;
        }
        match request {
            MapRequest::Watch { cursor, heads } => self.watch(id, cursor, &heads),
            MapRequest::Publish { request, document } => {
                let result = self.publish(id, &document, now);
                // An answer waits for what was queued before it, also where this document was
                // known: it may be among the writes that are not on disk yet.
                self.answer(id, MapUpdate::Answer { request, result });
            }
            MapRequest::Enroll {
                request,
                certificate,
            } => {
                let update = match self.enroll(id, &certificate, now) {
                    Ok(receipt) => MapUpdate::Receipt { request, receipt },
                    Err(refusal) => {
                        let result = Err(PublishError::Refused(refusal));
                        MapUpdate::Answer { request, result }
                    }
                };
                self.answer(id, update);
            }
        }
    }

    /// Time passed: presence that lasted is told, memberships that ended are cut off.
    pub fn handle_timeout(&mut self, now: Now) {
        self.presence.handle_timeout(now.instant);
        self.tell_presence();
        let due = self.cuts.extract_if(.., |_, at| *at <= now.instant);
        self.outputs.extend(due.map(|(node, _)| Output::Cut(node)));
        if self.reviewed_at.is_none_or(|at| now.instant >= at + REVIEW) {
            self.review(now);
        }
    }

    /// When [`Core::handle_timeout`] should be called.
    pub fn deadline(&self) -> Option<Instant> {
        let review = self.reviewed_at.map(|at| at + REVIEW);
        let cut = self.cuts.values().min().copied();
        [self.presence.deadline(), review, cut]
            .into_iter()
            .flatten()
            .min()
    }

    /// The writes that wait for the store.
    pub fn take_commit(&mut self) -> Option<Commit> {
        if self.queued.is_empty() {
            return None;
        }
        let writes = std::mem::take(&mut self.queued);
        Some(Commit {
            ticket: self.ticket,
            through: self.log.last(),
            writes,
        })
    }

    /// A commit is on disk: it may be answered and told.
    pub fn handle_stored(&mut self, commit: &Commit) {
        self.stored_ticket = self.stored_ticket.max(commit.ticket);
        self.log.handle_stored(commit.through);
    }

    /// A commit failed: who waited is told so, and it is tried again with the next.
    pub fn handle_store_failed(&mut self, mut commit: Commit) {
        for session in self.sessions.values_mut() {
            session.handle_store_failed(commit.ticket);
        }
        commit.writes.append(&mut self.queued);
        self.queued = commit.writes;
        self.ticket += 1;
    }

    /// What the shell must do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What to send to this client next.
    pub fn poll_update(&mut self, id: SessionId, clock: UnixTime) -> Option<MapUpdate> {
        let trust = self.trust.as_ref();
        let is_beacon = |node: NodeId| is_beacon(trust, &node);
        let map = Map {
            log: &self.log,
            presence: &self.presence,
            heads: trust.map(Trust::heads).unwrap_or_default(),
            is_beacon: &is_beacon,
            clock,
        };
        self.sessions
            .get_mut(&id)?
            .poll_update(self.stored_ticket, &map)
    }

    fn watch(&mut self, id: SessionId, cursor: Option<wire::map::Cursor>, held: &identity::Heads) {
        let heads = self.trust.as_ref().map(Trust::heads).unwrap_or_default();
        let same = [
            heads.trust_log == held.trust_log,
            heads.revocations == held.revocations,
            heads.policy == held.policy,
        ];
        let places = std::array::from_fn(|index| match same[index] {
            true => self.log.place(HEADS[index]),
            false => 0,
        });
        let place = self.log.resume(cursor);
        let online: BTreeSet<NodeId> = self.presence.nodes().collect();
        let beacons = self
            .log
            .nodes()
            .filter(|node| self.is_beacon(node))
            .collect();
        if let Some(session) = self.sessions.get_mut(&id)
            && matches!(session.who, Who::Member(_) | Who::Operator)
        {
            session.handle_watch(place, places, beacons, online);
        }
    }

    fn answer(&mut self, id: SessionId, update: MapUpdate) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.answer(self.ticket, update);
        }
    }

    fn publish(
        &mut self,
        id: SessionId,
        document: &Document,
        now: Now,
    ) -> Result<(), PublishError> {
        let claimed = self.is_claimed();
        let session = self.sessions.get_mut(&id).ok_or(PublishError::Store)?;
        if let Some(restricted) = session.restricted {
            return Err(PublishError::Refused(restricted));
        }
        let refusal = match session.who {
            Who::Member(_) if !session.budget.take(now.instant) => Some(Refusal::Busy),
            Who::Member(_) | Who::Operator if claimed => None,
            Who::Member(_) | Who::Operator => Some(Refusal::Unclaimed),
            Who::Claimant if claimed && !session.claimed_here => Some(Refusal::AlreadyClaimed),
            Who::Claimant => None,
            _ => Some(Refusal::Forbidden),
        };
        if let Some(refusal) = refusal {
            return Err(PublishError::Refused(refusal));
        }
        if self.queued.len() >= MAX_UNSTORED {
            return Err(PublishError::Store);
        }
        if !claimed && let Document::TrustLog(bytes) = document {
            return self.begin_claim(bytes, now);
        }
        self.accept(document, now)?;
        if !claimed
            && self.is_claimed()
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.claimed_here = true;
        }
        Ok(())
    }

    /// A claimant's trust log: the mesh that this beacon may come to serve. Until the membership
    /// follows, another claimant who knows the secret may still bring another.
    fn begin_claim(&mut self, bytes: &Bytes, now: Now) -> Result<(), PublishError> {
        let trust = Trust::new(bytes, now.clock).map_err(|_| PublishError::Unverified)?;
        self.trust = Some(trust);
        let reset = self.log.reset();
        let put = self.log.put(Key::TrustLog, bytes.clone(), now.clock);
        self.queue([reset, put]);
        Ok(())
    }

    fn accept(&mut self, document: &Document, now: Now) -> Result<(), PublishError> {
        let trust = self
            .trust
            .as_mut()
            .ok_or(PublishError::Refused(Refusal::Unclaimed))?;
        let Accepted::News(key) = accept::accept(trust, document, now.clock)? else {
            return Ok(());
        };
        for alarm in trust.take_alarms() {
            tracing::error!(%alarm, "the mesh's documents contradict each other");
        }
        let bytes = accept::bytes(document).clone();
        let write = self.log.put(key, bytes, now.clock);
        self.queue([write]);
        match key {
            Key::TrustLog | Key::Revocations => self.review(now),
            Key::Certificate(node) => {
                self.recognise(node, now.clock);
                self.cure(node, now);
            }
            Key::Policy | Key::Record(_) => {}
        }
        Ok(())
    }

    fn enroll(&mut self, id: SessionId, certificate: &Bytes, now: Now) -> Result<Bytes, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::Forbidden)?;
        if session.who != Who::Joiner || !session.budget.take(now.instant) {
            return Err(Refusal::Forbidden);
        }
        let (Some(trust), Some(me)) = (self.trust.as_ref(), self.me) else {
            return Err(Refusal::Unclaimed);
        };
        let mesh = trust.mesh();
        let (receipt, write) = self.enrolment.redeem(trust, me, certificate, now.clock)?;
        if let Some(write) = write {
            self.queue([write]);
            // Known from here on as redeemed with this key, whatever comes of the joiner.
            if let Ok(complete) = Token::complete(certificate, &receipt, &mesh) {
                let _ = self.accept(&Document::Certificate(complete.into()), now);
            }
        }
        Ok(receipt)
    }

    /// Checks a joiner's papers before it is let in at all.
    pub fn handle_joiner(
        &self,
        certificate: &[u8],
        clock: UnixTime,
    ) -> Result<IdentityPublic, Refusal> {
        let (Some(trust), Some(me)) = (self.trust.as_ref(), self.me) else {
            return Err(Refusal::Unclaimed);
        };
        self.enrolment
            .check(trust, me, certificate, clock)
            .map(|asked| asked.identity)
    }

    /// Judges every node in the map and every session again: who was revoked, expired or cut off
    /// by root loses its link now.
    fn review(&mut self, now: Now) {
        self.reviewed_at = Some(now.instant);
        let Some(trust) = self.trust.as_mut() else {
            return;
        };
        let _ = trust.forget_expired(now.clock);
        let gone: Vec<NodeId> = self
            .log
            .nodes()
            .filter(|node| {
                let standing = trust.standing(node, now.clock);
                matches!(standing, Standing::Revoked | Standing::Unknown)
            })
            .collect();
        for node in gone {
            if let Some(write) = self.log.remove(node) {
                self.queue([write]);
            }
            self.presence.remove(node);
        }
        self.put_back(now);
        let (mut cut, mut cured) = (BTreeSet::new(), BTreeSet::new());
        for session in self.sessions.values() {
            let Who::Member(node) = session.who else {
                continue;
            };
            match (session.restricted, self.restriction(node, now.clock)) {
                (None, Some(_)) => cut.insert(node),
                (Some(_), None) => cured.insert(node),
                _ => continue,
            };
        }
        for node in cut {
            self.cut(node, now);
        }
        // It comes back whole.
        self.outputs.extend(cured.into_iter().map(Output::Cut));
    }

    /// Whose revocation root lifted is in the map again: its certificate is no news to anybody who
    /// had it, and without this nobody else would hear of it.
    fn put_back(&mut self, now: Now) {
        let Some(trust) = &self.trust else {
            return;
        };
        let mut back = Vec::new();
        for member in trust.members() {
            let node = member.node;
            let known = self.log.place(Key::Certificate(node)) > 0;
            if known || trust.standing(&node, now.clock) != Standing::Good {
                continue;
            }
            let certificate = trust.certificate(&node);
            let record = trust.record(&node).map(|(_, bytes)| bytes);
            let papers = [
                (Key::Certificate(node), certificate),
                (Key::Record(node), record),
            ];
            for (key, bytes) in papers {
                back.extend(bytes.map(|bytes| (key, Bytes::copy_from_slice(bytes))));
            }
        }
        for (key, bytes) in back {
            let write = self.log.put(key, bytes, now.clock);
            self.queue([write]);
        }
    }

    /// A node has a new certificate: if it was let in for its cure only, it comes back whole.
    fn cure(&mut self, node: NodeId, now: Now) {
        let was_restricted = self
            .sessions
            .values()
            .any(|session| session.who == Who::Member(node) && session.restricted.is_some());
        if was_restricted && self.restriction(node, now.clock).is_none() {
            self.outputs.push_back(Output::Cut(node));
        }
    }

    fn cut(&mut self, node: NodeId, now: Now) {
        let restricted = self.restriction(node, now.clock);
        for session in self.sessions.values_mut() {
            if session.who == Who::Member(node) && session.restricted.is_none() {
                session.restricted = restricted;
                self.presence.handle_down(node, now.instant, now.clock);
            }
        }
        self.cuts.entry(node).or_insert(now.instant + LAST_WORD);
    }

    fn restriction(&self, node: NodeId, clock: UnixTime) -> Option<Refusal> {
        match self
            .trust
            .as_ref()
            .map(|trust| trust.standing(&node, clock))
        {
            Some(Standing::Good) => None,
            Some(Standing::Expired) => Some(Refusal::Expired),
            _ => Some(Refusal::Revoked),
        }
    }

    /// Whether this certificate makes this very beacon a member: with it, the beacon is claimed,
    /// and its floors bind the beacon too.
    fn recognise(&mut self, node: NodeId, clock: UnixTime) {
        let Some(trust) = self.trust.as_mut() else {
            return;
        };
        let own = trust
            .member(&node)
            .is_some_and(|member| member.role == Role::Beacon && member.identity == self.key);
        let certificate = trust.certificate(&node).filter(|_| own).map(<[u8]>::to_vec);
        if let Some(certificate) = certificate
            && trust.enroll(&certificate, &self.key, clock).is_ok()
        {
            self.me = Some(node);
        }
    }

    fn is_beacon(&self, node: &NodeId) -> bool {
        is_beacon(self.trust.as_ref(), node)
    }

    fn tell_presence(&mut self) {
        for node in self.presence.take_changed() {
            for session in self.sessions.values_mut() {
                session.handle_presence(node);
            }
        }
    }

    fn queue<const N: usize>(&mut self, writes: [Write; N]) {
        self.queued.extend(writes);
        self.ticket += 1;
    }
}

fn is_beacon(trust: Option<&Trust>, node: &NodeId) -> bool {
    trust
        .and_then(|trust| trust.member(node))
        .is_some_and(|member| member.role == Role::Beacon)
}

/// How often dates are compared with the clock: a membership lives for months.
const REVIEW: Duration = Duration::from_secs(60);

/// From when a session serves its cure only until its link is closed: for an fsync and a round
/// trip, in which it hears what cut it off; well within the second in which all must be cut off.
const LAST_WORD: Duration = Duration::from_millis(500);

/// A client that is owed so many answers is not read.
const MAX_OWED: usize = 64;

/// While the store fails, no more than so many writes wait for it.
const MAX_UNSTORED: usize = 4096;
