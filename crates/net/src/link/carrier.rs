//! What a link runs on, for both of its ends: a QUIC connection with one stream, or TLS over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::frame::{self, FrameError, LENGTH_BYTES};
use wire::link::{EXPORTER_LABEL, PRE_AUTHENTICATION_BYTES};

use crate::tls;

/// One connection. It begins within the budget of [`PRE_AUTHENTICATION_BYTES`] a frame.
pub struct Carrier {
    /// Frames from the other side.
    pub reader: FrameReader,
    /// Frames to the other side.
    pub writer: FrameWriter,
    /// Where it runs on QUIC: the connection, whose DATAGRAMs carry what is relayed.
    pub quic: Option<quinn::Connection>,
    /// The other side's address.
    pub remote: SocketAddr,
}

/// Reads frames off a stream. Cancel-safe: what has arrived of a frame is kept.
pub struct FrameReader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    limit: usize,
}

/// Writes frames to a stream, many in one write.
pub struct FrameWriter {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: Vec<u8>,
}

impl Carrier {
    /// On QUIC.
    pub fn quic(
        connection: quinn::Connection,
        send: quinn::SendStream,
        receive: quinn::RecvStream,
    ) -> Self {
        Self {
            remote: crate::udp::plain(connection.remote_address()),
            reader: FrameReader::new(Box::new(receive)),
            writer: FrameWriter::new(Box::new(send)),
            quic: Some(connection),
        }
    }

    /// On TLS over TCP, or anything else that carries bytes both ways.
    pub fn stream(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        remote: SocketAddr,
    ) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            remote: crate::udp::plain(remote),
            reader: FrameReader::new(Box::new(read)),
            writer: FrameWriter::new(Box::new(write)),
            quic: None,
        }
    }

    /// What binds the handshake to this very connection ([`wire::link::Transcript::exporter`]).
    pub fn exporter(&self) -> [u8; 32] {
        match &self.quic {
            Some(connection) => tls::exporter(connection, EXPORTER_LABEL, &[]),
            None => [0; 32],
        }
    }
}

impl FrameReader {
    /// Nothing read yet; frames may be as long as a stranger's.
    pub fn new(stream: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            limit: PRE_AUTHENTICATION_BYTES - LENGTH_BYTES,
        }
    }

    /// The other side has proved who it is: frames may be as long as any.
    pub fn trust(&mut self) {
        self.limit = frame::MAX_FRAME;
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            // Never by a length that we were told, and never beyond one frame of a stranger.
            let room = (LENGTH_BYTES + self.limit - self.buffer.len()).min(READ);
            self.buffer.reserve(room);
            let read = self
                .stream
                .read_buf(&mut (&mut self.buffer).limit(room))
                .await;
            if read.map_err(|_| ReadError::Broken)? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(ReadError::Broken),
                };
            }
        }
    }

    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        let announced = self
            .buffer
            .first_chunk()
            .map(|field| frame::body_length(*field));
        if announced
            .transpose()?
            .is_some_and(|length| length > self.limit)
        {
            return Err(ReadError::TooLong);
        }
        let Some(body) = frame::next_body(&self.buffer)? else {
            return Ok(None);
        };
        let end = body.end;
        let decoded = frame::decode(&self.buffer[body]);
        self.buffer.advance(end);
        Ok(Some(decoded?))
    }
}

impl FrameWriter {
    /// Nothing written yet.
    pub fn new(stream: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Adds a frame to the next [`FrameWriter::flush`].
    pub fn push<T: Serialize>(&mut self, frame: &T) -> Result<(), FrameError> {
        frame::encode(frame, &mut self.buffer)
    }

    /// How many bytes wait to be flushed.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what waits. Not cancel-safe: a frame may be cut in two. Ends after
    /// 20 s: who reads nothing for so long is gone, or wants us to wait for ever.
    pub async fn flush(&mut self) -> Result<(), ReadError> {
        let all = async {
            self.stream.write_all(&self.buffer).await?;
            self.stream.flush().await
        };
        let written = tokio::time::timeout(WRITE_TIME, all).await;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        match written {
            Ok(Ok(())) => Ok(()),
            _ => Err(ReadError::Broken),
        }
    }

    /// Pushes and flushes one frame.
    pub async fn send<T: Serialize>(&mut self, frame: &T) -> Result<(), ReadError> {
        self.push(frame)?;
        self.flush().await
    }

    /// Tells the other side that no more will come.
    pub async fn finish(&mut self) {
        // It may be gone already: then it needs no word.
        let _ = tokio::time::timeout(WRITE_TIME, self.stream.shutdown()).await;
    }
}

/// Why frames stopped coming or going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The connection broke, in the middle of a frame perhaps, or stalled.
    #[error("the connection broke")]
    Broken,
    /// Longer than this side may send now.
    #[error("frame too long")]
    TooLong,
    /// Not a frame.
    #[error("malformed frame")]
    Malformed(#[from] FrameError),
}

/// One read: some forty relayed datagrams.
const READ: usize = 64 << 10;

/// What a writer keeps of its buffer after a large frame.
const KEPT: usize = 64 << 10;

/// As long as QUIC takes to call a silent connection dead.
const WRITE_TIME: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: Vec<u8>) -> FrameReader {
        FrameReader::new(Box::new(std::io::Cursor::new(bytes)))
    }

    fn encoded(length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(&bytes::Bytes::from(vec![7; length]), &mut bytes).expect("short");
        bytes
    }

    #[tokio::test]
    async fn a_stranger_s_long_frame_is_refused_by_its_length_field_alone() {
        let mut announced = reader(5000u32.to_le_bytes().to_vec());
        let mut honest = reader(encoded(4000));

        assert_eq!(
            announced.next::<bytes::Bytes>().await,
            Err(ReadError::TooLong)
        );
        assert_eq!(
            honest
                .next::<bytes::Bytes>()
                .await
                .map(|f| f.map(|f| f.len())),
            Ok(Some(4000))
        );
    }

    #[tokio::test]
    async fn a_trusted_side_may_send_long_frames_and_many() {
        let mut reader = reader([encoded(300_000), encoded(3), encoded(0)].concat());
        reader.trust();

        for length in [300_000, 3, 0] {
            let frame = reader.next::<bytes::Bytes>().await.expect("well formed");
            assert_eq!(frame.expect("not the end").len(), length);
        }
        assert_eq!(reader.next::<bytes::Bytes>().await, Ok(None));
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_broken() {
        let mut bytes = encoded(100);
        bytes.pop();

        assert_eq!(
            reader(bytes).next::<bytes::Bytes>().await,
            Err(ReadError::Broken)
        );
    }
}
