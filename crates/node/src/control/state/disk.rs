//! What counts when: nothing before it is on disk, save what takes away.

use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use tunnel::PeerConfig;

use super::{Now, Output, State};
use crate::world::World;

impl State {
    /// The snapshot is on disk: what follows from it may be activated.
    pub fn handle_persisted(&mut self) {
        self.dirty = false;
        self.retry_at = None;
    }

    /// The snapshot could not be written. News is not activated, but whoever lost its right to
    /// talk to us loses it now: that much is safe without a disk.
    pub fn handle_persist_failed(&mut self, now: Now) {
        self.now = now;
        self.retry_at = Some(now.instant + RETRY);
        let allowed = self.peers();
        if let Some(told) = &self.told.peers {
            let kept: Vec<PeerConfig> = told
                .iter()
                .filter(|peer| allowed.iter().any(|other| other.node == peer.node))
                .cloned()
                .collect();
            if kept.len() < told.len() {
                let kept = Arc::new(kept);
                self.told.peers = Some(Arc::clone(&kept));
                self.outputs.push_front(Output::Peers(kept));
            }
        }
        if let Some(world) = self.told.snapshot.clone()
            && let Some(smaller) = self.without_the_killed(&world)
        {
            let smaller = Arc::new(smaller);
            self.told.snapshot = Some(Arc::clone(&smaller));
            // With the disk back it is made whole, whatever was told meanwhile.
            self.told.world = None;
            self.outputs.push_front(Output::World(smaller));
        }
    }

    /// Whether everything that was accepted is on disk.
    pub fn is_kept(&self) -> bool {
        !self.dirty
    }

    /// The same world with everybody out whom the newest revocations name; `None` where it has no
    /// such. For when they cannot be kept.
    fn without_the_killed(&self, world: &World) -> Option<World> {
        let kills = self.kills();
        if kills == world.kills {
            return None;
        }
        let mut smaller = world.clone();
        let gone = |node: &NodeId| kills.gateway(node).is_some();
        smaller.members.retain(|node, _| !gone(node));
        smaller.names.retain(|_, node| !gone(node));
        smaller.kills = kills;
        // What a newer set lifts is lifted when it is on disk.
        smaller.kills.keep(&world.kills);
        Some(smaller)
    }
}

/// A disk that failed is tried again so often.
const RETRY: Duration = Duration::from_secs(1);
