//! Memberships, bindings, receipts; and the certificate, which is a membership with the other two
//! where its holder came by token.
//!
//! The issuer's part fixes everything that a policy can match, and a [`Member`] takes its
//! attributes from nowhere else. Node id and overlay address are derived, never believed.

use crate::cbor::{FormatError, FromValue, Value};
use crate::envelope::{self, Kind, Sealed};
use crate::keys::{IdentityKey, SignatureError};
use crate::member::overlay_address;
use crate::{
    Enrolment, Floors, HostPort, IdentityPublic, Member, MeshId, NodeId, NodeName, Order, Role,
    Tag, UnixTime, UserName,
};

/// What the issuer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) serial: u64,
    pub(crate) issuer_epoch: u32,
    pub(crate) enrolment: Enrolment,
    pub(crate) role: Role,
    pub(crate) name: NodeName,
    pub(crate) user: Option<UserName>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) beacon: Option<HostPort>,
    pub(crate) issued_at: UnixTime,
    pub(crate) not_before: UnixTime,
    pub(crate) expires_at: UnixTime,
    pub(crate) floors: Floors,
    pub(crate) subject: Subject,
}

/// Whose identity key the membership is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// This one.
    Identity(IdentityPublic),
    /// The one that the enrolment's token key binds, and that this beacon received in this window.
    Token(Window),
}

/// When and where a token can be redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) opens: UnixTime,
    pub(crate) closes: UnixTime,
    pub(crate) beacon: NodeId,
}

/// A certificate taken apart; nothing in it is verified.
pub(crate) struct Certificate<'b> {
    pub(crate) membership: Membership,
    membership_sealed: Sealed<'b>,
    binding: Option<Named<'b>>,
    receipt: Option<(Named<'b>, UnixTime)>,
}

/// A document that names one node and one identity key: binding or receipt.
struct Named<'b> {
    sealed: Sealed<'b>,
    node: NodeId,
    identity: IdentityPublic,
}

impl Membership {
    pub(crate) fn sign(&self, mesh: &MeshId, key: &IdentityKey) -> Vec<u8> {
        let (kind, enrolment_key) = match &self.enrolment {
            Enrolment::Key(key) => (BY_KEY, key),
            Enrolment::Token(key) => (BY_TOKEN, key),
        };
        let overlay = overlay_address(mesh, &self.enrolment.node_id(mesh)).octets();
        let beacon = self.beacon.as_ref().map(ToString::to_string);
        let (identity, window) = match &self.subject {
            Subject::Identity(identity) => (Some(identity), None),
            Subject::Token(window) => (None, Some(window)),
        };
        let tags = self
            .tags
            .iter()
            .map(|tag| Value::Text(tag.as_str()))
            .collect();
        let order =
            |order: &Order| Value::Array(vec![uint(order.epoch), Value::Uint(order.version)]);
        let payload = Value::map([
            (SERIAL, Some(Value::Uint(self.serial))),
            (ISSUER_EPOCH, Some(uint(self.issuer_epoch))),
            (
                ENROLMENT,
                Some(Value::Array(vec![
                    Value::Uint(kind),
                    Value::Bytes(&enrolment_key.0),
                ])),
            ),
            (
                ROLE,
                Some(Value::Uint(if self.role == Role::Gateway {
                    GATEWAY
                } else {
                    BEACON
                })),
            ),
            (NAME, Some(Value::Text(self.name.as_str()))),
            (
                USER,
                self.user.as_ref().map(|user| Value::Text(user.as_str())),
            ),
            (TAGS, (!self.tags.is_empty()).then_some(Value::Array(tags))),
            (
                OVERLAY,
                (self.role == Role::Gateway).then_some(Value::Bytes(&overlay)),
            ),
            (ADDRESS, beacon.as_deref().map(Value::Text)),
            (ISSUED_AT, Some(Value::Uint(self.issued_at.0))),
            (NOT_BEFORE, Some(Value::Uint(self.not_before.0))),
            (EXPIRES_AT, Some(Value::Uint(self.expires_at.0))),
            (
                FLOORS,
                Some(Value::Array(vec![
                    Value::Uint(self.floors.trust_log.0),
                    order(&self.floors.policy),
                    order(&self.floors.revocations),
                ])),
            ),
            (IDENTITY, identity.map(|key| Value::Bytes(&key.0))),
            (
                WINDOW,
                window.map(|window| {
                    Value::Array(vec![
                        Value::Uint(window.opens.0),
                        Value::Uint(window.closes.0),
                        Value::Bytes(&window.beacon.0),
                    ])
                }),
            ),
        ])
        .encode();
        envelope::sign(Kind::Membership, mesh, &payload, key)
    }

