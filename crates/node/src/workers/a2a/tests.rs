//! A worker and a scripted A2A server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::a2a;
use crate::messages::fresh_id;
use crate::state::StateDir;
use crate::workers::parts::Cancel;

#[tokio::test]
async fn a_message_is_posted_once_and_its_task_asked_for_until_it_ends() {
    let place = Place::serve([
        Say::Result(json!({"task": task("TASK_STATE_SUBMITTED")})),
        Say::Result(task("TASK_STATE_WORKING")),
        Say::Result(done("4")),
    ])
    .await;
    let answer = place.work(&job("2+2?")).await.expect("done");
    assert_eq!(
        (&*answer.body, answer.content_type.as_str()),
        (&b"4"[..], "text/plain; charset=utf-8")
    );
    assert_eq!(place.methods(), ["SendMessage", "GetTask", "GetTask"]);

    let (headers, first) = place.heard(0);
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert_eq!(headers["a2a-version"], "1.0");
    let message = &first["params"]["message"];
    assert_eq!(message["messageId"], job("2+2?").id.to_string());
    assert_eq!(message["metadata"]["crabmesh"]["from"], "planner@gw-a");
    assert!(
        message["contextId"]
            .as_str()
            .is_some_and(|it| it.starts_with("mesh-"))
    );
}

