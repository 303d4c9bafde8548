//! Clients and a relay on loopback: who gets in, what passes, and what happens when things break.

mod world;

use std::net::SocketAddr;

use bytes::Bytes;
use identity::Heads;
use net::link::{CallAs, CallError, Dialer, LinkEvent, LinkFault, LinkState, call};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use wire::link::{GoneReason, Refusal};
use wire::map::{Document, PublishError};

use world::{Client, SECRET, World, calling, key, node, within};

async fn exchange(one: Dialer, other: Dialer) {
    let world = World::start().await;
    let mut a = Client::open(&world, 1, one).await;
    let mut b = Client::open(&world, 2, other).await;

    a.link.send(node(2), &[7; 1132]);
    let introduced = b.until(|event| matches!(event, LinkEvent::Introduced { .. }));
    let LinkEvent::Introduced {
        from, certificate, ..
    } = introduced.await
    else {
        unreachable!()
    };
    assert_eq!((from, certificate), (node(1), world::certificate(1)));
    b.expect_datagram(node(1), &[7; 1132]).await;
    b.link.send(node(1), b"back");
    a.expect_datagram(node(2), b"back").await;

    assert_eq!(world.relay().counts().passed, 2);
    assert_eq!(a.link.counters().sent, 1);
    assert_eq!(a.link.counters().received, 1);
}

#[tokio::test]
async fn two_clients_exchange_datagrams_over_quic() {
    exchange(world::quic(), world::quic()).await;
}

#[tokio::test]
async fn two_clients_exchange_datagrams_over_tcp() {
    exchange(Dialer::tcp_only(), Dialer::tcp_only()).await;
}

#[tokio::test]
async fn a_client_on_quic_and_one_on_tcp_exchange_datagrams() {
    exchange(world::quic(), Dialer::tcp_only()).await;
}

#[tokio::test]
async fn a_client_learns_its_address_and_how_it_is_connected() {
    let world = World::start().await;
    let quic = Client::open(&world, 1, world::quic()).await;
    let tcp = Client::open(&world, 2, Dialer::tcp_only()).await;

    assert!(matches!(
        *quic.link.state().borrow(),
        LinkState::Quic { .. }
    ));
    assert!(matches!(*tcp.link.state().borrow(), LinkState::Tls { .. }));
    assert!(quic.observed.ip().is_loopback());
    assert!(quic.link.max_datagram().is_some_and(|most| most >= 1132));
}

#[tokio::test]
async fn a_sender_hears_that_nobody_is_there() {
    let world = World::start().await;
    for dialer in [world::quic(), Dialer::tcp_only()] {
        let mut a = Client::open(&world, 1, dialer).await;
        a.link.send(node(9), b"anyone?");
        let gone = a
            .until(|event| matches!(event, LinkEvent::Gone { .. }))
            .await;
        let LinkEvent::Gone { node: whom, reason } = gone else {
            unreachable!()
        };
        assert_eq!((whom, reason), (node(9), GoneReason::NotConnected));
        a.link.close().await;
    }
}

#[tokio::test]
async fn who_does_not_hold_the_beacon_s_key_is_not_spoken_to() {
    let world = World::start().await;
    for dialer in [world::quic(), Dialer::tcp_only()] {
        let (link, _events, _task) = world::dial(&world, 1, key(66).public(), dialer);
        let fault = world::down(&link).await;
        assert!(matches!(fault, LinkFault::WrongKey), "{fault:?}");
    }
    assert_eq!(world.admitted(), 0);
}

#[tokio::test]
async fn who_cannot_prove_its_key_stays_out() {
    let world = World::start().await;
    for dialer in [world::quic(), Dialer::tcp_only()] {
        // Shows the certificate of another.
        let mut config = world::config(&world, 1, key(0).public());
        config.0.identity = key(3).into();
        let (link, _task) = net::link::Link::open(config.0, dialer);
        let fault = world::down(&link).await;
        assert!(
            matches!(fault, LinkFault::Refused(Refusal::Unproven)),
            "{fault:?}"
        );
    }
    let operator = call(calling(&world, 5, CallAs::Operator))
        .await
        .err()
        .expect("not the operator");
    assert!(matches!(
        operator,
        CallError::Link(LinkFault::Refused(Refusal::Forbidden))
    ));
}

#[tokio::test]
async fn an_expired_member_gets_its_map_and_no_relay() {
    let world = World::start().await;
    let mut a = Client::open(&world, 1, world::quic()).await;
    let expired = Client::open(&world, world::EXPIRED, world::quic()).await;

    assert_eq!(expired.restricted, Some(Refusal::Expired));
    expired.link.send(node(1), b"x");
    assert_eq!(expired.link.counters().down, 1);
    a.link.send(node(world::EXPIRED), b"x");
    a.until(|event| matches!(event, LinkEvent::Gone { .. }))
        .await;
}

