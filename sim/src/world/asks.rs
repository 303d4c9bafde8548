//! Requests and their answers: each request is answered, whoever asked hears one answer, and what a
//! caller took does not come as if for the first time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use router::{Delivery, DeliveryKind};
use wire::message::{MessageId, MessageKey};

use super::{Happening, World};
use crate::scenario::Deed;

/// The requests of a world.
#[derive(Debug, Default)]
pub(super) struct Asks {
    asked: BTreeSet<MessageId>,
    /// Requests that somebody waits for, and the life of the gateway in which they do.
    waiting: BTreeMap<MessageId, u32>,
    /// Each reply that was handed in, and what it answers.
    replies: BTreeMap<MessageId, MessageId>,
    heard: BTreeMap<MessageId, Heard>,
    /// Requests whose answers are kept on a disk beside the router's, as A2A tasks are.
    kept: BTreeMap<MessageId, usize>,
    /// Replies that somebody who waited took: as good as acked.
    taken: BTreeSet<MessageId>,
}

/// The answer that an asker heard last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    reply: MessageId,
    /// What the asker's gateway had forgotten by then.
    upsets: u32,
    /// By somebody who waited, and took or kept it: as good as acked.
    taken: bool,
}

impl Asks {
    pub(super) fn answered(&self) -> usize {
        self.heard.len()
    }
}

impl World {
    /// Whoever sent a request may wait for its answer.
    pub(super) fn wait_for(&mut self, n: usize, request: MessageId) {
        self.asks.asked.insert(request);
        match self.random.below(4) {
            0 => {}
            1 => {
                self.asks.kept.insert(request, n);
                self.watch_for(n, request);
            }
            _ => self.watch_for(n, request),
        }
    }

    fn watch_for(&mut self, n: usize, request: MessageId) {
        let gateway = &mut self.gateways[n];
        let (instance, now) = (gateway.agent.instance, self.time.now);
        if gateway.router.watch(instance, request, true, now).is_ok() {
            self.asks.waiting.insert(request, gateway.boot);
        }
    }

