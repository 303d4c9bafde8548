//! Where tasks are kept: a SQLite file of their own, and the thread that has it.
//!
//! Not a table of the spool: the spool is read whole into memory when a gateway starts and is on the
//! way of every message, and a task is kept for a week and read when somebody asks. A damaged file of
//! tasks takes no message with it. What it costs is an fsync of its own when a task is made and when
//! it ends.
//!
//! **Invariants.** What a call answers is on disk. An agent has at most [`MAX_ROWS`] tasks and
//! [`MAX_BYTES`]; the oldest that have ended make room, open ones never do. What a task says is
//! sealed, and what it is found by tells nobody what it names.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ::api::a2a::TaskState;
use identity::AgentAddress;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::oneshot;
use wire::MessageId;

use super::record::{Ended, Ending, Record};
use super::seal::Seal;
use crate::spool::{SpoolError, crash, file};
use crate::state::{StateDir, StateError};

/// The database, in the state directory.
pub const DATABASE: &str = "tasks.db";
/// The key that its values are sealed under.
pub const KEY: &str = "tasks.key";
/// Tasks of one agent.
pub(crate) const MAX_ROWS: i64 = 2000;
/// Bytes of the tasks of one agent.
pub(crate) const MAX_BYTES: i64 = 64 << 20;
/// How long a task is kept after it has ended.
pub(crate) const KEPT_MS: u64 = 7 * 24 * 3600 * 1000;

/// The store's handle. Dropped, it does what was asked and ends its thread.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What came of making a task.
#[derive(Debug, PartialEq)]
pub(crate) enum Created {
    /// It is new.
    New,
    /// There is one of this message already.
    Known(Box<Record>),
    /// The agent has too many, all of them open.
    Full,
}

/// A task in a list, without what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: MessageId,
    /// Open where absent.
    pub(crate) state: Option<Ended>,
    pub(crate) updated_ms: u64,
}

/// The store did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotStored {
    /// The disk is full, or the file is broken.
    #[error("the tasks of A2A cannot be written")]
    Disk,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

type Job = Box<dyn FnOnce(&Db) -> Done + Send>;

/// Tells who asked, once it is known whether the batch was committed; and whether it may be.
struct Done {
    tell: Box<dyn FnOnce(bool) + Send>,
    ok: bool,
}

struct Db {
    connection: Connection,
    seal: Seal,
}

