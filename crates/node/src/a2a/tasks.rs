//! The handle: what the local API asks of tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::api::Failure;
use ::api::a2a::{
    Event, ListParams, Message, Part, Problem, ProblemKind, Task, TaskList, TaskState, body_of,
};
use identity::AgentAddress;
use tokio::sync::{mpsc, oneshot};
use wire::MessageId;
use wire::message::MAX_BODY;

use super::client::Trace;
use super::keeper::{Accepted, Drive, now_ms, unstored};
use super::live::{End, Follower, Live, News};
use super::record::{Ended, Record};
use super::store::{Listed, NotStored, Store};
use crate::messages::{LocalAgent, Messages, SendError, fresh_id};

/// The way to the tasks. Clones share it; the keeper ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Tasks {
    inner: Arc<Inner>,
    drives: mpsc::Sender<Drive>,
}

/// What the node, as a client of A2A servers, remembers across a restart: see `Trace`.
#[derive(Clone, Debug)]
pub struct Posted(Arc<Store>);

/// What the handle and the drivers share.
pub(super) struct Inner {
    pub(super) store: Arc<Store>,
    pub(super) messages: Messages,
    live: Mutex<BTreeMap<MessageId, Arc<Live>>>,
}

/// A task that was found, with what goes on where it is open.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    record: Arc<Record>,
    live: Option<Arc<Live>>,
}

/// What whoever follows a task is told, until it ends.
#[derive(Debug)]
pub(crate) struct Told {
    record: Arc<Record>,
    first: Option<Task>,
    follower: Option<Follower>,
    waiting: Vec<Event>,
}

impl Tasks {
    pub(super) fn new(inner: Arc<Inner>, drives: mpsc::Sender<Drive>) -> Self {
        Self { inner, drives }
    }

    /// Takes a message of an agent to an endpoint: a new task, or the one that it is already.
    /// Resolves when its message is accepted, which is on disk.
    pub(crate) async fn send(
        &self,
        agent: &LocalAgent,
        to: &AgentAddress,
        message: Message,
        stream: bool,
    ) -> Result<Watched, Problem> {
        if let Some(task) = &message.task {
            self.find(agent, to, task).await?;
            return Err(Problem::new(
                ProblemKind::UnsupportedOperation,
                "a task here is one message and its answer; hint: leave taskId out and keep the contextId",
            ));
        }
        let (_, body) = body_of(&message);
        if body.len() > MAX_BODY {
            let failure = Failure::new(
                "too_large",
                format!(
                    "message.parts: {} bytes as it crosses the mesh, and a message has at most {MAX_BODY}",
                    body.len()
                ),
            );
            return Err(Problem::of_failure(ProblemKind::InvalidParams, &failure));
        }
        let id = fresh_id();
        let record = Record {
            id,
            owner: agent.instance,
            to: to.clone(),
            context: message.context.clone().unwrap_or_else(|| id.to_string()),
            message,
            stream,
            created_ms: now_ms(),
            ending: None,
        };
        let asked = record.message.clone();
        let (accepted, told) = oneshot::channel();
        let drive = Drive {
            agent: agent.clone(),
            record,
            accepted,
        };
        let stopping = |_| unstored(NotStored::Stopping);
        self.drives
            .send(drive)
            .await
            .map_err(|_| unstored(NotStored::Stopping))?;
        match told.await.map_err(stopping)?? {
            Accepted::New(record, live) => Ok(Watched {
                record,
                live: Some(live),
            }),
            Accepted::Known(known) => self.known(&asked, *known).await,
        }
    }

    /// The same message again is the same task; another one under its id is a mistake.
    async fn known(&self, asked: &Message, known: Record) -> Result<Watched, Problem> {
        if *asked != known.message {
            let failure = Failure::new(
                "conflict",
                "message.messageId was used for another message to this endpoint",
            )
            .hint("a new message needs a new messageId");
            return Err(Problem::of_failure(ProblemKind::InvalidParams, &failure));
        }
        self.watched(known).await
    }

    /// What the workers keep of what they posted.
    pub fn posted(&self) -> Posted {
        Posted(self.inner.store.clone())
    }

    /// A task of an agent at an endpoint, by what the caller takes for its id.
    pub(crate) async fn find(
        &self,
        agent: &LocalAgent,
        to: &AgentAddress,
        id: &str,
    ) -> Result<Watched, Problem> {
        let id: MessageId = id.parse().map_err(|_| Problem::task_not_found())?;
        let found = self.inner.store.find(agent.instance, to.clone(), id).await;
        let found = found.map_err(unstored)?;
        self.watched(found.ok_or_else(Problem::task_not_found)?)
            .await
    }