#[tokio::test]
async fn a_claim_is_made_by_who_knows_its_secret() {
    let world = World::start().await;

    let thief = CallAs::Claimant { secret: [1; 32] };
    let refused = call(calling(&world, 5, thief))
        .await
        .err()
        .expect("a wrong secret");
    assert!(matches!(
        refused,
        CallError::Link(LinkFault::Refused(Refusal::Unproven))
    ));

    let mut session = call(calling(&world, 5, CallAs::Claimant { secret: SECRET }))
        .await
        .expect("the secret");
    session
        .publish(Document::TrustLog(Bytes::from_static(b"log")))
        .await
        .expect("stored");
    let bad = session
        .publish(Document::Policy(Bytes::from_static(b"bad")))
        .await;
    assert!(matches!(
        bad,
        Err(CallError::Refused(PublishError::Unverified))
    ));
    session.close().await;
}

#[tokio::test]
async fn a_joiner_gets_its_receipt_and_the_documents() {
    let world = World::start().await;
    let caller = CallAs::Joiner {
        certificate: world::certificate(7),
    };
    let mut session = call(calling(&world, 7, caller)).await.expect("a joiner");

    let receipt = session
        .enroll(world::certificate(7))
        .await
        .expect("in time");
    let (documents, _) = session.documents(Heads::default()).await.expect("all");

    assert_eq!(receipt, Bytes::from_static(b"receipt"));
    assert_eq!(documents, [Document::TrustLog(Bytes::from_static(b"log"))]);
}

#[tokio::test]
async fn a_fat_hello_is_dropped_and_others_are_not_troubled() {
    let world = World::start().await;
    let mut fat = world::tls_stream(&world).await;
    world::skip_challenge(&mut fat).await;

    fat.write_all(&5000u32.to_le_bytes()).await.expect("open");
    let end = within(fat.read(&mut [0; 64])).await;

    assert!(!matches!(end, Ok(1..)), "no answer");
    Client::open(&world, 1, world::quic()).await;
}

#[tokio::test]
async fn a_slow_hello_is_dropped_in_two_seconds_and_others_are_not_troubled() {
    let world = World::start().await;
    let mut silent = TcpStream::connect(world.addr).await.expect("listens");
    let mut slow = world::tls_stream(&world).await;
    world::skip_challenge(&mut slow).await;
    slow.write_all(&[9, 0]).await.expect("open");

    Client::open(&world, 1, world::quic()).await;
    let ends = within(async { (slow.read(&mut [0; 8]).await, silent.read(&mut [0; 8]).await) });
    let (slow, silent) = ends.await;

    assert!(!matches!(slow, Ok(1..)) && !matches!(silent, Ok(1..)));
}

#[tokio::test]
async fn a_member_that_is_cut_off_is_out_at_once_and_judged_anew() {
    let world = World::start().await;
    let mut a = Client::open(&world, 1, world::quic()).await;

    world.cut.cut(node(1));

    a.until(|event| matches!(event, LinkEvent::Down { .. }))
        .await;
    a.until(|event| matches!(event, LinkEvent::Up { .. })).await;
}

#[tokio::test]
async fn the_newer_connection_of_a_node_replaces_the_older() {
    let world = World::start().await;
    let mut older = Client::open(&world, 1, world::quic()).await;
    let mut newer = Client::open(&world, 1, Dialer::tcp_only()).await;
    let b = Client::open(&world, 2, world::quic()).await;

    older
        .until(|event| matches!(event, LinkEvent::Down { .. }))
        .await;
    older.link.close().await;
    b.link.send(node(1), b"to the newer");

    newer.expect_datagram(node(2), b"to the newer").await;
}

#[tokio::test]
async fn clients_leave_a_relay_that_stops_and_come_back_when_it_starts_again() {
    let mut world = World::start().await;
    let mut a = Client::open(&world, 1, world::quic()).await;
    let mut b = Client::open(&world, 2, Dialer::tcp_only()).await;

    world.stop().await;
    for client in [&mut a, &mut b] {
        client
            .until(|event| matches!(event, LinkEvent::Drain { .. }))
            .await;
        client
            .until(|event| matches!(event, LinkEvent::Down { .. }))
            .await;
    }
    world.start_again().await;
    for client in [&mut a, &mut b] {
        client.link.retry_now();
        client
            .until(|event| matches!(event, LinkEvent::Up { .. }))
            .await;
    }

    a.link.send(node(2), b"again");
    b.expect_datagram(node(1), b"again").await;
}

