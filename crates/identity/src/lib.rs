//! Who is who: keys, names, node ids, and the signed documents that say so.
//!
//! A pure core: seeds and `now` are arguments, bytes come in and go out. Others read a mesh
//! through [`Trust`], the belief of one node; the operator's machine makes what they believe
//! with [`Root`], [`Issuer`] and [`RoleKey`]. The rules are those of identity.md, and
//! `tests/who_can_mint_what.rs` is its §7.
#![forbid(unsafe_code)]

mod block;
mod bounded_clock;
mod bundle;
mod cbor;
mod certificate;
mod envelope;
mod ids;
mod issuer;
mod keys;
mod kill_file;
mod ledger;
mod member;
mod names;
mod record;
mod root;
mod text;
mod token;
mod trust;
mod trust_log;

pub use block::{Block, Exception};
pub use bounded_clock::BoundedClock;
pub use bundle::{PolicyBundle, RevocationSet, Revocations};
pub use cbor::FormatError;
pub use certificate::make_receipt;
pub use ids::{
    Digest, Heads, IdentityPublic, MeshId, NodeId, Order, ParseIdError, UnixTime, WireGuardPublic,
};
pub use issuer::{Invited, IssueError, Issuer, Terms};
pub use keys::{IdentityKey, SignatureError, WireGuardKey, verify};
pub use kill_file::{KillFile, KillFileError};
pub use ledger::{Issued, Ledger};
pub use member::{Enrolment, Floors, Member, NodeRecord, Role, overlay_address};
pub use names::{
    AgentAddress, AgentName, HostPort, MeshName, NodeName, ParseNameError, Tag, UserName,
};
pub use record::{RECORD_LIFE, make_record};
pub use root::{RecoveryCode, RoleKey, Root, RootError};
pub use text::TextError;
pub use token::{Claim, Invitation, Request, Token, TokenError};
pub use trust::{Alarm, Change, GRACE, Joining, SKEW, Standing, Trust, TrustError};
pub use trust_log::{KeyRole, TrustLog, UnknownRole};