impl Store {
    /// Opens the tasks of a state directory, or makes the file. A damaged one is set aside.
    pub(crate) fn open(state: &StateDir) -> Result<Self, StoreError> {
        let path = state.file(DATABASE);
        let key = file::read_key(state, KEY, &path)?;
        let seal = Seal::new(key);
        let connection = match connect(&path, &seal, state) {
            Err(StoreError::Database { source, .. }) if file::is_damage(&source) => {
                let aside = file::set_aside(&path)?;
                tracing::error!(error = %source, aside = %aside.display(), "the tasks of A2A were damaged and set aside");
                connect(&path, &seal, state)?
            }
            connected => connected?,
        };
        let db = Db { connection, seal };
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("tasks".into())
            .spawn(move || run(&db, &queue))
            .map_err(StoreError::Thread)?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Makes a task, unless there is one of the same message of the same agent to the same endpoint.
    pub(crate) async fn create(&self, record: Record) -> Result<Created, NotStored> {
        let now = record.created_ms;
        self.call(move |db| db.create(&record, now)).await
    }

    /// Says how a task ended. `settled`: nothing of it is still to be taken from the inbox.
    pub(crate) async fn finish(&self, record: Record, settled: bool) -> Result<(), NotStored> {
        self.call(move |db| db.finish(&record, settled)).await
    }

    /// The answer of a task is acked.
    pub(crate) async fn settle(&self, id: MessageId) -> Result<(), NotStored> {
        self.call(move |db| {
            let sql = "UPDATE tasks SET settled = 1 WHERE id = ?1";
            db.connection.execute(sql, [bytes(&id)]).map(drop)
        })
        .await
    }

    /// Forgets a task that was never sent.
    pub(crate) async fn remove(&self, id: MessageId) -> Result<(), NotStored> {
        self.call(move |db| {
            let sql = "DELETE FROM tasks WHERE id = ?1";
            db.connection.execute(sql, [bytes(&id)]).map(drop)
        })
        .await
    }

    /// Forgets the tasks of an agent.
    pub(crate) async fn remove_agent(&self, owner: [u8; 16]) -> Result<(), NotStored> {
        self.call(move |db| {
            let sql = "DELETE FROM tasks WHERE owner = ?1";
            db.connection.execute(sql, [owner]).map(drop)
        })
        .await
    }

    /// A task of an agent at an endpoint.
    pub(crate) async fn find(
        &self,
        owner: [u8; 16],
        to: AgentAddress,
        id: MessageId,
    ) -> Result<Option<Record>, NotStored> {
        self.call(move |db| db.find(owner, &to, id)).await
    }

    /// The tasks of an agent at an endpoint, of one thread of talk or of all.
    pub(crate) async fn list(
        &self,
        owner: [u8; 16],
        to: AgentAddress,
        context: Option<String>,
    ) -> Result<Vec<Listed>, NotStored> {
        self.call(move |db| db.list(owner, &to, context.as_deref()))
            .await
    }

    /// What a restart has to go on with, of the agents that there are. The rest is forgotten.
    pub(crate) async fn unfinished(
        &self,
        owners: Vec<[u8; 16]>,
        now_ms: u64,
    ) -> Result<Vec<Record>, NotStored> {
        self.call(move |db| db.unfinished(&owners, now_ms)).await
    }

    /// What is kept of a message that was posted to an A2A server.
    pub(crate) async fn posted(&self, id: MessageId) -> Result<Option<Vec<u8>>, NotStored> {
        self.call(move |db| {
            let sql = "SELECT value FROM posted WHERE id = ?1";
            let sealed: Option<Vec<u8>> = db
                .connection
                .prepare_cached(sql)?
                .query_row([bytes(&id)], |row| row.get(0))
                .optional()?;
            let open = |sealed: Vec<u8>| {
                let opened = db.seal.open(&bytes(&id), &sealed);
                opened.map_err(|_| rusqlite::Error::InvalidQuery)
            };
            sealed.map(open).transpose()
        })
        .await
    }

    /// Keeps that; a message that is as old as can be is forgotten.
    pub(crate) async fn note_posted(
        &self,
        id: MessageId,
        value: Option<Vec<u8>>,
        now_ms: u64,
    ) -> Result<(), NotStored> {
        self.call(move |db| {
            let old = number(now_ms.saturating_sub(POSTED_MS));
            db.connection
                .prepare_cached("DELETE FROM posted WHERE at < ?1 OR id = ?2")?
                .execute(params![old, bytes(&id)])?;
            let Some(value) = value else { return Ok(()) };
            let sealed = db.seal.seal(&bytes(&id), value);
            let sealed = sealed.map_err(|_| rusqlite::Error::InvalidQuery)?;
            db.connection
                .prepare_cached("INSERT INTO posted (id, at, value) VALUES (?1, ?2, ?3)")?
                .execute(params![bytes(&id), number(now_ms), sealed])
                .map(drop)
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Db) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, NotStored> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            let result = act(db);
            if let Err(error) = &result {
                tracing::error!(%error, "the tasks of A2A cannot be kept");
            }
            // What one row says that cannot be read is no matter of the others in the batch.
            let ok = !matches!(result, Err(rusqlite::Error::SqliteFailure(..)));
            let tell = move |committed: bool| {
                let result = result.map_err(|_| NotStored::Disk);
                // Who asked may be gone.
                let _ = answer.send(if committed {
                    result
                } else {
                    Err(NotStored::Disk)
                });
            };
            Done {
                tell: Box::new(tell),
                ok,
            }
        });
        let jobs = self.jobs.as_ref().ok_or(NotStored::Stopping)?;
        jobs.send(job).map_err(|_| NotStored::Stopping)?;
        answered.await.map_err(|_| NotStored::Stopping)?
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It panicked or it did not: the file is as its last commit left it.
            let _ = thread.join();
        }
    }
}

