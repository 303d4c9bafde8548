//! The front on UDP: QUIC with raw public keys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::endpoint::{beacon_endpoint, link_server_config};
use net::link::carrier::Carrier;
use net::tls::AnyKey;
use net::udp::plain;
use quinn::{Endpoint, Incoming, VarInt};
use tracing::trace;

use crate::hub::{Hub, Ticket};
use crate::server::RelayError;
use crate::session::{Client, greet};

/// Binds the port.
pub(crate) fn bind(listen: SocketAddr, hub: &Hub) -> Result<Endpoint, RelayError> {
    // Any key may knock: the link handshake says who it is, and the gatekeeper what that means.
    let server = link_server_config(&hub.key, Arc::new(AnyKey))?;
    beacon_endpoint(listen, server, &hub.key).map_err(|source| RelayError::Bind { listen, source })
}

/// Gives a place to who knocks, or silence. Under load a client must first show that it can be
/// reached where it says it is (RFC 9000 §8.1.2).
pub(crate) fn arrive(incoming: Incoming, hub: &Arc<Hub>) -> Option<(Incoming, Ticket)> {
    if hub.is_busy() && !incoming.remote_address_validated() {
        if let Err(error) = incoming.retry() {
            error.into_incoming().ignore();
        }
        return None;
    }
    match hub.arrive(plain(incoming.remote_address()).ip()) {
        Ok(ticket) => Some((incoming, ticket)),
        Err(full) => {
            trace!(%full, "quic connection ignored");
            incoming.ignore();
            None
        }
    }
}

/// From the first packet to the end of the link handshake. The caller bounds its time.
pub(crate) async fn open(incoming: Incoming, ticket: &Ticket, hub: &Hub) -> Option<Client> {
    let connection = incoming.accept().ok()?.await.ok()?;
    let (send, receive) = connection.open_bi().await.ok()?;
    // Of a client that fails, the last handle goes here: that closes the connection.
    greet(Carrier::quic(connection, send, receive), ticket, hub).await
}

/// Says goodbye to all, and waits until that is on its way.
pub(crate) async fn close(endpoint: Endpoint) {
    endpoint.close(VarInt::from_u32(0), b"");
    let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
}

const GOODBYE: Duration = Duration::from_millis(500);
