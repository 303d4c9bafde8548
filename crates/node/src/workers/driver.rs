//! The driver of one agent: follows its inbox, lets the worker do what comes, and settles it.
//!
//! It is a follower of the inbox, so the node holds whatever it was shown for as long as it runs,
//! and shows it again when it ends. It takes all that waits and sorts it by sender: a lane whose
//! first message fails does not stop the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::api::Kind;
use identity::{AgentAddress, NodeName};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};
use wire::MessageId;
use wire::parts::MAX_PART;

use super::parts::Cancel;
use super::{Done, Health, Job, Part, Parts, WorkError, Worker};
use crate::agents::Agents;
use crate::messages::{
    Delivery, DeliveryKind, Follow, Followed, LocalAgent, Messages, ReplyDraft, SendError,
    fresh_id, unix_ms,
};
use crate::streams::Publisher;

/// One agent, served.
pub(super) struct Driver {
    pub(super) agent: LocalAgent,
    pub(super) worker: Arc<dyn Worker>,
    pub(super) messages: Messages,
    pub(super) agents: Agents,
    pub(super) health: Arc<Health>,
    /// This gateway's name, once it is known.
    pub(super) own_name: Arc<dyn Fn() -> Option<NodeName> + Send + Sync>,
    pub(super) pace: Pace,
}

/// How long to wait between two tries of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) first: Duration,
    pub(super) most: Duration,
    /// Between two heartbeats.
    pub(super) beat: Duration,
}

/// What the tasks of one driver share.
struct Crew {
    driver: Driver,
    slots: Semaphore,
    /// Something was done: who waits for the worker to come back need not wait longer.
    well: Notify,
    stop: watch::Receiver<bool>,
}

/// What waits of each sender that has a message being worked on.
type Lanes = BTreeMap<AgentAddress, VecDeque<Delivery>>;

/// How a message ends.
enum End {
    Ack,
    Reply(ReplyDraft),
    Reject(String),
}

/// How a try ended.
enum Tried {
    Worked(Result<Done, WorkError>),
    Cancelled,
}

impl Driver {
    /// Serves the agent until told to stop. What is being done then has a moment to end.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        // Others see it as online for as long as it is served.
        let agents = self.agents.clone();
        let agent = agents.named(&self.agent.name);
        let _here = agent.map(|agent| agents.follow(&agent));
        let mut stop_seen = stop.clone();
        let crew = Arc::new(Crew {
            slots: Semaphore::new(self.worker.concurrency().max(1)),
            driver: self,
            well: Notify::new(),
            stop,
        });
        loop {
            crew.follow(&mut stop_seen).await;
            // The agent has no inbox yet, or no more.
            tokio::select! {
                () = stopped(&mut stop_seen) => return,
                () = tokio::time::sleep(FOLLOW_AGAIN) => {}
            }
        }
    }
}

impl Crew {
    async fn follow(self: &Arc<Self>, stop: &mut watch::Receiver<bool>) {
        let Ok(mut inbox) = self.driver.messages.follow(&self.driver.agent).await else {
            return;
        };
        let mut works = JoinSet::new();
        self.serve(&mut inbox, &mut works, stop).await;
        let finish = async { while works.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finish).await.is_err() {
            works.shutdown().await;
        }
    }

