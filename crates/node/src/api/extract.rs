//! From a call to typed arguments: who asks, and what, with errors that name the fault.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;
use wire::MessageId;

use super::Shared;
use super::gate::Caller;
use super::refused::Refused;
use crate::agents::Agent;

/// The agent that asks, or that the admin acts for.
pub(super) struct AsAgent(pub(super) Arc<Agent>);

/// The admin.
pub(super) struct AsAdmin {
    pub(super) uid: u32,
}

/// Whoever asks.
pub(super) struct Anyone(pub(super) Caller);

/// A JSON body; an absent one is an empty object.
pub(super) struct Json<T>(pub(super) T);

/// The query.
pub(super) struct Query<T>(pub(super) T);

impl FromRequestParts<Arc<Shared>> for Anyone {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Refused> {
        // Only the gate puts a caller there; a call without one is nobody's.
        parts
            .extensions
            .remove::<Caller>()
            .map(Self)
            .ok_or_else(Refused::unauthorized)
    }
}

impl FromRequestParts<Arc<Shared>> for AsAgent {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        let Anyone(caller) = Anyone::from_request_parts(parts, shared).await?;
        Self::of(&caller)
    }
}

impl AsAgent {
    pub(super) fn of(caller: &Caller) -> Result<Self, Refused> {
        match caller.agent() {
            Some(agent) => Ok(Self(agent.clone())),
            None => Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "agent_missing",
                "the admin acts for a local agent: name it in X-Crabmesh-Agent",
            )),
        }
    }
}

impl FromRequestParts<Arc<Shared>> for AsAdmin {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        match Anyone::from_request_parts(parts, shared).await?.0 {
            Caller::Admin { uid, .. } => Ok(Self { uid }),
            Caller::Agent(_) => Err(Refused::forbidden(
                "admin_only",
                "this is for the node's admin, on its socket",
            )),
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Json<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refused> {
        match Bytes::from_request(request, shared).await {
            Ok(bytes) => Self::read(&bytes),
            Err(rejection) => Err(match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                _ => ended_early(),
            }),
        }
    }
}

impl<T: DeserializeOwned> Json<T> {
    /// The same without axum, for the verbs that go past it.
    pub(super) async fn of(body: Incoming) -> Result<Self, Refused> {
        Self::read(&whole_body(body).await?)
    }

    fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| Refused::schema(error.to_string()))
    }
}

/// A body, as long as any may be.
pub(super) async fn whole_body<B>(body: B) -> Result<Bytes, Refused>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, REQUEST_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ended_early()),
    }
}

fn too_large() -> Refused {
    Refused::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        "the request is larger than any message can be",
    )
}

fn ended_early() -> Refused {
    Refused::schema("the request ended before its body did")
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Shared>> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Refused> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refused::schema(rejection.body_text())),
        }
    }
}

/// The largest body with every byte of it escaped as `\u00XX`, and room for the other fields.
pub(super) const REQUEST_MAX: usize = 6 * wire::message::MAX_BODY + (64 << 10);

/// A message id in a path or a body.
pub(super) fn message_id(text: &str) -> Result<MessageId, Refused> {
    text.parse()
        .map_err(|error: wire::message::ParseMessageIdError| Refused::schema(error.to_string()))
}
