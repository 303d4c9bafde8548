//! Who waits for what: a store, the outcome of a message, or what comes into an inbox.

use std::collections::BTreeSet;
use std::time::Instant;

use router::{Delivery, HolderId, State, Ticket};
use wire::message::MessageKey;

use super::super::handle::{Followed, Waiter};
use super::super::{Outcome, SendError, Sent, WaitFor};
use super::{Plane, Poller, Promise, room, tell};

impl Plane {
    pub(super) fn promise(&mut self, ticket: Ticket, promise: Promise) {
        self.next += 1;
        self.promises.insert((ticket, self.next), promise);
    }

    pub(super) fn keep_promises(&mut self, stored: Ticket, failed: Option<Ticket>) {
        let up_to = failed.map_or(stored, |failed| failed.max(stored));
        while let Some(first) = self.promises.first_entry().filter(|it| it.key().0 <= up_to) {
            let kept = first.key().0 <= stored;
            match first.remove() {
                Promise::Sent(id, answer) if kept => {
                    tell(
                        answer,
                        Ok(Sent {
                            id,
                            state: State::Accepted,
                            error: None,
                        }),
                    );
                }
                Promise::Sent(_, answer) => tell(answer, Err(SendError::Store)),
                Promise::Acked(results, done) if kept => tell(done, Ok(results)),
                Promise::Acked(_, done) => tell(done, Err(SendError::Store)),
                Promise::Done(done) if kept => tell(done, Ok(())),
                Promise::Done(done) => tell(done, Err(SendError::Store)),
                Promise::TakenBack(status, done) if kept => tell(done, Ok(status)),
                Promise::TakenBack(_, done) => tell(done, Err(SendError::Store)),
                Promise::Drained(answer) => {
                    let _ = answer.send(());
                }
            }
        }
    }

    /// Lets a waiter wait, unless what it waits for is so already.
    pub(super) fn wait(&mut self, key: MessageKey, waiter: Waiter, now: Instant) {
        // An unknown message: the waiter is dropped, and its caller asks for the state.
        let Ok(status) = self.router.watch(key.instance, key.id, true, now) else {
            return;
        };
        let others = self.waiters.entry(key).or_default();
        if waiter.what.met_by(&status) {
            let _ = waiter.answer.send(Outcome::Settled(status.clone()));
        } else {
            others.push(waiter);
        }
        // A reply that waits in the inbox comes as an answer now; one that was acked does not.
        self.do_outputs(now);
        let acked = status.state == State::Done && status.reply.is_some();
        if let Some(waiters) = self.waiters.get_mut(&key).filter(|_| acked) {
            for waiter in waiters.drain(..) {
                let _ = waiter.answer.send(Outcome::Settled(status.clone()));
            }
        }
        self.unwatch_unless_awaited(key, now);
    }

    pub(super) fn unwatch_unless_awaited(&mut self, key: MessageKey, now: Instant) {
        if self.waiters.get(&key).is_some_and(Vec::is_empty) {
            self.waiters.remove(&key);
        }
        if !self.waiters.contains_key(&key) {
            // Unknown by now: nothing to watch.
            let _ = self.router.watch(key.instance, key.id, false, now);
        }
    }

