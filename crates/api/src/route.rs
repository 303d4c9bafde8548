//! Every route, and who may call it: one table for the server, its tests and the document.

/// One route of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub verb: Verb,
    /// The path, with `{id}` and `{name}` as in OpenAPI.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
}

/// The HTTP methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads.
    Get,
    /// Does.
    Post,
    /// Removes.
    Delete,
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An agent, or the admin for a named one.
    Agent,
    /// An agent or the admin.
    Any,
    /// The admin alone, on the unix socket alone.
    Admin,
}

impl Route {
    /// Every route.
    pub const ALL: [Self; 48] = [
        Self::new(Verb::Post, "/v1/send", Access::Agent),
        Self::new(Verb::Post, "/v1/ask", Access::Agent),
        Self::new(Verb::Get, "/v1/messages", Access::Agent),
        Self::new(Verb::Get, "/v1/messages/stream", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/ack", Access::Agent),
        Self::new(Verb::Get, "/v1/messages/{id}", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/ack", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/heartbeat", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/release", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/reply", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/reject", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/cancel", Access::Agent),
        Self::new(Verb::Post, "/v1/messages/{id}/parts", Access::Agent),
        Self::new(Verb::Get, "/v1/messages/{id}/parts", Access::Agent),
        Self::new(Verb::Get, "/mcp", Access::Agent),
        Self::new(Verb::Post, "/mcp", Access::Agent),
        Self::new(Verb::Delete, "/mcp", Access::Agent),
        Self::new(Verb::Get, "/v1/agents", Access::Any),
        Self::new(Verb::Get, "/v1/agents/stream", Access::Any),
        Self::new(Verb::Post, "/v1/profile", Access::Agent),
        Self::new(Verb::Post, "/v1/ping", Access::Any),
        Self::new(Verb::Get, "/v1/health", Access::Any),
        Self::new(Verb::Get, "/v1/metrics", Access::Any),
        Self::new(Verb::Get, "/v1/openapi.json", Access::Any),
        Self::new(Verb::Get, "/v1/status", Access::Admin),
        Self::new(Verb::Get, "/v1/policy", Access::Admin),
        Self::new(Verb::Get, "/v1/admin/agents", Access::Admin),
        Self::new(Verb::Post, "/v1/admin/agents", Access::Admin),
        Self::new(Verb::Get, "/v1/admin/agents/{name}", Access::Admin),
        Self::new(Verb::Delete, "/v1/admin/agents/{name}", Access::Admin),
        Self::new(Verb::Post, "/v1/admin/agents/{name}/rotate", Access::Admin),
        Self::new(Verb::Post, "/v1/admin/agents/{name}/worker", Access::Admin),
        Self::new(Verb::Post, "/v1/admin/agents/{name}/profile", Access::Admin),
        Self::new(Verb::Post, "/v1/admin/kill", Access::Admin),
        Self::new(Verb::Get, "/a2a", Access::Agent),
        Self::new(Verb::Post, "/a2a/{gateway}/{agent}", Access::Agent),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/.well-known/agent-card.json",
            Access::Agent,
        ),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/.well-known/agent.json",
            Access::Agent,
        ),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/extendedAgentCard",
            Access::Agent,
        ),
        Self::new(
            Verb::Post,
            "/a2a/{gateway}/{agent}/message:send",
            Access::Agent,
        ),
        Self::new(
            Verb::Post,
            "/a2a/{gateway}/{agent}/message:stream",
            Access::Agent,
        ),
        Self::new(Verb::Get, "/a2a/{gateway}/{agent}/tasks", Access::Agent),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/tasks/{task}",
            Access::Agent,
        ),
        Self::new(
            Verb::Post,
            "/a2a/{gateway}/{agent}/tasks/{task}",
            Access::Agent,
        ),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs",
            Access::Agent,
        ),
        Self::new(
            Verb::Post,
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs",
            Access::Agent,
        ),
        Self::new(
            Verb::Get,
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs/{config}",
            Access::Agent,
        ),
        Self::new(
            Verb::Delete,
            "/a2a/{gateway}/{agent}/tasks/{task}/pushNotificationConfigs/{config}",
            Access::Agent,
        ),
    ];

    const fn new(verb: Verb, path: &'static str, access: Access) -> Self {
        Self { verb, path, access }
    }
}

impl Verb {
    /// The method's name in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}