/// The thread: whatever is queued is one commit, and then everybody is told.
fn run(db: &Db, queue: &Receiver<Job>) {
    let mut told = Vec::new();
    while let Ok(first) = queue.recv() {
        let before = db.connection.total_changes();
        let mut ok = db.connection.execute_batch("BEGIN").is_ok();
        for job in std::iter::once(first).chain(queue.try_iter().take(MOST_AT_ONCE)) {
            let Done { tell, ok: done } = job(db);
            ok &= done;
            told.push(tell);
        }
        let changed = db.connection.total_changes() != before;
        if changed {
            crash::point("before-task-commit");
        }
        let committed = ok && db.connection.execute_batch("COMMIT").is_ok();
        if !committed && !db.connection.is_autocommit() {
            // A rollback that fails leaves nothing committed either.
            let _ = db.connection.execute_batch("ROLLBACK");
        }
        if changed {
            crash::point("after-task-commit");
        }
        for tell in told.drain(..) {
            tell(committed);
        }
    }
}

impl Db {
    fn create(&self, record: &Record, now_ms: u64) -> Result<Created, rusqlite::Error> {
        let endpoint = self.endpoint(&record.to);
        let message = self.seal.name(&[b"message", record.message.id.as_bytes()]);
        let sql = "SELECT id, value FROM tasks WHERE owner = ?1 AND endpoint = ?2 AND message = ?3";
        let known = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![record.owner, endpoint, message], |row| {
                self.record(record.owner, row)
            })
            .optional()?;
        if let Some(known) = known {
            return Ok(Created::Known(Box::new(known)));
        }
        self.forget_old(now_ms)?;
        let value = self.sealed(record)?;
        let size = size_of_value(&value);
        if !self.make_room(record.owner, 1, size)? {
            return Ok(Created::Full);
        }
        let sql = "INSERT INTO tasks (id, owner, endpoint, message, context, state, settled, updated, bytes, value)
                   VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8)";
        self.connection.prepare_cached(sql)?.execute(params![
            bytes(&record.id),
            record.owner,
            endpoint,
            message,
            self.context(&record.context),
            number(now_ms),
            size,
            value,
        ])?;
        Ok(Created::New)
    }

    fn finish(&self, record: &Record, settled: bool) -> Result<(), rusqlite::Error> {
        let Some(ending) = &record.ending else {
            return Ok(());
        };
        let value = self.sealed(record)?;
        let sql = "UPDATE tasks SET state = ?2, settled = ?3, updated = ?4, bytes = ?5, value = ?6 WHERE id = ?1";
        self.connection.prepare_cached(sql)?.execute(params![
            bytes(&record.id),
            state_number(ending),
            settled,
            number(ending.at_ms),
            size_of_value(&value),
            value,
        ])?;
        // Older ones make room for what it has grown by. It may end up alone.
        self.make_room(record.owner, 0, 0).map(drop)
    }

    fn find(
        &self,
        owner: [u8; 16],
        to: &AgentAddress,
        id: MessageId,
    ) -> Result<Option<Record>, rusqlite::Error> {
        let sql = "SELECT id, value FROM tasks WHERE id = ?1 AND owner = ?2 AND endpoint = ?3";
        self.connection
            .prepare_cached(sql)?
            .query_row(params![bytes(&id), owner, self.endpoint(to)], |row| {
                self.record(owner, row)
            })
            .optional()
    }

    fn list(
        &self,
        owner: [u8; 16],
        to: &AgentAddress,
        context: Option<&str>,
    ) -> Result<Vec<Listed>, rusqlite::Error> {
        let context = context.map(|context| self.context(context));
        let sql = "SELECT id, state, updated FROM tasks
                   WHERE owner = ?1 AND endpoint = ?2 AND (?3 IS NULL OR context = ?3)";
        let mut rows = self.connection.prepare_cached(sql)?;
        let rows = rows.query_map(params![owner, self.endpoint(to), context], |row| {
            let updated: i64 = row.get(2)?;
            Ok(Listed {
                id: id_of(row.get(0)?)?,
                state: state_of(row.get(1)?),
                updated_ms: u64::try_from(updated).unwrap_or(0),
            })
        })?;
        rows.collect()
    }

    fn unfinished(&self, owners: &[[u8; 16]], now_ms: u64) -> Result<Vec<Record>, rusqlite::Error> {
        self.forget_old(now_ms)?;
        let all: Vec<[u8; 16]> = self
            .connection
            .prepare("SELECT DISTINCT owner FROM tasks")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for gone in all.iter().filter(|owner| !owners.contains(owner)) {
            self.connection
                .execute("DELETE FROM tasks WHERE owner = ?1", [gone])?;
        }
        let sql = "SELECT id, value, owner FROM tasks WHERE state = 0 OR settled = 0";
        let mut rows = self.connection.prepare(sql)?;
        let mut rows = rows.query([])?;
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            match self.record(row.get(2)?, row) {
                Ok(record) => found.push(record),
                Err(_) => damaged.push(row.get::<_, [u8; 16]>(0)?),
            }
        }
        for id in damaged {
            tracing::error!("a task of A2A cannot be read and is forgotten");
            self.connection
                .execute("DELETE FROM tasks WHERE id = ?1", [id])?;
        }
        Ok(found)
    }

    fn forget_old(&self, now_ms: u64) -> Result<(), rusqlite::Error> {
        let before = number(now_ms.saturating_sub(KEPT_MS));
        let sql = "DELETE FROM tasks WHERE state != 0 AND updated < ?1";
        self.connection
            .prepare_cached(sql)?
            .execute([before])
            .map(drop)
    }

    /// Whether so much more fits, after the oldest that have ended went.
    fn make_room(&self, owner: [u8; 16], rows: i64, bytes: i64) -> Result<bool, rusqlite::Error> {
        let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM tasks WHERE owner = ?1";
        let mut used: (i64, i64) = self
            .connection
            .prepare_cached(sql)?
            .query_row([owner], |row| Ok((row.get(0)?, row.get(1)?)))?;
        while used.0 + rows > MAX_ROWS || used.1 + bytes > MAX_BYTES {
            let sql = "DELETE FROM tasks WHERE id = (SELECT id FROM tasks
                       WHERE owner = ?1 AND state != 0 ORDER BY updated LIMIT 1) RETURNING bytes";
            let freed: Option<i64> = self
                .connection
                .prepare_cached(sql)?
                .query_row([owner], |row| row.get(0))
                .optional()?;
            let Some(freed) = freed else {
                return Ok(false);
            };
            used = (used.0 - 1, used.1 - freed);
        }
        Ok(true)
    }

    fn sealed(&self, record: &Record) -> Result<Vec<u8>, rusqlite::Error> {
        let plain = record.encode().ok_or(rusqlite::Error::InvalidQuery)?;
        self.seal
            .seal(&bytes(&record.id), plain)
            .map_err(|_| rusqlite::Error::InvalidQuery)
    }

    fn record(&self, owner: [u8; 16], row: &Row<'_>) -> Result<Record, rusqlite::Error> {
        let id: [u8; 16] = row.get(0)?;
        let damaged = || rusqlite::Error::InvalidQuery;
        let plain = self
            .seal
            .open(&id, row.get_ref(1)?.as_blob().map_err(|_| damaged())?)
            .map_err(|_| damaged())?;
        Record::decode(id_of(id)?, owner, &plain).ok_or_else(damaged)
    }

    fn endpoint(&self, to: &AgentAddress) -> [u8; 16] {
        self.seal.name(&[b"endpoint", to.to_string().as_bytes()])
    }

    fn context(&self, context: &str) -> [u8; 16] {
        self.seal.name(&[b"context", context.as_bytes()])
    }
}

