//! The last word to whoever is cut off. A policy or a kill that parts us from a peer must still
//! reach it: with the beacons gone we may be all that it hears, and it may be the only way to others.
//!
//! **Invariant:** from the first moment nothing is taken of it (the world no longer knows it, the
//! tunnel drops what it sends); only the document that says why goes out, and then the tunnel is
//! dropped, [`LAST_WORD`] later at most.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use identity::NodeId;
use tunnel::PeerConfig;
use wire::peer::PeerFrame;

use super::State;
use crate::control::gossip::Kind;

/// Until when, and what was not said yet.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    /// There is news that was not acted on.
    news: bool,
    /// News that was too large to be sent to everybody.
    unsaid: BTreeSet<Kind>,
    until: Option<Instant>,
}

impl Farewell {
    /// A document came that may part us from peers; `said` where it was sent to all of them.
    pub(super) fn handle_news(&mut self, kind: Kind, said: bool) {
        self.news = true;
        if !said {
            self.unsaid.insert(kind);
        }
    }

    /// Whether the time of a last word is over now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// When [`Farewell::handle_timeout`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// Whether nobody is being told good-bye.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_none()
    }
}

impl State {
    /// The peers that should hear of news by a session that is made for it: those that no beacon
    /// reaches, as far as is known, and that stay peers.
    pub(super) fn to_call(&self, peers: &[PeerConfig]) -> Vec<NodeId> {
        if !self.farewell.news {
            return Vec::new();
        }
        let told = |node: &NodeId| {
            self.links.values().any(|link| {
                let present = link.presence.get(node).is_some_and(|(online, _)| *online);
                link.up && link.caught_up && present
            })
        };
        let nodes = peers.iter().map(|peer| peer.node);
        nodes
            .filter(|node| !self.gossip.is_up(node) && !told(node))
            .collect()
    }

    /// Keeps those in session that are cut off by news, for as long as the last word takes.
    pub(super) fn say_farewell(&mut self, peers: &mut Vec<PeerConfig>) {
        if std::mem::take(&mut self.farewell.news) {
            self.farewell.until = Some(self.now.instant + LAST_WORD);
        }
        if self.farewell.is_over() {
            return;
        }
        let Some(told) = self.told.peers.clone() else {
            return;
        };
        let unsaid = std::mem::take(&mut self.farewell.unsaid);
        let stays = |node: &NodeId| peers.iter().any(|peer| peer.node == *node);
        let leaving: Vec<PeerConfig> = told
            .iter()
            .filter(|peer| !stays(&peer.node) && self.gossip.is_up(&peer.node))
            .map(|peer| PeerConfig {
                leaving: true,
                ..peer.clone()
            })
            .collect();
        for peer in &leaving {
            for kind in &unsaid {
                if let Some(document) = self.head_document(*kind) {
                    self.send_peer(peer.node, PeerFrame::Document(document));
                }
            }
        }
        peers.extend(leaving);
    }
}

/// A document of a kill goes out in one flight, and is sent again where it is lost: this is time for
/// a second try over 100 ms, and leaves the rest of the second in which all must be cut off.
const LAST_WORD: Duration = Duration::from_millis(300);
