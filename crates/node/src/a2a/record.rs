//! One task as it is kept, and as it is shown.

use std::time::Duration;

use ::api::a2a::{
    Artifact, Content, Message, Part, Status, Task, TaskState, Version, body_of, parts_of,
};
use ::api::{Failure, Timestamp};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use identity::AgentAddress;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wire::MessageId;
use wire::message::is_conversation;

use crate::messages::{Draft, Origin};

/// One task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The id of the message that carries it.
    pub(crate) id: MessageId,
    /// The life of the agent whose it is.
    pub(crate) owner: [u8; 16],
    /// Whom it asks.
    pub(crate) to: AgentAddress,
    /// Its thread of talk.
    pub(crate) context: String,
    /// What was asked, as its sender wrote it.
    pub(crate) message: Message,
    /// Whether the parts of the answer are wanted as they come, where the policy lets them.
    pub(crate) stream: bool,
    pub(crate) created_ms: u64,
    /// How it ended.
    pub(crate) ending: Option<Ending>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) state: Ended,
    pub(crate) at_ms: u64,
    /// Why, where it is not its answer.
    pub(crate) why: Option<Why>,
    /// The answer.
    pub(crate) reply: Option<Reply>,
}

/// The states that nothing can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Completed,
    Failed,
    Canceled,
    Rejected,
}

/// A [`Failure`] as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Why {
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
    pub(crate) missing_grant: Option<String>,
    pub(crate) cause: Option<String>,
    pub(crate) rule: Option<String>,
}

/// What the far agent answered: foreign text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) id: String,
    pub(crate) from: AgentAddress,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

/// What of a record is sealed. A later version appends, and gives the row another format.
#[derive(Serialize, Deserialize)]
struct Row {
    to: AgentAddress,
    context: String,
    message: Vec<u8>,
    stream: bool,
    created_ms: u64,
    ending: Option<Ending>,
}

impl Record {
    /// What is sent for it: the same each time, so that sending again is no second message.
    pub(crate) fn draft(&self, stream: bool) -> Draft {
        let (content_type, body) = body_of(&self.message);
        Draft {
            id: Some(self.id),
            to: self.to.clone(),
            expects_reply: true,
            stream,
            origin: Origin::Unsaid,
            conversation: Some(conversation_of(&self.context)),
            ttl: Some(TTL),
            content_type,
            body: Bytes::from(body),
        }
    }

    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let row = Row {
            to: self.to.clone(),
            context: self.context.clone(),
            message: serde_json::to_vec(&self.message.write(Version::V1)).ok()?,
            stream: self.stream,
            created_ms: self.created_ms,
            ending: self.ending.clone(),
        };
        let mut bytes = vec![FORMAT];
        bytes.extend(postcard::to_allocvec(&row).ok()?);
        Some(bytes)
    }

    pub(crate) fn decode(id: MessageId, owner: [u8; 16], bytes: &[u8]) -> Option<Self> {
        let (format, bytes) = bytes.split_first()?;
        let row: Row = postcard::from_bytes(bytes)
            .ok()
            .filter(|_| *format == FORMAT)?;
        let message = serde_json::from_slice(&row.message).ok()?;
        Some(Self {
            id,
            owner,
            to: row.to,
            context: row.context,
            message: Message::read(&message, Version::V1).ok()?,
            stream: row.stream,
            created_ms: row.created_ms,
            ending: row.ending,
        })
    }

    /// The task, as it ended, or in the state that it has by now.
    pub(crate) fn task(&self, now: (TaskState, u64), history: Option<u32>) -> Task {
        let (state, at_ms) = match &self.ending {
            Some(ending) => (ending.state.into(), ending.at_ms),
            None => now,
        };
        let said = Message {
            context: Some(self.context.clone()),
            task: Some(self.id.to_string()),
            ..self.message.clone()
        };
        Task {
            id: self.id.to_string(),
            context: self.context.clone(),
            status: self.status(state, at_ms),
            artifacts: self.artifact().into_iter().collect(),
            history: match history {
                Some(0) => Vec::new(),
                _ => vec![said],
            },
        }
    }

    /// How it stands.
    pub(crate) fn status(&self, state: TaskState, at_ms: u64) -> Status {
        let why = self.ending.as_ref().and_then(|ending| ending.why.as_ref());
        Status {
            state,
            message: why.map(|why| Message {
                context: Some(self.context.clone()),
                task: Some(self.id.to_string()),
                ..Message::of_agent(format!("{}-status", self.id), why.parts())
            }),
            at: Some(Timestamp(at_ms)),
        }
    }

    /// The answer.
    pub(crate) fn artifact(&self) -> Option<Artifact> {
        let reply = self.ending.as_ref()?.reply.as_ref()?;
        let (parts, inner) = parts_of(&reply.content_type, &reply.body);
        let mut metadata = inner.unwrap_or_default();
        // Set last: who answered is this gateway's word, not the answer's.
        let from = json!({"from": reply.from, "message": reply.id, "foreign": true});
        metadata.insert("crabmesh".into(), from);
        Some(Artifact {
            metadata: Some(metadata),
            ..self.partial(parts)
        })
    }

    /// What there is of the answer while it comes.
    pub(crate) fn partial(&self, parts: Vec<Part>) -> Artifact {
        Artifact {
            id: ARTIFACT.into(),
            name: Some("reply".into()),
            parts,
            metadata: None,
        }
    }

    /// From when on nothing more can come of it.
    pub(crate) fn expires_ms(&self) -> u64 {
        let ttl = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
        self.created_ms.saturating_add(ttl)
    }
}

