//! What a coordinator keeps on disk: the signed documents of the mesh in the order in which they
//! were accepted, the receipts it gave, and who was removed.
//!
//! [`Store`] is a trait because more than one coordinator process will need etcd instead
//! (coordinator.md §3.2). [`Sqlite`] is the embedded default: WAL and `synchronous=FULL`, so what
//! [`Store::commit`] returned for is on disk.
//!
//! Every trust log that was ever accepted stays, with its time: replayed in order, the documents
//! give the same beliefs as before the restart, also about what was pinned before an epoch ended.

use std::path::Path;

use bytes::Bytes;
use identity::{IdentityPublic, NodeId, UnixTime};
use rusqlite::{Connection, params};
use wire::map::Document;

/// Durable state of a coordinator.
pub trait Store: Send {
    /// Everything, once, at the start.
    fn load(&mut self) -> Result<Loaded, StoreError>;
    /// Makes all of these durable, or none.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;
}

/// Which document of the map: of each key, the newest is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The trust log.
    TrustLog,
    /// The revocation set.
    Revocations,
    /// The policy bundle.
    Policy,
    /// A member's certificate.
    Certificate(NodeId),
    /// A member's record.
    Record(NodeId),
}

/// One accepted document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its place in the log of changes.
    pub sequence: u64,
    /// When it was accepted, by this beacon's clock.
    pub accepted_at: UnixTime,
    /// Which document.
    pub key: Key,
    /// As received.
    pub bytes: Bytes,
}

/// A receipt that was given: one for each token, for ever. The node id stands for the token's key,
/// of which it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whom the token makes.
    pub node: NodeId,
    /// The identity key that redeemed it.
    pub identity: IdentityPublic,
    /// What it got.
    pub receipt: Bytes,
}

/// One durable change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A document replaces the older one of its key.
    Put(Row),
    /// A node is in the map no more.
    Remove {
        /// The place of the removal in the log of changes.
        sequence: u64,
        /// Who.
        node: NodeId,
    },
    /// A token was redeemed.
    Spent(Spent),
    /// Everything of a claim that was begun and not finished is void.
    Reset,
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Random for each database.
    pub epoch: u64,
    /// By sequence, the trust logs of old among them.
    pub rows: Vec<Row>,
    /// By sequence.
    pub removed: Vec<(u64, NodeId)>,
    /// Every receipt.
    pub spent: Vec<Spent>,
}

/// The embedded store.
pub struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens the database, making it with this `epoch` where there is none.
    pub fn open(path: &Path, epoch: u64) -> Result<Self, StoreError> {
        Self::prepare(Connection::open(path)?, epoch)
    }

    /// A database that dies with the process, for tests.
    pub fn in_memory(epoch: u64) -> Result<Self, StoreError> {
        Self::prepare(Connection::open_in_memory()?, epoch)
    }

    fn prepare(mut connection: Connection, epoch: u64) -> Result<Self, StoreError> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                let transaction = connection.transaction()?;
                transaction.execute_batch(SCHEMA)?;
                transaction.execute("INSERT INTO epoch VALUES (?1)", [epoch.cast_signed()])?;
                transaction.pragma_update(None, "user_version", VERSION)?;
                transaction.commit()?;
            }
            VERSION => {}
            newer => return Err(StoreError::Version { found: newer }),
        }
        Ok(Self { connection })
    }
}