impl Listed {
    /// Its state, by this and by how it stands where it is open.
    pub(crate) fn shown(&self, open: Option<(TaskState, u64)>) -> (TaskState, u64) {
        match (self.state, open) {
            (Some(state), _) => (state.into(), self.updated_ms),
            (None, Some(open)) => open,
            (None, None) => (TaskState::Submitted, self.updated_ms),
        }
    }
}

fn connect(path: &Path, seal: &Seal, state: &StateDir) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::Database {
        path: path.into(),
        source,
    };
    file::make(path)?;
    let connection = Connection::open(path).map_err(failed)?;
    // The file is this process's alone (the state directory is locked).
    connection
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -1024;",
        )
        .map_err(failed)?;
    file::check(&connection).map_err(failed)?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer {
            path: path.into(),
            found,
        });
    }
    let check = seal.name(&[b"check"]);
    if found == 0 {
        connection.execute_batch(SCHEMA).map_err(failed)?;
        connection
            .execute(
                "INSERT OR REPLACE INTO meta (name, value) VALUES ('key_check', ?1)",
                [check],
            )
            .map_err(failed)?;
        connection
            .pragma_update(None, "user_version", SCHEMA_VERSION)
            .map_err(failed)?;
    }
    let kept: Option<Vec<u8>> = connection
        .query_row(
            "SELECT value FROM meta WHERE name = 'key_check'",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(failed)?;
    match kept.as_deref() == Some(&check[..]) {
        true => Ok(connection),
        false => Err(StoreError::WrongKey {
            key: state.file(KEY),
            path: path.into(),
        }),
    }
}

