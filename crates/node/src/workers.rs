//! Workers: agents that the node itself serves, so that a program need not call the API.
//!
//! ```text
//!                     ┌─ Driver of `coder` ──────────────────────────────────────────┐
//! agents.json ─► Supervisor   inbox ─► a lane for each sender ─► Worker::work ─► reply, ack │
//!                     └──────── none of it is kept: the durable inbox is the state ──┘
//! ```
//! A [`Worker`] does one message and knows nothing of inboxes; the driver gives it one message of a
//! sender at a time, again after what may pass, and never after what will not.
//!
//! **Invariants.** A message is acked only after its work succeeded. Replies and failures are handed
//! over as information, and never answered. What a worker or a peer says is in no log.

mod a2a;
mod driver;
pub mod exec;
mod health;
mod http;
mod openclaw;
mod parts;
mod supervisor;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::api::Kind;
use bytes::Bytes;
use identity::AgentAddress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::MessageId;
use zeroize::Zeroizing;

use crate::a2a::Posted;

pub use health::Health;
pub use parts::{Cancelled, Part, Parts};
pub use supervisor::{Supervisor, Workers};

/// Does the work of one agent, one message at a call.
pub trait Worker: Send + Sync + 'static {
    /// Does one message. Dropped where the node stops or the agent is changed, so whatever it
    /// started must end with it. Once `cancelled`, it has five seconds to end by itself.
    fn work<'a>(&'a self, job: &'a Job, parts: Parts, cancelled: Cancelled) -> Working<'a>;

    /// Messages at once. Those of one sender always come one after the other.
    fn concurrency(&self) -> usize;
}

/// A call of [`Worker::work`], boxed for the trait object.
pub type Working<'a> = Pin<Box<dyn Future<Output = Result<Done, WorkError>> + Send + 'a>>;

/// One message to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id: the same at every attempt.
    pub id: MessageId,
    /// What it is. A reply or a failure is for information: what [`Done`] says is not sent.
    pub kind: Kind,
    /// The verified sender; for a failure the one that could not be reached.
    pub from: AgentAddress,
    /// The agent that is served.
    pub to: AgentAddress,
    /// A media type, printable ASCII.
    pub content_type: Box<str>,
    /// From afar, untrusted.
    pub body: Bytes,
    /// Milliseconds since 1970, by the sender's clock.
    pub created_at_ms: u64,
    /// 1 the first time, more when it may have been worked on before.
    pub attempt: u32,
    /// Whether its sender waits for an answer.
    pub reply_expected: bool,
    /// The message that this answers, or that failed.
    pub in_reply_to: Option<MessageId>,
    /// Why that message failed.
    pub error: Option<::api::Failure>,
    /// Which thread of talk it belongs to.
    pub conversation: Option<String>,
    /// The first message of the chain that led to it.
    pub root: MessageId,
    /// How many messages led to it.
    pub depth: u8,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// A media type.
    pub content_type: String,
    /// The answer, where one is expected; at most [`wire::message::MAX_BODY`] bytes.
    pub body: Bytes,
}

/// Why a message was not done. The reasons are shown to the admin, so they are our own words:
/// nothing that a peer or a worker said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// Whoever does the work was not reached, or is not ready: tried until the message expires.
    #[error("{why}")]
    Unreachable {
        /// What is wrong.
        why: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// It was tried, and failed: tried again up to [`router::limits::MAX_ATTEMPTS`] times.
    #[error("{why}")]
    Failed {
        /// What is wrong.
        why: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// It will never be done: its sender is told.
    #[error("{why}")]
    Never {
        /// What is wrong.
        why: String,
    },
}

/// How the node serves an agent, as the registry keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// What was set, and may be shown.
    pub settings: ::api::Worker,
    /// What must not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// What signs, or opens, the way to a worker. In no log and no answer but the one that makes it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// How much of it, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// One message.
    pub timeout: Duration,
    /// Messages at once.
    pub concurrency: usize,
}

/// Why a worker cannot be what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AttachError(pub String);

