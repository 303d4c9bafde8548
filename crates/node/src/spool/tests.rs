use std::os::unix::fs::PermissionsExt;

use identity::NodeId;
use router::{DeadRow, Failure, Known, OutboxRow, Row, RowId, Table, Ticket, Write};
use wire::message::{Kind, MessageKey};
use wire::{Envelope, InstanceId, MessageId};

use super::*;

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let first = opened.first_row;
    let (one, two) = (RowId(first.0 + 1), RowId(first.0 + 2));
    let writes = vec![Write::Put(one, waiting(b"one")), Write::Put(two, known())];
    store(&opened.spool, 1, writes).await;
    store(
        &opened.spool,
        2,
        vec![Write::Put(two, dead()), Write::Delete(Table::Inbox, two)],
    )
    .await;
    let epoch = opened.epoch;
    drop(opened);

    let again = open(&state, Durability::Full).expect("there");

    assert_eq!(again.rows, [(one, waiting(b"one")), (two, dead())]);
    assert_eq!((again.epoch, again.damaged), (epoch, 0));
    assert!(again.first_row > first, "no row id comes twice");
}

#[tokio::test]
async fn a_store_without_a_ticket_reaches_the_disk_before_the_spool_ends() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let writes = vec![Write::Put(RowId(9), waiting(b"lazy"))];
    opened.spool.submit(&mut vec![Job {
        ticket: None,
        writes,
    }]);
    drop(opened);

    let again = open(&state, Durability::Full).expect("there");

    assert_eq!(again.rows, [(RowId(9), waiting(b"lazy"))]);
}

#[tokio::test]
async fn many_stores_share_one_commit() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let mut jobs = (1..=200).map(|n| Job {
        ticket: Some(Ticket(n)),
        writes: vec![Write::Put(RowId(n), waiting(b"x"))],
    });
    opened.spool.submit(&mut jobs.by_ref().collect());

    until_stored(&opened.spool, 200).await;

    assert_eq!(
        (opened.spool.stats().commits, opened.spool.stats().writes),
        (1, 200)
    );
}

#[tokio::test]
async fn a_store_that_nobody_waits_for_reaches_the_disk_by_itself_after_work_and_after_rest() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let lazy = |n| Job {
        ticket: None,
        writes: vec![Write::Put(RowId(n), waiting(b"lazy"))],
    };
    store(&opened.spool, 1, Vec::new()).await;

    opened.spool.submit(&mut vec![lazy(8)]);
    until_committed(&opened.spool, 2);
    // By now the thread sleeps until it is woken, or looks once more: both must notice this.
    std::thread::sleep(writer::IDLE * 2);
    opened.spool.submit(&mut vec![lazy(9)]);
    until_committed(&opened.spool, 3);

    assert_eq!(opened.spool.stats().writes, 2);
}

#[tokio::test]
async fn the_log_has_its_blocks_before_the_first_store() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let length = || std::fs::metadata(state.file("spool.db-wal")).map_or(0, |log| log.len());
    assert_eq!(length(), store::LOG_BYTES);

    for n in 1..=10 {
        let writes = vec![Write::Put(RowId(n), waiting(b"x"))];
        store(&opened.spool, n, writes).await;
    }

    assert_eq!(length(), store::LOG_BYTES, "it does not grow");
    let copy = state.file("copy.db");
    for (from, to) in [(DATABASE, "copy.db"), ("spool.db-wal", "copy.db-wal")] {
        std::fs::copy(state.file(from), state.file(to)).expect("as a crash leaves it");
    }
    let raw = rusqlite::Connection::open(copy).expect("opens");
    let rows: i64 = raw
        .query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))
        .expect("recovered");
    assert_eq!(rows, 10);
}

#[tokio::test]
async fn a_long_log_is_moved_into_the_database() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let body = [7; 4096];

    for n in 0..64 {
        let puts = (1..=100).map(|row| Write::Put(RowId(n * 100 + row), waiting(&body)));
        store(&opened.spool, n + 1, puts.collect()).await;
    }

    let log = std::fs::metadata(state.file("spool.db-wal")).expect("there");
    assert!(
        log.len() < 5 * store::LOG_BYTES,
        "{} of 26 MB and more",
        log.len()
    );
    drop(opened);
    let rows = open(&state, Durability::Full).expect("there").rows;
    assert_eq!(rows.len(), 6400);
}

