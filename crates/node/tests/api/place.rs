//! A node's local API over its real listeners, with a real message plane and spool; the rest of the
//! node is played.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::api::{
    AgentEntry, Failure, Isolation, KillApplied, MapStatus, NodeStatus, Path, Ping, Policy, Status,
    Timestamp,
};
use identity::{
    AgentAddress, AgentName, IdentityPublic, KillFile, NodeId, NodeName, Order, UnixTime,
};
use node::agents::Agents;
use node::api::{Api, ApiConfig, Later, NodeView, PingTarget};
use node::messages::{MessagesConfig, MessagesEnds};
use node::spool::{Durability, Spool};
use node::state::StateDir;
use node::workers::Supervisor;
use node::world::{World, WorldMember, WorldPolicy};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

pub struct Place {
    pub loopback: SocketAddr,
    pub socket: PathBuf,
    pub admin_token: String,
    pub state: StateDir,
    tokens: BTreeMap<String, String>,
    pub stop: Option<oneshot::Sender<()>>,
    directory: watch::Sender<Vec<AgentEntry>>,
    _world: watch::Sender<Arc<World>>,
    _peers: Peers,
    _home: TempDir,
}

/// The message plane's ends towards peers, of which there are none.
struct Peers {
    _inputs: tokio::sync::mpsc::Sender<node::messages::PeerInput>,
    _outputs: tokio::sync::mpsc::Receiver<node::messages::PeerOutput>,
}

/// Who calls, over what.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub unix: bool,
    pub token: Option<&'a str>,
    pub headers: Vec<(&'static str, String)>,
}

/// An answer's status and body; null for a body that is not JSON, or has no end.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub body: Value,
    pub text: String,
}

/// The events of a stream.
pub struct Events {
    lines: BufReader<Box<dyn Io>>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Place {
    pub async fn open() -> Self {
        Self::with(ApiConfig::default()).await
    }

    pub async fn with(config: ApiConfig) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::create(&home.path().join("gw-a")).expect("made");
        Self::on(home, state, config).await
    }

    pub async fn on(home: TempDir, state: StateDir, config: ApiConfig) -> Self {
        let (world_in, world) = watch::channel(Arc::new(world()));
        let spool = Spool::open(&state, Durability::Full).expect("a spool");
        let agents = Agents::open(state.clone()).expect("a registry");
        let locals: Vec<_> = agents
            .list()
            .iter()
            .map(|agent| agent.local.clone())
            .collect();
        let (messages, MessagesEnds { inputs, outputs }, plane) =
            node::messages::start(MessagesConfig {
                budgets: node::messages::Budgets::default(),
                streams: node::streams::Streams::alone(NODE),
                node: NODE,
                agents: locals.clone(),
                spool,
                world,
                seed: [7; 32],
            })
            .expect("reads");
        tokio::spawn(plane.run());
        let (tasks, keeper) = node::a2a::start(&state, messages.clone()).expect("tasks");
        let taken_up = keeper.resume(&locals).await;
        tokio::spawn(keeper.run(taken_up));
        let supervisor = Supervisor::new(agents.clone(), messages.clone(), || None);
        let workers = supervisor.workers();
        tokio::spawn(supervisor.run(std::future::pending()));
        let (directory, seen) = watch::channel(vec![coder()]);
        let played = Arc::new(Played { directory: seen });
        let api = Api::bind(&state, config, agents, workers, messages, tasks, played)
            .await
            .expect("bound");
        let endpoints = api.endpoints().clone();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(api.run(async {
            let _ = stopped.await;
        }));
        let admin_token = state.read("admin.token").expect("readable").expect("made");
        Self {
            loopback: endpoints.loopback,
            socket: endpoints.socket,
            admin_token: String::from_utf8(admin_token).expect("text"),
            state,
            tokens: BTreeMap::new(),
            stop: Some(stop),
            directory,
            _world: world_in,
            _peers: Peers {
                _inputs: inputs,
                _outputs: outputs,
            },
            _home: home,
        }
    }

    /// Adds an agent as the CLI does.
    pub async fn add(&mut self, name: &str) -> String {
        let body = format!(r#"{{"name": "{name}"}}"#);
        let added = self
            .call(&self.admin(), "POST", "/v1/admin/agents", &body)
            .await;
        assert_eq!(added.status, 201, "{added:?}");
        let token = added.body["token"].as_str().expect("a token").to_owned();
        self.tokens.insert(name.into(), token.clone());
        token
    }

    pub fn admin(&self) -> Call<'_> {
        Call {
            unix: true,
            token: Some(&self.admin_token),
            headers: Vec::new(),
        }
    }

