//! Two planes of one process, joined by channels instead of a tunnel.

mod away;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use identity::{NodeId, NodeName, Order, UnixTime};
use policy::{Document, Policy};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::spool::{Durability, Spool};
use crate::state::StateDir;
use crate::world::{World, WorldMember, WorldPolicy};

const OPEN: &str =
    r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"]}]}"#;

/// One gateway: its plane, its disk and what it believes.
pub(crate) struct Gateway {
    pub(crate) messages: Messages,
    world: watch::Sender<Arc<World>>,
    plane: JoinHandle<()>,
    pub(crate) state: StateDir,
    pub(crate) agent: LocalAgent,
    _home: Option<tempfile::TempDir>,
}

pub(crate) struct Pair {
    pub(crate) a: Gateway,
    pub(crate) b: Gateway,
    wires: Vec<JoinHandle<()>>,
}

#[tokio::test]
async fn an_ask_is_answered_within_four_fsyncs() {
    let pair = pair().await;
    let (asked, answered) = tokio::join!(
        pair.a
            .messages
            .send_and_wait(&pair.a.agent, request("2+2?"), WaitFor::Reply, soon()),
        async {
            let seen = pair.b.receive(1).await;
            assert_eq!(seen[0].kind, DeliveryKind::Request);
            pair.b
                .messages
                .reply(&pair.b.agent, seen[0].id, answer("4"))
                .await
        },
    );

    answered.expect("open");
    let (sent, outcome) = asked.expect("accepted");
    assert_eq!(sent.state, State::Accepted);
    match outcome {
        Outcome::Answered(reply) => assert_eq!(
            (&*reply.body, reply.from.to_string()),
            (&b"4"[..], "coder@gw-b".into())
        ),
        other => panic!("{other:?}"),
    }
    let commits = pair.a.commits().await + pair.b.commits().await;
    assert!(commits <= 4, "{commits} commits");
    pair.end().await;
}

#[tokio::test]
async fn a_late_answer_arrives_by_receive() {
    let pair = pair().await;
    let asked =
        pair.a
            .messages
            .send_and_wait(&pair.a.agent, request("?"), WaitFor::Reply, Instant::now());
    let (sent, outcome) = asked.await.expect("accepted");
    assert!(matches!(outcome, Outcome::TimedOut(_)));

    let seen = pair.b.receive(1).await;
    pair.b
        .messages
        .reply(&pair.b.agent, seen[0].id, answer("late"))
        .await
        .expect("open");

    let late = pair.a.receive(1).await;
    assert_eq!(
        late[0].kind,
        DeliveryKind::Reply {
            in_reply_to: sent.id
        }
    );
    assert_eq!(&*late[0].body, b"late");
    pair.end().await;
}

