//! The front on TCP, for networks without UDP: TLS as on any web server, to who asks for our
//! protocol; to anybody else, silence.

use std::net::SocketAddr;
use std::sync::Arc;

use net::link::carrier::Carrier;
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::server::StartHandshake;
use wire::link::{ALPN, PRE_AUTHENTICATION_BYTES};

use crate::hub::{Hub, Ticket};
use crate::session::{Client, greet};

/// From the first byte to the end of the link handshake. The caller bounds its time.
pub(crate) async fn open(
    mut stream: TcpStream,
    remote: SocketAddr,
    config: Arc<ServerConfig>,
    ticket: &Ticket,
    hub: &Hub,
) -> Option<Client> {
    // Without it Nagle would hold back datagrams; one that fails is a slower link.
    let _ = stream.set_nodelay(true);
    let accepted = client_hello(&mut stream).await?;
    let stream = StartHandshake::from_parts(accepted, stream)
        .into_stream(config)
        .await
        .ok()?;
    greet(Carrier::stream(stream, remote), ticket, hub).await
}

/// Reads a TLS client hello that asks for our protocol. Rustls would answer anything else with an
/// alert; here it gets nothing.
async fn client_hello(stream: &mut TcpStream) -> Option<Accepted> {
    let mut acceptor = Acceptor::default();
    let mut buffer = [0; PRE_AUTHENTICATION_BYTES];
    let mut left = buffer.len();
    while left > 0 {
        let read = stream
            .read(&mut buffer[..left])
            .await
            .ok()
            .filter(|read| *read > 0)?;
        left -= read;
        let mut bytes = &buffer[..read];
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).ok()?;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let ours = accepted
                .client_hello()
                .alpn()?
                .any(|protocol| protocol == ALPN);
            return ours.then_some(accepted);
        }
    }
    None
}