    pub(crate) fn read(sealed: &Sealed<'_>, mesh: &MeshId) -> Result<Self, FormatError> {
        let mut fields = sealed.claims()?;
        let serial = fields.required(SERIAL)?;
        let issuer_epoch = fields.required(ISSUER_EPOCH)?;
        let [kind, key] = exactly(fields.required(ENROLMENT)?)?;
        let enrolment = match u64::from_value(kind)? {
            BY_KEY => Enrolment::Key(IdentityPublic::from_value(key)?),
            BY_TOKEN => Enrolment::Token(IdentityPublic::from_value(key)?),
            _ => return Err(FormatError::Malformed),
        };
        let role = match fields.required::<u64>(ROLE)? {
            GATEWAY => Role::Gateway,
            BEACON => Role::Beacon,
            _ => return Err(FormatError::Malformed),
        };
        let name = fields.required::<&str>(NAME)?.parse()?;
        let user = fields.optional::<&str>(USER)?.map(str::parse).transpose()?;
        let tags: Vec<&str> = fields.optional(TAGS)?.unwrap_or_default();
        let tags: Vec<Tag> = tags.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        let overlay: Option<[u8; 16]> = fields.optional(OVERLAY)?;
        let beacon: Option<HostPort> = fields
            .optional::<&str>(ADDRESS)?
            .map(str::parse)
            .transpose()?;
        let issued_at = fields.required(ISSUED_AT)?;
        let not_before: UnixTime = fields.required(NOT_BEFORE)?;
        let expires_at: UnixTime = fields.required(EXPIRES_AT)?;
        let [trust_log, policy, revocations] = exactly(fields.required(FLOORS)?)?;
        let floors = Floors {
            trust_log: UnixTime::from_value(trust_log)?,
            policy: read_order(policy)?,
            revocations: read_order(revocations)?,
        };
        let identity: Option<IdentityPublic> = fields.optional(IDENTITY)?;
        let window: Option<Vec<Value<'_>>> = fields.optional(WINDOW)?;
        let subject = match (identity, window) {
            (Some(identity), None) => Subject::Identity(identity),
            (None, Some(window)) => {
                let [opens, closes, beacon] = exactly(window)?;
                Subject::Token(Window {
                    opens: UnixTime::from_value(opens)?,
                    closes: UnixTime::from_value(closes)?,
                    beacon: NodeId::from_value(beacon)?,
                })
            }
            _ => return Err(FormatError::Contradiction),
        };
        fields.finish()?;

        let derived = overlay_address(mesh, &enrolment.node_id(mesh)).octets();
        let by_token = matches!(enrolment, Enrolment::Token(_));
        let shape = match role {
            Role::Gateway => overlay == Some(derived) && beacon.is_none(),
            Role::Beacon => {
                let bare = user.is_none() && tags.is_empty() && overlay.is_none();
                bare && beacon.is_some() && !by_token
            }
        };
        let subject_fits = by_token || matches!(subject, Subject::Identity(_));
        let owned_once = user.is_none() || tags.is_empty();
        let sorted = tags.is_sorted_by(|a, b| a < b) && tags.len() <= MAX_TAGS;
        let dated = not_before < expires_at && not_before <= issued_at;
        if !(shape && subject_fits && owned_once && sorted && dated) {
            return Err(FormatError::Contradiction);
        }
        Ok(Self {
            serial,
            issuer_epoch,
            enrolment,
            role,
            name,
            user,
            tags,
            beacon,
            issued_at,
            not_before,
            expires_at,
            floors,
            subject,
        })
    }
}

