//! Where chains of messages end: loops and storms (messaging.md §4.2), messages that are taken back,
//! and messages that are rejected.

#[path = "pair/world.rs"]
#[allow(dead_code, reason = "shared with the story of a message")]
mod world;

use std::time::Duration;

use router::{Budgets, Delivery, DeliveryKind, Draft, Event, HolderId, Origin, Refusal, State};
use wire::MessageId;
use wire::message::{MessageFrame, Nack};
use world::{A, B, Pair, agent};

const ADDRESS: [&str; 2] = ["planner@gw-a", "coder@gw-b"];

#[test]
fn two_agents_that_answer_everything_stop_after_twelve_messages_and_say_why() {
    for says in [true, false] {
        let mut pair = Pair::new();
        let first = pair.tell("ping");
        let mut sent = 1;
        let mut side = B;

        let refusal = loop {
            pair.pass(Duration::from_secs(3));
            let shown = pair.receive(side, 1).remove(0);
            let origin = match says {
                true => Origin::Message(shown.id),
                false => Origin::Unsaid,
            };
            match answer(&mut pair, side, origin) {
                Ok(_) => sent += 1,
                Err(refusal) => break refusal,
            }
            pair.ack(side, shown.id).expect("shown");
            side = 1 - side;
            assert!(sent < 50, "it never ends");
        };

        pair.think(side);
        assert_eq!(sent, 12);
        let text = refusal.to_string();
        assert_eq!(refusal.code(), "loop");
        for named in [ADDRESS[0], ADDRESS[1], &first.to_string(), "12"] {
            assert!(text.contains(named), "{named}: {text}");
        }
        assert_eq!(pair.sides[side].router.stats().counters.loops, 1);
        let looped = |event: &Event| matches!(event, Event::Looped { root, depth: 12, .. } if *root == first);
        assert!(pair.sides[side].events.iter().any(looped));
    }
}

#[test]
fn both_sides_hear_of_a_loop_once() {
    let mut pair = Pair::new();
    pair.sides[B].router.set_budgets(Budgets {
        bounces: 1,
        ..Budgets::default()
    });
    let first = pair.tell("ping");
    let shown = pair.receive(B, 1).remove(0);
    pair.ack(B, shown.id).expect("shown");

    for _ in 0..3 {
        answer(&mut pair, B, Origin::Message(shown.id)).expect_err("a loop");
        pair.settle();
    }

    let heard = pair.receive(A, 10);
    assert_eq!(heard.len(), 1);
    let DeliveryKind::Failure { of, error } = &heard[0].kind else {
        panic!("a notice: {heard:?}");
    };
    assert_eq!((*of, &*error.code), (first, "loop"));
    assert_eq!(pair.state(first), State::Done, "it was done all the same");
}

#[test]
fn who_answers_the_notice_of_a_loop_is_still_in_it() {
    let mut pair = Pair::new();
    pair.sides[B].router.set_budgets(Budgets {
        bounces: 1,
        ..Budgets::default()
    });
    let first = pair.tell("ping");
    let shown = pair.receive(B, 1).remove(0);
    answer(&mut pair, B, Origin::Message(shown.id)).expect_err("a loop");
    pair.settle();
    let notice = pair.receive(A, 10).remove(0);
    assert_eq!((notice.cause.root, notice.cause.bounces), (first, 1));
    pair.ack(A, notice.id).expect("shown");
    pair.settle();

    answer(&mut pair, A, Origin::Message(notice.id)).expect("within the bound of this side");

    let next = pair.receive(B, 1);
    assert!(next.is_empty(), "and beyond that of the other");
}

#[test]
fn what_nothing_led_to_goes_back_and_forth_as_often_as_it_likes() {
    let mut pair = Pair::new();
    for n in 0..50 {
        let side = n % 2;
        pair.pass(Duration::from_secs(1));
        answer(&mut pair, side, Origin::Nothing).expect("no loop");
        for shown in pair.receive(1 - side, 10) {
            pair.ack(1 - side, shown.id).expect("shown");
        }
    }
}

