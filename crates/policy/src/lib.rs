//! Who may talk to whom: the access-policy file, and the verdicts made from it.
//!
//! Three seams, each of which names only what is before it:
//!
//! ```text
//! text ─► Document ─────► classes ─────► Policy::authorize     (messages)
//!         (document.rs)   (resolve.rs)   Policy::packet_filter (packets)
//!                                        Policy::explain, run_tests, …  (people)
//!                         all of them ask decide.rs
//! text ─► Text ─► format, import and export (text.rs, tailscale.rs)
//! ```
//! **Invariants.** Nothing is permitted because a list is empty: no policy, no grant, no verdict but
//! *denied*. Grants only add, guards only subtract, blocks always win, and order never matters. A
//! guard that nobody here can hold denies what it is about. A verdict is made from authenticated
//! node ids, never from a field of a message.
#![forbid(unsafe_code)]

mod address;
mod authorizer;
mod cases;
mod crowd;
mod decide;
mod diagnostic;
mod diff;
mod document;
mod explain;
mod filter;
mod lint;
mod matrix;
mod node;
mod packet_rules;
mod reasons;
mod resolve;
mod rights;
mod sarif;
mod self_test;
mod standing;
mod tailscale;
mod text;
mod verb;
mod verdict;
mod world;

pub use address::{AddressSet, ParsePrefixError, Prefix};
pub use authorizer::{HttpRequest, MessageRequest, Policy};
pub use diagnostic::{Diagnostic, Severity};
pub use diff::{Access, ConditionChange, Party, PolicyDiff, RuleChange};
pub use document::{
    Attribute, Attributes, Document, Feature, MAX_PUSHED, MAX_TEXT, RateKey, RuleSummary,
    parse_time, text_of,
};
pub use explain::{Explanation, Finding};
pub use filter::{InnerPacket, PacketFilter};
pub use matrix::{Matrix, MatrixCell, MatrixKind};
pub use node::{Node, attributes};
pub use packet_rules::{Network, PacketRule};
pub use sarif::sarif;
pub use self_test::{TestOutcome, TestReport};
pub use tailscale::{Translated, export_to_tailscale, import_from_tailscale};
pub use text::format;
pub use verb::{ParseVerbError, Skill, Verb, VerbSet};
pub use verdict::{Bucket, BucketKey, Denial, GrantRef, Verdict};
