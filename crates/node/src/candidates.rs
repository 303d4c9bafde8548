//! Where this gateway may be reached: its interfaces' addresses at the mesh port, and its address
//! as each beacon sees it. Looked at again every half minute, and when a beacon sees another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use identity::NodeId;
use net::interfaces::{Wanted, local_addresses};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use tunnel::{Candidate, CandidateKind};

use crate::plane::PlaneCommand;

/// The task.
pub struct Candidates {
    /// The mesh socket's port.
    pub port: u16,
    /// Never a candidate.
    pub overlay: Ipv6Addr,
    /// Whether loopback addresses count, for several gateways on one host.
    pub allow_loopback: bool,
    /// Our address as each beacon sees it.
    pub observed: watch::Receiver<BTreeMap<NodeId, SocketAddr>>,
    /// Hears of them.
    pub plane: mpsc::Sender<PlaneCommand>,
    /// Told when this host's own addresses changed.
    pub retry: mpsc::Sender<()>,
}

impl Candidates {
    /// Runs until the node stops.
    pub async fn run(mut self) {
        let mut look = tokio::time::interval(LOOK_AGAIN);
        let (mut addresses, mut told) = (None::<BTreeSet<IpAddr>>, Vec::new());
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = self.observed.changed() => if changed.is_err() { return },
            }
            let now = self.local();
            let moved = addresses.as_ref().is_some_and(|before| *before != now);
            let candidates = self.gather(&now);
            addresses = Some(now);
            if candidates != told {
                debug!(count = candidates.len(), "candidates changed");
                told = candidates.clone();
                if self
                    .plane
                    .send(PlaneCommand::Candidates(candidates))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if moved {
                // A full channel holds one of these already.
                let _ = self.retry.try_send(());
                if self.plane.send(PlaneCommand::NetChange).await.is_err() {
                    return;
                }
            }
        }
    }

    fn local(&self) -> BTreeSet<IpAddr> {
        let wanted = Wanted {
            loopback: self.allow_loopback,
            overlay: Some(self.overlay),
        };
        match local_addresses(wanted) {
            Ok(addresses) => addresses.into_iter().collect(),
            Err(error) => {
                warn!(%error, "cannot list this host's addresses");
                BTreeSet::new()
            }
        }
    }

    fn gather(&mut self, local: &BTreeSet<IpAddr>) -> Vec<Candidate> {
        let host = local.iter().map(|ip| Candidate {
            addr: SocketAddr::new(*ip, self.port),
            kind: CandidateKind::Host,
        });
        let seen: BTreeSet<SocketAddr> = self
            .observed
            .borrow_and_update()
            .values()
            .copied()
            .collect();
        let observed = seen.into_iter().map(|addr| Candidate {
            addr,
            kind: CandidateKind::Observed,
        });
        let mut all: Vec<Candidate> = host.chain(observed).collect();
        let mut known = BTreeSet::new();
        all.retain(|candidate| known.insert(candidate.addr));
        all
    }
}

/// An interface that came up is noticed within this time; the beacon notices a new public address
/// sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