#[test]
fn reports_both_ways_are_no_turns_of_a_talk() {
    let mut pair = Pair::new();
    for _ in 0..100 {
        for side in [A, B] {
            answer(&mut pair, side, Origin::Unsaid).expect("no loop");
            answer(&mut pair, side, Origin::Unsaid).expect("no loop");
        }
        for side in [A, B] {
            for shown in pair.receive(side, 10) {
                pair.ack(side, shown.id).expect("shown");
            }
        }
        pair.pass(Duration::from_millis(100));
    }
}

#[test]
fn the_answer_to_a_request_always_fits() {
    let mut pair = Pair::new();
    let id = pair.ask("ping");
    let (mut last, mut answered, mut side) = (id, 0, B);
    // Each answers, and asks back because of what it heard.
    loop {
        let shown = pair.receive(side, 10);
        let request = shown.iter().find(|it| it.kind == DeliveryKind::Request);
        assert_eq!(request.map(|it| it.id), Some(last));
        let agent = pair.sides[side].agents[0].clone();
        let reply = router::Answer {
            id: pair.fresh_id(),
            content_type: "text/plain".into(),
            body: "pong".into(),
        };
        let now = pair.now;
        let router = &mut pair.sides[side].router;
        router.reply(&agent, last, reply, now).expect("it fits");
        answered += 1;
        pair.settle();
        let asked = ask(&mut pair, side, Origin::Message(last));
        match asked {
            Ok(next) => last = next,
            Err(refusal) => {
                assert_eq!(refusal.code(), "loop");
                break;
            }
        }
        side = 1 - side;
    }
    // Question n has depth n, and would be message n + 2 of the two with its answer.
    assert_eq!(answered, 11);
}

#[test]
fn a_chain_through_many_agents_ends_by_its_depth() {
    let mut pair = Pair::new();
    let names = ["a1", "a2", "a3"];
    for (n, name) in names.into_iter().enumerate() {
        let life = u8::try_from(n).expect("small") + 40;
        let now = pair.now;
        pair.sides[B].router.add_agent(agent(name, life), now);
        pair.sides[B].agents.push(agent(name, life));
    }
    let mut led = pair.tell("go");
    let mut at = 0;
    let mut sent = 1;
    let refusal = loop {
        let holder = agent_of(&pair, B, at);
        show(&mut pair, B, &holder);
        let next = 1 + (at + 1) % names.len();
        let to = format!("{}@gw-b", names[next - 1]);
        let draft = Draft {
            origin: Origin::Message(led),
            ..pair.draft(&to, "go on")
        };
        led = draft.id;
        let now = pair.now;
        match pair.sides[B].router.send(&holder, draft, now) {
            Ok(_) => sent += 1,
            Err(refusal) => break refusal,
        }
        pair.settle();
        at = next;
    };
    assert_eq!(sent, 17, "one root and sixteen that followed");
    assert_eq!(refusal.code(), "loop");
}