    /// That agent, over loopback TCP.
    pub fn agent(&self, name: &str) -> Call<'_> {
        Call {
            unix: false,
            token: self.tokens.get(name).map(String::as_str),
            headers: Vec::new(),
        }
    }

    pub async fn get(&self, name: &str, path: &str) -> Answered {
        self.call(&self.agent(name), "GET", path, "").await
    }

    pub async fn post(&self, name: &str, path: &str, body: Value) -> Answered {
        self.call(&self.agent(name), "POST", path, &body.to_string())
            .await
    }

    pub async fn call(&self, call: &Call<'_>, method: &str, path: &str, body: &str) -> Answered {
        let mut lines = self.ask(call, method, path, body).await;
        let (status, length) = head(&mut lines).await;
        let mut bytes = vec![0; length.unwrap_or(0)];
        lines.read_exact(&mut bytes).await.expect("the whole body");
        let text = String::from_utf8(bytes).expect("UTF-8");
        Answered {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    pub async fn follow(&self, name: &str) -> Events {
        self.events(&self.agent(name), "GET", "/v1/messages/stream", "")
            .await
    }

    pub async fn watch(&self, name: &str) -> Events {
        self.events(&self.agent(name), "GET", "/v1/agents/stream", "")
            .await
    }

    /// What the rest of the node knows of agents elsewhere.
    pub fn set_agents(&self, change: impl FnOnce(&mut Vec<AgentEntry>)) {
        self.directory.send_modify(change);
    }

    /// A call whose answer is a stream of events.
    pub async fn events(&self, call: &Call<'_>, method: &str, path: &str, body: &str) -> Events {
        let mut lines = self.ask(call, method, path, body).await;
        let (status, length) = head(&mut lines).await;
        assert_eq!((status, length), (200, None));
        Events { lines }
    }

    /// Posts a message of MCP; the answer of its stream.
    pub async fn mcp(&self, call: &Call<'_>, message: &Value) -> Value {
        let mut lines = self.ask(call, "POST", "/mcp", &message.to_string()).await;
        assert_eq!(head(&mut lines).await.0, 200, "{message}");
        Events { lines }.next().await
    }

    /// The stream of an MCP session.
    pub async fn events_of(&self, call: &Call<'_>) -> Events {
        let mut lines = self.ask(call, "GET", "/mcp", "").await;
        assert_eq!(head(&mut lines).await.0, 200);
        Events { lines }
    }

    /// Begins an MCP session: its id, and the answer.
    pub async fn initialize(&self, call: &Call<'_>, message: &Value) -> (String, Value) {
        let mut lines = self.ask(call, "POST", "/mcp", &message.to_string()).await;
        let mut session = None;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).await.expect("a header");
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("mcp-session-id") => {
                    session = Some(value.to_owned());
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let answer = Events { lines }.next().await;
        (session.expect("a session"), answer)
    }

    async fn ask(
        &self,
        call: &Call<'_>,
        method: &str,
        path: &str,
        body: &str,
    ) -> BufReader<Box<dyn Io>> {
        let mut stream: Box<dyn Io> = match call.unix {
            true => Box::new(UnixStream::connect(&self.socket).await.expect("connected")),
            false => Box::new(TcpStream::connect(self.loopback).await.expect("connected")),
        };
        let mut headers = BTreeMap::from([
            ("host", self.loopback.to_string()),
            ("content-length", body.len().to_string()),
        ]);
        if method == "POST" {
            headers.insert("content-type", "application/json".into());
        }
        if let Some(token) = call.token {
            headers.insert("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &call.headers {
            headers.insert(name, value.clone());
        }
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        // An empty value stands for a header left out.
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        // A server that refuses by the head alone may close before it read the body.
        let _ = stream.write_all(text.as_bytes()).await;
        BufReader::new(stream)
    }
}

impl Events {
    /// The data of the next message.
    pub async fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            let read = tokio::time::timeout(PATIENCE, read)
                .await
                .expect("an event in time");
            assert_ne!(read.expect("readable"), 0, "the stream ended");
            // An event without data only says from where a stream may be taken up again.
            if let Some(data) = line
                .strip_prefix("data:")
                .filter(|data| !data.trim().is_empty())
            {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }
}

impl Events {
    /// The next event: its name, its id, its data.
    pub async fn event(&mut self) -> (String, String, Value) {
        let (mut name, mut id) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            let read = tokio::time::timeout(PATIENCE, read)
                .await
                .expect("an event in time");
            assert_ne!(read.expect("readable"), 0, "the stream ended");
            let field = |prefix| line.strip_prefix(prefix).map(|it| it.trim().to_owned());
            if let Some(data) = field("data:") {
                return (name, id, serde_json::from_str(&data).expect("JSON"));
            }
            name = field("event:").unwrap_or(name);
            id = field("id:").unwrap_or(id);
        }
    }
}

impl Events {
    /// Whether the last event was the last; the connection may live on (RFC 9112 §7.1).
    pub async fn is_over(&mut self) -> bool {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            match tokio::time::timeout(PATIENCE, read).await {
                Ok(Ok(read)) if read == 0 || line.trim() == "0" => return true,
                Ok(Ok(_)) if !line.starts_with("event:") => {}
                _ => return false,
            }
        }
    }

    /// Whether the stream ends.
    pub async fn end(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = self.lines.read_to_end(&mut rest);
        tokio::time::timeout(PATIENCE, read).await.is_ok()
    }
}

