//! The only file that names boringtun: its noise part, behind `WgSession`.
//!
//! `update_timers` is called right before a handshake message is made or an initiation is taken, and
//! at no other time. boringtun's timers start handshakes on sparse traffic (up to 225 an hour,
//! paths.md §3.4), forget a live session when one of their handshakes stays unanswered, and read a
//! clock that no test can turn: so [`Session`] decides when to shake hands and when a key is too
//! old. It cannot do without that call altogether: it alone moves the time by which boringtun
//! orders its keys. Without an order, two keys that are in flight at the same time take turns for
//! ever, each packet of one making its receiver send with it.
//!
//! Never reached: `encapsulate` without a session (it would queue and initiate by itself), and
//! cookies (our limiter drops what is too much, by source, before any Diffie-Hellman).
//!
//! [`Session`]: crate::session::Session

use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use identity::{WireGuardKey, WireGuardPublic};

use crate::session::{INIT, Opened, Unopened, WgSession};

/// Our key pair, and the check that a sender knows its public half.
pub(crate) struct Keys {
    secret: StaticSecret,
    public: PublicKey,
    /// Only its mac1 check is used: with this limit it never answers with a cookie.
    mac1: Arc<RateLimiter>,
}

/// The sessions with one peer.
pub(crate) struct WireGuard(Tunn);

impl Keys {
    pub(crate) fn new(key: &WireGuardKey) -> Self {
        let secret = StaticSecret::from(*key.to_bytes());
        let public = PublicKey::from(&secret);
        let mac1 = Arc::new(RateLimiter::new(&public, u64::MAX));
        Self {
            secret,
            public,
            mac1,
        }
    }

    /// Whether a handshake message carries a mac1 for our key. Cheap: one keyed hash.
    pub(crate) fn knows_us(&self, datagram: &[u8]) -> bool {
        let mut unused = [0; 64];
        self.mac1.verify_packet(None, datagram, &mut unused).is_ok()
    }

    /// Who sends this initiation: one Diffie-Hellman, so only after `knows_us` and the limiter.
    pub(crate) fn initiator(&self, datagram: &[u8]) -> Option<WireGuardPublic> {
        match Tunn::parse_incoming_packet(datagram).ok()? {
            Packet::HandshakeInit(init) => {
                let half = parse_handshake_anon(&self.secret, &self.public, &init).ok()?;
                Some(WireGuardPublic(half.peer_static_public))
            }
            _ => None,
        }
    }
}

impl WireGuard {
    pub(crate) fn new(keys: &Keys, peer: &WireGuardPublic, index: u32) -> Self {
        let peer = PublicKey::from(peer.0);
        let limiter = Some(keys.mac1.clone());
        Self(Tunn::new(
            keys.secret.clone(),
            peer,
            None,
            None,
            index,
            limiter,
        ))
    }
}

impl WgSession for WireGuard {
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        match self.0.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(datagram) if datagram[0] == DATA => Some(datagram.len()),
            _ => None,
        }
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Opened, Unopened> {
        if datagram.len() == INIT && datagram[0] == INITIATION {
            // What the timers may want sent is moot: the answer to this makes a new key.
            let _ = self.0.update_timers(&mut [0; INIT]);
        }
        match self.0.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV6(packet, _) | TunnResult::WriteToTunnelV4(packet, _) => {
                Ok(Opened::Packet(packet.len()))
            }
            TunnResult::WriteToNetwork(reply) => Ok(Opened::Reply(reply.len())),
            TunnResult::Done => Ok(Opened::Nothing),
            TunnResult::Err(WireGuardError::WrongTai64nTimestamp) => Err(Unopened::Stale),
            TunnResult::Err(_) => Err(Unopened::Unauthentic),
        }
    }

    fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        if let TunnResult::WriteToNetwork(datagram) = self.0.update_timers(out)
            && datagram.len() == INIT
            && datagram[0] == INITIATION
        {
            return Some(INIT);
        }
        match self.0.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    fn has_key(&self) -> bool {
        self.0.time_since_last_handshake().is_some()
    }
}

/// First bytes of messages (WireGuard whitepaper §5.4).
const INITIATION: u8 = 1;
const DATA: u8 = 4;
