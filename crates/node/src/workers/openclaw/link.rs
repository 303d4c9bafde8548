//! A connection to the gateway: the handshake, requests, and what comes back.
//!
//! The gateway speaks first. Everything is JSON in text frames; whatever this file does not know is
//! passed over, for a gateway says much that is not for us: events of every session.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::super::WorkError;
use super::Gateway;

/// An open connection, as an operator who may write.
pub(super) struct Link {
    socket: WebSocketStream<TcpStream>,
    requests: u64,
    /// Whether the gateway may have begun to work.
    begun: bool,
}

/// What the gateway says.
pub(super) enum Heard {
    /// To the request with this id. There may be more than one.
    Response(String, Result<Value, Fault>),
    /// Unasked.
    Event(String, Value),
}

/// What a gateway says is wrong, without its words.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: String,
    detail: String,
    pub(super) retryable: bool,
    /// It is not the request: who asks may not.
    pub(super) is_forbidden: bool,
    after: Option<Duration>,
}

impl Link {
    pub(super) async fn open(gateway: &Gateway) -> Result<Self, WorkError> {
        match tokio::time::timeout(OPEN_WITHIN, Self::shake_hands(gateway)).await {
            Ok(opened) => opened,
            Err(_) => Err(WorkError::unreachable("the gateway does not answer")),
        }
    }

    async fn shake_hands(gateway: &Gateway) -> Result<Self, WorkError> {
        let stream = connect(&gateway.addresses).await?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let (socket, _) = client_async_with_config(&*gateway.uri, stream, Some(config))
            .await
            .map_err(|_| WorkError::unreachable("no WebSocket is there: is it the right port?"))?;
        let mut link = Self {
            socket,
            requests: 0,
            begun: false,
        };
        while !matches!(link.hear().await?, Heard::Event(name, _) if name == "connect.challenge") {}
        let mut params = json!({
            "minProtocol": PROTOCOLS.0,
            "maxProtocol": PROTOCOLS.1,
            // Names of ours are not among those that it takes.
            "client": {"id": "gateway-client", "version": env!("CARGO_PKG_VERSION"),
                "platform": std::env::consts::OS, "mode": "backend"},
            "role": "operator",
            "scopes": [SCOPE],
            "caps": [],
            "userAgent": concat!("crabmesh/", env!("CARGO_PKG_VERSION")),
        });
        if let Some(token) = &gateway.token {
            params["auth"] = json!({"token": token.reveal()});
        }
        let id = link.ask("connect", params).await?;
        let hello = link
            .response(&id)
            .await?
            .map_err(|fault| fault.of_connect())?;
        // One that narrows them says so; one that does not say gave what was asked for.
        let scopes = hello["auth"]["scopes"].as_array();
        let may_write = scopes.is_none_or(|scopes| scopes.iter().any(|scope| scope == SCOPE));
        if !may_write {
            return Err(WorkError::unreachable(
                "the gateway lets us in, but not write; hint: is its port reached through a proxy?",
            ));
        }
        Ok(link)
    }