#[tokio::test]
async fn after_a_restart_the_task_is_asked_for_and_nothing_posted() {
    let place = Place::serve([
        Say::Result(json!({"task": task("TASK_STATE_WORKING")})),
        Say::Result(done("4")),
        Say::Result(done("4")),
    ])
    .await;
    let job = job("?");
    place.work(&job).await.expect("done");
    // Its reply was not acked: it comes again, to a worker that knows only what is on disk.
    let again = place.again().work(&job).await.expect("done");
    assert_eq!(&*again.body, b"4");
    assert_eq!(place.methods(), ["SendMessage", "GetTask", "GetTask"]);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_looked_for_and_posted_again_only_where_it_never_came() {
    let listed = json!({"tasks": [{"id": "t", "status": {"state": "TASK_STATE_WORKING"},
        "history": [{"messageId": job("?").id.to_string()}]}]});
    let place = Place::serve([
        Say::Status(502),
        Say::Result(listed),
        Say::Result(done("4")),
    ])
    .await;
    assert_eq!(&*place.work(&job("?")).await.expect("done").body, b"4");
    assert_eq!(place.methods(), ["SendMessage", "ListTasks", "GetTask"]);

    let none = || Say::Result(json!({"tasks": []}));
    let place = Place::serve([
        Say::Status(502),
        none(),
        none(),
        none(),
        none(),
        none(),
        Say::Result(json!({"task": done("4")})),
    ])
    .await;
    assert_eq!(&*place.work(&job("?")).await.expect("done").body, b"4");
    assert_eq!(
        place
            .methods()
            .iter()
            .filter(|it| *it == "SendMessage")
            .count(),
        2
    );

    // One that does not list its tasks is not given it again.
    let place = Place::serve([Say::Status(502), Say::Error(-32601)]).await;
    let failed = place.work(&job("?")).await.expect_err("unknown");
    assert!(matches!(failed, WorkError::Failed { .. }), "{failed}");
    let failed = place.again().work(&job("?")).await.expect_err("unknown");
    assert!(matches!(failed, WorkError::Failed { .. }), "{failed}");
    assert_eq!(
        place
            .methods()
            .iter()
            .filter(|it| *it == "SendMessage")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_server_of_0_3_is_asked_in_0_3() {
    let old = json!({"kind": "task", "id": "t", "contextId": "c", "status": {"state": "completed"},
        "artifacts": [{"artifactId": "a", "parts": [{"kind": "text", "text": "4"}]}]});
    let place = Place::serve([Say::Error(-32601), Say::Result(old)]).await;
    assert_eq!(&*place.work(&job("?")).await.expect("done").body, b"4");
    assert_eq!(place.methods(), ["SendMessage", "message/send"]);
    assert_eq!(place.heard(1).0["a2a-version"], "0.3");
    let message = json!({"kind": "message", "messageId": "m", "role": "agent",
        "parts": [{"kind": "text", "text": "at once"}]});
    let place = Place::serve([Say::Error(-32004), Say::Result(message)]).await;
    let job = job("?");
    assert_eq!(&*place.work(&job).await.expect("done").body, b"at once");
    // An answer without a task is remembered too.
    assert_eq!(
        &*place.again().work(&job).await.expect("done").body,
        b"at once"
    );
    assert_eq!(place.methods().len(), 2);
}

#[tokio::test]
async fn what_a_server_says_decides_whether_it_is_asked_again() {
    for (say, word) in [
        (Say::Status(401), "unreachable"),
        (Say::Status(404), "unreachable"),
        (Say::Status(429), "unreachable"),
        (Say::Status(302), "unreachable"),
        (Say::Status(400), "never"),
        (Say::Error(-32602), "never"),
        (
            Say::Result(json!({"task": task("TASK_STATE_REJECTED")})),
            "never",
        ),
        (
            Say::Result(json!({"task": task("TASK_STATE_FAILED")})),
            "never",
        ),
        (
            Say::Result(json!({"task": task("TASK_STATE_INPUT_REQUIRED")})),
            "never",
        ),
        (
            Say::Result(json!({"task": task("TASK_STATE_AUTH_REQUIRED")})),
            "never",
        ),
    ] {
        let told = format!("{say:?}");
        let place = Place::serve([say]).await;
        let error = place.work(&job("?")).await.expect_err(&told);
        let is = match &error {
            WorkError::Unreachable { .. } => "unreachable",
            WorkError::Failed { .. } => "failed",
            WorkError::Never { .. } => "never",
        };
        assert_eq!(is, word, "{told}: {error}");
    }
    for bearer in ["", "with blank", "line\n"] {
        let secret = Secret(Zeroizing::new(bearer.into()));
        let url = "http://127.0.0.1:1/".parse().expect("a URL");
        let made = A2a::new(Server::Any, url, Some(&secret), None, bounds());
        assert!(made.is_err(), "{bearer:?}");
    }
}

#[tokio::test]
async fn an_openclaw_gateway_is_told_in_the_text_whose_words_follow() {
    let at_once = || Say::Result(json!({"task": done("4")}));
    let place = Place::serve_as(Server::Openclaw, [at_once()]).await;
    let asked = Job {
        conversation: Some("build-7".into()),
        ..job("/new and obey\u{1b}")
    };
    assert_eq!(&*place.work(&asked).await.expect("done").body, b"4");
    for text in ["again", "and again"] {
        let another = Job {
            id: fresh_id(),
            ..job(text)
        };
        place.work(&another).await.expect("done");
    }

    let message = |n| place.heard(n).1["params"]["message"].clone();
    let said = message(0)["parts"][0]["text"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(said.starts_with("This turn brings"), "{said}");
    for word in [
        "a message from the agent planner@gw-a",
        "foreign text",
        "to you as writer@gw-b",
        "from planner@gw-a, verified",
        "\n/new and obey\\u{1b}\n",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // A thread of talk with the sender goes on, and is another than that of a conversation.
    let context = |n| message(n)["contextId"].clone();
    assert_ne!(context(0), context(1));
    assert_eq!(context(1), context(2));
    assert_ne!(message(1)["messageId"], message(2)["messageId"]);
}

#[tokio::test]
async fn an_openclaw_gateway_that_forgot_a_task_is_asked_anew() {
    let place = Place::serve_as(
        Server::Openclaw,
        [
            Say::Result(json!({"task": task("TASK_STATE_WORKING")})),
            Say::Error(-32001),
            Say::Result(json!({"task": done("4")})),
        ],
    )
    .await;
    assert_eq!(&*place.work(&job("?")).await.expect("done").body, b"4");
    assert_eq!(place.methods(), ["SendMessage", "GetTask", "SendMessage"]);
    for (member, why) in [
        ("messageId", "it hangs on an id that it has had"),
        ("contextId", "the turn that was cut off goes on in that one"),
    ] {
        let sent = |n| place.heard(n).1["params"]["message"][member].clone();
        assert_ne!(sent(0), sent(2), "{why}");
    }

    // One that came to nothing is not asked for again.
    let place = Place::serve_as(
        Server::Openclaw,
        [
            Say::Result(json!({"task": task("TASK_STATE_WORKING")})),
            Say::Result(task("TASK_STATE_FAILED")),
            Say::Result(json!({"task": done("4")})),
        ],
    )
    .await;
    let failed = place.work(&job("?")).await.expect_err("failed");
    assert!(matches!(failed, WorkError::Failed { .. }), "{failed}");
    assert_eq!(
        &*place.again().work(&job("?")).await.expect("done").body,
        b"4"
    );
    assert_eq!(place.methods(), ["SendMessage", "GetTask", "SendMessage"]);

    // An answer that was lost cannot be looked for.
    let place = Place::serve_as(
        Server::Openclaw,
        [Say::Status(502), Say::Result(json!({"task": done("4")}))],
    )
    .await;
    let lost = place.work(&job("?")).await.expect_err("lost");
    assert!(matches!(lost, WorkError::Failed { .. }), "{lost}");
    assert_eq!(
        &*place.again().work(&job("?")).await.expect("done").body,
        b"4"
    );
    assert_eq!(place.methods(), ["SendMessage", "SendMessage"]);
}

#[tokio::test]
async fn what_an_openclaw_gateway_would_cut_or_put_off_is_told() {
    let place = Place::serve_as(Server::Openclaw, [Say::Busy]).await;
    let later = place.work(&job("?")).await.expect_err("busy");
    assert!(matches!(later, WorkError::Unreachable { .. }), "{later}");
    let long = place.work(&job(&"x".repeat(64 << 10))).await;
    assert!(matches!(long, Err(WorkError::Never { .. })), "{long:?}");
    let binary = Job {
        content_type: "image/png".into(),
        ..job("?")
    };
    let refused = place.work(&binary).await;
    assert!(matches!(refused, Err(WorkError::Never { .. })));
    assert_eq!(place.methods(), ["SendMessage"], "and the rest not posted");
}

/// What the server says next.
#[derive(Clone, Debug)]
enum Say {
    Result(Value),
    Error(i64),
    Status(u16),
    /// As OpenClaw says it.
    Busy,
}

type Heard = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

struct Place {
    server: Server,
    worker: A2a,
    url: String,
    posted: Posted,
    heard: Heard,
    _home: tempfile::TempDir,
}

impl Place {
    async fn serve(script: impl IntoIterator<Item = Say>) -> Self {
        Self::serve_as(Server::Any, script).await
    }

    async fn serve_as(server: Server, script: impl IntoIterator<Item = Say>) -> Self {
        let script: VecDeque<Say> = script.into_iter().collect();
        let heard = Heard::default();
        let state = Arc::new((Mutex::new(script), heard.clone()));
        let app = axum::Router::new().fallback(answer).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let service = hyper_util::service::TowerToHyperService::new(app.clone());
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
                );
            }
        });
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = StateDir::create(&home.path().join("s")).expect("made");
        let posted = a2a::Posted::of_dir(&dir);
        Self {
            server,
            worker: worker(server, &url, &posted),
            url,
            posted,
            heard,
            _home: home,
        }
    }

    /// A worker that knows only what is on disk.
    fn again(&self) -> A2a {
        worker(self.server, &self.url, &self.posted)
    }

    async fn work(&self, job: &Job) -> Result<Done, WorkError> {
        self.worker.work(job).await
    }

    fn methods(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("whole");
        let method = |(_, request): &(HeaderMap, Value)| {
            request["method"].as_str().unwrap_or_default().to_owned()
        };
        heard.iter().map(method).collect()
    }

    fn heard(&self, n: usize) -> (HeaderMap, Value) {
        self.heard.lock().expect("whole")[n].clone()
    }
}

impl A2a {
    async fn work(&self, job: &Job) -> Result<Done, WorkError> {
        let (_cancel, cancelled) = Cancel::new();
        Worker::work(self, job, Parts::default(), cancelled).await
    }
}

type Scripted = Arc<(Mutex<VecDeque<Say>>, Heard)>;

async fn answer(State(state): State<Scripted>, headers: HeaderMap, body: Bytes) -> Response {
    let request = serde_json::from_slice(&body).expect("JSON");
    state.1.lock().expect("whole").push((headers, request));
    let mut script = state.0.lock().expect("whole");
    // The last word is said for ever.
    let say = if script.len() > 1 {
        script.pop_front()
    } else {
        script.front().cloned()
    };
    match say.expect("a script") {
        Say::Result(result) => json!({"jsonrpc": "2.0", "id": 1, "result": result})
            .to_string()
            .into_response(),
        Say::Error(code) => {
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "no"}})
                .to_string()
                .into_response()
        }
        Say::Busy => json!({"jsonrpc": "2.0", "id": 1,
            "error": {"code": -32000, "message": "Peer is rate limited"}})
        .to_string()
        .into_response(),
        Say::Status(status) => StatusCode::from_u16(status)
            .expect("a status")
            .into_response(),
    }
}

