//! Between the parts of A2A and the body of a message of the mesh.
//!
//! A message that is one text is that text, so that an agent that knows nothing of A2A reads it as
//! any other. Everything else crosses the mesh as the message itself in JSON, under a content type
//! of its own: between two ends that speak A2A nothing is lost.

use serde_json::{Map, Value};

use super::message::{Content, Message, Part};
use super::{Role, Version};

/// The content type of a body that is a message of A2A 1.0 in JSON.
pub const MESSAGE_TYPE: &str = "application/vnd.a2a.message+json";

/// The content type and the body of a message.
pub fn body_of(message: &Message) -> (String, Vec<u8>) {
    let bare = message.metadata.is_none()
        && message.extensions.is_empty()
        && message.references.is_empty();
    if let ([part], true) = (&message.parts[..], bare)
        && let Content::Text(text) = &part.content
        && part.metadata.is_none()
        && part.filename.is_none()
        && part
            .media_type
            .as_deref()
            .is_none_or(|it| it == "text/plain")
    {
        return (TEXT.to_owned(), text.clone().into_bytes());
    }
    let whole = Message {
        // A task lives at one end.
        task: None,
        ..message.clone()
    };
    let body = serde_json::to_vec(&whole.write(Version::V1)).unwrap_or_default();
    (MESSAGE_TYPE.to_owned(), body)
}

/// The parts of a body, and the metadata of the message that it is. Total: what is not what its
/// content type says is a file of that type.
pub fn parts_of(content_type: &str, body: &[u8]) -> (Vec<Part>, Option<Map<String, Value>>) {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    if essence == MESSAGE_TYPE
        && let Ok(value) = serde_json::from_slice(body)
        && let Ok(message) = Message::read(&value, Version::V1)
    {
        return (message.parts, message.metadata);
    }
    let is_json = essence == JSON || essence.ends_with("+json") && essence != MESSAGE_TYPE;
    let content = match std::str::from_utf8(body) {
        Ok(text) if essence.starts_with("text/") => Content::Text(text.to_owned()),
        Ok(text) if is_json => match serde_json::from_str(text) {
            Ok(value) => Content::Data(value),
            Err(_) => Content::Raw(body.to_vec()),
        },
        _ => Content::Raw(body.to_vec()),
    };
    let plain = match content {
        Content::Text(_) => essence == "text/plain",
        Content::Data(_) => essence == JSON,
        _ => false,
    };
    let media_type = (!plain).then(|| content_type.to_owned());
    let part = Part {
        media_type,
        ..Part::of(content)
    };
    (vec![part], None)
}

impl Message {
    /// What an agent says.
    pub fn of_agent(id: String, parts: Vec<Part>) -> Self {
        Self {
            id,
            context: None,
            task: None,
            role: Role::Agent,
            parts,
            metadata: None,
            extensions: Vec::new(),
            references: Vec::new(),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
