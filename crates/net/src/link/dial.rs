//! Finds a way to a beacon: QUIC first, TLS over TCP beside it where QUIC is slow, one address
//! after the other (RFC 8305's happy eyeballs, over transports too).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use identity::{HostPort, IdentityKey, IdentityPublic};
use quinn::{ConnectionError, Endpoint};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::LinkFault;
use super::call::CallAs;
use super::carrier::Carrier;
use super::handshake::{Transport, Turn, Welcome, greet};
use crate::outer::OuterSocket;
use crate::tls::{AnyKey, KeyVerifier, OnlyKey, SERVER_NAME};
use crate::{endpoint, resolver, tls};

/// What links dial with.
#[derive(Clone, Debug)]
pub struct Dialer {
    udp: Option<Endpoint>,
    gate: Option<Arc<OuterSocket>>,
}

/// Whom to dial, and as whom.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) beacon: HostPort,
    pub(super) key: Option<IdentityPublic>,
    pub(super) identity: Arc<IdentityKey>,
    pub(super) caller: CallAs,
}

/// A connection over which both sides have proved themselves.
pub(super) struct Session {
    pub(super) carrier: Carrier,
    pub(super) welcome: Welcome,
    /// Attempts by QUIC that go on while TLS serves.
    pub(super) rivals: Rivals,
    /// Kept while the connection lives.
    pub(super) allowed: Option<Allowed>,
}

/// Attempts under way.
pub(super) type Rivals = JoinSet<Result<Session, LinkFault>>;

/// An address whose QUIC datagrams the mesh socket lets through, for as long as this lives.
pub(super) struct Allowed {
    socket: Arc<OuterSocket>,
    beacon: SocketAddr,
}

impl Dialer {
    /// Dials over the mesh socket: what the beacon then observes is the mapping of our tunnel.
    pub fn mesh(endpoint: Endpoint, socket: Arc<OuterSocket>) -> Self {
        Self {
            udp: Some(endpoint),
            gate: Some(socket),
        }
    }

    /// Dials over a UDP socket of its own: for a command that runs beside no gateway.
    pub fn own() -> io::Result<Self> {
        let udp = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()))?;
        Ok(Self::over(udp))
    }

    /// Dials over an endpoint that is not the mesh socket's.
    pub fn over(endpoint: Endpoint) -> Self {
        Self {
            udp: Some(endpoint),
            gate: None,
        }
    }

    /// Dials by TLS over TCP alone.
    pub fn tcp_only() -> Self {
        Self {
            udp: None,
            gate: None,
        }
    }

    /// Waits until goodbyes are on their way, for an endpoint of its own.
    pub(super) async fn rest(&self) {
        if let (Some(endpoint), None) = (&self.udp, &self.gate) {
            // The other side forgets us soon, whether it hears this or not.
            let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
        }
    }
}

impl Allowed {
    fn new(socket: &Arc<OuterSocket>, beacon: SocketAddr) -> Self {
        socket.allow(beacon);
        Self {
            socket: Arc::clone(socket),
            beacon,
        }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.socket.forbid(self.beacon);
    }
}

/// The first connection that is up, by whatever transport.
pub(super) async fn race(target: &Target, dialer: &Dialer) -> Result<Session, LinkFault> {
    let mut rivals = attempts(target, dialer, Turn::default(), true).await?;
    let mut fault = LinkFault::Silent;
    while let Some(done) = rivals.join_next().await {
        match done {
            Ok(Ok(mut session)) => {
                if session.carrier.quic.is_none() {
                    session.rivals = rivals;
                }
                return Ok(session);
            }
            Ok(Err(other)) => fault = more_telling(fault, other),
            Err(_) => fault = more_telling(fault, LinkFault::Closed),
        }
    }
    Err(fault)
}

/// Attempts by QUIC alone, while TLS serves.
pub(super) async fn upgrade(target: &Target, dialer: &Dialer) -> Rivals {
    let found = attempts(target, dialer, Turn::after_tls(), false).await;
    found.unwrap_or_default()
}

