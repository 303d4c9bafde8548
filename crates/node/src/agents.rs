//! The agents of this gateway: their names, their lives, the tokens by which the local API knows
//! them, and how the node itself serves those that do not call it. Kept in `agents.json`, tokens as
//! SHA-256 alone; a worker's secret signs, so it is there as it is, in a file of mode 0600.
//!
//! **Invariant:** a name that is removed and added again is another agent: all state hangs on the
//! random instance id.

mod life;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use identity::AgentName;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use wire::peer::Presence;
use wire::profile::Profile;
use zeroize::Zeroizing;

pub use self::life::Following;
use self::life::Life;
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
#[derive(Clone)]
pub struct Agent {
    /// Who it is.
    pub local: LocalAgent,
    /// When it was added, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// How the node serves it; without one it calls the API itself.
    pub worker: Option<Arc<Attached>>,
    /// What it says of itself.
    pub profile: Arc<Profile>,
    token_sha256: [u8; 32],
    /// What it does; another token or profile does not change that.
    pub(crate) life: Arc<Life>,
}

/// A token in clear, on its way to the one who asked for it.
pub struct AgentToken(Zeroizing<String>);

struct Inner {
    state: StateDir,
    started: Instant,
    agents: RwLock<BTreeMap<AgentName, Arc<Agent>>>,
    /// Serialises changes: one file, one writer.
    changing: Mutex<()>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
    /// Wakes whoever tells others what agents are here and how they are.
    news: Arc<Notify>,
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
    #[serde(default, skip_serializing_if = "Profile::is_empty")]
    profile: Profile,
}

impl Agents {
    /// Reads the registry; without a file there are no agents.
    pub fn open(state: StateDir) -> Result<Self, AgentsError> {
        let file: AgentsFile = state.read_json(files::AGENTS)?.unwrap_or_default();
        let mut agents = BTreeMap::new();
        let news = Arc::new(Notify::new());
        for row in file.agents {
            let agent = row
                .read(&news)
                .ok_or_else(|| AgentsError::Corrupt(state.file(files::AGENTS)))?;
            agents.insert(agent.local.name.clone(), Arc::new(agent));
        }
        let inner = Inner {
            state,
            started: Instant::now(),
            agents: RwLock::new(agents),
            changing: Mutex::new(()),
            changed: watch::Sender::new(0),
            news,
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
        profile: Profile,
    ) -> Result<(Arc<Agent>, AgentToken), AgentsError> {
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(|_| AgentsError::Random)?;
        let (token, token_sha256) = AgentToken::make()?;
        let agent = Agent {
            local: LocalAgent { name, instance },
            created_at_ms: unix_ms(),
            worker: worker.map(Arc::new),
            profile: Arc::new(profile),
            token_sha256,
            life: Life::new(self.inner.news.clone()),
        };
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
        let agent = self.replace(name, |old| Agent {
            token_sha256,
            worker: worker.or_else(|| old.worker.clone()),
            ..old.clone()
        })?;
        Ok((agent, token))
    }

    /// Sets how the node serves an agent; its token stays.
    pub fn attach(
        &self,
        name: &AgentName,
        worker: Option<Attached>,
    ) -> Result<Arc<Agent>, AgentsError> {
        self.replace(name, |old| Agent {
            worker: worker.map(Arc::new),
            ..old.clone()
        })
    }

    /// Sets what an agent says of itself.
    pub fn describe(&self, name: &AgentName, profile: Profile) -> Result<Arc<Agent>, AgentsError> {
        self.replace(name, |old| Agent {
            profile: Arc::new(profile),
            ..old.clone()
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
            let new = Arc::new(make(old));
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
        agent.life.saw(self.now_ms());
    }

    /// Counts the agent as following its inbox, until dropped.
    pub fn follow(&self, agent: &Agent) -> Following {
        Following::new(agent.life.clone(), self.inner.started)
    }

    /// What the agent says of its own presence: away until it says online.
    pub fn set_away(&self, agent: &Agent, away: bool) {
        agent.life.set_away(away, self.now_ms());
    }

    /// Whether it is there: it follows its inbox, a call of it is being answered, or it called
    /// within [`ONLINE_FOR`]; and does not say that it is away.
    pub fn presence(&self, agent: &Agent) -> Presence {
        agent.life.presence(self.now_ms())
    }

    /// Seconds since the agent's last call, none while it follows its inbox; `None` before the
    /// first since this node started.
    pub fn idle_s(&self, agent: &Agent) -> Option<u64> {
        agent.life.idle_ms(self.now_ms()).map(|ms| ms / 1000)
    }

    /// Resolves when an agent came, went or may be another than it was. What happens while nobody
    /// waits is told to the next one who does.
    pub async fn news(&self) {
        self.inner.news.notified().await;
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
        self.inner.news.notify_one();
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
    /// Takes one call from the agent's allowance.
    pub(crate) fn take(&self, per_second: f64, burst: f64, now: Instant) -> bool {
        self.life.take(per_second, burst, now)
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
            profile: (*agent.profile).clone(),
        }
    }

    fn read(self, news: &Arc<Notify>) -> Option<Agent> {
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
        Some(Agent {
            local: LocalAgent {
                name: self.name,
                instance,
            },
            created_at_ms: self.created_at_ms,
            worker: self.worker.map(Arc::new),
            profile: Arc::new(self.profile),
            token_sha256: hash,
            life: Life::new(news.clone()),
        })
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

/// How long an agent counts as there after a call, see [`Agents::presence`]: whoever polls twice a
/// minute never flickers.
pub const ONLINE_FOR: Duration = Duration::from_secs(60);

/// What an agent's token begins with.
const PREFIX: &str = "cma_";

/// As many as a directory names.
const MAX_AGENTS: usize = wire::peer::MAX_DIRECTORY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_agent_until_it_is_rotated() {
        let (_home, state) = place();
        let agents = Agents::open(state).expect("opened");
        let (ana, token) = agents
            .add(name("ana"), None, Profile::default())
            .expect("added");
        let (_, other) = agents
            .add(name("bob"), None, Profile::default())
            .expect("added");

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
        let (ana, token) = agents
            .add(name("ana"), None, Profile::default())
            .expect("added");

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
        let (first, token) = agents
            .add(name("ana"), None, Profile::default())
            .expect("added");

        assert!(matches!(
            agents.add(name("ana"), None, Profile::default()),
            Err(AgentsError::Exists(_))
        ));
        agents.remove(&name("ana")).expect("removed");
        let (second, _) = agents
            .add(name("ana"), None, Profile::default())
            .expect("added again");

        assert_ne!(first.local.instance, second.local.instance);
        assert!(agents.authenticate(token.reveal()).is_none());
        assert!(matches!(
            agents.remove(&name("bob")),
            Err(AgentsError::Unknown(_))
        ));
    }

    #[test]
    fn what_an_agent_says_of_itself_outlives_a_restart_and_its_presence_does_not() {
        let (_home, state) = place();
        let agents = Agents::open(state.clone()).expect("opened");
        let (ana, _) = agents
            .add(name("ana"), None, Profile::default())
            .expect("added");
        let said = Profile::new(Some("Plans."), Vec::new()).expect("plain");
        agents.saw(&ana);

        let described = agents.describe(&name("ana"), said.clone()).expect("kept");
        assert_eq!(agents.presence(&described), Presence::Online);

        let again = Agents::open(state).expect("opened again");
        let found = again.named(&name("ana")).expect("there");
        assert_eq!(*found.profile, said);
        assert_eq!(again.presence(&found), Presence::Away);
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
