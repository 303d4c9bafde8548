//! The writing thread and the queue before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(debug_assertions)]
use router::{InboxRow, OutboxRow};
use router::{Row, RowId, Table, Ticket, Write};
use rusqlite::{Connection, Statement, params};
use tokio::sync::Notify;

use super::file::is_damage;
use super::seal::Sealer;
use super::store::{LOG_PAGES, Openers, Store, put_aside};
use super::{Job, MOST_AT_ONCE, crash};

/// What the submitting task and the thread share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    pub(super) changed: Notify,
    pub(super) stored: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) failures: AtomicU64,
    loaded: Mutex<Vec<(RowId, Option<Row>)>>,
    /// [`Durability::None`](super::Durability): told at once that all is stored, nobody waits.
    told_early: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Rows that somebody wants to have again.
    reads: VecDeque<RowId>,
    /// How many of these somebody waits for.
    awaited: usize,
    /// When the oldest job came that nobody waits for.
    since: Option<Instant>,
    /// A commit failed, and the submitter does not know yet: nothing is taken until it does.
    failed: bool,
    /// The highest ticket that was submitted.
    last: u64,
    /// The thread wakes by itself within [`IDLE`], and need not be woken for what can wait.
    watched: bool,
    closed: bool,
}

impl Shared {
    pub(super) fn new(told_early: bool, damaged: u64) -> Self {
        Self {
            told_early,
            damaged: AtomicU64::new(damaged),
            ..Self::default()
        }
    }

    pub(super) fn submit(&self, jobs: &mut Vec<Job>) {
        let mut queue = self.lock();
        let was_asleep = queue.awaited == 0;
        for mut job in jobs.drain(..) {
            if let Some(ticket) = job.ticket {
                queue.last = queue.last.max(ticket.0);
            }
            if self.told_early && job.ticket.take().is_some() {
                self.stored.store(queue.last, Ordering::Release);
                self.changed.notify_one();
            }
            if queue.failed {
                continue;
            }
            queue.awaited += usize::from(job.ticket.is_some());
            if job.ticket.is_none() && queue.since.is_none() {
                queue.since = Some(Instant::now());
            }
            queue.jobs.push_back(job);
        }
        let wake = (was_asleep && queue.awaited > 0) || queue.jobs.len() >= MOST_AT_ONCE;
        // Nobody waits for the rest; but the thread must learn once that there is something.
        let first = !queue.watched && queue.since.is_some();
        drop(queue);
        if wake || first {
            self.wake.notify_one();
        }
    }

    pub(super) fn read(&self, rows: &mut Vec<RowId>) {
        self.lock().reads.extend(rows.drain(..));
        self.wake.notify_one();
    }