    async fn serve(
        self: &Arc<Self>,
        inbox: &mut Follow,
        works: &mut JoinSet<()>,
        stop: &mut watch::Receiver<bool>,
    ) {
        let mut lanes = Lanes::new();
        let mut working: HashMap<Id, (AgentAddress, MessageId)> = HashMap::new();
        loop {
            let next = tokio::select! {
                biased;
                () = stopped(stop) => return,
                Some(ended) = works.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    let Some((sender, message)) = working.remove(&id) else { continue };
                    if ended.is_err_and(|error| error.is_panic()) {
                        warn!(agent = %self.driver.agent.name, msg = %message, "a worker panicked");
                        self.give_up(message, "the worker panicked").await;
                    }
                    match lanes.get_mut(&sender).and_then(VecDeque::pop_front) {
                        Some(next) => next,
                        None => {
                            lanes.remove(&sender);
                            continue;
                        }
                    }
                }
                followed = inbox.next() => {
                    let delivery = match followed {
                        None => return,
                        Some(Followed::Delivery(delivery)) => delivery,
                        // What is being worked on hears of it by itself.
                        Some(Followed::Cancelled(id)) => {
                            for lane in lanes.values_mut() {
                                lane.retain(|waiting| waiting.id != id);
                            }
                            continue;
                        }
                    };
                    match lanes.get_mut(&delivery.from) {
                        Some(lane) => {
                            lane.push_back(delivery);
                            continue;
                        }
                        None => {
                            lanes.insert(delivery.from.clone(), VecDeque::new());
                            delivery
                        }
                    }
                }
            };
            let who = (next.from.clone(), next.id);
            let task = works.spawn(self.clone().live(next));
            working.insert(task.id(), who);
        }
    }

    /// One message, from its first try to its end.
    async fn live(self: Arc<Self>, delivery: Delivery) {
        let expires_at_ms = delivery.expires_at_ms.saturating_add(EXPIRY_MARGIN_MS);
        let mut parts_of = delivery.stream.then_some(delivery.attempt);
        let mut job = self.job(delivery);
        let (mut tries, mut failures) = (0_u32, 0_u32);
        let mut last = "it waited too long".to_owned();
        loop {
            if unix_ms() >= expires_at_ms {
                // Its sender's gateway knows that by itself.
                return self.give_up_job(&job, &format!("expired; {last}")).await;
            }
            let Some(tried) = self.try_it(&job, &mut parts_of).await else {
                return;
            };
            let (why, after, was_reached) = match tried {
                Tried::Cancelled => {
                    debug!(agent = %job.to.agent, msg = %job.id, "no longer wanted");
                    return;
                }
                Tried::Worked(Ok(done)) => return self.did(&job, done).await,
                Tried::Worked(Err(WorkError::Never { why })) => {
                    return self.give_up_job(&job, &why).await;
                }
                Tried::Worked(Err(WorkError::Failed { why, after })) => {
                    failures += 1;
                    if failures >= router::limits::MAX_ATTEMPTS {
                        return self.give_up_job(&job, &why).await;
                    }
                    (why, after, true)
                }
                Tried::Worked(Err(WorkError::Unreachable { why, after })) => (why, after, false),
            };
            self.driver.health.will_retry(&why);
            debug!(agent = %job.to.agent, msg = %job.id, tries, why, "to be tried again");
            let pause = self.driver.pace.pause(tries);
            let pause = after.map_or(pause, |after| after.min(MAX_AFTER).max(pause));
            if !self.sleep(pause, !was_reached && after.is_none()).await {
                return;
            }
            last = why;
            tries = tries.saturating_add(1);
            job.attempt = job.attempt.saturating_add(1);
            if !self.is_wanted(job.id).await {
                return;
            }
        }
    }

    /// One try, in its turn. `None`: the node stops. `parts_of`: which showing of the message its
    /// parts belong to, where they are wanted. A try that told some and failed leaves the next
    /// without: nobody could tell the one's from the other's.
    async fn try_it(&self, job: &Job, parts_of: &mut Option<u32>) -> Option<Tried> {
        let mut stop = self.stop.clone();
        let slot = tokio::select! {
            biased;
            () = stopped(&mut stop) => return None,
            slot = self.slots.acquire() => slot,
        };
        // The semaphore is never closed.
        let _slot = slot.ok()?;
        let (cancel, cancelled) = Cancel::new();
        let driver = &self.driver;
        let mut taken_back = pin!(driver.messages.cancelled(&driver.agent, job.id));
        let publisher = match *parts_of {
            Some(attempt) => {
                let publisher = driver
                    .messages
                    .publisher(&driver.agent, job.id, Some(attempt));
                // Too many at once: then only the whole answer comes.
                publisher.await.ok()
            }
            None => None,
        };
        let (parts, told) = match &publisher {
            Some(_) => Parts::channel(PARTS_AHEAD),
            None => Parts::nowhere(),
        };
        let begun = AtomicBool::new(false);
        let mut publishing = pin!(publish(publisher, told, &begun));
        let mut published = false;
        let mut work = pin!(driver.worker.work(job, parts, cancelled));
        let every = driver.pace.beat;
        let mut beat = tokio::time::interval_at(Instant::now() + every, every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leave_at = None::<Instant>;
        loop {
            tokio::select! {
                biased;
                worked = &mut work => {
                    if !published {
                        // What was told last; whoever reads too slowly has the answer itself.
                        let _ = tokio::time::timeout(PARTS_END, publishing).await;
                    }
                    if begun.load(Ordering::Relaxed) {
                        *parts_of = None;
                    }
                    return Some(match leave_at {
                        None => Tried::Worked(worked),
                        Some(_) => Tried::Cancelled,
                    });
                }
                () = &mut publishing, if !published => published = true,
                () = &mut taken_back, if leave_at.is_none() => {
                    cancel.now();
                    leave_at = Some(Instant::now() + CANCEL_GRACE);
                }
                _ = beat.tick(), if leave_at.is_none() => {
                    if !self.is_wanted(job.id).await {
                        cancel.now();
                        leave_at = Some(Instant::now() + CANCEL_GRACE);
                    }
                }
                () = sleep_until(leave_at) => return Some(Tried::Cancelled),
            }
        }
    }

    async fn did(&self, job: &Job, done: Done) {
        let driver = &self.driver;
        if driver.health.did() {
            info!(agent = %job.to.agent, "the worker does its work again");
        }
        if let Some(agent) = driver.agents.named(&driver.agent.name) {
            driver.agents.saw(&agent);
        }
        self.well.notify_waiters();
        let end = match job.reply_expected {
            true => End::Reply(ReplyDraft {
                id: Some(fresh_id()),
                content_type: done.content_type,
                body: done.body,
            }),
            false => End::Ack,
        };
        if let Err(refusal) = self.settle(job.id, end).await {
            let why = format!("its answer is refused: {}", refusal.code());
            self.give_up_job(job, &why).await;
        }
    }

    /// What nobody will do. Information that is not taken harms nobody: it is let go.
    async fn give_up_job(&self, job: &Job, why: &str) {
        info!(target: "crabmesh::audit", agent = %job.to.agent, msg = %job.id, why, "given up");
        match job.kind {
            Kind::Message => self.give_up(job.id, why).await,
            Kind::Reply | Kind::Failure => {
                self.driver.health.gave_up(why);
                // Not known by now: that is as good.
                let _ = self.settle(job.id, End::Ack).await;
            }
        }
    }

    async fn give_up(&self, id: MessageId, why: &str) {
        self.driver.health.gave_up(why);
        // Settled otherwise meanwhile: that is as good.
        let _ = self.settle(id, End::Reject(why.to_owned())).await;
    }

    /// Ends a message, however long the disk may take. The error is the router's, for good.
    async fn settle(&self, id: MessageId, end: End) -> Result<(), router::Refusal> {
        let (messages, agent) = (&self.driver.messages, &self.driver.agent);
        let mut tries = 0;
        loop {
            let settled = match &end {
                End::Reply(reply) => messages.reply(agent, id, reply.clone()).await.map(drop),
                End::Reject(why) => messages.reject(agent, id, Some(why.clone())).await,
                End::Ack => match messages.ack(agent, vec![id]).await {
                    Ok(results) => results
                        .into_iter()
                        .try_for_each(|result| result)
                        .map_err(SendError::Refused),
                    Err(error) => Err(error),
                },
            };
            match settled {
                // No end of a message has to do with its parts.
                Ok(()) | Err(SendError::Stopping | SendError::Parts(_)) => return Ok(()),
                Err(SendError::Refused(router::Refusal::NotFound | router::Refusal::Cancelled)) => {
                    return Ok(());
                }
                Err(SendError::Refused(refusal)) => return Err(refusal),
                // The work is done; only the disk is not. The same is told again.
                Err(SendError::Store) => {
                    if !self.sleep(self.driver.pace.pause(tries), false).await {
                        return Ok(());
                    }
                    tries = tries.saturating_add(1);
                }
            }
        }
    }

    /// Whether the message still waits to be done.
    async fn is_wanted(&self, id: MessageId) -> bool {
        let (messages, agent) = (&self.driver.messages, &self.driver.agent);
        let beat = messages.heartbeat(agent, vec![id], None).await;
        // A plane that does not answer stops, and with it all of this.
        beat.map_or(true, |results| results.iter().all(Result::is_ok))
    }

    /// False: the node stops. `until_well`: less, where the worker does something meanwhile.
    async fn sleep(&self, pause: Duration, until_well: bool) -> bool {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => false,
            () = tokio::time::sleep(pause) => true,
            () = self.well.notified(), if until_well => true,
        }
    }

    fn job(&self, delivery: Delivery) -> Job {
        let (kind, in_reply_to, error) = match delivery.kind {
            DeliveryKind::Message | DeliveryKind::Request => (Kind::Message, None, None),
            DeliveryKind::Reply { in_reply_to } => (Kind::Reply, Some(in_reply_to), None),
            DeliveryKind::Failure { of, ref error } => {
                let error = crate::api::failure(error.clone());
                (Kind::Failure, Some(of), Some(error))
            }
        };
        let node = (self.driver.own_name)().unwrap_or_else(|| delivery.from.node.clone());
        Job {
            id: delivery.id,
            kind,
            to: AgentAddress {
                agent: delivery.to,
                node,
            },
            from: delivery.from,
            content_type: delivery.content_type,
            body: delivery.body,
            created_at_ms: delivery.created_at_ms,
            attempt: delivery.attempt,
            reply_expected: delivery.kind == DeliveryKind::Request,
            in_reply_to,
            error,
            conversation: delivery.conversation.map(Into::into),
            root: delivery.cause.root,
            depth: delivery.cause.depth,
        }
    }
}

