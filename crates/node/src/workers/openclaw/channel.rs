//! The gateway's own A2A channel, as OpenClaw 2026.9 has it: a peer of its own, with a bearer that
//! opens nothing else, writes to the agent that the gateway's bindings give it.
//!
//! Unlike most A2A servers it takes text alone and cuts what is longer than 64 KiB, tells the model
//! of a sender no more than the peer's name, forgets its tasks when it restarts, hangs for two
//! minutes on a `messageId` that it has had before, and has no `CancelTask`. So the text says whose
//! words follow, and each post has an id of its own. A turn that a restart cut off it goes on with by
//! itself, and drops what comes meanwhile in that thread of talk: what is posted again has its own.

use ::api::a2a::{Message, Part, Role};

use super::super::{Job, WorkError, a2a};
use super::prompt;

/// A message of the mesh, to be posted once; `again` where it may have been before.
pub(in crate::workers) fn message(job: &Job, again: bool) -> Result<Message, WorkError> {
    let text = prompt::text(job)?;
    if text.len() > TEXT_MAX {
        let why = format!(
            "longer than the {TEXT_MAX} bytes that the gateway's A2A channel takes, with what we say of its sender"
        );
        return Err(WorkError::never(why));
    }
    let mut number = [0; 4];
    getrandom::fill(&mut number).map_err(|_| WorkError::unreachable("there is no randomness"))?;
    let id = format!("{}-{}", job.id, data_encoding::HEXLOWER.encode(&number));
    // One thread of talk for each sender, and for each conversation with it.
    let talk = match again {
        true => &*id,
        false => job.conversation.as_deref().unwrap_or_default(),
    };
    Ok(Message {
        role: Role::User,
        context: Some(a2a::context(job, talk)),
        ..Message::of_agent(id, vec![Part::text(text)])
    })
}

/// `A2A_MESSAGE_MAX_BYTES` of OpenClaw 2026.9.6; what is longer it cuts.
const TEXT_MAX: usize = 64 << 10;
