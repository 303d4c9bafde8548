//! What callers want done: each command, in the words of the router.

use std::time::Instant;

use router::{Accept, Origin, Refusal, Status};
use tracing::debug;
use wire::MessageId;
use wire::message::MessageKey;

use super::super::handle::{Command, Reply};
use super::super::{Sent, Stats};
use super::{BATCH, Follower, Plane, Poller, Promise, room, tell};

impl Plane {
    pub(super) fn handle_commands(&mut self, first: Command) {
        let now = Instant::now();
        self.handle_command(first, now);
        for _ in 1..BATCH {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.handle_command(command, now);
        }
    }

    pub(super) fn handle_command(&mut self, command: Command, now: Instant) {
        if self.names_what_is_away(&command) {
            return self.parked.push_back(command);
        }
        match command {
            Command::AddAgent(agent, done) => {
                self.router.add_agent(agent, now);
                tell(done, Ok(()));
            }
            Command::RemoveAgent(instance, done) => {
                self.router.remove_agent(instance, now);
                let ticket = self.router.flush(now);
                self.promise(ticket, Promise::Done(done));
            }
            Command::Send {
                from,
                draft,
                answer,
                wait,
            } => {
                let id = draft.id;
                let accept = self.router.send(&from, draft, now);
                let taken = accept.is_ok();
                self.accept(id, accept, answer);
                if let Some(waiter) = wait.filter(|_| taken) {
                    self.wait(
                        MessageKey {
                            instance: from.instance,
                            id,
                        },
                        waiter,
                        now,
                    );
                }
            }
            Command::Reply {
                from,
                to,
                answer,
                done,
            } => {
                let id = answer.id;
                let parts = self.router.parts_target(from.instance, to);
                let accept = self.router.reply(&from, to, answer, now);
                if let (Ok(_), Ok(target)) = (&accept, parts) {
                    self.streams.end(target.peer, target.key);
                }
                self.accept(id, accept, done);
            }
            Command::Wait { agent, id, waiter } => {
                self.wait(
                    MessageKey {
                        instance: agent.instance,
                        id,
                    },
                    waiter,
                    now,
                );
            }
            Command::SettleReply { agent, id } => {
                let instance = agent.instance;
                self.router
                    .handle_answer_taken(MessageKey { instance, id }, now);
            }
            Command::Receive {
                agent,
                max,
                hold,
                wait,
                answer,
            } => {
                let holder = self.new_holder();
                let hold = hold.unwrap_or(router::limits::VISIBILITY);
                match self
                    .router
                    .demand(holder, agent.instance, max, Some(hold), now)
                {
                    Err(refusal) => tell(answer, Err(refusal.into())),
                    Ok(()) => {
                        let owner = agent.instance;
                        let poller = Poller {
                            owner,
                            answer,
                            deliveries: Vec::new(),
                            wait,
                        };
                        self.pollers.insert(holder, poller);
                        // Even with nothing to show, one that does not wait is to be answered.
                        self.served.insert(holder);
                    }
                }
            }
            Command::Follow { agent, followed } => {
                let holder = self.new_holder();
                let credit = room(&followed);
                // An unknown agent's follower is dropped, and so its stream ends.
                if self
                    .router
                    .demand(holder, agent.instance, credit, None, now)
                    .is_ok()
                {
                    self.followers.insert(
                        holder,
                        Follower {
                            owner: agent.instance,
                            followed,
                        },
                    );
                }
            }
            Command::Ack { agent, ids, done } => {
                let mut last = None;
                let results = ids.into_iter().map(|id| {
                    let ticket = self.router.ack(agent.instance, id, now)?;
                    last = last.max(ticket);
                    Ok(())
                });
                let results: Vec<_> = results.collect();
                match last {
                    Some(ticket) => self.promise(ticket, Promise::Acked(results, done)),
                    None => tell(done, Ok(results)),
                }
            }
            Command::Heartbeat {
                agent,
                ids,
                hold,
                done,
            } => {
                let hold = hold.unwrap_or(router::limits::VISIBILITY);
                let beat = |id| self.router.heartbeat(agent.instance, id, hold, now);
                let results = ids.into_iter().map(beat).collect();
                tell(done, Ok(results));
            }
            Command::Release { agent, ids } => {
                for id in ids {
                    // Unknown by now: settled, and that is as good.
                    let _ = self.router.give_back(agent.instance, id, now);
                }
            }
            Command::Cancel { agent, id, done } => {
                match self.router.cancel(agent.instance, id, now) {
                    Ok(status) => {
                        let ticket = self.router.flush(now);
                        self.promise(ticket, Promise::TakenBack(status, done));
                    }
                    Err(refusal) => tell(done, Err(refusal.into())),
                }
            }
            Command::Reject {
                agent,
                id,
                why,
                done,
            } => match self.router.reject(agent.instance, id, why.as_deref(), now) {
                Ok(ticket) => self.promise(ticket, Promise::Done(done)),
                Err(refusal) => tell(done, Err(refusal.into())),
            },
            Command::Cancelled { agent, id, heard } => {
                match self.router.is_cancelled(agent.instance, id) {
                    Some(true) => {
                        let _ = heard.send(());
                    }
                    Some(false) => {
                        let key = (agent.instance, id);
                        self.cancels.entry(key).or_default().push(heard);
                    }
                    None => {}
                }
            }
            Command::PartsTarget { agent, id, answer } => {
                let target = self.router.parts_target(agent.instance, id);
                tell(answer, target.map_err(Into::into));
            }
            Command::SentTo { agent, id, answer } => {
                let node = self.router.sent_to(agent.instance, id);
                tell(answer, node.map_err(Into::into));
            }
            Command::State { agent, id, answer } => {
                tell(
                    answer,
                    self.router.status(agent.instance, id).map_err(Into::into),
                );
            }
            Command::Queued(answer) => tell(answer, Ok(self.router.queued())),
            Command::Stats(answer) => {
                let stats = Stats {
                    router: self.router.stats(),
                    spool: self.spool.stats(),
                };
                // Who asked may be gone; so with every answer below.
                let _ = answer.send(stats);
            }
            Command::Drain(answer) => {
                let ticket = self.router.flush(now);
                self.promise(ticket, Promise::Drained(answer));
            }
        }
    }

