//! `wire`: datagrams, frames, and what rides inside the session.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::frame;
use wire::link::{BeaconFrame, ClientFrame, MAX_RELAYED, RelayDatagram};
use wire::map::{MapRequest, MapUpdate};
use wire::message::{MessageFrame, MessageId};
use wire::parts::{PartsFrame, Subscribe};
use wire::peer::PeerFrame;
use wire::probe::{Control, MAX_CANDIDATES};

/// Frames of the link, either way.
pub fn link_frame(bytes: &[u8]) {
    frame_of::<ClientFrame>(bytes);
    frame_of::<BeaconFrame>(bytes);
}

/// What a client and the coordinator tell each other.
pub fn map_frame(bytes: &[u8]) {
    frame_of::<MapRequest>(bytes);
    frame_of::<MapUpdate>(bytes);
}

/// The control stream between two gateways.
pub fn peer_frame(bytes: &[u8]) {
    frame_of::<PeerFrame>(bytes);
}

/// The message stream between two routers.
pub fn message_frame(bytes: &[u8]) {
    frame_of::<MessageFrame>(bytes);
    if let Some(id) = bytes
        .first_chunk::<16>()
        .and_then(|id| MessageId::from_bytes(*id))
    {
        assert_eq!(id.to_string().parse(), Ok(id));
        let _ = id.unix_ms();
    }
}

/// The parts of an answer: what is asked for, and what comes.
pub fn parts_frame(bytes: &[u8]) {
    frame_of::<Subscribe>(bytes);
    frame_of::<PartsFrame>(bytes);
}

/// A stream cut into frames as it arrives.
pub fn stream(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(body)) = frame::next_body(rest) {
        let end = body.end;
        link_frame(&rest[body]);
        rest = &rest[end..];
    }
}

/// A QUIC DATAGRAM of the relay.
pub fn relay_datagram(bytes: &[u8]) {
    let datagram = bytes::Bytes::copy_from_slice(bytes);
    if let Some(relayed) = RelayDatagram::decode(datagram) {
        assert!(relayed.payload.len() <= MAX_RELAYED);
        let mut again = Vec::new();
        RelayDatagram::encode(relayed.peer, &relayed.payload, &mut again);
        assert_eq!(again, bytes);
    }
}

/// Control packets inside the WireGuard session.
pub fn probe(bytes: &[u8]) {
    if let Some(Control::Candidates(told)) = Control::decode(bytes) {
        assert!(told.iter().count() <= MAX_CANDIDATES);
    }
}

/// What decodes must encode to something that decodes to the same. (Not to the same bytes:
/// postcard accepts integers that are longer than they need be.)
fn frame_of<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    let Ok(decoded) = frame::decode::<T>(body) else {
        return;
    };
    let mut bytes = Vec::new();
    frame::encode(&decoded, &mut bytes).expect("what arrived in a frame fits into one");
    let body = frame::next_body(&bytes)
        .expect("our own length")
        .expect("a whole frame");
    assert_eq!(frame::decode::<T>(&bytes[body]).as_ref(), Ok(&decoded));
}
