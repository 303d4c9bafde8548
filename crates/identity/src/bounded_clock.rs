//! The time by which dates are judged (identity.md §6): the local clock, held to what root and role
//! keys signed.

use crate::ids::UnixTime;
use crate::trust::SKEW;

/// What a node believes of its clock at one moment. By default: everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BoundedClock {
    /// A clock before this was never set.
    pub(crate) set_after: UnixTime,
    /// What counts then.
    pub(crate) unset: UnixTime,
    /// A clock before this fell behind; then this counts.
    pub(crate) floor: UnixTime,
}

impl BoundedClock {
    /// The time that counts where the local clock shows `now`.
    pub fn at(&self, now: UnixTime) -> UnixTime {
        if now.plus(SKEW) < self.set_after {
            self.unset
        } else if now.plus(SKEW) < self.floor {
            self.floor
        } else {
            now
        }
    }

    /// Whether the local clock is unset or behind the floor: worth an alarm.
    pub fn is_behind(&self, now: UnixTime) -> bool {
        now.plus(SKEW) < self.set_after.max(self.floor)
    }
}