fn bytes(id: &MessageId) -> [u8; 16] {
    id.to_bytes()
}

fn id_of(bytes: [u8; 16]) -> Result<MessageId, rusqlite::Error> {
    MessageId::from_bytes(bytes).ok_or(rusqlite::Error::InvalidQuery)
}

fn number(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn size_of_value(value: &[u8]) -> i64 {
    // And what the row and its places in the indexes take.
    i64::try_from(value.len())
        .unwrap_or(i64::MAX)
        .saturating_add(256)
}

fn state_number(ending: &Ending) -> i64 {
    match ending.state {
        Ended::Completed => 1,
        Ended::Failed => 2,
        Ended::Canceled => 3,
        Ended::Rejected => 4,
    }
}

fn state_of(number: i64) -> Option<Ended> {
    match number {
        1 => Some(Ended::Completed),
        2 => Some(Ended::Failed),
        3 => Some(Ended::Canceled),
        4 => Some(Ended::Rejected),
        _ => None,
    }
}

/// Why the tasks cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database refused.
    #[error("cannot open the tasks of A2A {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The key is another database's.
    #[error("{} does not open {}; hint: put the right key back, or move the tasks away", key.display(), path.display())]
    WrongKey {
        /// The key's file.
        key: PathBuf,
        /// The database.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error("{} has format {found}, and this version reads up to {SCHEMA_VERSION}; hint: run the newer crabmesh", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// A file beside it.
    #[error(transparent)]
    File(#[from] SpoolError),
    /// A file of the state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// No thread for it.
    #[error("cannot start the thread of the tasks of A2A")]
    Thread(#[source] std::io::Error),
}

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    id BLOB NOT NULL UNIQUE, owner BLOB NOT NULL, endpoint BLOB NOT NULL, message BLOB NOT NULL,
    context BLOB NOT NULL, state INTEGER NOT NULL, settled INTEGER NOT NULL, updated INTEGER NOT NULL,
    bytes INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (owner, endpoint, message));
CREATE TABLE IF NOT EXISTS posted (id BLOB NOT NULL PRIMARY KEY, at INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS posted_by_age ON posted (at);
CREATE INDEX IF NOT EXISTS tasks_by_age ON tasks (owner, updated);
CREATE INDEX IF NOT EXISTS tasks_open ON tasks (id) WHERE state = 0 OR settled = 0;";
const SCHEMA_VERSION: i64 = 1;
/// No message comes again after its longest time to live, and a day.
const POSTED_MS: u64 = KEPT_MS + 24 * 3600 * 1000;
/// Calls in one commit.
const MOST_AT_ONCE: usize = 256;