    /// One page of an agent's tasks at an endpoint, the newest first.
    pub(crate) async fn list(
        &self,
        agent: &LocalAgent,
        to: &AgentAddress,
        params: &ListParams,
    ) -> Result<TaskList, Problem> {
        let context = params.context.clone();
        let store = &self.inner.store;
        let all = store.list(agent.instance, to.clone(), context).await;
        let all = all.map_err(unstored)?;
        let stands = |listed: &Listed| {
            let live = self.inner.live_of(&listed.id);
            listed.shown(live.map(|live| live.state()))
        };
        let after = params.after.map(|after| after.0);
        let mut all: Vec<(u64, MessageId)> = all
            .iter()
            .map(|listed| (stands(listed), listed.id))
            .filter(|((state, _), _)| params.state.is_none_or(|wanted| wanted == *state))
            .map(|((_, at), id)| (at, id))
            .filter(|(at, _)| after.is_none_or(|after| *at >= after))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let total = all.len();
        if let Some(token) = &params.page_token {
            let from = page_start(token).ok_or_else(|| {
                let mut problem = Problem::new(
                    ProblemKind::InvalidParams,
                    "params.pageToken is none that a list here gave",
                );
                problem
                    .details
                    .insert("field".into(), "params.pageToken".into());
                problem
            })?;
            all.retain(|it| *it < from);
        }
        let size = usize::try_from(params.page_size).unwrap_or(1);
        let next = match all.len() > size {
            true => all[size - 1],
            false => (0, fresh_id()),
        };
        let more = all.len() > size;
        let mut tasks = Vec::with_capacity(size.min(all.len()));
        for (_, id) in all.into_iter().take(size) {
            let found = store.find(agent.instance, to.clone(), id).await;
            // It may have made room for another by now.
            if let Some(record) = found.map_err(unstored)? {
                let mut task = self.watched(record).await?.task(params.history);
                if !params.artifacts {
                    task.artifacts.clear();
                }
                tasks.push(task);
            }
        }
        Ok(TaskList {
            tasks,
            next: if more {
                page_token(next)
            } else {
                String::new()
            },
            page_size: params.page_size,
            total,
        })
    }

    /// Takes a task back. Resolves when it has ended so.
    pub(crate) async fn cancel(
        &self,
        agent: &LocalAgent,
        to: &AgentAddress,
        id: &str,
    ) -> Result<Watched, Problem> {
        let task = self.find(agent, to, id).await?;
        let ended = || Problem::new(ProblemKind::TaskNotCancelable, "the task has ended");
        if task.is_over() {
            return Err(ended());
        }
        match self.inner.messages.cancel(agent, task.record.id).await {
            Ok(_) => {}
            Err(SendError::Refused(_)) => return Err(ended()),
            Err(error) => {
                let failure = Failure::new(error.code(), error.to_string());
                return Err(Problem::of_failure(ProblemKind::Internal, &failure));
            }
        }
        let task = task.ended().await?;
        match &task.record.ending {
            // Its answer came first.
            Some(ending) if ending.state != Ended::Canceled => Err(ended()),
            _ => Ok(task),
        }
    }

    /// Forgets the tasks of an agent that was removed.
    pub(crate) async fn remove_agent(&self, instance: [u8; 16]) {
        if let Err(error) = self.inner.store.remove_agent(instance).await {
            // The next start forgets them: there is no such agent.
            tracing::debug!(%error, "the tasks of an agent outlive it");
        }
    }

    async fn watched(&self, mut record: Record) -> Result<Watched, Problem> {
        let mut live = None;
        if record.ending.is_none() {
            live = self.inner.live_of(&record.id);
        }
        if record.ending.is_none() && live.is_none() {
            // It ended since it was read.
            let found = self
                .inner
                .store
                .find(record.owner, record.to.clone(), record.id)
                .await;
            record = found
                .map_err(unstored)?
                .ok_or_else(Problem::task_not_found)?;
        }
        Ok(Watched {
            record: Arc::new(record),
            live,
        })
    }
}

#[cfg(test)]
impl Tasks {
    pub(super) fn store(&self) -> &Store {
        &self.inner.store
    }
}

#[cfg(test)]
impl Posted {
    pub(crate) fn of_dir(state: &crate::state::StateDir) -> Self {
        Self(Arc::new(Store::open(state).expect("opens")))
    }
}

#[cfg(test)]
impl Watched {
    pub(super) fn of_live(record: Arc<Record>, live: Arc<Live>) -> Self {
        let live = Some(live);
        Self { record, live }
    }
}

impl Posted {
    /// What is known of a message; `None` where it was never posted.
    pub(crate) async fn trace(&self, id: MessageId) -> Result<Option<Trace>, NotStored> {
        let kept = self.0.posted(id).await?;
        kept.map(|kept| postcard::from_bytes(&kept).map_err(|_| NotStored::Disk))
            .transpose()
    }

