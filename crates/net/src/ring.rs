//! A first-in first-out queue of packets in one preallocated buffer: bounded in bytes and in
//! packets, so nothing is allocated for a packet and a flood costs drops, not memory.

use std::collections::VecDeque;

/// Packets with a note of type `M` each. Each packet lies in one piece.
pub(crate) struct Ring<M> {
    bytes: Box<[u8]>,
    slots: VecDeque<Slot<M>>,
    slot_limit: usize,
    /// Where the next packet starts, unless it must go back to the front of the buffer.
    write: usize,
}

impl<M> Ring<M> {
    /// A ring of so many bytes and packets. The bytes are zero pages until they are used; an
    /// emptied ring begins at its front again, so a quiet one stays small.
    pub(crate) fn new(bytes: usize, slots: usize) -> Self {
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            slots: VecDeque::with_capacity(slots),
            slot_limit: slots,
            write: 0,
        }
    }

    /// How many packets wait.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether `count` packets of at most `size` bytes each fit, wherever the buffer wraps.
    pub(crate) fn has_room(&self, count: usize, size: usize) -> bool {
        // One packet's worth may be lost where the buffer wraps.
        self.slots.len() + count <= self.slot_limit && (count + 1) * size <= self.free()
    }

    /// Whether at least half of it is free: when a writer that had to wait is woken, so that it
    /// has something worth waking for.
    pub(crate) fn is_half_free(&self) -> bool {
        self.slots.len() * 2 <= self.slot_limit && self.free() * 2 >= self.bytes.len()
    }

    /// Queues a packet of `len` bytes for the caller to write; `None` where it is full.
    pub(crate) fn push(&mut self, meta: M, len: usize) -> Option<&mut [u8]> {
        if self.slots.len() == self.slot_limit {
            return None;
        }
        let start = self.place(len)?;
        self.slots.push_back(Slot { start, len, meta });
        self.write = start + len;
        Some(&mut self.bytes[start..start + len])
    }

    /// The newest packet's note and length.
    pub(crate) fn back_mut(&mut self) -> Option<(&mut M, usize)> {
        self.slots.back_mut().map(|slot| (&mut slot.meta, slot.len))
    }

    /// Lengthens the newest packet, where the bytes right behind it are free.
    pub(crate) fn extend_back(&mut self, len: usize) -> Option<&mut [u8]> {
        let read = self.slots.front()?.start;
        let back = self.slots.back_mut()?;
        let start = back.start + back.len;
        let end = if back.start >= read {
            self.bytes.len()
        } else {
            read
        };
        if end - start < len {
            return None;
        }
        back.len += len;
        self.write = start + len;
        Some(&mut self.bytes[start..start + len])
    }

    /// The oldest packet.
    pub(crate) fn front(&self) -> Option<(&M, &[u8])> {
        self.slots
            .front()
            .map(|slot| (&slot.meta, &self.bytes[slot.start..slot.start + slot.len]))
    }

    /// Drops the oldest packet.
    pub(crate) fn pop(&mut self) {
        self.slots.pop_front();
        if self.slots.is_empty() {
            self.write = 0;
        }
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.write = 0;
    }

    fn free(&self) -> usize {
        match self.slots.front() {
            None => self.bytes.len(),
            Some(front) if self.write > front.start => self.bytes.len() - self.write + front.start,
            Some(front) => front.start - self.write,
        }
    }

    fn place(&self, len: usize) -> Option<usize> {
        let (write, capacity) = (self.write, self.bytes.len());
        match self.slots.front().map(|front| front.start) {
            None => (len <= capacity).then_some(0),
            Some(read) if write > read && capacity - write >= len => Some(write),
            Some(read) if write > read => (len <= read).then_some(0),
            Some(read) => (read - write >= len).then_some(write),
        }
    }
}

struct Slot<M> {
    start: usize,
    len: usize,
    meta: M,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in_wherever_the_buffer_wraps() {
        let mut ring = Ring::new(100, 8);
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..1_000usize {
            let len = 1 + round * 7 % 40;
            if let Some(bytes) = ring.push(next_in, len) {
                bytes.fill(next_in);
                next_in = next_in.wrapping_add(1);
            }
            if round % 3 != 0
                && let Some((&meta, bytes)) = ring.front()
            {
                assert_eq!(meta, next_out);
                assert!(bytes.iter().all(|&byte| byte == next_out));
                next_out = next_out.wrapping_add(1);
                ring.pop();
            }
        }
        assert!(next_in > 100 || next_out > 100);
    }

    #[test]
    fn what_it_says_fits_does_fit() {
        let mut ring = Ring::new(1_000, 64);
        let mut promised = 0;
        for round in 0..5_000usize {
            if ring.has_room(3, 90) {
                for _ in 0..3 {
                    ring.push((), 90).expect("promised");
                }
                promised += 1;
            }
            for _ in 0..round % 4 {
                ring.pop();
            }
        }
        assert!(promised > 100);
    }

    #[test]
    fn the_newest_packet_grows_only_into_free_bytes() {
        let mut ring = Ring::new(100, 8);
        ring.push((), 60).expect("empty");
        assert!(ring.extend_back(30).is_some());
        assert!(ring.extend_back(20).is_none());
        ring.push((), 10).expect("the rest");
        ring.pop();
        ring.push((), 50).expect("wraps");
        assert!(ring.extend_back(40).is_some());
        assert!(
            ring.extend_back(1).is_none(),
            "the packet at 90 is not overwritten"
        );
        assert!(ring.push((), 1).is_none());
        assert_eq!(ring.front().map(|(_, bytes)| bytes.len()), Some(10));
    }
}