    /// Hands a reply to the first who waits for it.
    pub(super) fn answer(&mut self, request: MessageKey, delivery: Delivery, now: Instant) {
        let mut delivery = Some(delivery);
        let mut others = Vec::new();
        let mut kept = false;
        for waiter in self.waiters.remove(&request).unwrap_or_default() {
            let wants = matches!(waiter.what, WaitFor::Reply | WaitFor::KeptReply);
            let is_for_it = wants && !waiter.answer.is_closed();
            if let (true, Some(reply)) = (is_for_it, delivery.take_if(|_| is_for_it)) {
                kept = waiter.what == WaitFor::KeptReply;
                if let Err(Outcome::Answered(back)) = waiter.answer.send(Outcome::Answered(reply)) {
                    delivery = Some(back);
                }
            } else if !waiter.answer.is_closed() {
                others.push(waiter);
            }
        }
        let taken = delivery.is_none() && !kept;
        match delivery {
            // Its taker says so when it has it on disk.
            None if kept => self.router.handle_answer_kept(request, now),
            None => self.router.handle_answer_taken(request, now),
            Some(_) => self.router.handle_answer_left(request, now),
        }
        let Ok(status) = self.router.status(request.instance, request.id) else {
            return;
        };
        for waiter in others {
            if taken || waiter.what.met_by(&status) {
                let _ = waiter.answer.send(Outcome::Settled(status.clone()));
            } else if self
                .router
                .watch(request.instance, request.id, true, now)
                .is_ok()
            {
                // The reply is not on disk yet; what this one waits for comes with it.
                self.waiters.entry(request).or_default().push(waiter);
            }
        }
    }

    pub(super) fn deliver(&mut self, holder: HolderId, delivery: Delivery, now: Instant) {
        if let Some(poller) = self.pollers.get_mut(&holder) {
            poller.deliveries.push(delivery);
            self.served.insert(holder);
        } else if let Some(follower) = self.followers.get(&holder) {
            // The credit was its room, so what does not fit is only for one that is gone.
            if follower
                .followed
                .try_send(Followed::Delivery(delivery))
                .is_err()
            {
                self.followers.remove(&holder);
                self.router.release_holder(holder, now);
            }
        } else {
            self.router.release_holder(holder, now);
        }
    }

    /// Answers the pollers that have something or do not wait; true where one was gone, and the
    /// router has its messages back.
    pub(super) fn answer_pollers(&mut self, now: Instant) -> bool {
        let mut gave_back = false;
        let mut loading = BTreeSet::new();
        while let Some(holder) = self.served.pop_first() {
            let waits = |poller: &Poller| poller.wait && poller.deliveries.is_empty();
            if self.pollers.get(&holder).is_none_or(waits) {
                continue;
            }
            // An inbox that is on disk is not an empty one.
            if self.router.is_loading_for(holder) {
                loading.insert(holder);
                continue;
            }
            let Some(poller) = self.pollers.remove(&holder) else {
                continue;
            };
            match poller.answer.send(Ok(poller.deliveries)) {
                Ok(()) => self.router.dismiss_holder(holder, now),
                Err(_) => {
                    self.router.release_holder(holder, now);
                    gave_back = true;
                }
            }
        }
        self.served = loading;
        gave_back
    }

    /// A caller went, or a follower has room again.
    pub(super) fn forget_the_gone(&mut self) {
        let now = Instant::now();
        let gone = self
            .pollers
            .iter()
            .filter(|(_, poller)| poller.answer.is_closed());
        for holder in gone.map(|(holder, _)| *holder).collect::<Vec<_>>() {
            self.pollers.remove(&holder);
            self.router.release_holder(holder, now);
        }
        for holder in self.followers.keys().copied().collect::<Vec<_>>() {
            let Some(follower) = self.followers.get(&holder) else {
                continue;
            };
            let (owner, room) = (follower.owner, room(&follower.followed));
            if follower.followed.is_closed() {
                self.followers.remove(&holder);
                self.router.release_holder(holder, now);
            } else if self.router.demand(holder, owner, room, None, now).is_err() {
                self.followers.remove(&holder);
            }
        }
        self.cancels.retain(|_, waiting| {
            waiting.retain(|heard| !heard.is_closed());
            !waiting.is_empty()
        });
        for waiters in self.waiters.values_mut() {
            waiters.retain(|waiter| !waiter.answer.is_closed());
        }
        let left = self
            .waiters
            .iter()
            .filter(|(_, waiters)| waiters.is_empty());
        for key in left.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.unwatch_unless_awaited(key, now);
        }
    }
}
