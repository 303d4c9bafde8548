//! A relay with a gatekeeper that believes toy certificates, and a coordinator that answers.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use identity::{Heads, IdentityKey, IdentityPublic, NodeId};
use net::beacon::{Admission, Cut, Gatekeeper, MapSession, Who, verify_claim_mac};
use net::link::{
    CallAs, CallConfig, Dialer, Link, LinkConfig, LinkEvent, LinkFault, LinkState, Papers,
};
use net::outer::OuterSocket;
use net::udp::{MeshSocket, RecvBatch};
use relay::{Limits, Monitor, Relay, RelayConfig};
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use wire::link::{Caller, Refusal, Transcript};
use wire::map::{Cursor, Document, MapRequest, MapUpdate, PublishError};

/// Of the claim.
pub const SECRET: [u8; 32] = [42; 32];

/// The member whose membership is over.
pub const EXPIRED: u8 = 99;

/// Longer than anything here takes on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

pub fn key(n: u8) -> IdentityKey {
    IdentityKey::generate([n; 32])
}

pub fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

/// Node id and key, and nobody's signature: the gatekeeper here believes it.
pub fn certificate(n: u8) -> Bytes {
    [&node(n).0[..], &key(n).public().0].concat().into()
}

pub fn quic() -> Dialer {
    Dialer::own().expect("a socket")
}

/// Dials over a mesh socket, fed as the data plane feeds it.
pub fn mesh() -> (Dialer, Arc<OuterSocket>, JoinHandle<()>) {
    let socket = Arc::new(MeshSocket::bind_to(([127, 0, 0, 1], 0).into()).expect("loopback"));
    let outer = OuterSocket::new(Arc::clone(&socket));
    let endpoint = net::endpoint::outer_endpoint(Arc::clone(&outer)).expect("a runtime");
    let feed = Arc::clone(&outer);
    let pump = tokio::spawn(async move {
        let mut batch = RecvBatch::new();
        while poll_fn(|cx| socket.poll_recv(cx, &mut batch)).await.is_ok() {
            for received in batch.iter_mut() {
                feed.deliver(received.remote, received.bytes, received.stride);
            }
        }
    });
    (Dialer::mesh(endpoint, Arc::clone(&outer)), outer, pump)
}

pub struct World {
    pub addr: SocketAddr,
    pub cut: Cut,
    gate: Arc<Gate>,
    running: Option<Running>,
}

struct Running {
    monitor: Monitor,
    end: oneshot::Sender<End>,
    is_over: oneshot::Receiver<()>,
}

enum End {
    Stop,
    Crash,
}

impl World {
    pub async fn start() -> Self {
        let mut world = Self {
            addr: ([127, 0, 0, 1], 0).into(),
            cut: Cut::new(),
            gate: Arc::new(Gate {
                key: Arc::new(key(0)),
                admitted: AtomicUsize::new(0),
            }),
            running: None,
        };
        world.start_again().await;
        world
    }

    /// On a thread and runtime of its own, so that it can end without a word.
    pub async fn start_again(&mut self) {
        let config = RelayConfig {
            listen: self.addr,
            cut: self.cut.clone(),
            limits: Limits::default(),
        };
        let gate = self.gate.clone();
        let (bound, started) = oneshot::channel();
        let (end, ending) = oneshot::channel();
        let (ended, is_over) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let (sessions, come) = mpsc::channel(64);
                let relay = Relay::bind(config, gate, sessions)
                    .await
                    .expect("a free port");
                bound.send((relay.local_addr(), relay.monitor())).ok();
                tokio::spawn(coordinate(come));
                let (stop, stopped) = oneshot::channel::<()>();
                let task = tokio::spawn(relay.run(async {
                    stopped.await.ok();
                }));
                if let Ok(End::Stop) = ending.await {
                    stop.send(()).expect("running");
                    task.await.expect("no panic");
                }
            });
            drop(runtime);
            ended.send(()).ok();
        });
        let (addr, monitor) = within(started).await.expect("no panic");
        self.addr = addr;
        self.running = Some(Running {
            monitor,
            end,
            is_over,
        });
    }

    pub async fn stop(&mut self) {
        self.end(End::Stop).await;
    }

    /// Ends without a word: nobody is told, as after SIGKILL.
    pub async fn crash(&mut self) {
        self.end(End::Crash).await;
    }

    async fn end(&mut self, how: End) {
        let Running { end, is_over, .. } = self.running.take().expect("running");
        end.send(how).ok().expect("running");
        within(is_over).await.expect("no panic");
    }

    pub fn relay(&self) -> &Monitor {
        &self.running.as_ref().expect("running").monitor
    }

    pub fn admitted(&self) -> usize {
        self.gate.admitted.load(Ordering::Relaxed)
    }
}

