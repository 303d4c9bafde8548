//! Who may talk to whom: the access-policy file, and the verdicts made from it.
//!
//! Three seams, each a file that names only those before it:
//!
//! ```text
//! text ─► Document ─────► classes ─────► Policy::authorize     (messages)
//!         (document.rs)   (resolve.rs)   Policy::packet_filter (packets)
//! ```
//! **Invariants.** Nothing is permitted because a list is empty: no policy, no grant, no verdict but
//! *denied*. Grants only add, and their order never matters. What this version does not enforce it
//! does not load. A verdict is made from authenticated node ids, never from a field of a message.
#![forbid(unsafe_code)]

mod authorizer;
mod diagnostic;
mod document;
mod filter;
mod lint;
mod resolve;
mod self_test;
mod verb;

pub use authorizer::{Denial, GrantRef, MessageRequest, Policy, Verdict};
pub use diagnostic::{Diagnostic, Severity};
pub use document::{Document, MAX_TEXT, RuleSummary};
pub use filter::{InnerPacket, PacketFilter};
pub use resolve::Node;
pub use self_test::{TestOutcome, TestReport};
pub use verb::{ParseVerbError, Verb, VerbSet};
