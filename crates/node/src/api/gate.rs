//! Who asks: decided before anything else looks at a call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use api::AGENT_HEADER;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use identity::AgentName;
use tracing::info;

use super::Shared;
use super::refused::Refused;
use crate::agents::Agent;

/// The other end of a connection, as the kernel tells it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// The unix socket, and the uid of who connected (SO_PEERCRED).
    Unix { uid: u32 },
    /// Loopback TCP.
    Tcp { remote: SocketAddr },
}

/// Who asks, proved.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Agent(Arc<Agent>),
    Admin {
        uid: u32,
        acting: Option<Arc<Agent>>,
    },
}

/// Counts a call as being answered, until dropped.
pub(super) struct InFlight(Arc<Agent>);

impl Caller {
    /// The agent that asks, or that the admin acts for.
    pub(super) fn agent(&self) -> Option<&Arc<Agent>> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Admin { acting, .. } => acting.as_ref(),
        }
    }
}

impl Shared {
    /// Lets a call pass, or says why not.
    pub(super) fn admit<B>(
        &self,
        peer: Peer,
        request: &Request<B>,
    ) -> Result<(Caller, Option<InFlight>), Refused> {
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let headers = request.headers();
        self.check_shape(peer, request)?;
        let caller = self.identify(peer, headers).inspect_err(|_| {
            self.counters.unauthorized.fetch_add(1, Ordering::Relaxed);
        })?;
        let caller = self.check_name(caller, request)?;
        let Some(agent) = caller.agent() else {
            return Ok((caller, None));
        };
        if !agent.take(
            self.config.calls_per_second,
            self.config.burst,
            Instant::now(),
        ) {
            return Err(self.throttled("this agent calls too often"));
        }
        let Some(guard) = InFlight::enter(agent, self.config.max_in_flight) else {
            return Err(self.throttled("too many calls of this agent wait for their answers"));
        };
        self.agents.saw(agent);
        // Under whom an agent runs is told by its own calls alone.
        if let Caller::Agent(_) = &caller {
            self.seen.agent(peer, self.own_uid, self.endpoints.loopback);
        }
        Ok((caller, Some(guard)))
    }

    /// What a browser could be made to send is refused whoever asks: DNS rebinding by its `Host`,
    /// a page's script by its `Origin`, a form by its content type.
    fn check_shape<B>(&self, peer: Peer, request: &Request<B>) -> Result<(), Refused> {
        let (method, headers) = (request.method(), request.headers());
        if matches!(peer, Peer::Tcp { .. }) && !self.host_is_ours(headers) {
            return Err(Refused::forbidden(
                "foreign_host",
                "the Host header names another host",
            ));
        }
        if headers.contains_key(header::ORIGIN) {
            return Err(Refused::forbidden(
                "foreign_origin",
                "browsers have no business here",
            ));
        }
        let reads = matches!(
            *method,
            Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
        );
        if !reads && !is_json(headers) && !is_bare_task_verb(request) {
            return Err(Refused::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "the Content-Type must be application/json",
            ));
        }
        Ok(())
    }

    fn host_is_ours(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let Ok(host) = host.to_str() else {
            return false;
        };
        let Some((name, port)) = host.rsplit_once(':') else {
            return false;
        };
        let ours = matches!(name, "127.0.0.1" | "localhost");
        ours && port.parse() == Ok(self.endpoints.loopback.port())
    }

    fn identify(&self, peer: Peer, headers: &HeaderMap) -> Result<Caller, Refused> {
        let token = match bearer(headers) {
            Bearer::Token(token) => token,
            // A configured admin is known by its uid alone: it cannot read the node's token.
            Bearer::Absent => {
                return match peer {
                    Peer::Unix { uid } if self.config.admin_uids.contains(&uid) => {
                        Ok(Caller::Admin { uid, acting: None })
                    }
                    _ => Err(Refused::unauthorized()),
                };
            }
            Bearer::Malformed => return Err(Refused::unauthorized()),
        };
        if let Peer::Unix { uid } = peer
            && verify_slices_are_equal(token.as_bytes(), self.admin_token.as_bytes()).is_ok()
        {
            let allowed =
                uid == self.own_uid || uid == ROOT || self.config.admin_uids.contains(&uid);
            return match allowed {
                true => Ok(Caller::Admin { uid, acting: None }),
                false => Err(Refused::forbidden(
                    "admin_uid",
                    "the admin token is not for this user",
                )),
            };
        }
        self.agents
            .authenticate(token)
            .map(Caller::Agent)
            .ok_or_else(Refused::unauthorized)
    }

    /// Whom the admin acts for; an agent may only name itself.
    fn check_name<B>(&self, caller: Caller, request: &Request<B>) -> Result<Caller, Refused> {
        let Some(name) = request.headers().get(AGENT_HEADER) else {
            return Ok(caller);
        };
        let name: Option<AgentName> = name.to_str().ok().and_then(|name| name.parse().ok());
        let name =
            name.ok_or_else(|| Refused::schema("X-Crabmesh-Agent is not the name of an agent"))?;
        match caller {
            Caller::Agent(agent) if agent.local.name == name => Ok(Caller::Agent(agent)),
            Caller::Agent(_) => Err(Refused::forbidden(
                "another_agent",
                "the token belongs to another agent",
            )),
            Caller::Admin { uid, .. } => {
                let agent = self.agents.named(&name).ok_or_else(|| {
                    Refused::unknown_agent(format!(
                        "there is no agent named {name} on this gateway"
                    ))
                    .hint("crabmesh agent add NAME")
                })?;
                info!(
                    target: "crabmesh::audit",
                    uid,
                    agent = %name,
                    method = request.method().as_str(),
                    path = request.uri().path(),
                    "the admin acts for an agent"
                );
                Ok(Caller::Admin {
                    uid,
                    acting: Some(agent),
                })
            }
        }
    }

    fn throttled(&self, reason: &str) -> Refused {
        self.counters.throttled.fetch_add(1, Ordering::Relaxed);
        Refused::new(StatusCode::TOO_MANY_REQUESTS, "throttled", reason)
    }
}

impl InFlight {
    fn enter(agent: &Arc<Agent>, most: usize) -> Option<Self> {
        let count: &AtomicUsize = &agent.life.in_flight;
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(agent.clone()))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.life.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Bearer<'a> {
    Token(&'a str),
    Absent,
    Malformed,
}

fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else {
        return Bearer::Absent;
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if more.is_none() && scheme.eq_ignore_ascii_case("bearer") => {
            Bearer::Token(token.trim())
        }
        _ => Bearer::Malformed,
    }
}

/// `POST …/tasks/{task}:subscribe` of A2A, which the protocol's clients send without a body and so
/// without a type. A form always has one.
fn is_bare_task_verb<B>(request: &Request<B>) -> bool {
    let (path, headers) = (request.uri().path(), request.headers());
    let length = headers.get(header::CONTENT_LENGTH);
    path.starts_with("/a2a/")
        && [":subscribe", ":cancel"]
            .iter()
            .any(|verb| path.ends_with(verb))
        && !headers.contains_key(header::CONTENT_TYPE)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && length.is_none_or(|length| length == "0")
}

/// `application/json`, what A2A calls it, or a line of it after the other, with or without
/// parameters. A page's form can send none of them.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.map(|value| value.split(';').next().unwrap_or_default().trim());
    essence.is_some_and(|essence| {
        [
            "application/json",
            "application/a2a+json",
            "application/x-ndjson",
        ]
        .iter()
        .any(|json| essence.eq_ignore_ascii_case(json))
    })
}

const ROOT: u32 = 0;