async fn head(lines: &mut BufReader<Box<dyn Io>>) -> (u16, Option<usize>) {
    let mut line = String::new();
    lines.read_line(&mut line).await.expect("a status line");
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let mut length = None;
    loop {
        line.clear();
        lines.read_line(&mut line).await.expect("a header");
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return (status, length);
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
    }
}

/// The rest of the node.
struct Played {
    directory: watch::Receiver<Vec<AgentEntry>>,
}

impl NodeView for Played {
    fn own_name(&self) -> Option<NodeName> {
        "gw-a".parse().ok()
    }

    fn status(&self, isolation: Isolation) -> Later<'_, Status> {
        Box::pin(async move {
            Status {
                mesh: "home".into(),
                node: NodeStatus {
                    name: self.own_name(),
                    id: NODE.to_hex(),
                    tags: Vec::new(),
                    expires_at: Some(Timestamp(0)),
                    isolation,
                    enforces: vec!["rate".into()],
                },
                beacons: Vec::new(),
                peers: Vec::new(),
                policy: None,
                revocations: None,
                map: MapStatus { age_s: None },
            }
        })
    }

    fn policy(&self) -> Option<Policy> {
        None
    }

    fn directory(&self, asker: Option<&AgentName>) -> Later<'_, Vec<AgentEntry>> {
        let known = asker.is_some();
        Box::pin(async move {
            match known {
                true => self.directory.borrow().clone(),
                false => Vec::new(),
            }
        })
    }

    fn reach(&self, to: AgentAddress, _: AgentName) -> Later<'_, Result<(), Failure>> {
        Box::pin(async move {
            match to.node.as_str() {
                "gw-b" => Ok(()),
                _ => Err(Failure::new("unknown_gateway", "no such gateway")),
            }
        })
    }

    fn directory_news(&self) -> Later<'static, ()> {
        let mut directory = self.directory.clone();
        directory.mark_unchanged();
        Box::pin(async move {
            let _ = directory.changed().await;
        })
    }

    fn ping(&self, target: PingTarget, _: Option<AgentName>) -> Later<'_, Result<Ping, Failure>> {
        Box::pin(async move {
            match target {
                PingTarget::Gateway(name) if name.as_str() == "silent" => {
                    std::future::pending().await
                }
                PingTarget::Gateway(_) => Ok(Ping {
                    path: Path::none(),
                    rtt_ms: Some(1.5),
                }),
                PingTarget::Agent(_) => Err(Failure::new("denied", "no grant")),
            }
        })
    }

    fn kill(&self, file: KillFile) -> Later<'_, Result<KillApplied, Failure>> {
        Box::pin(async move {
            match file.revocations() {
                b"good" => Ok(KillApplied {
                    version: "1.2".into(),
                    news: true,
                    peers: 3,
                    beacons: 0,
                }),
                _ => Err(Failure::new(
                    "kill_refused",
                    "the signature does not verify",
                )),
            }
        })
    }

    fn path(&self, _: &NodeName) -> Later<'_, Path> {
        Box::pin(async { Path::none() })
    }

    fn metrics(&self) -> Later<'_, String> {
        Box::pin(async { "played 1\n".to_owned() })
    }
}

fn coder() -> AgentEntry {
    AgentEntry {
        address: "coder@gw-b".parse().expect("an address"),
        online: true,
        presence: api::Presence::Away,
        last_seen_s: None,
        streams: false,
        description: None,
        skills: Vec::new(),
    }
}

/// One gateway, whose planner may ask and write to its coder, and whose coder may not write back.
fn world() -> World {
    let mut world = World::alone(NODE, "home".parse().expect("a name"));
    let member = WorldMember {
        node: NODE,
        name: "gw-a".parse().expect("a name"),
        user: None,
        tags: vec!["tag:gateway".parse().expect("a tag")],
        identity: IdentityPublic([2; 32]),
        overlay: "fd00::1".parse().expect("an address"),
        expires_at: UnixTime(u64::MAX / 2),
    };
    let node = policy::Node {
        user: None,
        tags: member.tags.clone(),
        addresses: vec![member.overlay.into()],
        ..policy::Node::new(member.node, member.name.clone())
    };
    world.insert(member);
    let (document, _) = policy::Document::parse("policy.hujson", POLICY).expect("a policy");
    world.policy = Some(WorldPolicy {
        policy: Arc::new(policy::Policy::compile(&document, &[node])),
        order: Order {
            epoch: 1,
            version: 1,
        },
        signed_at: UnixTime(0),
        text: POLICY.into(),
    });
    world
}

pub const NODE: NodeId = NodeId([1; 16]);

/// Only a failure waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:planner@tag:gateway"], "dst": ["agent:coder@tag:gateway"], "msg": ["send", "request", "stream"]},
    {"src": ["agent:planner@tag:gateway"], "dst": ["agent:narrow@tag:gateway"], "msg": ["send", "request"]},
  ],
  "guards": [
    {"id": "g-narrow", "src": ["agent:*@*"], "dst": ["agent:narrow@*"], "maxBytes": "10", "rate": {"limit": "1/h"}},
  ],
}"#;
