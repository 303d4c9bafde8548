//! The story of a message between two gateways, and each row of the failure table of messaging.md
//! §4.3 that a router alone can show.

#[path = "pair/world.rs"]
mod world;

use std::time::Duration;

use router::{Accept, DeliveryKind, Draft, Event, InboxRow, OutboxRow, Refusal, Row, State};
use wire::MessageId;
use wire::message::{MessageFrame, Nack, Stage};
use world::{A, B, CLOSED, Killed, OPEN, Pair, agent, id_of, killing, rules};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_message_is_accepted_stored_delivered_and_done() {
    let mut pair = Pair::new();
    let id = pair.tell("hello");
    assert!(
        pair.sides[A].events.is_empty(),
        "nothing is accepted before the fsync"
    );

    pair.settle();
    assert_eq!(pair.state(id), State::Stored);
    let seen = pair.receive(B, 1);
    assert_eq!(seen[0].from.to_string(), "planner@gw-a");
    assert_eq!((&*seen[0].body, seen[0].attempt), (&b"hello"[..], 1));
    assert_eq!(pair.state(id), State::Delivered);
    pair.ack(B, id).expect("shown");
    pair.settle();

    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn an_ask_costs_four_fsyncs_and_its_answer_goes_to_whoever_waits() {
    let mut pair = Pair::new();
    let id = pair.ask("how many?");
    let planner = pair.sides[A].agents[0].instance;
    pair.sides[A]
        .router
        .watch(planner, id, true, pair.now)
        .expect("known");
    let coder = pair.sides[B].agents[0].instance;
    pair.sides[B]
        .router
        .demand(router::HolderId(1), coder, 1, None, pair.now)
        .expect("an agent");

    pair.sync(A); // accepted
    pair.think(A);
    pair.carry(B);
    pair.sync(B); // stored, and shown at once
    pair.think(B);
    assert_eq!(pair.sides[B].shown.len(), 1);
    pair.reply(id, "seven").expect("open");
    pair.sync(B); // the reply accepted, the request acked
    pair.think(B);
    pair.carry(A);
    pair.sync(A); // the reply stored
    pair.think(A);

    let (request, reply) = &pair.sides[A].answers[0];
    assert_eq!((request.id, &*reply.body), (id, &b"seven"[..]));
    assert_eq!(reply.kind, DeliveryKind::Reply { in_reply_to: id });
    pair.settle();
    assert_eq!(pair.state(id), State::Done);
    assert!(
        pair.bodies(A).is_empty(),
        "the answer was taken, and counts as acked"
    );
}

#[test]
fn an_awaited_answer_does_not_wait_for_the_disk_and_its_sender_does() {
    let mut pair = Pair::new();

    let id = pair.ask_until_answered();

    assert_eq!(&*pair.sides[A].answers[0].1.body, b"seven");
    assert_eq!(pair.sides[A].answers[0].1.attempt, 1);
    assert_eq!(pair.state(id), State::Done);
    let before = |side: &world::Side| {
        let done =
            |row: &Row| matches!(row, Row::Outbox(OutboxRow::Sent(it)) if it.state == State::Done);
        side.disk.values().filter(|row| done(row)).count()
    };
    assert_eq!((before(&pair.sides[A]), before(&pair.sides[B])), (0, 0));
    assert!(pair.wire[B].is_empty(), "nothing is said before the fsync");

    pair.tell("next");
    pair.sync(A); // with the next store that somebody waits for
    pair.think(A);

    assert_eq!(before(&pair.sides[A]), 1);
    assert!(matches!(
        pair.wire[B].make_contiguous(),
        [
            MessageFrame::Stored { .. },
            MessageFrame::Progress {
                stage: Stage::Done,
                ..
            },
            MessageFrame::Offer { .. }
        ]
    ));
    pair.settle();
    assert_eq!(before(&pair.sides[B]), 1);
}

#[test]
fn an_answer_that_was_handed_over_reaches_the_disk_without_company() {
    let mut pair = Pair::new();
    let id = pair.ask_until_answered();

    pair.pass(router::limits::LATE);

    let reply = pair.status(id).reply.expect("answered");
    let known = |row: &Row| matches!(row, Row::Inbox(InboxRow::Known(it)) if it.key.id == reply);
    assert!(pair.sides[A].disk.values().any(known));
    pair.crash(A);
    pair.settle();
    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(A).is_empty(), "it was taken, and is acked");
}

