//! The asking gateway's side: one stream after the other, and what they say in order.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::Stream;
use identity::NodeId;
use router::{Cursor, PartEvent, Reader};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::debug;
use wire::frame;
use wire::message::MessageKey;
use wire::parts::{self, PartsFrame, Subscribe};

use super::Streams;
use super::serve::Feed;

/// The parts of one answer, as they come, until [`PartEvent::End`]; also over a connection that is
/// lost and found again. Ends early where the peer breaks the protocol.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<PartEvent>,
    task: AbortHandle,
}

struct Task {
    streams: Streams,
    peer: NodeId,
    key: MessageKey,
    reader: Reader,
    events: mpsc::Sender<PartEvent>,
}

/// How one stream ended.
enum Ended {
    /// For good.
    Over,
    /// Subscribe again.
    Lost,
}

impl Subscription {
    pub(super) fn new(streams: Streams, peer: NodeId, key: MessageKey, at: Cursor) -> Self {
        let (sender, events) = mpsc::channel(AHEAD);
        let task = Task {
            streams,
            peer,
            key,
            reader: Reader::new(at),
            events: sender,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        Self { events, task }
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<PartEvent> {
        self.events.recv().await
    }
}

impl Stream for Subscription {
    type Item = PartEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PartEvent>> {
        self.events.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Its stream is reset, which tells the other side.
        self.task.abort();
    }
}

impl Task {
    async fn run(mut self) {
        if self.peer == self.streams.inner.node {
            return self.read_here().await;
        }
        let mut pause = PAUSE_MIN;
        // Until there is room again for what comes; nobody is there when that fails.
        while self.events.reserve().await.is_ok() {
            if let Some(connection) = self.streams.connection(self.peer).await {
                let before = self.reader.at();
                match self.read(&connection).await {
                    Ended::Over => return,
                    Ended::Lost if self.reader.at() != before => pause = PAUSE_MIN,
                    Ended::Lost => {}
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// An agent on this very gateway answers.
    async fn read_here(mut self) {
        'feeds: while self.events.reserve().await.is_ok() {
            let Ok(slot) = self.streams.slot(self.peer, self.key) else {
                return;
            };
            let mut feed = Feed::new(slot, self.subscribe());
            loop {
                let mut frames = Vec::new();
                feed.frames(|frame| {
                    frames.push(frame);
                    frames.len() < AHEAD
                })
                .await;
                for frame in frames {
                    match self.take(frame).await {
                        None => {}
                        Some(Ended::Over) => return,
                        // Again from where the reader is, once there is room.
                        Some(Ended::Lost) => continue 'feeds,
                    }
                }
            }
        }
    }

    /// Reads one stream until it ends.
    async fn read(&mut self, connection: &quinn::Connection) -> Ended {
        let Ok((mut send, mut receive)) = connection.open_bi().await else {
            return Ended::Lost;
        };
        let mut hello = vec![parts::STREAM];
        if frame::encode(&self.subscribe(), &mut hello).is_err()
            || send.write_all(&hello).await.is_err()
            || send.finish().is_err()
        {
            return Ended::Lost;
        }
        let mut buffer = BytesMut::new();
        loop {
            loop {
                let frame = match frame::next_body(&buffer) {
                    Ok(None) => break,
                    Ok(Some(body)) => {
                        let frame = frame::decode(&buffer[body.clone()]);
                        let _ = buffer.split_to(body.end);
                        frame
                    }
                    Err(error) => Err(error),
                };
                let Ok(frame) = frame else {
                    debug!(peer = %self.peer, "a malformed part ends the parts");
                    return Ended::Over;
                };
                if let Some(ended) = self.take(frame).await {
                    return ended;
                }
            }
            match receive.read_chunk(READ_AT_ONCE, true).await {
                Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(_) => return Ended::Lost,
            }
        }
    }

    /// Hands on what a frame means. Whoever does not read for a while loses the stream, not its
    /// place: what a stream holds back counts against everything else that this peer sends.
    async fn take(&mut self, frame: PartsFrame) -> Option<Ended> {
        let room = match tokio::time::timeout(STALLED, self.events.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Some(Ended::Over),
            Err(_) => return Some(Ended::Lost),
        };
        match self.reader.take(frame) {
            Ok(None) => None,
            Ok(Some(event)) => {
                let over = event == PartEvent::End;
                room.send(event);
                over.then_some(Ended::Over)
            }
            Err(error) => {
                debug!(peer = %self.peer, %error, "the parts end");
                Some(Ended::Over)
            }
        }
    }

    fn subscribe(&self) -> Subscribe {
        let Cursor { attempt, seq } = self.reader.at();
        Subscribe {
            key: self.key,
            attempt,
            after: seq,
        }
    }
}

/// Events that may wait for whoever asked.
const AHEAD: usize = 64;

const READ_AT_ONCE: usize = 64 << 10;

/// How long whoever asked may take to make room.
const STALLED: Duration = Duration::from_secs(1);

/// Between two tries to subscribe: a session that is being dialled takes a round trip or a few.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
