//! A short session with a beacon: ask, hear the answer, hang up. For the operator (`policy push`,
//! `remove`, `renew`), a joiner, and the claimant of a new beacon.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use identity::{Heads, HostPort, IdentityKey, IdentityPublic};
use tokio::time::timeout;
use wire::link::{BeaconFrame, ClientFrame, Refusal};
use wire::map::{Document, MapRequest, MapUpdate, PublishError};

use super::carrier::{Carrier, ReadError};
use super::dial::{Dialer, Session, Target, race};
use super::{LinkFault, Papers};

/// Whom to call, as whom.
pub struct CallConfig {
    /// Where the beacon listens.
    pub beacon: HostPort,
    /// Its identity key: from its membership, or from the text of its claim.
    pub key: Option<IdentityPublic>,
    /// The key that we prove: an operator's or claimant's role key, a joiner's identity key.
    pub identity: Arc<IdentityKey>,
    /// Who we are.
    pub caller: CallAs,
    /// How long the call, and then each answer, may take.
    pub timeout: Duration,
}

/// Who calls.
#[derive(Clone)]
pub enum CallAs {
    /// A gateway or beacon.
    Member(Papers),
    /// The holder of the operator key.
    Operator,
    /// Who holds a token and wants its receipt.
    Joiner {
        /// Membership and binding.
        certificate: Bytes,
    },
    /// Who claims a new beacon.
    Claimant {
        /// The claim's secret; it is never sent.
        secret: [u8; 32],
    },
}

/// An open session. Dropping it hangs up.
pub struct Call {
    carrier: Carrier,
    dialer: Dialer,
    timeout: Duration,
    next: u32,
    observed: SocketAddr,
    restricted: Option<Refusal>,
}

/// Why a call or a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No UDP socket could be made.
    #[error("cannot open a socket")]
    Socket(#[source] io::Error),
    /// The beacon could not be reached, or did not let us in.
    #[error(transparent)]
    Link(#[from] LinkFault),
    /// It did not answer in time.
    #[error("the beacon did not answer in time")]
    TimedOut,
    /// It answered no.
    #[error("the beacon did not accept it")]
    Refused(#[source] PublishError),
    /// It has more to say than we would keep.
    #[error("the beacon sent more than {} MiB", MAX_KEPT >> 20)]
    TooMuch,
}

/// Calls a beacon, by QUIC or by TLS over TCP, with sockets of its own.
pub async fn call(config: CallConfig) -> Result<Call, CallError> {
    let dialer = Dialer::own().map_err(CallError::Socket)?;
    let CallConfig {
        beacon,
        key,
        identity,
        caller,
        timeout: patience,
    } = config;
    let target = Target {
        beacon,
        key,
        identity,
        caller,
    };
    let session = timeout(patience, race(&target, &dialer))
        .await
        .map_err(|_| CallError::TimedOut)??;
    let Session {
        carrier, welcome, ..
    } = session;
    Ok(Call {
        carrier,
        dialer,
        timeout: patience,
        next: 0,
        observed: welcome.observed,
        restricted: welcome.restricted,
    })
}

impl Call {
    /// Our address, as the beacon sees it.
    pub fn observed(&self) -> SocketAddr {
        self.observed
    }

    /// Set where the beacon serves only our cure.
    pub fn restricted(&self) -> Option<Refusal> {
        self.restricted
    }

    /// Gives a document to the mesh: done when the beacon has stored it.
    pub async fn publish(&mut self, document: Document) -> Result<(), CallError> {
        let request = self.number();
        self.ask(
            MapRequest::Publish { request, document },
            |update| match update {
                MapUpdate::Answer {
                    request: answered,
                    result,
                } if answered == request => Some(result.map_err(CallError::Refused)),
                _ => None,
            },
        )
        .await
    }

    /// Redeems a token: the beacon's receipt for this certificate.
    pub async fn enroll(&mut self, certificate: Bytes) -> Result<Bytes, CallError> {
        let request = self.number();
        self.ask(
            MapRequest::Enroll {
                request,
                certificate,
            },
            |update| match update {
                MapUpdate::Receipt {
                    request: answered,
                    receipt,
                } if answered == request => Some(Ok(receipt)),
                MapUpdate::Answer {
                    request: answered,
                    result: Err(error),
                } if answered == request => Some(Err(CallError::Refused(error))),
                _ => None,
            },
        )
        .await
    }

    /// Everything that the beacon holds and may show us: what is newer than `heads`, and all
    /// members' documents; with the beacon's own heads.
    pub async fn documents(&mut self, heads: Heads) -> Result<(Vec<Document>, Heads), CallError> {
        let mut documents = Vec::new();
        let mut kept = 0;
        let watch = MapRequest::Watch {
            cursor: None,
            heads,
        };
        let heads = self
            .ask(watch, |update| match update {
                MapUpdate::Document(document) => {
                    kept += size_of(&document);
                    documents.push(document);
                    (kept > MAX_KEPT).then_some(Err(CallError::TooMuch))
                }
                MapUpdate::CaughtUp { heads, .. } => Some(Ok(heads)),
                _ => None,
            })
            .await?;
        Ok((documents, heads))
    }

    /// Says goodbye, and waits (a second at most) until it is on its way.
    pub async fn close(mut self) {
        self.carrier.writer.finish().await;
        if let Some(connection) = self.carrier.quic.take() {
            connection.close(quinn::VarInt::from_u32(0), b"");
        }
        drop(self.carrier);
        self.dialer.rest().await;
    }

    /// Sends the request, and takes updates until one of them settles it.
    async fn ask<T>(
        &mut self,
        request: MapRequest,
        mut settles: impl FnMut(MapUpdate) -> Option<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let patience = self.timeout;
        let carrier = &mut self.carrier;
        let asking = async {
            carrier
                .writer
                .send(&ClientFrame::Map(request))
                .await
                .map_err(fault_of)?;
            loop {
                match carrier.reader.next().await.map_err(fault_of)? {
                    Some(BeaconFrame::Map(update)) => {
                        if let Some(settled) = settles(update) {
                            return settled;
                        }
                    }
                    Some(BeaconFrame::Drain { .. }) => return Err(LinkFault::Drained.into()),
                    Some(_) => {}
                    None => return Err(LinkFault::Lost.into()),
                }
            }
        };
        timeout(patience, asking)
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

fn size_of(document: &Document) -> usize {
    let (Document::TrustLog(bytes)
    | Document::Policy(bytes)
    | Document::Revocations(bytes)
    | Document::Certificate(bytes)
    | Document::Record(bytes)) = document;
    bytes.len()
}

fn fault_of(error: ReadError) -> LinkFault {
    match error {
        ReadError::Broken => LinkFault::Lost,
        ReadError::TooLong | ReadError::Malformed(_) => LinkFault::Protocol,
    }
}

/// Ten thousand members' certificates and records, and the largest policy.
const MAX_KEPT: usize = 64 << 20;
