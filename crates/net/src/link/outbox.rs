//! The way out of a link, shared between its handles and its task: where datagrams and requests
//! go at this moment.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use identity::NodeId;
use quinn::SendDatagramError;
use tokio::sync::{Notify, mpsc, watch};
use wire::link::{ClientFrame, MAX_RELAYED, RelayDatagram};
use wire::map::MapRequest;

use super::{Counters, NotSent, Papers, count};

/// Leads to the connection that serves now, if any.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) counters: Counters,
    papers: watch::Receiver<Option<Papers>>,
    route: Mutex<Option<Route>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) way: Way,
    pub(super) frames: mpsc::Sender<ClientFrame>,
    /// Whether the beacon relays for us at all.
    pub(super) relays: bool,
    introduced: BTreeSet<NodeId>,
}

/// How datagrams travel.
#[derive(Debug)]
pub(super) enum Way {
    /// As QUIC DATAGRAMs, from a shared block, so that most of them cost no allocation.
    Quic(quinn::Connection, BytesMut),
    /// As frames.
    Tls(Arc<DatagramQueue>),
}

/// Datagrams that wait for a TCP connection.
#[derive(Debug, Default)]
pub(super) struct DatagramQueue {
    waiting: Mutex<VecDeque<RelayDatagram>>,
    filled: Notify,
}

impl Outbox {
    pub(super) fn new(papers: watch::Receiver<Option<Papers>>) -> Self {
        Self {
            counters: Counters::default(),
            papers,
            route: Mutex::new(None),
        }
    }

    /// From now on everything goes this way; `None`: nowhere.
    pub(super) fn set_route(&self, route: Option<Route>) {
        *self.route() = route;
    }

    pub(super) fn send(&self, peer: NodeId, datagram: &[u8]) {
        let mut route = self.route();
        let Some(route) = route.as_mut().filter(|route| route.relays) else {
            return count(&self.counters.down);
        };
        if datagram.len() > route.way.max_datagram() {
            return count(&self.counters.too_large);
        }
        route.introduce(peer, &self.papers);
        match &mut route.way {
            Way::Quic(connection, block) => {
                if block.capacity() < RelayDatagram::OVERHEAD + datagram.len() {
                    block.reserve(BLOCK);
                }
                block.extend_from_slice(&peer.0);
                block.extend_from_slice(datagram);
                let bytes = block.split().freeze();
                if connection.datagram_send_buffer_space() < bytes.len() {
                    count(&self.counters.dropped); // quinn makes room by dropping the oldest
                }
                match connection.send_datagram(bytes) {
                    Ok(()) => count(&self.counters.sent),
                    Err(SendDatagramError::TooLarge) => count(&self.counters.too_large),
                    Err(_) => count(&self.counters.down),
                }
            }
            Way::Tls(queue) => {
                let payload = Bytes::copy_from_slice(datagram);
                if queue.push(RelayDatagram { peer, payload }) {
                    count(&self.counters.dropped);
                }
                count(&self.counters.sent);
            }
        }
    }

    pub(super) fn request(&self, request: MapRequest) -> Result<(), NotSent> {
        let route = self.route();
        let route = route.as_ref().ok_or(NotSent)?;
        route
            .frames
            .try_send(ClientFrame::Map(request))
            .map_err(|_| NotSent)
    }

    pub(super) fn max_datagram(&self) -> Option<usize> {
        self.route().as_ref().map(|route| route.way.max_datagram())
    }

    fn route(&self) -> MutexGuard<'_, Option<Route>> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    pub(super) fn new(way: Way, frames: mpsc::Sender<ClientFrame>, relays: bool) -> Self {
        Self {
            way,
            frames,
            relays,
            introduced: BTreeSet::new(),
        }
    }

    /// Once per peer and connection. One that finds no room is tried again with the next datagram.
    fn introduce(&mut self, peer: NodeId, papers: &watch::Receiver<Option<Papers>>) {
        if self.introduced.contains(&peer) {
            return;
        }
        let Some(Papers {
            certificate,
            record,
        }) = papers.borrow().clone()
        else {
            return;
        };
        let introduction = ClientFrame::Introduce {
            to: peer,
            certificate,
            record,
        };
        if self.frames.try_send(introduction).is_ok() {
            self.introduced.insert(peer);
        }
    }
}

impl Way {
    fn max_datagram(&self) -> usize {
        match self {
            Self::Quic(connection, _) => {
                let whole = connection.max_datagram_size().unwrap_or(0);
                whole
                    .saturating_sub(RelayDatagram::OVERHEAD)
                    .min(MAX_RELAYED)
            }
            Self::Tls(_) => MAX_RELAYED,
        }
    }
}

impl DatagramQueue {
    /// Whether the oldest had to go to make room.
    pub(super) fn push(&self, datagram: RelayDatagram) -> bool {
        let mut waiting = self.waiting();
        let full = waiting.len() == QUEUE;
        if full {
            waiting.pop_front();
        }
        waiting.push_back(datagram);
        drop(waiting);
        self.filled.notify_one();
        full
    }

    /// Waits until there is something to take.
    pub(super) async fn filled(&self) {
        while self.waiting().is_empty() {
            self.filled.notified().await;
        }
    }

    pub(super) fn pop(&self) -> Option<RelayDatagram> {
        self.waiting().pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<RelayDatagram>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many datagrams as the relay holds for one destination (paths.md §1).
const QUEUE: usize = 512;

/// Room for some fifty datagrams; it returns to use once all of them are sent.
const BLOCK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_loses_its_oldest() {
        let queue = DatagramQueue::default();
        let datagram = |n: u16| RelayDatagram {
            peer: NodeId([0; 16]),
            payload: Bytes::copy_from_slice(&n.to_le_bytes()),
        };

        let lost = (0..514).filter(|n| queue.push(datagram(*n))).count();

        queue.filled().await;
        assert_eq!(lost, 2);
        assert_eq!(queue.pop(), Some(datagram(2)));
    }
}
