//! One stream through the tunnel beside stock quinn: CPU of both ends per gigabyte. Each end is a
//! process with the road of a gateway ([`node::road`]): the same tasks and channels, over real UDP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use identity::{IdentityKey, MeshId, NodeId, WireGuardKey};
use net::allocations::{Counted, counted};
use net::tls::{OnlyKey, SERVER_NAME};
use net::udp::MeshSocket;
use node::plane::{PlaneCommand, PlaneEvent};
use node::road::{Candidate, CandidateKind, Link, PeerConfig, Road, RoadConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;
use wire::peer::ROUTER_PORT;

use super::plain::{self, Cpu, Moved};
use super::worker::{Worker, orders};
use super::{Effort, Row, median, spread};
use crate::failure::Failure;
use crate::output::Output;

/// The two rows.
pub async fn measure(effort: Effort) -> Result<Vec<Row>, Failure> {
    let (mut plain, mut tunnel) = (plain::pair().await?, pair().await?);
    // Long enough for the MTU to be found and the buffers to have their size.
    move_bytes(&mut plain, effort.bulk_bytes / 10).await?;
    move_bytes(&mut tunnel, effort.bulk_bytes / 10).await?;
    let (mut ratios, mut costs, mut plain_costs, mut rates) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut worst, mut lost, mut batches, mut bytes) = (0.0f64, 0, 0, 0);
    let mut mtus = (0, 0);
    for _ in 0..effort.rounds {
        let beside = move_bytes(&mut plain, effort.bulk_bytes).await?;
        let before = counters(&mut tunnel).await?;
        let ours = move_bytes(&mut tunnel, effort.bulk_bytes).await?;
        let after = counters(&mut tunnel).await?;
        let packets = effort.bulk_bytes as f64 / f64::from(ours.moved.mtu);
        for (before, after) in before.iter().zip(&after) {
            worst = worst.max((after.allocations - before.allocations) as f64 / packets);
        }
        batches += after[0].sent_batches - before[0].sent_batches;
        bytes += after[0].sent_bytes - before[0].sent_bytes;
        lost += ours.moved.lost;
        mtus = (ours.moved.mtu, beside.moved.mtu);
        ratios.push(ours.cpu / beside.cpu);
        costs.push(ours.cpu);
        plain_costs.push(beside.cpu);
        rates.push(effort.bulk_bytes as f64 * 8e-9 / ours.moved.seconds);
    }
    let ratio = median(ratios.iter().copied());
    Ok(vec![
        Row {
            what: "bulk: CPU of both ends beside plain quinn",
            figure: format!("{ratio:.2}x"),
            limit: format!("at most {MOST_RATIO:.1}x"),
            pass: ratio <= MOST_RATIO,
            note: format!(
                "{:.2} CPU-s/GB, plain {:.2}; {:.1} Gbit/s; rounds {}x; MTU {} and {}; {} bytes a send, {lost} lost",
                median(costs),
                median(plain_costs),
                median(rates),
                spread(&ratios, 2),
                mtus.0,
                mtus.1,
                bytes / batches.max(1),
            ),
        },
        Row {
            what: "bulk: allocations of the data plane per packet",
            figure: format!("{worst:.5}"),
            limit: format!("at most {MOST_ALLOCATIONS}"),
            pass: worst <= MOST_ALLOCATIONS,
            note: "the worse end, worst round: socket, tunnel and overlay in their task; timers included".into(),
        },
    ])
}

struct Transfer {
    moved: Moved,
    /// CPU-seconds of both ends per GB.
    cpu: f64,
}

async fn move_bytes(
    (client, server): &mut (Worker, Worker),
    bytes: u64,
) -> Result<Transfer, Failure> {
    let before = cpu(client).await? + cpu(server).await?;
    let moved: Moved = client.ask(&format!("bulk {bytes}")).await?;
    let after = cpu(client).await? + cpu(server).await?;
    Ok(Transfer {
        moved,
        cpu: (after - before) * 1e9 / bytes as f64,
    })
}

async fn cpu(worker: &mut Worker) -> Result<f64, Failure> {
    worker.ask("cpu").await.map(|Cpu { cpu }| cpu)
}

async fn counters((client, server): &mut (Worker, Worker)) -> Result<[Counters; 2], Failure> {
    Ok([client.ask("counters").await?, server.ask("counters").await?])
}

/// Both ends of a road, met directly, with a connection between them.
pub async fn pair() -> Result<(Worker, Worker), Failure> {
    let mut client = Worker::start(None, &["plane", "1"])?;
    let mut server = Worker::start(None, &["plane", "2"])?;
    let ports: [Port; 2] = [client.hear().await?, server.hear().await?];
    let _: serde_json::Value = server.ask(&format!("meet {}", ports[0].port)).await?;
    let _: serde_json::Value = client.ask(&format!("meet {}", ports[1].port)).await?;
    let _: serde_json::Value = client.ask("dial").await?;
    Ok((client, server))
}

