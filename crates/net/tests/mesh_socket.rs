//! The mesh socket, alone and under the outer QUIC endpoint, on loopback.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use identity::IdentityKey;
use net::demux::{self, Protocol};
use net::endpoint::{beacon_endpoint, link_client_config, link_server_config, outer_endpoint};
use net::outer::OuterSocket;
use net::tls::{AnyKey, OnlyKey, SERVER_NAME, peer_key};
use net::udp::{MeshSocket, RecvBatch, SendFault, plain};
use tokio::sync::watch;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn port(socket: &MeshSocket) -> SocketAddr {
    loopback(socket.local_addr().port())
}

/// Receives until so many datagrams have come.
async fn receive(socket: &MeshSocket, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = RecvBatch::new();
    let mut datagrams = Vec::new();
    while datagrams.len() < wanted {
        socket.recv(&mut batch).await.expect("received");
        for received in batch.iter_mut() {
            for datagram in received.bytes.chunks(received.stride) {
                datagrams.push((received.remote, datagram.to_vec()));
            }
        }
    }
    datagrams
}

#[tokio::test]
async fn a_batch_arrives_as_the_datagrams_it_was() {
    let a = MeshSocket::bind(0).expect("bound");
    let b = MeshSocket::bind(0).expect("bound");
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i / 1_200) as u8).collect();

    a.try_send(port(&b), &bytes, 1_200).expect("sent");
    let received = soon(receive(&b, 84)).await;

    assert_eq!(received.len(), 84);
    let whole: Vec<u8> = received
        .iter()
        .flat_map(|(_, datagram)| datagram.clone())
        .collect();
    assert!(whole == bytes);
    assert!(
        received[..83]
            .iter()
            .all(|(_, datagram)| datagram.len() == 1_200)
    );
    assert!(
        received.iter().all(|(from, _)| *from == port(&a)),
        "ipv4 stays ipv4"
    );
}

#[tokio::test]
async fn a_socket_without_ipv6_works_alone_and_says_what_it_cannot_reach() {
    let a = MeshSocket::bind_to(loopback(0)).expect("bound");
    let b = MeshSocket::bind(0).expect("bound");

    a.try_send(port(&b), b"ping", 4).expect("sent");
    let (from, datagram) = soon(receive(&b, 1)).await.remove(0);
    assert_eq!((from, datagram.as_slice()), (port(&a), &b"ping"[..]));
    b.try_send(from, b"pong", 4).expect("sent");
    assert_eq!(soon(receive(&a, 1)).await[0].1, b"pong");
    let mapped = SocketAddr::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), from.port());
    a.try_send(mapped, b"self", 4)
        .expect("a mapped address is ipv4");

    let error = a
        .try_send((Ipv6Addr::LOCALHOST, 9).into(), b"x", 1)
        .expect_err("no ipv6");
    assert_eq!(SendFault::of(&error), SendFault::Unreachable);
}

#[tokio::test]
async fn a_taken_port_falls_back_to_a_free_one() {
    let first = MeshSocket::bind(0).expect("bound");
    let wanted = first.local_addr().port();
    let second = MeshSocket::bind(wanted).expect("bound to another");
    assert_ne!(second.local_addr().port(), wanted);
}

#[tokio::test]
async fn a_datagram_that_is_too_large_is_told_from_a_dead_path() {
    let a = MeshSocket::bind(0).expect("bound");
    let error = a
        .try_send(loopback(9), &vec![0; 65_600], 65_600)
        .expect_err("above 64 KiB");
    assert_eq!(SendFault::of(&error), SendFault::TooLarge);
}

/// What the data plane does for the outer endpoint.
fn pump(mesh: Arc<MeshSocket>, outer: Arc<OuterSocket>) -> watch::Receiver<usize> {
    let (seen, watch) = watch::channel(0);
    tokio::spawn(async move {
        let mut batch = RecvBatch::new();
        while mesh.recv(&mut batch).await.is_ok() {
            for received in batch.iter_mut() {
                let (remote, stride) = (received.remote, received.stride);
                for (protocol, run) in demux::runs(received.bytes, stride) {
                    if protocol == Protocol::Quic {
                        outer.deliver(remote, run, stride);
                    }
                }
            }
            seen.send_modify(|count| *count += 1);
        }
    });
    watch
}

#[tokio::test]
async fn a_strangers_initial_gets_no_answer() {
    let mesh = Arc::new(MeshSocket::bind(0).expect("bound"));
    let outer = OuterSocket::new(Arc::clone(&mesh));
    let endpoint = outer_endpoint(Arc::clone(&outer)).expect("endpoint");
    let mut seen = pump(Arc::clone(&mesh), Arc::clone(&outer));
    // An Initial as any client sends it, and a short-header packet that would earn a reset.
    let stranger = UdpSocket::bind(loopback(0)).expect("bound");
    let mut initial = vec![0; 1_200];
    initial[..7].copy_from_slice(&[0xC3, 0, 0, 0, 1, 8, 7]);
    let mut short = vec![7; 1_200];
    short[0] = 0x41;

    for (count, datagram) in [initial, short].iter().enumerate() {
        stranger.send_to(datagram, port(&mesh)).expect("sent");
        soon(seen.wait_for(|seen| *seen > count))
            .await
            .expect("pumping");
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(mesh.counters().sent_batches, 0);
    assert_eq!(outer.dropped(), (2, 0));
    drop(endpoint);
}

#[tokio::test]
async fn a_beacon_sees_the_mesh_sockets_own_address() {
    let (gateway, beacon) = (
        IdentityKey::generate([1; 32]),
        IdentityKey::generate([2; 32]),
    );
    let server = link_server_config(&beacon, Arc::new(AnyKey)).expect("server config");
    let listening = beacon_endpoint(loopback(0), server, &beacon).expect("beacon");
    let at = listening.local_addr().expect("bound");
    let mesh = Arc::new(MeshSocket::bind(0).expect("bound"));
    let outer = OuterSocket::new(Arc::clone(&mesh));
    let endpoint = outer_endpoint(Arc::clone(&outer)).expect("endpoint");
    pump(Arc::clone(&mesh), Arc::clone(&outer));

    outer.allow(at);
    let config = link_client_config(&gateway, Arc::new(OnlyKey(beacon.public()))).expect("config");
    let dialling = endpoint
        .connect_with(config, at, SERVER_NAME)
        .expect("dial");
    let accepting = async { listening.accept().await.expect("open").await };
    let (dialled, accepted) = soon(async { tokio::join!(dialling, accepting) }).await;
    let (dialled, accepted) = (dialled.expect("dialled"), accepted.expect("accepted"));

    assert_eq!(peer_key(&accepted), Some(gateway.public()));
    assert_eq!(plain(accepted.remote_address()), port(&mesh));
    assert_eq!(plain(dialled.remote_address()), at);
    let room = dialled.max_datagram_size().expect("datagrams are on");
    assert!(
        room >= 16 + 1_132,
        "a relayed WireGuard datagram fits: {room}"
    );
    dialled.send_datagram(vec![9; room].into()).expect("sent");
    assert_eq!(
        soon(accepted.read_datagram()).await.expect("open").len(),
        room
    );
    outer.forbid(at);
    assert!(!outer.is_allowed(at));
}
