//! One frame on a stream: a 32-bit little-endian length, then that many bytes of postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame body that anybody may send, 1 MiB: room for a trust log or a policy of
/// 10,000 rules beside the 256 KiB that a message body may have.
pub const MAX_FRAME: usize = 1 << 20;

/// The length field before each frame.
pub const LENGTH_BYTES: usize = 4;

/// Appends one frame to `out`.
pub fn encode<T: Serialize>(frame: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let bytes = std::mem::take(out);
    let mut bytes = postcard::to_extend(frame, bytes).map_err(|_| FrameError::Unencodable)?;
    let length = bytes.len() - start - LENGTH_BYTES;
    if length > MAX_FRAME {
        bytes.truncate(start);
        *out = bytes;
        return Err(FrameError::TooLong { length });
    }
    let field = u32::try_from(length)
        .expect("MAX_FRAME fits 32 bits")
        .to_le_bytes();
    bytes[start..start + LENGTH_BYTES].copy_from_slice(&field);
    *out = bytes;
    Ok(())
}

/// The body's length that a length field announces.
pub fn body_length(field: [u8; LENGTH_BYTES]) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_le_bytes(field)).unwrap_or(usize::MAX);
    match length <= MAX_FRAME {
        true => Ok(length),
        false => Err(FrameError::TooLong { length }),
    }
}

/// Reads one frame body; trailing bytes are refused.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLong { length: body.len() });
    }
    match postcard::take_from_bytes(body) {
        Ok((frame, [])) => Ok(frame),
        Ok((_, rest)) => Err(FrameError::TrailingBytes { count: rest.len() }),
        Err(_) => Err(FrameError::Malformed),
    }
}

/// Takes the first whole frame off the front of `buffer`: its body's range, if it has arrived.
pub fn next_body(buffer: &[u8]) -> Result<Option<std::ops::Range<usize>>, FrameError> {
    let Some(field) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let end = LENGTH_BYTES + body_length(*field)?;
    Ok((buffer.len() >= end).then_some(LENGTH_BYTES..end))
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than anybody may send.
    #[error("frame of {length} bytes exceeds the limit of {MAX_FRAME}")]
    TooLong {
        /// What was announced or encoded.
        length: usize,
    },
    /// Not the frame that was expected here.
    #[error("malformed frame")]
    Malformed,
    /// A frame, and then something else inside its length.
    #[error("{count} bytes after the end of the frame")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Ours to fix: a value that postcard cannot write.
    #[error("frame cannot be encoded")]
    Unencodable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_nothing_may_follow_it() {
        let mut bytes = Vec::new();
        encode(&(7u32, "hello"), &mut bytes).expect("short");

        let body = next_body(&bytes).expect("bounded").expect("whole");
        assert_eq!(
            decode::<(u32, String)>(&bytes[body.clone()]),
            Ok((7, "hello".into()))
        );
        let mut long = bytes[body].to_vec();
        long.push(0);
        assert_eq!(
            decode::<(u32, String)>(&long),
            Err(FrameError::TrailingBytes { count: 1 })
        );
        assert_eq!(next_body(&bytes[..bytes.len() - 1]), Ok(None));
        assert!(next_body(&u32::MAX.to_le_bytes()).is_err());
    }
}
