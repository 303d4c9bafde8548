//! The server: accepts on both listeners, a task for each connection, all of them owned and ended
//! here.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::Endpoints;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State as Shares};
use axum::http::{Method, Request, Response};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::extract::{AsAgent, Json, REQUEST_MAX};
use super::gate::{Caller, Peer};
use super::listen::{ApiError, Listeners, admin_token};
use super::observe::Seen;
use super::refused::Refused;
use super::{ApiConfig, Counters, NodeView, Shared, a2a, admin, directory, mcp, messages, parts};
use crate::a2a::Tasks;
use crate::agents::Agents;
use crate::messages::Messages;
use crate::state::StateDir;
use crate::workers::Workers;

/// The local API, bound and not yet serving.
pub struct Api {
    shared: Arc<Shared>,
    listeners: Listeners,
    stop: watch::Sender<()>,
}

/// What every connection needs.
#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    router: TowerToHyperService<Router>,
}

impl Api {
    /// Binds both listeners and notes them in `api.json`; makes the admin token where there is
    /// none. Lets every registered agent have its inbox.
    pub async fn bind(
        state: &StateDir,
        config: ApiConfig,
        agents: Agents,
        workers: Workers,
        messages: Messages,
        tasks: Tasks,
        view: Arc<dyn NodeView>,
    ) -> Result<Self, ApiError> {
        let admin_token = admin_token(state)?;
        let listeners = Listeners::bind(state, &config).await?;
        for agent in agents.list() {
            if let Err(error) = messages.add_agent(&agent.local).await {
                warn!(%error, agent = %agent.local.name, "the agent has no inbox");
            }
        }
        let (stop, stopping) = watch::channel(());
        let shared = Shared {
            config,
            state: state.clone(),
            agents,
            workers,
            messages,
            tasks,
            view,
            endpoints: listeners.endpoints.clone(),
            admin_token,
            own_uid: rustix::process::geteuid().as_raw(),
            counters: Counters::default(),
            seen: Seen::new(),
            mcp: mcp::Mcp::default(),
            stopping,
        };
        Ok(Self {
            shared: Arc::new(shared),
            listeners,
            stop,
        })
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.listeners.endpoints
    }

    /// Serves until `shutdown` resolves; then finishes what is being answered, for a moment.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            shared,
            listeners:
                Listeners {
                    unix,
                    tcp,
                    endpoints,
                },
            stop,
        } = self;
        let router = TowerToHyperService::new(router(shared.clone()));
        let server = Server {
            shared: shared.clone(),
            router,
        };
        let slots = Arc::new(Semaphore::new(shared.config.max_connections.max(1)));
        let stopping = shared.stopping.clone();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // A caller beyond the bound waits in the kernel's queue until another has ended.
            let permit = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                permit = slots.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { break };
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = unix.accept() => match accepted {
                    Ok((stream, _)) => match stream.peer_cred() {
                        Ok(credentials) => {
                            let peer = Peer::Unix { uid: credentials.uid() };
                            connections.spawn(server.clone().serve(stream, peer, permit, stopping.clone()));
                        }
                        Err(error) => debug!(%error, "a caller left before it was known"),
                    },
                    Err(error) => pause(&error).await,
                },
                accepted = tcp.accept() => match accepted {
                    Ok((stream, remote)) => {
                        if let Err(error) = stream.set_nodelay(true) {
                            debug!(%error, "a connection waits for more to send");
                        }
                        let peer = Peer::Tcp { remote };
                        connections.spawn(server.clone().serve(stream, peer, permit, stopping.clone()));
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
        drop(stop);
        shared.mcp.stop();
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            connections.shutdown().await;
        }
        // The note in `api.json` stays, for its port; a socket that nobody serves does not.
        if let Err(error) = std::fs::remove_file(&endpoints.socket) {
            debug!(%error, "the socket was gone already");
        }
        debug!(state = %shared.state.path().display(), "the local API has ended");
    }
}

impl Server {
    async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Peer,
        _slot: OwnedSemaphorePermit,
        mut stopping: watch::Receiver<()>,
    ) {
        self.shared
            .counters
            .connections
            .fetch_add(1, Ordering::Relaxed);
        let service = service_fn(|request| self.answer(peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended early");
        }
    }

    async fn answer(
        &self,
        peer: Peer,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        match self.shared.admit(peer, &request) {
            Ok((caller, _in_flight)) => match Verb::of(&request) {
                Some(verb) => Ok(verb.answer(&self.shared, &caller, request).await),
                None => {
                    request.extensions_mut().insert(caller);
                    self.router.call(request).await
                }
            },
            Err(refused) => Ok(refused.into_response()),
        }
    }
}

