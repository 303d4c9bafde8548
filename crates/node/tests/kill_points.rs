//! SIGKILL at every named place round an fsync and a hand-off, and a restart on what is left:
//! every accepted message arrives, none comes again after its ack.
//!
//! The test runs itself as the victim: two message planes in one process, which says on stdout
//! what it was promised. `CRABMESH_NIGHTLY=1` kills a thousand times, at random passings.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::join_all;
use identity::{NodeId, Order, UnixTime};
use node::messages::{
    DeliveryKind, Draft, LocalAgent, Messages, MessagesConfig, PeerInput, PeerOutput,
    ReceiveOptions, ReplyDraft, start,
};
use node::spool::{Durability, Spool, crash};
use node::state::StateDir;
use node::world::{World, WorldMember, WorldPolicy};
use policy::{Document, Policy};
use tokio::sync::{mpsc, watch};
use wire::MessageId;

/// Messages of one round; every fourth is a request.
const MESSAGES: u64 = 24;

#[test]
fn killed_at_every_point_nothing_accepted_is_lost_and_nothing_acked_comes_again() {
    if !cfg!(debug_assertions) {
        return; // a release build has no such points
    }
    let nightly = std::env::var("CRABMESH_NIGHTLY").is_ok_and(|value| value == "1");
    let mut kills = BTreeSet::new();
    if nightly {
        let mut dice = now_ms();
        for round in 0..1000 / crash::POINTS.len() + 1 {
            for point in crash::POINTS {
                dice = dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(round as u64 | 1);
                let passing = 1 + (dice >> 33) % 20;
                tell_seed(point, passing);
                kills.extend(Story::new().kill_at(point, &[passing]));
            }
        }
    } else {
        for point in crash::POINTS {
            kills.extend(Story::new().kill_at(point, &[1, 3]));
        }
    }
    let all: BTreeSet<&str> = crash::POINTS.into_iter().collect();
    assert_eq!(kills, all, "a point that nobody passes proves nothing");
}

/// The victim. Does nothing when the test harness runs it.
#[test]
fn victim() {
    let Ok(home) = std::env::var("CRABMESH_VICTIM") else {
        return;
    };
    let known = std::env::var("CRABMESH_VICTIM_ACCEPTED").unwrap_or_default();
    let accepted = known.split(',').filter_map(|n| n.parse().ok()).collect();
    let base = std::env::var("CRABMESH_VICTIM_BASE")
        .ok()
        .and_then(|base| base.parse().ok());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(live(Path::new(&home), base.expect("a base"), accepted));
}

/// What the victim was promised, over all its lives.
struct Story {
    home: tempfile::TempDir,
    base: u64,
    accepted: BTreeSet<u64>,
    acked: BTreeSet<String>,
    shown: BTreeSet<String>,
    answered: BTreeSet<u64>,
}

