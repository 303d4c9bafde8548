//! Why a call of the protocol was not done: its codes, its HTTP statuses, its reasons.

use serde_json::{Map, Value, json};

use super::Wrong;
use crate::Failure;

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which of the protocol's errors it is.
    pub kind: ProblemKind,
    /// One sentence that names the culprit.
    pub message: String,
    /// What a program may want of it: our own code, a hint, a missing grant.
    pub details: Map<String, Value>,
}

/// The errors of the protocol, and those of JSON-RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Not JSON.
    Parse,
    /// JSON, and no request.
    InvalidRequest,
    /// No such method.
    MethodNotFound,
    /// The request's parameters.
    InvalidParams,
    /// This gateway's own trouble.
    Internal,
    /// No such task of this agent at this endpoint.
    TaskNotFound,
    /// The task has ended, or nothing can take it back.
    TaskNotCancelable,
    /// This server does not push.
    PushNotificationNotSupported,
    /// This server does not do that.
    UnsupportedOperation,
    /// The far agent's answer makes no sense.
    InvalidAgentResponse,
    /// Another version of the protocol.
    VersionNotSupported,
}

impl Problem {
    /// A problem in a sentence.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: Map::new(),
        }
    }

    /// The parameters are wrong.
    pub fn params(wrong: &Wrong) -> Self {
        let mut problem = Self::new(ProblemKind::InvalidParams, wrong.to_string());
        if !wrong.path().is_empty() {
            problem.details.insert("field".into(), wrong.path().into());
        }
        problem
    }

    /// There is no such task for whoever asks.
    pub fn task_not_found() -> Self {
        Self::new(
            ProblemKind::TaskNotFound,
            "no task of this agent has this id at this endpoint",
        )
    }

    /// What this gateway refuses, with its code and its way out.
    pub fn of_failure(kind: ProblemKind, failure: &Failure) -> Self {
        let mut message = failure.reason.clone();
        if let Some(hint) = &failure.hint {
            message = format!("{message}; hint: {hint}");
        }
        // A failure is a flat object of texts.
        let details = match serde_json::to_value(failure) {
            Ok(Value::Object(details)) => details,
            _ => Map::new(),
        };
        Self {
            kind,
            message,
            details,
        }
    }

    /// The `error` of a JSON-RPC response.
    pub fn rpc(&self) -> Value {
        json!({"code": self.kind.code(), "message": self.message, "data": [self.info()]})
    }

    /// The body of an answer of the HTTP binding, a `google.rpc.Status`.
    pub fn http(&self) -> Value {
        json!({"error": {
            "code": self.kind.http_status(),
            "status": self.kind.status(),
            "message": self.message,
            "details": [self.info()],
        }})
    }

    fn info(&self) -> Value {
        json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": self.kind.reason(),
            "domain": "a2a-protocol.org",
            "metadata": self.details,
        })
    }
}

impl ProblemKind {
    /// Its code in JSON-RPC.
    pub fn code(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::TaskNotFound => -32001,
            Self::TaskNotCancelable => -32002,
            Self::PushNotificationNotSupported => -32003,
            Self::UnsupportedOperation => -32004,
            Self::InvalidAgentResponse => -32006,
            Self::VersionNotSupported => -32009,
        }
    }

    /// The kind of a code.
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| i64::from(kind.code()) == code)
    }

    /// Its status in the HTTP binding.
    pub fn http_status(self) -> u16 {
        match self {
            Self::TaskNotFound | Self::MethodNotFound => 404,
            Self::Internal | Self::InvalidAgentResponse => 500,
            _ => 400,
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::TaskNotFound | Self::MethodNotFound => "NOT_FOUND",
            Self::Internal | Self::InvalidAgentResponse => "INTERNAL",
            Self::Parse | Self::InvalidRequest | Self::InvalidParams => "INVALID_ARGUMENT",
            _ => "FAILED_PRECONDITION",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Parse => "PARSE_ERROR",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MethodNotFound => "METHOD_NOT_FOUND",
            Self::InvalidParams => "INVALID_PARAMS",
            Self::Internal => "INTERNAL_ERROR",
            Self::TaskNotFound => "TASK_NOT_FOUND",
            Self::TaskNotCancelable => "TASK_NOT_CANCELABLE",
            Self::PushNotificationNotSupported => "PUSH_NOTIFICATION_NOT_SUPPORTED",
            Self::UnsupportedOperation => "UNSUPPORTED_OPERATION",
            Self::InvalidAgentResponse => "INVALID_AGENT_RESPONSE",
            Self::VersionNotSupported => "VERSION_NOT_SUPPORTED",
        }
    }

    const ALL: [Self; 11] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::TaskNotFound,
        Self::TaskNotCancelable,
        Self::PushNotificationNotSupported,
        Self::UnsupportedOperation,
        Self::InvalidAgentResponse,
        Self::VersionNotSupported,
    ];
}
