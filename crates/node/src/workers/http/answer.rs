//! What comes back: read within the bound of a message, piece by piece where pieces are wanted.

use bytes::BytesMut;
use reqwest::Response;
use reqwest::header;
use wire::message::{MAX_BODY, MAX_CONTENT_TYPE};

use super::Http;
use crate::workers::{Done, Part, Parts, WorkError};

impl Http {
    pub(super) async fn answer(
        &self,
        mut response: Response,
        mut parts: Parts,
    ) -> Result<Done, WorkError> {
        let content_type = content_type(&response);
        if response
            .content_length()
            .is_some_and(|length| length > MAX_BODY as u64)
        {
            return Err(too_large());
        }
        let mut events = content_type.starts_with(EVENTS).then(Events::default);
        let is_text = content_type.starts_with("text/");
        let (mut body, mut told, mut read) = (BytesMut::new(), 0, 0);
        while let Some(chunk) = response.chunk().await.map_err(|error| self.fault(&error))? {
            read += chunk.len();
            // An event stream has more around its text than the text is.
            if read > MAX_BODY * if events.is_some() { 16 } else { 1 } {
                return Err(too_large());
            }
            match &mut events {
                Some(events) => events.read(&chunk, &mut body),
                None => body.extend_from_slice(&chunk),
            }
            if body.len() > MAX_BODY {
                return Err(too_large());
            }
            if parts.wanted() && is_text {
                let fresh = whole_characters(&body[told..]);
                if !fresh.is_empty() {
                    let fresh = fresh.to_owned();
                    told += fresh.len();
                    parts.put(Part::Text(fresh)).await;
                }
            }
        }
        let content_type = match events {
            Some(_) => "text/plain; charset=utf-8".to_owned(),
            None => content_type,
        };
        Ok(Done {
            content_type,
            body: body.freeze(),
        })
    }
}

/// Reads `text/event-stream`: the `data` of all events, one after the other, is the answer.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    /// This event has had a line of data: the next one is a line of its own.
    has_data: bool,
    after_cr: bool,
}

impl Events {
    pub(super) fn read(&mut self, chunk: &[u8], text: &mut BytesMut) {
        for byte in chunk {
            let follows_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    self.end_line(text);
                }
                _ if self.line.len() <= MAX_BODY + FIELD_MAX => self.line.push(*byte),
                // Longer than any answer; the bound of what is read ends it.
                _ => {}
            }
        }
    }

    fn end_line(&mut self, text: &mut BytesMut) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.has_data = false;
        } else if let Some(data) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.has_data, true) {
                text.extend_from_slice(b"\n");
            }
            text.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
    }
}

/// As much as is whole: a character may be cut by the end of a chunk.
fn whole_characters(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// The answer's own, where a message can carry it.
fn content_type(response: &Response) -> String {
    let fits = |text: &&str| {
        (1..=MAX_CONTENT_TYPE).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    match response.headers().get(header::CONTENT_TYPE) {
        Some(named) => {
            let named = named.to_str().ok().filter(fits);
            named.unwrap_or("application/octet-stream")
        }
        None => "text/plain; charset=utf-8",
    }
    .to_owned()
}

fn too_large() -> WorkError {
    WorkError::never(format!("its answer is larger than {MAX_BODY} bytes"))
}

const EVENTS: &str = "text/event-stream";
/// `data: `
const FIELD_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream =
            b": hello\nevent: token\nid: 1\ndata: Vier\r\n\r\ndata:  und\ndata: zwei\r\rdata:!\n\n";
        for cut in 0..stream.len() {
            let (mut events, mut text) = (Events::default(), BytesMut::new());
            events.read(&stream[..cut], &mut text);
            events.read(&stream[cut..], &mut text);
            assert_eq!(&*text, b"Vier und\nzwei!", "cut at {cut}");
        }
    }

    #[test]
    fn a_character_is_told_when_it_is_whole() {
        let bytes = "aß".as_bytes();
        assert_eq!(whole_characters(&bytes[..2]), "a");
        assert_eq!(whole_characters(bytes), "aß");
    }
}
