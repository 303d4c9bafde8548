use identity::{IdentityPublic, Order, UnixTime};
use wire::peer::Presence;
use wire::profile::Profile;

use super::*;
use crate::world::{WorldMember, WorldPolicy};

#[tokio::test]
async fn a_peer_in_session_hears_all_once_then_news_and_nothing_else() {
    let mut stage = Stage::open();
    stage.agents(vec![entry("coder", Presence::Away)]).await;
    stage.up().await;
    let SessionCommand::Control(PEER, PeerFrame::Directory(told)) = stage.said().await else {
        panic!("no directory");
    };
    assert_eq!(told, [entry("coder", Presence::Away)]);

    stage.agents(vec![entry("coder", Presence::Away)]).await;
    stage.world.send_modify(|_| {});
    stage.is_silent().await;

    stage.agents(vec![entry("coder", Presence::Online)]).await;
    let SessionCommand::Control(PEER, PeerFrame::News { changed, gone }) = stage.said().await
    else {
        panic!("no news");
    };
    assert_eq!(
        (changed, gone),
        (vec![entry("coder", Presence::Online)], vec![])
    );
}

#[tokio::test]
async fn a_peer_whose_session_ended_is_dialled_when_there_is_news_and_then_told() {
    let mut stage = Stage::open();
    stage.agents(vec![entry("coder", Presence::Away)]).await;
    stage.up().await;
    stage.said().await;
    stage
        .sessions
        .send(SessionEvent::Down(PEER))
        .await
        .expect("it runs");
    stage.is_silent().await;

    stage.agents(vec![entry("coder", Presence::Online)]).await;
    assert!(matches!(stage.said().await, SessionCommand::Dial(PEER)));
    stage.up().await;
    let SessionCommand::Control(PEER, PeerFrame::Directory(told)) = stage.said().await else {
        panic!("no directory");
    };
    assert_eq!(told, [entry("coder", Presence::Online)]);
}

#[tokio::test]
async fn whoever_a_beacon_says_is_gone_is_not_dialled() {
    let mut stage = Stage::open();
    stage.agents(vec![entry("coder", Presence::Away)]).await;
    stage.up().await;
    stage.said().await;
    stage
        .sessions
        .send(SessionEvent::Down(PEER))
        .await
        .expect("it runs");
    stage.status.send_modify(|status| {
        let status = Arc::make_mut(status);
        status.map_live = true;
        status.presence.insert(PEER, (false, UnixTime(1)));
    });

    stage.agents(vec![entry("coder", Presence::Online)]).await;
    stage.is_silent().await;
}

#[tokio::test]
async fn what_a_peer_tells_is_known_also_when_its_session_has_ended() {
    let mut stage = Stage::open();
    stage.up().await;
    stage.said().await;
    let told = PeerFrame::Directory(vec![entry("planner", Presence::Online)]);
    stage
        .sessions
        .send(SessionEvent::Control(PEER, told))
        .await
        .expect("it runs");
    stage
        .sessions
        .send(SessionEvent::Down(PEER))
        .await
        .expect("it runs");
    let is_known = |known: &Arc<Known>| {
        let now = Instant::now();
        let mut agents = known.gateways().filter(|(_, gateway)| !gateway.in_session);
        agents.any(|(_, gateway)| gateway.agents(crate::directories::Reach::Up, now).count() == 1)
    };
    tokio::time::timeout(PATIENCE, stage.known.wait_for(is_known))
        .await
        .expect("in time")
        .expect("it runs");

    // Cut off, and forgotten.
    stage
        .world
        .send_modify(|world| drop(Arc::make_mut(world).members.remove(&PEER)));
    let is_forgotten = |known: &Arc<Known>| known.gateways().count() == 0;
    tokio::time::timeout(PATIENCE, stage.known.wait_for(is_forgotten))
        .await
        .expect("in time")
        .expect("it runs");
}