#[test]
fn an_answer_handed_over_just_before_a_crash_comes_once_more_and_not_as_the_first() {
    let mut pair = Pair::new();
    let id = pair.ask_until_answered();

    pair.crash(A);

    let again = pair.receive(A, 10);
    assert_eq!(again.len(), 1);
    assert_eq!((&*again[0].body, again[0].attempt), (&b"seven"[..], 2));
    assert_eq!(pair.state(id), State::Done);
    pair.ack(A, again[0].id).expect("shown");
    pair.pass(SECOND * 600);
    assert!(pair.bodies(A).is_empty() && pair.dead(B).is_empty());
}

#[test]
fn an_answer_handed_over_that_a_full_disk_refuses_comes_once_more_and_not_as_the_first() {
    let mut pair = Pair::new();
    let id = pair.ask_until_answered();
    pair.sides[A].disk_is_full = true;

    pair.pass(router::limits::LATE);

    assert_eq!(pair.state(id), State::Stored, "the request is open again");
    pair.sides[A].disk_is_full = false;
    pair.sides[A].asker_is_gone = true;
    pair.pass(SECOND * 600);
    let again = pair.receive(A, 10);
    assert_eq!(again.len(), 1);
    assert_eq!((&*again[0].body, again[0].attempt), (&b"seven"[..], 2));
    assert_eq!(pair.state(id), State::Done);
    pair.ack(A, again[0].id).expect("shown");
    pair.settle();
    pair.crash(A);
    assert!(pair.bodies(A).is_empty(), "nothing is shown after its ack");
}

#[test]
fn an_answer_whose_asker_is_gone_is_stored_like_any_message() {
    let mut pair = Pair::new();
    pair.sides[A].asker_is_gone = true;
    let id = pair.ask_until_answered();

    pair.sync(A);

    assert_eq!(pair.state(id), State::Done);
    let left = pair.receive(A, 10);
    assert_eq!((&*left[0].body, left[0].attempt), (&b"seven"[..], 1));
    pair.crash(A);
    assert_eq!(pair.receive(A, 10)[0].attempt, 2);
}

#[test]
fn a_late_answer_arrives_in_the_inbox() {
    let mut pair = Pair::new();
    let id = pair.ask("how many?");
    pair.receive(B, 1);

    pair.reply(id, "seven").expect("open");

    assert_eq!(pair.bodies(A), ["seven"]);
    assert_eq!(
        pair.status(id).reply.map(|_| pair.state(id)),
        Some(State::Done)
    );
}

#[test]
fn messages_of_a_pair_arrive_in_order_also_past_a_full_inbox() {
    let mut pair = Pair::new();
    let sent: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    for body in &sent {
        pair.tell(body);
    }

    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        pair.pass(SECOND * 61);
        let shown = pair.receive(B, 100);
        assert!(!shown.is_empty(), "stuck after {}", seen.len());
        for delivery in shown {
            seen.push(String::from_utf8_lossy(&delivery.body).into_owned());
            pair.ack(B, delivery.id).expect("shown");
        }
    }

    assert_eq!(seen, sent);
}

#[test]
fn one_node_fills_a_quarter_of_an_inbox_and_no_more() {
    let mut pair = Pair::new();
    for n in 0..300 {
        pair.tell(&n.to_string());
    }

    pair.settle();

    assert_eq!(pair.sides[B].router.stats().inbox_rows, 250);
    assert_eq!(pair.sides[A].router.queued(), [(id_of(B), 50)]);
}

#[test]
fn a_crash_before_the_local_fsync_tells_nobody_that_it_was_accepted() {
    let mut pair = Pair::new();
    let draft = pair.draft("coder@gw-b", "once");
    pair.send(A, draft.clone()).expect("taken");
    pair.think(A);

    pair.crash(A);
    pair.send(A, draft).expect("taken again, by the same id");

    assert_eq!(pair.bodies(B), ["once"]);
}

