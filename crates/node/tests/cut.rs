//! Who is cut off hears why, at once, and nothing of him counts from the first moment on: a policy
//! that takes a grant away, and a kill, by a beacon, by a peer and by hand.

#[path = "control/mesh.rs"]
mod mesh;

use std::time::Duration;

use bytes::Bytes;
use identity::{
    Alarm, Block, Change, Exception, KillFile, NodeId, Order, RevocationSet, Standing, TrustError,
};
use mesh::fixture::{Member, Operator};
use mesh::{Gateway, Mesh, NOW, OPEN, SHUT, events, leaving, peers, published, told, world};
use node::control::{Event, Output};
use wire::map::{Document, MapUpdate};
use wire::peer::PeerFrame;

const LAST_WORD: Duration = Duration::from_millis(300);
const LATER: Duration = Duration::from_secs(60);

#[test]
fn a_killed_gateway_is_out_of_the_world_at_once_and_hears_why() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let set = Document::Revocations(mesh.operator.revoke(c.node, NOW));

    let outputs = gateway.map(mesh.beacon, set.clone());

    let now = world(&outputs).expect("another world");
    assert!(!now.members.contains_key(&c.node));
    assert!(now.kills.gateway(&c.node).is_some());
    assert!(events(&outputs).contains(&Event::Revoked(c.node)));
    let version = Order {
        epoch: 1,
        version: 1,
    };
    assert!(events(&outputs).contains(&Event::Revocations(version)));
    assert_eq!(peers(&outputs), Some(vec![b.node]));
    assert_eq!(leaving(&outputs), Some(vec![c.node]));
    for peer in [b.node, c.node] {
        assert_eq!(
            told(&outputs, peer),
            std::slice::from_ref(&set),
            "whole, not by heads"
        );
    }

    let outputs = gateway.pass(LAST_WORD);
    assert_eq!(peers(&outputs), Some(vec![b.node]));
    assert_eq!(leaving(&outputs), Some(Vec::new()));
}

#[test]
fn who_has_no_session_is_dropped_without_a_word() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let now = gateway.now();
    gateway.state.handle_peer_down(c.node, now);
    let set = Document::Revocations(mesh.operator.revoke(c.node, NOW));

    let outputs = gateway.map(mesh.beacon, set);

    assert_eq!(peers(&outputs), Some(vec![b.node]));
    assert_eq!(leaving(&outputs), Some(Vec::new()));
}

#[test]
fn a_policy_that_parts_two_gateways_is_told_to_both_before_they_part() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let shut = Document::Policy(mesh.operator.policy(SHUT, NOW));

    let outputs = gateway.map(mesh.beacon, shut.clone());

    assert_eq!(peers(&outputs), Some(Vec::new()));
    assert_eq!(told(&outputs, b.node), [shut]);
    let outputs = gateway.pass(LAST_WORD);
    assert_eq!(leaving(&outputs), Some(Vec::new()));
}

#[test]
fn a_large_policy_goes_whole_to_those_who_cannot_ask_for_it_and_by_heads_to_the_others() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let only_b = format!(
        r#"{{ "grants": [ {{ "src": ["gw-a"], "dst": ["gw-b"], "msg": ["send"] }} ] }} // {}"#,
        "x".repeat(20_000)
    );
    let policy = Document::Policy(mesh.operator.policy(&only_b, NOW));

    let outputs = gateway.map(mesh.beacon, policy.clone());

    assert_eq!(leaving(&outputs), Some(vec![c.node]));
    assert_eq!(told(&outputs, c.node), [policy]);
    assert_eq!(told(&outputs, b.node), []);
    let heads = |output: &Output| matches!(output, Output::ToPeer(to, PeerFrame::Heads(_)) if *to == b.node);
    assert!(outputs.iter().any(heads));
}

