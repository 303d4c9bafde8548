//! The guards of a grant: rates that make wait, sizes and windows that refuse.

use super::*;

/// Everybody may ask and tell everybody, under this guard.
fn guarded(guard: &str) -> String {
    format!(
        r#"{{"grants": [{{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"]}}],
            "guards": [{{"id": "g", "src": ["agent:*@*"], "dst": ["agent:*@*"], {guard}}}]}}"#
    )
}

const ONE_A_SECOND: &str = r#""rate": {"limit": "1/s", "burst": 2}"#;

#[test]
fn what_finds_no_token_waits_for_one_in_order_and_says_so() {
    let mut pair = Pair::new();
    pair.set_rules(B, rules(Some(&guarded(ONE_A_SECOND)), &[]));
    let ids = ["1", "2", "3", "4"].map(|body| pair.tell(body));

    pair.settle();
    assert_eq!(ids.map(|id| pair.state(id)), {
        let (there, here) = (State::Stored, State::Accepted);
        [there, there, here, here]
    });
    let waits = pair.status(ids[2]).error.expect("named while it waits");
    assert_eq!(&*waits.code, "throttled");

    pair.pass(SECOND - Duration::from_millis(1));
    assert_eq!(pair.state(ids[2]), State::Accepted, "not before its time");
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.state(ids[2]), State::Stored);
    assert_eq!(pair.status(ids[2]).error, None);
    assert_eq!(pair.state(ids[3]), State::Accepted);
    pair.pass(SECOND);
    assert_eq!(pair.bodies(B), ["1", "2", "3", "4"]);
    let throttled = pair.sides[B].router.stats().counters.throttled;
    assert!((2..=6).contains(&throttled), "no storm: {throttled}");
}

#[test]
fn a_backlog_behind_a_rate_is_not_offered_over_and_over() {
    let mut pair = Pair::new();
    pair.set_rules(B, rules(Some(&guarded(ONE_A_SECOND)), &[]));
    for n in 0..100 {
        pair.tell(&n.to_string());
    }

    for _ in 0..98 {
        pair.pass(SECOND);
    }

    assert_eq!(pair.bodies(B).len(), 100, "as fast as the rate allows");
    let offered = pair.sides[A].router.stats().counters.offered;
    // One hundred in the first moment, and at most three for each token.
    assert!(offered <= 400, "{offered}");
}

#[test]
fn one_message_draws_once_however_often_it_is_offered() {
    let mut pair = Pair::new();
    pair.set_rules(B, rules(Some(&guarded(ONE_A_SECOND)), &[]));
    pair.tell("once");
    pair.sync(A);
    pair.think(A);
    let offer = pair.wire[B].clone();
    for _ in 0..5 {
        // Some come while it is on its way to the disk, and some when it is there.
        pair.wire[B].extend(offer.clone());
        pair.settle();
        pair.wire[B].extend(offer.clone());
    }

    let second = pair.tell("the second token");
    pair.settle();

    assert_eq!(pair.state(second), State::Stored);
    assert_eq!(pair.bodies(B).len(), 2);
}

#[test]
fn what_the_disk_did_not_take_gives_its_token_back() {
    let mut pair = Pair::new();
    let guard = r#""rate": {"limit": "1/h"}"#;
    pair.set_rules(B, rules(Some(&guarded(guard)), &[]));
    pair.sides[B].disk_is_full = true;
    let id = pair.tell("not kept");
    pair.settle();
    assert_eq!(pair.state(id), State::Accepted);

    pair.sides[B].disk_is_full = false;
    pair.pass(SECOND * 60);

    assert_eq!(pair.state(id), State::Stored);
}

#[test]
fn what_waits_for_a_token_expires_in_its_time_and_lets_the_next_go() {
    let mut pair = Pair::new();
    let guard = r#""rate": {"limit": "1/m"}"#;
    pair.set_rules(B, rules(Some(&guarded(guard)), &[]));
    pair.tell("takes the token");
    let draft = Draft {
        ttl: SECOND * 30,
        ..pair.draft("coder@gw-b", "too late")
    };
    let id = draft.id;
    pair.send(A, draft).expect("taken");
    let next = pair.tell("the next");

    pair.pass(SECOND * 61);

    assert_eq!(pair.state(id), State::Expired);
    assert_eq!(pair.state(next), State::Stored);
}

#[test]
fn a_body_beyond_a_guards_size_is_refused_early_and_by_the_receiver_too() {
    let guard = r#""maxBytes": "10""#;
    let mut pair = Pair::new();
    pair.set_rules(A, rules(Some(&guarded(guard)), &[]));
    let draft = pair.draft("coder@gw-b", "eleven byte");
    let Err(Refusal::Denied(denial)) = pair.send(A, draft) else {
        panic!("refused")
    };
    assert_eq!(denial.code, "guard");
    assert_eq!(denial.rule.expect("a guard").as_str(), "g");

    pair.set_rules(A, rules(Some(OPEN), &[]));
    pair.set_rules(B, rules(Some(&guarded(guard)), &[]));
    let (fits, long) = (pair.tell("just these"), pair.tell("eleven byte"));
    pair.settle();
    assert_eq!(pair.state(fits), State::Stored);
    assert_eq!(pair.state(long), State::Denied);
    let told = pair.status(long).error.expect("a reason");
    assert_eq!(
        (told.cause, told.rule),
        (None, None),
        "the receiver says no more than no"
    );
    assert_eq!(pair.bodies(B), ["just these"]);
    let here = pair.sides[B].events.iter().find_map(|event| match event {
        Event::Refused { error, .. } => error.rule.as_deref(),
        _ => None,
    });
    assert_eq!(here, Some("g"), "its own people hear why");
}

#[test]
fn a_policy_that_takes_less_at_a_time_cuts_what_waits_with_its_reason() {
    let mut pair = Pair::new();
    pair.disconnect();
    let id = pair.tell("eleven byte");
    pair.settle();

    pair.set_rules(A, rules(Some(&guarded(r#""maxBytes": "10""#)), &[]));

    let error = pair.status(id).error.expect("a named end");
    assert_eq!((&*error.code, error.rule.as_deref()), ("denied", Some("g")));
    assert_eq!(error.cause.as_deref(), Some("guard"));
}

#[test]
fn an_answer_obeys_the_sizes_of_its_way_and_draws_nothing() {
    let guard = r#""maxBytes": "10", "rate": {"limit": "1/h"}"#;
    let mut pair = Pair::new();
    let guarded = rules(Some(&guarded(guard)), &[]);
    [A, B]
        .into_iter()
        .for_each(|side| pair.set_rules(side, guarded.clone()));
    let ask = pair.ask("how long?");
    assert_eq!(pair.bodies(B), ["how long?"]);

    assert!(matches!(
        pair.reply(ask, "eleven byte"),
        Err(Refusal::Denied(denial)) if denial.code == "guard"
    ));
    pair.reply(ask, "ten or so").expect("short enough");
    pair.settle();

    assert_eq!(pair.state(ask), State::Done);
    assert_eq!(pair.bodies(A), ["ten or so"]);
}

#[test]
fn a_hostile_answer_is_too_long_for_its_receiver_as_well() {
    let mut pair = Pair::new();
    pair.set_rules(A, rules(Some(&guarded(r#""maxBytes": "10""#)), &[]));
    let ask = pair.ask("how long?");
    pair.receive(B, 1);

    pair.reply(ask, "eleven byte")
        .expect("its own gateway has no guard");
    pair.settle();

    assert!(pair.bodies(A).is_empty());
    assert_ne!(pair.state(ask), State::Done);
}
