//! What the policy allows, at both ends, and what happens to what it no longer allows.

use super::*;

#[test]
fn a_revoked_sender_loses_what_waits_at_the_receiver() {
    let mut pair = Pair::new();
    let id = pair.tell("from a thief");
    pair.settle();

    pair.set_rules(B, rules(Some(OPEN), &[A]));
    pair.settle();

    assert!(pair.bodies(B).is_empty());
    assert_eq!(pair.dead(B), ["denied"]);
    assert_eq!(pair.state(id), State::Denied);
}

#[test]
fn the_outbox_to_a_revoked_receiver_is_frozen() {
    let mut pair = Pair::new();
    pair.set_rules(A, rules(Some(OPEN), &[B]));
    pair.settle();
    pair.set_rules(A, rules(Some(OPEN), &[]));
    pair.disconnect();
    let id = pair.tell("waits");
    pair.settle();

    pair.set_rules(A, rules(Some(OPEN), &[B]));
    pair.connect();
    pair.pass(SECOND * 60);
    assert_eq!((pair.state(id), pair.bodies(B).len()), (State::Accepted, 0));

    pair.set_rules(A, rules(Some(OPEN), &[]));
    assert_eq!(pair.bodies(B), ["waits"]);
}

#[test]
fn a_policy_that_changed_while_a_message_waited_is_asked_again() {
    let mut pair = Pair::new();
    let stored = pair.tell("stored");
    pair.settle();
    pair.disconnect();
    let queued = pair.tell("queued");
    pair.settle();

    pair.set_rules(A, rules(Some(CLOSED), &[]));
    pair.set_rules(B, rules(Some(CLOSED), &[]));
    pair.settle();

    assert_eq!(
        (pair.dead(A), pair.dead(B)),
        (vec!["denied".into()], vec!["denied".into()])
    );
    assert_eq!(pair.state(queued), State::Denied);
    assert!(
        pair.status(queued)
            .error
            .expect("a reason")
            .missing_grant
            .is_some()
    );
    assert_eq!(
        pair.state(stored),
        State::Stored,
        "the notice was lost with the session"
    );
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn what_the_policy_takes_away_ends_wherever_it_is() {
    let mut pair = Pair::new();
    let held = pair.ask("shown, and worked on");
    assert_eq!(pair.bodies(B), ["shown, and worked on"]);
    let stored = pair.ask("stored");
    pair.settle();
    let flying = pair.tell("in flight");
    pair.sync(A);
    pair.think(A);
    let storing = pair.tell("on its way to the disk");

    pair.set_rules(A, rules(Some(CLOSED), &[]));
    pair.think(A);
    let ended = [held, stored, flying].map(|id| pair.state(id));
    assert_eq!(ended, [State::Denied; 3], "before anybody answers");
    pair.sync(A);
    assert_eq!(
        pair.state(storing),
        State::Denied,
        "as soon as it is accepted"
    );

    let reason = pair.status(held).error.expect("a reason");
    assert!(reason.missing_grant.is_some(), "{reason:?}");
    pair.settle();
    assert_eq!(
        pair.state(flying),
        State::Denied,
        "a late word changes nothing"
    );
    let stats = pair.sides[A].router.stats();
    assert_eq!((stats.outbox_rows, stats.queued), (0, Vec::new()));
}

#[test]
fn the_receiver_ends_what_it_may_not_answer_and_tells_the_sender() {
    let mut pair = Pair::new();
    let held = pair.ask("shown, and worked on");
    assert_eq!(pair.bodies(B), ["shown, and worked on"]);
    let waiting = pair.tell("waits");
    pair.settle();
    let storing = pair.tell("on its way to the disk");
    pair.sync(A);
    pair.think(A);
    pair.carry(B);

    pair.set_rules(B, rules(Some(CLOSED), &[]));
    pair.settle();

    let ended = [held, waiting, storing].map(|id| pair.state(id));
    assert_eq!(ended, [State::Denied; 3]);
    assert!(pair.bodies(B).is_empty());
    assert!(matches!(
        pair.reply(held, "too late"),
        Err(Refusal::Denied(_))
    ));
    assert!(
        pair.ack(B, held).is_ok(),
        "whoever worked on it may be done"
    );
}

#[test]
fn a_killed_agent_neither_sends_nor_receives_and_what_was_open_ends() {
    for (killed, side) in [("planner", A), ("coder", B)] {
        let mut pair = Pair::new();
        let ask = pair.ask("open");
        pair.settle();
        pair.disconnect();
        let queued = pair.tell("queued");
        pair.settle();

        let rules = killing(Killed::Agent(side, killed));
        [A, B]
            .into_iter()
            .for_each(|at| pair.set_rules(at, rules.clone()));
        pair.settle();

        for id in [ask, queued] {
            let status = pair.status(id);
            let error = status.error.expect("a named end");
            assert_eq!((status.state, &*error.code), (State::Denied, "blocked"));
            assert!(error.reason.contains(killed), "{error:?}");
        }
        assert!(pair.bodies(B).is_empty(), "{killed}");
        let draft = pair.draft("coder@gw-b", "another");
        let refused = pair.send(A, draft).expect_err("killed");
        assert_eq!(refused.code(), "blocked");
        assert!(pair.reply(ask, "an answer").is_err());
    }
}

#[test]
fn the_receiver_obeys_a_kill_that_the_sender_has_not_heard_of() {
    let mut pair = Pair::new();
    pair.set_rules(B, killing(Killed::Agent(A, "planner")));

    let id = pair.tell("does it pass?");
    pair.settle();

    let status = pair.status(id);
    let error = status.error.expect("a named end");
    assert_eq!((status.state, &*error.code), (State::Denied, "blocked"));
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn to_a_gateway_that_was_cut_off_asks_end_and_the_rest_is_parked() {
    let mut pair = Pair::new();
    let ask = pair.ask("open");
    pair.settle();
    pair.disconnect();
    let queued_ask = pair.ask("queued, and somebody waits for it");
    let parked = pair.tell("parked");
    pair.settle();

    pair.set_rules(A, killing(Killed::Gateway(B)));
    pair.settle();
    for id in [ask, queued_ask] {
        let status = pair.status(id);
        let code = status.error.map(|error| error.code);
        assert_eq!(
            (status.state, code.as_deref()),
            (State::Denied, Some("blocked"))
        );
    }
    assert_eq!(pair.state(parked), State::Accepted);

    pair.set_rules(A, rules(Some(OPEN), &[]));
    pair.connect();
    pair.settle();
    assert_eq!(pair.state(parked), State::Stored, "the kill was lifted");
}

#[test]
fn a_kill_that_the_disk_knew_before_the_queue_did_counts_after_a_restart() {
    let mut pair = Pair::new();
    pair.disconnect();
    let id = pair.tell("queued");
    pair.settle();

    pair.restart_under(A, killing(Killed::Agent(B, "coder")));
    pair.settle();

    assert_eq!(pair.state(id), State::Denied);
}

#[test]
fn the_sender_refuses_early_and_names_the_missing_grant() {
    let mut pair = Pair::new();
    pair.set_rules(A, rules(Some(CLOSED), &[]));
    let draft = pair.draft("coder@gw-b", "no");

    match pair.send(A, draft) {
        Err(Refusal::Denied(denial)) => assert!(denial.missing_grant.is_some(), "{denial:?}"),
        other => panic!("{other:?}"),
    }
    let nowhere = pair.draft("coder@gw-z", "no");
    assert!(matches!(
        pair.send(A, nowhere),
        Err(Refusal::UnknownGateway(_))
    ));
}

#[test]
fn without_a_policy_nothing_is_taken_and_nothing_that_waits_is_lost() {
    let mut pair = Pair::new();
    pair.tell("waits");
    pair.settle();
    pair.set_rules(B, rules(None, &[]));
    pair.set_rules(A, rules(None, &[]));

    let draft = pair.draft("coder@gw-b", "no");
    assert!(
        matches!(pair.send(A, draft), Err(Refusal::Denied(denial)) if denial.code == "no_policy")
    );
    assert!(pair.bodies(B).is_empty());

    pair.set_rules(B, rules(Some(OPEN), &[]));
    assert_eq!(pair.bodies(B), ["waits"]);
}

#[test]
fn the_receiver_decides_whatever_the_sender_believes() {
    let mut pair = Pair::new();
    pair.set_rules(B, rules(Some(CLOSED), &[]));
    let id = pair.tell("no");

    pair.settle();

    assert_eq!(pair.state(id), State::Denied);
    assert_eq!(pair.dead(A), ["denied"]);
    assert!(
        pair.sides[B].disk.is_empty(),
        "what is refused leaves nothing behind"
    );
}

#[test]
fn an_agent_that_is_not_there_is_unknown_only_to_those_who_may_reach_it() {
    let mut pair = Pair::new();
    let draft = pair.draft("ghost@gw-b", "boo");
    let id = draft.id;
    pair.send(A, draft).expect("granted");
    pair.settle();
    assert_eq!(
        pair.status(id).error.map(|error| error.code),
        Some("unknown_agent".into())
    );

    pair.set_rules(B, rules(Some(CLOSED), &[]));
    let draft = pair.draft("ghost@gw-b", "boo");
    let id = draft.id;
    pair.send(A, draft).expect("granted here");
    pair.settle();
    assert_eq!(
        pair.status(id).error.map(|error| error.code),
        Some("denied".into())
    );
}

#[test]
fn a_window_that_closed_cuts_what_waits_and_what_is_open_with_the_next_snapshot() {
    let mut pair = Pair::new();
    // Ten seconds after the clock of these two begins.
    let text = r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"],
        "valid": {"notAfter": "2026-11-18T11:06:50Z"}}]}"#;
    let hours = rules(Some(text), &[]);
    [A, B]
        .into_iter()
        .for_each(|side| pair.set_rules(side, hours.clone()));
    let open = pair.ask("open");
    pair.settle();
    pair.disconnect();
    let queued = pair.tell("queued");
    pair.settle();

    pair.pass(SECOND * 9);
    pair.set_rules(A, hours.clone());
    assert_eq!(pair.state(queued), State::Accepted, "still inside");
    pair.pass(SECOND);
    pair.set_rules(A, hours.clone());

    for id in [open, queued] {
        let error = pair.status(id).error.expect("a named end");
        assert_eq!(
            (pair.state(id), error.cause.as_deref()),
            (State::Denied, Some("no_grant"))
        );
    }
    pair.set_rules(B, hours);
    assert!(pair.bodies(B).is_empty(), "nor is it shown there");
}
