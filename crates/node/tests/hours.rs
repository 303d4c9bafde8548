//! What only time and members change: windows of the policy that open and close, a clock that is
//! not to be trusted, and a policy that follows who joins and who leaves.

#[path = "control/mesh.rs"]
mod mesh;

use std::time::Duration;

use identity::{AgentName, NodeId, Trust, UnixTime};
use mesh::{DAY, Gateway, Mesh, NOW, peers, world};
use node::world::World;
use policy::{MessageRequest, Verb};
use router::Authority;
use wire::map::Document;

const SECOND: Duration = Duration::from_secs(1);
/// No multiple of the seconds after which a gateway looks at the clock anyway.
const ODD: Duration = Duration::from_secs(17);

/// A grant that holds from one date to another, so many days and [`ODD`] from now.
fn between(start: u64, end: u64) -> String {
    let date = |days: u64| format!("2027-01-{:02}T08:00:17Z", 15 + days);
    format!(
        r#"{{ "grants": [ {{ "src": ["*"], "dst": ["*"], "msg": ["send"],
            "valid": {{ "notBefore": "{}", "notAfter": "{}" }} }} ] }}"#,
        date(start),
        date(end)
    )
}

/// Whether `planner` there may send to `coder` here, asked at that moment.
fn may_send(world: &World, from: NodeId, to: NodeId, at: UnixTime) -> bool {
    let agent = |name: &str| name.parse::<AgentName>().expect("a name");
    world
        .authorize(&MessageRequest {
            src: (from, &agent("planner")),
            dst: (to, &agent("coder")),
            verb: Verb::Send,
            at,
            bytes: None,
        })
        .is_allowed()
}

#[test]
fn a_window_opens_and_closes_a_grant_without_any_document() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    // 1,800,000,000 is 2027-01-15T08:00:00Z.
    let policy = mesh.operator.policy(&between(1, 2), NOW);
    let mut gateway = mesh.settled_under(&a, &[&b], policy);

    let outputs = gateway.pass(DAY + ODD - SECOND);
    assert!(world(&outputs).is_none(), "nothing changed");
    let outputs = gateway.pass(SECOND);
    assert_eq!(peers(&outputs), Some(vec![b.node]));
    let open = world(&outputs).expect("another world");
    assert_eq!(open.at, NOW.plus(DAY + ODD));
    assert!(may_send(&open, b.node, a.node, gateway.clock));

    let outputs = gateway.pass(DAY - SECOND);
    assert!(world(&outputs).is_none(), "nothing changed");
    let outputs = gateway.pass(SECOND);
    assert_eq!(peers(&outputs), Some(Vec::new()));
    let shut = world(&outputs).expect("another world");
    assert!(!may_send(&shut, b.node, a.node, gateway.clock));
    let moment_before = NOW.plus(DAY + ODD);
    assert!(
        !may_send(&shut, b.node, a.node, moment_before),
        "whatever an asker's clock says"
    );
}

#[test]
fn a_gateway_that_grew_too_old_for_a_posture_is_cut_at_midnight() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let text = r#"{ "postures": { "posture:young": ["node:membershipAgeDays < 2"] },
        "grants": [ { "src": ["*"], "dst": ["*"], "msg": ["send"], "srcPosture": ["posture:young"] } ] }"#;
    let policy = mesh.operator.policy(text, NOW);
    let mut gateway = mesh.settled_under(&a, &[&b], policy);

    // Memberships are as old as NOW, eight in the morning: the second midnight is 40 hours away.
    let outputs = gateway.pass(SECOND * (40 * 3_600 - 2));
    assert_ne!(peers(&outputs), Some(Vec::new()), "a day old, and no older");
    let outputs = gateway.pass(SECOND * 2);
    assert_eq!(peers(&outputs), Some(Vec::new()), "it was one until then");
    let old = world(&outputs).expect("another world");
    assert!(!may_send(&old, b.node, a.node, gateway.clock));
}

#[test]
fn a_clock_that_is_behind_opens_nothing_that_holds_at_times() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let policy = mesh.operator.policy(&between(0, 10), NOW);
    let mut gateway = mesh.settled_under(&a, &[&b], policy);
    let outputs = gateway.pass(SECOND * 30);
    assert_eq!(peers(&outputs), Some(vec![b.node]));

    gateway.clock = NOW.minus(DAY);
    let outputs = gateway.pass(SECOND * 30);
    assert_eq!(peers(&outputs), Some(Vec::new()));
    let world_then = world(&outputs).expect("another world");
    assert!(!may_send(&world_then, b.node, a.node, NOW.plus(DAY)));

    gateway.clock = NOW.plus(DAY);
    let outputs = gateway.pass(SECOND * 30);
    assert_eq!(peers(&outputs), Some(vec![b.node]), "it was set");
}

