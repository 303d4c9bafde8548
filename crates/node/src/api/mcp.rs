//! `/mcp`: the mesh as tools for a model, by the Model Context Protocol over streamable HTTP.
//!
//! ```text
//! gate ─► serve ─► the agent's own service (rmcp) ─► Sessions ─► Desk: mesh_agents, mesh_send, …
//! ```
//! rmcp speaks the protocol, in every version it knows: with sessions up to 2025-11-25, without
//! since 2026-07-28. **Invariants.** Each agent has a service of its own, so the id of a session is
//! worth nothing with another agent's token. rmcp never sees a token. What an agent holds is bounded:
//! its sessions by [`Sessions`], its calls by `max_in_flight`, its requests by [`REQUEST_MAX`].

mod answers;
mod arguments;
mod calls;
mod desk;
mod problem;
mod progress;
mod sessions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Shares};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::Full;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::IgnoredAny;

use self::desk::Desk;
use self::sessions::Sessions;
use super::Shared;
use super::extract::{AsAgent, REQUEST_MAX, whole_body};
use super::refused::{Refused, json};
use crate::messages::LocalAgent;

/// The services of the agents that have called, by their lives.
#[derive(Default)]
pub(super) struct Mcp {
    services: Mutex<BTreeMap<[u8; 16], Arc<Service>>>,
}

type Service = StreamableHttpService<Desk, Sessions>;

/// GET, POST and DELETE of `/mcp`.
pub(super) async fn serve(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    request: Request,
) -> Result<Response, Refused> {
    let service = shared.mcp.service(&shared, &agent.local);
    let (mut parts, body) = request.into_parts();
    // rmcp keeps the head for its handlers, and might show it to its log.
    parts.headers.remove(header::AUTHORIZATION);
    let body: Bytes = whole_body(body).await?;
    let posted = parts.method == axum::http::Method::POST;
    if posted && serde_json::from_slice::<IgnoredAny>(&body).is_err() {
        return Ok(protocol_error(PARSE_ERROR, "the body is not JSON"));
    }
    let request = Request::from_parts(parts, Full::new(body));
    let response = service.handle(request).await;
    // The gate has seen to the content type: what rmcp means here is a body that is no JSON-RPC.
    if posted && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        let reason = "the body is no single JSON-RPC 2.0 message of MCP";
        return Ok(protocol_error(INVALID_REQUEST, reason));
    }
    Ok(response.map(Body::new).into_response())
}

impl Mcp {
    fn service(&self, shared: &Arc<Shared>, agent: &LocalAgent) -> Arc<Service> {
        let mut services = self.lock();
        let service = services.entry(agent.instance).or_insert_with(|| {
            let desk = Desk::new(shared, agent.clone());
            // The gate's own checks of Host and Origin are narrower than rmcp's, and know the socket.
            let config = StreamableHttpServerConfig::default()
                .disable_allowed_hosts()
                .with_max_request_body_bytes(REQUEST_MAX);
            let sessions = Arc::new(Sessions::new(sessions::MOST, sessions::IDLE));
            Arc::new(Service::new(move || Ok(desk.clone()), sessions, config))
        });
        service.clone()
    }

    /// Ends every session of an agent that was removed.
    pub(super) fn forget(&self, instance: &[u8; 16]) {
        if let Some(service) = self.lock().remove(instance) {
            service.config.cancellation_token.cancel();
        }
    }

    /// Ends every session and every stream, as the API does.
    pub(super) fn stop(&self) {
        for service in std::mem::take(&mut *self.lock()).into_values() {
            service.config.cancellation_token.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 16], Arc<Service>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A refusal in the protocol's own shape: its clients read no other.
fn protocol_error(code: i32, message: &str) -> Response {
    let error = serde_json::json!({
        "jsonrpc": "2.0",
        "id": null,
        "error": {"code": code, "message": message},
    });
    json(StatusCode::BAD_REQUEST, &error)
}

/// JSON-RPC 2.0 §5.1.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