#[derive(Debug, Serialize, Deserialize)]
struct Port {
    port: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Counters {
    allocations: u64,
    sent_batches: u64,
    sent_bytes: u64,
}

/// One of the two gateways of this measurement, as both know it.
struct Gateway {
    node: NodeId,
    identity: IdentityKey,
    wireguard: WireGuardKey,
    overlay: Ipv6Addr,
}

impl Gateway {
    fn new(end: u8) -> Self {
        let node = NodeId([end; 16]);
        Self {
            node,
            identity: IdentityKey::generate([end; 32]),
            wireguard: WireGuardKey::generate([end + 10; 32]),
            overlay: identity::overlay_address(&MeshId([7; 32]), &node),
        }
    }
}

/// A gateway's road in a process of its own.
pub async fn plane(end: u8, output: Output) -> Result<(), Failure> {
    let (own, peer) = (Gateway::new(end), Gateway::new(3 - end));
    let filter = filter([&own, &peer])?;
    let socket = Arc::new(MeshSocket::bind_to((Ipv4Addr::LOCALHOST, 0).into())?);
    let port = socket.local_addr().port();
    let road = Road::lay(
        Arc::clone(&socket),
        RoadConfig {
            node: own.node,
            wireguard: own.wireguard,
            overlay: own.overlay,
            allow_loopback: true,
            identity: &own.identity,
            verifier: Arc::new(OnlyKey(peer.identity.public())),
            seed: crate::context::random()?,
        },
    )
    .map_err(anyhow::Error::from)?;
    let Road {
        plane,
        commands,
        mut events,
        endpoint,
        client,
        ..
    } = road;
    tokio::spawn(Counted::new(plane.run()));
    tokio::spawn(plain::accept(endpoint.clone()));
    output.object(&Port { port })?;

    let stopped = |_| Failure::failed("the data plane stopped");
    let mut connection = None;
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match (order.split_once(' ').unwrap_or((&order, "")), &connection) {
            (("meet", port), _) => {
                let port = port.parse().map_err(|_| Failure::usage(&*order))?;
                let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let config = PeerConfig {
                    node: peer.node,
                    wireguard: peer.wireguard.public(),
                    overlay: peer.overlay,
                    relays: Vec::new(),
                    addresses: vec![remote],
                    last_good: vec![remote],
                    leaving: false,
                };
                let at = SocketAddr::from((Ipv4Addr::LOCALHOST, socket.local_addr().port()));
                let candidates = vec![Candidate {
                    addr: at,
                    kind: CandidateKind::Host,
                }];
                for command in [
                    PlaneCommand::Filter(filter.clone()),
                    PlaneCommand::Candidates(candidates),
                    PlaneCommand::Peers(Arc::new(vec![config])),
                ] {
                    commands.send(command).await.map_err(stopped)?;
                }
                output.object(&json!({"met": port}))?;
            }
            (("dial", _), _) => {
                let at = SocketAddr::from((peer.overlay, ROUTER_PORT));
                let connecting = endpoint
                    .connect_with(client.clone(), at, SERVER_NAME)
                    .map_err(anyhow::Error::from)?;
                let opened = connecting.await.map_err(anyhow::Error::from)?;
                direct(&mut events).await?;
                connection = Some(opened);
                output.object(&json!({"connected": true}))?;
            }
            (("counters", _), _) => {
                let sent = socket.counters();
                let (sent_batches, sent_bytes) = (sent.sent_batches, sent.sent_bytes);
                output.object(&Counters {
                    allocations: counted(),
                    sent_batches,
                    sent_bytes,
                })?;
            }
            (("cpu", _), None) => output.object(&Cpu { cpu: plain::cpu() })?,
            (_, Some(connection)) => plain::carry_out(&order, connection, output).await?,
            (_, None) => return Err(Failure::usage("not dialled yet")),
        }
    }
    Ok(())
}

/// Waits until packets go straight to the peer.
async fn direct(events: &mut tokio::sync::mpsc::Receiver<PlaneEvent>) -> Result<(), Failure> {
    let met = async {
        while let Some(event) = events.recv().await {
            if matches!(event, PlaneEvent::Path(_, Some(Link::Direct { .. }))) {
                return;
            }
        }
    };
    tokio::time::timeout(MET_WITHIN, met)
        .await
        .map_err(|_| Failure::failed("the two ends did not meet directly"))
}

/// What a gateway's policy makes of two gateways whose agents may ask each other.
fn filter(gateways: [&Gateway; 2]) -> Result<policy::PacketFilter, Failure> {
    let (document, _) = policy::Document::parse("bench", POLICY)
        .map_err(|said| Failure::failed(format!("the bench's policy is wrong: {said:?}")))?;
    let nodes = gateways.iter().map(|gateway| {
        Ok(policy::Node {
            user: None,
            tags: vec!["tag:gateway".parse().map_err(anyhow::Error::from)?],
            addresses: vec![gateway.overlay.into()],
            ..policy::Node::new(
                gateway.node,
                format!("gw-{}", gateway.node.0[0])
                    .parse()
                    .map_err(anyhow::Error::from)?,
            )
        })
    });
    let nodes = nodes.collect::<Result<Vec<_>, anyhow::Error>>()?;
    Ok(policy::Policy::compile(&document, &nodes).packet_filter(
        &gateways[0].node,
        ROUTER_PORT,
        identity::UnixTime(0),
    ))
}

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": []},
  "grants": [{"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["request"]}],
}"#;

/// Both from issue 3.
const MOST_RATIO: f64 = 2.0;

/// None: what remains are handshakes and probes, a few a minute.
const MOST_ALLOCATIONS: f64 = 0.001;

const MET_WITHIN: Duration = Duration::from_secs(20);
