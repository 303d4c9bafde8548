//! The story of a message between two gateways, and each row of the failure table of messaging.md
//! §4.3 that a router alone can show.

mod answers;
mod crashes;
mod guards;
mod policy;
mod world;

use std::time::Duration;

use router::{
    Accept, DeliveryKind, Draft, Event, HolderId, InboxRow, OutboxRow, Refusal, Row, State,
};
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
    let (coder, holder) = (pair.sides[B].agents[0].instance, HolderId(9_999));
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
    pair.think(A);

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
fn a_slow_stream_is_not_filled_with_copies() {
    let mut pair = Pair::new();
    let reviewer = agent("reviewer", 9);
    pair.sides[A].agents.push(reviewer.clone());
    pair.sides[A].router.add_agent(reviewer.clone(), pair.now);
    let planner = pair.sides[A].agents[0].clone();
    for from in [&planner, &reviewer] {
        for _ in 0..20 {
            let draft = pair.draft("coder@gw-b", &"x".repeat(200_000));
            let sent = pair.sides[A].router.send(from, draft, pair.now);
            sent.expect("taken");
        }
    }
    pair.sync(A);

    // A message takes two seconds, so the first of the reviewer comes after forty.
    let arrived = pair.carry_slowly(2 * SECOND, 45);

    assert_eq!(arrived, 40, "frames on the stream");
    assert_eq!(pair.sides[A].router.stats().counters.offered, 40);
    assert_eq!(pair.bodies(B).len(), 40);
}

#[test]
fn a_stream_that_was_seen_to_be_slow_is_given_time() {
    let mut pair = Pair::new();
    let offered = |pair: &mut Pair, steps: usize| {
        for _ in 0..5 {
            let draft = pair.draft("coder@gw-b", &"x".repeat(200_000));
            pair.send(A, draft).expect("taken");
        }
        pair.sync(A);
        let before = pair.sides[A].router.stats().counters.offered;
        // A message takes 25 seconds: longer than an answer may at first.
        pair.carry_slowly(25 * SECOND, steps);
        pair.sides[A].router.stats().counters.offered - before
    };

    let first = offered(&mut pair, 20);
    assert!(first <= 12, "{first} offers of five messages");
    assert_eq!(offered(&mut pair, 8), 5);
    assert_eq!(pair.bodies(B).len(), 10);
}
