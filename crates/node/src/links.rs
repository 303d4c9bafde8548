//! The links to all beacons, as the issuer's list of beacons changes, and what comes in by them,
//! sorted: datagrams to the data plane, the map to control, our observed addresses to whoever
//! gathers candidates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use identity::{HostPort, IdentityKey, NodeId};
use net::link::{Dialer, Link, LinkConfig, LinkEvent, LinkState, Papers};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};
use wire::map::MapRequest;

use crate::control::{Beacon, ControlInput};
use crate::plane::{PlaneCommand, Relayed};

/// A link, for `status`.
#[derive(Clone, Debug)]
pub struct BeaconLink {
    /// The beacon.
    pub node: NodeId,
    /// Where it listens.
    pub address: HostPort,
    /// How the link stands.
    pub state: watch::Receiver<LinkState>,
}

/// What the task is joined to.
pub struct LinksPorts {
    /// The beacons to keep links to.
    pub beacons: watch::Receiver<Arc<Vec<Beacon>>>,
    /// Requests for the coordinators.
    pub requests: mpsc::Receiver<(NodeId, MapRequest)>,
    /// The host's addresses changed: try at once what would be tried later.
    pub retry: mpsc::Receiver<()>,
    /// Map, presence, introductions.
    pub control: mpsc::Sender<ControlInput>,
    /// Which relays can be used.
    pub plane: mpsc::Sender<PlaneCommand>,
    /// What they relay.
    pub relayed: mpsc::Sender<Relayed>,
    /// Our UDP address as each beacon sees it.
    pub observed: watch::Sender<BTreeMap<NodeId, SocketAddr>>,
    /// All links.
    pub view: watch::Sender<Arc<Vec<BeaconLink>>>,
}

/// The task.
pub struct Links {
    dialer: Dialer,
    identity: Arc<IdentityKey>,
    papers: watch::Receiver<Option<Papers>>,
    ports: LinksPorts,
    open: BTreeMap<NodeId, (Beacon, Link)>,
    /// Given to each link.
    events: mpsc::Sender<(NodeId, LinkEvent)>,
    heard: mpsc::Receiver<(NodeId, LinkEvent)>,
}

impl Links {
    /// No links yet.
    pub fn new(
        dialer: Dialer,
        identity: Arc<IdentityKey>,
        papers: watch::Receiver<Option<Papers>>,
        ports: LinksPorts,
    ) -> Self {
        let (events, heard) = mpsc::channel(EVENTS);
        Self {
            dialer,
            identity,
            papers,
            ports,
            open: BTreeMap::new(),
            events,
            heard,
        }
    }

    /// Runs until the node stops.
    pub async fn run(mut self) {
        self.follow_beacons().await;
        loop {
            tokio::select! {
                Some((beacon, event)) = self.heard.recv() => self.handle_event(beacon, event).await,
                request = self.ports.requests.recv() => match request {
                    Some((beacon, request)) => self.ask(beacon, request),
                    None => break,
                },
                changed = self.ports.beacons.changed() => match changed {
                    Ok(()) => self.follow_beacons().await,
                    Err(_) => break,
                },
                Some(()) = self.ports.retry.recv() => {
                    self.open.values().for_each(|(_, link)| link.retry_now());
                }
            }
        }
        for (_, link) in self.open.values() {
            link.close().await;
        }
    }

    /// Opens what is new in the list, closes what is gone or changed.
    async fn follow_beacons(&mut self) {
        let wanted = self.ports.beacons.borrow_and_update().clone();
        let gone: Vec<NodeId> = self
            .open
            .iter()
            .filter(|(_, (beacon, _))| !wanted.contains(beacon))
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            if let Some((beacon, link)) = self.open.remove(&node) {
                info!(beacon = %beacon.address, "beacon is no longer ours");
                link.close().await;
                self.relay(node, None).await;
            }
        }
        for beacon in wanted.iter() {
            if !self.open.contains_key(&beacon.node) {
                let config = LinkConfig {
                    beacon: beacon.address.clone(),
                    node: beacon.node,
                    key: (!beacon.any_key).then_some(beacon.key),
                    identity: Arc::clone(&self.identity),
                    papers: self.papers.clone(),
                    events: self.events.clone(),
                };
                let (link, _task) = Link::open(config, self.dialer.clone());
                self.open.insert(beacon.node, (beacon.clone(), link));
            }
        }
        let view = self.open.values().map(|(beacon, link)| BeaconLink {
            node: beacon.node,
            address: beacon.address.clone(),
            state: link.state(),
        });
        self.ports.view.send_replace(Arc::new(view.collect()));
    }

    async fn handle_event(&mut self, beacon: NodeId, event: LinkEvent) {
        match &event {
            LinkEvent::Datagram { from, payload } => {
                let relayed = Relayed {
                    relay: beacon,
                    from: *from,
                    payload: payload.clone(),
                };
                // The data plane is behind: a datagram is lost, as on any network.
                if self.ports.relayed.try_send(relayed).is_err() {
                    debug!("relayed datagram dropped: the data plane is behind");
                }
                return;
            }
            LinkEvent::Up {
                observed,
                udp,
                restricted,
            } => {
                info!(%beacon, udp, "link to beacon is up");
                if *udp {
                    self.observe(beacon, Some(*observed));
                }
                let link = self.open.get(&beacon).map(|(_, link)| link.clone());
                self.relay(beacon, link.filter(|_| restricted.is_none()))
                    .await;
            }
            LinkEvent::Down { why } => {
                info!(%beacon, %why, "link to beacon is down");
                self.observe(beacon, None);
                self.relay(beacon, None).await;
            }
            LinkEvent::Observed(address) => self.observe(beacon, Some(*address)),
            _ => {}
        }
        // Control ends only with the node.
        let _ = self
            .ports
            .control
            .send(ControlInput::Link(beacon, event))
            .await;
    }

    fn ask(&self, beacon: NodeId, request: MapRequest) {
        if let Some((_, link)) = self.open.get(&beacon)
            && link.request(request).is_err()
        {
            debug!(%beacon, "request not sent: the link is down");
        }
    }

    fn observe(&self, beacon: NodeId, address: Option<SocketAddr>) {
        self.ports
            .observed
            .send_if_modified(|observed| match address {
                Some(address) => observed.insert(beacon, address) != Some(address),
                None => observed.remove(&beacon).is_some(),
            });
    }

    async fn relay(&self, beacon: NodeId, link: Option<Link>) {
        // The data plane ends only with the node.
        let _ = self
            .ports
            .plane
            .send(PlaneCommand::Relay(beacon, link))
            .await;
    }
}

/// Events of all links that may wait: a few batches of relayed datagrams.
const EVENTS: usize = 512;
