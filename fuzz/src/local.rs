//! What agents send to the local API, and the names that people type.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use identity::{AgentAddress, AgentName, HostPort, MeshName, NodeId, NodeName, Tag, UserName};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// JSON bodies of the local API.
pub fn api(bytes: &[u8]) {
    body::<api::SendRequest>(bytes);
    body::<api::AskRequest>(bytes);
    body::<api::ReplyRequest>(bytes);
    body::<api::AckRequest>(bytes);
    body::<api::HeartbeatRequest>(bytes);
    body::<api::PingRequest>(bytes);
    body::<api::AgentAdd>(bytes);
    body::<api::KillRequest>(bytes);
}

/// Names and addresses: what parses prints as something that parses to the same.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    name::<AgentName>(text);
    name::<NodeName>(text);
    name::<MeshName>(text);
    name::<Tag>(text);
    name::<UserName>(text);
    name::<HostPort>(text);
    name::<AgentAddress>(text);
    let _ = text.parse::<NodeId>();
    let _ = text.parse::<identity::Block>();
    let _ = text.parse::<wire::MessageId>();
}

fn body<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let text = serde_json::to_string(&value).expect("what was read can be written");
        assert!(
            serde_json::from_str::<T>(&text).is_ok(),
            "what was written reads back: {text}"
        );
    }
}

fn name<T: FromStr + Display + Debug + PartialEq>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(parsed) = text.parse::<T>() {
        let again = parsed
            .to_string()
            .parse::<T>()
            .expect("what was printed parses");
        assert_eq!(again, parsed);
    }
}
