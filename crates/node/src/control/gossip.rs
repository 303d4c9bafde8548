//! What peers compare when they meet: heads. The lower side pulls before it judges a message on
//! that session; only that session waits, and five seconds at most (identity.md §5). So trust log,
//! revocations and policy reach everybody who talks to anybody, without a coordinator.
//!
//! The same hello carries the boot counter by which a cloned key betrays itself: a session that was
//! opened *after* a higher counter was seen, and shows a lower one, comes from another machine that
//! holds the same key. (The TLS handshake of the session is the challenge: nobody answers it late.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use identity::{Digest, Heads, NodeId, Order};

/// How long a session waits for the documents that it pulled (identity.md §5).
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The three documents that heads compare, in the order in which they are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The trust log.
    TrustLog,
    /// The revocation set.
    Revocations,
    /// The policy.
    Policy,
}

/// The sessions with peers, as far as documents are concerned.
#[derive(Debug, Default)]
pub struct Gossip {
    peers: BTreeMap<NodeId, Peer>,
    boots: BTreeMap<NodeId, Boot>,
}

#[derive(Debug)]
struct Peer {
    remote: Option<SocketAddr>,
    /// What was asked of it and has not come.
    awaited: Vec<Kind>,
    until: Option<Instant>,
    /// Whether messages on its session may be judged.
    ready: bool,
    pulls: u32,
    pulls_since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Boot {
    counter: u64,
    remote: Option<SocketAddr>,
}

/// Two machines hold one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneAlarm {
    /// Whose key.
    pub node: NodeId,
    /// Where the higher counter was seen, as far as known.
    pub one: Option<SocketAddr>,
    /// Where the lower one answered after it.
    pub other: Option<SocketAddr>,
}

impl Gossip {
    /// A session is up; it waits for the peer's hello.
    pub fn handle_up(&mut self, peer: NodeId, remote: Option<SocketAddr>, now: Instant) {
        let until = Some(now + PATIENCE);
        let fresh = Peer {
            remote,
            awaited: Vec::new(),
            until,
            ready: false,
            pulls: 0,
            pulls_since: now,
        };
        self.peers.insert(peer, fresh);
    }

    /// A session is gone.
    pub fn handle_down(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
    }

    /// The peers with a session.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Whether there is a session with this peer.
    pub fn is_up(&self, peer: &NodeId) -> bool {
        self.peers.contains_key(peer)
    }

    /// The boot counter of a hello.
    pub fn handle_boot(&mut self, peer: NodeId, counter: u64) -> Option<CloneAlarm> {
        let remote = self.peers.get(&peer).and_then(|peer| peer.remote);
        match self.boots.get(&peer) {
            Some(seen) if seen.counter > counter => Some(CloneAlarm {
                node: peer,
                one: seen.remote,
                other: remote,
            }),
            _ => {
                self.boots.insert(peer, Boot { counter, remote });
                None
            }
        }
    }

    /// What the peer holds: returns whether to pull. Until that came, its session is not ready.
    pub fn handle_heads(
        &mut self,
        peer: &NodeId,
        theirs: &Heads,
        mine: &Heads,
        now: Instant,
    ) -> bool {
        let wanted = newer(theirs, mine);
        let Some(peer) = self.peers.get_mut(peer) else {
            return false;
        };
        if wanted.is_empty() {
            peer.until = None;
            peer.awaited.clear();
            peer.ready = true;
            return false;
        }
        peer.awaited = wanted;
        peer.until = Some(now + PATIENCE);
        true
    }

    /// A document of this kind came from the peer, whatever it was worth.
    pub fn handle_document(&mut self, peer: &NodeId, kind: Kind) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.awaited.retain(|awaited| *awaited != kind);
            if peer.awaited.is_empty() && peer.until.take().is_some() {
                peer.ready = true;
            }
        }
    }

    /// What to send to a peer that pulls; nothing where it pulls too often.
    pub fn handle_pull(
        &mut self,
        peer: &NodeId,
        theirs: &Heads,
        mine: &Heads,
        now: Instant,
    ) -> Vec<Kind> {
        let Some(peer) = self.peers.get_mut(peer) else {
            return Vec::new();
        };
        if now.saturating_duration_since(peer.pulls_since) >= PULLS_EVERY {
            peer.pulls = 0;
            peer.pulls_since = now;
        }
        peer.pulls += 1;
        match peer.pulls <= MAX_PULLS {
            true => newer(mine, theirs),
            false => Vec::new(),
        }
    }

    /// Sessions that waited long enough are ready with what there is.
    pub fn handle_timeout(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            if peer.until.is_some_and(|until| now >= until) {
                peer.until = None;
                peer.awaited.clear();
                peer.ready = true;
            }
        }
    }

    /// When [`Gossip::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.until).min()
    }

    /// Whether messages on the session of this peer may be judged: not before its hello, nor while
    /// it awaits newer documents than this node holds.
    pub fn is_ready(&self, peer: &NodeId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|peer| peer.ready && peer.awaited.is_empty())
    }
}

