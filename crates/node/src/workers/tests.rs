//! A driver on a real plane and spool, with a worker that does as it is told.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::driver::{Driver, Pace};
use super::*;
use crate::agents::Agents;
use crate::messages::tests::{Gateway, Pair, answer, message, pair, request, soon};
use crate::messages::{Delivery, Followed, LocalAgent, Outcome, State, WaitFor};
use crate::state::StateDir;

#[tokio::test]
async fn a_request_is_answered_and_a_message_acked() {
    let pair = pair().await;
    let mut served = serve(&pair.b, Played::default());

    let (asked, told) = tokio::join!(
        ask(&pair, "2+2?"),
        pair.a.messages.send_and_wait(
            &pair.a.agent,
            message("by the way"),
            WaitFor::State(State::Done),
            soon()
        ),
    );

    assert_eq!(text(asked), "did 2+2?");
    assert!(matches!(told.expect("accepted").1, Outcome::Settled(it) if it.state == State::Done));
    assert_eq!(served.health.status(http()).done, 2);
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn what_may_pass_is_tried_again_with_the_same_id() {
    let pair = pair().await;
    let mut played = Played::default();
    for _ in 0..8 {
        played.will(Err(WorkError::unreachable("connection refused")));
    }
    let mut served = serve(&pair.b, played);

    let asked = ask(&pair, "there?").await;

    assert_eq!(text(asked), "did there?");
    let seen = served.seen();
    assert_eq!(seen.len(), 9, "more often than what is tried and fails");
    assert!(seen.iter().all(|job| job.id == seen[0].id));
    let attempts: Vec<u32> = seen.iter().map(|job| job.attempt).collect();
    assert_eq!(attempts, (1..=9).collect::<Vec<_>>());
    let status = served.health.status(http());
    assert_eq!((status.retried, status.why), (8, None), "well again");
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn what_never_will_be_done_is_told_to_its_sender() {
    let pair = pair().await;
    let mut played = Played::default();
    played.will(Err(WorkError::never("HTTP 422")));
    let mut served = serve(&pair.b, played);

    let refused = ask(&pair, "nonsense").await;

    assert!(
        matches!(&refused, Outcome::Settled(status)
            if status.state == State::Failed
                && status.error.as_ref().is_some_and(|error| &*error.code == "rejected")),
        "{refused:?}"
    );
    assert_eq!(served.seen().len(), 1, "worked on once");
    let status = served.health.status(http());
    assert_eq!(
        (status.given_up, status.why.as_deref()),
        (1, Some("HTTP 422"))
    );
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn what_fails_five_times_is_given_up_and_the_next_is_done() {
    let pair = pair().await;
    let mut played = Played::default();
    for _ in 0..router::limits::MAX_ATTEMPTS {
        played.will(Err(WorkError::failed("exit code 1")));
    }
    let mut served = serve(&pair.b, played);

    let (first, second) = (ask(&pair, "poison").await, ask(&pair, "bread").await);

    assert!(matches!(first, Outcome::Settled(status) if status.state == State::Failed));
    assert_eq!(text(second), "did bread");
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_sender_keeps_its_order_while_others_pass_it() {
    let pair = pair().await;
    let other = add(&pair.a, "other").await;
    // The first message fails for as long as the other sender has not been served.
    let (passed, gate) = watch::channel(false);
    let played = Played {
        concurrency: 4,
        gate: Some(("first".into(), gate)),
        ..Played::default()
    };
    let mut served = serve(&pair.b, played);

    for body in ["first", "second", "third"] {
        let sent = pair.a.messages.send(&pair.a.agent, message(body)).await;
        sent.expect("accepted");
    }
    let sent = pair.a.messages.send(&other, message("aside")).await;
    sent.expect("accepted");
    served.wait_done("aside").await;
    passed.send_replace(true);
    served.wait_done("third").await;

    let done = served.done();
    assert_eq!(done, ["aside", "first", "second", "third"]);
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn what_waits_for_the_worker_waits_no_longer_once_it_does_something() {
    let pair = pair().await;
    let other = add(&pair.a, "other").await;
    let (passed, gate) = watch::channel(false);
    let played = Played {
        gate: Some(("first".into(), gate)),
        ..Played::default()
    };
    let hours = Duration::from_secs(3600);
    let slow = Pace {
        first: hours,
        most: hours,
        ..QUICK
    };
    let mut served = serve_at(&pair.b, played, slow);
    let sent = pair.a.messages.send(&pair.a.agent, message("first")).await;
    sent.expect("accepted");
    until(|| served.health.status(http()).retried == 1).await;

    passed.send_replace(true);
    let sent = pair.a.messages.send(&other, message("second")).await;
    sent.expect("accepted");

    served.wait_done("first").await;
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn no_more_are_worked_on_at_once_than_the_worker_says() {
    let pair = pair().await;
    let played = Played {
        concurrency: 2,
        slow: Duration::from_millis(20),
        ..Played::default()
    };
    let mut served = serve(&pair.b, played);

    for name in ["s1", "s2", "s3", "s4", "s5", "s6"] {
        let sender = add(&pair.a, name).await;
        let sent = pair.a.messages.send(&sender, message(name)).await;
        sent.expect("accepted");
    }
    served.wait_done_count(6).await;

    assert_eq!(served.played.most_at_once(), 2);
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn replies_and_failures_are_handed_over_and_never_answered() {
    let pair = pair().await;
    let mut served = serve(&pair.a, Played::default());
    let sent = pair.a.messages.send(&pair.a.agent, request("2+2?")).await;
    let sent = sent.expect("accepted");

    let mut inbox = pair.b.messages.follow(&pair.b.agent).await.expect("runs");
    let asked = shown(inbox.next().await);
    let replied = pair.b.messages.reply(&pair.b.agent, asked.id, answer("4"));
    replied.await.expect("open");
    served.wait_done("4").await;
    let nobody = crate::messages::Draft {
        to: "nobody@gw-b".parse().expect("an address"),
        ..request("?")
    };
    let lost = pair.a.messages.send(&pair.a.agent, nobody).await;
    let lost = lost.expect("accepted");
    served.wait_done_count(2).await;

    let seen = served.seen();
    assert_eq!(
        (seen[0].kind, seen[0].in_reply_to),
        (Kind::Reply, Some(sent.id))
    );
    assert_eq!(
        (seen[1].kind, seen[1].in_reply_to),
        (Kind::Failure, Some(lost.id))
    );
    assert!(seen[1].error.is_some());
    assert!(seen.iter().all(|job| !job.reply_expected));
    let more = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(pair.a.rows().await, 0, "both are acked");
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn information_that_nobody_takes_is_let_go() {
    let pair = pair().await;
    let mut played = Played::default();
    played.will(Err(WorkError::never("HTTP 400")));
    let mut served = serve(&pair.a, played);
    let sent = pair.a.messages.send(&pair.a.agent, request("2+2?")).await;
    sent.expect("accepted");
    let mut inbox = pair.b.messages.follow(&pair.b.agent).await.expect("runs");
    let asked = shown(inbox.next().await);
    let replied = pair.b.messages.reply(&pair.b.agent, asked.id, answer("4"));
    replied.await.expect("open");

    until(|| served.health.status(http()).given_up == 1).await;

    while pair.a.rows().await != 0 {
        tokio::task::yield_now().await;
    }
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn what_was_being_done_when_the_node_stopped_is_done_again() {
    let pair = pair().await;
    let played = Played {
        slow: Duration::from_secs(60),
        ..Played::default()
    };
    let mut served = serve(&pair.b, played);
    let sent = pair.a.messages.send(&pair.a.agent, message("long")).await;
    sent.expect("accepted");
    until(|| !served.seen().is_empty()).await;
    served.end().await;
    assert!(served.done().is_empty());

    let pair = pair.restart().await;
    let mut served = serve(&pair.b, Played::default());
    served.wait_done("long").await;

    assert_eq!(served.seen()[0].attempt, 2);
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_worker_that_panics_costs_its_message_alone() {
    let pair = pair().await;
    let played = Played {
        panics_at: Some("mine".into()),
        ..Played::default()
    };
    let mut served = serve(&pair.b, played);

    let (first, second) = (ask(&pair, "mine").await, ask(&pair, "yours").await);

    assert!(matches!(first, Outcome::Settled(status) if status.state == State::Failed));
    assert_eq!(text(second), "did yours");
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_message_that_its_sender_takes_back_is_not_worked_on_any_longer() {
    let pair = pair().await;
    let played = Played {
        slow: Duration::from_secs(60),
        ..Played::default()
    };
    let mut served = serve(&pair.b, played);
    let mut sent = Vec::new();
    for body in ["worked on", "waits"] {
        let one = pair.a.messages.send(&pair.a.agent, request(body)).await;
        sent.push(one.expect("accepted").id);
    }
    until(|| !served.seen().is_empty()).await;

    for id in sent.iter().rev() {
        let status = pair.a.messages.cancel(&pair.a.agent, *id).await;
        assert_eq!(status.expect("stored").state, State::Failed);
    }

    until(|| served.played.cancelled.load(Ordering::Relaxed)).await;
    while pair.b.rows().await != 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.seen().len(), 1, "what waited was never begun");
    assert_eq!(served.health.status(http()).given_up, 0);
    served.end().await;
    pair.end().await;
}

#[tokio::test]
async fn a_command_that_runs_when_the_node_stops_is_killed() {
    let pair = pair().await;
    let file = pair.b.state.file("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let command = vec!["sh".to_owned(), "-c".to_owned(), script];
    let bounds = Bounds::of(None, None, 1).expect("bounds");
    let worker = Arc::new(exec::Exec::new(&command, bounds).expect("a worker"));
    let (_, stop, task) = drive(&pair.b, worker, QUICK);
    let sent = pair.a.messages.send(&pair.a.agent, message("work")).await;
    sent.expect("accepted");
    let pid = || std::fs::read_to_string(&file).ok()?.trim().parse().ok();
    until(|| pid().is_some()).await;

    stop.send_replace(true);
    task.await.expect("joined");

    exec::tests::dies(pid().expect("it had started")).await;
    pair.end().await;
}

#[tokio::test]
async fn an_expired_message_is_not_tried_for_ever() {
    let pair = pair().await;
    let mut played = Played::default();
    for _ in 0..10_000 {
        played.will(Err(WorkError::unreachable("connection refused")));
    }
    let mut served = serve(&pair.b, played);
    let short = crate::messages::Draft {
        ttl: Some(Duration::from_secs(1)),
        ..request("quick")
    };

    let asked = pair
        .a
        .messages
        .send_and_wait(&pair.a.agent, short, WaitFor::Reply, soon());
    let (_, outcome) = asked.await.expect("accepted");

    assert!(
        matches!(&outcome, Outcome::Settled(status) if status.state == State::Expired),
        "{outcome:?}"
    );
    while pair.b.rows().await != 0 {
        tokio::task::yield_now().await;
    }
    let tries = served.seen().len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(served.seen().len(), tries);
    served.end().await;
    pair.end().await;
}

/// A worker that does as it is told, and remembers.
#[derive(Default)]
struct Played {
    script: Mutex<VecDeque<Result<(), WorkError>>>,
    seen: Mutex<Vec<Job>>,
    done: Mutex<Vec<String>>,
    concurrency: usize,
    slow: Duration,
    panics_at: Option<String>,
    /// A message that is unreachable until the gate opens.
    gate: Option<(String, watch::Receiver<bool>)>,
    at_once: Mutex<(usize, usize)>,
    cancelled: AtomicBool,
}

impl Played {
    fn will(&mut self, outcome: Result<(), WorkError>) {
        self.script
            .get_mut()
            .expect("not poisoned")
            .push_back(outcome);
    }

    fn most_at_once(&self) -> usize {
        self.at_once.lock().expect("not poisoned").1
    }
}

impl Worker for Arc<Played> {
    fn work<'a>(&'a self, job: &'a Job, _: Parts, mut cancelled: Cancelled) -> Working<'a> {
        Box::pin(async move {
            self.seen.lock().expect("not poisoned").push(job.clone());
            let body = String::from_utf8(job.body.to_vec()).expect("text");
            assert_ne!(Some(&body), self.panics_at.as_ref(), "as told");
            if let Some((gated, gate)) = &self.gate
                && *gated == body
                && !*gate.borrow()
            {
                return Err(WorkError::unreachable("the gate is shut"));
            }
            {
                let mut at_once = self.at_once.lock().expect("not poisoned");
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            tokio::select! {
                () = tokio::time::sleep(self.slow) => {}
                () = cancelled.wait() => self.cancelled.store(true, Ordering::Relaxed),
            }
            self.at_once.lock().expect("not poisoned").0 -= 1;
            let next = self.script.lock().expect("not poisoned").pop_front();
            next.unwrap_or(Ok(()))?;
            self.done.lock().expect("not poisoned").push(body.clone());
            Ok(Done::text(format!("did {body}")))
        })
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }
}

/// A driver that runs.
struct Served {
    played: Arc<Played>,
    health: Arc<Health>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Served {
    fn seen(&self) -> Vec<Job> {
        self.played.seen.lock().expect("not poisoned").clone()
    }

    fn done(&self) -> Vec<String> {
        self.played.done.lock().expect("not poisoned").clone()
    }

    async fn wait_done(&self, body: &str) {
        until(|| self.done().iter().any(|done| done == body)).await;
    }

    async fn wait_done_count(&self, count: usize) {
        until(|| self.done().len() >= count).await;
        until(|| self.health.status(http()).done >= count as u64).await;
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        let task = self.task.take().expect("ended once");
        task.await.expect("joined");
    }
}

fn serve(gateway: &Gateway, played: Played) -> Served {
    serve_at(gateway, played, QUICK)
}

fn serve_at(gateway: &Gateway, played: Played, pace: Pace) -> Served {
    let played = Arc::new(played);
    let (health, stop, task) = drive(gateway, Arc::new(played.clone()), pace);
    Served {
        played,
        health,
        stop,
        task: Some(task),
    }
}

fn drive(
    gateway: &Gateway,
    worker: Arc<dyn Worker>,
    pace: Pace,
) -> (Arc<Health>, watch::Sender<bool>, JoinHandle<()>) {
    let health = Arc::new(Health::new());
    let (stop, stopped) = watch::channel(false);
    let driver = Driver {
        agent: gateway.agent.clone(),
        worker,
        messages: gateway.messages.clone(),
        agents: registry(&gateway.state),
        health: health.clone(),
        own_name: Arc::new(|| None),
        pace,
    };
    (health, stop, tokio::spawn(driver.run(stopped)))
}

impl Gateway {
    /// What waits in its inboxes, shown or not.
    async fn rows(&self) -> usize {
        self.messages.stats().await.expect("runs").router.inbox_rows
    }
}

fn registry(state: &StateDir) -> Agents {
    Agents::open(state.clone()).expect("a registry")
}

async fn add(gateway: &Gateway, name: &str) -> LocalAgent {
    let agent = LocalAgent {
        name: name.parse().expect("a name"),
        instance: crate::agents::sha256(name)[..16]
            .try_into()
            .expect("16 bytes"),
    };
    gateway.messages.add_agent(&agent).await.expect("running");
    agent
}

async fn ask(pair: &Pair, body: &str) -> Outcome {
    let asked = pair
        .a
        .messages
        .send_and_wait(&pair.a.agent, request(body), WaitFor::Reply, soon());
    asked.await.expect("accepted").1
}

fn text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Answered(reply) => String::from_utf8(reply.body.to_vec()).expect("text"),
        other => panic!("{other:?}"),
    }
}

fn shown(followed: Option<Followed>) -> Delivery {
    match followed {
        Some(Followed::Delivery(delivery)) => delivery,
        other => panic!("{other:?}"),
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn http() -> ::api::Worker {
    ::api::Worker::Http {
        url: "http://127.0.0.1:1".into(),
        timeout_s: None,
        concurrency: None,
        insecure_http: false,
    }
}

#[tokio::test]
async fn parts_go_nowhere_where_nobody_wants_them() {
    let mut parts = Parts::default();
    assert!(!parts.wanted());
    parts.put(Part::Text("a".into())).await;

    let (mut parts, mut got): (Parts, mpsc::Receiver<Part>) = Parts::channel(1);
    parts.put(Part::Text("a".into())).await;
    assert_eq!(got.recv().await, Some(Part::Text("a".into())));
    drop(got);
    parts.put(Part::Text("b".into())).await;
    assert!(!parts.wanted());
}

const QUICK: Pace = Pace {
    first: Duration::from_millis(1),
    most: Duration::from_millis(5),
    beat: Duration::from_millis(5),
};

#[test]
fn a_part_is_cut_between_characters() {
    let cut = |part: Part, most| {
        let pieces = part.pieces(most);
        let texts = pieces.iter().map(|piece| String::from_utf8_lossy(piece));
        texts.map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(cut(Part::Text("aßb€".into()), 4), ["aßb", "€"]);
    assert_eq!(cut(Part::Text("€€".into()), 4), ["€", "€"]);
    assert_eq!(
        cut(Part::Bytes(Bytes::from_static(b"abcde")), 2),
        ["ab", "cd", "e"]
    );
    assert!(cut(Part::Text(String::new()), 4).is_empty());
}
