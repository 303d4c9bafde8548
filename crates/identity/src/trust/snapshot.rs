//! The belief as bytes, for a file that only its node can read.
//!
//! It is read back without verifying anything again but the trust log: the file is the node's own,
//! and an expired or revoked pin must survive as what it was.

use std::collections::BTreeMap;

use crate::cbor::{Fields, FormatError, FromValue, Value};
use crate::certificate::Certificate;
use crate::record;
use crate::trust::accept::claimed_identity;
use crate::trust::{Pin, Trust, TrustError};
use crate::{MeshId, NodeId, PolicyBundle, Revocations, TrustLog, UnixTime, WireGuardPublic};

impl Trust {
    /// Everything that must survive a restart.
    pub fn snapshot(&self) -> Vec<u8> {
        let pins = self.pins.values().map(|pin| {
            let mut parts = vec![Value::Bytes(&pin.certificate), Value::Uint(pin.pinned_at.0)];
            parts.extend(pin.record.as_ref().map(|(_, bytes)| Value::Bytes(bytes)));
            Value::Array(parts)
        });
        let proven = self
            .proven
            .iter()
            .map(|(key, node)| Value::Array(vec![Value::Bytes(&key.0), Value::Bytes(&node.0)]));
        Value::map([
            (VERSION, Some(Value::Uint(1))),
            (TRUST_LOG, Some(Value::Bytes(self.log.bytes()))),
            (
                POLICY,
                self.policy
                    .as_ref()
                    .map(|policy| Value::Bytes(&policy.bytes)),
            ),
            (
                REVOCATIONS,
                self.revocations
                    .as_ref()
                    .map(|held| Value::Bytes(&held.bytes)),
            ),
            (
                HOLDER,
                self.holder.as_ref().map(|node| Value::Bytes(&node.0)),
            ),
            (FLOOR, Some(Value::Uint(self.floor.0))),
            (PINS, Some(Value::Array(pins.collect()))),
            (PROVEN, Some(Value::Array(proven.collect()))),
        ])
        .encode()
    }

    /// Reads back what [`snapshot`](Self::snapshot) wrote.
    pub fn restore(snapshot: &[u8]) -> Result<Self, TrustError> {
        let mut fields = Fields::from_value(Value::decode_own(snapshot)?)?;
        if fields.required::<u64>(VERSION)? != 1 {
            return Err(FormatError::OtherKind.into());
        }
        let log = TrustLog::parse(fields.required(TRUST_LOG)?)?;
        let mesh = log.mesh();
        let policy: Option<&[u8]> = fields.optional(POLICY)?;
        let policy = policy.map(|bytes| PolicyBundle::read(bytes).map(|(_, read)| read));
        let revocations: Option<&[u8]> = fields.optional(REVOCATIONS)?;
        let revocations = revocations.map(|bytes| Revocations::read(bytes).map(|(_, read)| read));
        let holder: Option<NodeId> = fields.optional(HOLDER)?;
        let floor: UnixTime = fields.required(FLOOR)?;
        let pins: Vec<Vec<Value<'_>>> = fields.required(PINS)?;
        let proven: Vec<Vec<Value<'_>>> = fields.required(PROVEN)?;
        fields.finish()?;
        let mut read = BTreeMap::new();
        for parts in pins {
            let pin = read_pin(parts, &mesh)?;
            read.insert(pin.member.node, pin);
        }
        let proven = proven
            .into_iter()
            .map(read_proven)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            log,
            policy: policy.transpose()?,
            revocations: revocations.transpose()?,
            pins: read,
            proven,
            holder,
            floor,
            alarms: Vec::new(),
        })
    }
}

fn read_pin(parts: Vec<Value<'_>>, mesh: &MeshId) -> Result<Pin, FormatError> {
    let mut parts = parts.into_iter();
    let (Some(certificate), Some(pinned_at), record, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(FormatError::Malformed);
    };
    let bytes = <&[u8]>::from_value(certificate)?;
    let certificate = Certificate::parse(bytes, mesh)?;
    let member = certificate.member(mesh, claimed_identity(&certificate, mesh)?);
    let record = match record {
        Some(record) => {
            let record = <&[u8]>::from_value(record)?;
            Some((record::read(record)?.1, record.to_vec()))
        }
        None => None,
    };
    let pinned_at = UnixTime::from_value(pinned_at)?;
    Ok(Pin {
        member,
        certificate: bytes.to_vec(),
        pinned_at,
        record,
    })
}

fn read_proven(parts: Vec<Value<'_>>) -> Result<(WireGuardPublic, NodeId), FormatError> {
    let [key, node] = <[Value<'_>; 2]>::try_from(parts).map_err(|_| FormatError::Malformed)?;
    Ok((WireGuardPublic::from_value(key)?, NodeId::from_value(node)?))
}

const VERSION: u64 = 0;
const TRUST_LOG: u64 = 1;
const POLICY: u64 = 2;
const REVOCATIONS: u64 = 3;
const HOLDER: u64 = 4;
const FLOOR: u64 = 5;
const PINS: u64 = 6;
const PROVEN: u64 = 7;