/// An exchange whose neighbours are played.
struct Stage {
    commands: mpsc::Sender<ExchangeCommand>,
    sessions: mpsc::Sender<SessionEvent>,
    said: mpsc::Receiver<SessionCommand>,
    world: watch::Sender<Arc<World>>,
    status: watch::Sender<Arc<Status>>,
    known: watch::Receiver<Arc<Known>>,
    _control: mpsc::Sender<ControlEvent>,
    _control_inputs: mpsc::Receiver<ControlInput>,
    _messages: mpsc::Receiver<PeerInput>,
}

impl Stage {
    fn open() -> Self {
        let (commands, for_exchange) = mpsc::channel(16);
        let (sessions, from_sessions) = mpsc::channel(16);
        let (to_sessions, said) = mpsc::channel(16);
        let (control, from_control) = mpsc::channel(16);
        let (to_control, control_inputs) = mpsc::channel(16);
        let (to_messages, messages) = mpsc::channel(16);
        let (world, world_seen) = watch::channel(Arc::new(world()));
        let (status, status_seen) = watch::channel(Arc::default());
        let (known, known_seen) = watch::channel(Arc::default());
        let exchange = Exchange::new(ExchangePorts {
            commands: for_exchange,
            sessions: from_sessions,
            to_sessions,
            control: from_control,
            to_control,
            to_messages,
            world: world_seen,
            status: status_seen,
            known,
        });
        tokio::spawn(exchange.run());
        Self {
            commands,
            sessions,
            said,
            world,
            status,
            known: known_seen,
            _control: control,
            _control_inputs: control_inputs,
            _messages: messages,
        }
    }

    async fn agents(&self, entries: Vec<DirectoryEntry>) {
        let agents = ExchangeCommand::Agents(entries);
        self.commands.send(agents).await.expect("it runs");
        // What was sent before is heard before what is sent next.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    async fn up(&self) {
        self.sessions
            .send(SessionEvent::Up(PEER))
            .await
            .expect("it runs");
    }

    async fn said(&mut self) -> SessionCommand {
        let said = tokio::time::timeout(PATIENCE, self.said.recv()).await;
        said.expect("in time").expect("it runs")
    }

    async fn is_silent(&mut self) {
        let said = tokio::time::timeout(Duration::from_millis(100), self.said.recv()).await;
        assert!(said.is_err(), "{said:?}");
    }
}

fn entry(name: &str, presence: Presence) -> DirectoryEntry {
    DirectoryEntry {
        name: name.parse().expect("a name"),
        idle_s: None,
        presence,
        streams: false,
        profile: Profile::default(),
    }
}

/// Two gateways whose agents may write to each other.
fn world() -> World {
    let mut world = World::alone(ME, "home".parse().expect("a name"));
    let mut nodes = Vec::new();
    for (node, name) in [(ME, "gw-a"), (PEER, "gw-b")] {
        let name: identity::NodeName = name.parse().expect("a name");
        nodes.push(policy::Node::new(node, name.clone()));
        world.insert(WorldMember {
            node,
            name,
            user: None,
            tags: Vec::new(),
            identity: IdentityPublic([2; 32]),
            overlay: "fd00::1".parse().expect("an address"),
            expires_at: UnixTime(u64::MAX / 2),
        });
    }
    let text = r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send"]}]}"#;
    let (document, _) = policy::Document::parse("policy.hujson", text).expect("a policy");
    world.policy = Some(WorldPolicy {
        policy: Arc::new(policy::Policy::compile(&document, &nodes)),
        order: Order {
            epoch: 1,
            version: 1,
        },
        signed_at: UnixTime(0),
        text: text.into(),
    });
    world
}

const ME: NodeId = NodeId([1; 16]);
const PEER: NodeId = NodeId([2; 16]);

/// Only a failure waits for so long.
const PATIENCE: Duration = Duration::from_secs(20);