#[test]
fn a_clock_that_was_ahead_and_is_set_right_judges_by_the_right_time() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let policy = mesh.operator.policy(&between(0, 1), NOW);
    let mut gateway = mesh.settled_under(&a, &[&b], policy);

    assert_eq!(peers(&gateway.pass(SECOND * 30)), Some(vec![b.node]));
    gateway.clock = NOW.plus(DAY * 2);
    assert_eq!(peers(&gateway.pass(SECOND * 30)), Some(Vec::new()));
    gateway.clock = NOW.plus(SECOND * 60);
    let outputs = gateway.pass(SECOND * 30);

    assert_eq!(peers(&outputs), Some(vec![b.node]));
    let right = world(&outputs).expect("another world");
    assert!(may_send(&right, b.node, a.node, gateway.clock));
}

#[test]
fn a_policy_that_followed_its_members_equals_one_that_is_made_anew() {
    let mut mesh = Mesh::new();
    let members: Vec<_> = (0..12)
        .map(|n| mesh.operator.gateway(&format!("gw-{n}"), NOW))
        .collect();
    let text = r#"{ "grants": [
        { "src": ["gw-1", "gw-2", "gw-7"], "dst": ["gw-0", "gw-3", "gw-9"], "msg": ["send"] },
        { "src": ["gw-0"], "dst": ["*"], "msg": ["send"] } ],
        "guards": [ { "src": ["gw-7"], "dst": ["*"],
            "deny": { "windows": [ { "days": "mon-sun", "hours": "00:00-24:00" } ] } } ] }"#;
    let policy = mesh.operator.policy(text, NOW);
    let (me, others) = members.split_first().expect("twelve");
    let mut gateway = mesh.settled_under(me, &[], policy);
    let mut last = None;
    for other in others {
        let certificate = Document::Certificate(other.certificate.clone());
        last = world(&gateway.map(mesh.beacon, certificate)).or(last);
    }
    let revoked = mesh.operator.revoke(members[2].node, NOW);
    last = world(&gateway.map(mesh.beacon, Document::Revocations(revoked))).or(last);
    let followed = last.expect("a world");
    assert_eq!(followed.members.len(), 11);

    let trust = Trust::restore(&gateway.disk).expect("its own");
    let mut reborn = Gateway::start(me, trust);
    let fresh = world(&reborn.drain()).expect("a world");

    for src in &members {
        for dst in &members {
            let [one, other] =
                [&followed, &fresh].map(|world| may_send(world, src.node, dst.node, NOW));
            assert_eq!(one, other, "{} to {}", src.node, dst.node);
        }
    }
    let allowed = members
        .iter()
        .filter(|dst| may_send(&followed, me.node, dst.node, NOW));
    assert_eq!(allowed.count(), 11, "itself too, and not whom it revoked");
}

#[test]
fn a_window_that_closes_while_the_disk_takes_nothing_is_waited_for_in_peace() {
    let mut mesh = Mesh::new();
    let (a, b) = mesh.two();
    let policy = mesh.operator.policy(&between(0, 1), NOW);
    let mut gateway = mesh.settled_under(&a, &[&b], policy);
    gateway.pass(DAY);
    let renewed = mesh.operator.policy(&between(0, 2), gateway.clock);

    gateway.map_on_full_disk(mesh.beacon, Document::Policy(renewed));
    gateway.at += ODD;
    gateway.clock = gateway.clock.plus(ODD);
    for _ in 0..3 {
        let now = gateway.now();
        gateway.state.handle_timeout(now);
        if gateway.state.poll_output().is_some() {
            gateway.state.handle_persist_failed(now);
        }
        while gateway.state.poll_output().is_some() {}
        assert!(gateway.state.deadline() > now.instant, "no hot loop");
    }

    let outputs = gateway.pass(SECOND * 2);
    let open = world(&outputs).expect("another world");
    assert!(
        may_send(&open, b.node, a.node, gateway.clock),
        "the newer policy"
    );
}
