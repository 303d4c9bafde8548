//! What one client was told, and what it is owed. A session holds no queue of changes: it holds a
//! place in the log, a set of nodes whose presence changed, and the few answers to its own
//! requests, so a slow client costs nothing but itself.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use identity::{NodeId, UnixTime};
use net::beacon::Who;
use wire::link::Refusal;
use wire::map::{Cursor, MapUpdate, PublishError};

use crate::log::{Change, ChangeLog};
use crate::presence::Presence;
use crate::store::Key;

/// Names a session within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One client.
#[derive(Debug)]
pub struct Session {
    /// Who, as it proved.
    pub who: Who,
    /// Set where only the cure is served.
    pub restricted: Option<Refusal>,
    /// Whether this session brought the claim.
    pub claimed_here: bool,
    /// How much it may still publish.
    pub budget: Budget,
    watch: Option<Watch>,
    answers: VecDeque<(u64, MapUpdate)>,
}

/// Where a watch stands.
#[derive(Debug)]
struct Watch {
    /// Everything up to this place was told.
    place: u64,
    /// The places of the trust log, the revocations and the policy that the client holds: these
    /// three come first, since nothing else can be judged without them.
    heads: [u64; 3],
    /// Beacons whose certificates go before the rest of a whole map: a certificate that came by
    /// token rests on the certificate of the beacon that gave its receipt.
    beacons: BTreeSet<NodeId>,
    presence: BTreeSet<NodeId>,
    caught_up: Option<Cursor>,
    complete: bool,
}

/// A token bucket over publications: each one may cost an fsync and a word to everybody.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    filled_at: Instant,
}

/// What a session reads from.
pub struct Map<'a> {
    /// The changes.
    pub log: &'a ChangeLog,
    /// Who is here.
    pub presence: &'a Presence,
    /// The heads of what is stored, for the end of a snapshot.
    pub heads: identity::Heads,
    /// Whether a node's certificate is for everybody's cure: a beacon's.
    pub is_beacon: &'a dyn Fn(NodeId) -> bool,
    /// The wall clock.
    pub clock: UnixTime,
}

impl Session {
    /// A client that was just admitted.
    pub fn new(who: Who, restricted: Option<Refusal>, now: Instant) -> Self {
        let budget = Budget {
            left: Budget::BURST,
            filled_at: now,
        };
        let answers = VecDeque::new();
        Self {
            who,
            restricted,
            claimed_here: false,
            budget,
            watch: None,
            answers,
        }
    }

    /// Whether it follows the map.
    pub fn watches(&self) -> bool {
        self.watch.is_some()
    }

    /// Follows the map from `place`; `None` for all of it, `beacons` first. `held` are the places of
    /// the trust log, the revocations and the policy that the client holds already.
    pub fn handle_watch(
        &mut self,
        place: Option<u64>,
        held: [u64; 3],
        beacons: BTreeSet<NodeId>,
        online: BTreeSet<NodeId>,
    ) {
        self.watch = Some(Watch {
            beacons: if place.is_none() {
                beacons
            } else {
                BTreeSet::new()
            },
            place: place.unwrap_or(0),
            heads: held,
            presence: if self.restricted.is_none() {
                online
            } else {
                BTreeSet::new()
            },
            caught_up: None,
            complete: place.is_none(),
        });
    }

    /// A node came or went.
    pub fn handle_presence(&mut self, node: NodeId) {
        if let (Some(watch), None) = (&mut self.watch, self.restricted) {
            watch.presence.insert(node);
        }
    }

    /// How many answers it is owed.
    pub fn owed(&self) -> usize {
        self.answers.len()
    }

    /// Owes this answer once everything up to `ticket` is on disk.
    pub fn answer(&mut self, ticket: u64, update: MapUpdate) {
        self.answers.push_back((ticket, update));
    }

    /// The writes up to `ticket` failed: what waited for them is told so.
    pub fn handle_store_failed(&mut self, ticket: u64) {
        for (waits_for, update) in &mut self.answers {
            let request = match update {
                MapUpdate::Answer { request, .. } | MapUpdate::Receipt { request, .. } => *request,
                _ => continue,
            };
            if *waits_for != 0 && *waits_for <= ticket {
                *waits_for = 0;
                *update = MapUpdate::Answer {
                    request,
                    result: Err(PublishError::Store),
                };
            }
        }
    }

    /// What to send next.
    pub fn poll_update(&mut self, stored_ticket: u64, map: &Map<'_>) -> Option<MapUpdate> {
        if self
            .answers
            .front()
            .is_some_and(|(ticket, _)| *ticket <= stored_ticket)
        {
            return self.answers.pop_front().map(|(_, update)| update);
        }
        let restricted = self.restricted.is_some();
        let who = self.who;
        let watch = self.watch.as_mut()?;
        for (key, told) in HEADS.into_iter().zip(&mut watch.heads) {
            if restricted && key == Key::Policy {
                continue;
            }
            if let Some((place, bytes)) = map.log.newest(key)
                && place > *told
            {
                *told = place;
                return Some(MapUpdate::Document(key.document(bytes.clone())));
            }
        }
        while let Some(node) = watch.beacons.pop_first() {
            let key = Key::Certificate(node);
            if let Some((_, bytes)) = map.log.newest(key) {
                return Some(MapUpdate::Document(key.document(bytes.clone())));
            }
        }
        while let Some((place, change)) = map.log.after(watch.place) {
            watch.place = place;
            match change {
                Change::Document(key, bytes) => {
                    let wanted = match key {
                        Key::TrustLog | Key::Revocations | Key::Policy => false,
                        Key::Certificate(node) if restricted => {
                            who == Who::Member(*node) || (map.is_beacon)(*node)
                        }
                        Key::Certificate(_) => true,
                        Key::Record(_) => !restricted,
                    };
                    if wanted {
                        return Some(MapUpdate::Document(key.document(bytes.clone())));
                    }
                }
                Change::Removed(node) if !watch.complete && !restricted => {
                    return Some(MapUpdate::Removed { node: *node });
                }
                Change::Removed(_) => {}
            }
        }
        while let Some(node) = watch.presence.pop_first() {
            if let Some((online, last_seen)) = map.presence.of(node, map.clock) {
                return Some(MapUpdate::Presence {
                    node,
                    online,
                    last_seen: last_seen.0,
                });
            }
        }
        let cursor = map.log.cursor();
        if watch.caught_up == Some(cursor) {
            return None;
        }
        watch.place = cursor.sequence;
        watch.caught_up = Some(cursor);
        let complete = std::mem::take(&mut watch.complete);
        Some(MapUpdate::CaughtUp {
            cursor,
            complete,
            heads: map.heads,
        })
    }
}

/// The three documents that a client compares by its heads, in the order in which they are needed.
pub const HEADS: [Key; 3] = [Key::TrustLog, Key::Revocations, Key::Policy];

impl Budget {
    /// A gateway publishes its certificate, its record, three bundles and the beacons it knows.
    const BURST: u32 = 64;
    /// One more each so often: a record that changes with every change of address fits.
    const EVERY: Duration = Duration::from_secs(2);

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled_at);
        let more = u32::try_from(since.as_secs() / Self::EVERY.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = Self::BURST.min(self.left.saturating_add(more));
            self.filled_at = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
