//! The client's side of the link handshake: the beacon proves its key, and we prove ours.

use identity::{IdentityKey, IdentityPublic};
use std::net::SocketAddr;
use tokio::sync::Mutex;
use wire::link::{BeaconFrame, Caller, ClientFrame, Refusal, Transcript};

use super::LinkFault;
use super::call::CallAs;
use super::carrier::{Carrier, ReadError};
use crate::beacon::claim_mac;
use crate::tls;

/// What the beacon said when it let us in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Welcome {
    pub(super) observed: SocketAddr,
    pub(super) restricted: Option<Refusal>,
}

/// Lets one attempt at a time say hello. At the beacon the newest connection of a node replaces
/// its older one, so two hellos at once could close each other; this way the winner is known here
/// before anybody else speaks.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<Option<Transport>>);

/// What an attempt dials by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Quic,
    Tls,
}

impl Turn {
    /// A race that TLS won before: only QUIC may still say hello.
    pub(super) fn after_tls() -> Self {
        Self(Mutex::new(Some(Transport::Tls)))
    }
}

/// Says who we are, and checks who answers.
pub(super) async fn greet(
    carrier: &mut Carrier,
    expected: Option<IdentityPublic>,
    identity: &IdentityKey,
    caller: &CallAs,
    turn: &Turn,
) -> Result<Welcome, LinkFault> {
    let (beacon_nonce, beacon) = match carrier.reader.next().await {
        Ok(Some(BeaconFrame::Challenge { nonce, key })) => (nonce, key),
        Ok(Some(BeaconFrame::Refused(refusal))) => return Err(LinkFault::Refused(refusal)),
        other => return Err(fault_of(other)),
    };
    if expected.is_some_and(|expected| expected != beacon) {
        return Err(LinkFault::WrongKey);
    }
    if let Some(connection) = &carrier.quic
        && tls::peer_key(connection) != Some(beacon)
    {
        return Err(LinkFault::WrongKey);
    }
    let mut winner = turn.0.lock().await;
    let mine = if carrier.quic.is_some() {
        Transport::Quic
    } else {
        Transport::Tls
    };
    if !matches!(
        (*winner, mine),
        (None, _) | (Some(Transport::Tls), Transport::Quic)
    ) {
        return Err(LinkFault::Closed);
    }
    let transcript = Transcript {
        beacon_nonce,
        client_nonce: random(),
        beacon,
        client: identity.public(),
        exporter: carrier.exporter(),
    };
    let hello = ClientFrame::Hello {
        nonce: transcript.client_nonce,
        key: transcript.client,
        caller: caller_of(caller, &transcript),
        proof: identity.sign(&transcript.client_bytes()).to_vec().into(),
    };
    carrier
        .writer
        .send(&hello)
        .await
        .map_err(|_| LinkFault::Lost)?;
    match carrier.reader.next().await {
        Ok(Some(BeaconFrame::Welcome {
            proof,
            observed,
            restricted,
        })) => {
            identity::verify(&beacon, &transcript.beacon_bytes(), &proof)
                .map_err(|_| LinkFault::WrongKey)?;
            carrier.reader.trust();
            *winner = Some(mine);
            Ok(Welcome {
                observed,
                restricted,
            })
        }
        Ok(Some(BeaconFrame::Refused(refusal))) => Err(LinkFault::Refused(refusal)),
        other => Err(fault_of(other)),
    }
}

/// Thirty-two bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}

fn caller_of(caller: &CallAs, transcript: &Transcript) -> Caller {
    match caller {
        CallAs::Member(papers) => Caller::Member {
            certificate: papers.certificate.clone(),
            record: papers.record.clone(),
        },
        CallAs::Operator => Caller::Operator {
            key: transcript.client,
        },
        CallAs::Joiner { certificate } => Caller::Joiner {
            certificate: certificate.clone(),
        },
        CallAs::Claimant { secret } => Caller::Claimant {
            key: transcript.client,
            mac: claim_mac(secret, transcript),
        },
    }
}

fn fault_of(read: Result<Option<BeaconFrame>, ReadError>) -> LinkFault {
    match read {
        Ok(None) | Err(ReadError::Broken) => LinkFault::Lost,
        Ok(Some(_)) | Err(_) => LinkFault::Protocol,
    }
}
