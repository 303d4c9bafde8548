//! The supervisor: one driver for each agent that has a worker, whatever is added, changed or
//! removed while the node runs. It owns the drivers, and ends with all of them joined.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::api::{WorkerState, WorkerStatus};
use identity::NodeName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::driver::{Driver, Pace};
use super::{Attached, Health};
use crate::a2a::Posted;
use crate::agents::{Agent, Agents};
use crate::messages::Messages;

/// What the API knows of the workers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    health: Arc<Mutex<BTreeMap<[u8; 16], Arc<Health>>>>,
}

/// The task.
pub struct Supervisor {
    agents: Agents,
    messages: Messages,
    workers: Workers,
    own_name: Arc<dyn Fn() -> Option<NodeName> + Send + Sync>,
    running: BTreeMap<[u8; 16], Running>,
    posted: Option<Posted>,
}

struct Running {
    attached: Arc<Attached>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Workers {
    /// How the agent is attached, and how that goes; `None` where it calls the API itself.
    pub fn status(&self, agent: &Agent) -> Option<WorkerStatus> {
        let attached = agent.worker.as_ref()?;
        let health = self.lock().get(&agent.local.instance).cloned();
        let health = health.unwrap_or_else(|| Arc::new(Health::new()));
        Some(health.status(attached.settings.clone()))
    }

    /// In Prometheus' text format, each line ended.
    pub fn metrics(&self, agents: &Agents) -> String {
        let served: Vec<_> = agents
            .list()
            .iter()
            .filter_map(|agent| Some((agent.local.name.clone(), self.status(agent)?)))
            .collect();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: fn(&WorkerStatus) -> u64| {
            if served.is_empty() {
                return;
            }
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "# HELP crabmesh_{name} {help}\n# TYPE crabmesh_{name} {kind}"
            );
            for (agent, status) in &served {
                let (worker, value) = (status.worker.kind(), value(status));
                let _ = writeln!(
                    text,
                    "crabmesh_{name}{{agent=\"{agent}\",worker=\"{worker}\"}} {value}"
                );
            }
        };
        family(
            "worker_done_total",
            "counter",
            "Messages that a worker did.",
            |status| status.done,
        );
        family(
            "worker_retried_total",
            "counter",
            "Tries of a worker that were to be made again.",
            |status| status.retried,
        );
        family(
            "worker_given_up_total",
            "counter",
            "Messages that a worker did not do.",
            |status| status.given_up,
        );
        family(
            "worker_failing",
            "gauge",
            "1 where a worker's last message failed.",
            |status| u64::from(status.state == WorkerState::Failing),
        );
        text
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 16], Arc<Health>>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    /// Nothing is served yet.
    pub fn new(
        agents: Agents,
        messages: Messages,
        own_name: impl Fn() -> Option<NodeName> + Send + Sync + 'static,
    ) -> Self {
        Self {
            agents,
            messages,
            workers: Workers::default(),
            own_name: Arc::new(own_name),
            posted: None,
            running: BTreeMap::new(),
        }
    }

    /// Lets workers remember what they posted.
    pub fn remembering(self, posted: Posted) -> Self {
        let posted = Some(posted);
        Self { posted, ..self }
    }

    /// What the API shows of it.
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// Serves until `stop` resolves; then lets what is being done end, for a moment.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut changes = self.agents.changes();
        let mut stop = pin!(stop);
        loop {
            changes.mark_unchanged();
            self.follow_registry().await;
            tokio::select! {
                () = &mut stop => break,
                // The registry lives as long as we hold it.
                _ = changes.changed() => {}
            }
        }
        let running = std::mem::take(&mut self.running);
        end(running.into_values()).await;
    }

    async fn follow_registry(&mut self) {
        let wanted: BTreeMap<_, _> = self
            .agents
            .list()
            .into_iter()
            .filter_map(|agent| Some((agent.local.instance, (agent.worker.clone()?, agent))))
            .collect();
        let is_wanted = |instance: &[u8; 16], running: &Running| {
            wanted
                .get(instance)
                .is_some_and(|(attached, _)| Arc::ptr_eq(attached, &running.attached))
        };
        let ended: Vec<_> = self
            .running
            .extract_if(.., |instance, running| !is_wanted(instance, running))
            .collect();
        for (instance, _) in &ended {
            self.workers.lock().remove(instance);
        }
        end(ended.into_iter().map(|(_, running)| running)).await;
        for (instance, (attached, agent)) in wanted {
            if !self.running.contains_key(&instance) {
                let running = self.start(&agent, attached);
                self.running.insert(instance, running);
            }
        }
    }

    fn start(&self, agent: &Agent, attached: Arc<Attached>) -> Running {
        let health = Arc::new(Health::new());
        let (stop, stopped) = watch::channel(false);
        let worker = attached.settings.kind();
        let task = match attached.start(self.posted.clone()) {
            Ok(started) => {
                info!(agent = %agent.local.name, worker, "the node serves this agent");
                let driver = Driver {
                    agent: agent.local.clone(),
                    worker: started,
                    messages: self.messages.clone(),
                    agents: self.agents.clone(),
                    health: health.clone(),
                    own_name: self.own_name.clone(),
                    pace: Pace::USUAL,
                };
                Some(tokio::spawn(driver.run(stopped)))
            }
            Err(error) => {
                warn!(agent = %agent.local.name, worker, %error, "a worker does not start");
                health.fails(&error.to_string());
                None
            }
        };
        let instance = agent.local.instance;
        self.workers.lock().insert(instance, health);
        Running {
            attached,
            stop,
            task,
        }
    }
}

/// All at once, so that many take no longer than one.
async fn end(running: impl Iterator<Item = Running>) {
    let told: Vec<_> = running
        .inspect(|running| {
            running.stop.send_replace(true);
        })
        .filter_map(|running| running.task)
        .collect();
    for task in told {
        if let Err(error) = task.await {
            error!(%error, "a worker's driver failed");
        }
    }
}
