//! What bulk through the overlay costs beside plain quinn, in CPU-seconds per GB of both ends.
//!
//! ```sh
//! cargo run --release -p crabmesh-net --example overlay_bulk [MEGABYTES [ROUNDS]]
//! ```
//! Each end is a thread with a runtime of its own, as two gateways on one host would be. The modes:
//! `plain` stock quinn over a loopback UDP socket, AES-128-GCM, same MTU; `plain-256` the same with
//! our TLS; `overlay` QUIC in inner packets in batches over two mesh sockets, without encryption;
//! `sealed` the same with WireGuard's ChaCha20-Poly1305 and framing.
#![allow(clippy::print_stdout)] // it is a table

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use identity::IdentityKey;
use net::endpoint::{
    overlay_client_config, overlay_endpoint, overlay_server_config, overlay_transport,
};
use net::overlay::{MAX_PAYLOAD, OverlayPort, overlay};
use net::tls::{AnyKey, SERVER_NAME};
use net::udp::{MeshSocket, RecvBatch};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Plain,
    Plain256,
    Overlay,
    Sealed,
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map_while(|text| text.parse::<usize>().ok());
    let bytes = arguments.next().unwrap_or(400) * 1_000_000;
    let rounds = arguments.next().unwrap_or(3);
    println!(
        "{:>10} {:>7} {:>10} {:>8}",
        "mode", "Gbit/s", "CPU-s/GB", "x plain"
    );
    let modes = [Mode::Plain, Mode::Plain256, Mode::Overlay, Mode::Sealed];
    let mut costs = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let mut plain = 0.0;
        for (mode, costs) in modes.into_iter().zip(&mut costs) {
            let (elapsed, cpu, notes) = run(mode, bytes);
            let cost = cpu * 1e9 / bytes as f64;
            if mode == Mode::Plain {
                plain = cost;
            }
            costs.push(cost / plain);
            let rate = bytes as f64 * 8e-9 / elapsed.as_secs_f64();
            println!(
                "{:>10} {rate:>7.2} {cost:>10.3} {:>8.2}  {notes}",
                format!("{mode:?}"),
                cost / plain
            );
        }
    }
    for (mode, mut costs) in modes.into_iter().zip(costs) {
        costs.sort_by(f64::total_cmp);
        println!(
            "{:>10}: median {:.2} x plain",
            format!("{mode:?}"),
            costs[costs.len() / 2]
        );
    }
}

/// Moves so many bytes from one end to the other: wall time, and CPU of both ends.
fn run(mode: Mode, bytes: usize) -> (Duration, f64, String) {
    let (to_client, from_server) = mpsc::channel();
    let (to_server, from_client) = mpsc::channel::<SocketAddr>();
    let server = std::thread::spawn(move || {
        runtime().block_on(async move {
            let End { endpoint, at, mesh } = end(
                mode,
                2,
                || from_client.recv().expect("told"),
                |at| {
                    to_client.send(at).expect("listening");
                },
            )
            .await;
            let _ = (at, mesh);
            let connection = endpoint
                .accept()
                .await
                .expect("open")
                .await
                .expect("accepted");
            let mut stream = connection.accept_uni().await.expect("stream");
            let mut left = bytes;
            while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.expect("open") {
                left -= chunk.bytes.len();
            }
            assert_eq!(left, 0);
            connection.close(0u32.into(), b"");
            endpoint.wait_idle().await;
        });
    });
    let client = std::thread::spawn(move || {
        runtime().block_on(async move {
            let End { endpoint, at, mesh } = end(
                mode,
                1,
                || from_server.recv().expect("told"),
                |at| {
                    to_server.send(at).expect("listening");
                },
            )
            .await;
            let (connection, started, cpu) = {
                let config = client_config(mode);
                let connection = endpoint
                    .connect_with(config, at, SERVER_NAME)
                    .expect("dial")
                    .await
                    .expect("up");
                // Let MTU discovery end before the clock starts.
                let deadline = Instant::now() + Duration::from_secs(2);
                while Instant::now() < deadline {
                    if connection.stats().path.current_mtu >= MAX_PAYLOAD as u16 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (connection, Instant::now(), cpu_seconds())
            };
            let mut stream = connection.open_uni().await.expect("stream");
            let block = vec![7; 64 << 10];
            let mut left = bytes;
            while left > 0 {
                let now = left.min(block.len());
                stream.write_all(&block[..now]).await.expect("written");
                left -= now;
            }
            stream.finish().expect("open");
            connection.closed().await;
            let result = (started.elapsed(), cpu_seconds() - cpu);
            let path = connection.stats().path;
            let mut notes = format!("{} lost, mtu {}", path.lost_packets, path.current_mtu);
            if let Some(mesh) = mesh {
                let sent = mesh.counters();
                notes += &format!(", {} bytes a send", sent.sent_bytes / sent.sent_batches);
            }
            (result.0, result.1, notes)
        })
    });
    let result = client.join().expect("client");
    server.join().expect("server");
    result
}

struct End {
    endpoint: quinn::Endpoint,
    /// What it would dial.
    at: SocketAddr,
    mesh: Option<Arc<MeshSocket>>,
}

/// Sets one end up.
async fn end(
    mode: Mode,
    seed: u8,
    learn: impl FnOnce() -> SocketAddr,
    tell: impl FnOnce(SocketAddr),
) -> End {
    let key = IdentityKey::generate([seed; 32]);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    if matches!(mode, Mode::Plain | Mode::Plain256) {
        let server = match mode {
            Mode::Plain => stock_server(),
            _ => overlay_server_config(&key, Arc::new(AnyKey)).expect("server"),
        };
        let endpoint = quinn::Endpoint::server(server, loopback).expect("bound");
        tell(endpoint.local_addr().expect("bound"));
        return End {
            endpoint,
            at: learn(),
            mesh: None,
        };
    }
    let mesh = Arc::new(MeshSocket::bind_to(loopback).expect("bound"));
    tell(mesh.local_addr());
    let remote = learn();
    let address = |seed: u8| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(seed));
    let (socket, port) = overlay(address(seed));
    let server = overlay_server_config(&key, Arc::new(AnyKey)).expect("server");
    let endpoint = overlay_endpoint(socket, server, &key).expect("endpoint");
    tokio::spawn(carry(Arc::clone(&mesh), remote, port, mode == Mode::Sealed));
    let at = SocketAddr::from((address(3 - seed), net::overlay::PORT));
    End {
        endpoint,
        at,
        mesh: Some(mesh),
    }
}