impl Attached {
    /// Checks what was asked for, and makes the secret that is missing; it is told where the caller
    /// must learn it.
    pub fn new(
        settings: ::api::Worker,
        secret: Option<String>,
    ) -> Result<(Self, Option<Secret>), AttachError> {
        let given = secret.map(|text| Secret(Zeroizing::new(text)));
        let (secret, shown) = match (&settings, given) {
            (::api::Worker::Http { .. }, None) => {
                let made = http::make_secret()?;
                (Some(made.clone()), Some(made))
            }
            (
                ::api::Worker::Http { .. }
                | ::api::Worker::A2a { .. }
                | ::api::Worker::Openclaw { .. },
                given,
            ) => (given, None),
            (_, None) => (None, None),
            (_, Some(_)) => {
                let kind = settings.kind();
                return Err(AttachError(format!("a worker `{kind}` takes no secret")));
            }
        };
        let attached = Self { settings, secret };
        // Whatever would keep it from starting is told now.
        attached.start(None)?;
        Ok((attached, shown))
    }

    /// The same with a secret made anew, where it has one that the node makes.
    pub fn renewed(&self) -> Result<(Self, Option<Secret>), AttachError> {
        match &self.settings {
            ::api::Worker::Http { .. } => Self::new(self.settings.clone(), None),
            _ => Ok((self.clone(), None)),
        }
    }

    /// Makes the worker itself; `posted` where it is to work.
    pub fn start(&self, posted: Option<Posted>) -> Result<Arc<dyn Worker>, AttachError> {
        Ok(match &self.settings {
            ::api::Worker::Http {
                url,
                timeout_s,
                concurrency,
                insecure_http,
            } => {
                let Some(secret) = &self.secret else {
                    return Err(AttachError("its secret is missing".into()));
                };
                let bounds = Bounds::of(*timeout_s, *concurrency, http::CONCURRENCY)?;
                Arc::new(http::Http::new(url, *insecure_http, secret, bounds)?)
            }
            ::api::Worker::Exec {
                command,
                timeout_s,
                concurrency,
            } => {
                let bounds = Bounds::of(*timeout_s, *concurrency, exec::CONCURRENCY)?;
                Arc::new(exec::Exec::new(command, bounds)?)
            }
            ::api::Worker::A2a {
                url,
                timeout_s,
                concurrency,
                insecure_http,
            } => {
                let bounds = Bounds::of(*timeout_s, *concurrency, a2a::CONCURRENCY)?;
                let url = http::read_url(url, *insecure_http)?;
                let bearer = self.secret.as_ref();
                let server = a2a::Server::Any;
                Arc::new(a2a::A2a::new(server, url, bearer, posted, bounds)?)
            }
            ::api::Worker::Openclaw {
                url,
                agent,
                timeout_s,
                concurrency,
            } => {
                let bounds = Bounds::of(*timeout_s, *concurrency, openclaw::CONCURRENCY)?;
                let (agent, secret) = (agent.as_deref(), self.secret.as_ref());
                openclaw::start(url, agent, secret, posted, bounds)?
            }
            other => {
                let kind = other.kind();
                return Err(AttachError(format!("this node has no worker `{kind}`")));
            }
        })
    }
}

impl Bounds {
    /// As set, or as usual.
    pub fn of(
        timeout_s: Option<u64>,
        concurrency: Option<usize>,
        usual: usize,
    ) -> Result<Self, AttachError> {
        let timeout_s = timeout_s.unwrap_or(TIMEOUT_S);
        let concurrency = concurrency.unwrap_or(usual);
        if !(1..=TIMEOUT_MAX_S).contains(&timeout_s) {
            return Err(AttachError(format!(
                "the timeout must be 1 to {TIMEOUT_MAX_S} seconds"
            )));
        }
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return Err(AttachError(format!(
                "the concurrency must be 1 to {CONCURRENCY_MAX}"
            )));
        }
        Ok(Self {
            timeout: Duration::from_secs(timeout_s),
            concurrency,
        })
    }
}

impl Secret {
    /// The secret, to be used or shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl WorkError {
    /// Not reached; there is no word about when.
    pub fn unreachable(why: impl Into<String>) -> Self {
        Self::Unreachable {
            why: why.into(),
            after: None,
        }
    }

    /// Tried and failed; there is no word about when.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed {
            why: why.into(),
            after: None,
        }
    }

    /// For ever.
    pub fn never(why: impl Into<String>) -> Self {
        Self::Never { why: why.into() }
    }
}

impl Done {
    /// Done, and nothing to say.
    pub fn silent() -> Self {
        Self::text(Bytes::new())
    }

    /// An answer in plain text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self {
            content_type: "text/plain; charset=utf-8".into(),
            body: body.into(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Longer than most models take for an answer.
const TIMEOUT_S: u64 = 120;
/// A day: the time that a message lives by itself.
const TIMEOUT_MAX_S: u64 = 24 * 3600;
/// An agent that wants more at once is better split.
const CONCURRENCY_MAX: usize = 64;