#[test]
fn a_storm_ends_by_what_its_root_may_lead_to() {
    let mut pair = Pair::new();
    pair.tell("go");
    let shown = pair.receive(B, 1).remove(0);
    let mut sent = 0;
    let refusal = loop {
        let draft = Draft {
            origin: Origin::Message(shown.id),
            ..pair.draft("planner@gw-a", "again")
        };
        match pair.send(B, draft) {
            Ok(_) => sent += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(sent, 100);
    assert!(refusal.to_string().contains("passed this gateway"));
}

#[test]
fn a_peer_that_hides_its_part_of_a_storm_is_counted_where_it_arrives() {
    let mut pair = Pair::new();
    pair.sides[B].router.set_budgets(Budgets {
        per_root: 5,
        ..Budgets::default()
    });
    pair.tell("go");
    let root = pair.receive(B, 1).remove(0).cause.root;
    let mut refused = 0;
    for _ in 0..10 {
        pair.tell("again");
        pair.sync(A);
        pair.think(A);
        for frame in &mut pair.wire[B] {
            if let MessageFrame::Offer { envelope, .. } = frame {
                envelope.cause = wire::message::Cause {
                    root,
                    depth: 1,
                    bounces: 0,
                };
            }
        }
        pair.carry(B);
        pair.think(B);
        let no = |frame: &&MessageFrame| {
            let nack = Nack::Loop;
            matches!(frame, MessageFrame::Refused { nack: it, .. } if *it == nack)
        };
        refused += pair.wire[A].iter().filter(no).count();
        pair.settle();
    }
    assert_eq!(refused, 5);
}

#[test]
fn a_cause_that_the_agent_was_never_shown_is_refused() {
    let mut pair = Pair::new();
    let stray = pair.fresh_id();
    let refusal = answer(&mut pair, A, Origin::Message(stray)).expect_err("unknown");
    assert_eq!(refusal, Refusal::UnknownCause);
}

#[test]
fn a_conversation_comes_back_with_the_answer_also_after_the_ack() {
    let mut pair = Pair::new();
    let draft = Draft {
        expects_reply: true,
        conversation: Some("c-7".into()),
        ..pair.draft("coder@gw-b", "how many?")
    };
    let id = draft.id;
    pair.send(A, draft).expect("taken");
    let shown = pair.receive(B, 1).remove(0);
    assert_eq!(shown.conversation.as_deref(), Some("c-7"));
    pair.ack(B, id).expect("shown");
    pair.settle();
    pair.crash(B);
    pair.reply(id, "seven").expect("open");

    let heard = pair.receive(A, 1).remove(0);
    assert_eq!(heard.conversation.as_deref(), Some("c-7"));
    assert_eq!((heard.cause.root, heard.cause.depth), (id, 1));
}

#[test]
fn a_conversation_of_other_letters_is_refused_on_either_side() {
    let mut pair = Pair::new();
    let draft = Draft {
        conversation: Some("no blanks".into()),
        ..pair.draft("coder@gw-b", "hello")
    };
    assert!(matches!(pair.send(A, draft), Err(Refusal::Schema(_))));

    pair.tell("hello");
    pair.sync(A);
    pair.think(A);
    if let Some(MessageFrame::Offer { envelope, .. }) = pair.wire[B].front_mut() {
        envelope.conversation = Some("a\u{1b}[2J".into());
    }
    pair.settle();
    assert!(pair.bodies(B).is_empty());
}

#[test]
fn a_message_that_is_taken_back_in_time_is_never_shown() {
    for moment in 0..4 {
        let mut pair = Pair::new();
        let id = pair.ask("do it");
        match moment {
            0 => {}            // not yet on disk
            1 => pair.sync(A), // accepted
            2 => [A, A].iter().for_each(|side| {
                // offered
                pair.sync(*side);
                pair.think(*side);
            }),
            _ => pair.settle(), // stored there
        }
        let instance = pair.sides[A].agents[0].instance;
        let now = pair.now;
        let router = &mut pair.sides[A].router;
        router.cancel(instance, id, now).expect("known");
        pair.settle();

        let status = pair.status(id);
        assert_eq!(status.state, State::Failed, "moment {moment}");
        assert_eq!(status.error.map(|it| it.code), Some("cancelled".into()));
        assert!(pair.bodies(B).is_empty(), "moment {moment}");
        assert!(pair.bodies(A).is_empty(), "no news to who did it");
        assert!(pair.dead(A).is_empty() && pair.dead(B).is_empty());
        pair.tell("next");
        assert_eq!(pair.bodies(B), ["next"], "moment {moment}");
    }
}

#[test]
fn whoever_works_on_what_is_taken_back_hears_of_it_and_its_answer_counts_no_more() {
    let mut pair = Pair::new();
    let id = pair.ask("do it");
    assert_eq!(pair.bodies(B), ["do it"]);

    cancel(&mut pair, id);
    pair.settle();

    let coder = pair.sides[B].agents[0].instance;
    let heard = |event: &Event| matches!(event, Event::Cancelled { instance, key, .. } if *instance == coder && key.id == id);
    assert!(pair.sides[B].events.iter().any(heard));
    assert_eq!(pair.sides[B].router.is_cancelled(coder, id), Some(true));
    assert_eq!(pair.reply(id, "done"), Err(Refusal::Cancelled));
    let hold = Duration::from_secs(5);
    let now = pair.now;
    let beat = pair.sides[B].router.heartbeat(coder, id, hold, now);
    assert_eq!(beat, Err(Refusal::Cancelled));
    pair.pass(Duration::from_secs(120));
    assert!(pair.bodies(B).is_empty(), "it is not shown again");
}

#[test]
fn a_receiver_that_was_away_hears_later_what_was_taken_back() {
    for dies in [false, true] {
        let mut pair = Pair::new();
        let id = pair.ask("do it");
        pair.settle();
        pair.disconnect();
        cancel(&mut pair, id);
        pair.settle();
        match dies {
            true => pair.crash(A),
            false => pair.connect(),
        }
        assert!(pair.bodies(B).is_empty(), "dies: {dies}");
        pair.settle();

        // It said that it knows: it is not told again.
        pair.disconnect();
        pair.connect();
        pair.think(A);
        let cancels = |frame: &&MessageFrame| matches!(frame, MessageFrame::Cancel { .. });
        assert_eq!(pair.wire[B].iter().filter(cancels).count(), 0);
    }
}

#[test]
fn nobody_takes_back_what_another_gateway_sent() {
    let mut pair = Pair::new();
    let id = pair.ask("do it");
    pair.settle();
    let key = wire::MessageKey {
        instance: pair.sides[A].agents[0].instance,
        id,
    };
    let now = pair.now;
    let stranger = identity::NodeId([9; 16]);
    let cancel = MessageFrame::Cancel { key };
    pair.sides[B].router.handle_frame(stranger, cancel, now);

    assert_eq!(pair.bodies(B), ["do it"]);
}

#[test]
fn what_is_done_cannot_be_taken_back() {
    let mut pair = Pair::new();
    let id = pair.tell("do it");
    assert_eq!(pair.bodies(B), ["do it"]);
    pair.ack(B, id).expect("shown");
    pair.settle();

    cancel(&mut pair, id);

    assert_eq!(pair.state(id), State::Done);
}

#[test]
fn a_rejected_message_is_a_dead_letter_there_and_its_sender_hears_so() {
    let mut pair = Pair::new();
    let id = pair.ask("do it");
    assert_eq!(pair.bodies(B), ["do it"]);
    let coder = pair.sides[B].agents[0].instance;
    let now = pair.now;
    let router = &mut pair.sides[B].router;
    router
        .reject(coder, id, Some("not mine"), now)
        .expect("shown");
    pair.settle();

    let status = pair.status(id);
    assert_eq!(status.state, State::Failed);
    let error = status.error.expect("why");
    assert_eq!(&*error.code, "rejected");
    assert!(
        !error.reason.contains("not mine"),
        "words never come from afar"
    );
    assert_eq!(pair.dead(B), ["rejected"]);
    pair.pass(Duration::from_secs(120));
    assert!(pair.bodies(B).is_empty());
    let heard = pair.receive(A, 1).remove(0);
    assert!(matches!(heard.kind, DeliveryKind::Failure { of, .. } if of == id));
}

/// The first agent of a side writes to that of the other.
fn answer(pair: &mut Pair, side: usize, origin: Origin) -> Result<MessageId, Refusal> {
    let draft = Draft {
        origin,
        ..pair.draft(ADDRESS[1 - side], "pong")
    };
    let id = draft.id;
    pair.send(side, draft).map(|_| id)
}

fn ask(pair: &mut Pair, side: usize, origin: Origin) -> Result<MessageId, Refusal> {
    let draft = Draft {
        origin,
        expects_reply: true,
        ..pair.draft(ADDRESS[1 - side], "ping")
    };
    let id = draft.id;
    pair.send(side, draft).map(|_| id)
}

fn cancel(pair: &mut Pair, id: MessageId) {
    let instance = pair.sides[A].agents[0].instance;
    let now = pair.now;
    let router = &mut pair.sides[A].router;
    router.cancel(instance, id, now).expect("known");
}

fn agent_of(pair: &Pair, side: usize, n: usize) -> router::Agent {
    pair.sides[side].agents[n].clone()
}

/// Shows all that waits to an agent.
fn show(pair: &mut Pair, side: usize, to: &router::Agent) -> Vec<Delivery> {
    pair.settle();
    let holder = HolderId(u64::from(to.instance.0[0]) << 32);
    let now = pair.now;
    let router = &mut pair.sides[side].router;
    router
        .demand(holder, to.instance, 10, None, now)
        .expect("an agent");
    pair.settle();
    std::mem::take(&mut pair.sides[side].shown)
}