impl Story {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory"),
            base: now_ms(),
            accepted: BTreeSet::new(),
            acked: BTreeSet::new(),
            shown: BTreeSet::new(),
            answered: BTreeSet::new(),
        }
    }

    /// Lives once for each passing, dies there, and then lives to the end. Returns where it died.
    fn kill_at(mut self, point: &'static str, passings: &[u64]) -> Option<&'static str> {
        let mut died = None;
        for passing in passings {
            if !self.live(Some(&format!("{point}:{passing}"))) {
                died = Some(point);
            }
        }
        assert!(
            self.live(None),
            "{point}: without a kill it must end by itself"
        );

        assert_eq!(self.accepted, (0..MESSAGES).collect(), "{point}: accepted");
        let arrived: BTreeSet<u64> = self.shown.iter().filter_map(|it| it.parse().ok()).collect();
        assert_eq!(arrived, self.accepted, "{point}: accepted and never shown");
        let asked: BTreeSet<u64> = (0..MESSAGES).filter(|n| is_request(*n)).collect();
        assert_eq!(
            self.answered, asked,
            "{point}: a reply was accepted and never shown"
        );
        died
    }

    /// One life; true when it ended by itself.
    fn live(&mut self, kill: Option<&str>) -> bool {
        let accepted: Vec<String> = self.accepted.iter().map(u64::to_string).collect();
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env("CRABMESH_VICTIM", self.home.path())
            .env("CRABMESH_VICTIM_BASE", self.base.to_string())
            .env("CRABMESH_VICTIM_ACCEPTED", accepted.join(","))
            .env_remove(crash::VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if let Some(kill) = kill {
            command.env(crash::VARIABLE, kill);
        }
        let mut child = command.spawn().expect("runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in lines.map_while(Result::ok) {
            self.hear(&line, kill.unwrap_or("the last life"));
        }
        let status = child.wait().expect("waited for");
        match kill {
            Some(_) if status.signal() == Some(9) => false,
            _ => {
                assert!(status.success(), "{kill:?}: {status}");
                true
            }
        }
    }

    fn hear(&mut self, line: &str, life: &str) {
        let Some((_, said)) = line.split_once("victim: ") else {
            return;
        };
        let (what, about) = said.split_once(' ').expect("a word and a name");
        match what {
            "accepted" => drop(self.accepted.insert(about.parse().expect("a number"))),
            "shown" => {
                assert!(
                    !self.acked.contains(about),
                    "{life}: {about} came again after its ack"
                );
                if let Some(number) = about.strip_prefix("re:") {
                    self.answered.insert(number.parse().expect("a number"));
                }
                self.shown.insert(about.to_owned());
            }
            "acked" => drop(self.acked.insert(about.to_owned())),
            other => panic!("{other}?"),
        }
    }
}

/// Sends what was not accepted yet, receives, answers and acks, until nothing is left to do.
async fn live(home: &Path, base: u64, accepted: BTreeSet<u64>) {
    let (a, a_inputs, a_outputs, planner) = plane(home, "gw-a", "planner");
    let (b, b_inputs, b_outputs, coder) = plane(home, "gw-b", "coder");
    a_inputs
        .send(PeerInput::Up(id_of("gw-b")))
        .await
        .expect("running");
    b_inputs
        .send(PeerInput::Up(id_of("gw-a")))
        .await
        .expect("running");
    tokio::spawn(carry(id_of("gw-a"), a_outputs, b_inputs));
    tokio::spawn(carry(id_of("gw-b"), b_outputs, a_inputs));

    let send = async {
        let todo: Vec<u64> = (0..MESSAGES).filter(|n| !accepted.contains(n)).collect();
        for some in todo.chunks(4) {
            let sent = some.iter().map(|n| async {
                // The id is the number, so that a retry after a death is the same message.
                let mut random = [0; 10];
                random[2..].copy_from_slice(&n.to_be_bytes());
                let draft = Draft {
                    id: Some(MessageId::new(base, random)),
                    to: "coder@gw-b".parse().expect("an address"),
                    expects_reply: is_request(*n),
                    stream: false,
                    origin: node::messages::Origin::Nothing,
                    conversation: None,
                    ttl: None,
                    content_type: "text/plain".into(),
                    body: Bytes::from(n.to_string()),
                };
                a.send(&planner, draft).await.expect("accepted");
                say("accepted", &n.to_string());
            });
            join_all(sent).await;
        }
    };
    let (done, finished) = watch::channel(false);
    let work = async {
        tokio::join!(
            work(&a, &planner, finished.clone()),
            work(&b, &coder, finished.clone())
        );
    };
    let end = async {
        send.await;
        loop {
            let (here, there) = (
                a.stats().await.expect("running"),
                b.stats().await.expect("running"),
            );
            let damaged = here.spool.damaged + there.spool.damaged;
            assert_eq!(damaged, 0, "a kill damages nothing");
            let rows =
                |stats: &node::messages::Stats| stats.router.outbox_rows + stats.router.inbox_rows;
            if rows(&here) + rows(&there) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        a.drain().await;
        b.drain().await;
        done.send_replace(true);
    };
    tokio::join!(work, end);
}

async fn work(messages: &Messages, agent: &LocalAgent, mut finished: watch::Receiver<bool>) {
    let options = ReceiveOptions {
        wait: Duration::from_secs(30),
        max: 3,
        hold: None,
    };
    loop {
        let seen = tokio::select! {
            _ = finished.wait_for(|finished| *finished) => return,
            seen = messages.receive(agent, options) => seen.expect("running"),
        };
        for delivery in seen {
            let body = String::from_utf8_lossy(&delivery.body).into_owned();
            assert!(
                !matches!(delivery.kind, DeliveryKind::Failure { .. }),
                "{delivery:?}"
            );
            say("shown", &body);
            if delivery.kind == DeliveryKind::Request {
                let body = Bytes::from(format!("re:{body}"));
                let draft = ReplyDraft {
                    id: None,
                    content_type: "text/plain".into(),
                    body,
                };
                messages
                    .reply(agent, delivery.id, draft)
                    .await
                    .expect("accepted");
            } else {
                let acked = messages
                    .ack(agent, vec![delivery.id])
                    .await
                    .expect("stored");
                assert_eq!(acked, [Ok(())]);
            }
            say("acked", &body);
        }
    }
}

async fn carry(from: NodeId, mut outputs: mpsc::Receiver<PeerOutput>, to: mpsc::Sender<PeerInput>) {
    while let Some(output) = outputs.recv().await {
        if let PeerOutput::Frame(_, frame) = output
            && to.send(PeerInput::Frame(from, frame)).await.is_err()
        {
            return;
        }
    }
}

type Running = (
    Messages,
    mpsc::Sender<PeerInput>,
    mpsc::Receiver<PeerOutput>,
    LocalAgent,
);

fn plane(home: &Path, name: &str, agent: &str) -> Running {
    let state = StateDir::create(&home.join(name)).expect("a state directory");
    let agent = LocalAgent {
        name: agent.parse().expect("a name"),
        instance: id_of(name).0,
    };
    let spool = Spool::open(&state, Durability::Full).expect("opens after any death");
    assert_eq!(spool.quarantined, None, "a kill damages nothing");
    let (world, world_out) = watch::channel(world_of(name));
    let (messages, ends, mut plane) = start(MessagesConfig {
        budgets: node::messages::Budgets::default(),
        streams: node::streams::Streams::alone(id_of(name)),
        node: id_of(name),
        agents: vec![agent.clone()],
        spool,
        world: world_out,
        seed: [7; 32],
    })
    .expect("reads");
    // So few that most of what waits is on disk alone.
    plane.set_keep(2);
    tokio::spawn(async move {
        plane.run().await;
        drop(world);
    });
    (messages, ends.inputs, ends.outputs, agent)
}

fn world_of(name: &str) -> Arc<World> {
    let text = r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"]}]}"#;
    let mut world = World::alone(id_of(name), "home".parse().expect("a name"));
    let mut nodes = Vec::new();
    for member in ["gw-a", "gw-b"] {
        let (node, name) = (
            id_of(member),
            member.parse::<identity::NodeName>().expect("a name"),
        );
        let user = "ana@example.com".parse().ok();
        world.insert(WorldMember {
            node,
            name: name.clone(),
            user: user.clone(),
            tags: Vec::new(),
            identity: identity::IdentityPublic([0; 32]),
            overlay: std::net::Ipv6Addr::LOCALHOST,
            expires_at: UnixTime(u64::MAX),
        });
        nodes.push(policy::Node {
            user,
            tags: Vec::new(),
            addresses: Vec::new(),
            ..policy::Node::new(node, name)
        });
    }
    let (document, _) = Document::parse("policy.hujson", text).expect("a policy");
    world.policy = Some(WorldPolicy {
        policy: Arc::new(Policy::compile(&document, &nodes)),
        order: Order::default(),
        signed_at: UnixTime(0),
        text: text.into(),
    });
    Arc::new(world)
}

fn id_of(name: &str) -> NodeId {
    NodeId([name.as_bytes()[3]; 16])
}

fn is_request(n: u64) -> bool {
    n.is_multiple_of(4)
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(since.as_millis()).expect("this age")
}

/// One line at once, past the test harness, so that a death cannot cut it.
fn say(what: &str, about: &str) {
    let line = format!("victim: {what} {about}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("the parent listens");
}

fn tell_seed(point: &str, passing: u64) {
    let line = format!("kill at {point}:{passing}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}
