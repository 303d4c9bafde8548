//! The record: what a node says of itself, renewed by itself, under its identity key.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cbor::{FormatError, Value};
use crate::envelope::{self, Kind, Sealed};
use crate::keys::IdentityKey;
use crate::{MeshId, NodeId, NodeRecord, UnixTime};

/// How long after it was signed a record may claim to live (identity.md §3).
pub const RECORD_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Signs a record. It lives at most [`RECORD_LIFE`]; lists longer than it may have are cut.
pub fn make_record(
    record: &NodeRecord,
    mesh: &MeshId,
    key: &IdentityKey,
    now: UnixTime,
) -> Vec<u8> {
    let expires_at = record.expires_at.min(now.plus(RECORD_LIFE));
    let addresses: Vec<Vec<u8>> = record
        .addresses
        .iter()
        .take(MAX_ADDRESSES)
        .map(write_address)
        .collect();
    let relays = record
        .relays
        .iter()
        .take(MAX_RELAYS)
        .map(|node| Value::Bytes(&node.0));
    let payload = Value::map([
        (NODE, Some(Value::Bytes(&record.node.0))),
        (WIREGUARD, Some(Value::Bytes(&record.wireguard.0))),
        (RELAYS, Some(Value::Array(relays.collect()))),
        (
            ADDRESSES,
            Some(Value::Array(
                addresses.iter().map(|a| Value::Bytes(a)).collect(),
            )),
        ),
        (SEQUENCE, Some(Value::Uint(record.sequence))),
        (EXPIRES_AT, Some(Value::Uint(expires_at.0))),
    ])
    .encode();
    envelope::sign(Kind::Record, mesh, &payload, key)
}

/// Takes a record apart; its signature is the caller's to check.
pub(crate) fn read<'b>(bytes: &'b [u8]) -> Result<(Sealed<'b>, NodeRecord), FormatError> {
    if bytes.len() > MAX_RECORD {
        return Err(FormatError::TooLong);
    }
    let sealed = Sealed::open(Kind::Record, bytes)?;
    let mut fields = sealed.claims()?;
    let node: NodeId = fields.required(NODE)?;
    let wireguard = fields.required(WIREGUARD)?;
    let relays: Vec<NodeId> = fields.required(RELAYS)?;
    let addresses: Vec<&[u8]> = fields.required(ADDRESSES)?;
    let sequence = fields.required(SEQUENCE)?;
    let expires_at = fields.required(EXPIRES_AT)?;
    fields.finish()?;
    if relays.len() > MAX_RELAYS || addresses.len() > MAX_ADDRESSES {
        return Err(FormatError::Contradiction);
    }
    let addresses = addresses
        .into_iter()
        .map(read_address)
        .collect::<Result<_, _>>()?;
    Ok((
        sealed,
        NodeRecord {
            node,
            wireguard,
            relays,
            addresses,
            sequence,
            expires_at,
        },
    ))
}

/// 4 or 16 bytes of address, 2 of port.
fn write_address(address: &SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

fn read_address(bytes: &[u8]) -> Result<SocketAddr, FormatError> {
    let (ip, port) = bytes
        .split_last_chunk::<2>()
        .ok_or(FormatError::Malformed)?;
    let ip = match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
        (Ok(ip), _) => IpAddr::from(ip),
        (_, Ok(ip)) => IpAddr::from(ip),
        _ => return Err(FormatError::Malformed),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// With its certificate and the hello around both it must fit 4 KiB.
const MAX_RECORD: usize = 1024;

/// The home beacons of one node.
const MAX_RELAYS: usize = 8;

/// Host, reflexive, port-mapped and static addresses of a host with a few interfaces.
const MAX_ADDRESSES: usize = 16;

const NODE: u64 = 0;
const WIREGUARD: u64 = 1;
const RELAYS: u64 = 2;
const ADDRESSES: u64 = 3;
const SEQUENCE: u64 = 4;
const EXPIRES_AT: u64 = 5;
// 6: prekey, a later stage.
