//! Rows as sealed bytes. A sealed value is
//! `key id (4, LE) | counter (8, LE) | AES-256-GCM ciphertext and tag`, its plaintext is
//! `format (1) | postcard`, and its additional data is `table | row id (8, LE) | key id (4, LE)`.
//!
//! A key id is a start of the process. Each start derives its key from a random salt, and counts
//! its nonces from zero: a database that was restored from a copy never repeats one.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use router::{DeadRow, InboxRow, OutboxRow, Row, RowId, Table, v1};

/// One start's key.
pub(super) struct Sealer {
    key_id: u32,
    key: LessSafeKey,
    counter: u64,
}

/// Opens what one start sealed.
pub(super) struct Opener {
    key_id: u32,
    key: LessSafeKey,
}

/// Why bytes are not a row. What exactly is wrong helps nobody but an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARow;

/// A random salt, made at each start and stored in the database.
pub(super) const SALT_BYTES: usize = 32;
/// Proves that a key belongs to a database.
pub(super) const CHECK_BYTES: usize = 16;

impl Sealer {
    pub(super) fn new(key: &[u8; 32], salt: &[u8; SALT_BYTES], key_id: u32) -> Self {
        Self {
            key_id,
            key: derive(key, salt),
            counter: 0,
        }
    }

    /// The sealed row, in `out`.
    pub(super) fn seal(
        &mut self,
        row: RowId,
        value: &Row,
        out: &mut Vec<u8>,
    ) -> Result<(), NotARow> {
        out.clear();
        out.extend_from_slice(&self.key_id.to_le_bytes());
        out.extend_from_slice(&self.counter.to_le_bytes());
        out.push(FORMAT);
        let end = End(&mut *out);
        let encoded = match value {
            Row::Outbox(value) => postcard::serialize_with_flavor(value, end),
            Row::Inbox(value) => postcard::serialize_with_flavor(value, end),
            Row::Dead(value) => postcard::serialize_with_flavor(value, end),
        };
        encoded.map_err(|_| NotARow)?;
        let aad = Aad::from(additional(value.table(), row, self.key_id));
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.counter), aad, &mut out[HEADER..])
            .map_err(|_| NotARow)?;
        out.extend_from_slice(tag.as_ref());
        self.counter += 1;
        Ok(())
    }
}

/// The end of a vector, for postcard: its own `to_extend` copies a body byte by byte.
struct End<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for End<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl Opener {
    pub(super) fn new(key: &[u8; 32], salt: &[u8; SALT_BYTES], key_id: u32) -> Self {
        Self {
            key_id,
            key: derive(key, salt),
        }
    }

    /// The row in sealed bytes.
    pub(super) fn open(&self, table: Table, row: RowId, sealed: &[u8]) -> Result<Row, NotARow> {
        let (head, body) = sealed.split_at_checked(HEADER).ok_or(NotARow)?;
        let counter = u64::from_le_bytes(*head.last_chunk().ok_or(NotARow)?);
        let mut bytes = body.to_vec();
        let aad = Aad::from(additional(table, row, self.key_id));
        let plain = self
            .key
            .open_in_place(nonce(counter), aad, &mut bytes)
            .map_err(|_| NotARow)?;
        decode(table, plain)
    }
}

/// Under which start's key bytes were sealed.
pub(super) fn key_id_of(sealed: &[u8]) -> Option<u32> {
    sealed.first_chunk().map(|id| u32::from_le_bytes(*id))
}

/// The row in plain bytes. Total: any bytes are a row or not.
pub fn decode(table: Table, plain: &[u8]) -> Result<Row, NotARow> {
    let (format, bytes) = plain.split_first().ok_or(NotARow)?;
    let row = match (*format, table) {
        (FORMAT, Table::Outbox) => postcard::from_bytes::<OutboxRow>(bytes).map(Row::Outbox),
        (FORMAT, Table::Inbox) => postcard::from_bytes::<InboxRow>(bytes).map(Row::Inbox),
        // Dead letters have not changed since.
        (FORMAT | FIRST_FORMAT, Table::Dead) => {
            postcard::from_bytes::<DeadRow>(bytes).map(Row::Dead)
        }
        (FIRST_FORMAT, Table::Outbox) => {
            postcard::from_bytes::<v1::OutboxRow>(bytes).map(|row| Row::Outbox(row.into()))
        }
        (FIRST_FORMAT, Table::Inbox) => {
            postcard::from_bytes::<v1::InboxRow>(bytes).map(|row| Row::Inbox(row.into()))
        }
        _ => return Err(NotARow),
    };
    row.map_err(|_| NotARow)
}

/// What a database stores to know its key again.
pub(super) fn key_check(key: &[u8; 32], epoch: u64) -> [u8; CHECK_BYTES] {
    struct Check;
    impl KeyType for Check {
        fn len(&self) -> usize {
            CHECK_BYTES
        }
    }
    let mut check = [0; CHECK_BYTES];
    Salt::new(HKDF_SHA256, &epoch.to_le_bytes())
        .extract(key)
        .expand(&[b"crabmesh spool check v1"], Check)
        .and_then(|okm| okm.fill(&mut check))
        .expect("sixteen bytes are within HKDF's bound");
    check
}

fn derive(key: &[u8; 32], salt: &[u8; SALT_BYTES]) -> LessSafeKey {
    let extracted = Salt::new(HKDF_SHA256, salt).extract(key);
    let expanded = extracted
        .expand(&[b"crabmesh spool v1"], &AES_256_GCM)
        .expect("a key is within HKDF's bound");
    LessSafeKey::new(UnboundKey::from(expanded))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn additional(table: Table, row: RowId, key_id: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    let name = table.as_str().as_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[8..16].copy_from_slice(&row.0.to_le_bytes());
    bytes[16..].copy_from_slice(&key_id.to_le_bytes());
    bytes
}

const HEADER: usize = 12;
/// The format of the postcard that follows.
const FORMAT: u8 = 2;

/// That of the first version, which is read still.
const FIRST_FORMAT: u8 = 1;
