//! This node's own record and the end of its own membership: what to renew, and when to warn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use identity::{NodeId, NodeRecord, UnixTime, WireGuardPublic};

/// How long a record lives (identity.md §3); it is renewed at two thirds of that.
pub const LIFE: Duration = Duration::from_secs(30 * DAY);

/// What the next record should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub node: NodeId,
    /// The tunnel's key.
    pub wireguard: WireGuardPublic,
    /// The beacons where peers find this node, best first.
    pub relays: Vec<NodeId>,
    /// Addresses of last resort.
    pub addresses: Vec<SocketAddr>,
}

impl Wanted {
    /// Whether this record sends peers only to beacons that are none any more: over a relay they
    /// would not find us until it changes.
    fn strands(&self, current: &NodeRecord) -> bool {
        !self.relays.is_empty()
            && !self
                .relays
                .iter()
                .any(|relay| current.relays.contains(relay))
    }
}

/// When the own record was made, and what was warned of.
#[derive(Debug, Default)]
pub struct Own {
    made_at: Option<Instant>,
    warned: Option<u64>,
}

impl Own {
    /// The record to sign now, if one is due.
    pub fn renew(
        &mut self,
        wanted: &Wanted,
        current: Option<&NodeRecord>,
        now: Instant,
        clock: UnixTime,
    ) -> Option<NodeRecord> {
        let due = match current {
            None => true,
            Some(current) if current.wireguard != wanted.wireguard => true,
            Some(current) if clock >= current.expires_at.minus(LIFE / 3) => true,
            Some(current) if wanted.strands(current) => true,
            Some(current) => {
                let moved =
                    current.relays != wanted.relays || current.addresses != wanted.addresses;
                moved && self.made_at.is_none_or(|made| now >= made + SETTLE)
            }
        };
        if !due {
            return None;
        }
        self.made_at = Some(now);
        // Never below the seconds since 1970: a node that was restored from an old backup would
        // otherwise sign sequences that its peers have seen.
        let sequence = current.map_or(0, |current| current.sequence.saturating_add(1));
        let Wanted {
            node,
            wireguard,
            relays,
            addresses,
        } = wanted.clone();
        Some(NodeRecord {
            node,
            wireguard,
            relays,
            addresses,
            sequence: sequence.max(clock.0),
            expires_at: clock.plus(LIFE),
        })
    }

    /// When [`Own::renew`] may have something to say about addresses that changed.
    pub fn deadline(&self) -> Option<Instant> {
        self.made_at.map(|made| made + SETTLE)
    }

    /// The days that are left of the membership, once for each of 30, 7 and 1.
    pub fn warn(&mut self, expires_at: UnixTime, clock: UnixTime) -> Option<u64> {
        let left = expires_at.0.saturating_sub(clock.0).div_ceil(DAY);
        let mark = WARN_DAYS.into_iter().find(|mark| left <= *mark);
        let news = mark.is_some() && (self.warned.is_none() || mark < self.warned);
        self.warned = mark;
        news.then_some(left)
    }
}

const DAY: u64 = 24 * 3600;

/// Warn so many days ahead (identity.md §6).
const WARN_DAYS: [u64; 3] = [1, 7, 30];

/// Links that come and go must not make a record each: everybody stores it durably.
const SETTLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            node: NodeId([1; 16]),
            wireguard: WireGuardPublic([2; 32]),
            relays: vec![NodeId([3; 16])],
            addresses: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_renewed_at_two_thirds_of_its_life_with_a_higher_sequence() {
        let (now, clock) = (Instant::now(), UnixTime(1_000_000));
        let mut own = Own::default();
        let first = own
            .renew(&wanted(), None, now, clock)
            .expect("there was none");
        let before = clock.plus(LIFE * 2 / 3).minus(Duration::from_secs(1));

        assert_eq!(own.renew(&wanted(), Some(&first), now, before), None);
        let second = own.renew(&wanted(), Some(&first), now, clock.plus(LIFE * 2 / 3));

        assert!(second.is_some_and(|second| second.sequence > first.sequence));
    }

    #[test]
    fn a_changed_key_renews_at_once_and_changed_relays_once_a_minute() {
        let (now, clock) = (Instant::now(), UnixTime(1_000_000));
        let mut own = Own::default();
        let first = own
            .renew(&wanted(), None, now, clock)
            .expect("there was none");
        let key = Wanted {
            wireguard: WireGuardPublic([9; 32]),
            ..wanted()
        };
        let relays = Wanted {
            relays: Vec::new(),
            ..wanted()
        };

        assert!(own.renew(&relays, Some(&first), now, clock).is_none());
        assert!(
            own.renew(&relays, Some(&first), now + SETTLE, clock)
                .is_some()
        );
        assert!(own.renew(&key, Some(&first), now + SETTLE, clock).is_some());
    }

    #[test]
    fn a_record_that_names_no_beacon_of_today_is_renewed_at_once() {
        let (now, clock) = (Instant::now(), UnixTime(1_000_000));
        let mut own = Own::default();
        let first = own
            .renew(&wanted(), None, now, clock)
            .expect("there was none");
        let replaced = Wanted {
            relays: vec![NodeId([4; 16])],
            ..wanted()
        };

        assert!(own.renew(&replaced, Some(&first), now, clock).is_some());
    }

    #[test]
    fn the_end_of_a_membership_is_told_at_thirty_seven_and_one_day() {
        let mut own = Own::default();
        let told: Vec<u64> = (0..=40)
            .rev()
            .filter_map(|left| own.warn(UnixTime(left * DAY + 1_000_000), UnixTime(1_000_000)))
            .collect();

        assert_eq!(told, [30, 7, 1]);
    }
}
