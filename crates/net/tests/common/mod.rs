//! Nodes joined by a pipe in memory instead of a tunnel.
#![allow(dead_code)]

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::task::Poll;

use identity::IdentityKey;
use net::endpoint::{overlay_client_config, overlay_endpoint, overlay_server_config};
use net::overlay::{OverlayPort, OverlaySocket, overlay};
use net::tls::{AnyKey, KeyVerifier, OnlyKey, SERVER_NAME};
use tokio::task::JoinHandle;

pub struct Node {
    pub key: IdentityKey,
    pub socket: Arc<OverlaySocket>,
    pub endpoint: quinn::Endpoint,
}

pub fn address(seed: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x1234, 0x5678, 0, 0, 0, 0, u16::from(seed))
}

pub fn node(seed: u8) -> (Node, OverlayPort) {
    node_that_accepts(seed, Arc::new(AnyKey))
}

pub fn node_that_accepts(seed: u8, verifier: Arc<dyn KeyVerifier>) -> (Node, OverlayPort) {
    let key = IdentityKey::generate([seed; 32]);
    let (socket, port) = overlay(address(seed));
    let server = overlay_server_config(&key, verifier).expect("server config");
    let endpoint = overlay_endpoint(Arc::clone(&socket), server, &key).expect("endpoint");
    (
        Node {
            key,
            socket,
            endpoint,
        },
        port,
    )
}

impl Node {
    pub fn dial(&self, to: &Node) -> quinn::Connecting {
        self.dial_expecting(to, &to.key)
    }

    pub fn dial_expecting(&self, to: &Node, key: &IdentityKey) -> quinn::Connecting {
        let config = overlay_client_config(&self.key, Arc::new(OnlyKey(key.public())));
        self.endpoint
            .connect_with(
                config.expect("client config"),
                to.socket.addr().into(),
                SERVER_NAME,
            )
            .expect("dial")
    }

    pub async fn accept(&self) -> Result<quinn::Connection, quinn::ConnectionError> {
        self.endpoint.accept().await.expect("open").await
    }
}

/// Carries packets both ways until aborted.
pub fn pipe(mut a: OverlayPort, mut b: OverlayPort) -> JoinHandle<()> {
    tokio::spawn(std::future::poll_fn(move |cx| {
        loop {
            let there = a.poll_packets(cx, 64, &mut |packet| b.deliver(packet));
            let back = b.poll_packets(cx, 64, &mut |packet| a.deliver(packet));
            if there.is_pending() && back.is_pending() {
                return Poll::Pending;
            }
        }
    }))
}
