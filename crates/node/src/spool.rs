//! The durable store of the message plane: an encrypted map of rows in one SQLite file.
//!
//! One thread writes. It takes whatever is queued, up to [`MOST_AT_ONCE`] stores, commits them with
//! one fsync, and says up to which ticket everything is on disk. A store without a ticket waits
//! for company: it never causes an fsync that somebody else must wait for. The log has its blocks
//! from the start, and is moved into the database after those who wait were told.
//!
//! It also reads single rows of the inbox again, between commits: [`Spool::read`]. That costs no
//! fsync, as it looks at what was told to be stored and at nothing later.
//!
//! **Invariants.** Stores are committed in the order in which they were submitted. When one fails,
//! all that were submitted before the submitter heard of it fail too ([`Spool::clear_failure`]), so
//! a later message is never stored before an earlier one. A value is sealed with AES-256-GCM under
//! a key of this process's start alone, bound to its table and row (messaging.md §4.4).

pub mod crash;
pub(crate) mod file;
mod seal;
mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use router::{Row, RowId, Ticket, Write};

use crate::state::{StateDir, StateError};
use store::Store;
use writer::Shared;

pub use seal::{NotARow, decode};

/// The database, in the state directory.
pub const DATABASE: &str = "spool.db";
/// The key that its values are sealed under, in the state directory.
pub const KEY: &str = "spool.key";
/// The most stores in one commit.
pub const MOST_AT_ONCE: usize = 256;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Yes. What every gateway runs with.
    #[default]
    Full,
    /// No: what was accepted is written a moment later, and a crash loses it. For `crabmesh bench`
    /// alone, which measures with it what is not the disk's part.
    None,
}

/// One store, as the router asked for it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Somebody waits for it.
    pub ticket: Option<Ticket>,
    /// All or none of these.
    pub writes: Vec<Write>,
}

/// The writing end. Dropped, it commits what is queued and ends its thread.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A spool that is open, and whose rows have yet to be read.
pub struct Unread {
    store: Store,
    told_early: bool,
    /// The life of this database: random, made with it.
    pub epoch: u64,
    /// Above every row that it ever had.
    pub first_row: RowId,
    /// Where the last database was put, if it was damaged.
    pub quarantined: Option<PathBuf>,
}

/// What the spool did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Commits, each of them one fsync.
    pub commits: u64,
    /// Rows written and deleted.
    pub writes: u64,
    /// Rows of the inbox that were read again.
    pub reads: u64,
    /// Rows that could not be read, and were set aside.
    pub damaged: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Stores that wait for their commit.
    pub queued: usize,
}

impl Spool {
    /// Opens the spool of a state directory, or makes it. A damaged database is set aside under
    /// another name, and the gateway begins with an empty one: see [`Unread::quarantined`].
    pub fn open(state: &StateDir, durability: Durability) -> Result<Unread, SpoolError> {
        let (store, quarantined) = Store::open(state, durability)?;
        Ok(Unread {
            told_early: durability == Durability::None,
            epoch: store.epoch(),
            first_row: store.first_row(),
            store,
            quarantined,
        })
    }

    /// Queues stores, in order; wakes the writer once, and only if somebody waits.
    pub fn submit(&self, jobs: &mut Vec<Job>) {
        self.shared.submit(jobs);
    }

    /// Asks for rows of the inbox that were told to be stored; they come by [`Spool::loaded`].
    pub fn read(&self, rows: &mut Vec<RowId>) {
        self.shared.read(rows);
    }

    /// The rows that were read since; `None` where one cannot be read, and is set aside.
    pub fn loaded(&self) -> Vec<(RowId, Option<Row>)> {
        self.shared.loaded()
    }

    /// Resolves when more is on disk, when rows were read, or when a commit failed.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Everything up to this is on disk.
    pub fn stored(&self) -> Ticket {
        Ticket(self.shared.stored.load(Ordering::Acquire))
    }

    /// After a failed commit: up to which ticket nothing more will be stored. From now on stores
    /// are taken again.
    pub fn clear_failure(&self) -> Option<Ticket> {
        self.shared.clear_failure()
    }

    /// Stores that wait for their commit.
    pub fn queued(&self) -> usize {
        self.shared.queued()
    }

    /// What it did.
    pub fn stats(&self) -> SpoolStats {
        SpoolStats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            writes: self.shared.writes.load(Ordering::Relaxed),
            reads: self.shared.reads.load(Ordering::Relaxed),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            queued: self.shared.queued(),
        }
    }
}

impl Unread {
    /// Hands out every row that can be read, one at a time: those of a table in their order, the
    /// inbox's first. Then the writing end.
    pub fn read(self, take: impl FnMut(RowId, Row)) -> Result<Spool, SpoolError> {
        let mut store = self.store;
        let damaged = store.load(take)?;
        let shared = Arc::new(Shared::new(self.told_early, damaged));
        let writers = shared.clone();
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || writer::run(store, &writers))
            .map_err(SpoolError::Thread)?;
        Ok(Spool {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // It panicked or it did not: the file is as its last commit left it.
            let _ = thread.join();
        }
    }
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The database refused.
    #[error("cannot {verb} the spool {}", path.display())]
    Database {
        /// What was tried.
        verb: &'static str,
        /// The database.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A file of the state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The key is gone, the messages are not.
    #[error("{} is missing, and without it {} cannot be read; hint: put the key back, or move the spool away", key.display(), path.display())]
    KeyMissing {
        /// The key's file.
        key: PathBuf,
        /// The database.
        path: PathBuf,
    },
    /// The key is another spool's.
    #[error("{} does not open {}; hint: put the right key back, or move the spool away", key.display(), path.display())]
    WrongKey {
        /// The key's file.
        key: PathBuf,
        /// The database.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error("{} has format {found}, and this version reads up to {known}; hint: run the newer crabmesh", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// No thread for the writer.
    #[error("cannot start the spool's thread")]
    Thread(#[source] std::io::Error),
}