    /// Keeps what is known of a message, or forgets that it was to be posted. Resolves when that is
    /// on disk.
    pub(crate) async fn note(&self, id: MessageId, trace: Option<&Trace>) -> Result<(), NotStored> {
        let kept = trace.map(postcard::to_allocvec).transpose();
        let kept = kept.map_err(|_| NotStored::Disk)?;
        self.0.note_posted(id, kept, now_ms()).await
    }
}

impl Watched {
    /// The task, as it stands.
    pub(crate) fn task(&self, history: Option<u32>) -> Task {
        let now = self.live.as_ref().map(|live| live.state());
        let now = now.unwrap_or((TaskState::Submitted, self.record.created_ms));
        let mut task = self.record.task(now, history);
        let parts = self.live.as_ref().map(|live| live.parts());
        if let Some(parts) = parts.filter(|parts| !parts.is_empty() && task.artifacts.is_empty()) {
            task.artifacts.push(self.record.partial(parts));
        }
        task
    }

    /// Whether nothing can follow.
    pub(crate) fn is_over(&self) -> bool {
        self.record.ending.is_some()
    }

    /// Waits until it has ended. Where the node stops first, it is as it stands.
    pub(crate) async fn ended(self) -> Result<Self, Problem> {
        let Some(live) = &self.live else {
            return Ok(self);
        };
        let mut follower = live.follow(TaskState::Submitted);
        while let Some(news) = follower.next().await {
            match news {
                News::End {
                    end: End::Ended(record),
                    ..
                } => return Ok(Self { record, live: None }),
                News::End {
                    end: End::Refused(problem),
                    ..
                } => return Err(problem),
                News::End {
                    end: End::Stopping, ..
                } => break,
                News::State(..) | News::Parts { .. } => {}
            }
        }
        Ok(self)
    }

    /// All that happens to it from now on, after how it stands.
    pub(crate) fn follow(self, history: Option<u32>) -> Told {
        let first = self.task(history);
        let follower = self.live.map(|live| live.follow(first.status.state));
        Told {
            record: self.record,
            first: Some(first),
            follower,
            waiting: Vec::new(),
        }
    }
}

impl Told {
    /// The next event; `None` at the end. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, Problem>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(Event::Task(first)));
        }
        if let Some(event) = self.waiting.pop() {
            return Some(Ok(event));
        }
        let news = self.follower.as_mut()?.next().await?;
        match news {
            News::State(state, at_ms) => Some(Ok(self.status(state, at_ms))),
            News::Parts { parts, append } => Some(Ok(self.artifact(parts, append, false))),
            News::End {
                end: End::Refused(problem),
                ..
            } => Some(Err(problem)),
            News::End {
                end: End::Stopping, ..
            } => None,
            News::End {
                end: End::Ended(record),
                told,
            } => {
                self.record = record;
                let ending = self.record.ending.as_ref()?;
                let status = self.status(ending.state.into(), ending.at_ms);
                let Some(artifact) = self.record.artifact() else {
                    return Some(Ok(status));
                };
                self.waiting.push(status);
                // What was told piece by piece is not told again.
                if !told.is_empty() && text_of(&told) == text_of(&artifact.parts) {
                    return Some(Ok(self.artifact(vec![Part::text("")], true, true)));
                }
                Some(Ok(Event::Artifact {
                    task: self.record.id.to_string(),
                    context: self.record.context.clone(),
                    artifact,
                    append: false,
                    last: true,
                }))
            }
        }
    }

    fn status(&self, state: TaskState, at_ms: u64) -> Event {
        Event::Status {
            task: self.record.id.to_string(),
            context: self.record.context.clone(),
            status: self.record.status(state, at_ms),
        }
    }

    fn artifact(&self, parts: Vec<Part>, append: bool, last: bool) -> Event {
        Event::Artifact {
            task: self.record.id.to_string(),
            context: self.record.context.clone(),
            artifact: self.record.partial(parts),
            append,
            last,
        }
    }
}

impl Inner {
    pub(super) fn new(store: Arc<Store>, messages: Messages) -> Self {
        Self {
            store,
            messages,
            live: Mutex::default(),
        }
    }

    pub(super) fn insert_live(&self, id: MessageId, live: &Arc<Live>) {
        self.lock().insert(id, live.clone());
    }

    pub(super) fn remove_live(&self, id: &MessageId) {
        self.lock().remove(id);
    }

    fn live_of(&self, id: &MessageId) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MessageId, Arc<Live>>> {
        // Whoever panicked holding it left a map that is still a map.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("open", &self.lock().len())
            .finish_non_exhaustive()
    }
}

/// All text in parts of text alone.
fn text_of(parts: &[Part]) -> Option<String> {
    let texts = parts.iter().map(|part| match &part.content {
        ::api::a2a::Content::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn page_token((at, id): (u64, MessageId)) -> String {
    format!("{at}.{id}")
}

fn page_start(token: &str) -> Option<(u64, MessageId)> {
    let (at, id) = token.split_once('.')?;
    Some((at.parse().ok()?, id.parse().ok()?))
}
