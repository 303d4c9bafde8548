//! A caller of the local API that costs as little as a caller can: one request, written again and
//! again. It shares two cores with the gateway that is measured, and is not what is measured.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// One connection, with one request at a time.
pub struct Caller {
    stream: UnixStream,
    request: Zeroizing<Vec<u8>>,
    answer: Vec<u8>,
}

impl Caller {
    /// Connects; `body` is JSON, and what is posted at each call.
    pub async fn connect(
        socket: &Path,
        token: &str,
        path: &str,
        body: &str,
    ) -> Result<Self, Failure> {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: crabmesh\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Ok(Self {
            stream: UnixStream::connect(socket).await?,
            request: Zeroizing::new(request.into_bytes()),
            answer: Vec::with_capacity(1024),
        })
    }

    /// Posts, and gives the body of the answer; an error where it is no success.
    pub async fn call(&mut self) -> Result<&[u8], Failure> {
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(Failure::failed("the gateway hung up"));
            }
            if let Some((head, length)) = head_of(&self.answer)?
                && self.answer.len() >= head + length
            {
                return Ok(&self.answer[head..head + length]);
            }
        }
    }
}

/// How long the head is and how long the body will be, once the head is there.
fn head_of(answer: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end]).unwrap_or_default();
    if !head.starts_with("HTTP/1.1 2") {
        let status = head.lines().next().unwrap_or_default();
        return Err(Failure::failed(format!("the gateway answers {status}")));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let length = length.ok_or_else(|| Failure::failed("an answer without its length"))?;
    Ok(Some((end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(head_of(whole).expect("an answer"), Some((44, 2)));
        assert_eq!(head_of(&whole[..40]).expect("as yet"), None);
        for wrong in [
            "HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(head_of(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
