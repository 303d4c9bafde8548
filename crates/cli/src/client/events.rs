//! Server-sent events, as the node sends them: a name, perhaps an id, one line of data.

use api::Received;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::failure::Failure;

/// The events of one call, as they come.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    /// What it is.
    pub name: String,
    /// What to ask from later.
    pub id: String,
    /// JSON.
    pub data: Bytes,
}

/// The messages of an agent, as they come.
pub struct Stream {
    events: Events,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next event; `None` when the node ended the stream. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.buffered() {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                    if self.buffer.len() > EVENT_MAX {
                        return Err(Failure::failed("the node sends an event without an end"));
                    }
                }
                // A node that was killed and one that stopped look the same to a follower.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// An event that has arrived already. Comments are none.
    fn buffered(&mut self) -> Option<Event> {
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event = self.buffer.split_to(end).freeze();
            self.buffer.advance(2);
            let field = |name: &[u8]| {
                let lines = event.split(|byte| *byte == b'\n');
                let value = lines.filter_map(|line| line.strip_prefix(name)).next();
                value.map(<[u8]>::trim_ascii)
            };
            let text = |name| String::from_utf8_lossy(field(name).unwrap_or_default()).into_owned();
            if let Some(data) = field(b"data:") {
                return Some(Event {
                    name: text(b"event:"),
                    id: text(b"id:"),
                    data: event.slice_ref(data),
                });
            }
        }
        None
    }
}

impl Event {
    /// The data.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.data)
            .map_err(|error| Failure::failed(format!("the node sends something else: {error}")))
    }
}

impl Stream {
    pub(super) fn new(events: Events) -> Self {
        Self { events }
    }

    /// The next message; `None` when the node ended the stream. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<Received>, Failure> {
        loop {
            match self.events.next().await? {
                Some(event) if event.name == MESSAGE => return event.read().map(Some),
                // What was taken back is told by the next heartbeat to whoever works on it.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// A message that has arrived already.
    pub fn buffered(&mut self) -> Result<Option<Received>, Failure> {
        while let Some(event) = self.events.buffered() {
            if event.name == MESSAGE {
                return event.read().map(Some);
            }
        }
        Ok(None)
    }
}

const MESSAGE: &str = "message";

/// The largest body, escaped; or every agent of a large mesh, with all that it says of itself.
const EVENT_MAX: usize = 16 << 20;
