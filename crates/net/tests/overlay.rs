//! Two nodes speak QUIC through their overlays.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{Node, address, node, node_that_accepts, pipe};
use net::overlay::{OverlayPort, PORT, overlay};
use net::tls::{OnlyKey, exporter, peer_key};
use quinn::AsyncUdpSocket;
use quinn::udp::Transmit;

async fn connect(a: &Node, b: &Node) -> (quinn::Connection, quinn::Connection) {
    let (dialled, accepted) = tokio::join!(a.dial(b), b.accept());
    (dialled.expect("dialled"), accepted.expect("accepted"))
}

/// A hung handshake must fail the test, not the CI job.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

#[tokio::test]
async fn two_nodes_prove_their_keys_and_carry_8_mib_each_way() {
    let ((a, to_a), (b, to_b)) = (node(1), node(2));
    let carrier = pipe(to_a, to_b);
    soon(async {
        let (dialled, accepted) = connect(&a, &b).await;
        assert_eq!(peer_key(&dialled), Some(b.key.public()));
        assert_eq!(peer_key(&accepted), Some(a.key.public()));
        assert_eq!(
            exporter(&dialled, b"label", b""),
            exporter(&accepted, b"label", b"")
        );
        assert_ne!(
            exporter(&dialled, b"label", b""),
            exporter(&accepted, b"other", b"")
        );

        let sent = payload(8 << 20);
        let echo = tokio::spawn(async move {
            let (mut send, mut recv) = accepted.accept_bi().await.expect("stream");
            let read = recv.read_to_end(8 << 20).await.expect("whole");
            send.write_all(&read).await.expect("written");
            send.finish().expect("open");
            accepted.closed().await;
        });
        let (mut send, mut recv) = dialled.open_bi().await.expect("stream");
        send.write_all(&sent).await.expect("written");
        send.finish().expect("open");
        let back = recv.read_to_end(8 << 20).await.expect("whole");
        assert!(back == sent);
        dialled.close(0u32.into(), b"");
        echo.await.expect("joined");
    })
    .await;
    assert_eq!(
        a.socket.counters().inbound_dropped + b.socket.counters().inbound_dropped,
        0
    );
    carrier.abort();
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    let ((a, to_a), (b, to_b), (c, _to_c)) = (node(1), node(2), node(3));
    let carrier = pipe(to_a, to_b);
    let dialling = a.dial_expecting(&b, &c.key);
    let (dialled, accepted) = soon(async { tokio::join!(dialling, b.accept()) }).await;
    assert!(dialled.is_err() && accepted.is_err());
    carrier.abort();
}

#[tokio::test]
async fn a_client_with_another_key_is_refused() {
    let (c, _to_c) = node(3);
    let (a, to_a) = node(1);
    let (b, to_b) = node_that_accepts(2, Arc::new(OnlyKey(c.key.public())));
    let carrier = pipe(to_a, to_b);
    soon(async {
        let accepting = tokio::spawn({
            let endpoint = b.endpoint.clone();
            async move { endpoint.accept().await.expect("open").await }
        });
        assert!(accepting.await.expect("joined").is_err());
    })
    .await_after(a.dial(&b))
    .await;
    carrier.abort();
}

/// A gateway that was killed says no goodbye. Its peer must learn of it from the first packet
/// that reaches the new process, not from a timeout.
#[tokio::test]
async fn a_restarted_node_resets_what_the_old_process_held() {
    let ((a, to_a), (b, to_b)) = (node(1), node(2));
    let carrier = pipe_that_returns(to_a, to_b);
    soon(async {
        let (dialled, _accepted) = connect(&a, &b).await;
        let to_a = carrier.stop().await;
        let (_restarted, to_b) = node(2);
        let carrier = pipe(to_a, to_b);

        let (mut send, _recv) = dialled.open_bi().await.expect("stream");
        send.write_all(&payload(500)).await.expect("queued");
        assert_eq!(dialled.closed().await, quinn::ConnectionError::Reset);
        carrier.abort();
    })
    .await;
}

