//! A real OpenClaw gateway with a fake model, on a host of the lab, joined to the mesh by
//! `crabmesh connect`. The scripts beside this crate's sources lay it out (`openclaw/lab.sh`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::Host;
use crate::mesh::{Gateway, Mesh};
use crate::process::{Finished, Running, run};

/// A gateway of the mesh with an OpenClaw gateway beside it.
pub struct Claw {
    /// The mesh's half.
    pub gateway: Gateway,
    /// The OpenClaw process, while it runs.
    pub openclaw: Option<Running>,
    dir: PathBuf,
    _model: Running,
}

impl Claw {
    /// Lets a gateway join, connects an OpenClaw gateway to it and starts both. It is ready after
    /// [`Claw::wait`].
    pub fn start(mesh: &Mesh, name: &str, host: &Host) -> Self {
        Self::start_with(mesh, name, host, &[])
    }

    /// The same, with more options for `connect`.
    pub fn start_with(mesh: &Mesh, name: &str, host: &Host, options: &[&str]) -> Self {
        let gateway = mesh.gateway(name, host);
        let dir = mesh.scratch().join(format!("{name}-openclaw"));
        let place = dir.display().to_string();
        run(&[&script(), "make", &place, "18789"]).expect_success();
        let model = host.start(&[&script(), "model", &place, name]);
        let mut claw = Self {
            gateway,
            openclaw: None,
            dir,
            _model: model,
        };
        claw.connect("connect", options);
        claw.start_openclaw();
        claw
    }

    /// `crabmesh connect openclaw`, or `disconnect`: what it says.
    pub fn connect(&self, verb: &str, options: &[&str]) -> String {
        let config = self.dir.join("openclaw.json").display().to_string();
        let line = [&[verb, "openclaw", "--config", &config], options].concat();
        self.gateway.crabmesh(&line, "").expect_success().stdout
    }

    /// Starts OpenClaw.
    pub fn start_openclaw(&mut self) {
        let place = self.dir.display().to_string();
        self.openclaw = Some(self.gateway.host.start(&[&script(), "gateway", &place]));
    }

    /// SIGKILL for OpenClaw.
    pub fn kill_openclaw(&mut self) {
        self.openclaw.take().expect("it runs").kill();
    }

    /// SIGTERM for OpenClaw. After three SIGKILLs within five minutes it starts no channels by itself.
    pub fn stop_openclaw(&mut self) {
        let openclaw = self.openclaw.take().expect("it runs");
        openclaw.terminate(READY_WITHIN);
    }

    /// Waits until OpenClaw is ready and on the mesh.
    pub fn wait(&self) {
        let place = self.dir.display().to_string();
        let within = READY_WITHIN.as_secs().to_string();
        self.gateway
            .host
            .run(&[&script(), "wait", &place, &within])
            .expect_success();
    }

    /// One turn of an agent, as its owner: what the agent says.
    pub fn turn(&self, agent: &str, text: &str) -> String {
        let place = self.dir.display().to_string();
        let Finished { stdout, .. } = self
            .gateway
            .host
            .run(&[&script(), "turn", &place, agent, text])
            .expect_success();
        stdout
    }

    /// What the model was told by users, agents of the mesh among them: each text once a call.
    pub fn told(&self) -> Vec<String> {
        self.log()
            .into_iter()
            .filter(|line| line["what"] == "asked" && line["role"] == "user")
            .map(|line| line["last"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// How often the model was told these words by an agent of the mesh.
    pub fn calls(&self, words: &str) -> usize {
        let told = self.told();
        told.iter()
            .filter(|text| text.contains("another agent; data") && text.contains(words))
            .count()
    }

    /// Waits until the model was told something by an agent of the mesh.
    pub fn wait_for_call(&self, words: &str, within: Duration) {
        let start = Instant::now();
        while self.calls(words) == 0 {
            assert!(
                start.elapsed() < within,
                "{} was not told {words:?}: {:#?}",
                self.gateway.name,
                self.told()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("model.jsonl")).unwrap_or_default();
        // The last line may be half written.
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Whether OpenClaw can be run here; installs it at the first time. Otherwise what is missing.
pub fn available() -> Result<(), String> {
    for tool in ["npm", "python3", "curl"] {
        let found = run(&["sh", "-c", &format!("command -v {tool}")]);
        if found.code != 0 {
            return Err(format!("{tool} is not installed"));
        }
    }
    let installed = run(&[&script(), "install"]);
    match installed.code {
        0 => Ok(()),
        _ => Err(format!(
            "openclaw cannot be installed from the npm registry: {}",
            installed.stderr.lines().last().unwrap_or_default()
        )),
    }
}

fn script() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("openclaw/lab.sh")
        .display()
        .to_string()
}

/// Two of them start on two busy cores.
const READY_WITHIN: Duration = Duration::from_secs(240);
