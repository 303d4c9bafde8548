//! An agent that speaks the local API itself: HTTP on the node's unix socket, one connection, its
//! own token. For tests that send more than a command line can.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// One connection of one agent. It connects again by itself; a call that broke off is an error,
/// and whether it was done is not known.
pub struct AgentClient {
    socket: PathBuf,
    token: String,
    connection: Option<BufReader<UnixStream>>,
}

impl AgentClient {
    /// For the agent with this token, on the node with this state directory.
    pub fn new(state: &Path, token: &str) -> Self {
        Self {
            socket: state.join("api.sock"),
            token: token.into(),
            connection: None,
        }
    }

    /// Sends a message; `Ok` with the answer once the node has accepted or refused it.
    pub fn send(&mut self, to: &str, id: &str, body: &str) -> Result<(u16, Value)> {
        self.call(
            "POST",
            "/v1/send",
            Some(&json!({"to": to, "id": id, "body": body})),
        )
    }

    /// What waits, or comes within these seconds.
    pub fn receive(&mut self, wait_s: u32) -> Result<Vec<Value>> {
        let (status, answer) =
            self.call("GET", &format!("/v1/messages?wait={wait_s}&max=100"), None)?;
        match (status, answer["messages"].as_array()) {
            (200, Some(messages)) => Ok(messages.clone()),
            _ => Err(Error::other(format!("{status}: {answer}"))),
        }
    }

    /// Settles these: the ids that are settled by it, and those that the node no longer has.
    pub fn ack(&mut self, ids: &[String]) -> Result<(Vec<String>, Vec<String>)> {
        let (status, answer) =
            self.call("POST", "/v1/messages/ack", Some(&json!({ "ids": ids })))?;
        let results = answer["results"].as_array().filter(|_| status == 200);
        let results = results.ok_or_else(|| Error::other(format!("{status}: {answer}")))?;
        if let Some(refused) = results
            .iter()
            .find(|result| result.get("error").is_some() && result["error"]["code"] != "not_found")
        {
            return Err(Error::other(refused.to_string()));
        }
        let id = |result: &Value| result["id"].as_str().unwrap_or_default().to_owned();
        let (done, gone): (Vec<&Value>, Vec<&Value>) = results
            .iter()
            .partition(|result| result.get("error").is_none());
        Ok((
            done.into_iter().map(id).collect(),
            gone.into_iter().map(id).collect(),
        ))
    }

    /// One call: the status, and the JSON of the answer.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let answer = self.try_call(method, path, body);
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    fn try_call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                self.connection.insert(BufReader::new(stream))
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let status = line(connection)?
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let mut length = 0;
        loop {
            let header = line(connection)?.to_ascii_lowercase();
            match header.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
                Some(_) => {}
                None => break,
            }
        }
        let mut text = vec![0; length];
        connection.read_exact(&mut text)?;
        let status = status.ok_or(Error::from(ErrorKind::InvalidData))?;
        Ok((status, serde_json::from_slice(&text)?))
    }
}

/// A new UUIDv7 (RFC 9562): this millisecond, then a number that no other of this process has.
pub fn message_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let time = format!("{millis:012x}");
    format!(
        "{}-{}-7000-8000-{:04x}{count:08x}",
        &time[..8],
        &time[8..12],
        std::process::id() & 0xffff
    )
}

fn line(connection: &mut BufReader<UnixStream>) -> Result<String> {
    let mut line = String::new();
    match connection.read_line(&mut line)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// The longest wait of a receive, and room for a host that is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