#[test]
fn a_crash_after_the_fsync_replays_the_outbox() {
    let mut pair = Pair::new();
    pair.disconnect();
    pair.tell("kept");
    pair.sync(A);

    pair.crash(A);

    assert_eq!(pair.bodies(B), ["kept"]);
}

#[test]
fn a_link_lost_in_the_middle_means_the_same_id_again() {
    let mut pair = Pair::new();
    pair.tell("again");
    pair.sync(A);
    pair.think(A);
    assert_eq!(pair.wire[B].len(), 1);

    pair.disconnect();
    pair.connect();

    assert_eq!(pair.bodies(B), ["again"]);
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn a_lost_stored_is_said_again_and_the_message_shown_once() {
    let mut pair = Pair::new();
    let id = pair.tell("once");
    pair.sync(A);
    pair.think(A);
    pair.carry(B);
    pair.sync(B);
    pair.think(B);
    assert!(matches!(
        pair.wire[A].pop_front(),
        Some(MessageFrame::Stored { .. })
    ));

    pair.crash(A);
    assert_eq!(pair.state(id), State::Accepted);

    assert_eq!(pair.bodies(B), ["once"]);
    assert_eq!(pair.state(id), State::Delivered);
    assert_eq!(pair.sides[B].router.stats().counters.duplicates, 1);
}

#[test]
fn a_message_is_known_again_after_its_ack_and_a_restart_of_both() {
    let mut pair = Pair::new();
    pair.tell("once");
    pair.sync(A);
    pair.think(A);
    let offer = pair.wire[B][0].clone();
    let seen = pair.receive(B, 1);
    pair.ack(B, seen[0].id).expect("shown");
    pair.settle();

    pair.crash(B);
    pair.crash(A);
    pair.sides[B].router.handle_frame(id_of(A), offer, pair.now);

    assert!(pair.bodies(B).is_empty());
}

#[test]
fn a_full_disk_is_a_nack_and_the_sender_tries_again_in_order() {
    let mut pair = Pair::new();
    pair.sides[B].disk_is_full = true;
    let ids = [pair.tell("one"), pair.tell("two"), pair.tell("three")];
    pair.pass(SECOND);
    assert!(ids.iter().all(|id| pair.state(*id) == State::Accepted));

    pair.sides[B].disk_is_full = false;
    pair.pass(SECOND * 120);

    assert_eq!(pair.bodies(B), ["one", "two", "three"]);
}

#[test]
fn a_full_disk_at_the_sender_accepts_nothing() {
    let mut pair = Pair::new();
    pair.sides[A].disk_is_full = true;
    let draft = pair.draft("coder@gw-b", "no");
    pair.send(A, draft.clone()).expect("taken, not accepted");
    pair.settle();

    pair.sides[A].disk_is_full = false;
    assert!(pair.bodies(B).is_empty());
    assert!(
        matches!(pair.send(A, draft), Ok(Accept::Storing(_))),
        "the id is free again"
    );
}

#[test]
fn what_is_not_acked_comes_again_five_times_and_then_is_a_dead_letter() {
    let mut pair = Pair::new();
    let id = pair.tell("poison");
    for attempt in 1..=5 {
        let seen = pair.receive(B, 1);
        assert_eq!((seen[0].id, seen[0].attempt), (id, attempt));
        assert!(
            pair.receive(B, 1).is_empty(),
            "hidden while somebody has it"
        );
        pair.pass(SECOND * 31);
    }

    assert!(pair.receive(B, 1).is_empty());
    assert_eq!(pair.dead(B), ["failed"]);
    assert_eq!(pair.state(id), State::Failed);
    let notice = pair.receive(A, 1);
    assert!(matches!(&notice[0].kind, DeliveryKind::Failure { of, .. } if *of == id));
}

#[test]
fn a_heartbeat_keeps_a_message_hidden() {
    let mut pair = Pair::new();
    let id = pair.tell("slow");
    pair.receive(B, 1);
    let coder = pair.sides[B].agents[0].instance;

    for _ in 0..20 {
        pair.pass(SECOND * 20);
        pair.sides[B]
            .router
            .heartbeat(coder, id, SECOND * 30, pair.now)
            .expect("held");
        assert!(pair.receive(B, 1).is_empty());
    }
    pair.pass(SECOND * 31);

    assert_eq!(pair.receive(B, 1)[0].attempt, 2);
}

#[test]
fn a_subscriber_that_goes_leaves_its_messages_to_the_next() {
    let mut pair = Pair::new();
    pair.tell("held");
    pair.settle();
    let (coder, holder) = (pair.sides[B].agents[0].instance, router::HolderId(9_999));
    pair.sides[B]
        .router
        .demand(holder, coder, 5, None, pair.now)
        .expect("an agent");
    pair.pass(SECOND * 600);
    assert_eq!(pair.sides[B].shown.len(), 1, "held as long as it lives");

    pair.sides[B].router.release_holder(holder, pair.now);

    assert_eq!(pair.receive(B, 1)[0].attempt, 2);
}

#[test]
fn a_message_that_was_shown_before_a_crash_does_not_come_as_if_for_the_first_time() {
    let mut pair = Pair::new();
    pair.tell("shown");
    assert_eq!(pair.receive(B, 1)[0].attempt, 1);

    pair.crash(B);

    assert_eq!(pair.receive(B, 1)[0].attempt, 2);
}

#[test]
fn a_ttl_that_passes_at_the_sender_is_a_dead_letter_and_a_notice() {
    let mut pair = Pair::new();
    pair.disconnect();
    let id = pair.tell("late");

    pair.pass(SECOND * 3601);

    assert_eq!(pair.state(id), State::Expired);
    assert_eq!(pair.dead(A), ["expired"]);
    let notice = pair.receive(A, 1);
    assert!(
        matches!(&notice[0].kind, DeliveryKind::Failure { of, error } if *of == id && &*error.code == "expired")
    );
    pair.connect();
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn a_ttl_that_passes_at_the_receiver_is_told_to_the_sender() {
    let mut pair = Pair::new();
    let id = pair.tell("never fetched");

    pair.pass(SECOND * 3601);

    assert_eq!(pair.dead(B), ["expired"]);
    assert_eq!(pair.state(id), State::Expired);
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn an_unanswered_request_expires_with_its_ttl() {
    let mut pair = Pair::new();
    let id = pair.ask("anybody?");
    let seen = pair.receive(B, 1);
    pair.ack(B, seen[0].id).expect("shown");

    pair.pass(SECOND * 3601);

    assert!(pair.reply(id, "too late").is_err());
    pair.settle();
    assert!(pair.bodies(A).iter().all(|body| body != "too late"));
}

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
fn an_agent_on_the_same_gateway_takes_the_same_road() {
    let mut pair = Pair::new();
    let reviewer = agent("reviewer", 9);
    pair.sides[A].agents.push(reviewer.clone());
    pair.sides[A].router.add_agent(reviewer.clone(), pair.now);
    let draft = pair.draft("reviewer@gw-a", "look");
    let id = draft.id;
    pair.send(A, draft).expect("taken");
    pair.settle();
    assert_eq!(pair.state(id), State::Stored);

    pair.set_rules(A, rules(Some(CLOSED), &[]));
    pair.settle();

    assert_eq!(pair.state(id), State::Denied);
    let draft = pair.draft("reviewer@gw-a", "look");
    assert!(matches!(pair.send(A, draft), Err(Refusal::Denied(_))));
}

#[test]
fn the_same_id_is_the_same_message_or_a_conflict() {
    let mut pair = Pair::new();
    let draft = pair.draft("coder@gw-b", "one");
    pair.send(A, draft.clone()).expect("taken");
    pair.settle();

    match pair.send(A, draft.clone()) {
        Ok(Accept::Known(status)) => assert_eq!(status.state, State::Stored),
        other => panic!("{other:?}"),
    }
    let other = Draft {
        body: "two".into(),
        ..draft
    };
    assert_eq!(pair.send(A, other), Err(Refusal::Conflict));
    assert_eq!(pair.bodies(B), ["one"]);
}

#[test]
fn ids_of_the_future_and_of_the_past_are_refused() {
    let mut pair = Pair::new();
    let ahead = MessageId::new(pair.unix_ms() + 301_000, [1; 10]);
    let old = MessageId::new(pair.unix_ms() - 3_600_000, [1; 10]);

    let draft = pair.draft("coder@gw-b", "x");
    assert_eq!(
        pair.send(
            A,
            Draft {
                id: ahead,
                ..draft.clone()
            }
        ),
        Err(Refusal::FromTheFuture)
    );
    assert_eq!(
        pair.send(A, Draft { id: old, ..draft }),
        Err(Refusal::Expired)
    );
}

#[test]
fn only_the_addressee_may_answer_and_only_once() {
    let mut pair = Pair::new();
    let intruder = agent("intruder", 66);
    pair.sides[B].router.add_agent(intruder.clone(), pair.now);
    let id = pair.ask("secret?");
    pair.receive(B, 1);

    // Another agent of the same gateway was never shown it.
    let answer = router::Answer {
        id: pair.fresh_id(),
        content_type: "text/plain".into(),
        body: "no".into(),
    };
    let taken = pair.sides[B].router.reply(&intruder, id, answer, pair.now);
    assert_eq!(taken, Err(Refusal::NotFound));

    pair.reply(id, "yes").expect("open");
    assert_eq!(pair.reply(id, "or no"), Err(Refusal::NotOpen));
    assert_eq!(pair.bodies(A), ["yes"]);
}

#[test]
fn a_forged_answer_of_another_agent_or_a_second_one_is_refused() {
    let mut pair = Pair::new();
    let id = pair.ask("secret?");
    pair.receive(B, 1);
    pair.reply(id, "yes").expect("open");
    pair.sync(B);
    pair.think(B);
    let genuine = pair.wire[A].iter().find_map(|frame| match frame {
        MessageFrame::Offer { envelope, .. } => Some(envelope.clone()),
        _ => None,
    });
    let mut forged = genuine.expect("the reply");
    forged.from = "intruder".parse().expect("a name");
    forged.instance = wire::InstanceId([66; 16]);
    forged.sequence += 1000;
    let first = MessageFrame::Offer {
        envelope: forged.clone(),
        after: 0,
    };
    pair.sides[A].router.handle_frame(id_of(B), first, pair.now);
    pair.think(A);
    assert!(matches!(
        pair.wire[B].pop_back(),
        Some(MessageFrame::Refused {
            nack: Nack::NoOpenRequest,
            ..
        })
    ));

    assert_eq!(pair.bodies(A), ["yes"]);
    forged.from = "coder".parse().expect("a name");
    forged.id = pair.fresh_id();
    let second = MessageFrame::Offer {
        envelope: forged,
        after: 0,
    };
    pair.sides[A]
        .router
        .handle_frame(id_of(B), second, pair.now);
    assert!(pair.bodies(A).is_empty());
}

#[test]
fn nobody_settles_a_message_but_the_node_that_it_went_to() {
    let mut pair = Pair::new();
    let id = pair.tell("mine");
    pair.sync(A);
    pair.think(A);
    let key = wire::MessageKey {
        instance: pair.sides[A].agents[0].instance,
        id,
    };

    let stranger = identity::NodeId([9; 16]);
    pair.sides[A]
        .router
        .handle_frame(stranger, MessageFrame::Stored { key }, pair.now);
    let nack = MessageFrame::Refused {
        key,
        nack: Nack::Denied,
    };
    pair.sides[A].router.handle_frame(stranger, nack, pair.now);

    assert_eq!(pair.state(id), State::Accepted);
    assert_eq!(pair.sides[A].router.stats().counters.strays, 2);
    assert_eq!(pair.bodies(B), ["mine"]);
}

#[test]
fn a_new_agent_of_an_old_name_inherits_nothing() {
    let mut pair = Pair::new();
    pair.tell("for the old one");
    let asked = pair.ask("and this");
    pair.settle();

    let (old, new) = (pair.sides[B].agents[0].clone(), agent("coder", 42));
    pair.sides[B].router.remove_agent(old.instance, pair.now);
    pair.sides[B].router.add_agent(new.clone(), pair.now);
    pair.sides[B].agents = vec![new];
    pair.settle();

    assert!(pair.bodies(B).is_empty());
    assert_eq!(pair.dead(B).len(), 2);
    assert_eq!(pair.state(asked), State::Failed);
    pair.crash(B);
    assert!(pair.bodies(B).is_empty());
    pair.tell("for the new one");
    assert_eq!(pair.bodies(B), ["for the new one"]);
}

#[test]
fn an_agent_removed_while_the_node_was_down_leaves_dead_letters() {
    let mut pair = Pair::new();
    pair.tell("orphan");
    pair.settle();
    pair.sides[B].agents = vec![agent("coder", 42)];

    pair.crash(B);
    pair.settle();

    assert!(pair.bodies(B).is_empty());
    assert_eq!(pair.dead(B), ["agent_removed"]);
}

#[test]
fn a_spool_that_was_lost_at_the_sender_loses_no_later_message() {
    let mut pair = Pair::new();
    pair.tell("before");
    assert_eq!(pair.bodies(B), ["before"]);

    // The sequences begin anew, in another epoch.
    pair.disconnect();
    pair.sides[A].router = router::Router::restore(
        id_of(A),
        4711,
        router::RowId(1),
        pair.sides[A].agents.clone(),
        [],
        rules(Some(OPEN), &[]),
        [3; 32],
        router::Clock::new(pair.unix_ms(), pair.now),
        pair.now,
    );
    pair.connect();
    pair.tell("after");

    assert_eq!(pair.bodies(B), ["after"]);
}

#[test]
fn a_peer_that_is_down_is_wanted_again_and_again_with_patience() {
    let mut pair = Pair::new();
    pair.disconnect();
    pair.tell("hello?");

    pair.pass(SECOND * 600);

    let wanted = pair.sides[A]
        .events
        .iter()
        .filter(|event| matches!(event, Event::Wanted { .. }));
    assert!((10..200).contains(&wanted.count()));
}

#[test]
fn loss_repetition_and_crashes_lose_nothing_and_show_nothing_after_its_ack() {
    for seed in 1..=50 {
        torture(seed);
    }
}

/// Everything goes wrong, by a seed that says where.
fn torture(seed: u64) {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut roll = move |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    // Most letters are away at every other seed, and the disk answers when it likes.
    let is_away = seed.is_multiple_of(2);
    let mut pair = match is_away {
        true => Pair::keeping(3),
        false => Pair::new(),
    };
    pair.sides[B].reads_are_late = is_away;
    let (mut accepted, mut seen, mut acked) = (Vec::new(), Vec::new(), Vec::new());
    let mut acking = Vec::new();
    for step in 0..400 {
        match roll(12) {
            0..=3 if step < 300 => {
                let body = format!("{step}");
                let id = pair.tell(&body);
                pair.sync(A);
                accepted.push((id, body));
            }
            0..=4 => pair.sync(B),
            5 => pair.sync(A),
            6 => pair.carry(B),
            7 => pair.carry(A),
            8 => {
                let shown = pair.sides[B].agents[0].instance;
                let holder = router::HolderId(1_000_000 + step);
                pair.sides[B]
                    .router
                    .demand(holder, shown, 3, Some(SECOND * 30), pair.now)
                    .expect("there");
                pair.think(B);
                for delivery in std::mem::take(&mut pair.sides[B].shown) {
                    assert!(
                        !acked.contains(&delivery.id),
                        "seed {seed}: shown after its ack"
                    );
                    seen.push(delivery.id);
                    pair.ack(B, delivery.id).expect("shown");
                    acking.push(delivery.id);
                }
                if roll(3) > 0 {
                    pair.sync(B);
                    acked.append(&mut acking);
                }
            }
            9 => {
                // A frame is lost; in a real stream that takes the session with it.
                let lost = usize::try_from(roll(2)).expect("small");
                pair.wire[lost].pop_front();
            }
            10 => {
                acking.clear();
                pair.crash(B);
            }
            _ => {
                pair.crash(A);
            }
        }
        if is_away && roll(3) == 0 {
            let most = usize::try_from(roll(4)).expect("small");
            pair.read(B, most);
        }
        pair.think(A);
        pair.think(B);
    }
    pair.sides[B].reads_are_late = false;
    for _ in 0..400 {
        pair.pass(SECOND * 5);
        // What came from the disk after its holder was looked at was shown too.
        let shown = std::mem::take(&mut pair.sides[B].shown);
        seen.extend(shown.iter().map(|it| it.id));
        for delivery in pair.receive(B, 50) {
            assert!(
                !acked.contains(&delivery.id),
                "seed {seed}: shown after its ack"
            );
            seen.push(delivery.id);
            pair.ack(B, delivery.id).expect("shown");
            pair.settle();
            acked.push(delivery.id);
        }
    }
    for (id, body) in &accepted {
        assert!(
            seen.contains(id),
            "seed {seed}: {body} was accepted and never shown"
        );
    }
    let order: Vec<_> = accepted.iter().map(|(id, _)| *id).collect();
    let mut first_seen: Vec<_> = Vec::new();
    seen.iter().for_each(|id| {
        if !first_seen.contains(id) {
            first_seen.push(*id)
        }
    });
    assert_eq!(first_seen, order, "seed {seed}: order");
}

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

#[test]
fn a_reply_leaves_while_it_is_being_stored() {
    let mut pair = Pair::new();
    let id = asked(&mut pair);

    pair.reply(id, "seven").expect("open");
    pair.think(B);
    pair.carry(A);
    pair.think(A);

    assert_eq!(answers(&pair), ["seven"]);
    pair.settle();
    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(B).is_empty() && pair.dead(B).is_empty());
}

#[test]
fn a_crash_before_a_reply_is_stored_shows_the_request_again_and_its_second_reply_is_one_too_many() {
    let mut pair = Pair::new();
    let id = asked(&mut pair);
    pair.reply(id, "seven").expect("open");
    pair.think(B);
    pair.carry(A);
    pair.think(A);

    pair.crash(B);
    assert_eq!(pair.bodies(B), ["how many?"], "it was never acked");
    pair.reply(id, "eight")
        .expect("open, as far as this side knows");
    pair.settle();

    assert_eq!(answers(&pair), ["seven"]);
    assert_eq!(pair.dead(B), ["no_open_request"]);
    assert!(pair.bodies(A).is_empty(), "and nothing else comes of it");
    assert!(pair.bodies(B).is_empty(), "nor is its agent told");
}

#[test]
fn what_was_sent_before_a_reply_leaves_before_it() {
    let mut pair = Pair::new();
    let id = asked(&mut pair);
    let draft = pair.draft("planner@gw-a", "first");
    pair.send(B, draft).expect("taken");
    pair.reply(id, "then").expect("open");

    pair.think(B);
    assert!(pair.wire[A].is_empty(), "the first is not on disk yet");
    pair.settle();

    assert_eq!(pair.bodies(A), ["first"]);
    assert_eq!(answers(&pair), ["then"]);
}

#[test]
fn a_reply_that_the_disk_does_not_take_is_one_that_was_not_given() {
    let mut pair = Pair::new();
    let id = asked(&mut pair);
    pair.sides[B].disk_is_full = true;
    pair.reply(id, "seven").expect("taken, not accepted");
    pair.settle();
    pair.sides[B].disk_is_full = false;

    assert_eq!(answers(&pair), ["seven"], "it had left");
    pair.pass(Duration::from_secs(60));
    assert_eq!(
        pair.bodies(B),
        ["how many?"],
        "shown again: it was not acked"
    );
}

/// A request of `planner@gw-a` that waits for its answer, shown to `coder@gw-b`.
fn asked(pair: &mut Pair) -> MessageId {
    let id = pair.ask("how many?");
    let planner = pair.sides[A].agents[0].instance;
    let now = pair.now;
    pair.sides[A]
        .router
        .watch(planner, id, true, now)
        .expect("known");
    assert_eq!(pair.bodies(B), ["how many?"]);
    id
}

fn answers(pair: &Pair) -> Vec<String> {
    let body = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let answers = pair.sides[A].answers.iter();
    answers.map(|(_, delivery)| body(&delivery.body)).collect()
}
