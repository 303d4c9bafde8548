//! Who may come in. The relay asks before it serves a link; the answer rests on the signatures of
//! the documents alone, and on a proof over this very connection.
//!
//! | caller | shows | proves with |
//! |---|---|---|
//! | member | certificate, record | its identity key; expired or revoked: let in for its cure |
//! | operator | key | the operator key of the trust log |
//! | joiner | membership and binding | the identity key that the binding names |
//! | claimant | key, MAC | its key, and the claim's secret by HMAC |

use std::sync::Arc;

use identity::{IdentityKey, IdentityPublic, verify};
use net::beacon::{Admission, Gatekeeper, Who};
use wire::link::{Caller, Refusal, Transcript};

use crate::serve::Coordinator;

impl Gatekeeper for Coordinator {
    fn key(&self) -> Arc<IdentityKey> {
        self.identity()
    }

    fn admit(
        &self,
        caller: &Caller,
        transcript: &Transcript,
        proof: &[u8],
    ) -> Result<Admission, Refusal> {
        let now = self.now();
        let mut core = self.core();
        // The key that the papers name must be the one that the transport showed and that signed.
        let proven = |key: IdentityPublic| match key == transcript.client {
            true => verify(&key, &transcript.client_bytes(), proof).map_err(|_| Refusal::Unproven),
            false => Err(Refusal::Unproven),
        };
        let (who, restricted) = match caller {
            Caller::Member {
                certificate,
                record,
            } => {
                let (node, key) = core.handle_shown(certificate, now)?;
                proven(key)?;
                (
                    Who::Member(node),
                    core.handle_papers(certificate, record, now)?,
                )
            }
            Caller::Operator { key } => {
                if !core.is_claimed() {
                    return Err(Refusal::Unclaimed);
                }
                if core.trust().and_then(|trust| trust.operator_key()) != Some(*key) {
                    return Err(Refusal::Unproven);
                }
                proven(*key)?;
                (Who::Operator, None)
            }
            Caller::Joiner { certificate } => {
                proven(core.handle_joiner(certificate, now.clock)?)?;
                (Who::Joiner, None)
            }
            Caller::Claimant { key, mac } => {
                if core.is_claimed() {
                    return Err(Refusal::AlreadyClaimed);
                }
                if !self.claim_verifies(transcript, mac) {
                    return Err(Refusal::Unproven);
                }
                proven(*key)?;
                (Who::Claimant, None)
            }
        };
        drop(core);
        self.wake();
        Ok(Admission { who, restricted })
    }
}
