//! The answering gateway's side of one stream: what the ring has, as frames, until the end.

use std::sync::Arc;
use std::time::Instant;

use identity::NodeId;
use router::Cursor;
use tracing::debug;
use wire::frame;
use wire::parts::{PartsFrame, Subscribe};

use super::{Slot, Streams, lock};

/// Serves a subscription of `peer`, on a stream whose first byte said that it is one.
pub(crate) async fn serve(
    streams: Streams,
    peer: NodeId,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let Some(subscribe) = read_subscribe(&mut receive).await else {
        debug!(%peer, "a subscription that cannot be read");
        return;
    };
    let Ok(slot) = streams.slot(peer, subscribe.key) else {
        // Its peer tries again; the answer comes all the same.
        return;
    };
    let mut feed = Feed::new(slot, subscribe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let ended = tokio::select! {
            ended = feed.next(&mut bytes) => ended,
            // The asker wants no more, or is gone.
            _ = send.stopped() => return,
        };
        if send.write_all(&bytes).await.is_err() {
            return;
        }
        if ended {
            // Not an error where the peer closed first.
            let _ = send.finish();
            let _ = send.stopped().await;
            return;
        }
    }
}

/// A reader of a slot: the newest one is the one that counts.
pub(super) struct Feed {
    slot: Arc<Slot>,
    number: u64,
    at: Cursor,
}

impl Feed {
    pub(super) fn new(slot: Arc<Slot>, subscribe: Subscribe) -> Self {
        let number = {
            let mut state = lock(&slot.state);
            state.reader += 1;
            state.reading = true;
            state.reader
        };
        slot.more.notify_waiters();
        let at = Cursor {
            attempt: subscribe.attempt,
            seq: subscribe.after,
        };
        Self { slot, number, at }
    }

    /// The next frames, as many as make a write; true after the last.
    async fn next(&mut self, bytes: &mut Vec<u8>) -> bool {
        let mut ended = false;
        self.frames(|frame| {
            ended = matches!(frame, PartsFrame::End { .. });
            // Bounded where parts are made.
            let _ = frame::encode(&frame, bytes);
            bytes.len() < WRITE_AT_ONCE
        })
        .await;
        ended
    }

    /// Waits for frames and hands on those that are there, until `take` wants no more of them.
    pub(super) async fn frames(&mut self, mut take: impl FnMut(PartsFrame) -> bool) {
        loop {
            let more = self.slot.more.notified();
            let mut any = false;
            {
                let mut state = lock(&self.slot.state);
                if state.reader != self.number {
                    // Another reader took over: this one has nothing more to say.
                    take(PartsFrame::End { last: 0 });
                    return;
                }
                state.used = Instant::now();
                while let Some(frame) = state.ring.read(&mut self.at) {
                    any = true;
                    let last = matches!(frame, PartsFrame::End { .. });
                    if !take(frame) || last {
                        break;
                    }
                }
            }
            if any {
                self.slot.room.notify_waiters();
                return;
            }
            more.await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = lock(&self.slot.state);
        if state.reader == self.number {
            (state.reading, state.used) = (false, Instant::now());
        }
        drop(state);
        // Whoever waited for this reader need not.
        self.slot.room.notify_waiters();
    }
}

async fn read_subscribe(receive: &mut quinn::RecvStream) -> Option<Subscribe> {
    let mut field = [0; frame::LENGTH_BYTES];
    receive.read_exact(&mut field).await.ok()?;
    let length = frame::body_length(field)
        .ok()
        .filter(|it| *it <= SUBSCRIBE_MAX)?;
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await.ok()?;
    frame::decode(&body).ok()
}

/// A key, two numbers.
const SUBSCRIBE_MAX: usize = 128;

/// Frames are gathered up to this size into one write.
const WRITE_AT_ONCE: usize = 16 << 10;
