//! Why something did not happen, for programs and for people.

use serde::{Deserialize, Serialize};

/// Why something did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs, snake case, stable.
    pub code: String,
    /// One sentence.
    pub reason: String,
    /// The one thing to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// A grant that would allow it, in the words of the policy file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_grant: Option<Box<str>>,
    /// What of this gateway's policy denied it: `no_policy`, `unknown_node`, `no_grant`, `guard` or
    /// `blocked`. What another gateway denies by its own is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<str>>,
    /// The guard or block of the policy file that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<str>>,
}

/// The body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// Why.
    pub error: Failure,
}

impl Failure {
    /// A failure in two words: a code and a sentence.
    pub fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
            hint: None,
            missing_grant: None,
            cause: None,
            rule: None,
        }
    }

    /// With the one thing to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