async fn attempts(
    target: &Target,
    dialer: &Dialer,
    turn: Turn,
    by_tls: bool,
) -> Result<Rivals, LinkFault> {
    let addresses = resolver::resolve(&target.beacon)
        .await
        .map_err(|error| LinkFault::Resolve(Arc::new(error)))?;
    let turn = Arc::new(turn);
    let mut attempts = JoinSet::new();
    let mut later = Duration::ZERO;
    for addr in addresses.into_iter().take(TRIED) {
        let mut spawn = |transport, after: Duration| {
            let attempt = Attempt {
                target: target.clone(),
                dialer: dialer.clone(),
                addr,
                turn: Arc::clone(&turn),
            };
            attempts.spawn(async move {
                sleep(after).await;
                timeout(ATTEMPT, attempt.run(transport))
                    .await
                    .unwrap_or(Err(LinkFault::Silent))
            });
        };
        if dialer.udp.is_some() {
            spawn(Transport::Quic, later);
        }
        if by_tls {
            let head_start = if dialer.udp.is_some() {
                STAGGER
            } else {
                Duration::ZERO
            };
            spawn(Transport::Tls, later + head_start);
        }
        later += STAGGER;
    }
    Ok(attempts)
}

/// One address by one transport.
struct Attempt {
    target: Target,
    dialer: Dialer,
    addr: SocketAddr,
    turn: Arc<Turn>,
}

impl Attempt {
    async fn run(self, transport: Transport) -> Result<Session, LinkFault> {
        let result = match transport {
            Transport::Quic => self.quic().await,
            Transport::Tls => self.tls().await,
        };
        if let Err(fault) = &result {
            debug!(addr = %self.addr, ?transport, %fault, "could not reach the beacon");
        }
        result
    }

    async fn quic(&self) -> Result<Session, LinkFault> {
        let Some(endpoint) = &self.dialer.udp else {
            return Err(LinkFault::Silent);
        };
        let allowed = self
            .dialer
            .gate
            .as_ref()
            .map(|gate| Allowed::new(gate, self.addr));
        let verifier: Arc<dyn KeyVerifier> = match self.target.key {
            Some(key) => Arc::new(OnlyKey(key)),
            None => Arc::new(AnyKey),
        };
        let config = endpoint::link_client_config(&self.target.identity, verifier)
            .map_err(|error| LinkFault::Tls(Arc::new(error)))?;
        let connecting = endpoint
            .connect_with(config, self.addr, SERVER_NAME)
            .map_err(|_| LinkFault::Silent)?;
        let connection = connecting.await.map_err(|error| fault_of(&error))?;
        let (send, receive) = connection
            .accept_bi()
            .await
            .map_err(|error| fault_of(&error))?;
        self.greet(Carrier::quic(connection, send, receive), allowed)
            .await
    }

    async fn tls(&self) -> Result<Session, LinkFault> {
        let stream = TcpStream::connect(self.addr)
            .await
            .map_err(|_| LinkFault::Silent)?;
        // Without it Nagle would hold back datagrams; one that fails is a slower link.
        let _ = stream.set_nodelay(true);
        let config = tls::tcp_client_config(wire::link::ALPN)
            .map_err(|error| LinkFault::Tls(Arc::new(error)))?;
        let name = ServerName::try_from(SERVER_NAME).expect("a DNS name");
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|_| LinkFault::Lost)?;
        self.greet(Carrier::stream(stream, self.addr), None).await
    }

    async fn greet(
        &self,
        mut carrier: Carrier,
        allowed: Option<Allowed>,
    ) -> Result<Session, LinkFault> {
        let Target {
            key,
            identity,
            caller,
            ..
        } = &self.target;
        let welcome = greet(&mut carrier, *key, identity, caller, &self.turn).await?;
        Ok(Session {
            carrier,
            welcome,
            rivals: Rivals::default(),
            allowed,
        })
    }
}

fn fault_of(error: &ConnectionError) -> LinkFault {
    match error {
        ConnectionError::TimedOut => LinkFault::Silent,
        // Raised on our side: the key that it showed is not the one we want.
        ConnectionError::TransportError(_) => LinkFault::WrongKey,
        ConnectionError::VersionMismatch => LinkFault::Protocol,
        _ => LinkFault::Lost,
    }
}

/// Of all attempts, a person wants to hear of the one that came furthest.
fn more_telling(one: LinkFault, other: LinkFault) -> LinkFault {
    let rank = |fault: &LinkFault| match fault {
        LinkFault::Refused(_) => 4,
        LinkFault::WrongKey => 3,
        LinkFault::Protocol | LinkFault::Tls(_) => 2,
        LinkFault::Lost => 1,
        _ => 0,
    };
    if rank(&other) > rank(&one) {
        other
    } else {
        one
    }
}

/// What QUIC is given before TLS begins, and one address before the next (paths.md §1; RFC 8305 §8
/// recommends the same).
const STAGGER: Duration = Duration::from_millis(250);

/// Two of each family.
const TRIED: usize = 4;

/// A handshake that lost two packets is still in time.
const ATTEMPT: Duration = Duration::from_secs(8);

const GOODBYE: Duration = Duration::from_secs(1);