#[tokio::test]
async fn nothing_readable_is_on_disk_and_nobody_else_may_read_it() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    store(
        &opened.spool,
        1,
        vec![Write::Put(RowId(1), waiting(b"attack at dawn"))],
    )
    .await;

    for name in [DATABASE, "spool.db-wal", KEY] {
        let path = state.file(name);
        let bytes = std::fs::read(&path).expect("there");
        for secret in [&b"attack at dawn"[..], b"planner", b"coder", b"gw-b"] {
            assert!(
                !bytes.windows(secret.len()).any(|it| it == secret),
                "{name}"
            );
        }
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}

#[tokio::test]
async fn the_key_of_another_spool_is_named_and_nothing_is_touched() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    store(
        &opened.spool,
        1,
        vec![Write::Put(RowId(1), waiting(b"kept"))],
    )
    .await;
    drop(opened);
    let key = state.read(KEY).expect("readable").expect("there");

    state.write(KEY, &[7; 32]).expect("written");
    let wrong = open(&state, Durability::Full)
        .expect_err("refused")
        .to_string();
    assert!(
        wrong.contains("spool.key") && wrong.contains("hint:"),
        "{wrong}"
    );
    state.remove(KEY).expect("removed");
    assert!(matches!(
        open(&state, Durability::Full),
        Err(SpoolError::KeyMissing { .. })
    ));

    state.write(KEY, &key).expect("written");
    assert_eq!(open(&state, Durability::Full).expect("there").rows.len(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_gateway_begins_anew() {
    let (_home, state) = state();
    drop(open(&state, Durability::Full).expect("new"));
    std::fs::write(state.file(DATABASE), vec![0x55; 8192]).expect("overwritten");

    let opened = open(&state, Durability::Full).expect("a new one");

    let aside = opened.quarantined.as_ref().expect("named");
    assert_eq!(std::fs::read(aside).expect("kept")[..4], [0x55; 4]);
    assert!(opened.rows.is_empty());
    store(
        &opened.spool,
        1,
        vec![Write::Put(RowId(1), waiting(b"works"))],
    )
    .await;
}

#[tokio::test]
async fn a_row_that_was_tampered_with_or_moved_is_set_aside_alone() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let puts = (1..=3).map(|n| Write::Put(RowId(n), waiting(b"x")));
    store(&opened.spool, 1, puts.collect()).await;
    drop(opened);
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    let flip =
        "UPDATE outbox SET value = substr(value, 1, 20) || x'00' || substr(value, 22) WHERE id = 1";
    raw.execute(flip, []).expect("tampered");
    raw.execute("UPDATE outbox SET id = 22 WHERE id = 2", [])
        .expect("moved");
    drop(raw);

    let again = open(&state, Durability::Full).expect("there");

    assert_eq!(
        (again.rows.len(), again.rows[0].0, again.damaged),
        (1, RowId(3), 2)
    );
    drop(again);
    assert_eq!(open(&state, Durability::Full).expect("there").damaged, 0);
}

#[tokio::test]
async fn a_newer_format_is_left_alone() {
    let (_home, state) = state();
    drop(open(&state, Durability::Full).expect("new"));
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    raw.pragma_update(None, "user_version", 99).expect("set");
    drop(raw);

    assert!(matches!(
        open(&state, Durability::Full),
        Err(SpoolError::Newer { found: 99, .. })
    ));
}

#[tokio::test]
async fn a_failed_commit_fails_everything_that_was_asked_for_before_it_was_known() {
    let (_home, state) = state();
    drop(open(&state, Durability::Full).expect("new"));
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    raw.execute_batch(
        "CREATE TRIGGER full BEFORE INSERT ON outbox WHEN NEW.id = 1
         BEGIN SELECT RAISE(ABORT, 'no space'); END",
    )
    .expect("a disk that is full for row 1");
    drop(raw);
    let opened = open(&state, Durability::Full).expect("there");
    let good = |n| Job {
        ticket: Some(Ticket(n)),
        writes: vec![Write::Put(RowId(n), waiting(b"x"))],
    };
    opened.spool.submit(&mut vec![good(1)]);
    opened.spool.changed().await;
    opened.spool.submit(&mut vec![good(2)]);
    assert_eq!(opened.spool.stored(), Ticket(0));
    assert_eq!(opened.spool.clear_failure(), Some(Ticket(2)));
    opened.spool.submit(&mut vec![good(3)]);
    until_stored(&opened.spool, 3).await;
    drop(opened);

    let rows = open(&state, Durability::Full).expect("there").rows;
    assert_eq!(rows.iter().map(|(row, _)| row.0).collect::<Vec<_>>(), [3]);
}

#[test]
fn any_bytes_are_a_row_or_not() {
    for length in 0..200u8 {
        for table in Table::ALL {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(31) ^ length).collect();
            let _ = seal::decode(table, &bytes);
        }
    }
}

