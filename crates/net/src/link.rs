//! The client's end of a link to a beacon: one task for each beacon keeps one connection up, and
//! a [`Link`] is the handle to it that the data plane and the control task hold.
//!
//! It dials QUIC over the mesh socket, and TLS over TCP beside it when QUIC is not up within
//! 250 ms. Whoever is up first serves; QUIC takes over from TCP as soon as UDP works again. A lost
//! link comes back by itself. **Invariant:** nothing here ever blocks the data plane: what has no
//! room is dropped, oldest first, and counted.
//!
//! ```text
//! Link::send ─────────────► QUIC DATAGRAMs | queue ─► TLS ──┐
//! Link::request ─► frames ─► one stream ────────────────────┴─► beacon
//! events ◄──────── task ◄────────────────────────────────────── beacon
//! ```
//! [`call()`] is the short-lived form for operators, joiners and claimants.

mod backoff;
mod call;
mod dial;
mod handshake;
mod heartbeat;
mod outbox;
mod task;

pub mod carrier;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use identity::{HostPort, IdentityKey, IdentityPublic, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use wire::link::{GoneReason, Refusal};
use wire::map::{MapRequest, MapUpdate};

use crate::resolver::ResolveError;
use crate::tls::TlsError;
use outbox::Outbox;

pub use call::{Call, CallAs, CallConfig, CallError, call};
pub use dial::Dialer;

/// One beacon, who calls it, and who hears of it.
pub struct LinkConfig {
    /// Where it listens, as the issuer signed it.
    pub beacon: HostPort,
    /// Its node id: names the link in events.
    pub node: NodeId,
    /// Its identity key. `None` lets any key answer: only for a node that is expired or revoked
    /// and looks for its cure (identity.md §6).
    pub key: Option<IdentityPublic>,
    /// Proves who we are.
    pub identity: Arc<IdentityKey>,
    /// What we show; the link waits for the first, and shows the newest.
    pub papers: watch::Receiver<Option<Papers>>,
    /// Who hears of it; several links may share one channel. While it is full, the link reads no
    /// further, so that what cannot be taken waits (or is dropped, oldest first) at the beacon.
    pub events: mpsc::Sender<(NodeId, LinkEvent)>,
}

/// What a node shows to beacons and peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Papers {
    /// The certificate: membership, with binding and receipt where it came by token.
    pub certificate: Bytes,
    /// The newest record.
    pub record: Bytes,
}

/// The handle to a link. Clones share it; when the last is dropped, the link closes.
#[derive(Clone)]
pub struct Link {
    outbox: Arc<Outbox>,
    state: watch::Receiver<LinkState>,
    commands: mpsc::Sender<Command>,
}

/// How a link stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkState {
    /// Dialling for the first time.
    Connecting,
    /// Up, by QUIC.
    Quic {
        /// Smoothed round trip.
        rtt: Duration,
    },
    /// Up, by TLS over TCP.
    Tls {
        /// Of the last heartbeat; `None` before the first.
        rtt: Option<Duration>,
    },
    /// Down, and trying again.
    Down {
        /// Why it is down, or why the last try failed.
        why: LinkFault,
    },
}

/// What happens on a link.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A connection is up. It may come again without a [`LinkEvent::Down`], where QUIC took over
    /// from TCP: the beacon's side of the map is then a new one, so watch and publish again.
    Up {
        /// Our address, as the beacon sees it.
        observed: SocketAddr,
        /// Whether that is the address of our UDP socket (QUIC), or only of a TCP connection.
        udp: bool,
        /// Set where the beacon serves only our cure.
        restricted: Option<Refusal>,
    },
    /// The connection is lost; another is being dialled.
    Down {
        /// Why.
        why: LinkFault,
    },
    /// A relayed datagram.
    Datagram {
        /// From this peer, by the beacon's word.
        from: NodeId,
        /// Ciphertext.
        payload: Bytes,
    },
    /// A peer shows its papers before its first datagram.
    Introduced {
        /// The peer, by the beacon's word.
        from: NodeId,
        /// Not verified.
        certificate: Bytes,
        /// Not verified.
        record: Bytes,
    },
    /// A datagram could not be passed on.
    Gone {
        /// To this peer.
        node: NodeId,
        /// Why.
        reason: GoneReason,
    },
    /// From the coordinator.
    Map(MapUpdate),
    /// Our UDP address, as the beacon sees it, changed.
    Observed(SocketAddr),
    /// The beacon goes away soon: prefer another.
    Drain {
        /// The link reconnects within this time.
        within: Duration,
    },
}

