//! What the tools take. The schemas that clients see are made from these types.

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

/// `mesh_agents`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentsArguments {}

/// `mesh_send`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendArguments {
    /// Whom to write to: agent@gateway, as mesh_agents lists them
    pub(super) to: String,
    /// The message, at most 256 KiB
    pub(super) text: String,
    /// Whether you want an answer; it comes by mesh_inbox as a reply to this message's id
    #[serde(default)]
    pub(super) reply_expected: bool,
    /// How long it may still be delivered, in seconds; a day where absent
    pub(super) ttl_s: Option<u64>,
    /// The id of the message of mesh_inbox that led you to write this, or none: nothing did. It is
    /// how endless chains of agents are found
    pub(super) in_answer_to: Option<String>,
    /// Which thread of talk it belongs to, 1 to 64 of A-Za-z0-9._:-; an answer carries it back
    pub(super) conversation: Option<String>,
}

/// `mesh_ask`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AskArguments {
    /// Whom to ask: agent@gateway, as mesh_agents lists them
    pub(super) to: String,
    /// The question, at most 256 KiB
    pub(super) text: String,
    /// How long to wait for the answer, in seconds: 50 where absent, at most 900. A later answer
    /// comes by mesh_inbox
    #[schemars(range(max = 900))]
    pub(super) timeout_s: Option<u64>,
    /// How long it may still be delivered, in seconds; a day where absent
    pub(super) ttl_s: Option<u64>,
    /// The id of the message of mesh_inbox that led you to ask this, or none: nothing did. It is
    /// how endless chains of agents are found
    pub(super) in_answer_to: Option<String>,
    /// Which thread of talk it belongs to, 1 to 64 of A-Za-z0-9._:-; an answer carries it back
    pub(super) conversation: Option<String>,
    /// Whether to hear the answer's parts while it is made, as progress; the policy's word for it is
    /// stream
    #[serde(default)]
    pub(super) stream: bool,
    /// How many bytes of the answer to show: 32768 where absent, at most 131072
    #[schemars(range(max = 131_072))]
    pub(super) max_bytes: Option<usize>,
}

/// `mesh_inbox`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InboxArguments {
    /// How long to wait where nothing is there, in seconds: 0 where absent, at most 60
    #[schemars(range(max = 60))]
    pub(super) wait_s: Option<u64>,
    /// At most so many messages: 10 where absent, at most 100
    #[schemars(range(min = 1, max = 100))]
    pub(super) max: Option<usize>,
    /// How long what is shown stays hidden without mesh_reply or mesh_ack, in seconds, before it
    /// comes again: 300 where absent
    pub(super) hold_s: Option<u64>,
    /// How many bytes of texts to show in all: 32768 where absent, at most 131072
    #[schemars(range(max = 131_072))]
    pub(super) max_bytes: Option<usize>,
}

/// `mesh_reply`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplyArguments {
    /// The id of the message that you answer, as mesh_inbox gave it
    pub(super) id: String,
    /// The answer, at most 256 KiB
    pub(super) text: String,
}

/// `mesh_ack`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AckArguments {
    /// The ids of the messages that are dealt with, at most 1000
    #[schemars(length(min = 1, max = 1000))]
    pub(super) ids: Vec<String>,
}
