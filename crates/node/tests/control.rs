//! The control task's deciding half against everybody who might lie to it: identity.md §7 with a
//! hostile coordinator, gossip without any coordinator, and a reboot without one.

#[path = "control/mesh.rs"]
mod mesh;

use std::time::Duration;

use bytes::Bytes;
use identity::{
    IdentityKey, NodeId, RevocationSet, Revocations, Standing, Token, Trust, make_receipt,
};
use mesh::fixture::{Member, Operator};
use mesh::{DAY, Gateway, Mesh, NOW, OPEN, SHUT, caught_up, events, peers, published, talk};
use node::control::{Event, Output};
use wire::link::Refusal;
use wire::map::{Document, MapUpdate};
use wire::peer::PeerFrame;

fn forged(bytes: &Bytes, from: &[u8], to: &[u8]) -> Bytes {
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .expect("it is there");
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes.into()
}

/// All that a beacon can make with its own key, with foreign keys, and with all that it ever saw.
fn attacks(
    mesh: &mut Mesh,
    victim: &Member,
    known: &Member,
    revoked: &Member,
    seen: [Document; 3],
) -> Vec<(&'static str, MapUpdate)> {
    let Mesh {
        operator,
        beacon,
        beacon_key,
        ..
    } = mesh;
    let mut foreign = Operator::found(60, NOW);
    let id = operator.trust.mesh();
    let far = NOW.plus(3_000 * DAY);
    let nobody = RevocationSet::default();
    let held = operator
        .trust
        .revocations()
        .expect("there is a set")
        .clone();
    let held = Revocations {
        set: nobody.clone(),
        ..held
    };
    let unrevoked = foreign
        .revoker
        .sign_revocations(&nobody, Some(&held), &id, NOW);
    let unrevoked = unrevoked.expect("signed, with a higher version");
    let resigned = foreign
        .policy
        .sign_policy(OPEN, None, &id, far)
        .expect("signed");
    let stranger = foreign.gateway("gw-x", NOW);
    let foreign_policy = foreign.policy(OPEN, NOW);
    // The beacon saw the owner's binding; it would need one for a key of its own.
    let owner = IdentityKey::generate([77; 32]);
    let invited = operator.token("gw-d", *beacon, NOW);
    let bound = invited.token.certify(&id, &owner).expect("bound");
    let public = beacon_key.public();
    let receipt = make_receipt(&invited.node, &public, &id, beacon_key, NOW);
    let redeemed = Token::complete(&bound, &receipt, &id).expect("all parts");
    let not_its_own = operator.record(known.node, beacon_key, &victim.wireguard, 99, NOW);
    let from_the_future = operator.record(*beacon, beacon_key, &victim.wireguard, 1, far);
    let tag = forged(&known.certificate, b"tag:home", b"tag:root");
    let name = forged(&known.certificate, b"gw-b", b"gw-z");
    let [old_policy, old_revocations, old_certificate] = seen;
    let documents = [
        ("a changed tag", Document::Certificate(tag)),
        ("a changed name", Document::Certificate(name)),
        (
            "a member of another mesh",
            Document::Certificate(stranger.certificate),
        ),
        (
            "a policy signed by another key",
            Document::Policy(resigned.into()),
        ),
        (
            "the policy of another mesh",
            Document::Policy(foreign_policy),
        ),
        ("an older policy", old_policy),
        ("an older revocation set", old_revocations),
        (
            "an un-revocation by another key",
            Document::Revocations(unrevoked.into()),
        ),
        (
            "the revoked member",
            Document::Certificate(revoked.certificate.clone()),
        ),
        (
            "the revoked member's record",
            Document::Record(revoked.record.clone()),
        ),
        ("an older certificate", old_certificate),
        ("an older record", Document::Record(known.record.clone())),
        ("a record by another key", Document::Record(not_its_own)),
        (
            "a record of its own from the future",
            Document::Record(from_the_future),
        ),
        ("another trust log", foreign.trust_log()),
        (
            "a token redeemed by itself",
            Document::Certificate(redeemed.into()),
        ),
        (
            "noise",
            Document::TrustLog(Bytes::from_static(b"\xff\x00noise")),
        ),
    ];
    let presence = |node, last_seen| MapUpdate::Presence {
        node,
        online: true,
        last_seen,
    };
    let mut attacks: Vec<_> = documents
        .into_iter()
        .map(|(name, document)| (name, MapUpdate::Document(document)))
        .collect();
    attacks.extend([
        ("a removal", MapUpdate::Removed { node: known.node }),
        ("an empty map", caught_up(1)),
        (
            "the presence of a stranger",
            presence(NodeId([0xee; 16]), NOW.0),
        ),
        ("a presence from the future", presence(known.node, far.0)),
    ]);
    attacks
}