/// Why a link is not up.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkFault {
    /// The beacon's name has no address.
    #[error("cannot look up the beacon")]
    Resolve(#[source] Arc<ResolveError>),
    /// Nobody answers there, by UDP or TCP.
    #[error("the beacon does not answer")]
    Silent,
    /// Who answers there does not hold the beacon's identity key.
    #[error("who answers at the beacon's address does not hold its key")]
    WrongKey,
    /// It answers, and breaks the protocol.
    #[error("the beacon answers out of turn")]
    Protocol,
    /// It does not let us in.
    #[error("the beacon refused: {0}")]
    Refused(Refusal),
    /// The connection broke, or fell silent.
    #[error("the connection to the beacon was lost")]
    Lost,
    /// The beacon said goodbye.
    #[error("the beacon is going away")]
    Drained,
    /// Our own key does not suit TLS.
    #[error("tls cannot use this node's key")]
    Tls(#[source] Arc<TlsError>),
    /// Closed from this side.
    #[error("the link was closed")]
    Closed,
}

/// A map request found no room, or no connection: ask again after [`LinkEvent::Up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link is down or has no room")]
pub struct NotSent;

/// What a link counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Datagrams handed to the transport.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams dropped for want of room, oldest first.
    pub dropped: u64,
    /// Datagrams given while the link was down.
    pub down: u64,
    /// Datagrams larger than [`Link::max_datagram`].
    pub too_large: u64,
    /// Connections that came up.
    pub connections: u64,
}

impl Link {
    /// Opens the link and spawns its task, which ends after [`Link::close`], or once all handles
    /// or the receiver of its events are gone. Must be called inside a tokio runtime.
    pub fn open(config: LinkConfig, dialer: Dialer) -> (Self, JoinHandle<()>) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, state) = watch::channel(LinkState::Connecting);
        let outbox = Arc::new(Outbox::new(config.papers.clone()));
        let task = task::Task::new(config, dialer, Arc::clone(&outbox), told, inbox);
        (
            Self {
                outbox,
                state,
                commands,
            },
            tokio::spawn(task.run()),
        )
    }

    /// Relays one WireGuard datagram to a peer, introducing ourselves first where this connection
    /// has not yet. Never blocks: what has no room is dropped and counted.
    pub fn send(&self, peer: NodeId, datagram: &[u8]) {
        self.outbox.send(peer, datagram);
    }

    /// Asks the coordinator.
    pub fn request(&self, request: MapRequest) -> Result<(), NotSent> {
        self.outbox.request(request)
    }

    /// How the link stands, and when that changes.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// The largest datagram that [`Link::send`] takes now; `None` while the link is down.
    pub fn max_datagram(&self) -> Option<usize> {
        self.outbox.max_datagram()
    }

    /// What was counted so far.
    pub fn counters(&self) -> LinkCounters {
        self.outbox.counters.read()
    }

    /// The network changed: try at once what would be tried later.
    pub fn retry_now(&self) {
        // A full channel holds one of these already.
        let _ = self.commands.try_send(Command::RetryNow);
    }

    /// Closes the link, telling the beacon.
    pub async fn close(&self) {
        // No receiver: it is closed already.
        let _ = self.commands.send(Command::Close).await;
    }
}

impl LinkState {
    /// Whether datagrams and requests go through now.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Quic { .. } | Self::Tls { .. })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// What a handle tells the task.
#[derive(Debug)]
enum Command {
    RetryNow,
    Close,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
    down: AtomicU64,
    too_large: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    fn read(&self) -> LinkCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounters {
            sent: of(&self.sent),
            received: of(&self.received),
            dropped: of(&self.dropped),
            down: of(&self.down),
            too_large: of(&self.too_large),
            connections: of(&self.connections),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

const COMMANDS: usize = 4;