    /// Whoever keeps answers waits again for those that are not kept yet.
    pub(super) fn wait_again(&mut self, n: usize) {
        let kept = self.asks.kept.iter().filter(|(_, owner)| **owner == n);
        for request in kept.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.watch_for(n, request);
        }
    }

    pub(super) fn replied(&mut self, reply: MessageId, request: MessageId) {
        self.asks.replies.insert(reply, request);
    }

    pub(super) fn was_answered(&self, request: MessageId) -> bool {
        self.asks
            .replies
            .values()
            .any(|answered| *answered == request)
    }

    /// Whether a message lives for seconds alone. An answer lives as long as its question.
    pub(super) fn is_mortal(&self, id: &MessageId) -> bool {
        let answers = self.asks.replies.get(id).unwrap_or(id);
        self.mortal.contains(answers)
    }

    /// A reply for whoever waits: they take it, unless they have just gone, or took it before the
    /// disk refused it.
    pub(super) fn hand_over(&mut self, n: usize, request: MessageKey, delivery: &Delivery) {
        let now = self.time.now;
        let waits = self.asks.waiting.remove(&request.id) == Some(self.gateways[n].boot);
        let is_gone = self.random.below(4) == 0;
        let router = &mut self.gateways[n].router;
        if is_gone || !waits {
            return router.handle_answer_left(request, now);
        }
        if self.asks.kept.contains_key(&request.id) {
            router.handle_answer_kept(request, now);
            let after = Duration::from_millis(1 + self.random.below(10));
            let (boot, delivery) = (self.gateways[n].boot, Box::new(delivery.clone()));
            let kept = Happening::Kept {
                gateway: n,
                boot,
                request,
                delivery,
            };
            self.schedule(after, kept);
        } else {
            router.handle_answer_taken(request, now);
            self.note_answer(n, delivery, true);
            self.asks.taken.insert(delivery.id);
        }
        self.did(n, Deed::Takes);
    }

    /// An answer is on the disk of whoever keeps it.
    pub(super) fn keep(&mut self, n: usize, boot: u32, request: MessageKey, delivery: &Delivery) {
        let now = self.time.now;
        let gateway = &mut self.gateways[n];
        if gateway.boot == boot {
            gateway.router.handle_answer_taken(request, now);
            self.note_answer(n, delivery, true);
            self.asks.taken.insert(delivery.id);
            self.asks.kept.remove(&request.id);
        }
    }

    /// Whoever asked has an answer.
    pub(super) fn note_answer(&mut self, n: usize, delivery: &Delivery, taken: bool) {
        let DeliveryKind::Reply { in_reply_to } = delivery.kind else {
            return;
        };
        let (reply, attempt, upsets) = (delivery.id, delivery.attempt, self.gateways[n].upsets);
        let now = Heard {
            reply,
            upsets,
            taken,
        };
        let Some(before) = self.asks.heard.insert(in_reply_to, now) else {
            return;
        };
        let again = before.reply == reply;
        if again && attempt < 2 {
            self.violation(format!("I1: the answer {reply} comes again as if first"));
        }
        if again && before.upsets == upsets && before.taken {
            self.violation(format!("I1: the answer {reply} comes again, and was taken"));
        }
        // Both gateways forgot the first before either had it on disk: its agent never heard that it was
        // accepted, and answered once more.
        let was_accepted = self.accepted.iter().any(|key| key.id == before.reply);
        if !again && (before.upsets == upsets || was_accepted) {
            self.violation(format!(
                "{in_reply_to} has two answers: {before:?}, {now:?}"
            ));
        }
    }

    /// Whether nothing need come of a message any more.
    pub(super) fn is_excused(&self, id: &MessageId) -> bool {
        let answers = self.asks.replies.get(id);
        // A second answer, one to a question that was taken back, or one after a rejection that a crash
        // made undone here, and that was heard.
        let is_void = answers.is_some_and(|request| {
            let heard = self.asks.heard.get(request);
            self.taken_back.contains(request)
                || self.rejected.contains(request)
                || heard.is_some_and(|heard| heard.reply != *id)
        });
        let settled = self.acked.contains(id) || self.asks.taken.contains(id);
        let may_fail = self.forbade || self.is_mortal(id) || self.rejected.contains(id);
        // What comes to nothing is named.
        let failed = may_fail && self.failed.contains_key(id);
        settled || self.taken_back.contains(id) || is_void || failed
    }

    /// Every request that was accepted, and not taken back, was answered.
    pub(super) fn check_asks(&mut self) {
        // Under a policy that allowed nothing for a while: where an answer may not leave, its maker hears
        // so, and the question's time passes.
        let failed = self.asks.replies.iter();
        let failed = failed.filter(|(reply, _)| self.failed.contains_key(reply));
        let unanswerable: BTreeSet<_> = failed.map(|(_, request)| *request).collect();
        let forbidden = |id: &MessageId| {
            self.forbade && (self.failed.contains_key(id) || unanswerable.contains(id))
        };
        let accepted: BTreeSet<_> = self.accepted.iter().map(|key| key.id).collect();
        let open = |id: &&MessageId| {
            accepted.contains(id)
                && !self.asks.heard.contains_key(id)
                && !self.taken_back.contains(id)
                && !self.is_mortal(id)
                && !self.rejected.contains(id)
                && !forbidden(id)
        };
        let open: Vec<_> = self.asks.asked.iter().filter(open).copied().collect();
        for id in open.iter().take(3) {
            self.violation(format!("{id} was never answered; {} in all", open.len()));
        }
    }
}

/// Of [`super::messages::ONE_IN`] messages, those that are requests.
pub(super) const ASKS: Range<u64> = 2..8;