/// A spool and what was in it.
#[derive(Debug)]
struct Opened {
    spool: Spool,
    rows: Vec<(RowId, Row)>,
    epoch: u64,
    first_row: RowId,
    quarantined: Option<PathBuf>,
    damaged: u64,
}

fn open(state: &StateDir, durability: Durability) -> Result<Opened, SpoolError> {
    let unread = Spool::open(state, durability)?;
    let (epoch, first_row) = (unread.epoch, unread.first_row);
    let quarantined = unread.quarantined.clone();
    let mut rows = Vec::new();
    let spool = unread.read(|row, value| rows.push((row, value)))?;
    let damaged = spool.stats().damaged;
    Ok(Opened {
        spool,
        rows,
        epoch,
        first_row,
        quarantined,
        damaged,
    })
}

fn state() -> (tempfile::TempDir, StateDir) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = StateDir::create(&home.path().join("s")).expect("made");
    (home, state)
}

async fn store(spool: &Spool, ticket: u64, writes: Vec<Write>) {
    spool.submit(&mut vec![Job {
        ticket: Some(Ticket(ticket)),
        writes,
    }]);
    until_stored(spool, ticket).await;
}

async fn until_stored(spool: &Spool, ticket: u64) {
    while spool.stored() < Ticket(ticket) {
        spool.changed().await;
    }
}

#[test]
fn rows_of_the_first_version_are_read_as_they_were_meant() {
    let id = MessageId::new(1_795_000_000_000, [1; 10]);
    let names = ("planner", "coder", "coder@gw-b", "planner@gw-a");
    let key = (InstanceId([1; 16]), id);
    let envelope = (
        (id, Kind::Request, names.0, names.1, key.0, 3u64, 4u64),
        (
            1_795_000_000_000u64,
            1000u64,
            8u8,
            2u8,
            "text/plain",
            &b"hi"[..],
        ),
    );
    let waiting = (0u8, NodeId([2; 16]), names.2, envelope, [6u8; 16]);
    let owner = ("coder", InstanceId([2; 16]));
    let known = (
        (1u8, owner, NodeId([1; 16]), names.3, key, 3u64, 4u64),
        ([6u8; 16], 5u8, true, 7u64, 8u64),
    );

    // Postcard writes a tuple as it writes a struct, and these variants as one byte.
    let first = |bytes: Vec<u8>| [vec![1], bytes].concat();
    let outbox = first(postcard::to_stdvec(&waiting).expect("encoded"));
    let inbox = first(postcard::to_stdvec(&known).expect("encoded"));

    let Ok(Row::Outbox(OutboxRow::Waiting { envelope, .. })) =
        super::seal::decode(Table::Outbox, &outbox)
    else {
        panic!("a message that waits");
    };
    assert_eq!(
        (envelope.kind, &*envelope.body),
        (Kind::Request, &b"hi"[..])
    );
    assert_eq!((envelope.cause.root, envelope.cause.depth), (id, 2));
    let Ok(Row::Inbox(router::InboxRow::Known(known))) = super::seal::decode(Table::Inbox, &inbox)
    else {
        panic!("a message that is known");
    };
    assert_eq!((known.key.id, known.cause.depth, known.open), (id, 5, true));
    assert_eq!(known.conversation, None);
}