    /// Whether a command needs a letter that is on disk alone; then that is asked for.
    pub(super) fn names_what_is_away(&mut self, command: &Command) -> bool {
        let (instance, ids) = match command {
            Command::Reply { from, to, .. } => (from.instance, std::slice::from_ref(to)),
            Command::Ack { agent, ids, .. } => (agent.instance, ids.as_slice()),
            Command::Reject { agent, id, .. } | Command::PartsTarget { agent, id, .. } => {
                (agent.instance, std::slice::from_ref(id))
            }
            Command::Send { from, draft, .. } => match &draft.origin {
                Origin::Message(id) => (from.instance, std::slice::from_ref(id)),
                Origin::Unsaid | Origin::Nothing => return false,
            },
            _ => return false,
        };
        // All of them, so that the next look finds all of them.
        let away = ids.iter().filter(|id| self.router.is_away(instance, **id));
        away.count() > 0
    }

    pub(super) fn accept(
        &mut self,
        id: MessageId,
        accept: Result<Accept, Refusal>,
        answer: Reply<Sent>,
    ) {
        match accept {
            Ok(Accept::Storing(ticket)) => self.promise(ticket, Promise::Sent(id, answer)),
            Ok(Accept::Known(Status {
                id, state, error, ..
            })) => {
                tell(answer, Ok(Sent { id, state, error }));
            }
            Err(refusal) => {
                debug!(%id, code = refusal.code(), "refused");
                tell(answer, Err(refusal.into()));
            }
        }
    }
}
