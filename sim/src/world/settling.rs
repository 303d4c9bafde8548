//! How agents end what they were shown. Most ack it, or answer it; some reject it; some forget it,
//! and are shown it again; and now and then an agent leaves with all that it holds, and comes back.

use std::time::Duration;

use router::{Accept, Delivery, DeliveryKind, Refusal};
use wire::message::MessageId;

use super::{Happening, World};
use crate::scenario::Deed;

/// What an agent does with a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Ack,
    Reply,
    Reject,
}

impl World {
    /// What an agent was shown it ends a little later, unless it forgets.
    pub(super) fn settle_soon(&mut self, n: usize, delivery: &Delivery) {
        let boot = self.gateways[n].boot;
        let after = Duration::from_millis(1 + self.random.below(50));
        let may_reject = matches!(delivery.kind, DeliveryKind::Message | DeliveryKind::Request);
        let by = match (self.random.below(50), delivery.kind.clone()) {
            (0, _) => return,
            (1, _) if may_reject => End::Reject,
            (_, DeliveryKind::Request) => End::Reply,
            _ => End::Ack,
        };
        let end = Happening::End {
            gateway: n,
            boot,
            id: delivery.id,
            by,
        };
        self.schedule(after, end);
    }

    pub(super) fn end(&mut self, n: usize, boot: u32, id: MessageId, by: End) {
        let (now, unix_ms) = (self.time.now, self.unix_ms());
        let gateway = &mut self.gateways[n];
        if gateway.boot != boot {
            return;
        }
        let instance = gateway.agent.instance;
        // Shown to a subscriber that left, and on disk alone since: read first, as a shell does.
        if gateway.router.is_away(instance, id) {
            let again = Happening::End {
                gateway: n,
                boot,
                id,
                by,
            };
            return self.schedule(Duration::from_millis(1), again);
        }
        let ended = match by {
            End::Ack => {
                let acked = gateway.router.ack(instance, id, now);
                self.did(n, Deed::Acks);
                acked
            }
            End::Reply => {
                let (reply, handed_in) = gateway.reply(id, unix_ms, now);
                self.did(n, Deed::Replies);
                handed_in.map(|accept| match accept {
                    Accept::Storing(ticket) => {
                        self.replied(reply, id);
                        Some(ticket)
                    }
                    Accept::Known(_) => None,
                })
            }
            End::Reject => gateway.router.reject(instance, id, None, now).map(|_| {
                self.rejected.insert(id);
                None
            }),
        };
        match ended {
            Ok(Some(ticket)) => drop(self.acking.insert((n, ticket), id)),
            Ok(None) => {}
            Err(error) if self.may_refuse(id, by, &error) => {}
            Err(error) => self.violation(format!(
                "gateway {n} does not let {id} be ended ({by:?}): {error}"
            )),
        }
    }

    /// Whether that was to be expected of a message that was shown.
    fn may_refuse(&self, id: MessageId, by: End, error: &Refusal) -> bool {
        match error {
            // Taken back while it was worked on.
            Refusal::Cancelled => self.taken_back.contains(&id),
            Refusal::Denied(_) => self.forbade,
            // It is shown again.
            Refusal::OutboxFull => true,
            // Its time was over as it was answered.
            Refusal::Expired => self.is_mortal(&id),
            // Shown to two subscribers one after the other, and the first has ended it.
            Refusal::NotOpen => {
                let ended = self.was_answered(id) || self.rejected.contains(&id) || self.forbade;
                matches!(by, End::Reply) && ended
            }
            _ => false,
        }
    }

    /// The agent of a gateway leaves, with all that it holds, and comes back.
    pub(super) fn leave(&mut self, n: usize) {
        let now = self.time.now;
        self.gateways[n].leave(now);
        let after = Duration::from_millis(2000 + self.random.below(10_000));
        self.schedule(after, Happening::Leave(n));
    }
}