/// The verbs that carry the messages. They go past axum, whose layers cost as much as the rest of a
/// call; the router has them too, for every other method.
enum Verb {
    Send,
    Ask,
}

impl Verb {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        match request.uri().path() {
            _ if request.method() != Method::POST => None,
            "/v1/send" => Some(Self::Send),
            "/v1/ask" => Some(Self::Ask),
            _ => None,
        }
    }

    async fn answer(
        self,
        shared: &Arc<Shared>,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let answered = async {
            let agent = AsAgent::of(caller)?;
            let (shared, body) = (Shares(shared.clone()), request.into_body());
            match self {
                Self::Send => messages::send(shared, agent, Json::of(body).await?).await,
                Self::Ask => messages::ask(shared, agent, Json::of(body).await?).await,
            }
        };
        answered.await.unwrap_or_else(Refused::into_response)
    }
}

/// Every route of [`api::Route::ALL`].
fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/send", post(messages::send))
        .route("/v1/ask", post(messages::ask))
        .route("/v1/messages", get(messages::receive))
        .route("/v1/messages/stream", get(messages::stream))
        .route("/v1/messages/ack", post(messages::ack_many))
        .route("/v1/messages/{id}", get(messages::show))
        .route("/v1/messages/{id}/ack", post(messages::ack))
        .route("/v1/messages/{id}/heartbeat", post(messages::heartbeat))
        .route("/v1/messages/{id}/release", post(messages::release))
        .route("/v1/messages/{id}/reply", post(messages::reply))
        .route("/v1/messages/{id}/reject", post(messages::reject))
        .route("/v1/messages/{id}/cancel", post(messages::cancel))
        .route(
            "/v1/messages/{id}/parts",
            get(parts::follow).post(parts::publish),
        )
        .route("/mcp", get(mcp::serve).post(mcp::serve).delete(mcp::serve))
        .route("/v1/agents", get(directory::agents))
        .route("/v1/agents/stream", get(directory::stream))
        .route("/v1/profile", post(directory::profile))
        .route("/v1/ping", post(admin::ping))
        .route("/v1/health", get(admin::health))
        .route("/v1/metrics", get(admin::metrics))
        .route("/v1/openapi.json", get(admin::openapi))
        .route("/v1/status", get(admin::status))
        .route("/v1/policy", get(admin::policy))
        .route("/v1/admin/agents", get(admin::list).post(admin::add))
        .route(
            "/v1/admin/agents/{name}",
            get(admin::show).delete(admin::remove),
        )
        .route("/v1/admin/agents/{name}/rotate", post(admin::rotate))
        .route("/v1/admin/agents/{name}/worker", post(admin::attach))
        .route("/v1/admin/agents/{name}/profile", post(directory::describe))
        .route("/v1/admin/kill", post(admin::kill))
        .route("/a2a", get(a2a::list))
        .route("/a2a/{gateway}/{agent}", post(a2a::rpc))
        .route(
            "/a2a/{gateway}/{agent}/.well-known/agent-card.json",
            get(a2a::card),
        )
        .route(
            "/a2a/{gateway}/{agent}/.well-known/agent.json",
            get(a2a::card),
        )
        .route(
            "/a2a/{gateway}/{agent}/extendedAgentCard",
            get(a2a::extended_card),
        )
        .route("/a2a/{gateway}/{agent}/message:send", post(a2a::send))
        .route("/a2a/{gateway}/{agent}/message:stream", post(a2a::stream))
        .route("/a2a/{gateway}/{agent}/tasks", get(a2a::tasks))
        .route(
            "/a2a/{gateway}/{agent}/tasks/{task}",
            get(a2a::task).post(a2a::act),
        )
        .route(
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs",
            get(a2a::push).post(a2a::push),
        )
        .route(
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs/{config}",
            get(a2a::push).delete(a2a::push),
        )
        .fallback(admin::unknown)
        .method_not_allowed_fallback(admin::wrong_method)
        .layer(DefaultBodyLimit::max(REQUEST_MAX))
        .with_state(shared)
}

/// Out of descriptors, most likely: a moment later some may be free. The loop goes on.
async fn pause(error: &io::Error) {
    warn!(%error, "cannot accept a caller");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Heads are small; bodies are read past this in pieces.
const BUFFER_MAX: usize = 128 << 10;

/// How long a connection may be silent between two calls, or slow with one's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long calls that are being answered may take at the end.
const GRACE: Duration = Duration::from_secs(2);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
