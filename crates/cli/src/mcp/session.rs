//! The session that the node knows the client by, up to version 2025-11-25 of the protocol.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderValue;
use serde_json::Value;

/// What is needed to speak in the session, and to begin it again.
#[derive(Default)]
pub struct Session {
    held: Mutex<Held>,
    /// One renews, the others wait for it.
    pub renewing: tokio::sync::Mutex<()>,
}

/// Who the client is to the node.
#[derive(Clone, Default)]
pub struct Held {
    /// The node's id of the session.
    pub id: Option<HeaderValue>,
    /// The version that was agreed on.
    pub version: Option<HeaderValue>,
    /// The client's own `initialize`.
    pub initialize: Option<Value>,
}

impl Session {
    /// As it is now.
    pub fn held(&self) -> Held {
        self.lock().clone()
    }

    /// The node began one, answering `initialize`.
    pub fn begin(&self, initialize: Value, id: Option<HeaderValue>, version: Option<&str>) {
        *self.lock() = Held {
            id,
            version: version.and_then(|version| HeaderValue::try_from(version).ok()),
            initialize: Some(initialize),
        };
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
