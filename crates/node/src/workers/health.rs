//! How a worker does: shown by `agent list`, counted in the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::api::{Timestamp, WorkerState, WorkerStatus};

use crate::messages::unix_ms;

/// The health of one worker, for as long as the node runs it.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    done: AtomicU64,
    retried: AtomicU64,
    given_up: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Our own words.
    failing: Option<String>,
    since_ms: u64,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                failing: None,
                since_ms: unix_ms(),
            }),
            done: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    /// A message was done; true where the one before was not.
    pub(super) fn did(&self) -> bool {
        self.done.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let failed_before = state.failing.take().is_some();
        if failed_before {
            state.since_ms = unix_ms();
        }
        failed_before
    }

    /// A try failed and will be made again.
    pub(super) fn will_retry(&self, why: &str) {
        self.retried.fetch_add(1, Ordering::Relaxed);
        self.fails(why);
    }

    /// A message was given up.
    pub(super) fn gave_up(&self, why: &str) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        self.fails(why);
    }

    pub(super) fn fails(&self, why: &str) {
        let mut state = self.lock();
        if state.failing.is_none() {
            state.since_ms = unix_ms();
        }
        if state.failing.as_deref() != Some(why) {
            state.failing = Some(why.to_owned());
        }
    }

    /// As the admin sees it.
    pub fn status(&self, worker: ::api::Worker) -> WorkerStatus {
        let state = self.lock();
        WorkerStatus {
            worker,
            state: match state.failing {
                None => WorkerState::Ok,
                Some(_) => WorkerState::Failing,
            },
            since: Timestamp(state.since_ms),
            why: state.failing.clone(),
            done: self.done.load(Ordering::Relaxed),
            retried: self.retried.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
