//! The agents of this gateway: their names, their lives, the tokens by which the local API knows
//! them, and how the node itself serves those that do not call it. Kept in `agents.json`, tokens as
//! SHA-256 alone; a worker's secret signs, so it is there as it is, in a file of mode 0600.
//!
//! **Invariant:** a name that is removed and added again is another agent: all state hangs on the
//! random instance id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use identity::AgentName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::files;
use crate::messages::LocalAgent;
use crate::state::{StateDir, StateError};
use crate::workers::Attached;

/// The registry. Clones share it.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

/// One registered agent, as the API meets it.
pub struct Agent {
    /// Who it is.
    pub local: LocalAgent,
    /// When it was added, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// How the node serves it; without one it calls the API itself.
    pub worker: Option<Arc<Attached>>,
    token_sha256: [u8; 32],
    /// Milliseconds of the registry's own clock, plus one; 0 before the first call.
    seen: AtomicU64,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) bucket: Mutex<Bucket>,
}

/// A token in clear, on its way to the one who asked for it.
pub struct AgentToken(Zeroizing<String>);

/// What an agent may still call at this moment.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

struct Inner {
    state: StateDir,
    started: Instant,
    agents: RwLock<BTreeMap<AgentName, Arc<Agent>>>,
    /// Serialises changes: one file, one writer.
    changing: Mutex<()>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

/// `agents.json`.
#[derive(Default, Serialize, Deserialize)]
struct AgentsFile {
    agents: Vec<AgentRow>,
}

#[derive(Serialize, Deserialize)]
struct AgentRow {
    name: AgentName,
    instance: String,
    token_sha256: String,
    created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker: Option<Attached>,
}

impl Agents {
    /// Reads the registry; without a file there are no agents.
    pub fn open(state: StateDir) -> Result<Self, AgentsError> {
        let file: AgentsFile = state.read_json(files::AGENTS)?.unwrap_or_default();
        let mut agents = BTreeMap::new();
        for row in file.agents {
            let agent = row
                .read()
                .ok_or_else(|| AgentsError::Corrupt(state.file(files::AGENTS)))?;
            agents.insert(agent.local.name.clone(), Arc::new(agent));
        }
        let inner = Inner {
            state,
            started: Instant::now(),
            agents: RwLock::new(agents),
            changing: Mutex::new(()),
            changed: watch::Sender::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Tells of every change from here on: who was added, replaced or removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Every agent, by name.
    pub fn list(&self) -> Vec<Arc<Agent>> {
        self.read().values().cloned().collect()
    }

    /// The agent of that name.
    pub fn named(&self, name: &AgentName) -> Option<Arc<Agent>> {
        self.read().get(name).cloned()
    }

    /// The agent whose token this is. Every hash is compared, in constant time.
    pub fn authenticate(&self, token: &str) -> Option<Arc<Agent>> {
        if !token.starts_with(PREFIX) {
            return None;
        }
        let hash = sha256(token);
        let mut found = None;
        for agent in self.read().values() {
            if verify_slices_are_equal(&agent.token_sha256, &hash).is_ok() {
                found = Some(agent.clone());
            }
        }
        found
    }

    /// Adds an agent; its token is known to the caller alone.
    pub fn add(
        &self,
        name: AgentName,
        worker: Option<Attached>,
    ) -> Result<(Arc<Agent>, AgentToken), AgentsError> {
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(|_| AgentsError::Random)?;
        let (token, token_sha256) = AgentToken::make()?;
        let agent = Agent::new(
            LocalAgent { name, instance },
            unix_ms(),
            token_sha256,
            worker.map(Arc::new),
        );
        let agent = self.change(|agents| {
            if agents.len() >= MAX_AGENTS {
                return Err(AgentsError::TooMany);
            }
            if agents.contains_key(&agent.local.name) {
                return Err(AgentsError::Exists(agent.local.name.clone()));
            }
            let agent = Arc::new(agent);
            agents.insert(agent.local.name.clone(), agent.clone());
            Ok(agent)
        })?;
        Ok((agent, token))
    }

    /// Gives an agent a new token, and where there is one its worker with a new secret; the old ones
    /// are worth nothing from here on.
    pub fn rotate(
        &self,
        name: &AgentName,
        worker: Option<Attached>,
    ) -> Result<(Arc<Agent>, AgentToken), AgentsError> {
        let worker = worker.map(Arc::new);
        let (token, token_sha256) = AgentToken::make()?;
        let agent = self.replace(name, |old| {
            Agent::new(
                old.local.clone(),
                old.created_at_ms,
                token_sha256,
                worker.or_else(|| old.worker.clone()),
            )
        })?;
        Ok((agent, token))
    }

    /// Sets how the node serves an agent; its token stays.
    pub fn attach(
        &self,
        name: &AgentName,
        worker: Option<Attached>,
    ) -> Result<Arc<Agent>, AgentsError> {
        self.replace(name, |old| {
            Agent::new(
                old.local.clone(),
                old.created_at_ms,
                old.token_sha256,
                worker.map(Arc::new),
            )
        })
    }

    fn replace(
        &self,
        name: &AgentName,
        make: impl FnOnce(&Agent) -> Agent,
    ) -> Result<Arc<Agent>, AgentsError> {
        self.change(|agents| {
            let old = agents
                .get(name)
                .ok_or_else(|| AgentsError::Unknown(name.clone()))?;
            let new = make(old);
            new.seen
                .store(old.seen.load(Ordering::Relaxed), Ordering::Relaxed);
            let new = Arc::new(new);
            agents.insert(name.clone(), new.clone());
            Ok(new)
        })
    }

    /// Removes an agent. The caller tells the message plane, which gives up what waits.
    pub fn remove(&self, name: &AgentName) -> Result<Arc<Agent>, AgentsError> {
        self.change(|agents| {
            agents
                .remove(name)
                .ok_or_else(|| AgentsError::Unknown(name.clone()))
        })
    }

    /// Notes that the agent called now.
    pub fn saw(&self, agent: &Agent) {
        agent.seen.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    /// Seconds since the agent's last call; `None` before the first since this node started.
    pub fn idle_s(&self, agent: &Agent) -> Option<u64> {
        let seen = agent.seen.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.now_ms().saturating_sub(seen) / 1000)
    }

    /// Writes the changed list first and shows it after, so what is shown is always on disk.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<AgentName, Arc<Agent>>) -> Result<T, AgentsError>,
    ) -> Result<T, AgentsError> {
        let _writer = lock(&self.inner.changing);
        let mut agents = self.read().clone();
        let value = change(&mut agents)?;
        let rows = agents.values().map(|agent| AgentRow::of(agent)).collect();
        self.inner
            .state
            .write_json(files::AGENTS, &AgentsFile { agents: rows })?;
        *self
            .inner
            .agents
            .write()
            .unwrap_or_else(PoisonError::into_inner) = agents;
        self.inner.changed.send_modify(|changes| *changes += 1);
        Ok(value)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<AgentName, Arc<Agent>>> {
        self.inner
            .agents
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Agent {
    fn new(
        local: LocalAgent,
        created_at_ms: u64,
        token_sha256: [u8; 32],
        worker: Option<Arc<Attached>>,
    ) -> Self {
        Self {
            local,
            created_at_ms,
            worker,
            token_sha256,
            seen: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            bucket: Mutex::new(Bucket {
                tokens: 0.0,
                filled: None,
            }),
        }
    }

    /// Takes one call from the agent's allowance.
    pub(crate) fn take(&self, per_second: f64, burst: f64, now: Instant) -> bool {
        lock(&self.bucket).take(per_second, burst, now)
    }
}

impl Bucket {
    fn take(&mut self, per_second: f64, burst: f64, now: Instant) -> bool {
        let since = self
            .filled
            .map(|filled| now.saturating_duration_since(filled));
        self.tokens = match since {
            Some(since) => since
                .as_secs_f64()
                .mul_add(per_second, self.tokens)
                .min(burst),
            None => burst,
        };
        self.filled = Some(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

impl AgentToken {
    /// The token, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn make() -> Result<(Self, [u8; 32]), AgentsError> {
        let token = secret(PREFIX).map_err(|_| AgentsError::Random)?;
        let hash = sha256(&token);
        Ok((Self(token), hash))
    }
}

impl AgentRow {
    fn of(agent: &Agent) -> Self {
        Self {
            name: agent.local.name.clone(),
            instance: HEXLOWER.encode(&agent.local.instance),
            token_sha256: HEXLOWER.encode(&agent.token_sha256),
            created_at_ms: agent.created_at_ms,
            worker: agent.worker.as_deref().cloned(),
        }
    }

    fn read(self) -> Option<Agent> {
        let instance = HEXLOWER
            .decode(self.instance.as_bytes())
            .ok()?
            .try_into()
            .ok()?;
        let hash = HEXLOWER
            .decode(self.token_sha256.as_bytes())
            .ok()?
            .try_into()
            .ok()?;
        Some(Agent::new(
            LocalAgent {
                name: self.name,
                instance,
            },
            self.created_at_ms,
            hash,
            self.worker.map(Arc::new),
        ))
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.read().keys()).finish()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agent").field(&self.local.name).finish()
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentToken(…)")
    }
}

/// Why the registry did not change, or could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentsError {
    /// The name is taken.
    #[error("there is an agent named {0} already")]
    Exists(AgentName),
    /// There is none of that name.
    #[error("there is no agent named {0}")]
    Unknown(AgentName),
    /// The registry is full.
    #[error("a gateway has at most {MAX_AGENTS} agents")]
    TooMany,
    /// The kernel gave no randomness.
    #[error("the kernel gives no random bytes")]
    Random,
    /// The file's fields make no sense.
    #[error("{} does not hold what was written", .0.display())]
    Corrupt(std::path::PathBuf),
    /// The file could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A secret of 256 random bits behind a prefix that secret scanners can know.
pub(crate) fn secret(prefix: &str) -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)?;
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 43));
    text.push_str(prefix);
    BASE64URL_NOPAD.encode_append(&*bytes, &mut text);
    Ok(text)
}

pub(crate) fn sha256(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What an agent's token begins with.
const PREFIX: &str = "cma_";

/// As many as a directory names.
const MAX_AGENTS: usize = wire::peer::MAX_DIRECTORY;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_opens_its_agent_until_it_is_rotated() {
        let (_home, state) = place();
        let agents = Agents::open(state).expect("opened");
        let (ana, token) = agents.add(name("ana"), None).expect("added");
        let (_, other) = agents.add(name("bob"), None).expect("added");

        assert_eq!(
            agents.authenticate(token.reveal()).map(|a| a.local.clone()),
            Some(ana.local.clone())
        );
        assert!(token.reveal().starts_with("cma_") && token.reveal().len() >= 4 + 43);

        let (same, fresh) = agents.rotate(&name("ana"), None).expect("rotated");
        assert_eq!(same.local.instance, ana.local.instance);
        assert!(agents.authenticate(token.reveal()).is_none());
        assert!(agents.authenticate(fresh.reveal()).is_some());
        assert!(
            agents
                .authenticate(other.reveal())
                .is_some_and(|a| a.local.name == name("bob"))
        );
        assert!(agents.authenticate("").is_none() && agents.authenticate("cma_").is_none());
    }

    #[test]
    fn the_registry_outlives_a_restart_and_its_file_holds_no_token() {
        let (_home, state) = place();
        let agents = Agents::open(state.clone()).expect("opened");
        let (ana, token) = agents.add(name("ana"), None).expect("added");

        let again = Agents::open(state.clone()).expect("opened again");

        let found = again.authenticate(token.reveal()).expect("known");
        assert_eq!(found.local, ana.local);
        let file = state.read(files::AGENTS).expect("readable").expect("there");
        assert!(
            !String::from_utf8(file)
                .expect("JSON")
                .contains(token.reveal())
        );
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn an_agent_added_again_is_another_one() {
        let (_home, state) = place();
        let agents = Agents::open(state).expect("opened");
        let (first, token) = agents.add(name("ana"), None).expect("added");

        assert!(matches!(
            agents.add(name("ana"), None),
            Err(AgentsError::Exists(_))
        ));
        agents.remove(&name("ana")).expect("removed");
        let (second, _) = agents.add(name("ana"), None).expect("added again");

        assert_ne!(first.local.instance, second.local.instance);
        assert!(agents.authenticate(token.reveal()).is_none());
        assert!(matches!(
            agents.remove(&name("bob")),
            Err(AgentsError::Unknown(_))
        ));
    }

    #[test]
    fn an_allowance_refills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket {
            tokens: 0.0,
            filled: None,
        };

        let at_once = (0..5).filter(|_| bucket.take(1.0, 3.0, start)).count();
        let later = (0..5)
            .filter(|_| bucket.take(1.0, 3.0, start + Duration::from_secs(2)))
            .count();

        assert_eq!((at_once, later), (3, 2));
    }

    fn name(text: &str) -> AgentName {
        text.parse().expect("a name")
    }

    fn place() -> (tempfile::TempDir, StateDir) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::create(&home.path().join("s")).expect("made");
        (home, state)
    }
}