    pub(super) fn loaded(&self) -> Vec<(RowId, Option<Row>)> {
        std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell_loaded(&self, row: RowId, found: Option<Row>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.damaged
            .fetch_add(u64::from(found.is_none()), Ordering::Relaxed);
        loaded.push((row, found));
    }

    pub(super) fn clear_failure(&self) -> Option<Ticket> {
        let mut queue = self.lock();
        std::mem::take(&mut queue.failed).then_some(Ticket(queue.last))
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Whether nobody waits for a commit now.
    fn is_idle(&self) -> bool {
        self.lock().awaited == 0
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for work; `None` when there is none and never will be.
    fn take(&self, jobs: &mut Vec<Job>, reads: &mut Vec<RowId>) -> Option<()> {
        let mut queue = self.lock();
        // After work there is often more that can wait, and waking the thread to tell it so costs
        // as much as storing it: it looks by itself once more before it sleeps for good.
        let mut look_again = Some(Instant::now() + IDLE);
        loop {
            let now = Instant::now();
            let due = queue.since.map(|since| since + IDLE);
            let is_due = due.is_some_and(|due| due <= now);
            let is_full = queue.jobs.len() >= MOST_AT_ONCE;
            if queue.awaited > 0 || is_full || is_due || queue.closed {
                break;
            }
            if !queue.reads.is_empty() {
                // What was told to be stored before it is, is stored first.
                if self.told_early && !queue.jobs.is_empty() {
                    break;
                }
                reads.extend(queue.reads.drain(..));
                return Some(());
            }
            look_again = look_again.filter(|at| *at > now);
            let until = due.or(look_again);
            queue.watched = until.is_some();
            queue = match until {
                Some(until) => {
                    let waited = self.wake.wait_timeout(queue, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .wake
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        // It looks into the queue before it sleeps again.
        queue.watched = true;
        if queue.jobs.is_empty() {
            queue.since = None;
            return (!queue.closed).then_some(());
        }
        let count = queue.jobs.len().min(MOST_AT_ONCE);
        jobs.extend(queue.jobs.drain(..count));
        queue.awaited -= jobs.iter().filter(|job| job.ticket.is_some()).count();
        if !self.told_early || queue.jobs.is_empty() {
            reads.extend(queue.reads.drain(..));
        }
        let rest = queue.jobs.iter().any(|job| job.ticket.is_none());
        queue.since = rest.then(Instant::now);
        Some(())
    }

    fn fail(&self) {
        let mut queue = self.lock();
        queue.failed = true;
        queue.jobs.clear();
        (queue.awaited, queue.since) = (0, None);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Whoever panicked holding it left a queue that is still a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: take, commit, tell, until closed and empty.
pub(super) fn run(store: Store, shared: &Shared) {
    let Store {
        connection,
        mut sealer,
        log_pages,
        openers,
        ..
    } = store;
    let mut jobs = Vec::with_capacity(MOST_AT_ONCE);
    let mut reads = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    let mut statements = None;
    while shared.take(&mut jobs, &mut reads).is_some() {
        if jobs.is_empty() {
            read(&connection, &openers, &mut reads, shared);
            continue;
        }
        let committed = match &mut statements {
            Some(statements) => commit(statements, &mut sealer, &jobs, &mut buffer),
            None => Statements::prepare(&connection).and_then(|prepared| {
                commit(statements.insert(prepared), &mut sealer, &jobs, &mut buffer)
            }),
        };
        match committed {
            Ok(writes) => {
                shared.commits.fetch_add(1, Ordering::Relaxed);
                shared.writes.fetch_add(writes, Ordering::Relaxed);
                let last = jobs.iter().rev().find_map(|job| job.ticket);
                if let Some(last) = last {
                    shared.stored.store(last.0, Ordering::Release);
                    shared.changed.notify_one();
                }
            }
            Err(error) => {
                tracing::error!(error = %error, stores = jobs.len(), "the spool cannot write");
                shared.failures.fetch_add(1, Ordering::Relaxed);
                if !connection.is_autocommit() {
                    // A rollback that fails leaves nothing committed either.
                    let _ = connection.execute_batch("ROLLBACK");
                }
                shared.fail();
                shared.changed.notify_one();
            }
        }
        jobs.clear();
        read(&connection, &openers, &mut reads, shared);
        let pages = log_pages.load(Ordering::Relaxed);
        if pages >= MOST_LOG_PAGES || pages >= LOG_PAGES && shared.is_idle() {
            checkpoint(&connection, &log_pages);
        }
    }
}

/// Reads what was asked for, and says so. What the disk does not give now is asked of it again.
fn read(connection: &Connection, openers: &Openers, reads: &mut Vec<RowId>, shared: &Shared) {
    if reads.is_empty() {
        return;
    }
    let mut again = Vec::new();
    for row in reads.drain(..) {
        match read_one(connection, openers, row) {
            Ok(found) => shared.tell_loaded(row, found),
            Err(error) if is_damage(&error) => {
                tracing::error!(%error, row = row.0, "a row of the spool cannot be read");
                shared.tell_loaded(row, None);
            }
            Err(error) => {
                tracing::error!(%error, row = row.0, "the spool cannot read");
                again.push(row);
            }
        }
    }
    shared.changed.notify_one();
    if !again.is_empty() {
        std::thread::sleep(READ_AGAIN);
        shared.read(&mut again);
    }
}

/// One row; `None` where it is not there, or was damaged and is set aside now.
fn read_one(
    connection: &Connection,
    openers: &Openers,
    row: RowId,
) -> Result<Option<Row>, rusqlite::Error> {
    let id = i64::try_from(row.0).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached("SELECT value FROM inbox WHERE id = ?1")?;
    let mut found = statement.query([id])?;
    let Some(value) = found.next()? else {
        tracing::error!(row = id, "a row of the spool is missing");
        return Ok(None);
    };
    // Whatever else SQLite holds there is no more a row than damaged bytes are.
    let sealed = value.get_ref(0)?.as_bytes().unwrap_or_default();
    let opened = openers.open(Table::Inbox, row, sealed);
    drop(found);
    if opened.is_none()
        && let Err(error) = put_aside(connection, Table::Inbox, id)
    {
        tracing::warn!(%error, row = id, "a damaged row of the spool cannot be set aside");
    }
    Ok(opened)
}

/// Moves what the log holds to its place in the database; the next commit begins the log anew.
fn checkpoint(connection: &Connection, log_pages: &AtomicU32) {
    let done: Result<(), _> = connection
        .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
        .and_then(|mut statement| statement.query_row([], |_| Ok(())));
    match done {
        Ok(()) => log_pages.store(0, Ordering::Relaxed),
        // What is committed is safe in the log, and the next commit looks again.
        Err(error) => tracing::warn!(%error, "the spool cannot shorten its log"),
    }
}

fn commit(
    statements: &mut Statements<'_>,
    sealer: &mut Sealer,
    jobs: &[Job],
    buffer: &mut Vec<u8>,
) -> Result<u64, rusqlite::Error> {
    statements.begin.execute([])?;
    let mut writes = 0;
    for write in jobs.iter().flat_map(|job| &job.writes) {
        match write {
            Write::Put(row, value) => {
                let id = i64::try_from(row.0).unwrap_or(i64::MAX);
                // A value that cannot be sealed is a store that failed, not one that is skipped.
                sealer
                    .seal(*row, value, buffer)
                    .map_err(|_| rusqlite::Error::InvalidQuery)?;
                statements.put[value.table() as usize].execute(params![id, buffer.as_slice()])?;
            }
            Write::Delete(table, row) => {
                let id = i64::try_from(row.0).unwrap_or(i64::MAX);
                statements.delete[*table as usize].execute([id])?;
            }
        }
        writes += 1;
    }
    pass("before", jobs);
    statements.commit.execute([])?;
    pass("after", jobs);
    Ok(writes)
}

/// The statements of a commit, prepared once in the life of a spool.
struct Statements<'a> {
    begin: Statement<'a>,
    commit: Statement<'a>,
    put: [Statement<'a>; 3],
    delete: [Statement<'a>; 3],
}

impl<'a> Statements<'a> {
    fn prepare(connection: &'a Connection) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            put: [
                connection.prepare("INSERT OR REPLACE INTO outbox (id, value) VALUES (?1, ?2)")?,
                connection.prepare("INSERT OR REPLACE INTO inbox (id, value) VALUES (?1, ?2)")?,
                connection.prepare("INSERT OR REPLACE INTO dead (id, value) VALUES (?1, ?2)")?,
            ],
            delete: [
                connection.prepare("DELETE FROM outbox WHERE id = ?1")?,
                connection.prepare("DELETE FROM inbox WHERE id = ?1")?,
                connection.prepare("DELETE FROM dead WHERE id = ?1")?,
            ],
        })
    }
}

/// The crash points of a commit, by what is in it.
#[cfg(debug_assertions)]
fn pass(side: &str, jobs: &[Job]) {
    let before = side == "before";
    let writes = || {
        jobs.iter()
            .flat_map(|job| job.writes.iter().map(|write| (job.ticket, write)))
    };
    let has = |wanted: fn(Option<Ticket>, &Write) -> bool| {
        writes().any(|(ticket, write)| wanted(ticket, write))
    };
    let name = |a: &'static str, b: &'static str| crash::point(if before { a } else { b });
    if has(|_, write| matches!(write, Write::Put(_, Row::Outbox(OutboxRow::Waiting { .. })))) {
        name("before-outbox-commit", "after-outbox-commit");
    }
    if has(|_, write| matches!(write, Write::Put(_, Row::Inbox(InboxRow::Waiting(_))))) {
        name("before-inbox-commit", "after-inbox-commit");
    }
    if has(|ticket, write| {
        ticket.is_some() && matches!(write, Write::Put(_, Row::Inbox(InboxRow::Known(_))))
    }) {
        name("before-ack-commit", "after-ack-commit");
    }
    if has(|_, write| {
        matches!(
            write,
            Write::Put(_, Row::Outbox(OutboxRow::Sent(_))) | Write::Delete(..)
        )
    }) {
        name("before-forget-commit", "after-forget-commit");
    }
}

#[cfg(not(debug_assertions))]
fn pass(_side: &str, _jobs: &[Job]) {
    let _ = crash::point;
}

/// Pages in the log at which a checkpoint is due whoever waits: 16 MB.
const MOST_LOG_PAGES: u32 = 4 * LOG_PAGES;
/// How long a disk that does not read is left alone.
const READ_AGAIN: Duration = Duration::from_millis(250);
/// How long a store that nobody waits for may wait for company.
pub(super) const IDLE: Duration = Duration::from_millis(250);