#[tokio::test]
async fn a_client_that_the_relay_forgot_in_a_crash_is_told_at_its_first_packet() {
    let mut world = World::start().await;
    let mut a = Client::open(&world, 1, world::quic()).await;

    world.crash().await;
    world.start_again().await;
    a.link.send(node(2), &[0; 500]);

    a.until(|event| matches!(event, LinkEvent::Down { .. }))
        .await;
    a.until(|event| matches!(event, LinkEvent::Up { .. })).await;
}

#[tokio::test]
async fn quic_takes_over_when_udp_works_again() {
    let world = World::start().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let front = world::front(&world, udp.local_addr().expect("bound")).await;
    let mut a = Client::open_at(&world, front, 1, world::quic()).await;
    let mut b = Client::open(&world, 2, world::quic()).await;
    assert!(!a.udp, "the front drops what comes by UDP");

    let _forwarding = world::forward(udp, world.addr);
    a.link.retry_now();
    let up = a
        .until(|event| matches!(event, LinkEvent::Up { .. } | LinkEvent::Down { .. }))
        .await;

    assert!(matches!(up, LinkEvent::Up { udp: true, .. }), "{up:?}");
    a.link.send(node(2), b"by quic");
    b.expect_datagram(node(1), b"by quic").await;
}

#[tokio::test]
async fn a_client_whose_address_changes_is_told_its_new_one() {
    let world = World::start().await;
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
    let mut a = Client::open(&world, 1, Dialer::over(endpoint.clone())).await;

    let moved = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let expected: SocketAddr = moved.local_addr().expect("bound");
    endpoint.rebind(moved).expect("a socket");
    a.link.retry_now();

    let told = a
        .until(|event| matches!(event, LinkEvent::Observed(_)))
        .await;
    assert!(
        matches!(told, LinkEvent::Observed(addr) if addr == expected),
        "{told:?}"
    );
}

#[tokio::test]
async fn the_coordinator_closes_a_link_by_letting_go_of_its_session() {
    let world = World::start().await;
    let mut a = Client::open(&world, 1, world::quic()).await;

    // The fake coordinator lets go of who publishes this.
    let document = Document::Policy(Bytes::from_static(b"hang up"));
    a.link
        .request(wire::map::MapRequest::Publish {
            request: 1,
            document,
        })
        .expect("up");

    a.until(|event| matches!(event, LinkEvent::Down { .. }))
        .await;
}

#[tokio::test]
async fn strangers_without_the_protocol_get_no_answer() {
    let world = World::start().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    udp.connect(world.addr).await.expect("loopback");

    let mut unknown_version = vec![0xc0; 1300];
    unknown_version[1..6].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a, 8]);
    unknown_version[14] = 8;
    let mut initial = vec![0xc3; 1300];
    initial[1..8].copy_from_slice(&[0, 0, 0, 1, 8, 1, 2]);
    let garbage: [&[u8]; 6] = [
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x55; 1300],
        &[1, 0, 0, 0, 7],
        &unknown_version,
        &initial,
    ];
    for bytes in garbage {
        udp.send(bytes).await.expect("loopback");
        let mut tcp = TcpStream::connect(world.addr).await.expect("listens");
        tcp.write_all(bytes).await.expect("open");
        tcp.shutdown().await.expect("open");
        let end = within(tcp.read(&mut [0; 64])).await;
        assert!(!matches!(end, Ok(1..)), "answered {bytes:02x?}");
    }
    // What comes after the garbage on the same socket is answered; so the garbage was seen before.
    Client::open(&world, 1, world::quic()).await;

    let answer = udp.into_std().expect("registered").recv(&mut [0; 2000]);
    assert!(answer.is_err(), "{answer:?}"); // it would block
}

#[tokio::test]
async fn a_closed_link_ends_its_task() {
    let world = World::start().await;
    let (link, mut events, task) = world::dial(&world, 1, key(0).public(), world::quic());
    within(events.recv()).await.expect("up");

    link.close().await;

    within(task).await.expect("no panic");
    assert!(matches!(
        *link.state().borrow(),
        LinkState::Down {
            why: LinkFault::Closed
        }
    ));
}

#[tokio::test]
async fn the_mesh_socket_lets_the_beacon_through_while_it_is_dialled() {
    let world = World::start().await;
    let (dialer, outer, _pump) = world::mesh();
    assert!(!outer.is_allowed(world.addr));

    let mut a = Client::open(&world, 1, dialer).await;
    let mut b = Client::open(&world, 2, world::quic()).await;
    assert!(a.udp && outer.is_allowed(world.addr));
    a.link.send(node(2), &[1; 1132]);
    b.expect_datagram(node(1), &[1; 1132]).await;
    b.link.send(node(1), &[2; 1132]);
    a.expect_datagram(node(2), &[2; 1132]).await;
    a.link.close().await;
    a.ended().await;

    assert!(!outer.is_allowed(world.addr));
}