fn until_committed(spool: &Spool, commits: u64) {
    let begun = std::time::Instant::now();
    while spool.stats().commits < commits {
        assert!(begun.elapsed().as_secs() < 60, "{:?}", spool.stats());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn waiting(body: &[u8]) -> Row {
    Row::Outbox(OutboxRow::Waiting {
        node: NodeId([2; 16]),
        to: "coder@gw-b".parse().expect("an address"),
        envelope: Envelope {
            id: MessageId::new(1_795_000_000_000, [1; 10]),
            kind: Kind::Request,
            from: "planner".parse().expect("a name"),
            to: "coder".parse().expect("a name"),
            instance: InstanceId([1; 16]),
            epoch: 3,
            sequence: 4,
            created_at_ms: 1_795_000_000_000,
            ttl_ms: 1000,
            hops_left: 8,
            cause: wire::message::Cause::none(MessageId::new(1_795_000_000_000, [1; 10])),
            conversation: None,
            content_type: "text/plain".into(),
            body: body.to_vec().into(),
        },
        hash: [6; 16],
    })
}

fn known() -> Row {
    Row::Inbox(router::InboxRow::Known(Known {
        owner: router::Agent {
            name: "coder".parse().expect("a name"),
            instance: InstanceId([2; 16]),
        },
        node: NodeId([1; 16]),
        from: "planner@gw-a".parse().expect("an address"),
        key: MessageKey {
            instance: InstanceId([1; 16]),
            id: MessageId::new(5, [1; 10]),
        },
        epoch: 3,
        sequence: 4,
        hash: [6; 16],
        cause: wire::message::Cause::none(MessageId::new(5, [1; 10])),
        conversation: None,
        open: false,
        created_at_ms: 5,
        ttl_ms: 6,
    }))
}

/// A failure as the first version wrote it, and as every version does.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct FirstFailure {
    code: String,
    reason: String,
    missing_grant: Option<String>,
}

#[test]
fn a_failure_of_the_first_version_reads_as_it_was_written() {
    let written = FirstFailure {
        code: "denied".into(),
        reason: "no grant".into(),
        missing_grant: Some("{}".into()),
    };
    let bytes = postcard::to_allocvec(&written).expect("encoded");

    let read: Failure = postcard::from_bytes(&bytes).expect("decoded");

    assert_eq!((&*read.code, &*read.reason), ("denied", "no grant"));
    assert_eq!((read.cause, read.rule), (None, None));
    assert_eq!(read.missing_grant.as_deref(), Some("{}"));
}

fn dead() -> Row {
    Row::Dead(DeadRow {
        instance: InstanceId([1; 16]),
        agent: "planner".parse().expect("a name"),
        other: "coder@gw-b".parse().expect("an address"),
        id: MessageId::new(5, [1; 10]),
        error: Failure {
            code: "denied".into(),
            reason: "guard g 1 lets at most 10 bytes pass".into(),
            missing_grant: None,
            cause: Some("guard".into()),
            rule: Some("g 1".into()),
        },
        at_ms: 7,
        content_type: "text/plain".into(),
        body: b"late"[..].into(),
    })
}

#[tokio::test]
async fn a_row_is_read_again_whichever_start_wrote_it_and_costs_no_fsync() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    store(&opened.spool, 1, vec![Write::Put(RowId(1), known())]).await;
    drop(opened);
    let opened = open(&state, Durability::Full).expect("there");
    store(&opened.spool, 2, vec![Write::Put(RowId(2), known())]).await;
    // Nobody waits for this one, and so it waits for company also where something is read.
    opened.spool.submit(&mut vec![Job {
        ticket: None,
        writes: vec![Write::Put(RowId(3), known())],
    }]);

    opened.spool.read(&mut vec![RowId(2), RowId(1)]);
    let read = until_read(&opened.spool, 2).await;

    assert_eq!(read, [(RowId(2), Some(known())), (RowId(1), Some(known()))]);
    let stats = opened.spool.stats();
    assert_eq!((stats.reads, stats.commits, stats.queued), (2, 1, 1));
}

