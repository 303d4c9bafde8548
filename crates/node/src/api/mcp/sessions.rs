//! The sessions of one agent: rmcp's own, at most so many, and none that is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};

/// A client that is killed ends no session: with the bound reached, the one that was idle for
/// longest goes, and its client, if it lives, begins another, as the protocol wants it to.
pub(super) struct Sessions {
    inner: LocalSessionManager,
    most: usize,
    used: Mutex<HashMap<SessionId, Instant>>,
}

impl Sessions {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        let mut inner = LocalSessionManager::default();
        inner.session_config.keep_alive = Some(idle);
        Self {
            inner,
            most,
            used: Mutex::new(HashMap::new()),
        }
    }

    /// The sessions that must go before another fits.
    fn idlest(&self) -> Vec<SessionId> {
        let mut used = self.lock();
        let mut gone = Vec::new();
        while used.len() >= self.most {
            let Some(id) = used
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(id, _)| id.clone())
            else {
                break;
            };
            used.remove(&id);
            gone.push(id);
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        for id in self.idlest() {
            self.inner.close_session(&id).await?;
        }
        let (id, transport) = self.inner.create_session().await?;
        self.lock().insert(id.clone(), Instant::now());
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.inner.initialize_session(id, message).await
    }

    /// Asked first in every call.
    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        if let Some(used) = self.lock().get_mut(id) {
            *used = Instant::now();
        }
        self.inner.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.lock().remove(id);
        self.inner.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.inner.create_stream(id, message).await
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        self.inner.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.inner.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.inner.resume(id, last_event_id).await
    }
}

/// More windows than a person has open on one agent.
pub(super) const MOST: usize = 32;

/// Longer than any call may take: to rmcp, a session in which a call waits is as idle as any.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_session_too_many_ends_the_one_that_was_idle_for_longest() {
        let sessions = Sessions::new(2, IDLE);
        let (first, _one) = sessions.create_session().await.expect("room");
        let (second, _two) = sessions.create_session().await.expect("room");
        assert!(sessions.has_session(&first).await.expect("known"));

        let (third, _three) = sessions.create_session().await.expect("it makes room");

        let mut left = Vec::new();
        for id in [&first, &second, &third] {
            left.push(sessions.has_session(id).await.expect("told"));
        }
        assert_eq!(left, [true, false, true]);
    }

    #[tokio::test]
    async fn a_session_that_was_ended_makes_room() {
        let sessions = Sessions::new(1, IDLE);
        let (first, _one) = sessions.create_session().await.expect("room");
        sessions.close_session(&first).await.expect("ended");

        assert!(sessions.lock().is_empty());
        assert!(!sessions.has_session(&first).await.expect("told"));
    }

    #[test]
    fn no_call_outlasts_an_idle_session() {
        assert!(super::super::calls::ASK_MAX < IDLE);
    }
}
