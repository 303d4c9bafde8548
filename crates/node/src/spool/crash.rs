//! Named places round each fsync and each hand-off at which a test build kills itself, so that a
//! test can ask what is left: `CRABMESH_CRASH_AT=after-inbox-commit:3` dies at the third passing.
//!
//! Only debug builds look at the variable; in a release build [`point`] is empty.

/// Every place, in the order in which a message passes them.
pub const POINTS: [&str; 12] = [
    "before-outbox-commit",
    "after-outbox-commit",
    "before-offer-write",
    "after-offer-write",
    "before-inbox-commit",
    "after-inbox-commit",
    "before-stored-write",
    "after-stored-write",
    "before-ack-commit",
    "after-ack-commit",
    "before-forget-commit",
    "after-forget-commit",
];

/// The variable.
pub const VARIABLE: &str = "CRABMESH_CRASH_AT";

/// Passes a place; does not return if it is the one to die at.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::point(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();

    pub(super) fn point(name: &str) {
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(super::VARIABLE).ok()?;
            let (name, passings) = text.split_once(':').unwrap_or((&text, "1"));
            Some((
                name.to_owned(),
                AtomicU64::new(passings.parse().unwrap_or(1)),
            ))
        });
        let Some((at, left)) = armed else { return };
        if at == name && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // SIGKILL, and not exit: nothing is flushed, dropped or said.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            loop {
                std::thread::park();
            }
        }
    }
}