impl Ending {
    pub(crate) fn of(state: Ended, at_ms: u64, why: Option<Failure>) -> Self {
        Self {
            state,
            at_ms,
            why: why.map(Why::from),
            reply: None,
        }
    }
}

impl Why {
    /// For a person or a model, and for a program.
    fn parts(&self) -> Vec<Part> {
        let mut text = self.reason.clone();
        if let Some(grant) = &self.missing_grant {
            text = format!(
                "{text}. What is missing in the policy: {grant}. Whoever keeps the policy of this mesh can add it."
            );
        }
        if let Some(hint) = &self.hint {
            text = format!("{text}; hint: {hint}");
        }
        let data = Failure::from(self.clone());
        let data = serde_json::to_value(data).unwrap_or_default();
        vec![Part::text(text), Part::of(Content::Data(data))]
    }
}

impl From<Failure> for Why {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code,
            reason: failure.reason,
            hint: failure.hint,
            missing_grant: failure.missing_grant.map(Into::into),
            cause: failure.cause.map(Into::into),
            rule: failure.rule.map(Into::into),
        }
    }
}

impl From<Why> for Failure {
    fn from(why: Why) -> Self {
        Self {
            code: why.code,
            reason: why.reason,
            hint: why.hint,
            missing_grant: why.missing_grant.map(Into::into),
            cause: why.cause.map(Into::into),
            rule: why.rule.map(Into::into),
        }
    }
}

impl From<Ended> for TaskState {
    fn from(state: Ended) -> Self {
        match state {
            Ended::Completed => Self::Completed,
            Ended::Failed => Self::Failed,
            Ended::Canceled => Self::Canceled,
            Ended::Rejected => Self::Rejected,
        }
    }
}

/// The conversation of a thread of talk: its own name, where the mesh can carry that.
fn conversation_of(context: &str) -> String {
    match is_conversation(context) {
        true => context.to_owned(),
        false => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, context.as_bytes());
            format!("a2a.{}", HEXLOWER.encode(&digest.as_ref()[..16]))
        }
    }
}

/// How long the far agent has to answer.
pub(crate) const TTL: Duration = router::limits::DEFAULT_TTL;

const ARTIFACT: &str = "reply";
const FORMAT: u8 = 1;