/// The documents of `theirs` that are worth having beside `mine`. A trust log that differs is
/// always worth a look: root may cut it shorter, and only its signatures order it.
pub fn newer(theirs: &Heads, mine: &Heads) -> Vec<Kind> {
    let higher = |theirs: Option<(Order, Digest)>, mine: Option<(Order, Digest)>| {
        theirs.is_some_and(|(theirs, _)| mine.is_none_or(|(mine, _)| theirs > mine))
    };
    let mut kinds = Vec::new();
    if theirs.trust_log.is_some() && theirs.trust_log != mine.trust_log {
        kinds.push(Kind::TrustLog);
    }
    if higher(theirs.revocations, mine.revocations) {
        kinds.push(Kind::Revocations);
    }
    if higher(theirs.policy, mine.policy) {
        kinds.push(Kind::Policy);
    }
    kinds
}

/// A peer that pulls more often than this learns nothing new by it.
const MAX_PULLS: u32 = 8;
const PULLS_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(policy: u64) -> Heads {
        let order = Order {
            epoch: 1,
            version: policy,
        };
        Heads {
            policy: Some((order, Digest([1; 32]))),
            ..Heads::default()
        }
    }

    #[test]
    fn only_the_lower_side_pulls_and_only_its_session_waits() {
        let (now, peer, other) = (Instant::now(), NodeId([1; 16]), NodeId([2; 16]));
        let mut gossip = Gossip::default();
        gossip.handle_up(peer, None, now);
        gossip.handle_up(other, None, now);

        assert!(gossip.handle_heads(&peer, &heads(2), &heads(1), now));
        assert!(!gossip.handle_heads(&other, &heads(1), &heads(2), now));

        assert!(!gossip.is_ready(&peer));
        assert!(gossip.is_ready(&other));
        gossip.handle_document(&peer, Kind::Policy);
        assert!(gossip.is_ready(&peer));
    }

    #[test]
    fn a_peer_that_promises_and_never_sends_delays_its_own_session_by_five_seconds() {
        let (now, peer) = (Instant::now(), NodeId([1; 16]));
        let mut gossip = Gossip::default();
        gossip.handle_up(peer, None, now);
        gossip.handle_heads(&peer, &heads(9), &heads(1), now);

        gossip.handle_timeout(now + PATIENCE - Duration::from_millis(1));
        assert!(!gossip.is_ready(&peer));
        gossip.handle_timeout(gossip.deadline().expect("it waits"));

        assert!(gossip.is_ready(&peer));
        assert_eq!(gossip.deadline(), None);
    }

    #[test]
    fn a_peer_that_pulls_all_day_is_not_served_all_day() {
        let (now, peer) = (Instant::now(), NodeId([1; 16]));
        let mut gossip = Gossip::default();
        gossip.handle_up(peer, None, now);

        let served = (0..100)
            .filter(|_| {
                !gossip
                    .handle_pull(&peer, &heads(1), &heads(2), now)
                    .is_empty()
            })
            .count();

        assert_eq!(served, 8);
        assert!(
            !gossip
                .handle_pull(&peer, &heads(1), &heads(2), now + PULLS_EVERY)
                .is_empty()
        );
    }

    #[test]
    fn a_lower_boot_counter_after_a_higher_one_names_both_places() {
        let (now, peer) = (Instant::now(), NodeId([1; 16]));
        let one: SocketAddr = "192.0.2.1:1".parse().expect("an address");
        let other: SocketAddr = "192.0.2.2:1".parse().expect("an address");
        let mut gossip = Gossip::default();
        gossip.handle_up(peer, Some(one), now);
        assert_eq!(gossip.handle_boot(peer, 7), None);
        assert_eq!(gossip.handle_boot(peer, 8), None, "it was restarted");

        gossip.handle_up(peer, Some(other), now);
        let alarm = gossip.handle_boot(peer, 3);

        assert_eq!(
            alarm,
            Some(CloneAlarm {
                node: peer,
                one: Some(one),
                other: Some(other)
            })
        );
    }
}
