//! An agent's card: who it is, what it can do, and how it is asked.

use serde_json::{Value, json};

use super::Version;

/// What is told of an agent to whoever may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// `agent@gateway`.
    pub name: String,
    /// In a sentence.
    pub description: String,
    /// Where it is asked.
    pub url: String,
    /// What it can do.
    pub skills: Vec<Skill>,
}

/// One thing that an agent can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// In a sentence.
    pub description: String,
}

impl Card {
    /// For a client that speaks 1.0; or for one that does not say, with the fields of both.
    pub fn write(&self, version: Option<Version>) -> Value {
        let interface = |binding: &str, version: &str| json!({"url": self.url, "protocolBinding": binding, "protocolVersion": version});
        let skills: Vec<Value> = self.skills.iter().map(Skill::write).collect();
        let mut card = json!({
            "name": self.name,
            "description": self.description,
            "version": env!("CARGO_PKG_VERSION"),
            "supportedInterfaces": [
                interface("JSONRPC", "1.0"),
                interface("HTTP+JSON", "1.0"),
                interface("JSONRPC", "0.3"),
            ],
            "capabilities": {
                "streaming": true,
                "pushNotifications": false,
                "extendedAgentCard": true,
            },
            "securitySchemes": {"bearer": {"httpAuthSecurityScheme": {
                "scheme": "Bearer",
                "description": BEARER,
            }}},
            "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
            "defaultInputModes": MODES,
            "defaultOutputModes": MODES,
            "skills": skills,
        });
        if version == Some(Version::V1) {
            return card;
        }
        card["url"] = self.url.as_str().into();
        card["preferredTransport"] = "JSONRPC".into();
        card["protocolVersion"] = "0.3.0".into();
        card["supportsAuthenticatedExtendedCard"] = true.into();
        card["security"] = json!([{"bearer": []}]);
        // One scheme in both shapes: each version ignores the fields of the other.
        let scheme = &mut card["securitySchemes"]["bearer"];
        scheme["type"] = "http".into();
        scheme["scheme"] = "bearer".into();
        scheme["description"] = BEARER.into();
        card
    }
}

impl Skill {
    /// What every agent can do.
    pub fn talk() -> Self {
        Self {
            id: "talk".into(),
            name: "talk".into(),
            description: "Takes a message and answers it.".into(),
        }
    }

    fn write(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "tags": ["crabmesh"],
        })
    }
}

const BEARER: &str = "The token of an agent of this gateway, as `crabmesh agent add` printed it.";
const MODES: [&str; 3] = ["text/plain", "application/json", "application/octet-stream"];
