//! The keeper: one driver for each open task, which sends its message, follows it, and puts its
//! reply on disk before it is acked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::api::Failure;
use ::api::a2a::{Content, Part, Problem, ProblemKind, TaskState};
use router::{Cursor, Delivery, PartEvent, Refusal, State, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::live::{End, Live};
use super::record::{Ended, Ending, Record, Reply};
use super::store::{Created, NotStored, Store, StoreError};
use super::tasks::{Inner, Tasks};
use crate::api::denied;
use crate::messages::{Kept, LocalAgent, Messages, Outcome, SendError, WaitFor};
use crate::state::StateDir;
use crate::streams::Subscription;

/// The task of the drivers. It ends when the last [`Tasks`] is dropped; what is open goes on at the
/// next start.
pub struct Keeper {
    inner: Arc<Inner>,
    drives: mpsc::Receiver<Drive>,
}

/// A task to be made and driven. Who asks for it may go: it is made or it is not.
pub(super) struct Drive {
    pub(super) agent: LocalAgent,
    pub(super) record: Record,
    /// Told once its message is accepted, or why it is not.
    pub(super) accepted: Telling,
}

/// What becomes of a [`Drive`].
#[derive(Debug)]
pub(super) enum Accepted {
    /// It is a new task, and its message is on its way or was denied.
    New(Arc<Record>, Arc<Live>),
    /// There is one already.
    Known(Box<Record>),
}

type Telling = oneshot::Sender<Result<Accepted, Problem>>;

/// Opens the tasks of a state directory. The keeper is to be resumed and run.
pub fn start(state: &StateDir, messages: Messages) -> Result<(Tasks, Keeper), StoreError> {
    let inner = Arc::new(Inner::new(Arc::new(Store::open(state)?), messages));
    let (sender, drives) = mpsc::channel(CHANNEL);
    let tasks = Tasks::new(inner.clone(), sender);
    Ok((tasks, Keeper { inner, drives }))
}

impl Keeper {
    /// Takes up what was open. Resolves when every reply that comes is kept for its task: before
    /// that no agent may ask for its inbox, where one may wait already.
    pub async fn resume(&self, agents: &[LocalAgent]) -> Drivers {
        let owners = agents.iter().map(|agent| agent.instance).collect();
        let open = match self.inner.store.unfinished(owners, now_ms()).await {
            Ok(open) => open,
            Err(error) => {
                warn!(%error, "open tasks of A2A are not taken up");
                Vec::new()
            }
        };
        let mut drivers = Drivers(JoinSet::new());
        let mut accepted = Vec::new();
        for record in open {
            let owner = agents.iter().find(|agent| agent.instance == record.owner);
            let Some(agent) = owner.cloned() else {
                continue;
            };
            let (sender, told) = oneshot::channel();
            let driver = Driver::new(self.inner.clone(), agent, record, true);
            drivers.0.spawn(driver.take_up(sender));
            accepted.push(told);
        }
        for told in accepted {
            // A driver that ended has nothing left to wait for.
            let _ = told.await;
        }
        drivers
    }

    /// Drives tasks until nobody can make one any longer.
    pub async fn run(mut self, drivers: Drivers) {
        let Drivers(mut drivers) = drivers;
        loop {
            tokio::select! {
                drive = self.drives.recv() => {
                    let Some(drive) = drive else { break };
                    let Drive { agent, record, accepted } = drive;
                    let driver = Driver::new(self.inner.clone(), agent, record, false);
                    drivers.spawn(driver.make(accepted));
                }
                Some(ended) = drivers.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a task of A2A is not followed any longer");
                    }
                }
            }
        }
        drivers.shutdown().await;
    }
}

/// The drivers of a start.
pub struct Drivers(JoinSet<()>);

struct Driver {
    inner: Arc<Inner>,
    agent: LocalAgent,
    record: Arc<Record>,
    live: Arc<Live>,
    /// It was taken up at a start: nobody waits to hear why it was not accepted.
    resumed: bool,
}

