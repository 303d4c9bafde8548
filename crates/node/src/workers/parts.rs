//! What passes between a driver and a worker while it works: parts of the answer one way, that it is
//! no longer wanted the other.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// Where a worker puts its answer piece by piece, as it comes. What it returns at the end is the
/// whole answer all the same.
#[derive(Debug, Default)]
pub struct Parts {
    to: Option<mpsc::Sender<Part>>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text, to be appended.
    Text(String),
    /// Anything else.
    Bytes(Bytes),
}

/// Tells a worker that its message was taken back, or cannot be settled any longer.
#[derive(Clone, Debug)]
pub struct Cancelled(watch::Receiver<bool>);

/// The driver's end of [`Cancelled`].
#[derive(Debug)]
pub(super) struct Cancel(watch::Sender<bool>);

impl Parts {
    /// Whether the sender wants them. Without it they go nowhere.
    pub fn wanted(&self) -> bool {
        self.to.is_some()
    }

    /// Hands on a piece, waiting where the sender is behind.
    pub async fn put(&mut self, part: Part) {
        if let Some(to) = &self.to
            && to.send(part).await.is_err()
        {
            // Nobody reads them any longer; the whole answer still counts.
            self.to = None;
        }
    }

    /// Parts that go nowhere.
    pub(super) fn nowhere() -> (Self, mpsc::Receiver<Part>) {
        (Self::default(), mpsc::channel(1).1)
    }

    /// Parts that go into a channel.
    pub fn channel(room: usize) -> (Self, mpsc::Receiver<Part>) {
        let (to, parts) = mpsc::channel(room);
        (Self { to: Some(to) }, parts)
    }
}

impl Part {
    /// In pieces that the mesh carries, text between characters.
    pub(super) fn pieces(self, most: usize) -> Vec<Bytes> {
        let (mut rest, is_text) = match self {
            Self::Text(text) => (Bytes::from(text), true),
            Self::Bytes(bytes) => (bytes, false),
        };
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let mut end = rest.len().min(most);
            // A byte that continues a character (RFC 3629).
            while is_text && end < rest.len() && rest[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            pieces.push(rest.split_to(end));
        }
        pieces
    }
}

impl Cancelled {
    /// Whether it is so already.
    pub fn already(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is; perhaps never.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Cancel {
    pub(super) fn new() -> (Self, Cancelled) {
        let (cancel, cancelled) = watch::channel(false);
        (Self(cancel), Cancelled(cancelled))
    }

    pub(super) fn now(&self) {
        self.0.send_replace(true);
    }
}