#[tokio::test]
async fn a_waiter_learns_that_a_message_was_done_or_denied() {
    let pair = pair().await;
    let done = WaitFor::State(State::Done);
    let (sent, ()) = tokio::join!(
        pair.a
            .messages
            .send_and_wait(&pair.a.agent, message("do it"), done, soon()),
        async {
            let seen = pair.b.receive(1).await;
            let acked = pair
                .b
                .messages
                .ack(&pair.b.agent, vec![seen[0].id])
                .await
                .expect("stored");
            assert_eq!(acked, [Ok(())]);
        },
    );
    assert!(
        matches!(sent.expect("accepted").1, Outcome::Settled(status) if status.state == State::Done)
    );

    pair.b
        .world
        .send_modify(|world| *world = world_of("gw-b", r#"{"grants": []}"#));
    let denied =
        pair.a
            .messages
            .send_and_wait(&pair.a.agent, request("no"), WaitFor::Reply, soon());
    let (_, outcome) = denied.await.expect("accepted here");
    assert!(matches!(outcome, Outcome::Settled(status) if status.state == State::Denied));
    pair.end().await;
}

#[tokio::test]
async fn the_sender_is_told_at_once_which_grant_is_missing() {
    let pair = pair().await;
    pair.a
        .world
        .send_modify(|world| *world = world_of("gw-a", r#"{"grants": []}"#));

    let error = loop {
        // The plane sees the new world at its next turn.
        match pair.a.messages.send(&pair.a.agent, message("no")).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };

    assert_eq!(error.code(), "denied");
    assert!(error.missing_grant().is_some());
    pair.end().await;
}

#[tokio::test]
async fn a_follower_gets_all_and_leaves_to_the_next_what_it_did_not_ack() {
    let pair = pair().await;
    let mut first = pair
        .b
        .messages
        .follow(&pair.b.agent)
        .await
        .expect("running");
    for n in 0..200 {
        pair.a
            .messages
            .send(&pair.a.agent, message(&n.to_string()))
            .await
            .expect("accepted");
    }
    for n in 0..200 {
        let Some(Followed::Delivery(delivery)) = first.next().await else {
            panic!("nothing was taken back, and the plane runs");
        };
        assert_eq!(
            (&*delivery.body, delivery.attempt),
            (n.to_string().as_bytes(), 1)
        );
        if n < 199 {
            pair.b
                .messages
                .ack(&pair.b.agent, vec![delivery.id])
                .await
                .expect("stored");
        }
    }
    drop(first);

    let left = pair.b.receive(10).await;

    assert_eq!((&*left[0].body, left[0].attempt), (&b"199"[..], 2));
    pair.end().await;
}

#[tokio::test]
async fn what_was_accepted_while_the_peer_was_away_arrives_after_a_restart() {
    let mut pair = pair().await;
    pair.cut();
    let sent = pair
        .a
        .messages
        .send(&pair.a.agent, message("patience"))
        .await
        .expect("accepted");
    let pair = pair.restart().await;

    let seen = pair.b.receive(1).await;

    assert_eq!((seen[0].id, &*seen[0].body), (sent.id, &b"patience"[..]));
    pair.b
        .messages
        .ack(&pair.b.agent, vec![sent.id])
        .await
        .expect("stored");
    let pair = pair.restart().await;
    let options = ReceiveOptions {
        wait: Duration::ZERO,
        max: 10,
        hold: None,
    };
    let again = pair
        .b
        .messages
        .receive(&pair.b.agent, options)
        .await
        .expect("running");
    assert!(again.is_empty(), "never shown after its ack");
    pair.end().await;
}

#[tokio::test]
async fn a_retry_of_an_id_is_the_same_message() {
    let pair = pair().await;
    let draft = Draft {
        id: Some(handle::fresh_id()),
        ..message("once")
    };
    let (first, second) = tokio::join!(
        pair.a.messages.send(&pair.a.agent, draft.clone()),
        pair.a.messages.send(&pair.a.agent, draft.clone()),
    );
    assert_eq!(first.expect("accepted").id, second.expect("the same").id);

    let other = Draft {
        body: Bytes::from_static(b"twice"),
        ..draft
    };
    assert_eq!(
        pair.a.messages.send(&pair.a.agent, other).await,
        Err(Refusal::Conflict.into())
    );
    assert_eq!(pair.b.receive(10).await.len(), 1);
    pair.end().await;
}

#[tokio::test]
async fn a_removed_agent_ends_its_streams_and_its_messages() {
    let pair = pair().await;
    pair.a
        .messages
        .send(&pair.a.agent, message("waits"))
        .await
        .expect("accepted");
    let mut follower = pair
        .b
        .messages
        .follow(&pair.b.agent)
        .await
        .expect("running");
    follower.next().await.expect("shown");

    pair.b
        .messages
        .remove_agent(pair.b.agent.instance)
        .await
        .expect("stored");

    assert!(follower.next().await.is_none());
    let ack = pair
        .b
        .messages
        .ack(&pair.b.agent, vec![handle::fresh_id()])
        .await
        .expect("running");
    assert_eq!(ack, [Err(Refusal::NotFound)]);
    assert_eq!(
        pair.b
            .messages
            .stats()
            .await
            .expect("running")
            .router
            .dead_rows,
        1
    );
    pair.end().await;
}

impl Gateway {
    async fn receive(&self, max: usize) -> Vec<Delivery> {
        let options = ReceiveOptions {
            wait: Duration::from_secs(20),
            max,
            hold: None,
        };
        self.messages
            .receive(&self.agent, options)
            .await
            .expect("running")
    }

    async fn commits(&self) -> u64 {
        self.messages.stats().await.expect("running").spool.commits
    }
}

impl Pair {
    fn cut(&mut self) {
        self.wires.drain(..).for_each(|wire| wire.abort());
    }

    /// Both processes end and start again on their own disks.
    pub(crate) async fn restart(mut self) -> Self {
        self.cut();
        let Self { a, b, .. } = self;
        let mut homes = Vec::new();
        for gateway in [a, b] {
            drop(gateway.messages);
            gateway.plane.await.expect("ends");
            homes.push((gateway.state, gateway._home));
        }
        let (b, a) = (homes.pop().expect("two"), homes.pop().expect("two"));
        join(a, b).await
    }

    pub(crate) async fn end(mut self) {
        self.cut();
        for gateway in [self.a, self.b] {
            drop(gateway.messages);
            gateway.plane.await.expect("ends");
        }
    }
}

pub(crate) async fn pair() -> Pair {
    let home = || {
        let home = tempfile::tempdir().expect("a temporary directory");
        (
            StateDir::create(&home.path().join("s")).expect("made"),
            Some(home),
        )
    };
    join(home(), home()).await
}

type Home = (StateDir, Option<tempfile::TempDir>);

async fn join(a: Home, b: Home) -> Pair {
    let (a, a_ends) = gateway("gw-a", "planner", a);
    let (b, b_ends) = gateway("gw-b", "coder", b);
    a_ends
        .inputs
        .send(PeerInput::Up(id_of("gw-b")))
        .await
        .expect("running");
    b_ends
        .inputs
        .send(PeerInput::Up(id_of("gw-a")))
        .await
        .expect("running");
    let wires = vec![
        tokio::spawn(carry(id_of("gw-a"), a_ends.outputs, b_ends.inputs)),
        tokio::spawn(carry(id_of("gw-b"), b_ends.outputs, a_ends.inputs)),
    ];
    Pair { a, b, wires }
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

fn gateway(name: &str, agent: &str, (state, home): Home) -> (Gateway, MessagesEnds) {
    let agent = LocalAgent {
        name: agent.parse().expect("a name"),
        instance: id_of(name).0,
    };
    let (world, world_out) = watch::channel(world_of(name, OPEN));
    let (messages, ends, mut plane) = start(MessagesConfig {
        budgets: Budgets::default(),
        streams: crate::streams::Streams::alone(id_of(name)),
        node: id_of(name),
        agents: vec![agent.clone()],
        spool: Spool::open(&state, Durability::Full).expect("opens"),
        world: world_out,
        seed: [7; 32],
    })
    .expect("reads");
    // So few that most of what waits in these tests is on disk alone.
    plane.set_keep(2);
    let plane = tokio::spawn(plane.run());
    (
        Gateway {
            messages,
            world,
            plane,
            state,
            agent,
            _home: home,
        },
        ends,
    )
}

fn world_of(name: &str, text: &str) -> Arc<World> {
    let mut world = World::alone(id_of(name), "home".parse().expect("a name"));
    let mut nodes = Vec::new();
    for member in ["gw-a", "gw-b"] {
        let name: NodeName = member.parse().expect("a name");
        let overlay = std::net::Ipv6Addr::LOCALHOST;
        let user = "ana@example.com".parse().ok();
        world.insert(WorldMember {
            node: id_of(member),
            name: name.clone(),
            user: user.clone(),
            tags: Vec::new(),
            overlay,
            identity: identity::IdentityPublic([0; 32]),
            expires_at: UnixTime(u64::MAX),
        });
        nodes.push(policy::Node {
            user,
            tags: Vec::new(),
            addresses: Vec::new(),
            ..policy::Node::new(id_of(member), name)
        });
    }
    let (document, _) = Document::parse("policy.hujson", text).expect("a policy");
    let policy = Arc::new(Policy::compile(&document, &nodes));
    world.policy = Some(WorldPolicy {
        policy,
        order: Order::default(),
        signed_at: UnixTime(0),
        text: text.into(),
    });
    Arc::new(world)
}

fn id_of(name: &str) -> NodeId {
    NodeId([name.as_bytes()[3]; 16])
}

pub(crate) fn message(body: &str) -> Draft {
    Draft {
        id: None,
        to: "coder@gw-b".parse().expect("an address"),
        expects_reply: false,
        stream: false,
        origin: Origin::Unsaid,
        conversation: None,
        ttl: None,
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

pub(crate) fn request(body: &str) -> Draft {
    Draft {
        expects_reply: true,
        ..message(body)
    }
}

pub(crate) fn answer(body: &str) -> ReplyDraft {
    let body = Bytes::copy_from_slice(body.as_bytes());
    ReplyDraft {
        id: None,
        content_type: "text/plain".into(),
        body,
    }
}

pub(crate) fn soon() -> Instant {
    within(Duration::from_secs(20))
}