#[test]
fn a_hostile_coordinator_gets_only_silence() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let c = mesh.operator.gateway("gw-c", NOW);
    let old_policy = Document::Policy(mesh.operator.policy(OPEN, NOW));
    let old_certificate = Document::Certificate(b.certificate.clone());
    let old_revocations = mesh.operator.revoke(NodeId([5; 16]), NOW);
    let mut victim = mesh.settled(&a, &[&b, &c]);
    let renewed = mesh.operator.renew(&b, NOW);
    victim.map(mesh.beacon, Document::Certificate(renewed));
    let record = mesh.operator.record(b.node, &b.key, &b.wireguard, 2, NOW);
    victim.map(mesh.beacon, Document::Record(record));
    let revoked = mesh.operator.revoke(c.node, NOW);
    let outputs = victim.map(mesh.beacon, Document::Revocations(revoked));
    assert_eq!(peers(&outputs), Some(vec![b.node]), "gw-b alone is left");
    let heads = victim.state.trust().heads();
    let snapshot = victim.state.trust().snapshot();

    let seen = [
        old_policy,
        Document::Revocations(old_revocations),
        old_certificate,
    ];
    for (name, attack) in attacks(&mut mesh, &a, &b, &c, seen) {
        let outputs = victim.tell(mesh.beacon, attack);

        for output in &outputs {
            let harmless = match output {
                Output::Status(_) | Output::Event(Event::Alarm(_)) => true,
                Output::ToBeacon(to, _) => *to == mesh.beacon,
                _ => false,
            };
            assert!(harmless, "{name}: {output:?}");
        }
        let trust = victim.state.trust();
        assert_eq!(trust.heads(), heads, "{name}");
        assert_eq!(trust.snapshot(), snapshot, "{name}");
        assert_eq!(trust.clock(NOW), NOW, "{name}");
        assert_eq!(trust.standing(&c.node, NOW), Standing::Revoked, "{name}");
    }
}

#[test]
fn a_gateway_without_a_policy_has_no_peers() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let mut gateway = mesh.joined(&a);
    gateway.link_up(mesh.beacon);
    gateway.map(mesh.beacon, Document::Certificate(b.certificate.clone()));
    gateway.map(mesh.beacon, Document::Record(b.record.clone()));
    assert!(gateway.state.trust().record(&b.node).is_some());

    let shut = mesh.operator.policy(SHUT, NOW);
    assert_eq!(
        peers(&gateway.map(mesh.beacon, Document::Policy(shut))),
        None
    );
    let open = mesh.operator.policy(OPEN, NOW);
    let outputs = gateway.map(mesh.beacon, Document::Policy(open));

    assert_eq!(peers(&outputs), Some(vec![b.node]));
}

#[test]
fn after_a_reboot_without_a_beacon_the_peers_are_there_at_once() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let running = mesh.settled(&a, &[&b]);

    let trust = Trust::restore(&running.disk).expect("what was persisted");
    let outputs = Gateway::start(&a, trust).drain();

    assert_eq!(peers(&outputs), Some(vec![b.node]));
    let knows = |output: &Output| match output {
        Output::World(world) => world.policy.is_some() && world.members.len() == 2,
        _ => false,
    };
    assert!(outputs.iter().any(knows));
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Papers(_)))
    );
}

