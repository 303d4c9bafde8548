//! A call whose body is made while it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Answer;
use crate::failure::Failure;

/// What a connection of ours sends: a whole body, or lines as they come.
pub(super) type Sending = Either<Full<Bytes>, Lines>;

/// The lines of a body.
pub(super) struct Lines(mpsc::Receiver<Bytes>);

/// A call that is under way.
pub struct Upload {
    /// Send a line; it waits while the node is slower. Refused once the node has answered.
    pub lines: mpsc::Sender<Bytes>,
    pub(super) answer: JoinHandle<Result<Answer, hyper::Error>>,
}

pub(super) fn lines() -> (mpsc::Sender<Bytes>, Lines) {
    let (lines, body) = mpsc::channel(AHEAD);
    (lines, Lines(body))
}

impl Upload {
    /// Ends the body, and what the node says of it.
    pub async fn end(self) -> Result<Answer, Failure> {
        drop(self.lines);
        let broken = |error| Failure::no_node(format!("the local node broke off: {error}"));
        match self.answer.await {
            Ok(answer) => answer.map_err(broken),
            Err(error) => Err(Failure::failed(error.to_string())),
        }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Lines that may wait for the connection.
const AHEAD: usize = 16;
