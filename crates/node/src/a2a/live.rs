//! An open task, as it goes on: what its driver learns, and whoever follows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::api::a2a::{Part, Problem, TaskState};
use tokio::sync::watch;

use super::record::Record;

/// An open task. Its driver writes, followers read at their own pace.
#[derive(Debug)]
pub(crate) struct Live {
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Log {
    state: TaskState,
    at_ms: u64,
    /// How often the far agent began its answer.
    begun: u32,
    /// What it has answered so far, since it began last.
    parts: Vec<Part>,
    bytes: usize,
    end: Option<End>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// As its record says.
    Ended(Arc<Record>),
    /// It was never sent, and is no task.
    Refused(Problem),
    /// The node stops; the task goes on at its next start.
    Stopping,
}

/// One who follows.
#[derive(Debug)]
pub(crate) struct Follower {
    live: Arc<Live>,
    changed: watch::Receiver<()>,
    state: TaskState,
    begun: u32,
    told: usize,
    over: bool,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// It is in another state.
    State(TaskState, u64),
    /// More of the answer; it replaces what there was unless it is to be appended.
    Parts { parts: Vec<Part>, append: bool },
    /// It ended; and whether all of its answer was told as parts.
    End { end: End, told: Vec<Part> },
}

impl Live {
    pub(crate) fn new(at_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::new(Log {
                state: TaskState::Submitted,
                at_ms,
                begun: 0,
                parts: Vec::new(),
                bytes: 0,
                end: None,
            }),
            changed: watch::Sender::new(()),
        })
    }

    /// How it stands.
    pub(crate) fn state(&self) -> (TaskState, u64) {
        let log = self.lock();
        (log.state, log.at_ms)
    }

    /// What there is of the answer.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.lock().parts.clone()
    }

    pub(crate) fn set_state(&self, state: TaskState, at_ms: u64) {
        self.change(|log| {
            if log.state != state && log.end.is_none() {
                (log.state, log.at_ms) = (state, at_ms);
            }
        });
    }

    /// More of the answer has come. The one place where parts enter.
    pub(crate) fn add_part(&self, part: Part, bytes: usize) {
        self.change(|log| {
            // Beyond that whoever follows waits for the whole answer.
            if log.end.is_none() && log.bytes + bytes <= MAX_PART_BYTES {
                log.bytes += bytes;
                log.parts.push(part);
            }
        });
    }

    /// The far agent begins its answer again: what it said is void.
    pub(crate) fn restart(&self) {
        self.change(|log| {
            log.begun += 1;
            log.parts.clear();
            log.bytes = 0;
        });
    }

    /// It ended; the first word counts.
    pub(crate) fn end(&self, end: End) {
        self.change(|log| {
            log.end.get_or_insert(end);
        });
    }

    /// From now on; what was said so far is told first.
    pub(crate) fn follow(self: &Arc<Self>, state: TaskState) -> Follower {
        Follower {
            live: self.clone(),
            changed: self.changed.subscribe(),
            state,
            begun: 0,
            told: 0,
            over: false,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.lock());
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // Whoever panicked holding it left a log that is still a log.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// What is new; `None` once the end was told. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<News> {
        loop {
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            if let Some(news) = self.look() {
                return Some(news);
            }
            // Its sender lives in `self.live`.
            if self.changed.changed().await.is_err() {
                return None;
            }
        }
    }

    fn look(&mut self) -> Option<News> {
        let log = self.live.lock();
        if log.state != self.state && log.end.is_none() {
            self.state = log.state;
            return Some(News::State(log.state, log.at_ms));
        }
        let again = log.begun != self.begun;
        if again && (!log.parts.is_empty()) || log.parts.len() > self.told {
            let from = if again { 0 } else { self.told };
            (self.begun, self.told) = (log.begun, log.parts.len());
            let parts = log.parts[from..].to_vec();
            let append = from > 0;
            return Some(News::Parts { parts, append });
        }
        let end = log.end.clone()?;
        self.over = true;
        let told = log.parts.clone();
        Some(News::End { end, told })
    }
}

/// What is kept of an answer while it comes; as much as a stream of the mesh sends again.
const MAX_PART_BYTES: usize = 1 << 20;
