//! A task: what became of a message, and what is told as it changes.

use serde_json::{Map, Value, json};

use super::Version;
use super::fields::{Object, Wrong};
use super::message::{MAX_ID, MAX_PARTS, Message, Part, insert_map};
use crate::Timestamp;

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id, made by the server.
    pub id: String,
    /// Which thread of talk it belongs to.
    pub context: String,
    /// How it stands.
    pub status: Status,
    /// What came of it.
    pub artifacts: Vec<Artifact>,
    /// What was said, oldest first.
    pub history: Vec<Message>,
}

/// How a task stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// In a word.
    pub state: TaskState,
    /// In a sentence.
    pub message: Option<Message>,
    /// Since when.
    pub at: Option<Timestamp>,
}

/// How a task stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Taken, and not yet with the agent.
    Submitted,
    /// The agent has it.
    Working,
    /// It waits for more input.
    InputRequired,
    /// It waits for somebody to log in.
    AuthRequired,
    /// Done.
    Completed,
    /// Given up.
    Failed,
    /// Taken back.
    Canceled,
    /// Not taken.
    Rejected,
    /// In a word that is not known here.
    Unknown,
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Its id within the task.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// Beside it, for extensions.
    pub metadata: Option<Map<String, Value>>,
}

/// What is told to whoever follows a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All of it, first.
    Task(Task),
    /// An answer without a task.
    Message(Message),
    /// Its status changed.
    Status {
        /// The task.
        task: String,
        /// Its thread of talk.
        context: String,
        /// The new one.
        status: Status,
    },
    /// More of what comes of it.
    Artifact {
        /// The task.
        task: String,
        /// Its thread of talk.
        context: String,
        /// What there is.
        artifact: Artifact,
        /// Its parts follow those that were told before, and do not replace them.
        append: bool,
        /// No more of it will come.
        last: bool,
    },
}

/// One page of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskList {
    /// The newest first.
    pub tasks: Vec<Task>,
    /// Where the next page begins; empty at the end.
    pub next: String,
    /// How many a page has at most.
    pub page_size: u32,
    /// How many there are in all.
    pub total: usize,
}

impl TaskState {
    /// Whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Canceled | Self::Rejected
        )
    }

    /// The state of a word, in either version.
    pub fn of_word(word: &str) -> Option<Self> {
        let found = Self::WORDS
            .iter()
            .find(|(_, v1, v03)| *v1 == word || *v03 == word);
        found.map(|(state, ..)| *state)
    }

    /// Its word.
    pub fn word(self, version: Version) -> &'static str {
        let found = Self::WORDS.iter().find(|(state, ..)| *state == self);
        match (found, version) {
            (Some((_, v1, _)), Version::V1) => v1,
            (Some((_, _, v03)), Version::V03) => v03,
            (None, _) => "",
        }
    }

    const WORDS: [(Self, &'static str, &'static str); 9] = [
        (Self::Submitted, "TASK_STATE_SUBMITTED", "submitted"),
        (Self::Working, "TASK_STATE_WORKING", "working"),
        (
            Self::InputRequired,
            "TASK_STATE_INPUT_REQUIRED",
            "input-required",
        ),
        (
            Self::AuthRequired,
            "TASK_STATE_AUTH_REQUIRED",
            "auth-required",
        ),
        (Self::Completed, "TASK_STATE_COMPLETED", "completed"),
        (Self::Failed, "TASK_STATE_FAILED", "failed"),
        (Self::Canceled, "TASK_STATE_CANCELED", "canceled"),
        (Self::Rejected, "TASK_STATE_REJECTED", "rejected"),
        (Self::Unknown, "TASK_STATE_UNSPECIFIED", "unknown"),
    ];
}

impl Status {
    fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        let state = object.text("state")?;
        Ok(Self {
            state: state
                .and_then(TaskState::of_word)
                .unwrap_or(TaskState::Unknown),
            message: object.read("message", |it| Message::read(it, version))?,
            at: None,
        })
    }

    fn write(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("state".into(), self.state.word(version).into());
        if let Some(message) = &self.message {
            object.insert("message".into(), message.write(version));
        }
        if let Some(at) = self.at {
            object.insert("timestamp".into(), at.to_string().into());
        }
        Value::Object(object)
    }
}

impl Artifact {
    fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        Ok(Self {
            id: object
                .name("artifactId", MAX_ID)?
                .unwrap_or_default()
                .to_owned(),
            name: object.name("name", MAX_ID)?.map(str::to_owned),
            parts: object.each("parts", MAX_PARTS, |part| Part::read(part, version))?,
            metadata: object.map("metadata")?,
        })
    }

    fn write(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("artifactId".into(), self.id.as_str().into());
        if let Some(name) = &self.name {
            object.insert("name".into(), name.as_str().into());
        }
        let parts = self.parts.iter().map(|part| part.write(version));
        object.insert("parts".into(), parts.collect());
        insert_map(&mut object, "metadata", self.metadata.as_ref());
        Value::Object(object)
    }
}

