//! Packets that are larger than their link: split inside the session, put together at the peer, so
//! that a relay link or a small path carries QUIC's full packets.

use std::time::{Duration, Instant};

use wire::probe::{Fragment, MAX_FRAGMENTS};

use crate::packet::MAX_PACKET;

/// Packets of one peer that are not whole yet. Its buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    id: u32,
    count: u8,
    since: Instant,
    lengths: [u16; MAX_FRAGMENTS],
    /// Part `n` begins at `n * MAX_PACKET`.
    bytes: Vec<u8>,
}

impl Reassembly {
    /// Takes a part. When it was the last missing one, the packet is written to `out`, which has
    /// room for [`MAX_PACKET`] bytes, and its length returned.
    pub(crate) fn handle(
        &mut self,
        part: &Fragment<'_>,
        out: &mut [u8],
        now: Instant,
    ) -> Option<usize> {
        let index = usize::from(part.index);
        if index >= MAX_FRAGMENTS || part.part.len() > MAX_PACKET {
            return None;
        }
        let slot = self.slot(part.id, part.count, now)?;
        let at = index * MAX_PACKET;
        if slot.bytes.len() < at + part.part.len() {
            slot.bytes.resize(at + part.part.len(), 0);
        }
        slot.bytes[at..at + part.part.len()].copy_from_slice(part.part);
        slot.lengths[index] = u16::try_from(part.part.len()).ok()?;
        let lengths = &slot.lengths[..usize::from(slot.count)];
        if lengths.contains(&0) {
            return None;
        }
        let mut length = 0;
        for (n, part) in lengths
            .iter()
            .map(|&length| usize::from(length))
            .enumerate()
        {
            let target = out.get_mut(length..length + part)?;
            target.copy_from_slice(&slot.bytes[n * MAX_PACKET..n * MAX_PACKET + part]);
            length += part;
        }
        slot.count = 0;
        Some(length)
    }

    /// The packet's slot: its own, else a free or outdated one, else the oldest.
    fn slot(&mut self, id: u32, count: u8, now: Instant) -> Option<&mut Slot> {
        let own = self
            .slots
            .iter()
            .position(|slot| slot.count > 0 && slot.id == id);
        if let Some(own) = own {
            return (self.slots[own].count == count).then_some(&mut self.slots[own]);
        }
        let stale = |slot: &Slot| {
            slot.count == 0 || now.saturating_duration_since(slot.since) > WHOLE_WITHIN
        };
        let place = match self.slots.iter().position(stale) {
            Some(place) => place,
            None if self.slots.len() < MAX_SLOTS => {
                self.slots.push(Slot {
                    id,
                    count,
                    since: now,
                    lengths: [0; MAX_FRAGMENTS],
                    bytes: Vec::with_capacity(2 * MAX_PACKET),
                });
                self.slots.len() - 1
            }
            None => (0..self.slots.len()).min_by_key(|&place| self.slots[place].since)?,
        };
        let slot = &mut self.slots[place];
        (slot.id, slot.count, slot.since) = (id, count, now);
        slot.lengths = [0; MAX_FRAGMENTS];
        Some(slot)
    }
}

/// Packets of one peer in the making: what a link reorders within a few milliseconds.
const MAX_SLOTS: usize = 8;
const WHOLE_WITHIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: u32, index: u8, count: u8, part: &[u8]) -> Fragment<'_> {
        Fragment {
            id,
            index,
            count,
            part,
        }
    }

    #[test]
    fn parts_in_any_order_become_the_packet_once() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut out = [0; MAX_PACKET];

        assert_eq!(
            reassembly.handle(&part(1, 1, 2, b"def"), &mut out, now),
            None
        );
        assert_eq!(
            reassembly.handle(&part(1, 1, 2, b"def"), &mut out, now),
            None
        );
        assert_eq!(
            reassembly.handle(&part(1, 0, 2, b"abc"), &mut out, now),
            Some(6)
        );
        assert_eq!(&out[..6], b"abcdef");
    }

    #[test]
    fn unfinished_packets_are_bounded_and_too_large_ones_are_dropped() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut out = [0; MAX_PACKET];

        for id in 0..10_000 {
            assert_eq!(
                reassembly.handle(&part(id, 0, 4, &[1; 1000]), &mut out, now),
                None
            );
        }
        assert!(reassembly.slots.len() <= MAX_SLOTS);
        assert!(
            reassembly
                .slots
                .iter()
                .all(|slot| slot.bytes.len() <= MAX_FRAGMENTS * MAX_PACKET)
        );
        reassembly.handle(&part(9999, 1, 4, &[1; 1000]), &mut out, now);
        reassembly.handle(&part(9999, 2, 4, &[1; 1000]), &mut out, now);
        assert_eq!(
            reassembly.handle(&part(9999, 3, 4, &[1; 1000]), &mut out, now),
            None
        );
    }
}