impl Pace {
    pub(super) const USUAL: Self = Self {
        first: Duration::from_millis(500),
        most: Duration::from_secs(60),
        // A third of the time that a message is hidden without one.
        beat: Duration::from_secs(10),
    };

    /// Full jitter: anything up to the step, so that those who fail together do not come back
    /// together.
    fn pause(self, tries: u32) -> Duration {
        let step = self.first.saturating_mul(1_u32 << tries.min(16));
        let mut random = [0; 4];
        // Without randomness the whole step is as good.
        let part = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        step.min(self.most).mul_f64(part)
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A supervisor that is gone wants nothing served.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Hands parts on as they come, until the work ends or nobody wants them.
async fn publish(publisher: Option<Publisher>, mut told: mpsc::Receiver<Part>, begun: &AtomicBool) {
    let Some(publisher) = publisher else { return };
    let mut seq = 0;
    while let Some(part) = told.recv().await {
        for content in part.pieces(MAX_PART) {
            seq += 1;
            begun.store(true, Ordering::Relaxed);
            if publisher.push(seq, None, content).await.is_err() {
                return;
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// How long a worker that was told that its message is cancelled may go on.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How long what is being done may take to end when the node stops or the agent changes: less than
/// the spool's own time to drain.
const GRACE: Duration = Duration::from_secs(2);

/// The sender's gateway is the first to say that a message expired.
const EXPIRY_MARGIN_MS: u64 = 1000;

/// Parts that a worker may be ahead of whoever reads them.
const PARTS_AHEAD: usize = 64;
/// How long an answer waits for its last parts.
const PARTS_END: Duration = Duration::from_secs(2);

/// An inbox that is not there is looked for again.
const FOLLOW_AGAIN: Duration = Duration::from_millis(100);

/// The longest that a worker may ask us to wait.
const MAX_AFTER: Duration = Duration::from_secs(3600);
