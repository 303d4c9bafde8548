//! Between Tailscale's policy files and ours, in both directions, as text: comments stay.
//!
//! Their files load here unchanged, so importing one only makes explicit what differs. Ours say
//! more than theirs can: exporting lowers it to application capabilities of our own domain, or
//! leaves it out. **Invariant:** neither direction lets anything pass that did not pass before.

mod export;
mod import;
mod lower;
mod overlap;
mod trials;

pub use self::export::export_to_tailscale;
pub use self::import::import_from_tailscale;

/// A policy file for the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The file, formatted.
    pub text: String,
    /// What is different in it, a sentence each.
    pub notes: Vec<String>,
}
