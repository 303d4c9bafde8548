//! What the disk under the state directories does by itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};

use super::{BODY, median};
use crate::failure::Failure;

/// Appends a page and waits for the disk, so often: the median, in microseconds.
pub fn bare_fsync(home: &Path, times: usize) -> Result<f64, Failure> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("bare-fsync"))?;
    let page = [7; 4096];
    let mut micros = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(micros))
}

/// Rows a second of SQLite as it comes (WAL, synchronous=FULL), 256 in a commit.
pub fn bare_sqlite(home: &Path, rows: usize) -> Result<f64, Failure> {
    insert(&home.join("bare.db"), rows).map_err(|error| anyhow::Error::from(error).into())
}

fn insert(path: &Path, rows: usize) -> Result<f64, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, value BLOB NOT NULL);",
    )?;
    let value = [7_u8; BODY];
    let begun = Instant::now();
    let mut left = rows;
    while left > 0 {
        let now = left.min(AT_ONCE);
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut insert = connection.prepare_cached("INSERT INTO message (value) VALUES (?1)")?;
        for _ in 0..now {
            insert.execute(params![value.as_slice()])?;
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        left -= now;
    }
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}

/// From issue 3.
const AT_ONCE: usize = 256;
