//! One message of the client: what its headers are, whether it may be said twice, and what its
//! answer is where the node has none.

use data_encoding::BASE64;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::session::Held;
use crate::failure::Failure;

/// A message that was read.
pub struct Call {
    message: Value,
}

impl Call {
    pub fn new(message: Value) -> Self {
        Self { message }
    }

    pub fn message(&self) -> &Value {
        &self.message
    }

    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    /// By which its answer is known; a notification has none.
    pub fn id(&self) -> Option<&Value> {
        let asks = self.message["method"].is_string();
        self.message.get("id").filter(|id| asks && !id.is_null())
    }

    /// The version that a call without a session names in itself (2026-07-28).
    pub fn own_version(&self) -> Option<&str> {
        self.message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str()
    }

    /// Which call a `notifications/cancelled` takes back.
    pub fn cancels(&self) -> Option<String> {
        let cancelled = self.method() == "notifications/cancelled";
        cancelled.then(|| key(&self.message["params"]["requestId"]))
    }

    /// Whether doing it a second time changes nothing. What an inbox showed to nobody it shows again.
    pub fn repeatable(&self) -> bool {
        let tool = self.message["params"]["name"].as_str().unwrap_or_default();
        self.method() != "tools/call" || matches!(tool, "mesh_agents" | "mesh_inbox" | "mesh_ack")
    }

    /// What the protocol wants beside the body.
    pub fn headers(&self, held: &Held) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let mut put = |name: &'static str, value: HeaderValue| {
            headers.push((HeaderName::from_static(name), value));
        };
        let Some(version) = self.own_version() else {
            if self.method() != "initialize" {
                held.id.clone().into_iter().for_each(|id| put(SESSION, id));
                let version = held.version.clone();
                version
                    .into_iter()
                    .for_each(|version| put(VERSION, version));
            }
            return headers;
        };
        put(VERSION, printed(version));
        put("mcp-method", printed(self.method()));
        let params = &self.message["params"];
        let name = params["name"].as_str().or_else(|| params["uri"].as_str());
        if let Some(name) = name {
            put("mcp-name", printed(name));
        }
        headers
    }

    /// The answer where the node gave none: to a tool as its result, as the model reads no other.
    pub fn refused(&self, failure: &Failure, what_to_do: &str) -> Value {
        let id = self.id().cloned().unwrap_or(Value::Null);
        let words = format!("{failure}; {what_to_do}");
        if self.method() != "tools/call" {
            return error(id, FAILED, &words);
        }
        let mut result = json!({
            "content": [{"type": "text", "text": words}],
            "isError": true,
        });
        if self.own_version().is_some() {
            result["resultType"] = json!("complete");
        }
        json!({"jsonrpc": "2.0", "id": id, "result": result})
    }
}

/// An answer that is an error of the protocol.
pub fn error(id: Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// An id as a key: 1 is not "1".
pub fn key(id: &Value) -> String {
    id.to_string()
}

/// A value that is no plain text goes in base64, as the protocol has it (2026-07-28, SEP-2243).
fn printed(text: &str) -> HeaderValue {
    let plain = !text.is_empty()
        && text.trim() == text
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with("=?base64?");
    let encoded = || format!("=?base64?{}?=", BASE64.encode(text.as_bytes()));
    let value = if plain { text.to_owned() } else { encoded() };
    // Both are printable ASCII.
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

/// JSON-RPC 2.0 §5.1, and the first of those that are for servers to name.
pub const PARSE_ERROR: i32 = -32700;
const FAILED: i32 = -32000;

pub const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_a_session_carries_the_session_and_one_without_carries_its_words() {
        let held = Held {
            id: Some(HeaderValue::from_static("s1")),
            version: Some(HeaderValue::from_static("2025-11-25")),
            initialize: None,
        };
        let shown = |message| {
            let headers = Call::new(message).headers(&held);
            let mut lines = Vec::new();
            for (name, value) in headers {
                lines.push(format!("{name}: {}", value.to_str().expect("text")));
            }
            lines.join(", ")
        };

        let plain = json!({"id": 1, "method": "tools/list"});
        assert_eq!(
            shown(plain),
            "mcp-session-id: s1, mcp-protocol-version: 2025-11-25"
        );
        assert_eq!(shown(json!({"id": 1, "method": "initialize"})), "");
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let modern = |name: &str| {
            shown(json!({"id": 1, "method": "tools/call", "params": {"name": name, "_meta": meta}}))
        };
        assert_eq!(
            modern("mesh_ask"),
            "mcp-protocol-version: 2026-07-28, mcp-method: tools/call, mcp-name: mesh_ask"
        );
        assert!(modern("gr\u{fc}\n").ends_with("mcp-name: =?base64?Z3LDvAo=?="));
    }

    #[test]
    fn a_tool_that_writes_is_never_called_twice() {
        let tool =
            |name| Call::new(json!({"id": 1, "method": "tools/call", "params": {"name": name}}));

        for name in ["mesh_send", "mesh_ask", "mesh_reply", "mesh_whatever"] {
            assert!(!tool(name).repeatable(), "{name}");
        }
        assert!(tool("mesh_agents").repeatable());
        assert!(Call::new(json!({"id": 1, "method": "tools/list"})).repeatable());
    }

    #[test]
    fn a_failure_is_told_to_the_model_where_a_model_asked() {
        let failure = Failure::failed("the node is gone");
        let tool =
            Call::new(json!({"id": "a", "method": "tools/call", "params": {"name": "mesh_ask"}}));
        let list = Call::new(json!({"id": 1, "method": "tools/list"}));

        let told = tool.refused(&failure, "wait");
        assert_eq!(told["result"]["isError"], true);
        assert_eq!(
            told["result"]["content"][0]["text"],
            "the node is gone; wait"
        );
        assert_eq!(
            list.refused(&failure, "wait")["error"]["message"],
            "the node is gone; wait"
        );
    }

    #[test]
    fn what_has_no_method_or_no_id_is_answered_by_nobody() {
        assert!(Call::new(json!({"id": 1, "result": {}})).id().is_none());
        assert!(
            Call::new(json!({"method": "notifications/initialized"}))
                .id()
                .is_none()
        );
        assert!(Call::new(json!([])).id().is_none());
    }
}