fn client_config(mode: Mode) -> quinn::ClientConfig {
    match mode {
        Mode::Plain => stock_client(),
        _ => overlay_client_config(&IdentityKey::generate([1; 32]), Arc::new(AnyKey))
            .expect("client"),
    }
}

/// Stock quinn: X.509 and AES-128-GCM, with the overlay's MTU and windows.
fn stock_server() -> quinn::ServerConfig {
    let (chain, key) = (vec![certificate().0.clone()], certificate().1.clone());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aes_128()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("1.3")
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key).into())
        .expect("fits");
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(config).expect("quic");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
    config.transport_config(Arc::new(overlay_transport()));
    config
}

fn stock_client() -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate().0.clone()).expect("a certificate");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(aes_128()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("quic");
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(overlay_transport()));
    config
}

fn certificate() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static MADE: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).expect("made");
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
}

fn aes_128() -> rustls::crypto::CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
    rustls::crypto::CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    }
}

/// The data plane reduced to its packets: inner packets out as one GSO batch, GRO batches in.
async fn carry(mesh: Arc<MeshSocket>, remote: SocketAddr, mut port: OverlayPort, sealed: bool) {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("32 bytes");
    let key = LessSafeKey::new(key);
    let mut batch = RecvBatch::new();
    let mut outgoing = Outgoing {
        bytes: Vec::with_capacity(MAX_BATCH),
        segment: 0,
        ended: false,
    };
    let mut counter = 0u64;
    std::future::poll_fn(|cx| {
        for _ in 0..16 {
            if port.is_congested() {
                cx.waker().wake_by_ref(); // quinn first
                break;
            }
            match mesh.poll_recv(cx, &mut batch) {
                Poll::Ready(result) => {
                    result.expect("received");
                    for received in batch.iter_mut() {
                        for datagram in received.bytes.chunks_mut(received.stride) {
                            if let Some(packet) = open(&key, datagram, sealed) {
                                port.deliver(packet);
                            }
                        }
                    }
                }
                Poll::Pending => break,
            }
        }
        let mut full = false;
        while !full {
            let taken = port.poll_packets(cx, 256, &mut |packet| {
                counter += 1;
                if !outgoing.takes(packet.len() + OVERHEAD) {
                    full |= !outgoing.flush(&mesh, remote);
                }
                outgoing.push(&key, packet, counter, sealed);
            });
            if taken.is_pending() {
                break;
            }
            full |= !outgoing.flush(&mesh, remote);
        }
        if full {
            let _ = mesh.poll_writable(cx).map(|_| cx.waker().wake_by_ref());
        }
        Poll::<()>::Pending
    })
    .await
}

struct Outgoing {
    bytes: Vec<u8>,
    segment: usize,
    ended: bool,
}

impl Outgoing {
    fn takes(&self, len: usize) -> bool {
        self.bytes.is_empty()
            || (!self.ended
                && len <= self.segment
                && self.bytes.len() + len <= MAX_BATCH
                && self.bytes.len() / self.segment < 64)
    }

    fn push(&mut self, key: &LessSafeKey, packet: &[u8], counter: u64, sealed: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        self.bytes.extend_from_slice(&counter.to_le_bytes());
        self.bytes.extend_from_slice(packet);
        let tag = match sealed {
            true => {
                let body = &mut self.bytes[start + 16..];
                let nonce = nonce(counter);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::empty(), body)
                    .expect("sealed");
                tag.as_ref().try_into().expect("16 bytes")
            }
            false => [0; 16],
        };
        self.bytes.extend_from_slice(&tag);
        let len = self.bytes.len() - start;
        if start == 0 {
            self.segment = len;
            self.ended = false;
        }
        self.ended |= len < self.segment;
    }

    fn flush(&mut self, mesh: &MeshSocket, remote: SocketAddr) -> bool {
        if self.bytes.is_empty() {
            return true;
        }
        let sent = mesh.try_send(remote, &self.bytes, self.segment);
        self.bytes.clear(); // a full socket loses the batch here; the real data plane keeps it
        sent.is_ok()
    }
}

fn open<'a>(key: &LessSafeKey, datagram: &'a mut [u8], sealed: bool) -> Option<&'a [u8]> {
    let counter = u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?);
    let body = datagram.get_mut(16..)?;
    match sealed {
        true => key
            .open_in_place(nonce(counter), Aad::empty(), body)
            .ok()
            .map(|body| &*body),
        false => Some(&body[..body.len().checked_sub(16)?]),
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("linux");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .collect();
    let ticks: f64 = [11, 12]
        .map(|at: usize| fields[at].parse::<f64>().expect("ticks"))
        .iter()
        .sum();
    ticks / 100.0 // USER_HZ
}

const OVERHEAD: usize = 32;
const MAX_BATCH: usize = 65_507;