impl Driver {
    fn new(inner: Arc<Inner>, agent: LocalAgent, record: Record, resumed: bool) -> Self {
        let live = Live::new(record.created_ms);
        if record.ending.is_none() {
            // Before it can be found: whoever finds it open finds this too.
            inner.insert_live(record.id, &live);
        }
        Self {
            inner,
            agent,
            record: Arc::new(record),
            live,
            resumed,
        }
    }

    /// A task of before the start.
    async fn take_up(self, accepted: Telling) {
        match self.record.ending {
            Some(_) => self.take_late_reply(accepted).await,
            None => self.drive(accepted).await,
        }
    }

    /// A task that may be new.
    async fn make(self, accepted: Telling) {
        let created = self.inner.store.create((*self.record).clone()).await;
        let told = match created {
            Ok(Created::New) => return self.drive(accepted).await,
            Ok(Created::Known(known)) => Ok(Accepted::Known(known)),
            Ok(Created::Full) => {
                let reason = "too many tasks of this agent wait for their answers";
                let failure = Failure::new("too_many_tasks", reason);
                Err(Problem::of_failure(ProblemKind::Internal, &failure))
            }
            Err(error) => Err(unstored(error)),
        };
        // Who asked may be gone; so with every word below.
        let _ = accepted.send(told);
    }

    async fn drive(&self, accepted: Telling) {
        if let Some((kept, stream)) = self.send(accepted).await {
            let outcome = self.follow(kept, stream).await;
            self.end(outcome).await;
        }
    }

