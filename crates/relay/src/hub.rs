//! What all connections share: the core, and a door to each of them.
//!
//! The lock is held for one decision of the core, never across an await.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{IdentityKey, NodeId};
use net::beacon::{Admission, Gatekeeper, MapSession};
use tokio::sync::{Notify, mpsc, watch};
use wire::link::{BeaconFrame, RelayDatagram};

use crate::core::{ConnectionId, Core, Counts, Full, Limits, Wake};

pub(crate) struct Hub {
    pub(crate) gatekeeper: Arc<dyn Gatekeeper>,
    pub(crate) key: Arc<IdentityKey>,
    pub(crate) sessions: mpsc::Sender<MapSession>,
    inner: Mutex<Inner>,
}

/// Reads the counters of a running relay.
#[derive(Clone)]
pub struct Monitor(Arc<Hub>);

/// A connection's place in the hub, given back when dropped.
pub(crate) struct Ticket {
    pub(crate) id: ConnectionId,
    pub(crate) door: Arc<Door>,
    hub: Arc<Hub>,
}

/// How others reach the tasks of one connection.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) frames: Notify,
    pub(crate) datagrams: Notify,
    pub(crate) closing: watch::Sender<Option<Goodbye>>,
}

/// Why the relay lets go of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// Its node has a newer connection.
    Replaced,
    /// The coordinator wants it out.
    Cut,
}

struct Inner {
    core: Core,
    doors: BTreeMap<ConnectionId, Arc<Door>>,
}

impl Hub {
    pub(crate) fn new(
        limits: Limits,
        gatekeeper: Arc<dyn Gatekeeper>,
        sessions: mpsc::Sender<MapSession>,
    ) -> Arc<Self> {
        let key = gatekeeper.key();
        let inner = Mutex::new(Inner {
            core: Core::new(limits),
            doors: BTreeMap::new(),
        });
        Arc::new(Self {
            gatekeeper,
            key,
            sessions,
            inner,
        })
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.inner().core.is_busy()
    }

    /// Somebody connects.
    pub(crate) fn arrive(self: &Arc<Self>, from: IpAddr) -> Result<Ticket, Full> {
        let mut inner = self.inner();
        let id = inner.core.handle_arrival(from, Instant::now())?;
        let door = Arc::new(Door {
            frames: Notify::new(),
            datagrams: Notify::new(),
            closing: watch::Sender::new(None),
        });
        inner.doors.insert(id, Arc::clone(&door));
        Ok(Ticket {
            id,
            door,
            hub: Arc::clone(self),
        })
    }

    /// A stranger has proved who it is; the older connection of its node is closed.
    pub(crate) fn admit(&self, id: ConnectionId, admission: &Admission) {
        let mut inner = self.inner();
        let older = inner
            .core
            .handle_admitted(id, admission)
            .filter(|older| *older != id);
        if let Some(door) = older.and_then(|older| inner.doors.get(&older)) {
            door.closing.send_replace(Some(Goodbye::Replaced));
        }
    }

    pub(crate) fn cut(&self, node: &NodeId) {
        let inner = self.inner();
        let id = inner.core.connection_of(node);
        if let Some(door) = id.and_then(|id| inner.doors.get(&id)) {
            door.closing.send_replace(Some(Goodbye::Cut));
        }
    }

    /// Passes a datagram on, and says how long its sender should rest.
    pub(crate) fn relay(&self, id: ConnectionId, datagram: &RelayDatagram) -> Duration {
        let mut inner = self.inner();
        let RelayDatagram { peer, payload } = datagram;
        let wake = inner
            .core
            .handle_datagram(id, *peer, payload, Instant::now());
        inner.wake(wake)
    }

    /// Passes an introduction on, and says how long its sender should rest.
    pub(crate) fn introduce(
        &self,
        id: ConnectionId,
        to: NodeId,
        certificate: Bytes,
        record: Bytes,
    ) -> Duration {
        let mut inner = self.inner();
        let wake = inner
            .core
            .handle_introduction(id, to, certificate, record, Instant::now());
        inner.wake(wake)
    }

    /// A frame from the relay itself.
    pub(crate) fn tell(&self, id: ConnectionId, frame: BeaconFrame) {
        let mut inner = self.inner();
        let frames = inner.core.push_frame(id, frame);
        inner.wake(Wake {
            frames,
            ..Wake::default()
        });
    }

    /// Takes at most `most` datagrams for a client.
    pub(crate) fn take_datagrams(&self, id: ConnectionId, most: usize, out: &mut Vec<Bytes>) {
        let mut inner = self.inner();
        out.extend(std::iter::from_fn(|| inner.core.take_datagram(id)).take(most));
    }

    /// Takes the frames for a client; says when there may be more.
    pub(crate) fn take_frames(
        &self,
        id: ConnectionId,
        out: &mut Vec<BeaconFrame>,
    ) -> Option<Instant> {
        self.inner().core.take_frames(id, Instant::now(), out)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&self, wake: Wake) -> Duration {
        if let Some(door) = wake.datagrams.and_then(|id| self.doors.get(&id)) {
            door.datagrams.notify_one();
        }
        if let Some(door) = wake.frames.and_then(|id| self.doors.get(&id)) {
            door.frames.notify_one();
        }
        wake.pause
    }
}

impl Monitor {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }

    /// What the relay counted so far.
    pub fn counts(&self) -> Counts {
        self.0.inner().core.counts()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        inner.core.handle_closed(self.id);
        inner.doors.remove(&self.id);
    }
}