impl Task {
    /// Reads a task.
    pub fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        let status = object.read("status", |it| Status::read(it, version))?;
        Ok(Self {
            id: object.required("id", MAX_ID)?.to_owned(),
            context: object
                .name("contextId", MAX_ID)?
                .unwrap_or_default()
                .to_owned(),
            status: status.ok_or_else(|| Wrong::here("is missing").within("status"))?,
            artifacts: object.each("artifacts", MAX_PARTS, |it| Artifact::read(it, version))?,
            // Nobody here asks what was said before.
            history: Vec::new(),
        })
    }

    /// In the shape of a version.
    pub fn write(&self, version: Version) -> Value {
        let mut object = Map::new();
        if version == Version::V03 {
            object.insert("kind".into(), "task".into());
        }
        object.insert("id".into(), self.id.as_str().into());
        object.insert("contextId".into(), self.context.as_str().into());
        object.insert("status".into(), self.status.write(version));
        if !self.artifacts.is_empty() {
            let artifacts = self.artifacts.iter().map(|it| it.write(version));
            object.insert("artifacts".into(), artifacts.collect());
        }
        if !self.history.is_empty() {
            let history = self.history.iter().map(|it| it.write(version));
            object.insert("history".into(), history.collect());
        }
        Value::Object(object)
    }
}

impl Event {
    /// Reads what a server answers to a message, or tells of a task.
    pub fn read(value: &Value, version: Version) -> Result<Self, Wrong> {
        let object = Object::of(value)?;
        let member = |name: &str| object.get(name);
        let kind = match version {
            Version::V1 => ["task", "message", "statusUpdate", "artifactUpdate"]
                .into_iter()
                .find_map(|name| member(name).map(|value| (name, value))),
            Version::V03 => match object.text("kind")? {
                Some("task") => Some(("task", value)),
                Some("message") => Some(("message", value)),
                Some("status-update") => Some(("statusUpdate", value)),
                Some("artifact-update") => Some(("artifactUpdate", value)),
                // Servers leave it out.
                None if member("messageId").is_some() => Some(("message", value)),
                None if member("status").is_some() && member("id").is_some() => {
                    Some(("task", value))
                }
                _ => None,
            },
        };
        let Some((kind, value)) = kind else {
            return Err(Wrong::here("is neither a task nor a message"));
        };
        let read = || match kind {
            "task" => Task::read(value, version).map(Self::Task),
            "message" => Message::read(value, version).map(Self::Message),
            _ => Self::read_update(kind, &Object::of(value)?, version),
        };
        read().map_err(|wrong| wrong.within(kind))
    }

    fn read_update(kind: &str, object: &Object<'_>, version: Version) -> Result<Self, Wrong> {
        let task = object.required("taskId", MAX_ID)?.to_owned();
        let context = object
            .name("contextId", MAX_ID)?
            .unwrap_or_default()
            .to_owned();
        if kind == "statusUpdate" {
            let status = object.read("status", |it| Status::read(it, version))?;
            let status = status.ok_or_else(|| Wrong::here("is missing").within("status"))?;
            return Ok(Self::Status {
                task,
                context,
                status,
            });
        }
        let artifact = object.read("artifact", |it| Artifact::read(it, version))?;
        Ok(Self::Artifact {
            task,
            context,
            artifact: artifact.ok_or_else(|| Wrong::here("is missing").within("artifact"))?,
            append: object.flag("append")?.unwrap_or(false),
            last: object.flag("lastChunk")?.unwrap_or(false),
        })
    }

    /// In the shape of a version.
    pub fn write(&self, version: Version) -> Value {
        let (name, kind, mut value) = match self {
            Self::Task(task) => ("task", "task", task.write(version)),
            Self::Message(message) => ("message", "message", message.write(version)),
            Self::Status {
                task,
                context,
                status,
            } => {
                let mut update = json!({
                    "taskId": task,
                    "contextId": context,
                    "status": status.write(version),
                });
                if version == Version::V03 {
                    update["final"] = status.state.is_final().into();
                }
                ("statusUpdate", "status-update", update)
            }
            Self::Artifact {
                task,
                context,
                artifact,
                append,
                last,
            } => {
                let update = json!({
                    "taskId": task,
                    "contextId": context,
                    "artifact": artifact.write(version),
                    "append": append,
                    "lastChunk": last,
                });
                ("artifactUpdate", "artifact-update", update)
            }
        };
        match version {
            Version::V1 => json!({name: value}),
            Version::V03 => {
                value["kind"] = kind.into();
                value
            }
        }
    }
}

impl TaskList {
    /// In the shape of 1.0, which alone has lists.
    pub fn write(&self) -> Value {
        let tasks: Vec<Value> = self.tasks.iter().map(|it| it.write(Version::V1)).collect();
        json!({
            "tasks": tasks,
            "nextPageToken": self.next,
            "pageSize": self.page_size,
            "totalSize": self.total,
        })
    }
}
