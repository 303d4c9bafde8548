//! Nothing that was accepted is lost, nothing comes again after its ack, and the order holds,
//! while one gateway is killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netns_tests::agent::message_id;
use netns_tests::{AgentClient, Lab, Mesh, OPEN_POLICY};

use crate::Test;

pub const TESTS: &[Test] = &[(
    "ten_thousand_messages_both_ways_survive_five_kills_and_none_comes_again_after_its_ack",
    ten_thousand_messages_survive_five_kills,
)];

fn ten_thousand_messages_survive_five_kills() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let a = mesh.gateway("gw-a", &lab.public_host());
    let mut b = mesh.gateway("gw-b", &lab.public_host());
    let (left, right) = (a.agent_client("left"), b.agent_client("right"));
    a.wait_to_know("gw-b");
    b.wait_to_know("gw-a");

    let (to_right, to_left) = (Lane::new("right@gw-b"), Lane::new("left@gw-a"));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let (left, right): (Connect<'_>, Connect<'_>) = (&left, &right);
        let lanes = [(&to_right, left, right), (&to_left, right, left)];
        let mut workers = Vec::new();
        for (lane, sender, receiver) in lanes {
            for number in 0..SENDERS {
                workers.push(scope.spawn(move || lane.send_all(number, sender())));
            }
            workers.push(scope.spawn(move || lane.receive_all(receiver())));
        }
        // Whatever fails ends all of them, and the scope can be left.
        let watch = || {
            let stuck = start.elapsed() > WITHIN;
            if stuck
                || workers.iter().any(|worker| worker.is_finished())
                    && [&to_right, &to_left].iter().any(|lane| lane.broken())
            {
                to_right.give_up();
                to_left.give_up();
                panic!(
                    "after {:?}: {} and {}",
                    start.elapsed(),
                    to_right.progress(),
                    to_left.progress()
                );
            }
        };
        for kill in 1..=KILLS {
            while to_right.arrived() + to_left.arrived() < kill * 2 * EACH_WAY / (KILLS + 1) {
                watch();
                std::thread::sleep(Duration::from_millis(10));
            }
            b.kill();
            b.start();
        }
        while !workers.iter().all(|worker| worker.is_finished()) {
            watch();
            std::thread::sleep(Duration::from_millis(10));
        }
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    eprintln!(
        "{} messages and {KILLS} kills in {:?}; {} and {}",
        2 * EACH_WAY,
        start.elapsed(),
        to_right.progress(),
        to_left.progress()
    );
    to_right.check();
    to_left.check();
}

/// Another connection of one agent.
type Connect<'a> = &'a (dyn Fn() -> AgentClient + Sync);

/// One direction: what was accepted, what arrived.
struct Lane {
    to: &'static str,
    accepted: Mutex<BTreeSet<String>>,
    seen: Mutex<Seen>,
    count: AtomicUsize,
    over: AtomicBool,
    failed: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// Settled by an ack that was answered: never to be seen again.
    acked: BTreeSet<String>,
    /// Those too whose ack broke off and was done already when it was made again.
    settled: BTreeSet<String>,
    bodies: BTreeMap<String, String>,
    /// The last number of each sender.
    last: BTreeMap<usize, usize>,
    again: usize,
}

impl Lane {
    fn new(to: &'static str) -> Self {
        Self {
            to,
            accepted: Mutex::default(),
            seen: Mutex::default(),
            count: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// Sends one sender's share, one after the other; a call that broke off is made again, with
    /// the same id, and so is one that was told to wait.
    fn send_all(&self, sender: usize, mut client: AgentClient) {
        let guard = Guard(&self.failed);
        for number in 0..EACH_WAY / SENDERS {
            let id = message_id();
            let body = format!("{sender}:{number}");
            while !self.over.load(Ordering::Relaxed) {
                match client.send(self.to, &id, &body) {
                    Ok((200, _)) => {
                        self.accepted
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(id);
                        break;
                    }
                    // Full, or the node only starts: told so, not lost.
                    Ok((429 | 503 | 507 | 409, _)) | Err(_) => {
                        std::thread::sleep(Duration::from_millis(20))
                    }
                    Ok((status, answer)) => {
                        // A gateway that has only started may not know the other yet.
                        let code = answer["error"]["code"]
                            .as_str()
                            .unwrap_or_default()
                            .to_owned();
                        assert!(
                            code == "unknown_gateway" || code == "no_policy",
                            "{status}: {answer}"
                        );
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        }
        guard.done();
    }

    fn receive_all(&self, mut client: AgentClient) {
        let guard = Guard(&self.failed);
        while self.arrived() < EACH_WAY && !self.over.load(Ordering::Relaxed) {
            let Ok(messages) = client.receive(1) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            if messages.is_empty() {
                continue;
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for message in &messages {
                seen.show(message);
            }
            let ids: Vec<String> = messages.iter().map(|message| text(message, "id")).collect();
            self.settle(&mut client, &ids, &mut seen);
            self.count.store(seen.settled.len(), Ordering::Relaxed);
        }
        // What might still come again: nothing may.
        let messages = client.receive(1).unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().for_each(|message| seen.show(message));
        guard.done();
    }

    /// Acks, again until the node answers: it may have been killed before or after the fsync.
    fn settle(&self, client: &mut AgentClient, ids: &[String], seen: &mut Seen) {
        while !self.over.load(Ordering::Relaxed) {
            if let Ok((done, gone)) = client.ack(ids) {
                seen.settled.extend(done.iter().cloned().chain(gone));
                seen.acked.extend(done);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self) {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lost: Vec<&String> = accepted.difference(&seen.settled).collect();
        assert!(
            lost.is_empty(),
            "{} accepted and not arrived at {}: {lost:?}",
            lost.len(),
            self.to
        );
        assert_eq!(accepted.len(), EACH_WAY, "to {}", self.to);
        assert_eq!(seen.bodies.len(), EACH_WAY, "to {}", self.to);
    }

    fn arrived(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn broken(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn progress(&self) -> String {
        let accepted = self
            .accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        let again = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .again;
        format!(
            "to {} {accepted} accepted, {} acked, {again} shown again before their ack",
            self.to,
            self.arrived()
        )
    }
}

impl Seen {
    fn show(&mut self, message: &serde_json::Value) {
        let (id, body) = (text(message, "id"), text(message, "body"));
        assert_eq!(message["kind"], "message", "{message}");
        assert!(
            !self.acked.contains(&id),
            "{id} came again after its ack: {message}"
        );
        let Some(before) = self.bodies.insert(id, body.clone()) else {
            let (sender, number) = body.split_once(':').expect("as sent");
            let (sender, number): (usize, usize) = (
                sender.parse().expect("a number"),
                number.parse().expect("a number"),
            );
            let last = self.last.insert(sender, number);
            assert_eq!(
                number,
                last.map_or(0, |last| last + 1),
                "out of order from sender {sender}"
            );
            return;
        };
        assert_eq!(before, body);
        self.again += 1;
    }
}

/// Tells the others that this thread panicked.
struct Guard<'a>(&'a AtomicBool);

impl Guard<'_> {
    fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn text(message: &serde_json::Value, field: &str) -> String {
    message[field].as_str().unwrap_or_default().to_owned()
}

/// Twenty thousand in all.
const EACH_WAY: usize = 10_000;
const SENDERS: usize = 10;
const KILLS: usize = 5;

/// A debug build on a busy machine; it takes a fraction of this.
const WITHIN: Duration = Duration::from_secs(180);
