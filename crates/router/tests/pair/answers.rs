//! Requests and their answers: who gets one, when it leaves, and what a crash makes of it.

use super::*;

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
fn an_answer_handed_over_that_a_full_disk_refuses_is_settled_when_it_comes_again() {
    let mut pair = Pair::new();
    let id = pair.ask_until_answered();
    pair.sides[A].disk_is_full = true;

    pair.pass(router::limits::LATE);

    assert_eq!(pair.state(id), State::Stored, "the request is open again");
    pair.sides[A].disk_is_full = false;
    pair.sides[A].asker_is_gone = true;
    pair.pass(SECOND * 600);
    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(A).is_empty(), "its asker has it");
    assert_eq!(pair.sides[A].answers.len(), 1);
    pair.crash(A);
    assert!(pair.bodies(A).is_empty());
}

#[test]
fn an_answer_kept_that_a_full_disk_refused_is_settled_when_it_comes_again() {
    let mut pair = Pair::new();
    pair.sides[A].asker_keeps = true;
    let id = pair.ask_until_answered();
    pair.sides[A].disk_is_full = true;
    pair.settle();
    pair.sides[A].disk_is_full = false;
    pair.kept(id);

    pair.pass(SECOND * 600);

    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(A).is_empty(), "whoever asked has it");
    assert_eq!(pair.sides[A].answers.len(), 1);
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
fn an_answer_whose_asker_is_gone_is_stored_before_what_came_after_it() {
    for stores in 0..4 {
        let mut pair = Pair::new();
        let id = asked(&mut pair);
        pair.sides[A].asker_is_gone = true;
        answer_and_more(&mut pair, id);
        // The disk has the first so many stores as the power goes.
        pair.write(A, stores);
        pair.crash(A);

        assert_eq!(
            pair.bodies(A),
            ["seven", "and another thing"],
            "after {stores} stores"
        );
    }
}

#[test]
fn an_answer_that_is_being_kept_comes_again_after_a_crash_whatever_came_after_it() {
    for stores in 0..4 {
        let mut pair = Pair::new();
        let id = asked(&mut pair);
        pair.sides[A].asker_keeps = true;
        answer_and_more(&mut pair, id);
        assert_eq!(answers(&pair), ["seven"]);
        pair.write(A, stores);
        pair.crash(A);
        let planner = pair.sides[A].agents[0].instance;
        let router = &mut pair.sides[A].router;
        router.watch(planner, id, true, pair.now).expect("known");
        pair.settle();

        assert_eq!(answers(&pair), ["seven", "seven"], "after {stores} stores");
        assert_eq!(pair.sides[A].answers[1].1.attempt, 2);
        assert_eq!(pair.bodies(A), ["and another thing"], "hidden until kept");
        pair.kept(id);
        assert_eq!(pair.state(id), State::Done);
        pair.crash(A);
        assert_eq!(pair.bodies(A), ["and another thing"], "never acked");
    }
}

#[test]
fn an_answer_may_be_kept_before_it_is_stored_here() {
    let mut pair = Pair::new();
    let id = asked(&mut pair);
    pair.sides[A].asker_keeps = true;
    pair.reply(id, "seven").expect("open");
    pair.sync(B);
    pair.think(B);
    pair.carry(A);
    pair.think(A);
    pair.kept(id);

    assert_eq!(pair.state(id), State::Done);
    assert!(pair.bodies(A).is_empty());
    pair.crash(A);
    assert!(pair.bodies(A).is_empty());
    pair.settle();
    assert!(pair.dead(B).is_empty());
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
fn a_reply_to_the_same_gateway_waits_for_its_disk() {
    let mut pair = Pair::new();
    let reviewer = agent("reviewer", 9);
    pair.sides[A].agents.push(reviewer.clone());
    pair.sides[A].router.add_agent(reviewer.clone(), pair.now);
    let draft = Draft {
        expects_reply: true,
        ..pair.draft("reviewer@gw-a", "look")
    };
    let id = draft.id;
    pair.send(A, draft).expect("taken");
    let planner = pair.sides[A].agents[0].instance;
    let router = &mut pair.sides[A].router;
    router.watch(planner, id, true, pair.now).expect("known");
    pair.settle();
    let (holder, now) = (HolderId(99), pair.now);
    let router = &mut pair.sides[A].router;
    router
        .demand(holder, reviewer.instance, 1, None, now)
        .expect("an agent");
    pair.settle();

    pair.reply_as(A, &reviewer, id, "fine").expect("open");
    pair.think(A);
    assert!(answers(&pair).is_empty(), "one crash would take both");
    pair.settle();

    assert_eq!(answers(&pair), ["fine"]);
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

/// The answer to a request, and a message behind it, arrive at once.
fn answer_and_more(pair: &mut Pair, id: MessageId) {
    pair.reply(id, "seven").expect("open");
    let draft = pair.draft("planner@gw-a", "and another thing");
    pair.send(B, draft).expect("taken");
    pair.sync(B);
    pair.think(B);
    pair.carry(A);
    pair.think(A);
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