#[tokio::test]
async fn packets_that_are_not_for_us_are_counted_and_dropped() {
    let (a, mut to_a) = node(1);
    to_a.deliver(&[]);
    to_a.deliver(&[0x60; 48]);
    to_a.deliver(&payload(1_400));
    assert_eq!(a.socket.counters().malformed, 3);
}

/// A waker that counts.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_full_ring_holds_quinn_back_and_wakes_each_connection_when_it_drains() {
    let (socket, mut port) = overlay(address(1));
    let contents = [7; 10 * 1_392];
    let transmit = Transmit {
        destination: (address(2), PORT).into(),
        ecn: None,
        contents: &contents,
        segment_size: Some(1_392),
        src_ip: None,
    };
    let mut pollers = [(); 2].map(|()| Arc::clone(&socket).create_io_poller());
    let woken = [(); 2].map(|()| Arc::new(Woken::default()));
    let mut sent = 0;
    while socket.try_send(&transmit).is_ok() {
        sent += 10;
        assert!(sent < 10_000, "the ring is bounded");
    }
    assert!(socket.counters().held_back > 0);
    for (poller, woken) in pollers.iter_mut().zip(&woken) {
        let waker = Arc::clone(woken).into();
        let mut cx = Context::from_waker(&waker);
        assert!(poller.as_mut().poll_writable(&mut cx).is_pending());
        assert!(
            poller.as_mut().poll_writable(&mut cx).is_pending(),
            "registered once"
        );
    }
    let mut cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    while let Poll::Ready(count) = port.poll_packets(&mut cx, 64, &mut |_| ()) {
        taken += count;
    }
    assert_eq!(taken, sent);
    assert_eq!(woken.map(|woken| woken.0.load(Ordering::Relaxed)), [1, 1]);
    assert!(socket.try_send(&transmit).is_ok());
}

#[test]
fn what_quinn_does_not_take_in_is_dropped_and_counted() {
    let ((sender, mut outbound), (receiver, mut inbound)) =
        (overlay(address(1)), overlay(address(2)));
    let contents = [7; 1_392];
    let transmit = Transmit {
        destination: receiver.addr().into(),
        ecn: None,
        contents: &contents,
        segment_size: None,
        src_ip: None,
    };
    let mut cx = Context::from_waker(Waker::noop());
    let mut before_congestion = 0;
    for _ in 0..2_000 {
        sender.try_send(&transmit).expect("drained at once");
        let _ = outbound.poll_packets(&mut cx, 1, &mut |packet| inbound.deliver(packet));
        before_congestion += usize::from(!inbound.is_congested());
    }
    assert!((100..1_000).contains(&before_congestion));
    assert!(receiver.counters().inbound_dropped > 1_000);
}

struct Carrier {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<OverlayPort>,
}

impl Carrier {
    async fn stop(self) -> OverlayPort {
        self.stop.send(()).expect("running");
        self.task.await.expect("joined")
    }
}

/// As [`pipe`]; when stopped, the second node is cut off and the first one's end comes back.
fn pipe_that_returns(mut a: OverlayPort, mut b: OverlayPort) -> Carrier {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        std::future::poll_fn(|cx| {
            loop {
                if std::pin::Pin::new(&mut stopped).poll(cx).is_ready() {
                    return std::task::Poll::Ready(());
                }
                let there = a.poll_packets(cx, 64, &mut |packet| b.deliver(packet));
                let back = b.poll_packets(cx, 64, &mut |packet| a.deliver(packet));
                if there.is_pending() && back.is_pending() {
                    return std::task::Poll::Pending;
                }
            }
        })
        .await;
        a
    });
    Carrier { stop, task }
}

/// Runs a dial that is bound to fail beside the rest.
trait Beside: Future + Sized {
    async fn await_after(self, dial: quinn::Connecting) -> Self::Output {
        let (output, _refused) = tokio::join!(self, async {
            let connected = dial.await;
            // TLS 1.3: the client is done before the server has judged it; it hears by a close.
            if let Ok(connection) = connected {
                connection.closed().await;
            }
        });
        output
    }
}

impl<F: Future> Beside for F {}
