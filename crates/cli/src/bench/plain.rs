//! Stock quinn, to compare with: X.509, AES-128-GCM, a UDP socket as it comes, quinn's own transport
//! but for the MTU, which is that of QUIC inside the tunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use net::overlay::MAX_PAYLOAD;
use net::tls::SERVER_NAME;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::BODY;
use super::worker::{Worker, orders};
use crate::failure::Failure;
use crate::output::Output;

/// What the server says first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    pub address: SocketAddr,
    pub certificate: String,
}

/// The answer to `cpu`: user and system time of the process, in seconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cpu {
    pub cpu: f64,
}

/// The answer to `bulk N`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved {
    pub seconds: f64,
    pub lost: u64,
    pub mtu: u16,
}

/// The answer to `ask N`: each round trip, in microseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    pub micros: Vec<f64>,
}

/// Both ends of a stock connection, in processes of their own.
pub async fn pair() -> Result<(Worker, Worker), Failure> {
    let mut server = Worker::start(None, &["plain-server"])?;
    let listening: Listening = server.hear().await?;
    let mut client = Worker::start(
        None,
        &[
            "plain-client",
            &listening.address.to_string(),
            &listening.certificate,
        ],
    )?;
    let _: serde_json::Value = client.hear().await?;
    Ok((client, server))
}

/// The listening end.
pub async fn serve(output: Output) -> Result<(), Failure> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])
        .map_err(anyhow::Error::from)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(aes_128()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(anyhow::Error::from)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .map_err(anyhow::Error::from)?;
    let tls = QuicServerConfig::try_from(tls).map_err(anyhow::Error::from)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    output.object(&Listening {
        address: endpoint.local_addr()?,
        certificate: HEXLOWER.encode(made.cert.der()),
    })?;
    tokio::spawn(accept(endpoint));
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "cpu" => output.object(&Cpu { cpu: cpu() })?,
            _ => return Err(Failure::usage(order)),
        }
    }
    Ok(())
}

/// The dialling end.
pub async fn dial(address: SocketAddr, certificate: &str, output: Output) -> Result<(), Failure> {
    let certificate = HEXLOWER
        .decode(certificate.as_bytes())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(certificate))
        .map_err(anyhow::Error::from)?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(aes_128()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(anyhow::Error::from)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = QuicClientConfig::try_from(tls).map_err(anyhow::Error::from)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(anyhow::Error::from)?;
    let connection = connecting.await.map_err(anyhow::Error::from)?;
    output.object(&json!({"connected": true}))?;
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        carry_out(&order, &connection, output).await?;
    }
    Ok(())
}

/// An order to whoever holds the dialling end of a connection, stock or inside the tunnel.
pub async fn carry_out(
    order: &str,
    connection: &quinn::Connection,
    output: Output,
) -> Result<(), Failure> {
    let (verb, count) = order.split_once(' ').unwrap_or((order, "0"));
    let count: u64 = count.parse().map_err(|_| Failure::usage(order))?;
    match verb {
        "cpu" => output.object(&Cpu { cpu: cpu() }),
        "bulk" => output.object(&bulk(connection, count).await.map_err(anyhow::Error::from)?),
        "ask" => output.object(&ask(connection, count).await.map_err(anyhow::Error::from)?),
        _ => Err(Failure::usage(order)),
    }
}

async fn bulk(connection: &quinn::Connection, bytes: u64) -> Result<Moved, quinn::WriteError> {
    let (begun, lost) = (Instant::now(), connection.stats().path.lost_packets);
    let mut stream = connection.open_uni().await?;
    let block = vec![7; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(BLOCK as u64);
        stream.write_all(&block[..now as usize]).await?;
        left -= now;
    }
    // Finished once and never reset: this resolves when the other end has it all.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    let path = connection.stats().path;
    Ok(Moved {
        seconds: begun.elapsed().as_secs_f64(),
        lost: path.lost_packets - lost,
        mtu: path.current_mtu,
    })
}

async fn ask(connection: &quinn::Connection, count: u64) -> Result<Asked, quinn::WriteError> {
    let mut micros = Vec::new();
    let question = [7; BODY];
    for _ in 0..count {
        let begun = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&question).await?;
        let _ = send.finish();
        let answer = receive.read_to_end(BODY).await;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
        if answer.is_ok_and(|answer| answer.len() != BODY) {
            micros.pop();
        }
    }
    Ok(Asked { micros })
}

/// Takes what any client sends, and answers what it asks.
pub async fn accept(endpoint: quinn::Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else {
            continue;
        };
        let connection = Arc::new(connection);
        tokio::spawn(swallow(connection.clone()));
        tokio::spawn(echo(connection));
    }
}

async fn swallow(connection: Arc<quinn::Connection>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
    }
}

async fn echo(connection: Arc<quinn::Connection>) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let Ok(question) = receive.read_to_end(BODY).await else {
            continue;
        };
        if send.write_all(&question).await.is_ok() {
            let _ = send.finish();
        }
    }
}

fn transport() -> quinn::TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_PAYLOAD as u16);
    let mut transport = quinn::TransportConfig::default();
    transport.mtu_discovery_config(Some(discovery));
    transport
}

fn aes_128() -> rustls::crypto::CryptoProvider {
    use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
    rustls::crypto::CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    }
}

/// User and system time of this process, in seconds.
pub fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// What is written at once.
const BLOCK: usize = 64 << 10;