#[test]
fn nothing_is_activated_before_it_is_on_disk_save_what_takes_away() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let c = mesh.operator.gateway("gw-c", NOW);
    let mut gateway = mesh.settled(&a, &[&b]);
    let set = mesh.operator.revoke(b.node, NOW);
    let now = gateway.now();
    let news = [
        Document::Certificate(c.certificate.clone()),
        Document::Record(c.record.clone()),
        Document::Revocations(set),
    ];
    for document in news {
        gateway
            .state
            .handle_map(mesh.beacon, MapUpdate::Document(document), now);
    }

    assert!(matches!(
        gateway.state.poll_output(),
        Some(Output::Persist(_))
    ));
    gateway.state.handle_persist_failed(now);
    let meanwhile: Vec<Output> = std::iter::from_fn(|| gateway.state.poll_output()).collect();
    assert_eq!(peers(&meanwhile), Some(Vec::new()));
    let seen = mesh::world(&meanwhile).expect("a world without it");
    assert!(!seen.members.contains_key(&b.node) && !seen.members.contains_key(&c.node));
    assert_eq!(meanwhile.len(), 2, "{meanwhile:?}");

    let outputs = gateway.pass(Duration::from_secs(2));
    assert_eq!(peers(&outputs), Some(vec![c.node]));
}

#[test]
fn documents_spread_from_peer_to_peer_without_a_coordinator() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let mut newer = mesh.settled(&a, &[&b]);
    let mut older = mesh.joined(&b);
    older.drain();
    let set = mesh.operator.revoke(NodeId([5; 16]), NOW);
    newer.map(mesh.beacon, Document::Revocations(set));

    let (_, told) = talk(&mut newer, &mut older);

    assert_eq!(older.state.trust().heads(), newer.state.trust().heads());
    assert_eq!(
        peers(&told),
        Some(vec![a.node]),
        "by the policy that a peer brought"
    );
    assert!(events(&told).contains(&Event::Ready(a.node)));
}

#[test]
fn a_revocation_heard_from_a_peer_is_obeyed_and_passed_on() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let c = mesh.operator.gateway("gw-c", NOW);
    let mut gateway = mesh.settled(&a, &[&b, &c]);
    let now = gateway.now();
    gateway.state.handle_peer_up(b.node, None, now);
    gateway.state.handle_peer_up(c.node, None, now);
    gateway.drain();
    let set = Document::Revocations(mesh.operator.revoke(c.node, NOW));

    gateway
        .state
        .handle_peer(b.node, PeerFrame::Document(set.clone()), now);
    let outputs = gateway.drain();

    assert_eq!(peers(&outputs), Some(vec![b.node]));
    assert!(events(&outputs).contains(&Event::Revoked(c.node)));
    assert!(published(&outputs).contains(&set), "the beacon hears of it");
    let heads = |output: &Output| match output {
        Output::ToPeer(to, PeerFrame::Heads(_)) => *to == c.node,
        _ => false,
    };
    assert!(outputs.iter().any(heads), "and so do the other peers");
}

#[test]
fn a_renewal_and_a_new_beacon_come_by_any_peer() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let mut first = mesh.settled(&a, &[&b]);
    let mut second = mesh.settled(&b, &[&a]);
    let renewal = mesh.operator.renew(&b, NOW);
    first.map(mesh.beacon, Document::Certificate(renewal.clone()));
    let key = IdentityKey::generate([201; 32]);
    let (other, certificate) = mesh.operator.beacon(&key, "other", NOW);
    first.map(mesh.beacon, Document::Certificate(certificate));

    let (_, told) = talk(&mut first, &mut second);

    assert_eq!(
        second.state.trust().certificate(&b.node),
        Some(&renewal[..])
    );
    let dials = |output: &Output| match output {
        Output::Beacons(beacons) => beacons.iter().any(|beacon| beacon.node == other),
        _ => false,
    };
    assert!(told.iter().any(dials));
}

