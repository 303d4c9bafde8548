//! What the shell is to carry out, in buffers that are used again: after the first packets nothing
//! here allocates.
//!
//! **Invariant:** `wire[..wire_used]` holds the datagrams of `batches`, `plain[..plain_used]` the
//! packets of `deliveries`, in order; both are empty again once all was polled.

use std::collections::VecDeque;

use identity::NodeId;
use path::Link;

use crate::types::{Event, Output};

/// The outputs of one turn.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    wire: Vec<u8>,
    wire_used: usize,
    batches: Vec<Batch>,
    next_batch: usize,
    plain: Vec<u8>,
    plain_used: usize,
    deliveries: Vec<Delivery>,
    next_delivery: usize,
    events: VecDeque<Event>,
}

/// Datagrams of one size on one link.
#[derive(Debug)]
struct Batch {
    link: Link,
    start: usize,
    end: usize,
    segment_size: usize,
    /// The last datagram was shorter: nothing may follow it.
    closed: bool,
}

#[derive(Debug)]
struct Delivery {
    peer: NodeId,
    start: usize,
    end: usize,
}

impl Outbox {
    /// Room for a datagram of at most this size; `transmit` then sends a prefix of it.
    pub(crate) fn wire_room(&mut self, size: usize) -> &mut [u8] {
        room(&mut self.wire, self.wire_used, size)
    }

    /// Sends the first `size` bytes of the last room on this link.
    pub(crate) fn transmit(&mut self, link: Link, size: usize) {
        let (start, end) = (self.wire_used, self.wire_used + size);
        self.wire_used = end;
        let polled = self.next_batch >= self.batches.len();
        if let Some(last) = self.batches.last_mut().filter(|_| !polled) {
            let joins = last.link == link
                && !last.closed
                && last.end == start
                && size <= last.segment_size
                && end - last.start <= MAX_BATCH
                && (last.end - last.start) / last.segment_size < MAX_SEGMENTS;
            if joins {
                last.end = end;
                last.closed = size < last.segment_size;
                return;
            }
        }
        self.batches.push(Batch {
            link,
            start,
            end,
            segment_size: size,
            closed: false,
        });
    }

    /// Sends these bytes on this link.
    pub(crate) fn transmit_bytes(&mut self, link: Link, bytes: &[u8]) {
        self.wire_room(bytes.len()).copy_from_slice(bytes);
        self.transmit(link, bytes.len());
    }

    /// Sends the datagram that was sent last on one more link.
    pub(crate) fn transmit_again(&mut self, link: Link, size: usize) {
        let start = self.wire_used - size;
        room(&mut self.wire, self.wire_used, size);
        self.wire.copy_within(start..start + size, self.wire_used);
        self.transmit(link, size);
    }

    /// Room for a packet of at most this size; `deliver` then delivers a prefix of it.
    pub(crate) fn plain_room(&mut self, size: usize) -> &mut [u8] {
        room(&mut self.plain, self.plain_used, size)
    }

    /// Delivers the first `size` bytes of the last room.
    pub(crate) fn deliver(&mut self, peer: NodeId, size: usize) {
        let (start, end) = (self.plain_used, self.plain_used + size);
        self.plain_used = end;
        self.deliveries.push(Delivery { peer, start, end });
    }

    /// Tells an event; the oldest is lost where nobody drains.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next output; `None` when all was polled.
    pub(crate) fn poll(&mut self) -> Option<Output<'_>> {
        if self.next_batch < self.batches.len() {
            let batch = &self.batches[self.next_batch];
            self.next_batch += 1;
            return Some(Output::Transmit {
                link: &batch.link,
                bytes: &self.wire[batch.start..batch.end],
                segment_size: batch.segment_size,
            });
        }
        if self.next_delivery < self.deliveries.len() {
            let delivery = &self.deliveries[self.next_delivery];
            self.next_delivery += 1;
            let packet = &self.plain[delivery.start..delivery.end];
            return Some(Output::Deliver {
                peer: delivery.peer,
                packet,
            });
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        None
    }

    /// Whether all was polled.
    pub(crate) fn is_empty(&self) -> bool {
        self.next_batch >= self.batches.len()
            && self.next_delivery >= self.deliveries.len()
            && self.events.is_empty()
    }

    /// Begins the buffers anew; only once all was polled.
    pub(crate) fn reset(&mut self) {
        self.batches.clear();
        self.deliveries.clear();
        (self.next_batch, self.next_delivery) = (0, 0);
        (self.wire_used, self.plain_used) = (0, 0);
        for buffer in [&mut self.wire, &mut self.plain] {
            if buffer.len() > KEPT {
                buffer.truncate(KEPT);
                buffer.shrink_to_fit();
            }
        }
    }
}

/// The buffer behind `used`, grown where it must be and never shrunk: growing once zeroes once.
fn room(buffer: &mut Vec<u8>, used: usize, size: usize) -> &mut [u8] {
    if buffer.len() < used + size {
        buffer.resize((used + size).next_multiple_of(4096), 0);
    }
    &mut buffer[used..used + size]
}

/// One GSO send: Linux takes at most 64 segments, and UDP over IPv4 at most 65,507 bytes.
const MAX_SEGMENTS: usize = 64;
const MAX_BATCH: usize = 65_507;

const MAX_EVENTS: usize = 1024;

/// What is kept of a buffer after a burst.
const KEPT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(port: u16) -> Link {
        Link::Direct {
            remote: ([192, 0, 2, 1], port).into(),
        }
    }

    fn sizes(outbox: &mut Outbox) -> Vec<(usize, usize)> {
        let mut sizes = Vec::new();
        while let Some(Output::Transmit {
            bytes,
            segment_size,
            ..
        }) = outbox.poll()
        {
            sizes.push((bytes.len(), segment_size));
        }
        sizes
    }

    #[test]
    fn equal_datagrams_of_one_link_leave_together_and_a_shorter_one_ends_the_batch() {
        let mut outbox = Outbox::default();
        for size in [100, 100, 60, 60, 100] {
            outbox.transmit_bytes(link(1), &vec![1; size]);
        }
        outbox.transmit_bytes(link(2), &[1; 100]);

        assert_eq!(
            sizes(&mut outbox),
            [(260, 100), (60, 60), (100, 100), (100, 100)]
        );
    }

    #[test]
    fn a_batch_has_at_most_64_segments_and_65507_bytes() {
        let mut outbox = Outbox::default();
        for _ in 0..70 {
            outbox.transmit_bytes(link(1), &[1; 100]);
        }
        assert_eq!(sizes(&mut outbox), [(6400, 100), (600, 100)]);

        for _ in 0..60 {
            outbox.transmit_bytes(link(1), &[1; 1472]);
        }
        assert_eq!(sizes(&mut outbox)[0].0, 44 * 1472);
    }
}