    /// Hands the message to the mesh, and says whether parts of the answer come. `None` where that
    /// was all.
    async fn send(&self, accepted: Telling) -> Option<(Kept, bool)> {
        let mut stream = self.record.stream;
        loop {
            let draft = self.record.draft(stream);
            let error = match self.inner.messages.send_kept(&self.agent, draft).await {
                Ok((_, kept)) => {
                    let _ = accepted.send(Ok(self.accepted()));
                    return Some((kept, stream));
                }
                // The policy may let it ask without letting it see the answer being made; and before
                // a restart it may have been so.
                Err(SendError::Refused(Refusal::Denied(_) | Refusal::Conflict)) if stream => {
                    stream = false;
                    continue;
                }
                Err(error) => error,
            };
            let failure = match &error {
                SendError::Refused(Refusal::Denied(denial)) => denied(error.code(), denial),
                _ => Failure::new(error.code(), error.to_string()),
            };
            match error {
                SendError::Refused(Refusal::Denied(_)) => {
                    let why = Failure {
                        reason: format!(
                            "{} may not ask {}: {}",
                            self.agent.name, self.record.to, failure.reason
                        ),
                        ..failure
                    };
                    self.finish(Ending::of(Ended::Rejected, now_ms(), Some(why)), true)
                        .await;
                    let _ = accepted.send(Ok(self.accepted()));
                }
                SendError::Stopping => {
                    self.live.end(End::Stopping);
                    let problem = Problem::of_failure(ProblemKind::Internal, &failure);
                    let _ = accepted.send(Err(problem));
                }
                SendError::Store
                | SendError::Refused(Refusal::OutboxFull | Refusal::TooManyRequests)
                    if self.resumed =>
                {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                _ if self.resumed => {
                    self.finish(Ending::of(Ended::Failed, now_ms(), Some(failure)), true)
                        .await;
                    let _ = accepted.send(Ok(self.accepted()));
                }
                _ => {
                    // It never was a message, so it is no task either.
                    let kind = match &error {
                        SendError::Store
                        | SendError::Refused(Refusal::OutboxFull | Refusal::TooManyRequests) => {
                            ProblemKind::Internal
                        }
                        _ => ProblemKind::InvalidRequest,
                    };
                    let problem = Problem::of_failure(kind, &failure);
                    if let Err(error) = self.inner.store.remove(self.record.id).await {
                        debug!(%error, "a task that was refused is found again");
                    }
                    self.live.end(End::Refused(problem.clone()));
                    let _ = accepted.send(Err(problem));
                }
            }
            return None;
        }
    }

    fn accepted(&self) -> Accepted {
        Accepted::New(self.record.clone(), self.live.clone())
    }

    /// Waits for its end, and tells of its states on the way.
    async fn follow(&self, mut kept: Kept, stream: bool) -> Option<Outcome> {
        let messages = &self.inner.messages;
        let id = self.record.id;
        let left = self.record.expires_ms().saturating_sub(now_ms());
        let until = Instant::now() + Duration::from_millis(left) + GRACE;
        let delivered = async {
            let wait = WaitFor::State(State::Delivered);
            let outcome = messages.wait(&self.agent, id, wait, until).await;
            if let Ok(Outcome::Settled(status)) = outcome
                && matches!(status.state, State::Delivered | State::Done)
            {
                self.live.set_state(TaskState::Working, now_ms());
            }
            std::future::pending::<()>().await;
        };
        let mut delivered = std::pin::pin!(delivered);
        // Without them the answer comes all the same.
        let mut parts = match stream {
            true => messages
                .subscribe(&self.agent, id, Cursor::default())
                .await
                .ok(),
            false => None,
        };
        loop {
            tokio::select! {
                outcome = kept.outcome() => {
                    if let (Some(Outcome::Answered(_)), Some(parts)) = (&outcome, &mut parts) {
                        // The last of them may be on the way, on a stream of their own.
                        let rest = async { while self.take_part(parts.next().await) {} };
                        let _ = tokio::time::timeout(LAST_PARTS, rest).await;
                    }
                    return outcome;
                }
                event = next_part(&mut parts) => {
                    if !self.take_part(event) {
                        parts = None;
                    }
                }
                () = &mut delivered => {}
                () = tokio::time::sleep_until(until.into()) => {
                    return messages.state(&self.agent, id).await.ok().map(Outcome::TimedOut);
                }
            }
        }
    }

    /// More of the answer; false where no more comes.
    fn take_part(&self, event: Option<PartEvent>) -> bool {
        match event {
            // What is no part of the answer itself has no place in A2A.
            Some(PartEvent::Part { part, .. }) if part.kind.is_none() => {
                let bytes = part.content.len();
                self.live.add_part(part_of(part.content.into()), bytes);
            }
            Some(PartEvent::Restart { .. }) => self.live.restart(),
            // What is missing is told with the answer, which then replaces them.
            Some(PartEvent::Lost { .. } | PartEvent::Part { .. }) => {}
            Some(PartEvent::End) | None => return false,
        }
        true
    }

    async fn end(&self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Answered(delivery)) => {
                if self.finish(answered(delivery), false).await {
                    self.settle().await;
                }
            }
            Some(Outcome::Settled(status) | Outcome::TimedOut(status)) => {
                self.finish(ending_of(status), true).await;
            }
            // Its agent was removed, or the plane has ended: the one forgets the task, the other
            // goes on with it at the next start.
            None => match self.inner.messages.state(&self.agent, self.record.id).await {
                Err(SendError::Refused(_)) => {
                    let why = Failure::new("not_found", "its message is not known any longer");
                    self.finish(Ending::of(Ended::Failed, now_ms(), Some(why)), true)
                        .await;
                }
                _ => self.live.end(End::Stopping),
            },
        }
    }

    /// Puts the end on disk, however long the disk takes: its reply is not acked before that.
    async fn finish(&self, ending: Ending, settled: bool) -> bool {
        let record = Record {
            ending: Some(ending),
            ..(*self.record).clone()
        };
        loop {
            match self.inner.store.finish(record.clone(), settled).await {
                Ok(()) => break,
                Err(NotStored::Stopping) => {
                    self.live.end(End::Stopping);
                    return false;
                }
                Err(NotStored::Disk) => tokio::time::sleep(AGAIN).await,
            }
        }
        self.live.end(End::Ended(Arc::new(record)));
        true
    }

    /// The reply is on disk here, so that the inbox may forget it.
    async fn settle(&self) {
        self.inner.remove_live(&self.record.id);
        self.inner
            .messages
            .settle_reply(&self.agent, self.record.id)
            .await;
        // A crash before the ack is on disk shows the reply again, and then somebody must take it.
        tokio::time::sleep(ACKED_WITHIN).await;
        if let Err(error) = self.inner.store.settle(self.record.id).await {
            debug!(%error, "a reply is looked for again at the next start");
        }
    }

    /// The task ended, and whether its reply was acked is not known: a crash came between the two.
    async fn take_late_reply(&self, accepted: Telling) {
        let kept = self.inner.messages.keep(&self.agent, self.record.id).await;
        // Its turn comes before that of any call that follows.
        let _ = accepted.send(Ok(self.accepted()));
        let Ok(mut kept) = kept else { return };
        let left = self.record.expires_ms().saturating_sub(now_ms());
        let wait = Duration::from_millis(left) + GRACE;
        // Whatever it is: the task has it, or it is not to come.
        let came = tokio::time::timeout(wait, kept.outcome()).await;
        if came.is_ok_and(|outcome| outcome.is_some()) {
            return self.settle().await;
        }
        if let Err(error) = self.inner.store.settle(self.record.id).await {
            debug!(%error, "a reply is looked for again at the next start");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.inner.remove_live(&self.record.id);
        // Where it has ended that was told, and this is not.
        self.live.end(End::Stopping);
    }
}

