//! Crashes, lost links and full disks: nothing accepted is lost, nothing comes after its ack.

use super::*;

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
fn a_message_that_was_shown_before_a_crash_does_not_come_as_if_for_the_first_time() {
    let mut pair = Pair::new();
    pair.tell("shown");
    assert_eq!(pair.receive(B, 1)[0].attempt, 1);

    pair.crash(B);

    assert_eq!(pair.receive(B, 1)[0].attempt, 2);
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
