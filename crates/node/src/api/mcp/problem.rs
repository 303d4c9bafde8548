//! Refusals that a model can act on: who, which rule is missing, what to do, whom to ask.

use rmcp::schemars::{self, JsonSchema};
use serde::Serialize;

use crate::api::refused::Refused;
use crate::foreign;

/// Why something did not happen, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// For programs
    pub(super) code: String,
    /// One sentence
    pub(super) reason: String,
    /// The agent that could not be reached
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent: Option<String>,
    /// A grant that would allow it, in the words of the mesh's policy
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing_grant: Option<String>,
    /// The guard or the block of the policy that forbids it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    /// What to do, or whom to ask
    pub(super) what_to_do: String,
}

impl Problem {
    pub(super) fn of(failure: api::Failure) -> Self {
        let what_to_do = what_to_do(&failure.code, failure.missing_grant.is_some());
        // Our own gateway's words; what of them may have come from afar is short.
        let short = |text: &str| foreign::line(text, REASON_MAX);
        Self {
            reason: short(&failure.reason),
            agent: None,
            missing_grant: failure.missing_grant.as_deref().map(short),
            rule: failure.rule.as_deref().map(short),
            what_to_do: what_to_do.into(),
            code: failure.code,
        }
    }

    /// The arguments are wrong.
    pub(super) fn schema(reason: impl std::fmt::Display) -> Self {
        Self::of(api::Failure::new("schema", reason.to_string()))
    }

    /// The one who cannot be reached.
    pub(super) fn about(mut self, agent: &str) -> Self {
        self.agent = Some(foreign::line(agent, REASON_MAX));
        self
    }

    /// As the model reads it.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{}: {}", self.code, self.reason);
        if let Some(agent) = &self.agent {
            words.push_str(&format!("\nAgent: {agent}"));
        }
        if let Some(grant) = &self.missing_grant {
            words.push_str(&format!("\nMissing grant: {grant}"));
        }
        if let Some(rule) = &self.rule {
            words.push_str(&format!("\nRule: {rule}"));
        }
        words.push_str(&format!("\nWhat to do: {}", self.what_to_do));
        words
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::of(refused.into())
    }
}

fn what_to_do(code: &str, grant: bool) -> &'static str {
    match code {
        "denied" | "no_policy" if grant => {
            "do not try again; tell your user that the operator of the mesh must add the missing \
             grant to its policy (crabmesh policy push)"
        }
        "denied" | "no_policy" => {
            "do not try again; ask your user to ask the operator of the mesh for it, and of the \
             other gateway"
        }
        "blocked" | "cut_off" => {
            "do not try again; the operator of the mesh cut one side off, and only the operator can \
             say why"
        }
        "unknown_agent" | "unknown_gateway" => "call mesh_agents: it lists whom you may reach",
        "timeout" => {
            "do not send it again: it lives on, and a late answer comes by mesh_inbox, as a reply to \
             this id"
        }
        "expired" => "send it anew if it still matters, with a longer ttl_s",
        "loop" => {
            "stop: two agents answer each other without an end; ask your user before you go on"
        }
        "cancelled" => "nothing: you took it back",
        "rejected" => "do not try again; the other agent will not do it",
        "too_large" => "send less, or in parts",
        "outbox_full" | "too_many_requests" | "throttled" | "full" => {
            "wait a while, then try again; less at a time"
        }
        "stopping" => "try again in a moment: this gateway is being restarted",
        "store" | "store_full" => "tell your user: the disk of this gateway is full or broken",
        "not_found" => {
            "nothing, if it was settled before; otherwise look for its id with mesh_inbox"
        }
        "no_open_request" => "nothing: it wants no answer, or has one",
        "schema" => "correct the arguments, and call again",
        _ => "tell your user, with the code and the reason",
    }
}

/// Longer than any sentence of ours, and than the grants that are suggested.
const REASON_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_who_what_is_missing_and_whom_to_ask() {
        let failure = api::Failure {
            missing_grant: Some(r#"{"src": ["agent:a@gw-a"]}"#.into()),
            ..api::Failure::new("denied", "no grant allows it")
        };

        let words = Problem::of(failure).about("coder@gw-b").words();

        for part in [
            "denied: no grant allows it",
            "Agent: coder@gw-b",
            r#"Missing grant: {"src": ["agent:a@gw-a"]}"#,
            "the operator of the mesh must add",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn a_reason_stays_on_its_line_and_within_its_bound() {
        let reason = format!("a\nb\u{1b}{}", "c".repeat(10_000));
        let problem = Problem::of(api::Failure::new("x", reason));

        assert!(problem.reason.starts_with("a\\nb\\u{1b}ccc"));
        assert!(problem.reason.len() < 2 * REASON_MAX);
    }
}