/// What the store's trouble is to whoever asks.
pub(super) fn unstored(error: NotStored) -> Problem {
    let code = match error {
        NotStored::Disk => "store_full",
        NotStored::Stopping => "stopping",
    };
    Problem::of_failure(
        ProblemKind::Internal,
        &Failure::new(code, error.to_string()),
    )
}

async fn next_part(parts: &mut Option<Subscription>) -> Option<PartEvent> {
    match parts {
        Some(parts) => parts.next().await,
        None => std::future::pending().await,
    }
}

fn part_of(bytes: Vec<u8>) -> Part {
    match String::from_utf8(bytes) {
        Ok(text) => Part::text(text),
        Err(error) => Part::of(Content::Raw(error.into_bytes())),
    }
}

fn answered(delivery: Delivery) -> Ending {
    Ending {
        state: Ended::Completed,
        at_ms: now_ms(),
        why: None,
        reply: Some(Reply {
            id: delivery.id.to_string(),
            from: delivery.from,
            content_type: delivery.content_type.into(),
            body: delivery.body.into(),
        }),
    }
}

/// How a message that has no reply for us ended.
fn ending_of(status: Status) -> Ending {
    let failure = status.error.map(|error| Failure {
        code: error.code.into(),
        reason: error.reason.into(),
        hint: None,
        missing_grant: error.missing_grant,
        cause: error.cause,
        rule: error.rule,
    });
    let code = failure.as_ref().map_or("", |failure| failure.code.as_str());
    let (state, why) = match (status.state, code) {
        (State::Done, _) if status.reply.is_some() => {
            let reason = "its answer was received by another call of this agent";
            (Ended::Completed, Some(Failure::new("received", reason)))
        }
        (State::Done, _) => {
            let reason = "the agent took it and sent no answer";
            (Ended::Completed, Some(Failure::new("no_answer", reason)))
        }
        (State::Denied, _) | (State::Failed, "rejected") => (Ended::Rejected, failure),
        (State::Failed, router::CANCELLED) => (Ended::Canceled, failure),
        (State::Expired | State::Failed, _) => (Ended::Failed, failure),
        _ => {
            let reason = "no answer came within its time to live";
            (Ended::Failed, Some(Failure::new("expired", reason)))
        }
    };
    Ending::of(state, now_ms(), why)
}

pub(super) fn now_ms() -> u64 {
    crate::messages::unix_ms()
}

/// Tasks that may wait for their driver.
const CHANNEL: usize = 256;
/// How long a disk that is full is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// How long after its time to live the router may still say what became of a message.
const GRACE: Duration = Duration::from_secs(5);
/// How long an answer waits for its own last parts.
const LAST_PARTS: Duration = Duration::from_millis(500);
/// By then an ack is on disk: it waits 50 ms for company where nobody hurries, 250 at most.
const ACKED_WITHIN: Duration = Duration::from_secs(1);