impl<'b> Certificate<'b> {
    /// Joins the parts into one certificate.
    pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
        Value::Array(parts.iter().map(|part| Value::Bytes(part)).collect()).encode()
    }

    pub(crate) fn parse(bytes: &'b [u8], mesh: &MeshId) -> Result<Self, FormatError> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(FormatError::TooLong);
        }
        let parts: Vec<&'b [u8]> = Vec::from_value(Value::decode(bytes)?)?;
        let (membership, binding, receipt) = match parts[..] {
            [membership] => (membership, None, None),
            [membership, binding] => (membership, Some(binding), None),
            [membership, binding, receipt] => (membership, Some(binding), Some(receipt)),
            _ => return Err(FormatError::Malformed),
        };
        let membership_sealed = Sealed::open(Kind::Membership, membership)?;
        let membership = Membership::read(&membership_sealed, mesh)?;
        let binding = match binding {
            Some(bytes) => Some(Named::read(Kind::Binding, bytes)?.0),
            None => None,
        };
        let receipt = match receipt {
            Some(bytes) => match Named::read(Kind::Receipt, bytes)? {
                (named, Some(at)) => Some((named, at)),
                (_, None) => return Err(FormatError::Missing { key: AT }),
            },
            None => None,
        };
        // What the issuer signed for a key needs nothing else, and nothing else may ride along.
        let by_key = matches!(membership.subject, Subject::Identity(_));
        if by_key && binding.is_some() {
            return Err(FormatError::Contradiction);
        }
        Ok(Self {
            membership,
            membership_sealed,
            binding,
            receipt,
        })
    }

    pub(crate) fn node(&self, mesh: &MeshId) -> NodeId {
        self.membership.enrolment.node_id(mesh)
    }

    pub(crate) fn membership_bytes(&self) -> &'b [u8] {
        self.membership_sealed.bytes()
    }

    pub(crate) fn binding_bytes(&self) -> Option<&'b [u8]> {
        self.binding.as_ref().map(|binding| binding.sealed.bytes())
    }

    /// Checks the issuer's signature.
    pub(crate) fn verify_issuer(
        &self,
        mesh: &MeshId,
        issuer: &IdentityPublic,
    ) -> Result<(), SignatureError> {
        self.membership_sealed.verify(mesh, issuer)
    }

    /// The identity key that the binding claims, with the token key's signature checked; or that
    /// the issuer signed. `None` where there is no binding, or one for another node.
    pub(crate) fn bound_identity(
        &self,
        mesh: &MeshId,
    ) -> Result<Option<IdentityPublic>, SignatureError> {
        match (
            &self.membership.subject,
            &self.membership.enrolment,
            &self.binding,
        ) {
            (Subject::Identity(identity), _, _) => Ok(Some(*identity)),
            (Subject::Token(_), Enrolment::Token(token), Some(binding)) => {
                binding.sealed.verify(mesh, token)?;
                Ok((binding.node == self.node(mesh)).then_some(binding.identity))
            }
            _ => Ok(None),
        }
    }

    /// When the beacon received this identity key, with its signature checked. `None` where there
    /// is no receipt, or one for another node or key.
    pub(crate) fn receipt_at(
        &self,
        mesh: &MeshId,
        identity: &IdentityPublic,
        beacon: &IdentityPublic,
    ) -> Result<Option<UnixTime>, SignatureError> {
        let Some((receipt, at)) = &self.receipt else {
            return Ok(None);
        };
        receipt.sealed.verify(mesh, beacon)?;
        let fits = receipt.node == self.node(mesh) && receipt.identity == *identity;
        Ok(fits.then_some(*at))
    }

    /// The view of this certificate, for that identity key; what was verified is the caller's.
    pub(crate) fn member(&self, mesh: &MeshId, identity: IdentityPublic) -> Member {
        let membership = &self.membership;
        let node = self.node(mesh);
        Member {
            node,
            role: membership.role,
            name: membership.name.clone(),
            user: membership.user.clone(),
            tags: membership.tags.clone(),
            overlay: (membership.role == Role::Gateway).then(|| overlay_address(mesh, &node)),
            beacon: membership.beacon.clone(),
            identity,
            enrolment: membership.enrolment,
            enrolled_by: match &membership.subject {
                Subject::Identity(_) => None,
                Subject::Token(window) => Some(window.beacon),
            },
            serial: membership.serial,
            issuer_epoch: membership.issuer_epoch,
            issued_at: membership.issued_at,
            not_before: membership.not_before,
            expires_at: membership.expires_at,
            floors: membership.floors,
            membership: self.membership_sealed.digest(),
        }
    }
}

