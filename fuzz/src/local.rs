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

/// What an A2A client posts, and what an A2A server answers this node: what is read is written so
/// that it reads back the same, and crosses the mesh without loss.
pub fn a2a(bytes: &[u8]) {
    use api::a2a::{Call, Event, Message, Task, Version, body_of, parts_of, read, read_send};
    let versions = [Version::V1, Version::V03];
    if let Ok(Call::Send(params) | Call::Stream(params)) = read(bytes, Ok(None)).call {
        let written = params.message.write(Version::V1);
        assert_eq!(
            Message::read(&written, Version::V1).as_ref(),
            Ok(&params.message)
        );
        // 0.3 has no media type of a text.
        let written = params.message.write(Version::V03);
        assert!(Message::read(&written, Version::V03).is_ok());
        let (content_type, body) = body_of(&params.message);
        let (parts, _) = parts_of(&content_type, &body);
        assert_eq!(parts.len(), params.message.parts.len());
    }
    let _ = read_send(bytes);
    for content_type in [
        "text/plain",
        "application/json",
        api::a2a::MESSAGE_TYPE,
        "image/png",
    ] {
        assert!(!parts_of(content_type, bytes).0.is_empty());
    }
    let Ok(value) = serde_json::from_slice(bytes) else {
        return;
    };
    for version in versions {
        let _ = Task::read(&value, version);
        if let Ok(event) = Event::read(&value, version) {
            let again = Event::read(&event.write(version), version);
            assert_eq!(again.map(without_times), Ok(without_times(event)));
        }
    }
}

/// Nobody here reads since when a task is as it is.
fn without_times(mut event: api::a2a::Event) -> api::a2a::Event {
    match &mut event {
        api::a2a::Event::Task(task) => task.status.at = None,
        api::a2a::Event::Status { status, .. } => status.at = None,
        _ => {}
    }
    event
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