#[tokio::test]
async fn a_row_that_was_told_to_be_stored_early_is_stored_before_it_is_read() {
    let (_home, state) = state();
    let opened = open(&state, Durability::None).expect("new");
    for n in 1..=600 {
        opened.spool.submit(&mut vec![Job {
            ticket: Some(Ticket(n)),
            writes: vec![Write::Put(RowId(n), known())],
        }]);
    }
    assert_eq!(opened.spool.stored(), Ticket(600));

    opened.spool.read(&mut vec![RowId(600)]);

    let read = until_read(&opened.spool, 1).await;
    assert_eq!(read, [(RowId(600), Some(known()))]);
}

#[tokio::test]
async fn a_row_that_was_damaged_since_is_told_and_set_aside_and_the_others_are_read() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    let puts = (1..=3).map(|n| Write::Put(RowId(n), known()));
    store(&opened.spool, 1, puts.collect()).await;
    drop(opened);
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    raw.execute_batch(
        "CREATE TRIGGER rot AFTER INSERT ON outbox WHEN NEW.id = 9
         BEGIN UPDATE inbox SET value = x'00' || substr(value, 2, 20) WHERE id = 2; END",
    )
    .expect("a disk that rots row 2");
    drop(raw);
    let opened = open(&state, Durability::Full).expect("there");
    store(&opened.spool, 2, vec![Write::Put(RowId(9), waiting(b"x"))]).await;

    // The last was never there.
    opened.spool.read(&mut [1, 2, 3, 4].map(RowId).to_vec());
    let read = until_read(&opened.spool, 4).await;

    let whole = read.iter().map(|(row, found)| (row.0, found.is_some()));
    assert_eq!(
        whole.collect::<Vec<_>>(),
        [(1, true), (2, false), (3, true), (4, false)]
    );
    drop(opened);
    let again = open(&state, Durability::Full).expect("there");
    let left: Vec<_> = again.rows.iter().map(|(row, _)| row.0).collect();
    assert_eq!((left, again.damaged), (vec![1, 3, 9], 0));
    drop(again);
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    let aside: i64 = raw
        .query_row("SELECT count(*) FROM damaged", [], |row| row.get(0))
        .expect("counted");
    assert_eq!(aside, 1);
}

#[tokio::test]
async fn a_commit_that_fails_takes_no_read_with_it() {
    let (_home, state) = state();
    let opened = open(&state, Durability::Full).expect("new");
    store(&opened.spool, 1, vec![Write::Put(RowId(1), known())]).await;
    drop(opened);
    let raw = rusqlite::Connection::open(state.file(DATABASE)).expect("opens");
    raw.execute_batch(
        "CREATE TRIGGER full BEFORE INSERT ON outbox
         BEGIN SELECT RAISE(ABORT, 'no space'); END",
    )
    .expect("a disk that is full");
    drop(raw);
    let opened = open(&state, Durability::Full).expect("there");
    opened.spool.submit(&mut vec![Job {
        ticket: Some(Ticket(2)),
        writes: vec![Write::Put(RowId(2), waiting(b"x"))],
    }]);
    opened.spool.read(&mut vec![RowId(1)]);

    let read = until_read(&opened.spool, 1).await;

    assert_eq!(read, [(RowId(1), Some(known()))]);
    while opened.spool.clear_failure().is_none() {
        opened.spool.changed().await;
    }
}

async fn until_read(spool: &Spool, rows: usize) -> Vec<(RowId, Option<Row>)> {
    let mut read = Vec::new();
    while read.len() < rows {
        read.extend(spool.loaded());
        if read.len() < rows {
            spool.changed().await;
        }
    }
    read
}
