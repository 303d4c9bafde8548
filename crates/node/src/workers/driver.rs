//! The driver of one agent: follows its inbox, lets the worker do what comes, and settles it.
//!
//! It is a follower of the inbox, so the node holds whatever it was shown for as long as it runs,
//! and shows it again when it ends. It takes all that waits and sorts it by sender: a lane whose
//! first message fails does not stop the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::api::Kind;
use identity::{AgentAddress, NodeName};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};
use wire::MessageId;

use super::parts::Cancel;
use super::{Done, Health, Job, Parts, WorkError, Worker};
use crate::agents::Agents;
use crate::messages::{
    Delivery, DeliveryKind, Follow, LocalAgent, Messages, ReplyDraft, SendError, fresh_id, unix_ms,
};

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
    /// Given up, and not yet a dead letter.
    hopeless: Mutex<BTreeSet<MessageId>>,
}

/// What waits of each sender that has a message being worked on.
type Lanes = BTreeMap<AgentAddress, VecDeque<Delivery>>;

/// How a try ended.
enum Tried {
    Worked(Result<Done, WorkError>),
    Cancelled,
}

impl Driver {
    /// Serves the agent until told to stop. What is being done then has a moment to end.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        let mut stop_seen = stop.clone();
        let crew = Arc::new(Crew {
            slots: Semaphore::new(self.worker.concurrency().max(1)),
            driver: self,
            well: Notify::new(),
            stop,
            hopeless: Mutex::default(),
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
                delivery = inbox.next() => {
                    let Some(delivery) = delivery else { return };
                    if self.is_hopeless(delivery.id) {
                        self.release(delivery.id).await;
                        continue;
                    }
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
        let expires_at_ms = delivery.expires_at_ms;
        let mut job = self.job(delivery);
        let (mut tries, mut failures) = (0_u32, 0_u32);
        loop {
            if unix_ms() >= expires_at_ms {
                // The router says so to its sender.
                return self.release(job.id).await;
            }
            let Some(tried) = self.try_it(&job).await else {
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
            tries = tries.saturating_add(1);
            job.attempt = job.attempt.saturating_add(1);
        }
    }

    /// One try, in its turn. `None`: the node stops.
    async fn try_it(&self, job: &Job) -> Option<Tried> {
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
        let mut work = pin!(driver.worker.work(job, Parts::default(), cancelled));
        let every = driver.pace.beat;
        let mut beat = tokio::time::interval_at(Instant::now() + every, every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leave_at = None::<Instant>;
        loop {
            tokio::select! {
                biased;
                worked = &mut work => return Some(match leave_at {
                    None => Tried::Worked(worked),
                    Some(_) => Tried::Cancelled,
                }),
                _ = beat.tick(), if leave_at.is_none() => {
                    let beat = driver.messages.heartbeat(&driver.agent, vec![job.id], None).await;
                    if beat.is_ok_and(|results| results.iter().any(Result::is_err)) {
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
        let reply = job.reply_expected.then(|| ReplyDraft {
            id: Some(fresh_id()),
            content_type: done.content_type,
            body: done.body,
        });
        let mut tries = 0;
        loop {
            let settled = match &reply {
                Some(reply) => {
                    let reply = driver.messages.reply(&driver.agent, job.id, reply.clone());
                    reply.await.map(drop)
                }
                None => self.ack(job.id).await,
            };
            match settled {
                Ok(()) | Err(SendError::Stopping) => return,
                // The work is done; only the disk is not. The same reply is told again.
                Err(SendError::Store) => {
                    if !self.sleep(driver.pace.pause(tries), false).await {
                        return;
                    }
                    tries = tries.saturating_add(1);
                }
                Err(SendError::Refused(router::Refusal::NotFound)) => return,
                Err(SendError::Refused(refusal)) => {
                    let why = format!("its answer is refused: {}", refusal.code());
                    return self.give_up_job(job, &why).await;
                }
            }
        }
    }

    async fn ack(&self, id: MessageId) -> Result<(), SendError> {
        let (messages, agent) = (&self.driver.messages, &self.driver.agent);
        for result in messages.ack(agent, vec![id]).await? {
            result?;
        }
        Ok(())
    }

    /// What nobody will do. Information that is not taken harms nobody: it is let go.
    async fn give_up_job(&self, job: &Job, why: &str) {
        info!(target: "crabmesh::audit", agent = %job.to.agent, msg = %job.id, why, "given up");
        match job.kind {
            Kind::Message => self.give_up(job.id, why).await,
            Kind::Reply | Kind::Failure => {
                self.driver.health.gave_up(why);
                // Not stored: it comes again.
                let _ = self.ack(job.id).await;
            }
        }
    }

    async fn give_up(&self, id: MessageId, why: &str) {
        self.driver.health.gave_up(why);
        self.hopeless().insert(id);
        self.release(id).await;
    }

    /// Given back, it comes again until the router has seen it too often.
    fn is_hopeless(&self, id: MessageId) -> bool {
        self.hopeless().contains(&id)
    }

    fn hopeless(&self) -> std::sync::MutexGuard<'_, BTreeSet<MessageId>> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn release(&self, id: MessageId) {
        let (messages, agent) = (&self.driver.messages, &self.driver.agent);
        messages.release(agent, vec![id]).await;
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
            conversation: None,
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// How long a worker that was told that its message is cancelled may go on.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How long what is being done may take to end when the node stops or the agent changes: less than
/// the spool's own time to drain.
const GRACE: Duration = Duration::from_secs(2);

/// An inbox that is not there is looked for again.
const FOLLOW_AGAIN: Duration = Duration::from_millis(100);

/// The longest that a worker may ask us to wait.
const MAX_AFTER: Duration = Duration::from_secs(3600);
