//! Binds both fronts to one port number and runs them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::beacon::{Cut, Gatekeeper, MapSession};
use net::tls::{self, TlsError};
use quinn::Endpoint;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, debug, debug_span, info, warn};
use wire::link::{ALPN, PRE_AUTHENTICATION_TIME};

use crate::core::Limits;
use crate::hub::{Hub, Monitor, Ticket};
use crate::session::Client;
use crate::{quic, tls443};

/// How a relay runs.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// The address for UDP and TCP alike; port 0 takes any that is free for both.
    pub listen: SocketAddr,
    /// By which the coordinator closes links.
    pub cut: Cut,
    /// What it bears.
    pub limits: Limits,
}

/// A relay whose port is bound.
pub struct Relay {
    hub: Arc<Hub>,
    cut: Cut,
    udp: Endpoint,
    tcp: TcpListener,
    tls: Arc<ServerConfig>,
    local: SocketAddr,
}

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {listen}")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The beacon's key does not suit TLS.
    #[error("tls cannot use the beacon's key")]
    Tls(#[from] TlsError),
}

/// Binds and runs a relay until `shutdown` completes.
pub async fn run(
    config: RelayConfig,
    gatekeeper: Arc<dyn Gatekeeper>,
    sessions: mpsc::Sender<MapSession>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RelayError> {
    let relay = Relay::bind(config, gatekeeper, sessions).await?;
    relay.run(shutdown).await;
    Ok(())
}

impl Relay {
    /// Takes the port, on UDP and TCP. Every client that is in is sent to `sessions`.
    pub async fn bind(
        config: RelayConfig,
        gatekeeper: Arc<dyn Gatekeeper>,
        sessions: mpsc::Sender<MapSession>,
    ) -> Result<Self, RelayError> {
        let RelayConfig {
            mut listen,
            cut,
            limits,
        } = config;
        let hub = Hub::new(limits, gatekeeper, sessions);
        let tls = tls::tcp_server_config(ALPN)?;
        let any = listen.port() == 0;
        let mut tries = 0;
        loop {
            let failed = |source| RelayError::Bind { listen, source };
            let tcp = TcpListener::bind(listen).await.map_err(failed)?;
            let local = tcp.local_addr().map_err(failed)?;
            match quic::bind(local, &hub) {
                Ok(udp) => {
                    return Ok(Self {
                        hub,
                        cut,
                        udp,
                        tcp,
                        tls,
                        local,
                    });
                }
                // A port that is free on TCP may be taken on UDP.
                Err(RelayError::Bind { .. }) if any && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            listen.set_port(0);
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Reads its counters, also while it runs.
    pub fn monitor(&self) -> Monitor {
        Monitor::new(Arc::clone(&self.hub))
    }

    /// Serves until `shutdown` completes; then tells its clients to go, and leaves them a moment.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            hub,
            cut,
            udp,
            tcp,
            tls,
            local,
        } = self;
        let mut connections = JoinSet::new();
        let (drain, draining) = watch::channel(false);
        info!(%local, "relay listens");
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                cut = cut.next() => cut.iter().for_each(|node| hub.cut(node)),
                incoming = udp.accept() => match incoming {
                    Some(incoming) => {
                        let Some((incoming, ticket)) = quic::arrive(incoming, &hub) else {
                            continue;
                        };
                        let (hub, draining) = (Arc::clone(&hub), draining.clone());
                        connections.spawn(async move {
                            let opening = quic::open(incoming, &ticket, &hub);
                            attend(opening, &ticket, &hub, draining).await;
                        }.instrument(debug_span!("link", by = "quic")));
                    }
                    None => break,
                },
                accepted = tcp.accept() => match accepted {
                    Ok((stream, remote)) => {
                        let Ok(ticket) = hub.arrive(remote.ip()) else {
                            continue;
                        };
                        let (hub, draining) = (Arc::clone(&hub), draining.clone());
                        let tls = Arc::clone(&tls);
                        connections.spawn(async move {
                            let opening = tls443::open(stream, remote, tls, &ticket, &hub);
                            attend(opening, &ticket, &hub, draining).await;
                        }.instrument(debug_span!("link", by = "tls")));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: never spin on that, never end for it.
                        warn!(%error, "cannot accept");
                        sleep(ACCEPT_REST).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        warn!(%error, "a connection's task failed");
                    }
                }
            }
        }
        drop(tcp);
        drain.send_replace(true);
        let leaving = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN, leaving).await.is_err() {
            connections.shutdown().await;
        }
        quic::close(udp).await;
        debug!("relay ended");
    }
}

/// One connection, from its first byte to its end.
async fn attend(
    opening: impl Future<Output = Option<Client>>,
    ticket: &Ticket,
    hub: &Arc<Hub>,
    draining: watch::Receiver<bool>,
) {
    match timeout(PRE_AUTHENTICATION_TIME, opening).await {
        Ok(Some(client)) => client.serve(ticket, hub, draining).await,
        Ok(None) => debug!("stranger let go"),
        Err(_) => debug!("stranger took too long"),
    }
}

/// Ports tried where any will do.
const TRIES: u32 = 16;

/// A little more than clients are told to leave within.
const DRAIN: Duration = Duration::from_millis(600);

/// Descriptors come free as connections end.
const ACCEPT_REST: Duration = Duration::from_millis(50);