#[test]
fn a_killed_agent_is_in_no_decision_and_its_gateway_goes_on() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let block: Block = "agent:coder@gw-b".parse().expect("a block");
    let set = Document::Revocations(mesh.operator.kill(block, NOW));

    let outputs = gateway.map(mesh.beacon, set);

    let now = world(&outputs).expect("another world");
    let denied = |agent: &str| {
        let agent = agent.parse().expect("a name");
        now.kills.denial((b.node, &agent)).map(|it| it.reason)
    };
    let reason = denied("coder").expect("killed");
    assert!(reason.contains("agent:coder@gw-b"), "{reason}");
    assert_eq!(denied("tester"), None);
    assert_eq!(peers(&outputs), None, "the peers are as they were");
}

#[test]
fn a_kill_is_obeyed_though_the_disk_takes_nothing_and_a_lifted_one_is_not_yet_lifted() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let agent = |name: &str| name.parse().expect("a name");
    let obeyed = |outputs: &[Output]| {
        let now = world(outputs).expect("another world");
        let coder = now.kills.denial((b.node, &agent("coder")));
        (coder.is_some(), now.members.contains_key(&c.node))
    };
    let block: Block = "agent:coder@gw-b".parse().expect("a block");
    let _ = mesh.operator.kill(block, NOW);
    let set = mesh.operator.revoke(c.node, NOW);

    let outputs = gateway.map_on_full_disk(mesh.beacon, Document::Revocations(set));
    assert_eq!(obeyed(&outputs), (true, false));
    assert_eq!(
        told(&outputs, b.node),
        [],
        "nothing goes out that is not kept"
    );
    let outputs = gateway.pass(LAST_WORD * 4);
    assert_eq!(obeyed(&outputs), (true, false));
    assert_eq!(told(&outputs, b.node).len(), 1, "with the disk back");

    let lifted = mesh.operator.lift(NOW.plus(LATER));
    gateway.map(mesh.beacon, mesh.operator.trust_log());
    gateway.map_on_full_disk(mesh.beacon, Document::Revocations(lifted));
    let outputs = gateway.pass(LAST_WORD * 4);
    assert_eq!(obeyed(&outputs), (false, true));
}

#[test]
fn a_kill_brought_by_hand_is_kept_obeyed_and_passed_on() {
    let (mut mesh, a, b, c) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b, &c]);
    let set = Document::Revocations(mesh.operator.revoke(c.node, NOW));
    let file = KillFile::of(&mesh.operator.trust).expect("a set");

    let now = gateway.now();
    let applied = gateway.state.handle_kill(&file, now).expect("believed");
    assert!(!gateway.state.is_kept());
    let outputs = gateway.drain();

    assert!(gateway.state.is_kept());
    assert_eq!(
        (applied.change, applied.peers, applied.beacons),
        (Change::Newer, 2, 1)
    );
    assert_eq!(peers(&outputs), Some(vec![b.node]));
    assert_eq!(told(&outputs, b.node), std::slice::from_ref(&set));
    assert!(published(&outputs).contains(&set));

    let again = gateway.state.handle_kill(&file, now).expect("believed");
    assert_eq!(again.change, Change::None);
}

#[test]
fn a_kill_file_that_is_not_believed_changes_nothing_and_says_why() {
    let (mut mesh, a, b, _) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b]);
    let _ = mesh.operator.revoke(NodeId([7; 16]), NOW);
    let older = KillFile::of(&mesh.operator.trust).expect("a set");
    let held = mesh.operator.revoke(NodeId([8; 16]), NOW);
    gateway.map(mesh.beacon, Document::Revocations(held));

    let mut stranger = Operator::found(60, NOW);
    let _ = stranger.revoke(b.node, NOW);
    let foreign = KillFile::of(&stranger.trust).expect("a set");
    let replaced = {
        let mut thief = mesh.operator.trust.clone();
        let mesh_id = thief.mesh();
        // A set of the next epoch, by a key that root never named.
        let (key, log) = stranger
            .root
            .replace(
                &stranger.log,
                identity::KeyRole::Revoker,
                [98; 32],
                NOW,
                NOW,
            )
            .expect("its own root");
        let bytes = key
            .sign_revocations(&RevocationSet::default(), None, &mesh_id, NOW)
            .expect("signed");
        assert!(thief.accept_revocations(&bytes, NOW).is_err());
        (log, bytes)
    };
    let mixed = kill_file(mesh.operator.log.bytes(), &replaced.1);
    let cases = [
        (older, TrustError::Older),
        (foreign, TrustError::OtherMesh),
        (mixed, TrustError::UnknownEpoch),
        (
            kill_file(replaced.0.bytes(), &replaced.1),
            TrustError::OtherMesh,
        ),
    ];

    let before = gateway.state.trust().snapshot();
    for (file, error) in cases {
        let now = gateway.now();
        assert_eq!(gateway.state.handle_kill(&file, now), Err(error));
        assert!(gateway.drain().is_empty(), "{error}");
        assert_eq!(gateway.state.trust().snapshot(), before, "{error}");
    }
}