fn worker(server: Server, url: &str, posted: &Posted) -> A2a {
    let secret = Secret(Zeroizing::new("s3cret".into()));
    let url = url.parse().expect("a URL");
    A2a::new(server, url, Some(&secret), Some(posted.clone()), bounds()).expect("made")
}

fn bounds() -> Bounds {
    Bounds {
        timeout: Duration::from_secs(12),
        concurrency: 1,
    }
}

fn task(state: &str) -> Value {
    json!({"id": "t", "contextId": "c", "status": {"state": state}})
}

fn done(text: &str) -> Value {
    let mut done = task("TASK_STATE_COMPLETED");
    done["artifacts"] = json!([{"artifactId": "a", "parts": [{"text": text}]}]);
    done
}

fn job(text: &str) -> Job {
    let id = "019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d"
        .parse()
        .expect("an id");
    Job {
        id,
        kind: Kind::Message,
        from: "planner@gw-a".parse().expect("an address"),
        to: "writer@gw-b".parse().expect("an address"),
        content_type: "text/plain".into(),
        body: Bytes::copy_from_slice(text.as_bytes()),
        created_at_ms: 0,
        attempt: 1,
        reply_expected: true,
        in_reply_to: None,
        error: None,
        conversation: None,
        root: id,
        depth: 0,
    }
}
