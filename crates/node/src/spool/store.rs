//! The SQLite file: opening it with suspicion, reading it once, writing it in batches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use router::{Row, RowId, Table};
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::seal::{self, Opener, SALT_BYTES, Sealer};
use super::{DATABASE, Durability, KEY, SpoolError, file};
use crate::state::StateDir;

/// An open database, with the key of this start.
pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) sealer: Sealer,
    /// How long the log was after the last commit.
    pub(super) log_pages: Arc<AtomicU32>,
    pub(super) openers: Openers,
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    epoch: u64,
    start: u32,
}

/// What opens the rows of all starts that have any.
#[derive(Default)]
pub(super) struct Openers(BTreeMap<u32, Opener>);

impl Store {
    pub(super) fn open(
        state: &StateDir,
        durability: Durability,
    ) -> Result<(Self, Option<PathBuf>), SpoolError> {
        let path = state.file(DATABASE);
        let key = file::read_key(state, KEY, &path)?;
        match Self::connect(state, &path, &key, durability) {
            Ok(store) => Ok((store, None)),
            Err(SpoolError::Database { source, .. }) if file::is_damage(&source) => {
                let aside = file::set_aside(&path)?;
                tracing::error!(error = %source, aside = %aside.display(), "the spool was damaged and set aside; messages in it are not delivered");
                Ok((Self::connect(state, &path, &key, durability)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Each start has its own range of rows, far larger than it can use.
    pub(super) fn first_row(&self) -> RowId {
        RowId(u64::from(self.start) << ROWS_PER_START)
    }

    fn connect(
        state: &StateDir,
        path: &Path,
        key: &Zeroizing<[u8; 32]>,
        durability: Durability,
    ) -> Result<Self, SpoolError> {
        let failed = |verb| {
            move |source| SpoolError::Database {
                verb,
                path: path.into(),
                source,
            }
        };
        file::make(path)?;
        let mut connection = Connection::open(path).map_err(failed("open"))?;
        let synchronous = match durability {
            Durability::Full => "FULL",
            Durability::None => "OFF",
        };
        // The file is this process's alone (the state directory is locked), so WAL needs no shared
        // memory file.
        connection
            .execute_batch(&format!(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = {synchronous};
                 PRAGMA temp_store = MEMORY;
                 PRAGMA cache_size = -4096;"
            ))
            .map_err(failed("open"))?;
        file::check(&connection).map_err(failed("read"))?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed("read"))?;
        if found > SCHEMA_VERSION {
            return Err(SpoolError::Newer {
                path: path.into(),
                found,
                known: SCHEMA_VERSION,
            });
        }
        if found == 0 {
            create(&connection, key).map_err(failed("make"))?;
        }
        let meta = |name: &str| {
            connection
                .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                    row.get::<_, Vec<u8>>(0)
                })
                .optional()
        };
        let epoch = meta("epoch").map_err(failed("read"))?;
        let epoch = epoch
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes);
        let check = meta("key_check")
            .map_err(failed("read"))?
            .unwrap_or_default();
        if check != seal::key_check(key, epoch) {
            return Err(SpoolError::WrongKey {
                key: state.file(KEY),
                path: path.into(),
            });
        }
        let salt: [u8; SALT_BYTES] = file::random();
        connection
            .execute(
                "INSERT INTO starts (salt) VALUES (?1)",
                params![salt.as_slice()],
            )
            .map_err(failed("write"))?;
        let start = u32::try_from(connection.last_insert_rowid()).map_err(|_| {
            failed("write")(rusqlite::Error::IntegralValueOutOfRange(
                0,
                i64::from(u32::MAX),
            ))
        })?;
        let sealer = Sealer::new(key, &salt, start);
        if durability == Durability::Full {
            fill_log(path);
        }
        // Instead of SQLite's own, which checkpoints inside COMMIT, while somebody waits for it.
        let log_pages = Arc::new(AtomicU32::new(0));
        let counted = log_pages.clone();
        let count = move |_: &mut Wal, pages: i32| {
            counted.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(count)).map_err(failed("open"))?;
        Ok(Self {
            connection,
            sealer,
            log_pages,
            openers: Openers::default(),
            path: path.into(),
            key: key.clone(),
            epoch,
            start,
        })
    }

    /// Hands out every row. One that does not open is set aside in a table of its own; how many.
    pub(super) fn load(&mut self, take: impl FnMut(RowId, Row)) -> Result<u64, SpoolError> {
        self.read_all(take).map_err(|source| SpoolError::Database {
            verb: "read",
            path: self.path.clone(),
            source,
        })
    }

    fn read_all(&mut self, mut take: impl FnMut(RowId, Row)) -> Result<u64, rusqlite::Error> {
        let mut openers = Openers::default();
        let mut salts = self.connection.prepare("SELECT id, salt FROM starts")?;
        let salts = salts.query_map([], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?;
        for salt in salts {
            let (id, salt) = salt?;
            if let Ok(salt) = salt.try_into() {
                openers.0.insert(id, Opener::new(&self.key, &salt, id));
            }
        }
        let mut used = BTreeSet::from([self.start]);
        let mut damaged = Vec::new();
        // What was answered is known before its answer.
        for table in [Table::Inbox, Table::Outbox, Table::Dead] {
            let sql = format!("SELECT id, value FROM {} ORDER BY id", table.as_str());
            let mut all = self.connection.prepare(&sql)?;
            let mut all = all.query([])?;
            while let Some(row) = all.next()? {
                // Whatever else SQLite holds there is no more a row than damaged bytes are.
                let id = row.get::<_, i64>(0)?;
                let sealed = row.get_ref(1)?.as_bytes().unwrap_or_default();
                let row_id = RowId(u64::try_from(id).unwrap_or(0));
                match openers.open(table, row_id, sealed) {
                    Some(value) => {
                        used.extend(seal::key_id_of(sealed));
                        take(row_id, value);
                    }
                    None => damaged.push((table, id)),
                }
            }
        }
        for (table, id) in &damaged {
            put_aside(&self.connection, *table, *id)?;
        }
        if damaged.is_empty() {
            for id in openers.0.keys().filter(|id| !used.contains(id)) {
                self.connection
                    .execute("DELETE FROM starts WHERE id = ?1", [id])?;
            }
            openers.0.retain(|id, _| used.contains(id));
        }
        self.openers = openers;
        Ok(u64::try_from(damaged.len()).unwrap_or(u64::MAX))
    }
}

impl Openers {
    /// The row in sealed bytes, whichever start sealed them; `None` where they are damaged.
    pub(super) fn open(&self, table: Table, row: RowId, sealed: &[u8]) -> Option<Row> {
        let opener = self.0.get(&seal::key_id_of(sealed)?)?;
        opener.open(table, row, sealed).ok()
    }
}

fn create(connection: &Connection, key: &[u8; 32]) -> Result<(), rusqlite::Error> {
    let epoch = u64::from_le_bytes(file::random());
    let made = connection.unchecked_transaction()?;
    // AUTOINCREMENT: a start's number is never used twice, even when its row is gone.
    made.execute_batch(
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE starts (id INTEGER PRIMARY KEY AUTOINCREMENT, salt BLOB NOT NULL);
         CREATE TABLE outbox (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
         CREATE TABLE inbox (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
         CREATE TABLE dead (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
         CREATE TABLE damaged (origin TEXT NOT NULL, row INTEGER NOT NULL, value BLOB NOT NULL);",
    )?;
    let mut meta = made.prepare("INSERT INTO meta (name, value) VALUES (?1, ?2)")?;
    meta.execute(params!["epoch", epoch.to_le_bytes().as_slice()])?;
    meta.execute(params!["key_check", seal::key_check(key, epoch).as_slice()])?;
    drop(meta);
    made.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    made.commit()
}

/// Moves a row that cannot be opened to where no start looks.
pub(super) fn put_aside(
    connection: &Connection,
    table: Table,
    id: i64,
) -> Result<(), rusqlite::Error> {
    let name = table.as_str();
    tracing::error!(
        table = name,
        row = id,
        "a row of the spool cannot be read and is set aside"
    );
    connection.execute(
        &format!("INSERT INTO damaged (origin, row, value) SELECT '{name}', id, value FROM {name} WHERE id = ?1"),
        [id],
    )?;
    connection.execute(&format!("DELETE FROM {name} WHERE id = ?1"), [id])?;
    Ok(())
}

/// Gives the log its blocks before anybody waits for them: to sync a file that grows costs a commit
/// of the file system's own journal, about as much again as the bytes themselves. Zeros end a log
/// as the end of its file does (the format's "WAL-reset" rule: a frame counts only with the salts
/// of the log's head and a checksum that fits).
fn fill_log(database: &Path) {
    if let Err(error) = try_fill_log(&file::with_suffix(database, "-wal")) {
        tracing::debug!(%error, "the log of the spool grows as it is written");
    }
}

fn try_fill_log(log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(log)?;
    let found = file.seek(SeekFrom::End(0))?;
    let mut left = LOG_BYTES.saturating_sub(found);
    let zeros = vec![0; 64 << 10];
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        if let Err(error) = file.write_all(&zeros[..now as usize]) {
            // A full disk keeps what little room it has.
            file.set_len(found)?;
            return Err(error);
        }
        left -= now;
    }
    file.sync_all()
}

/// The log's size from the start on: what a spool writes between two checkpoints when it is not
/// in a hurry.
pub(super) const LOG_BYTES: u64 = LOG_PAGES as u64 * (4096 + 24) + 32;
/// Pages in the log from which on it is worth a checkpoint when nobody waits.
pub(super) const LOG_PAGES: u32 = 1000;
/// 2^40 rows: a year and more at 20,000 a second, and 2^23 starts before SQLite's row ids end.
const ROWS_PER_START: u32 = 40;
const SCHEMA_VERSION: i64 = 1;