struct Gate {
    key: Arc<IdentityKey>,
    admitted: AtomicUsize,
}

impl Gatekeeper for Gate {
    fn key(&self) -> Arc<IdentityKey> {
        Arc::clone(&self.key)
    }

    fn admit(
        &self,
        caller: &Caller,
        transcript: &Transcript,
        proof: &[u8],
    ) -> Result<Admission, Refusal> {
        identity::verify(&transcript.client, &transcript.client_bytes(), proof)
            .map_err(|_| Refusal::Unproven)?;
        let admission = |who| Admission {
            who,
            restricted: None,
        };
        let admission = match caller {
            Caller::Member { certificate, .. } => {
                let (node, named) = certificate.split_at(16);
                if named != transcript.client.0 {
                    return Err(Refusal::Unproven);
                }
                let node = NodeId(node.try_into().expect("16 bytes"));
                let restricted = (node == self::node(EXPIRED)).then_some(Refusal::Expired);
                Admission {
                    who: Who::Member(node),
                    restricted,
                }
            }
            Caller::Joiner { .. } => admission(Who::Joiner),
            Caller::Claimant { mac, .. } if verify_claim_mac(&SECRET, transcript, mac) => {
                admission(Who::Claimant)
            }
            Caller::Claimant { .. } => return Err(Refusal::Unproven),
            Caller::Operator { .. } => return Err(Refusal::Forbidden),
        };
        self.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(admission)
    }
}

async fn coordinate(mut come: mpsc::Receiver<MapSession>) {
    while let Some(mut session) = come.recv().await {
        tokio::spawn(async move {
            while let Some(request) = session.requests.recv().await {
                for update in answers(request) {
                    let Some(update) = update else { return };
                    session.updates.try_send(update).expect("a fast client");
                }
            }
        });
    }
}

/// `None` hangs up.
fn answers(request: MapRequest) -> Vec<Option<MapUpdate>> {
    let log = || Document::TrustLog(Bytes::from_static(b"log"));
    match request {
        MapRequest::Watch { .. } => {
            let cursor = Cursor {
                epoch: 1,
                sequence: 1,
            };
            let caught_up = MapUpdate::CaughtUp {
                cursor,
                complete: true,
                heads: Heads::default(),
            };
            vec![Some(MapUpdate::Document(log())), Some(caught_up)]
        }
        MapRequest::Publish {
            document: Document::Policy(bytes),
            ..
        } if bytes == "hang up" => {
            vec![None]
        }
        MapRequest::Publish {
            request,
            document: Document::Policy(_),
        } => {
            vec![Some(MapUpdate::Answer {
                request,
                result: Err(PublishError::Unverified),
            })]
        }
        MapRequest::Publish { request, .. } => {
            vec![Some(MapUpdate::Answer {
                request,
                result: Ok(()),
            })]
        }
        MapRequest::Enroll { request, .. } => {
            let receipt = Bytes::from_static(b"receipt");
            vec![Some(MapUpdate::Receipt { request, receipt })]
        }
    }
}

type Events = mpsc::Receiver<(NodeId, LinkEvent)>;

pub fn config(world: &World, n: u8, beacon: IdentityPublic) -> (LinkConfig, Events) {
    let (events, heard) = mpsc::channel(64);
    let papers = Papers {
        certificate: certificate(n),
        record: Bytes::from_static(b"record"),
    };
    let config = LinkConfig {
        beacon: world.addr.to_string().parse().expect("an address"),
        node: node(0),
        key: Some(beacon),
        identity: Arc::new(key(n)),
        papers: watch::Sender::new(Some(papers)).subscribe(),
        events,
    };
    (config, heard)
}

pub fn dial(
    world: &World,
    n: u8,
    beacon: IdentityPublic,
    dialer: Dialer,
) -> (Link, Events, JoinHandle<()>) {
    let (config, events) = config(world, n, beacon);
    let (link, task) = Link::open(config, dialer);
    (link, events, task)
}