impl Store for Sqlite {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let epoch = self
            .connection
            .query_row("SELECT epoch FROM epoch", [], |row| row.get(0));
        let mut loaded = Loaded {
            epoch: i64::cast_unsigned(epoch?),
            ..Loaded::default()
        };
        let mut query = self.connection.prepare(
            "SELECT sequence, accepted_at, kind, node, bytes FROM documents ORDER BY sequence",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let key = Key::from_columns(row.get(2)?, row.get(3)?)?;
            loaded.rows.push(Row {
                sequence: i64::cast_unsigned(row.get(0)?),
                accepted_at: UnixTime(i64::cast_unsigned(row.get(1)?)),
                key,
                bytes: row.get::<_, Vec<u8>>(4)?.into(),
            });
        }
        let mut query = self
            .connection
            .prepare("SELECT sequence, node FROM removed ORDER BY sequence")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            loaded
                .removed
                .push((i64::cast_unsigned(row.get(0)?), NodeId(row.get(1)?)));
        }
        let mut query = self
            .connection
            .prepare("SELECT node, identity, receipt FROM spent")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            loaded.spent.push(Spent {
                node: NodeId(row.get(0)?),
                identity: IdentityPublic(row.get(1)?),
                receipt: row.get::<_, Vec<u8>>(2)?.into(),
            });
        }
        Ok(loaded)
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        for write in writes {
            match write {
                Write::Put(row) => {
                    let (kind, node) = row.key.columns();
                    if row.key != Key::TrustLog {
                        transaction
                            .prepare_cached("DELETE FROM documents WHERE kind = ?1 AND node = ?2")?
                            .execute(params![kind, node])?;
                    }
                    transaction
                        .prepare_cached("INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5)")?
                        .execute(params![
                            row.sequence.cast_signed(),
                            row.accepted_at.0.cast_signed(),
                            kind,
                            node,
                            &row.bytes[..]
                        ])?;
                }
                Write::Remove { sequence, node } => {
                    transaction
                        .prepare_cached("DELETE FROM documents WHERE node = ?1")?
                        .execute([node.0])?;
                    transaction
                        .prepare_cached("DELETE FROM removed WHERE node = ?1")?
                        .execute([node.0])?;
                    transaction
                        .prepare_cached("INSERT INTO removed VALUES (?1, ?2)")?
                        .execute(params![sequence.cast_signed(), node.0])?;
                }
                Write::Spent(spent) => {
                    transaction
                        .prepare_cached("INSERT INTO spent VALUES (?1, ?2, ?3)")?
                        .execute(params![spent.node.0, spent.identity.0, &spent.receipt[..]])?;
                }
                Write::Reset => {
                    transaction.execute_batch("DELETE FROM documents; DELETE FROM removed;")?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Key {
    /// The document under this key, as it travels.
    pub fn document(self, bytes: Bytes) -> Document {
        match self {
            Self::TrustLog => Document::TrustLog(bytes),
            Self::Revocations => Document::Revocations(bytes),
            Self::Policy => Document::Policy(bytes),
            Self::Certificate(_) => Document::Certificate(bytes),
            Self::Record(_) => Document::Record(bytes),
        }
    }

    fn columns(self) -> (i64, Vec<u8>) {
        match self {
            Self::TrustLog => (0, Vec::new()),
            Self::Revocations => (1, Vec::new()),
            Self::Policy => (2, Vec::new()),
            Self::Certificate(node) => (3, node.0.to_vec()),
            Self::Record(node) => (4, node.0.to_vec()),
        }
    }

    fn from_columns(kind: i64, node: Vec<u8>) -> Result<Self, StoreError> {
        let node = <[u8; 16]>::try_from(node).map(NodeId);
        match (kind, node) {
            (0, _) => Ok(Self::TrustLog),
            (1, _) => Ok(Self::Revocations),
            (2, _) => Ok(Self::Policy),
            (3, Ok(node)) => Ok(Self::Certificate(node)),
            (4, Ok(node)) => Ok(Self::Record(node)),
            _ => Err(StoreError::Malformed),
        }
    }
}

/// The schema's version, in SQLite's `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE epoch (epoch INTEGER NOT NULL);
CREATE TABLE documents (
    sequence INTEGER PRIMARY KEY,
    accepted_at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    node BLOB NOT NULL,
    bytes BLOB NOT NULL
);
CREATE INDEX documents_by_key ON documents (kind, node);
CREATE INDEX documents_by_node ON documents (node);
CREATE TABLE removed (sequence INTEGER PRIMARY KEY, node BLOB NOT NULL UNIQUE);
CREATE TABLE spent (node BLOB PRIMARY KEY, identity BLOB NOT NULL, receipt BLOB NOT NULL) WITHOUT ROWID;
";

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite or the disk.
    #[error("the database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a newer crabmesh.
    #[error(
        "the database has version {found}, this program knows {VERSION}; hint: run the newer program"
    )]
    Version {
        /// What it says.
        found: i64,
    },
    /// Not what was written.
    #[error("the database holds a row that cannot be")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sequence: u64, key: Key, bytes: &'static [u8]) -> Write {
        let bytes = Bytes::from_static(bytes);
        Write::Put(Row {
            sequence,
            accepted_at: UnixTime(7),
            key,
            bytes,
        })
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart_and_every_trust_log_stays() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("beacon.db");
        let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
        let spent = Spent {
            node: NodeId([3; 16]),
            identity: IdentityPublic([4; 32]),
            receipt: Bytes::from_static(b"receipt"),
        };
        let mut store = Sqlite::open(&path, u64::MAX).expect("made");
        store
            .commit(&[
                put(1, Key::TrustLog, b"one"),
                put(2, Key::Certificate(a), b"old"),
                put(3, Key::Certificate(b), b"gone"),
            ])
            .expect("stored");
        store
            .commit(&[
                put(4, Key::TrustLog, b"two"),
                put(5, Key::Certificate(a), b"new"),
                Write::Remove {
                    sequence: 6,
                    node: b,
                },
                Write::Spent(spent.clone()),
            ])
            .expect("stored");
        drop(store);

        let loaded = Sqlite::open(&path, 5)
            .expect("opened")
            .load()
            .expect("read");

        assert_eq!(loaded.epoch, u64::MAX, "the epoch is that of the database");
        let rows: Vec<_> = loaded
            .rows
            .iter()
            .map(|row| (row.sequence, row.key))
            .collect();
        assert_eq!(
            rows,
            [
                (1, Key::TrustLog),
                (4, Key::TrustLog),
                (5, Key::Certificate(a))
            ]
        );
        assert_eq!(loaded.removed, [(6, b)]);
        assert_eq!(loaded.spent, [spent]);
    }

    #[test]
    fn a_commit_that_fails_leaves_nothing_behind() {
        let mut store = Sqlite::in_memory(1).expect("made");
        store
            .commit(&[put(1, Key::TrustLog, b"one")])
            .expect("stored");

        let again = store.commit(&[put(2, Key::Policy, b"p"), put(1, Key::Revocations, b"r")]);

        assert!(again.is_err());
        assert_eq!(store.load().expect("read").rows.len(), 1);
    }
}