impl<'b> Named<'b> {
    fn read(kind: Kind, bytes: &'b [u8]) -> Result<(Self, Option<UnixTime>), FormatError> {
        let sealed = Sealed::open(kind, bytes)?;
        let mut fields = sealed.claims()?;
        let node = fields.required(NODE)?;
        let identity = fields.required(BOUND)?;
        let at = match kind {
            Kind::Receipt => Some(fields.required(AT)?),
            _ => None,
        };
        fields.finish()?;
        Ok((
            Self {
                sealed,
                node,
                identity,
            },
            at,
        ))
    }
}

/// A binding: the token key says which identity key its holder made.
pub(crate) fn make_binding(
    node: &NodeId,
    identity: &IdentityPublic,
    mesh: &MeshId,
    token: &IdentityKey,
) -> Vec<u8> {
    let payload = Value::map([
        (NODE, Some(Value::Bytes(&node.0))),
        (BOUND, Some(Value::Bytes(&identity.0))),
    ])
    .encode();
    envelope::sign(Kind::Binding, mesh, &payload, token)
}

/// A receipt: the beacon that the token names says which identity key redeemed it, and when.
pub fn make_receipt(
    node: &NodeId,
    identity: &IdentityPublic,
    mesh: &MeshId,
    beacon: &IdentityKey,
    now: UnixTime,
) -> Vec<u8> {
    let payload = Value::map([
        (NODE, Some(Value::Bytes(&node.0))),
        (BOUND, Some(Value::Bytes(&identity.0))),
        (AT, Some(Value::Uint(now.0))),
    ])
    .encode();
    envelope::sign(Kind::Receipt, mesh, &payload, beacon)
}

fn exactly<'b, const N: usize>(items: Vec<Value<'b>>) -> Result<[Value<'b>; N], FormatError> {
    items.try_into().map_err(|_| FormatError::Malformed)
}

fn uint(value: u32) -> Value<'static> {
    Value::Uint(u64::from(value))
}

fn read_order(value: Value<'_>) -> Result<Order, FormatError> {
    let [epoch, version] = exactly(Vec::from_value(value)?)?;
    Ok(Order {
        epoch: u32::from_value(epoch)?,
        version: u64::from_value(version)?,
    })
}

/// A certificate must fit the 4 KiB that a beacon reads before it knows the caller, beside the
/// hello around it and a record.
pub(crate) const MAX_CERTIFICATE: usize = 2560;

/// More than anybody needs, few enough for [`MAX_CERTIFICATE`].
const MAX_TAGS: usize = 16;

const SERIAL: u64 = 0;
const ISSUER_EPOCH: u64 = 1;
const ENROLMENT: u64 = 2;
const ROLE: u64 = 3;
const NAME: u64 = 4;
const USER: u64 = 5;
const TAGS: u64 = 6;
const OVERLAY: u64 = 7;
const ADDRESS: u64 = 8;
const ISSUED_AT: u64 = 9;
const NOT_BEFORE: u64 = 10;
const EXPIRES_AT: u64 = 11;
const FLOORS: u64 = 12;
const IDENTITY: u64 = 13;
const WINDOW: u64 = 14;

const BY_KEY: u64 = 0;
const BY_TOKEN: u64 = 1;
const GATEWAY: u64 = 0;
const BEACON: u64 = 1;

const NODE: u64 = 0;
const BOUND: u64 = 1;
const AT: u64 = 2;
