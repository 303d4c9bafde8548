//! Ports in pieces, and together again.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Ports, has_ports};

/// The ports of a protocol, divided where some entry begins or ends.
pub(super) fn pieces(protocol: u8, ports: &BTreeSet<&Ports>) -> Vec<(u16, u16)> {
    if !has_ports(protocol) {
        return vec![(0, u16::MAX)];
    }
    let mut starts = BTreeSet::from([0]);
    for ports in ports
        .iter()
        .filter(|it| it.all_protocols().contains(&protocol))
    {
        let (first, last) = ports.range();
        starts.insert(first);
        starts.extend(last.checked_add(1));
    }
    let starts: Vec<u16> = starts.into_iter().collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    starts.iter().copied().zip(ends).collect()
}

/// Ranges of ports by protocol, in ascending order.
#[derive(Default)]
pub(super) struct Ranges(BTreeMap<u8, Vec<(u16, u16)>>);

impl Ranges {
    /// Adds a range after all others of its protocol; one that touches the last is joined to it.
    pub fn push(&mut self, protocol: u8, first: u16, last: u16) {
        let ranges = self.0.entry(protocol).or_default();
        match ranges.last_mut() {
            Some(before) if before.1.checked_add(1) == Some(first) => before.1 = last,
            _ => ranges.push((first, last)),
        }
    }

    /// As entries of `ip`. What all four common protocols have is one entry.
    pub fn into_ports(mut self) -> Vec<Ports> {
        let mut ports = Vec::new();
        for (protocol, ranges) in &mut self.0 {
            // No port is 0: a range that only begins there begins at 1.
            if has_ports(*protocol) {
                ranges.retain(|range| *range != (0, 0));
                let parts = ranges.iter_mut().filter(|range| **range != (0, u16::MAX));
                parts.for_each(|range| range.0 = range.0.max(1));
            }
        }
        let whole = [(0, u16::MAX)];
        let pings = [1, 58]
            .iter()
            .all(|it| self.0.get(it).is_some_and(|ranges| ranges[..] == whole));
        if pings && let (Some(tcp), Some(udp)) = (self.0.get(&6), self.0.get(&17)) {
            let both: Vec<_> = tcp
                .iter()
                .filter(|range| udp.contains(range))
                .copied()
                .collect();
            for range in &both {
                ports.push(Ports::new(None, *range));
            }
            if !both.is_empty() {
                for protocol in [6, 17] {
                    self.0
                        .entry(protocol)
                        .or_default()
                        .retain(|range| !both.contains(range));
                }
                self.0.remove(&1);
                self.0.remove(&58);
            }
        }
        for (protocol, ranges) in self.0 {
            ports.extend(
                ranges
                    .into_iter()
                    .map(|range| Ports::new(Some(protocol), range)),
            );
        }
        ports
    }
}