#[test]
fn of_a_kill_file_that_is_refused_not_even_the_trust_log_stays() {
    let (mut mesh, a, b, _) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b]);
    let good = mesh.operator.revoke(NodeId([7; 16]), NOW);
    let mut bent = good.to_vec();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    let _ = mesh.operator.lift(NOW.plus(LATER));
    let file = kill_file(mesh.operator.log.bytes(), &bent);
    let before = gateway.state.trust().snapshot();

    let now = gateway.now();
    assert!(gateway.state.handle_kill(&file, now).is_err());

    assert_eq!(gateway.state.trust().snapshot(), before);
}

#[test]
fn a_contradiction_in_a_kill_file_is_an_alarm() {
    let (mut mesh, a, b, _) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b]);
    let mesh_id = mesh.operator.trust.mesh();
    let other =
        mesh.operator
            .revoker
            .sign_revocations(&RevocationSet::default(), None, &mesh_id, NOW);
    let other = kill_file(mesh.operator.log.bytes(), &other.expect("signed"));
    let held = mesh.operator.revoke(NodeId([7; 16]), NOW);
    gateway.map(mesh.beacon, Document::Revocations(held));

    let now = gateway.now();
    let refused = gateway.state.handle_kill(&other, now);

    assert_eq!(refused, Err(TrustError::Conflict));
    let alarmed = |event: &Event| matches!(event, Event::Alarm(Alarm::RevocationsConflict { .. }));
    assert!(events(&gateway.drain()).iter().any(alarmed));
}

#[test]
fn a_kill_of_everyone_passes_through_those_whom_it_kills() {
    let (mut mesh, a, b, c) = three();
    let mut first = in_session(&mut mesh, &a, &[&b]);
    let mut middle = in_session(&mut mesh, &b, &[&a, &c]);
    let mut last = in_session(&mut mesh, &c, &[&b]);
    for gateway in [&mut first, &mut middle, &mut last] {
        let now = gateway.now();
        gateway.state.handle_link_down(mesh.beacon, now);
        gateway.drain();
    }
    let all = Block::Everyone {
        except: Default::default(),
    };
    let set = Document::Revocations(mesh.operator.kill(all, NOW));
    let file = KillFile::of(&mesh.operator.trust).expect("a set");

    let now = first.now();
    first.state.handle_kill(&file, now).expect("believed");
    let outputs = first.drain();
    assert_eq!(told(&outputs, b.node), std::slice::from_ref(&set));
    assert!(ended(&outputs), "itself too");

    let outputs = hear(&mut middle, a.node, &set);
    assert!(ended(&outputs));
    assert_eq!(told(&outputs, c.node), std::slice::from_ref(&set));
    let mut both = vec![a.node, c.node];
    both.sort();
    assert_eq!(leaving(&outputs), Some(both));

    let outputs = hear(&mut last, b.node, &set);
    assert!(ended(&outputs));
    let now = world(&outputs).expect("another world");
    assert!(now.members.is_empty());
    assert!(now.kills.gateway(&c.node).is_some(), "and it knows why");
}