/// Why the link is down, once it is.
pub async fn down(link: &Link) -> LinkFault {
    let mut state = link.state();
    let down = within(state.wait_for(|state| matches!(state, LinkState::Down { .. }))).await;
    match &*down.expect("the link lives") {
        LinkState::Down { why } => why.clone(),
        up => unreachable!("{up:?}"),
    }
}

/// A member's link that is up.
pub struct Client {
    pub link: Link,
    pub observed: SocketAddr,
    pub udp: bool,
    pub restricted: Option<Refusal>,
    events: Events,
    passed: VecDeque<LinkEvent>,
}

impl Client {
    pub async fn open(world: &World, n: u8, dialer: Dialer) -> Self {
        Self::open_at(world, world.addr, n, dialer).await
    }

    pub async fn open_at(world: &World, addr: SocketAddr, n: u8, dialer: Dialer) -> Self {
        let (mut config, mut events) = config(world, n, key(0).public());
        config.beacon = addr.to_string().parse().expect("an address");
        let (link, _task) = Link::open(config, dialer);
        let (_, up) = within(events.recv()).await.expect("the link lives");
        let LinkEvent::Up {
            observed,
            udp,
            restricted,
        } = up
        else {
            panic!("{up:?}");
        };
        Self {
            link,
            observed,
            udp,
            restricted,
            events,
            passed: VecDeque::new(),
        }
    }

    /// The next event that is wanted. Others are kept: frames and datagrams overtake each other.
    pub async fn until(&mut self, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
        if let Some(place) = self.passed.iter().position(&wanted) {
            return self.passed.remove(place).expect("found");
        }
        within(async {
            loop {
                let (_, event) = self.events.recv().await.expect("the link lives");
                match wanted(&event) {
                    true => return event,
                    false => self.passed.push_back(event),
                }
            }
        })
        .await
    }

    /// Until its task is over.
    pub async fn ended(&mut self) {
        within(async { while self.events.recv().await.is_some() {} }).await;
    }

    pub async fn expect_datagram(&mut self, peer: NodeId, bytes: &[u8]) {
        let event = self
            .until(|event| matches!(event, LinkEvent::Datagram { .. }))
            .await;
        let LinkEvent::Datagram { from, payload } = event else {
            unreachable!()
        };
        assert_eq!((from, &payload[..]), (peer, bytes));
    }
}

pub fn calling(world: &World, n: u8, caller: CallAs) -> CallConfig {
    CallConfig {
        beacon: world.addr.to_string().parse().expect("an address"),
        key: Some(key(0).public()),
        identity: Arc::new(key(n)),
        caller,
        timeout: PATIENCE,
    }
}

pub async fn tls_stream(world: &World) -> TlsStream<TcpStream> {
    let config = net::tls::tcp_client_config(wire::link::ALPN).expect("tls");
    let stream = TcpStream::connect(world.addr).await.expect("listens");
    let name = ServerName::try_from(net::tls::SERVER_NAME).expect("a name");
    tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .expect("tls")
}

pub async fn skip_challenge(stream: &mut TlsStream<TcpStream>) {
    let length = within(stream.read_u32_le()).await.expect("a challenge");
    let mut body = vec![0; usize::try_from(length).expect("short")];
    within(stream.read_exact(&mut body))
        .await
        .expect("a challenge");
}

/// A TCP port with the same number as this UDP one, that leads to the relay.
pub async fn front(world: &World, udp: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(udp).await.expect("free on TCP too");
    let relay = world.addr;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(relay).await.expect("listens");
            tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut near, &mut far)
                    .await
                    .ok()
            });
        }
    });
    udp
}

/// Forwards datagrams to the relay and back, as a NAT would, until dropped.
pub fn forward(near: UdpSocket, relay: SocketAddr) -> JoinHandle<()> {
    let near = Arc::new(near);
    tokio::spawn(async move {
        let mut far: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = near.recv_from(&mut buffer).await {
            if let Entry::Vacant(vacant) = far.entry(from) {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("loopback"));
                socket.connect(relay).await.expect("loopback");
                vacant.insert(Arc::clone(&socket));
                let near = Arc::clone(&near);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(length) = socket.recv(&mut buffer).await {
                        near.send_to(&buffer[..length], from).await.ok();
                    }
                });
            }
            far[&from].send(&buffer[..length]).await.ok();
        }
    })
}