    /// Sends a request and returns its id.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<String, WorkError> {
        self.requests += 1;
        let id = self.requests.to_string();
        let request = json!({"type": "req", "id": id, "method": method, "params": params});
        self.begun |= method == "agent";
        match self.socket.send(Message::text(request.to_string())).await {
            Ok(()) => Ok(id),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The next thing that the gateway says and we know.
    pub(super) async fn hear(&mut self) -> Result<Heard, WorkError> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => return Err(self.closed(frame.as_ref())),
                Some(Ok(Message::Binary(_))) => return Err(self.nonsense()),
                // Answered by the library.
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.broken(&error)),
                None => return Err(self.closed(None)),
            };
            let Ok(Value::Object(mut frame)) = serde_json::from_str(text.as_str()) else {
                return Err(self.nonsense());
            };
            let mut take = |name: &str| frame.remove(name).unwrap_or_default();
            match (take("type").as_str(), take("id"), take("event")) {
                (Some("event"), _, Value::String(name)) => {
                    return Ok(Heard::Event(name, take("payload")));
                }
                (Some("res"), Value::String(id), _) => {
                    let response = match take("ok") == true {
                        true => Ok(take("payload")),
                        false => Err(Fault::read(&take("error"))),
                    };
                    return Ok(Heard::Response(id, response));
                }
                _ => {}
            }
        }
    }

    /// The response to a request that has one.
    pub(super) async fn response(&mut self, id: &str) -> Result<Result<Value, Fault>, WorkError> {
        loop {
            match self.hear().await? {
                Heard::Response(its, response) if its == id => return Ok(response),
                _ => {}
            }
        }
    }

    /// Says goodbye, and does not wait for the answer.
    pub(super) async fn close(mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        // It is over either way.
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.socket.close(Some(frame))).await;
    }

    fn closed(&self, frame: Option<&CloseFrame>) -> WorkError {
        match frame.map(|frame| u16::from(frame.code)) {
            Some(1012) => WorkError::unreachable("the gateway restarts"),
            Some(1013) => WorkError::unreachable("the gateway is busy"),
            Some(1008) => self.lost("the gateway does not let us in: its policy"),
            Some(1009) => WorkError::never("the message is too long for the gateway"),
            _ => self.lost("the gateway closed the connection"),
        }
    }

    fn broken(&self, error: &Error) -> WorkError {
        match error {
            Error::Capacity(_) => {
                let most = MAX_FRAME >> 20;
                self.lost(&format!("the gateway sends more than {most} MiB at once"))
            }
            Error::Protocol(_) | Error::Utf8(_) => self.nonsense(),
            _ => self.lost("the connection to the gateway broke"),
        }
    }

    fn nonsense(&self) -> WorkError {
        self.lost("what answers does not speak as an OpenClaw gateway does")
    }

    /// What breaks after the work began is tried a few times only: the message may be what breaks it.
    fn lost(&self, why: &str) -> WorkError {
        match self.begun {
            true => WorkError::failed(why),
            false => WorkError::unreachable(why),
        }
    }
}

impl Fault {
    fn read(error: &Value) -> Self {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (code, detail) = (word(&error["code"]), word(&error["details"]["code"]));
        // Gateways before 2026.5 say so in words alone.
        let in_words = error["message"].as_str().unwrap_or_default();
        Self {
            is_forbidden: code == "FORBIDDEN"
                || detail == "MISSING_SCOPE"
                || in_words.starts_with("missing scope"),
            code,
            detail,
            retryable: error["retryable"] == true,
            after: error["retryAfterMs"].as_u64().map(Duration::from_millis),
        }
    }

    /// Not now.
    pub(super) fn unavailable(self) -> WorkError {
        WorkError::Unreachable {
            why: "the gateway is not ready".into(),
            after: self.after,
        }
    }

    /// What keeps us out: for the admin to set right, and no message's fault.
    fn of_connect(self) -> WorkError {
        if self.retryable || self.code == "UNAVAILABLE" {
            return self.unavailable();
        }
        let why = match (&*self.detail, &*self.code) {
            ("AUTH_RATE_LIMITED", _) => "the gateway saw too many wrong tokens, and waits",
            ("AUTH_TOKEN_MISSING" | "AUTH_PASSWORD_MISSING", _) => {
                "the gateway wants its token; hint: `crabmesh agent set` with --secret-file"
            }
            (detail, _) if detail.starts_with("AUTH_") => {
                "the gateway refuses the token; hint: `crabmesh agent set` with the one of gateway.auth"
            }
            ("PROTOCOL_MISMATCH", _) | (_, "PROTOCOL_MISMATCH") => {
                "the gateway speaks a version of its protocol that this crabmesh does not; hint: update one of them"
            }
            ("PAIRING_REQUIRED", _) | (_, "NOT_PAIRED") => {
                "the gateway takes us for another host; hint: give its own port, without a proxy"
            }
            _ => "the gateway does not let us in; hint: its log says why",
        };
        WorkError::Unreachable {
            why: why.into(),
            // It counts wrong tokens, and shuts out who brings many.
            after: Some(REFUSED_AGAIN),
        }
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, WorkError> {
    for address in addresses {
        if let Ok(stream) = TcpStream::connect(address).await {
            // Without it small frames only wait longer.
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err(WorkError::unreachable(
        "connection refused: no gateway is there",
    ))
}

/// What starts turns, and reads. With `operator.admin` a turn could be the owner's.
const SCOPE: &str = "operator.write";

/// The versions of the protocol whose words these are.
const PROTOCOLS: (u32, u32) = (3, 4);

/// The longest frame that is read. An answer has 256 KiB at most; what is said beside it of a turn
/// took 7 KiB, and events of other sessions may be longer.
const MAX_FRAME: usize = 4 << 20;

/// A gateway that starts holds connections for some seconds.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
const CLOSE_WITHIN: Duration = Duration::from_millis(200);
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
