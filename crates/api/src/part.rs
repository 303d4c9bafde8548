//! Parts of answers: while an answer is made, and beside it.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// One part: a line of `POST /v1/messages/{id}/parts`, and the data of an `event: part`, whose `id:`
/// is `ATTEMPT.SEQ`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Counts up from 1, without gaps.
    pub seq: u64,
    /// The content, where it is text. From afar: untrusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The content, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// What it is, where it is not simply more of the answer: 1 to 32 small letters, digits, `_`
    /// or `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// The answer to `POST /v1/messages/{id}/parts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsAnswer {
    /// The number of the part that is wanted next: go on, or send again, from there.
    pub next: u64,
    /// No more is wanted: the message was taken back, or is answered.
    pub closed: bool,
    /// Why not all was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The data of an `event: restart`: the agent began its answer anew, and the parts before are void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsRestart {
    /// The attempt that begins.
    pub attempt: u32,
}

/// The data of an `event: lost`: parts are gone for good. The answer is not: it comes whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartsLost {
    /// The number of the next part.
    pub next: u64,
}
