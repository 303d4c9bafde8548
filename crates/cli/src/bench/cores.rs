//! One core for each side of a conversation, as if the sides were two hosts.
//!
//! Where the scheduler puts two processes decides a round trip more than what they do: stock quinn
//! needs 40 us with both ends on one core and twice that on two. Six processes take part in an ask
//! and two in plain QUIC, so both are laid out alike: each side whole on a core of its own.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::failure::Failure;

/// Which end of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asks.
    Asking,
    /// Who answers.
    Answering,
}

/// Keeps all threads of a process on its side's core. With one core there is nothing to do.
pub fn keep(process: Option<u32>, side: Side) -> Result<(), Failure> {
    let allowed = sched_getaffinity(None).map_err(std::io::Error::from)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let (Some(first), Some(second)) = (cores.next(), cores.next()) else {
        return Ok(());
    };
    let mut core = CpuSet::new();
    core.set(match side {
        Side::Asking => first,
        Side::Answering => second,
    });
    let Some(process) = process else {
        return Err(Failure::failed("a child ended before it was measured"));
    };
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.file_name();
        let thread = thread.to_str().and_then(|id| id.parse().ok());
        // A thread that ended in the meantime needs no core.
        if let Some(thread) = thread.and_then(Pid::from_raw) {
            let _ = sched_setaffinity(Some(thread), &core);
        }
    }
    Ok(())
}
