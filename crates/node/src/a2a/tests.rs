//! One gateway and three of its agents: what becomes of a task, also across a restart.

use std::sync::Arc;
use std::time::Duration;

use ::api::a2a::{Content, Event, ListParams, Message, Part, ProblemKind, Role, Task, TaskState};
use bytes::Bytes;
use identity::{AgentAddress, NodeId, NodeName, Order, UnixTime};
use policy::{Document, Policy};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::live::Live;
use super::record::{Ended, Ending, Record};
use super::store::{Created, MAX_ROWS, Store};
use super::*;
use crate::messages::{
    self, Delivery, LocalAgent, Messages, MessagesConfig, Outcome, ReceiveOptions, ReplyDraft,
    fresh_id,
};
use crate::spool::{Durability, Spool};
use crate::state::StateDir;
use crate::world::{World, WorldMember, WorldPolicy};

const POLICY: &str = r#"{"grants": [
    {"src": ["agent:planner@*"], "dst": ["agent:coder@*", "agent:tester@*"], "msg": ["send", "request"]},
    {"src": ["agent:planner@*"], "dst": ["agent:coder@*"], "msg": ["stream"]},
    {"src": ["agent:tester@*"], "dst": ["agent:coder@*"], "msg": ["request"]},
]}"#;

#[tokio::test]
async fn a_message_is_a_task_and_its_answer_comes_as_the_artifact() {
    let node = Node::start(home()).await;
    let task = node.send("planner", "coder", said("m-1", "2+2?")).await;
    assert_eq!(task.task(None).status.state, TaskState::Submitted);
    let mut told = task.follow(None);
    let seen = node.receive("coder", 1).await;
    assert_eq!(
        (&*seen[0].body, &*seen[0].content_type),
        (&b"2+2?"[..], "text/plain; charset=utf-8")
    );
    assert_eq!(seen[0].conversation.as_deref(), Some("talk:1"));
    let working = all_until(&mut told, |event| {
        state_of(event) == Some(TaskState::Working)
    })
    .await;
    assert!(matches!(&working[0], Event::Task(task) if task.context == "talk:1"));
    node.reply("coder", &seen[0], "text/plain", b"4").await;

    let rest = all_until(&mut told, |_| false).await;
    let [
        Event::Artifact {
            artifact,
            last: true,
            append: false,
            ..
        },
        end,
    ] = &rest[..]
    else {
        panic!("{rest:?}");
    };
    assert_eq!(artifact.parts, [Part::text("4")]);
    let from = artifact.metadata.as_ref().expect("who answered");
    assert_eq!(from["crabmesh"]["from"], "coder@gw-a");
    assert_eq!(state_of(end), Some(TaskState::Completed));

    let task = node.get("planner", "coder", &seen[0].id.to_string()).await;
    let task = task.expect("kept").task(None);
    assert_eq!(task.status.state, TaskState::Completed);
    assert_eq!((task.artifacts.len(), task.history.len()), (1, 1));
    assert_eq!(
        node.idle_inbox("planner").await,
        0,
        "the answer is the task's"
    );
    node.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_made_in_parts_is_told_in_parts_where_the_policy_lets_it() {
    let node = Node::start(home()).await;
    for (to_agent, in_parts) in [("coder", true), ("tester", false)] {
        let agent = node.agent("planner");
        let endpoint = to(to_agent);
        let sent = node.tasks.send(agent, &endpoint, said("m-1", "?"), true);
        let mut told = sent.await.expect("a task").follow(None);
        let seen = node.receive(to_agent, 1).await;
        assert_eq!(seen[0].stream, in_parts);
        if in_parts {
            let publisher = node
                .messages
                .publisher(node.agent(to_agent), seen[0].id, None);
            let publisher = publisher.await.expect("parts are wanted");
            for (seq, text) in [(1, "to"), (2, "ken"), (3, "s")] {
                let content = Bytes::copy_from_slice(text.as_bytes());
                publisher.push(seq, None, content).await.expect("room");
            }
        }
        node.reply(to_agent, &seen[0], "text/plain", b"tokens")
            .await;
        let mut text = String::new();
        let mut whole = 0;
        for event in all_until(&mut told, |_| false).await {
            if let Event::Artifact {
                artifact, append, ..
            } = event
            {
                if !append {
                    (text, whole) = (String::new(), whole + 1);
                }
                for part in artifact.parts {
                    let Content::Text(more) = part.content else {
                        panic!("{part:?}");
                    };
                    text.push_str(&more);
                }
            }
        }
        assert_eq!((text.as_str(), whole), ("tokens", 1), "{to_agent}");
        // A restart leaves it as it was accepted, whatever the policy says by now.
        let again = node.tasks.send(agent, &endpoint, said("m-1", "?"), true);
        assert!(again.await.expect("the same").is_over());
    }
    node.stop().await;
}

#[tokio::test]
async fn a_repeated_message_is_the_same_task_also_after_a_restart() {
    let node = Node::start(home()).await;
    let first = node
        .send("planner", "coder", said("m-1", "once"))
        .await
        .task(None);
    let again = node
        .send("planner", "coder", said("m-1", "once"))
        .await
        .task(None);
    assert_eq!(again.id, first.id);
    let elsewhere = node.send("planner", "tester", said("m-1", "once")).await;
    assert_ne!(elsewhere.task(None).id, first.id);
    let foreign = node.send("tester", "coder", said("m-1", "once")).await;
    assert_ne!(foreign.task(None).id, first.id);

    let node = Node::start(node.stop().await).await;
    let again = node
        .send("planner", "coder", said("m-1", "once"))
        .await
        .task(None);
    assert_eq!(again.id, first.id);
    let other = node
        .try_send("planner", "coder", said("m-1", "twice"))
        .await;
    let problem = other.expect_err("another message");
    assert_eq!(problem.kind, ProblemKind::InvalidParams);
    assert!(problem.message.contains("messageId"), "{problem:?}");
    // And the far agent saw each once.
    assert_eq!(node.receive("coder", 10).await.len(), 2);
    assert_eq!(node.idle_inbox("coder").await, 0);
    node.stop().await;
}

#[tokio::test]
async fn an_open_task_goes_on_after_a_restart() {
    let node = Node::start(home()).await;
    let id = node
        .send("planner", "coder", said("m-1", "?"))
        .await
        .task(None)
        .id;

    let node = Node::start(node.stop().await).await;
    let task = node.get("planner", "coder", &id).await.expect("kept");
    assert!(!task.is_over());
    let seen = node.receive("coder", 1).await;
    node.reply("coder", &seen[0], "application/json", b"{\"a\": 1}")
        .await;
    let ended = within(task.ended()).await.expect("ended").task(None);

    assert_eq!(ended.status.state, TaskState::Completed);
    let parts = &ended.artifacts[0].parts;
    assert_eq!(parts[0].content, Content::Data(serde_json::json!({"a": 1})));
    assert_eq!(node.idle_inbox("planner").await, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_reply_that_was_stored_and_not_acked_is_taken_and_not_shown_after_a_restart() {
    let (state, home) = home();
    // What a driver does, up to the moment between the two.
    let node = Node::start((state, home)).await;
    let record = record_of(&node, said("m-1", "?"));
    let store = &node.tasks.store();
    assert_eq!(store.create(record.clone()).await, Ok(Created::New));
    let planner = node.agent("planner").clone();
    let sent = node.messages.send_kept(&planner, record.draft(false)).await;
    let (_, mut kept) = sent.expect("accepted");
    let seen = node.receive("coder", 1).await;
    node.reply("coder", &seen[0], "text/plain", b"4").await;
    let Some(Outcome::Answered(reply)) = within(kept.outcome()).await else {
        panic!("no answer");
    };
    let ending = Ending::of(Ended::Completed, now(), None);
    let ended = Record {
        ending: Some(ending),
        ..record.clone()
    };
    store.finish(ended, false).await.expect("stored");
    assert_eq!(&*reply.body, b"4");
    drop(kept);

    let node = Node::start(node.stop().await).await;
    assert_eq!(
        node.idle_inbox("planner").await,
        0,
        "shown after it was stored"
    );
    let task = node.get("planner", "coder", &record.id.to_string()).await;
    assert!(task.expect("kept").is_over());
    node.stop().await;
}

#[tokio::test]
async fn a_reply_that_was_not_stored_is_handed_over_again() {
    let node = Node::start(home()).await;
    let record = record_of(&node, said("m-1", "?"));
    let created = node.tasks.store().create(record.clone()).await;
    assert_eq!(created, Ok(Created::New));
    let planner = node.agent("planner").clone();
    let sent = node.messages.send_kept(&planner, record.draft(false)).await;
    let (_, mut kept) = sent.expect("accepted");
    let seen = node.receive("coder", 1).await;
    node.reply("coder", &seen[0], "text/plain", b"4").await;
    assert!(matches!(
        within(kept.outcome()).await,
        Some(Outcome::Answered(_))
    ));
    drop(kept);

    let node = Node::start(node.stop().await).await;
    let task = node.get("planner", "coder", &record.id.to_string()).await;
    let task = within(task.expect("kept").ended())
        .await
        .expect("ended")
        .task(None);
    assert_eq!(task.status.state, TaskState::Completed);
    assert_eq!(task.artifacts[0].parts, [Part::text("4")]);
    assert_eq!(node.idle_inbox("planner").await, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_task_is_its_agents_alone_and_only_at_its_endpoint() {
    let node = Node::start(home()).await;
    let id = node
        .send("planner", "coder", said("m-1", "?"))
        .await
        .task(None)
        .id;
    for (agent, to, id) in [
        ("tester", "coder", id.as_str()),
        ("planner", "tester", &id),
        ("planner", "coder", &fresh_id().to_string()),
        ("planner", "coder", "no-id"),
    ] {
        let problem = node.get(agent, to, id).await.expect_err("not its");
        assert_eq!(problem.kind, ProblemKind::TaskNotFound, "{agent} {to} {id}");
        let problem = node.cancel(agent, to, id).await.expect_err("not its");
        assert_eq!(problem.kind, ProblemKind::TaskNotFound, "{agent} {to} {id}");
    }
    assert_eq!(node.list("tester", "coder", |_| {}).await.total, 0);
    assert_eq!(node.list("planner", "tester", |_| {}).await.total, 0);
    assert_eq!(node.list("planner", "coder", |_| {}).await.total, 1);

    let more = Message {
        task: Some(id.clone()),
        ..said("m-2", "more")
    };
    let problem = node
        .try_send("planner", "coder", more)
        .await
        .expect_err("one message");
    assert_eq!(problem.kind, ProblemKind::UnsupportedOperation);
    let foreign = Message {
        task: Some(id),
        ..said("m-2", "more")
    };
    let problem = node
        .try_send("tester", "coder", foreign)
        .await
        .expect_err("not its");
    assert_eq!(problem.kind, ProblemKind::TaskNotFound);

    node.tasks
        .remove_agent(node.agent("planner").instance)
        .await;
    assert_eq!(node.list("planner", "coder", |_| {}).await.total, 0);
    node.stop().await;
}

#[tokio::test]
async fn what_the_policy_denies_is_rejected_and_says_which_grant_is_missing() {
    let node = Node::start(home()).await;
    let task = node.send("coder", "planner", said("m-1", "?")).await;
    let task = within(task.ended()).await.expect("ended").task(None);
    assert_eq!(task.status.state, TaskState::Rejected);
    let message = task.status.message.expect("why");
    assert_eq!(message.role, Role::Agent);
    let [
        Part {
            content: Content::Text(text),
            ..
        },
        Part {
            content: Content::Data(data),
            ..
        },
    ] = &message.parts[..]
    else {
        panic!("{message:?}");
    };
    assert!(text.contains("coder may not ask planner@gw-a"), "{text}");
    let grant = data["missing_grant"].as_str().expect("the grant");
    assert!(grant.contains("request") && text.contains(grant), "{text}");
    assert_eq!(data["code"], "denied");

    // A restart leaves it so.
    let id = task.id;
    let node = Node::start(node.stop().await).await;
    let kept = node
        .get("coder", "planner", &id)
        .await
        .expect("kept")
        .task(None);
    assert_eq!(kept.status.state, TaskState::Rejected);
    node.stop().await;
}

#[tokio::test]
async fn what_never_was_a_message_is_no_task() {
    let node = Node::start(home()).await;
    let large = said("m-1", &"x".repeat(wire::message::MAX_BODY + 1));
    let problem = node
        .try_send("planner", "coder", large)
        .await
        .expect_err("too large");
    assert_eq!(problem.kind, ProblemKind::InvalidParams);
    assert!(
        problem.message.contains("message.parts: 262145 bytes"),
        "{}",
        problem.message
    );
    assert_eq!(problem.details["code"], "too_large");

    let agent = node.agent("planner").clone();
    let to: AgentAddress = "coder@gw-z".parse().expect("an address");
    let sent = node.tasks.send(&agent, &to, said("m-1", "?"), false).await;
    let problem = sent.expect_err("no such gateway");
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
    assert_eq!(problem.details["code"], "unknown_gateway");
    let list = node.tasks.list(&agent, &to, &all()).await.expect("a list");
    assert_eq!(list.total, 0);

    let lost = node.send("planner", "tester", said("m-1", "?")).await;
    node.messages
        .remove_agent(node.agent("tester").instance)
        .await
        .expect("removed");
    let lost = within(lost.ended()).await.expect("ended").task(None);
    assert_eq!(lost.status.state, TaskState::Failed, "{lost:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_task_is_taken_back_until_it_has_ended() {
    let node = Node::start(home()).await;
    let id = node
        .send("planner", "coder", said("m-1", "?"))
        .await
        .task(None)
        .id;
    let canceled = within(node.cancel("planner", "coder", &id))
        .await
        .expect("taken back");
    assert_eq!(canceled.task(None).status.state, TaskState::Canceled);
    let problem = node
        .cancel("planner", "coder", &id)
        .await
        .expect_err("ended");
    assert_eq!(problem.kind, ProblemKind::TaskNotCancelable);

    let task = node.send("planner", "coder", said("m-2", "?")).await;
    let seen = node.receive("coder", 1).await;
    node.messages
        .reject(node.agent("coder"), seen[0].id, Some("never".into()))
        .await
        .expect("rejected");
    let task = within(task.ended()).await.expect("ended").task(None);
    assert_eq!(task.status.state, TaskState::Rejected);
    let said = format!("{:?}", task.status.message);
    assert!(!said.contains("never"), "a peer's words: {said}");
    node.stop().await;
}

#[tokio::test]
async fn a_list_is_told_page_by_page_the_newest_first() {
    let node = Node::start(home()).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let context = Some(if n % 2 == 0 { "even" } else { "odd" }.to_owned());
        let message = Message {
            context,
            ..said(&format!("m-{n}"), "?")
        };
        ids.push(node.send("planner", "coder", message).await.task(None).id);
        // Those of one millisecond stand in any order.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let page = node
            .list("planner", "coder", |params| {
                params.page_size = 2;
                params.page_token = token.clone();
            })
            .await;
        assert_eq!((page.total, page.page_size), (5, 2));
        seen.extend(page.tasks.into_iter().map(|task: Task| task.id));
        if page.next.is_empty() {
            break;
        }
        token = Some(page.next);
    }
    assert_eq!(seen, ids);
    let odd = node
        .list("planner", "coder", |it| it.context = Some("odd".into()))
        .await;
    assert_eq!(odd.total, 2);
    let working = node
        .list("planner", "coder", |it| it.state = Some(TaskState::Working))
        .await;
    assert_eq!(working.total, 0);
    let later = node
        .list("planner", "coder", |it| {
            it.after = Some(::api::Timestamp(u64::MAX))
        })
        .await;
    assert_eq!(later.total, 0);
    let wrong = ListParams {
        page_token: Some("x".into()),
        ..all()
    };
    let problem = node
        .tasks
        .list(node.agent("planner"), &to("coder"), &wrong)
        .await;
    assert!(problem.expect_err("no token").message.contains("pageToken"));
    node.stop().await;
}

#[tokio::test]
async fn the_oldest_that_have_ended_make_room_and_open_ones_never() {
    let (state, _home) = home();
    let store = Store::open(&state).expect("opens");
    let ended = |n: i64| {
        let at_ms = now() + n as u64;
        let record = plain_record(&format!("m-{n}"));
        (
            Record {
                ending: Some(Ending::of(Ended::Failed, at_ms, None)),
                ..record.clone()
            },
            record,
        )
    };
    let rows: Vec<_> = (0..MAX_ROWS).map(ended).collect();
    let made = rows.iter().map(|(_, open)| store.create(open.clone()));
    let made = futures_util::future::join_all(made).await;
    assert!(made.iter().all(|made| *made == Ok(Created::New)));
    assert_eq!(
        store.create(plain_record("one more")).await,
        Ok(Created::Full)
    );

    let (oldest, _) = &rows[0];
    store.finish(oldest.clone(), true).await.expect("stored");
    assert_eq!(
        store.create(plain_record("one more")).await,
        Ok(Created::New)
    );
    let gone = store.find([1; 16], to("coder"), oldest.id).await;
    assert_eq!(gone, Ok(None));
    let kept = store.find([1; 16], to("coder"), rows[1].0.id).await;
    assert!(kept.is_ok_and(|kept| kept.is_some()));
    // Another agent has room of its own.
    let other = Record {
        owner: [2; 16],
        ..plain_record("m")
    };
    assert_eq!(store.create(other).await, Ok(Created::New));
}

#[tokio::test]
async fn bytes_are_bounded_too_and_what_is_old_is_forgotten() {
    let (state, _home) = home();
    let store = Store::open(&state).expect("opens");
    let large = "x".repeat(250 << 10);
    let mut made = 0;
    loop {
        let mut record = plain_record(&format!("m-{made}"));
        record.message.parts = vec![Part::text(large.clone())];
        match store.create(record).await {
            Ok(Created::New) => made += 1,
            other => break assert_eq!(other, Ok(Created::Full)),
        }
    }
    assert!((250..270).contains(&made), "{made}");

    let old = Record {
        owner: [3; 16],
        ..plain_record("old")
    };
    assert_eq!(store.create(old.clone()).await, Ok(Created::New));
    let ending = Some(Ending::of(
        Ended::Failed,
        now() - super::store::KEPT_MS - 1,
        None,
    ));
    store
        .finish(
            Record {
                ending,
                ..old.clone()
            },
            true,
        )
        .await
        .expect("stored");
    let open = store
        .unfinished(vec![[1; 16], [3; 16]], now())
        .await
        .expect("read");
    assert_eq!(open.len(), made);
    assert_eq!(store.find([3; 16], to("coder"), old.id).await, Ok(None));
    // An agent that is gone leaves nothing.
    assert_eq!(
        store
            .unfinished(vec![[3; 16]], now())
            .await
            .expect("read")
            .len(),
        0
    );
}

#[tokio::test]
async fn what_a_task_says_is_sealed_on_disk_and_opens_with_its_key_alone() {
    let (state, _home) = home();
    let store = Store::open(&state).expect("opens");
    let mut record = plain_record("the-message-id");
    record.message.parts = vec![Part::text("a-secret-question")];
    assert_eq!(store.create(record.clone()).await, Ok(Created::New));
    drop(store);
    let mut bytes = std::fs::read(state.file(DATABASE)).expect("a file");
    bytes.extend(std::fs::read(state.path().join("tasks.db-wal")).unwrap_or_default());
    for word in ["a-secret-question", "the-message-id", "coder@gw-a"] {
        let found = bytes.windows(word.len()).any(|it| it == word.as_bytes());
        assert!(!found, "{word} is there in clear");
    }

    let key = state.read(KEY).expect("readable").expect("made");
    state.write(KEY, &[7; 32]).expect("written");
    let wrong = Store::open(&state).expect_err("another key");
    assert!(wrong.to_string().contains("tasks.key"), "{wrong}");
    state.remove(KEY).expect("removed");
    Store::open(&state).expect_err("no key");
    state.write(KEY, &key).expect("written");
    let store = Store::open(&state).expect("opens");
    assert_eq!(
        store.find([1; 16], to("coder"), record.id).await,
        Ok(Some(record))
    );
    drop(store);

    let mut damaged = std::fs::read(state.file(DATABASE)).expect("a file");
    damaged[..64].fill(0x55);
    std::fs::write(state.file(DATABASE), damaged).expect("written");
    let _ = std::fs::remove_file(state.path().join("tasks.db-wal"));
    let store = Store::open(&state).expect("a new one");
    assert!(state.path().join("tasks.db.damaged-1").exists());
    assert_eq!(store.create(plain_record("m")).await, Ok(Created::New));
}

#[tokio::test]
async fn parts_are_told_as_they_come_and_a_new_beginning_voids_them() {
    let live = Live::new(0);
    let record = Arc::new(plain_record("m"));
    let watched = Watched::of_live(record.clone(), live.clone());
    let mut told = watched.clone().follow(None);
    assert!(matches!(told.next().await, Some(Ok(Event::Task(_)))));
    live.set_state(TaskState::Working, 1);
    live.add_part(Part::text("a"), 1);
    let working = told.next().await.expect("news").expect("news");
    assert_eq!(state_of(&working), Some(TaskState::Working));
    assert_eq!(parts_of(&mut told).await, (vec![Part::text("a")], false));
    live.add_part(Part::text("b"), 1);
    live.add_part(Part::text("c"), 1);
    assert_eq!(
        parts_of(&mut told).await,
        (vec![Part::text("b"), Part::text("c")], true)
    );
    assert_eq!(watched.task(None).artifacts[0].parts.len(), 3);
    live.restart();
    live.add_part(Part::text("4"), 1);
    assert_eq!(parts_of(&mut told).await, (vec![Part::text("4")], false));

    let mut ended = (*record).clone();
    let mut ending = Ending::of(Ended::Completed, 2, None);
    ending.reply = Some(super::record::Reply {
        id: "r".into(),
        from: to("coder"),
        content_type: "text/plain".into(),
        body: b"4".to_vec(),
    });
    ended.ending = Some(ending);
    live.end(super::live::End::Ended(Arc::new(ended)));
    // Whoever was told piece by piece is not told again; who came late is.
    assert_eq!(parts_of(&mut told).await, (vec![Part::text("")], true));
    let end = told.next().await.expect("news").expect("news");
    assert_eq!(state_of(&end), Some(TaskState::Completed));
    assert!(told.next().await.is_none());
}

struct Node {
    tasks: Tasks,
    messages: Messages,
    agents: Vec<LocalAgent>,
    plane: JoinHandle<()>,
    keeper: JoinHandle<()>,
    _world: watch::Sender<Arc<World>>,
    state: StateDir,
    home: tempfile::TempDir,
}

type Home = (StateDir, tempfile::TempDir);

impl Node {
    async fn start((state, home): Home) -> Self {
        let agents: Vec<LocalAgent> = ["planner", "coder", "tester"]
            .iter()
            .map(|name| LocalAgent {
                name: name.parse().expect("a name"),
                instance: [name.as_bytes()[0]; 16],
            })
            .collect();
        let (world, world_out) = watch::channel(world_of());
        let (messages, ends, plane) = messages::start(MessagesConfig {
            budgets: messages::Budgets::default(),
            node: NODE,
            streams: crate::streams::Streams::alone(NODE),
            agents: agents.clone(),
            spool: Spool::open(&state, Durability::Full).expect("opens"),
            world: world_out,
            seed: [7; 32],
        })
        .expect("reads");
        // There is no other gateway.
        drop(ends);
        let plane = tokio::spawn(plane.run());
        let (tasks, keeper) = start(&state, messages.clone()).expect("opens");
        let drivers = keeper.resume(&agents).await;
        let keeper = tokio::spawn(keeper.run(drivers));
        Self {
            tasks,
            messages,
            agents,
            plane,
            keeper,
            _world: world,
            state,
            home,
        }
    }

    /// Ends as a process does that is asked to, and leaves its disk.
    async fn stop(self) -> Home {
        drop(self.tasks);
        self.keeper.await.expect("ends");
        drop(self.messages);
        self.plane.await.expect("ends");
        (self.state, self.home)
    }

    fn agent(&self, name: &str) -> &LocalAgent {
        let found = self.agents.iter().find(|agent| agent.name.as_str() == name);
        found.expect("an agent")
    }

    async fn try_send(
        &self,
        from: &str,
        to_agent: &str,
        message: Message,
    ) -> Result<Watched, ::api::a2a::Problem> {
        self.tasks
            .send(self.agent(from), &to(to_agent), message, false)
            .await
    }

    async fn send(&self, from: &str, to: &str, message: Message) -> Watched {
        self.try_send(from, to, message).await.expect("a task")
    }

    async fn get(
        &self,
        from: &str,
        to_agent: &str,
        id: &str,
    ) -> Result<Watched, ::api::a2a::Problem> {
        self.tasks.find(self.agent(from), &to(to_agent), id).await
    }

    async fn cancel(
        &self,
        from: &str,
        to_agent: &str,
        id: &str,
    ) -> Result<Watched, ::api::a2a::Problem> {
        self.tasks.cancel(self.agent(from), &to(to_agent), id).await
    }

    async fn list(
        &self,
        from: &str,
        to_agent: &str,
        set: impl FnOnce(&mut ListParams),
    ) -> ::api::a2a::TaskList {
        let mut params = all();
        set(&mut params);
        let to = to(to_agent);
        let list = self.tasks.list(self.agent(from), &to, &params);
        list.await.expect("a list")
    }

    async fn receive(&self, agent: &str, max: usize) -> Vec<Delivery> {
        let wait = Duration::from_secs(20);
        let options = ReceiveOptions {
            wait,
            max,
            hold: None,
        };
        let received = self.messages.receive(self.agent(agent), options);
        received.await.expect("running")
    }

    /// What waits for an agent by now; some time is given for it to come.
    async fn idle_inbox(&self, agent: &str) -> usize {
        let wait = Duration::from_millis(300);
        let options = ReceiveOptions {
            wait,
            max: 10,
            hold: None,
        };
        let received = self.messages.receive(self.agent(agent), options);
        received.await.expect("running").len()
    }

    async fn reply(&self, agent: &str, to: &Delivery, content_type: &str, body: &[u8]) {
        let draft = ReplyDraft {
            id: None,
            content_type: content_type.into(),
            body: Bytes::copy_from_slice(body),
        };
        let replied = self.messages.reply(self.agent(agent), to.id, draft);
        replied.await.expect("open");
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.expect("in time")
}

async fn all_until(told: &mut Told, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = within(told.next()).await {
        events.push(event.expect("an event"));
        if last(&events[events.len() - 1]) {
            break;
        }
    }
    events
}

async fn parts_of(told: &mut Told) -> (Vec<Part>, bool) {
    match within(told.next()).await {
        Some(Ok(Event::Artifact {
            artifact, append, ..
        })) => (artifact.parts, append),
        other => panic!("{other:?}"),
    }
}

fn state_of(event: &Event) -> Option<TaskState> {
    match event {
        Event::Status { status, .. } => Some(status.state),
        _ => None,
    }
}

fn said(id: &str, text: &str) -> Message {
    Message {
        role: Role::User,
        context: Some("talk:1".into()),
        ..Message::of_agent(id.into(), vec![Part::text(text)])
    }
}

fn record_of(node: &Node, message: Message) -> Record {
    Record {
        owner: node.agent("planner").instance,
        message,
        ..plain_record("m")
    }
}

fn plain_record(message: &str) -> Record {
    Record {
        id: fresh_id(),
        owner: [1; 16],
        to: to("coder"),
        context: "c".into(),
        message: said(message, "?"),
        stream: false,
        created_ms: now(),
        ending: None,
    }
}

fn all() -> ListParams {
    ListParams {
        context: None,
        state: None,
        after: None,
        page_size: 50,
        page_token: None,
        history: None,
        artifacts: false,
    }
}

fn to(agent: &str) -> AgentAddress {
    format!("{agent}@gw-a").parse().expect("an address")
}

fn now() -> u64 {
    crate::messages::unix_ms()
}

fn home() -> Home {
    let home = tempfile::tempdir().expect("a temporary directory");
    (
        StateDir::create(&home.path().join("s")).expect("made"),
        home,
    )
}

fn world_of() -> Arc<World> {
    let mut world = World::alone(NODE, "home".parse().expect("a name"));
    let name: NodeName = "gw-a".parse().expect("a name");
    let user = "ana@example.com".parse().ok();
    world.insert(WorldMember {
        node: NODE,
        name: name.clone(),
        user: user.clone(),
        tags: Vec::new(),
        overlay: std::net::Ipv6Addr::LOCALHOST,
        identity: identity::IdentityPublic([0; 32]),
        expires_at: UnixTime(u64::MAX),
    });
    let nodes = [policy::Node {
        user,
        tags: Vec::new(),
        addresses: Vec::new(),
        ..policy::Node::new(NODE, name)
    }];
    let (document, _) = Document::parse("policy.hujson", POLICY).expect("a policy");
    world.policy = Some(WorldPolicy {
        policy: Arc::new(Policy::compile(&document, &nodes)),
        order: Order::default(),
        signed_at: UnixTime(0),
        text: POLICY.into(),
    });
    Arc::new(world)
}

const NODE: NodeId = NodeId([1; 16]);