#[test]
fn an_expired_gateway_has_no_peers_and_dials_for_its_cure_whatever_key_answers() {
    let mut mesh = Mesh::new();
    let a = mesh.operator.gateway_for("gw-a", 10 * DAY, NOW);
    let b = mesh.operator.gateway("gw-b", NOW);
    let mut gateway = mesh.settled(&a, &[&b]);

    let outputs = gateway.pass(10 * DAY + Duration::from_secs(600));

    let mut days = events(&outputs);
    days.retain(|event| matches!(event, Event::ExpiresIn(_)));
    assert_eq!(
        days,
        [Event::ExpiresIn(7), Event::ExpiresIn(1)],
        "it began with 10 days"
    );
    assert!(events(&outputs).contains(&Event::Ended(Standing::Expired)));
    assert_eq!(peers(&outputs), Some(Vec::new()));
    let any_key = |output: &Output| match output {
        Output::Beacons(beacons) => beacons.iter().all(|beacon| beacon.any_key),
        _ => false,
    };
    assert!(outputs.iter().any(any_key));

    let now = gateway.now();
    gateway
        .state
        .handle_link_up(mesh.beacon, Some(Refusal::Expired), now);
    assert!(
        published(&gateway.drain()).is_empty(),
        "it may ask only for its cure"
    );
    let renewal = mesh.operator.renew(&a, gateway.clock);
    let cured = gateway.map(mesh.beacon, Document::Certificate(renewal));
    assert_eq!(peers(&cured), Some(vec![b.node]));
}

#[test]
fn an_own_record_is_renewed_at_two_thirds_of_its_life_and_published() {
    let mut mesh = Mesh::new();
    let a = mesh.operator.gateway("gw-a", NOW);
    let mut gateway = mesh.joined(&a);
    gateway.link_up(mesh.beacon);
    let sequence = |gateway: &Gateway| {
        gateway
            .state
            .trust()
            .record(&a.node)
            .map(|(record, _)| record.sequence)
    };
    let first = sequence(&gateway).expect("made at the start");

    let early = gateway.pass(19 * DAY);
    assert!(published(&early).is_empty());
    let due = gateway.pass(2 * DAY);

    assert!(sequence(&gateway).is_some_and(|second| second > first));
    assert!(
        published(&due)
            .iter()
            .any(|document| matches!(document, Document::Record(_)))
    );
}

#[test]
fn a_beacon_that_lacks_what_we_hold_is_given_it() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let mut gateway = mesh.settled(&a, &[&b]);
    let key = IdentityKey::generate([201; 32]);
    let (other, certificate) = mesh.operator.beacon(&key, "other", NOW);
    gateway.map(mesh.beacon, Document::Certificate(certificate));

    let own = published(&gateway.link_up(other));
    let rest = published(&gateway.tell(other, caught_up(2)));

    assert_eq!(own.len(), 2, "its certificate and record");
    assert!(
        rest.iter()
            .any(|document| matches!(document, Document::TrustLog(_)))
    );
    assert!(
        rest.iter()
            .any(|document| matches!(document, Document::Policy(_)))
    );
    let first = Document::Certificate(mesh.beacon_certificate.clone());
    assert!(rest.contains(&first), "each beacon learns of the others");
}

#[test]
fn whoever_claims_the_tunnel_key_of_another_excludes_nobody() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let mut thief = mesh.operator.gateway("gw-c", NOW);
    thief.record = mesh
        .operator
        .record(thief.node, &thief.key, &b.wireguard, 2, NOW);
    let mut gateway = mesh.settled(&a, &[&thief, &b]);

    let turns: Vec<NodeId> = (0..2)
        .filter_map(|_| peers(&gateway.pass(Duration::from_secs(30))))
        .flatten()
        .collect();
    assert!(
        turns.contains(&b.node),
        "the owner gets its turn: {turns:?}"
    );

    let now = gateway.now();
    gateway.state.handle_peer_up(b.node, None, now);
    gateway.drain();
    let later = gateway.pass(Duration::from_secs(300));
    assert!(
        peers(&later).is_none_or(|peers| peers == [b.node]),
        "and keeps what it proved"
    );
}
