//! One QUIC connection to a peer: its writers and readers.

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use identity::NodeId;
use net::endpoint::PARTS_AT_ONCE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use wire::frame::{self, FrameError};
use wire::message::MessageFrame;
use wire::peer::PeerFrame;

use super::SessionEvent;
use crate::streams::{Streams, serve as serve_parts};

/// The sending half, for the task that owns all sessions.
pub(super) struct Connection {
    quic: quinn::Connection,
    control: mpsc::Sender<PeerFrame>,
    offers: mpsc::Sender<MessageFrame>,
    answers: mpsc::Sender<MessageFrame>,
}

/// Whose frames these are, and who hears them.
#[derive(Clone)]
pub(super) struct Heard {
    pub peer: NodeId,
    pub events: mpsc::Sender<SessionEvent>,
    pub streams: Streams,
}

impl Connection {
    /// The handle, and the task that serves the connection until it is closed.
    pub fn new(quic: quinn::Connection, heard: Heard) -> (Self, impl Future<Output = ()>) {
        let (control, control_frames) = mpsc::channel(QUEUE);
        let (offers, offer_frames) = mpsc::channel(QUEUE);
        let (answers, answer_frames) = mpsc::channel(QUEUE);
        let frames = Frames {
            control: control_frames,
            offers: offer_frames,
            answers: answer_frames,
        };
        let task = serve(quic.clone(), heard, frames);
        (
            Self {
                quic,
                control,
                offers,
                answers,
            },
            task,
        )
    }

    pub fn id(&self) -> usize {
        self.quic.stable_id()
    }

    /// Queues a frame. A full queue drops it: offers are made again by the router, and answers
    /// are asked for again by the offers.
    pub fn send_message(&self, frame: MessageFrame) {
        let queue = match frame {
            // What takes a message back must not pass it on the way.
            MessageFrame::Offer { .. } | MessageFrame::Cancel { .. } => &self.offers,
            _ => &self.answers,
        };
        if queue.try_send(frame).is_err() {
            debug!("message frame dropped: the session's queue is full");
        }
    }

    pub fn send_control(&self, frame: PeerFrame) {
        if self.control.try_send(frame).is_err() {
            debug!("control frame dropped: the session's queue is full");
        }
    }

    /// The connection itself, for a stream of its own.
    pub fn quic(&self) -> quinn::Connection {
        self.quic.clone()
    }

    pub fn close(&self) {
        self.quic.close(2u32.into(), b"no longer a peer");
    }
}

/// What is to be written, by stream.
struct Frames {
    control: mpsc::Receiver<PeerFrame>,
    offers: mpsc::Receiver<MessageFrame>,
    answers: mpsc::Receiver<MessageFrame>,
}

async fn serve(quic: quinn::Connection, heard: Heard, frames: Frames) {
    let wrap_control: fn(NodeId, PeerFrame) -> SessionEvent = SessionEvent::Control;
    let wrap_message: fn(NodeId, MessageFrame) -> SessionEvent = SessionEvent::Message;
    let (peer, shared) = (heard.peer, Arc::new(heard));
    tokio::select! {
        () = write(&quic, CONTROL, frames.control) => {}
        () = write(&quic, OFFERS, frames.offers) => {}
        () = write(&quic, ANSWERS, frames.answers) => {}
        () = read(&quic, &shared, wrap_control, wrap_message) => {}
        error = quic.closed() => debug!(%peer, %error, "session closed"),
    }
    quic.close(0u32.into(), b"");
}

/// Writes all frames of one kind to one stream, as many at a time as wait.
async fn write<T: Serialize>(quic: &quinn::Connection, kind: u8, mut frames: mpsc::Receiver<T>) {
    let Ok(mut stream) = quic.open_uni().await else {
        return;
    };
    let mut bytes = vec![kind];
    loop {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        let Some(frame) = frames.recv().await else {
            return;
        };
        append(&frame, &mut bytes);
        while bytes.len() < WRITE_AT_ONCE
            && let Ok(frame) = frames.try_recv()
        {
            append(&frame, &mut bytes);
        }
    }
}

fn append<T: Serialize>(frame: &T, bytes: &mut Vec<u8>) {
    if let Err(error) = frame::encode(frame, bytes) {
        // Bounded where frames are made; losing one beats losing the session.
        warn!(%error, "frame dropped");
    }
}

/// Reads the peer's streams. Ends with the connection, or with a peer that breaks the protocol.
async fn read(
    quic: &quinn::Connection,
    heard: &Heard,
    control: fn(NodeId, PeerFrame) -> SessionEvent,
    message: fn(NodeId, MessageFrame) -> SessionEvent,
) {
    let mut streams = tokio::task::JoinSet::new();
    let mut sends_parts = false;
    loop {
        tokio::select! {
            accepted = quic.accept_uni() => {
                let Ok(mut stream) = accepted else { return };
                let heard = heard.clone();
                streams.spawn(async move {
                    let mut kind = [0];
                    if stream.read_exact(&mut kind).await.is_err() {
                        return Ok(());
                    }
                    match kind[0] {
                        CONTROL => read_frames(stream, &heard, control).await,
                        OFFERS | ANSWERS => read_frames(stream, &heard, message).await,
                        // A later version may open more: it is not an offence.
                        _ => Ok(()),
                    }
                });
            }
            accepted = quic.accept_bi() => {
                let Ok((send, mut receive)) = accepted else { return };
                if !std::mem::replace(&mut sends_parts, true) {
                    quic.set_max_concurrent_bi_streams(PARTS_AT_ONCE);
                }
                let heard = heard.clone();
                streams.spawn(async move {
                    let mut kind = [0];
                    if receive.read_exact(&mut kind).await.is_ok() && kind[0] == PARTS {
                        serve_parts(heard.streams.clone(), heard.peer, send, receive).await;
                    }
                    Ok(())
                });
            }
            Some(ended) = streams.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(peer = %heard.peer, %error, "session closed: malformed frame");
                    return;
                }
                Err(_) => return,
            },
        }
    }
}

async fn read_frames<T: DeserializeOwned>(
    mut stream: quinn::RecvStream,
    heard: &Heard,
    wrap: fn(NodeId, T) -> SessionEvent,
) -> Result<(), FrameError> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(body) = frame::next_body(&buffer)? {
            let frame = frame::decode(&buffer[body.clone()])?;
            let _ = buffer.split_to(body.end);
            // A full channel holds the reader, and QUIC's flow control holds the peer.
            if heard.events.send(wrap(heard.peer, frame)).await.is_err() {
                return Ok(());
            }
        }
        match stream.read_chunk(READ_AT_ONCE, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

/// The first byte of a stream of [`PeerFrame`]s.
const CONTROL: u8 = 1;

/// The first byte of a stream of offers.
const OFFERS: u8 = 2;

/// The first byte of a stream of all other [`MessageFrame`]s: answers never wait behind our own
/// offers, or a backlog would make both sides offer everything again.
const ANSWERS: u8 = 3;

/// The first byte of a stream of parts.
const PARTS: u8 = wire::parts::STREAM;

/// Frames that may wait for one stream: twice what the router has in flight towards a peer, for
/// its answers.
const QUEUE: usize = 512;

/// Frames are gathered up to this size into one write: a few QUIC packets' worth.
const WRITE_AT_ONCE: usize = 16 << 10;

/// The largest piece taken from a stream at once.
const READ_AT_ONCE: usize = 64 << 10;
