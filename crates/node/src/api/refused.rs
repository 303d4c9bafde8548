//! Refusals: one status, one failure, and the message's id and state where there is a message.

use api::{ErrorAnswer, Failure, SendAnswer, State};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use wire::MessageId;

use crate::agents::AgentsError;
use crate::messages::SendError;

/// Why a call was not done.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    /// In a box, as every call may end so.
    failure: Box<Failure>,
    message: Option<(MessageId, State)>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &str, reason: impl Into<String>) -> Self {
        Self {
            status,
            failure: Box::new(Failure::new(code, reason)),
            message: None,
        }
    }

    /// Nobody that this node knows, and not a word about what is here.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a valid token is needed in Authorization: Bearer",
        )
    }

    pub(super) fn forbidden(code: &str, reason: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, reason)
    }

    pub(super) fn schema(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "schema", reason)
    }

    pub(super) fn unknown_agent(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_agent", reason)
    }

    pub(super) fn from_failure(failure: Failure) -> Self {
        Self {
            status: status_of(&failure.code),
            failure: Box::new(failure),
            message: None,
        }
    }

    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.failure.hint = Some(hint.to_owned());
        self
    }

    /// A message that was never accepted.
    pub(super) fn of_message(id: MessageId, error: &SendError) -> Self {
        let refused = Self::from(error);
        let state = match refused.failure.code.as_str() {
            "denied" | router::BLOCKED => State::Denied,
            "expired" => State::Expired,
            _ => State::Failed,
        };
        Self {
            message: Some((id, state)),
            ..refused
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What the message came to, where the refusal is of one.
    pub(super) fn into_answer(self) -> Option<SendAnswer> {
        let (id, state) = self.message?;
        Some(SendAnswer {
            id: id.to_string(),
            state,
            reply: None,
            error: Some(*self.failure),
        })
    }
}

impl From<&SendError> for Refused {
    fn from(error: &SendError) -> Self {
        Self::from_failure(match error {
            SendError::Refused(router::Refusal::Denied(denial)) => denied(error.code(), denial),
            other => Failure::new(error.code(), other.to_string()),
        })
    }
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        Self::from(&error)
    }
}

impl From<router::Refusal> for Refused {
    fn from(refusal: router::Refusal) -> Self {
        Self::from(&SendError::Refused(refusal))
    }
}

impl From<AgentsError> for Refused {
    fn from(error: AgentsError) -> Self {
        let (status, code) = match &error {
            AgentsError::Exists(_) => (StatusCode::CONFLICT, "exists"),
            AgentsError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_agent"),
            AgentsError::TooMany => (StatusCode::CONFLICT, "too_many_agents"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "state"),
        };
        if status.is_server_error() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the agents cannot be kept"
            );
        }
        Self::new(status, code, error.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        *refused.failure
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = match self.message {
            Some((id, state)) => {
                let id = id.to_string();
                json(
                    self.status,
                    &SendAnswer {
                        id,
                        state,
                        reply: None,
                        error: Some(*self.failure),
                    },
                )
            }
            None => json(
                self.status,
                &ErrorAnswer {
                    error: *self.failure,
                },
            ),
        };
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// A denial by this gateway's own policy, which its agents may hear in full.
pub(crate) fn denied(code: &str, denial: &policy::Denial) -> Failure {
    Failure {
        missing_grant: denial.missing_grant.as_deref().map(Into::into),
        cause: Some(router::cause_of(denial).into()),
        rule: denial.rule.as_ref().map(|rule| rule.as_str().into()),
        ..Failure::new(code, denial.reason.clone())
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    // Every type of `api` serialises: no map with odd keys, no number that JSON lacks.
    let bytes = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn status_of(code: &str) -> StatusCode {
    match code {
        "denied" | "no_policy" | router::BLOCKED => StatusCode::FORBIDDEN,
        "unknown_gateway" | "unknown_agent" | "not_found" => StatusCode::NOT_FOUND,
        "conflict" | "no_open_request" | "loop" | "cancelled" | "not_wanted" | "gap" | "stale"
        | "ended" => StatusCode::CONFLICT,
        "expired" => StatusCode::GONE,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "outbox_full" | "too_many_requests" | "too_many_streams" => StatusCode::TOO_MANY_REQUESTS,
        "store_full" | "store" => StatusCode::INSUFFICIENT_STORAGE,
        "stopping" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}
