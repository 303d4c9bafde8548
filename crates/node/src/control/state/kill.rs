//! A kill that a person brought by hand, as no beacon answered.

use bytes::Bytes;
use identity::{Change, KillFile, Order, Trust, TrustError, UnixTime};
use wire::map::Document;

use super::{Event, Now, Source, State};

/// What came of a kill file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revocation set that is in force now.
    pub order: Order,
    /// Whether it was news here.
    pub change: Change,
    /// Gateways in session, which hear of it first.
    pub peers: usize,
    /// Beacons with a link, which do too.
    pub beacons: usize,
}

impl State {
    /// Takes a kill file: all of it or nothing. It counts when the snapshot is on disk.
    pub fn handle_kill(&mut self, file: &KillFile, now: Now) -> Result<Applied, TrustError> {
        self.now = now;
        let mut trial = self.trust.clone();
        let change = match take(&mut trial, file, now.clock) {
            Ok(change) => change,
            Err(error) => {
                for alarm in trial.take_alarms() {
                    self.event(Event::Alarm(alarm));
                }
                return Err(error);
            }
        };
        let bytes = Bytes::copy_from_slice;
        self.accept(&Document::TrustLog(bytes(file.trust_log())), Source::Here);
        self.accept(
            &Document::Revocations(bytes(file.revocations())),
            Source::Here,
        );
        let held = self.trust.revocations();
        let links = self.links.values();
        Ok(Applied {
            order: held.map(|held| held.order).unwrap_or_default(),
            change,
            peers: self.gossip.peers().count(),
            beacons: links
                .filter(|link| link.up && link.restricted.is_none())
                .count(),
        })
    }
}

/// An older trust log is no fault: what counts is whether the set verifies by the newest.
fn take(trust: &mut Trust, file: &KillFile, now: UnixTime) -> Result<Change, TrustError> {
    match trust.accept_trust_log(file.trust_log(), now) {
        Ok(_) | Err(TrustError::Older) => {}
        Err(error) => return Err(error),
    }
    trust.accept_revocations(file.revocations(), now)
}
