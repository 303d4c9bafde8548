//! Letters that wait behind others wait on disk alone, and nobody can tell: by the order, the
//! bounds, what is known again, and how each of them ends.

#[path = "pair/world.rs"]
#[allow(dead_code, reason = "shared with the story of a message")]
mod world;

use std::time::Duration;

use router::{
    Accept, Answer, Draft, Event, HolderId, InboxRow, Origin, Refusal, Row, State, Table,
};
use wire::MessageId;
use wire::message::{MessageFrame, Nack, Stage};
use world::{A, B, CLOSED, Killed, OPEN, Pair, id_of, killing, rules};

const SECOND: Duration = Duration::from_secs(1);

/// `coder@gw-b` keeps three of its letters in memory, and has so many of `planner@gw-a`.
fn filled(letters: usize) -> (Pair, Vec<MessageId>) {
    let mut pair = Pair::keeping(3);
    let ids = (0..letters).map(|n| pair.tell(&n.to_string())).collect();
    pair.settle();
    (pair, ids)
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

/// Which of these are away; then they are asked for.
fn away(pair: &mut Pair, ids: &[MessageId]) -> Vec<MessageId> {
    let owner = pair.sides[B].agents[0].instance;
    let router = &mut pair.sides[B].router;
    let away = ids.iter().filter(|id| router.is_away(owner, **id));
    away.copied().collect()
}

#[test]
fn the_first_letters_stay_in_memory_and_the_rest_is_read_in_its_turn() {
    let (mut pair, ids) = filled(10);

    let far = away(&mut pair, &ids);
    assert_eq!(far, ids[3..], "in memory are the first three");
    let loads = |pair: &Pair| pair.sides[B].loads.len();
    assert_eq!(loads(&pair), 0);
    assert_eq!(pair.bodies(B), numbers(0, 10));
    for id in &ids {
        pair.ack(B, *id).expect("shown");
    }
    pair.settle();
    assert!(ids.iter().all(|id| pair.state(*id) == State::Done));
    assert_eq!(pair.sides[B].router.stats().inbox_bytes, 0);
}

#[test]
fn the_same_is_so_after_a_restart() {
    let mut pair = Pair::new();
    let ids: Vec<_> = (0..200).map(|n| pair.tell(&n.to_string())).collect();
    pair.settle();
    pair.crash(B);

    assert_eq!(away(&mut pair, &ids), ids[router::limits::KEEP..]);
    pair.crash(B);
    assert_eq!(pair.sides[B].router.stats().inbox_rows, 200);
    assert_eq!(pair.bodies(B), numbers(0, 200));
}

#[test]
fn only_what_waits_for_nobody_goes_away() {
    let mut pair = Pair::keeping(0);
    let owner = pair.sides[B].agents[0].instance;
    let now = pair.now;
    pair.sides[B]
        .router
        .demand(HolderId(9), owner, 2, None, now)
        .expect("an agent");
    let ids: Vec<_> = (0..3).map(|n| pair.tell(&n.to_string())).collect();
    pair.settle();

    assert_eq!(pair.sides[B].most_loads, 0, "two were wanted as they came");
    assert_eq!(pair.sides[B].shown.len(), 2);
    assert_eq!(away(&mut pair, &ids), ids[2..]);
}

#[test]
fn what_was_shown_stays_in_memory_with_its_tries() {
    let mut pair = Pair::keeping(1);
    let ids: Vec<_> = (0..5).map(|n| pair.tell(&n.to_string())).collect();
    assert_eq!(pair.receive(B, 10).len(), 5);
    let owner = pair.sides[B].agents[0].instance;
    let now = pair.now;
    for id in &ids {
        let given = pair.sides[B].router.give_back(owner, *id, now);
        given.expect("held");
    }
    let more = [pair.tell("5"), pair.tell("6")];
    pair.settle();
    pair.sides[B].router.set_keep(0);

    assert!(away(&mut pair, &ids).is_empty());
    assert_eq!(away(&mut pair, &more), more);
    assert!(pair.receive(B, 5).iter().all(|it| it.attempt == 2));
}

#[test]
fn replies_and_notices_stay_in_memory() {
    let mut pair = Pair::keeping(0);
    let asked: Vec<_> = (0..3).map(|n| pair.ask(&n.to_string())).collect();
    let dead = pair.draft("nobody@gw-b", "?");
    pair.send(A, dead).expect("taken");
    assert_eq!(pair.bodies(B), numbers(0, 3));
    for id in &asked {
        pair.reply(*id, "yes").expect("open");
    }
    pair.settle();

    assert_eq!(pair.receive(A, 10).len(), 4);
    assert_eq!(pair.sides[A].most_loads, 0);
    assert!(pair.sides[B].most_loads > 0);
}

#[test]
fn a_reader_that_comes_while_the_disk_is_slow_gets_everything_in_order() {
    let (mut pair, _) = filled(12);
    let owner = pair.sides[B].agents[0].instance;
    pair.sides[B].reads_are_late = true;
    let now = pair.now;
    let holder = HolderId(9);
    pair.sides[B]
        .router
        .demand(holder, owner, 100, None, now)
        .expect("an agent");
    pair.think(B);
    assert_eq!(pair.sides[B].shown.len(), 3);
    assert!(pair.sides[B].router.is_loading_for(holder));

    // The second of those that were asked for comes first, and more arrives meanwhile.
    pair.sides[B].loads.rotate_left(1);
    pair.read(B, 1);
    pair.think(B);
    assert_eq!(
        pair.sides[B].shown.len(),
        3,
        "the one before it is not here"
    );
    pair.tell("12");
    pair.settle();
    pair.sides[B].reads_are_late = false;
    pair.settle();

    assert!(!pair.sides[B].router.is_loading_for(holder));
    let shown = pair.sides[B].shown.iter();
    let shown: Vec<_> = shown.map(|it| String::from_utf8_lossy(&it.body)).collect();
    assert_eq!(shown, numbers(0, 13));
}

#[test]
fn few_are_read_at_once_however_many_end() {
    let mut pair = Pair::keeping(0);
    let ids: Vec<_> = (0..240).map(|n| pair.tell(&n.to_string())).collect();
    pair.settle();

    pair.set_rules(B, rules(Some(CLOSED), &[]));
    pair.settle();

    assert_eq!(pair.sides[B].most_loads, router::limits::LOADS_ROWS);
    assert_eq!(pair.dead(B).len(), 240);
    assert!(ids.iter().all(|id| pair.state(*id) == State::Denied));
}

#[test]
fn of_large_letters_fewer_are_read_at_once() {
    let mut pair = Pair::keeping(0);
    let body = "x".repeat(wire::message::MAX_BODY);
    for _ in 0..50 {
        pair.tell(&body);
    }
    pair.settle();
    let most = router::limits::LOADS_BYTES / body.len();
    assert!(most < 50);

    pair.set_rules(B, rules(Some(CLOSED), &[]));
    pair.settle();

    assert_eq!(pair.dead(B).len(), 50);
    assert_eq!(pair.sides[B].most_loads, most);
}

#[test]
fn an_id_is_known_and_a_bound_counts_also_where_the_letter_is_away() {
    let (mut pair, ids) = filled(1);
    for n in 1..260 {
        pair.tell(&n.to_string());
    }
    pair.settle();
    let stats = pair.sides[B].router.stats();
    assert_eq!(stats.inbox_rows, 250, "a quarter of the inbox");
    assert_eq!(
        stats.inbox_bytes,
        stats.inbox_rows * 256 + 10 + 90 * 2 + 150 * 3
    );

    // Word that it is stored was lost: it is offered again.
    let row = pair.sides[B].disk.values().find_map(|row| match row {
        Row::Inbox(InboxRow::Waiting(letter)) if &*letter.body == b"200" => Some(letter.clone()),
        _ => None,
    });
    let row = row.expect("stored");
    assert_ne!(row.key.id, ids[0]);
    let offer = |body: &[u8]| MessageFrame::Offer {
        envelope: wire::Envelope {
            id: row.key.id,
            kind: wire::message::Kind::Message,
            from: row.from.agent.clone(),
            to: row.owner.name.clone(),
            instance: row.key.instance,
            epoch: row.epoch,
            sequence: row.sequence,
            created_at_ms: row.created_at_ms,
            ttl_ms: row.ttl_ms,
            hops_left: 8,
            cause: row.cause,
            conversation: None,
            content_type: row.content_type.clone(),
            body: body.to_vec().into(),
        },
        after: 0,
    };
    for (body, said) in [
        (&b"200"[..], MessageFrame::Stored { key: row.key }),
        (
            b"201",
            MessageFrame::Refused {
                key: row.key,
                nack: Nack::Conflict,
            },
        ),
    ] {
        pair.wire[A].clear();
        let now = pair.now;
        pair.sides[B]
            .router
            .handle_frame(id_of(A), offer(body), now);
        pair.think(B);
        assert_eq!(pair.wire[A], [said]);
    }
}

#[test]
fn what_expires_while_it_is_away_is_a_dead_letter_and_told() {
    let mut pair = Pair::keeping(1);
    for n in 0..6 {
        let draft = Draft {
            ttl: SECOND * 60,
            ..pair.draft("coder@gw-b", &n.to_string())
        };
        pair.send(A, draft).expect("taken");
    }
    pair.settle();
    pair.sides[B].reads_are_late = true;
    pair.pass(SECOND * 61);
    assert_eq!(pair.dead(B).len(), 1, "the others have yet to be read");
    assert_eq!(
        pair.bodies(B),
        numbers(0, 0),
        "nobody is shown what has expired"
    );
    // For longer than it would be known again.
    pair.pass(SECOND * 1200);

    pair.sides[B].reads_are_late = false;
    pair.settle();

    assert_eq!(pair.dead(B), ["expired"; 6]);
    pair.pass(SECOND * 3600);
    assert!(waiting(&pair).is_empty());
    assert_eq!(pair.sides[B].router.stats().inbox_rows, 0);
}

#[test]
fn what_its_sender_takes_back_while_it_is_away_is_never_shown() {
    let (mut pair, ids) = filled(6);
    let planner = pair.sides[A].agents[0].instance;
    pair.sides[B].reads_are_late = true;
    let now = pair.now;
    pair.sides[A]
        .router
        .cancel(planner, ids[4], now)
        .expect("sent");
    pair.settle();
    assert_eq!(pair.wire[A].len(), 0);
    // It may also end for another reason before it is here.
    pair.sides[A]
        .router
        .cancel(planner, ids[5], now)
        .expect("sent");
    pair.settle();
    pair.set_rules(B, rules(Some(CLOSED), &[]));
    pair.set_rules(B, rules(Some(OPEN), &[]));
    pair.sides[B].reads_are_late = false;

    assert_eq!(pair.bodies(B), numbers(0, 0));
    assert_eq!(pair.sides[B].router.stats().counters.cancelled, 2);
    assert_eq!(
        pair.dead(B),
        ["denied"; 4],
        "what was taken back is no loss"
    );
}

#[test]
fn the_rest_is_served_past_what_was_taken_back() {
    let (mut pair, ids) = filled(8);
    let planner = pair.sides[A].agents[0].instance;
    pair.sides[B].reads_are_late = true;
    let now = pair.now;
    pair.sides[A]
        .router
        .cancel(planner, ids[3], now)
        .expect("sent");
    pair.settle();
    // The disk has not answered for it, and for those behind it has.
    let owner = pair.sides[B].agents[0].instance;
    pair.sides[B]
        .router
        .demand(HolderId(9), owner, 100, None, now)
        .expect("an agent");
    pair.think(B);
    pair.sides[B].loads.rotate_left(1);
    let answered = pair.sides[B].loads.len() - 1;
    pair.read(B, answered);
    pair.settle();

    let seen: Vec<_> = pair.sides[B].shown.iter().map(|it| it.id).collect();
    assert_eq!(seen[..3], ids[..3]);
    assert_eq!(seen[3..], ids[4..][..seen.len() - 3]);
    assert!(seen.len() > 3);
}

#[test]
fn a_policy_that_takes_it_away_ends_what_is_away() {
    for late in [true, false] {
        let (mut pair, ids) = filled(6);
        pair.sides[B].reads_are_late = late;
        pair.set_rules(B, rules(Some(CLOSED), &[]));
        pair.settle();
        // What was to end ends, also where the operator thinks again before it is read.
        pair.set_rules(B, rules(Some(OPEN), &[]));
        pair.sides[B].reads_are_late = false;

        assert_eq!(pair.bodies(B), numbers(0, 0));
        assert_eq!(pair.dead(B), ["denied"; 6]);
        assert!(ids.iter().all(|id| pair.state(*id) == State::Denied));
    }
}

#[test]
fn a_kill_ends_what_is_away_and_a_policy_that_allows_it_reads_nothing() {
    let (mut pair, ids) = filled(6);
    pair.set_rules(B, rules(Some(OPEN), &[]));
    pair.settle();
    assert_eq!(pair.sides[B].most_loads, 0, "the stub says enough");

    pair.set_rules(B, killing(Killed::Agent(A, "planner")));
    pair.settle();

    assert_eq!(pair.dead(B), ["blocked"; 6]);
    assert!(ids.iter().all(|id| pair.state(*id).is_final()));
    assert!(waiting(&pair).is_empty());
}

#[test]
fn a_kill_just_before_a_crash_counts_after_it() {
    let (mut pair, _) = filled(6);
    pair.sides[B].reads_are_late = true;
    pair.set_rules(B, killing(Killed::Agent(A, "planner")));
    pair.think(B);
    pair.restart_under(B, killing(Killed::Agent(A, "planner")));
    pair.sides[B].reads_are_late = false;

    assert_eq!(pair.bodies(B), numbers(0, 0));
    pair.settle();
    assert_eq!(pair.dead(B), ["blocked"; 6]);
}

#[test]
fn without_a_policy_nothing_is_read_and_nothing_is_lost() {
    let (mut pair, _) = filled(6);
    pair.restart_under(B, rules(None, &[]));

    assert_eq!(pair.bodies(B), numbers(0, 0));
    assert_eq!(pair.sides[B].most_loads, 0);
    pair.set_rules(B, rules(Some(OPEN), &[]));

    assert_eq!(pair.bodies(B), numbers(0, 6));
}

#[test]
fn an_agent_that_is_removed_leaves_dead_letters_of_what_is_away_too() {
    for crashes in [false, true] {
        let (mut pair, ids) = filled(6);
        pair.sides[B].reads_are_late = true;
        let gone = pair.sides[B].agents[0].instance;
        let now = pair.now;
        pair.sides[B].router.remove_agent(gone, now);
        pair.settle();
        if crashes {
            pair.sides[B].agents = vec![world::agent("coder", 9)];
            pair.crash(B);
        }
        pair.sides[B].reads_are_late = false;
        pair.settle();

        assert_eq!(pair.dead(B), ["agent_removed"; 6]);
        let states: Vec<_> = ids.iter().map(|id| pair.state(*id)).collect();
        // Whoever was told by a gateway that had just started was not there to hear it.
        let told = if crashes { 3 } else { 6 };
        assert_eq!(states[..told], [State::Failed; 6][..told]);
        assert_eq!(pair.sides[B].router.stats().inbox_rows, 0);
    }
}

#[test]
fn a_damaged_row_is_told_to_its_sender_and_harms_nothing_else() {
    let (mut pair, ids) = filled(8);
    let rows = pair.sides[B]
        .disk
        .keys()
        .filter(|(table, _)| *table == Table::Inbox);
    let rows: Vec<_> = rows.map(|(_, row)| *row).collect();
    pair.sides[B].damaged.extend([rows[4], rows[7]]);

    let mut left = numbers(0, 8);
    left.retain(|it| it != "4" && it != "7");
    assert_eq!(pair.bodies(B), left);
    assert_eq!(pair.state(ids[4]), State::Failed);
    let stats = pair.sides[B].router.stats();
    assert_eq!((stats.inbox_rows, stats.counters.unreadable), (6, 2));
    let told = |event: &&Event| matches!(event, Event::DeadLetter { key, .. } if key.id == ids[7]);
    assert_eq!(pair.sides[B].events.iter().filter(told).count(), 1);
    // The order of its pair goes on.
    pair.tell("8");
    assert_eq!(pair.bodies(B), ["8"]);
    assert_eq!(pair.ack(B, ids[4]), Err(Refusal::NotFound));
}

#[test]
fn a_pair_whose_letters_are_all_lost_is_forgotten() {
    let mut pair = Pair::keeping(0);
    let ids = [pair.tell("0"), pair.tell("1")];
    pair.settle();
    let rows = pair.sides[B]
        .disk
        .keys()
        .filter(|(table, _)| *table == Table::Inbox);
    let rows: Vec<_> = rows.map(|(_, row)| *row).collect();
    pair.sides[B].damaged.extend(rows);

    assert_eq!(pair.bodies(B), numbers(0, 0));
    assert!(ids.iter().all(|id| pair.state(*id) == State::Failed));
    let next = pair.tell("2");
    pair.pass(SECOND * 30);
    assert_eq!(pair.bodies(B), ["2"]);
    assert_eq!(pair.state(next), State::Delivered);
}

#[test]
fn an_agent_may_name_what_it_was_shown_before_a_restart_and_is_away_now() {
    let mut pair = Pair::keeping(1);
    let asked: Vec<_> = (0..6).map(|n| pair.ask(&n.to_string())).collect();
    let shown = pair.receive(B, 10);
    assert_eq!(shown.len(), 6);
    pair.crash(B);
    let owner = pair.sides[B].agents[0].clone();
    let now = pair.now;
    let router = &mut pair.sides[B].router;
    // A shell that does not ask first hears that it is not here; a hold ended with the restart.
    assert_eq!(
        router.ack(owner.instance, asked[5], now),
        Err(Refusal::NotFound)
    );
    let beat = router.heartbeat(owner.instance, asked[5], SECOND, now);
    assert_eq!(beat, Err(Refusal::NotFound));
    assert_eq!(router.is_cancelled(owner.instance, asked[5]), Some(false));

    pair.reply(asked[3], "yes").expect("open");
    pair.ack(B, asked[4]).expect("known").expect("not settled");
    pair.fetch(B, asked[5]);
    let led = Draft {
        origin: Origin::Message(asked[5]),
        ..pair.draft("planner@gw-a", "led")
    };
    assert!(matches!(pair.send(B, led), Ok(Accept::Storing(_))));
    pair.fetch(B, asked[2]);
    let rejected = pair.sides[B]
        .router
        .reject(owner.instance, asked[2], None, now);
    rejected.expect("known");

    // What was here and then named is shown again like the rest, in its order, not as the first time.
    let again = pair.receive(B, 10);
    let ids: Vec<_> = again.iter().map(|it| it.id).collect();
    assert_eq!(ids, [asked[0], asked[1], asked[5]]);
    assert!(again.iter().all(|it| it.attempt == 2));
    assert_eq!(pair.state(asked[3]), State::Done);
    assert_eq!(
        pair.status(asked[2]).error.expect("why").code,
        "rejected".into()
    );
}

#[test]
fn what_failed_reaches_nobody_twice_when_the_disk_is_full_meanwhile() {
    let (mut pair, ids) = filled(6);
    let now = pair.now;
    pair.fetch(B, ids[5]);
    let owner = pair.sides[B].agents[0].clone();
    pair.sides[B].disk_is_full = true;
    pair.sides[B]
        .router
        .ack(owner.instance, ids[5], now)
        .expect("known");
    pair.sync(B);
    pair.sides[B].disk_is_full = false;

    pair.pass(SECOND * 31);
    assert_eq!(pair.bodies(B), numbers(0, 6));
}

#[test]
fn what_nobody_asked_for_is_no_letter() {
    let (mut pair, _) = filled(6);
    let rows = pair.sides[B]
        .disk
        .iter()
        .filter(|((table, _), _)| *table == Table::Inbox);
    let rows: Vec<_> = rows.map(|((_, id), row)| (*id, row.clone())).collect();
    let now = pair.now;
    for (id, row) in rows.iter().rev().chain(&rows) {
        pair.sides[B]
            .router
            .handle_loaded(*id, Some(row.clone()), now);
        pair.sides[B].router.handle_loaded(*id, None, now);
    }
    // An answer with another row than the one that was asked for is as good as a damaged one.
    pair.sides[B].reads_are_late = true;
    let owner = pair.sides[B].agents[0].instance;
    pair.sides[B]
        .router
        .demand(HolderId(9), owner, 100, None, now)
        .expect("an agent");
    pair.think(B);
    let asked = pair.sides[B].loads.pop_front().expect("the fourth");
    let wrong = rows[0].1.clone();
    pair.sides[B].router.handle_loaded(asked, Some(wrong), now);
    pair.sides[B].reads_are_late = false;
    pair.settle();

    let seen = pair.sides[B].shown.iter();
    let seen: Vec<_> = seen.map(|it| String::from_utf8_lossy(&it.body)).collect();
    assert_eq!(seen, ["0", "1", "2", "4", "5"]);
    assert!(pair.wire[A].iter().all(|frame| !matches!(
        frame,
        MessageFrame::Progress {
            stage: Stage::Done,
            ..
        }
    )));
}

#[test]
fn a_reply_to_what_is_away_is_refused_without_harm() {
    let mut pair = Pair::keeping(0);
    let id = pair.ask("?");
    pair.settle();
    let answer = Answer {
        id: pair.fresh_id(),
        content_type: "text/plain".into(),
        body: "!".into(),
    };
    let coder = pair.sides[B].agents[0].clone();
    let now = pair.now;
    let refused = pair.sides[B].router.reply(&coder, id, answer, now);

    assert_eq!(refused, Err(Refusal::NotFound));
    assert_eq!(pair.bodies(B), ["?"]);
    pair.reply(id, "!").expect("open");
}

/// The bodies of what waits on B's disk.
fn waiting(pair: &Pair) -> Vec<String> {
    let rows = pair.sides[B].disk.values().filter_map(|row| match row {
        Row::Inbox(InboxRow::Waiting(letter)) => {
            Some(String::from_utf8_lossy(&letter.body).into_owned())
        }
        _ => None,
    });
    rows.collect()
}