#[test]
fn the_link_to_a_beacon_is_not_made_anew_before_the_last_word_is_out() {
    let (mut mesh, a, b, _) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b]);
    let set = Document::Revocations(mesh.operator.revoke(a.node, NOW));
    let file = KillFile::of(&mesh.operator.trust).expect("a set");
    let whatever_key = |outputs: &[Output]| {
        outputs.iter().any(|output| {
            matches!(output, Output::Beacons(beacons) if beacons.iter().any(|it| it.any_key))
        })
    };

    let now = gateway.now();
    gateway.state.handle_kill(&file, now).expect("believed");
    let outputs = gateway.drain();
    assert!(published(&outputs).contains(&set));
    assert!(!whatever_key(&outputs));

    assert!(whatever_key(&gateway.pass(LAST_WORD)), "then for its cure");
}

#[test]
fn peers_without_a_session_are_called_unless_a_beacon_tells_them() {
    let (mut mesh, a, b, c) = three();
    let d = mesh.operator.gateway("gw-d", NOW);
    let mut gateway = mesh.settled(&a, &[&b, &c, &d]);
    gateway.tell(mesh.beacon, mesh::caught_up(1));
    let online = MapUpdate::Presence {
        node: b.node,
        online: true,
        last_seen: NOW.0,
    };
    gateway.tell(mesh.beacon, online);
    let _ = mesh.operator.revoke(d.node, NOW);
    let file = KillFile::of(&mesh.operator.trust).expect("a set");

    let now = gateway.now();
    gateway.state.handle_kill(&file, now).expect("believed");
    let outputs = gateway.drain();

    let dialled: Vec<NodeId> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Dial(peer) => Some(*peer),
            _ => None,
        })
        .collect();
    assert_eq!(dialled, [c.node]);
}

#[test]
fn a_new_epoch_of_the_revoker_lifts_a_kill_and_the_peers_are_back() {
    let (mut mesh, a, b, _) = three();
    let mut gateway = in_session(&mut mesh, &a, &[&b]);
    let spared = Block::Everyone {
        except: [Exception::Node(a.node)].into(),
    };
    let set = mesh.operator.kill(spared, NOW);
    let outputs = gateway.map(mesh.beacon, Document::Revocations(set));
    assert_eq!(peers(&outputs), Some(Vec::new()));
    gateway.pass(LATER);

    let set = mesh.operator.lift(NOW.plus(LATER));
    let file = KillFile::of(&mesh.operator.trust).expect("a set");
    let now = gateway.now();
    let early = gateway.map(mesh.beacon, Document::Revocations(set.clone()));
    assert!(early.is_empty(), "its epoch is not known yet");
    let applied = gateway.state.handle_kill(&file, now).expect("believed");
    let outputs = gateway.drain();

    assert_eq!(applied.order.epoch, 2);
    assert_eq!(peers(&outputs), Some(vec![b.node]));
    let now = world(&outputs).expect("another world");
    assert!(now.kills.gateway(&b.node).is_none());
    assert!(now.policy.is_some(), "with the policy that was there");
}

fn three() -> (Mesh, Member, Member, Member) {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let c = mesh.operator.gateway("gw-c", NOW);
    (mesh, a, b, c)
}

/// A gateway that has a link, an open policy, and a session with each of these.
fn in_session(mesh: &mut Mesh, member: &Member, others: &[&Member]) -> Gateway {
    let policy = match mesh.operator.trust.policy() {
        Some(policy) => Bytes::copy_from_slice(&policy.bytes),
        None => mesh.operator.policy(OPEN, NOW),
    };
    let mut gateway = mesh.settled_under(member, others, policy);
    for other in others {
        let now = gateway.now();
        gateway.state.handle_peer_up(other.node, None, now);
    }
    gateway.drain();
    gateway
}

fn hear(gateway: &mut Gateway, from: NodeId, document: &Document) -> Vec<Output> {
    let now = gateway.now();
    let frame = PeerFrame::Document(document.clone());
    gateway.state.handle_peer(from, frame, now);
    gateway.drain()
}

fn ended(outputs: &[Output]) -> bool {
    events(outputs).contains(&Event::Ended(Standing::Revoked))
}

fn kill_file(log: &[u8], revocations: &[u8]) -> KillFile {
    KillFile::from_parts(log, revocations)
}
