//! The local API over its real listeners: who may do what, what is refused before it is looked at,
//! and how messages pass through it.

mod mcp;
mod parts;
mod place;
mod profile;
mod workers;

use api::{Access, Route};
use node::api::ApiConfig;
use serde_json::{Value, json};

use crate::place::{Answered, Call, Place};

/// Who, whether over the socket, the token, further headers, and the refusals for each access.
type Row<'a> = (&'a str, bool, Option<&'a str>, Headers, [&'a str; 3]);

type Headers = Vec<(&'static str, String)>;

#[tokio::test]
async fn who_may_call_which_route() {
    let mut place = Place::open().await;
    let token = place.add("planner").await;
    let admin = place.admin_token.clone();
    let acting = vec![("x-crabmesh-agent", "planner".to_owned())];
    let plain = Vec::new;
    let callers: [Row<'_>; 9] = [
        (
            "a stranger over TCP",
            false,
            None,
            plain(),
            ["unauthorized"; 3],
        ),
        (
            "a stranger over the socket",
            true,
            None,
            plain(),
            ["unauthorized"; 3],
        ),
        (
            "a wrong token over TCP",
            false,
            Some("cma_wrong"),
            plain(),
            ["unauthorized"; 3],
        ),
        (
            "a wrong token over the socket",
            true,
            Some("cmadmin_wrong"),
            plain(),
            ["unauthorized"; 3],
        ),
        (
            "an agent over TCP",
            false,
            Some(&token),
            plain(),
            ["", "", "admin_only"],
        ),
        (
            "an agent over the socket",
            true,
            Some(&token),
            plain(),
            ["", "", "admin_only"],
        ),
        (
            "the admin over TCP",
            false,
            Some(&admin),
            plain(),
            ["unauthorized"; 3],
        ),
        (
            "the admin over the socket",
            true,
            Some(&admin),
            plain(),
            ["agent_missing", "", ""],
        ),
        (
            "the admin for an agent",
            true,
            Some(&admin),
            acting,
            ["", "", ""],
        ),
    ];
    for (who, unix, token, headers, expected) in callers {
        let call = Call {
            unix,
            token,
            headers,
        };
        for route in Route::ALL {
            let mut path = route.path.replace("{id}", ID).replace("{name}", "nobody");
            for (name, value) in [
                ("gateway", "gw-b"),
                ("agent", "coder"),
                ("task", ID),
                ("config", "1"),
            ] {
                path = path.replace(&format!("{{{name}}}"), value);
            }
            let answered = place.call(&call, route.verb.as_str(), &path, "").await;
            let code = answered.body["error"]["code"].as_str().unwrap_or_default();
            let refused = ["unauthorized", "admin_only", "agent_missing"].contains(&code);
            let wanted = match route.access {
                Access::Agent => expected[0],
                Access::Any => expected[1],
                Access::Admin => expected[2],
            };
            let seen = if refused { code } else { "" };
            assert_eq!(
                seen,
                wanted,
                "{who}: {} {path}: {answered:?}",
                route.verb.as_str()
            );
            if code == "unauthorized" {
                assert_eq!(answered.status, 401);
            }
        }
        let unknown = place.call(&call, "GET", "/v1/nothing", "").await;
        let known = expected[1].is_empty();
        assert_eq!(
            unknown.status,
            if known { 404 } else { 401 },
            "{who} learns what is not there"
        );
        let wrong = place.call(&call, "DELETE", "/v1/send", "").await;
        assert_eq!(wrong.status, if known { 405 } else { 401 }, "{who}");
    }
}

#[tokio::test]
async fn what_a_browser_could_send_is_refused_whoever_asks() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let port = place.loopback.port();
    let health = |name: &'static str, value: String| (name, value);

    for (headers, status, code) in [
        (
            health("host", "evil.example.com".into()),
            403,
            "foreign_host",
        ),
        (
            health("host", format!("evil.example.com:{port}")),
            403,
            "foreign_host",
        ),
        (
            health("host", format!("127.0.0.1:{}", port ^ 1)),
            403,
            "foreign_host",
        ),
        (health("host", String::new()), 403, "foreign_host"),
        (health("origin", "null".into()), 403, "foreign_origin"),
        (
            health("origin", format!("http://127.0.0.1:{port}")),
            403,
            "foreign_origin",
        ),
    ] {
        let call = Call {
            headers: vec![headers.clone()],
            ..place.agent("planner")
        };
        let answered = place.call(&call, "GET", "/v1/health", "").await;
        assert_eq!(
            (answered.status, answered.code()),
            (status, code),
            "{headers:?}"
        );
    }
    let localhost = vec![("host", format!("localhost:{port}"))];
    let call = Call {
        headers: localhost,
        ..place.agent("planner")
    };
    assert_eq!(place.call(&call, "GET", "/v1/health", "").await.status, 200);

    for content_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        let headers = vec![("content-type", content_type.to_owned())];
        let call = Call {
            headers,
            ..place.agent("planner")
        };
        let answered = place.call(&call, "POST", "/v1/send", "{}").await;
        assert_eq!(
            (answered.status, answered.code()),
            (415, "not_json"),
            "{content_type}"
        );
    }
    let headers = vec![("content-type", "Application/JSON; charset=utf-8".to_owned())];
    let call = Call {
        headers,
        ..place.agent("planner")
    };
    assert_eq!(
        place.call(&call, "POST", "/v1/send", "{}").await.code(),
        "schema"
    );
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_and_says_why() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let to = "coder@gw-a";

    for (body, words) in [
        (json!({"to": to, "colour": "green"}), "colour"),
        (json!({"body": "no address"}), "to"),
        (json!({"to": "coder"}), "AGENT@GATEWAY"),
        (json!({"to": to, "id": "7"}), "UUIDv7"),
        (
            json!({"to": to, "body": "a", "body_base64": "YQ=="}),
            "not both",
        ),
        (json!({"to": to, "body_base64": "?"}), "base64"),
        (json!([1]), ""),
    ] {
        let answered = place.post("planner", "/v1/send", body.clone()).await;
        assert_eq!(
            (answered.status, answered.code()),
            (400, "schema"),
            "{body}"
        );
        assert!(
            answered.reason().contains(words),
            "{body}: {}",
            answered.reason()
        );
    }
    let large = "x".repeat((256 << 10) + 1);
    let answered = place
        .post("planner", "/v1/send", json!({"to": to, "body": large}))
        .await;
    assert_eq!((answered.status, answered.code()), (413, "too_large"));
    assert_eq!(
        place
            .get("planner", "/v1/messages?colour=green")
            .await
            .code(),
        "schema"
    );
    assert_eq!(
        place.get("planner", "/v1/messages/7").await.code(),
        "schema"
    );
    assert_eq!(
        place
            .get("planner", &format!("/v1/messages/{ID}"))
            .await
            .code(),
        "not_found"
    );
}

#[tokio::test]
async fn a_message_is_received_acked_and_never_shown_again() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;

    let sent = place
        .post(
            "planner",
            "/v1/send",
            json!({"to": "coder@gw-a", "body": "hi"}),
        )
        .await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let id = sent.body["id"].as_str().expect("an id").to_owned();

    let received = place.get("coder", "/v1/messages?wait=10").await;
    let message = &received.body["messages"][0];
    assert_eq!(message["id"], json!(id));
    assert_eq!(message["kind"], json!("message"));
    assert_eq!(message["from"], json!("planner@gw-a"));
    assert_eq!(message["to"], json!("coder@gw-a"));
    assert_eq!(message["body"], json!("hi"));
    assert_eq!(message["attempt"], json!(1));
    assert_eq!(message["reply_expected"], json!(false));

    let others = place
        .post("planner", &format!("/v1/messages/{id}/ack"), json!({}))
        .await;
    assert_eq!(others.code(), "not_found", "another agent's message");
    let held = place
        .post(
            "coder",
            &format!("/v1/messages/{id}/heartbeat"),
            json!({"hold_s": 60}),
        )
        .await;
    assert_eq!(held.status, 200, "{held:?}");
    let acked = place
        .post("coder", &format!("/v1/messages/{id}/ack"), json!({}))
        .await;
    assert_eq!(acked.status, 200, "{acked:?}");

    assert_eq!(
        place.get("coder", "/v1/messages").await.body["messages"],
        json!([])
    );
    let state = place.get("planner", &format!("/v1/messages/{id}")).await;
    assert_eq!(state.body["state"], json!("done"), "{state:?}");
}

#[tokio::test]
async fn a_long_poll_ends_when_a_message_comes() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;

    let waiting = place.get("coder", "/v1/messages?wait=20");
    let sending = place.post(
        "planner",
        "/v1/send",
        json!({"to": "coder@gw-a", "body": "now"}),
    );
    let (received, sent) = tokio::join!(waiting, sending);

    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(
        received.body["messages"][0]["body"],
        json!("now"),
        "{received:?}"
    );
}

#[tokio::test]
async fn a_question_is_answered_over_a_stream() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    let mut events = place.follow("coder").await;

    let asking = place.post(
        "planner",
        "/v1/ask",
        json!({"to": "coder@gw-a", "body": "6 * 7?", "timeout_ms": 15000}),
    );
    let answering = async {
        let question = events.next().await;
        assert_eq!(question["reply_expected"], json!(true));
        let path = format!(
            "/v1/messages/{}/reply",
            question["id"].as_str().expect("an id")
        );
        place
            .post("coder", &path, json!({"body_base64": "/w=="}))
            .await
    };
    let (answer, replied) = tokio::join!(asking, answering);

    assert_eq!(replied.status, 200, "{replied:?}");
    assert_eq!(answer.body["state"], json!("done"), "{answer:?}");
    assert_eq!(answer.body["reply"]["from"], json!("coder@gw-a"));
    assert_eq!(answer.body["reply"]["body_base64"], json!("/w=="));
}

#[tokio::test]
async fn a_message_that_was_given_back_comes_again_with_a_higher_attempt() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    let mut events = place.follow("coder").await;
    place
        .post(
            "planner",
            "/v1/send",
            json!({"to": "coder@gw-a", "body": "hard"}),
        )
        .await;

    let first = events.next().await;
    let path = format!(
        "/v1/messages/{}/release",
        first["id"].as_str().expect("an id")
    );
    place.post("coder", &path, json!({})).await;
    let second = events.next().await;

    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        (&first["attempt"], &second["attempt"]),
        (&json!(1), &json!(2))
    );
    let ids = json!({"ids": [second["id"]]});
    let acked = place.post("coder", "/v1/messages/ack", ids).await;
    assert!(acked.body["results"][0]["error"].is_null(), "{acked:?}");
}

#[tokio::test]
async fn what_no_grant_allows_is_denied_with_the_grant_that_is_missing() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;

    let denied = place
        .post(
            "coder",
            "/v1/send",
            json!({"to": "planner@gw-a", "body": "hi"}),
        )
        .await;

    assert_eq!((denied.status, denied.code()), (403, "denied"));
    assert_eq!(denied.body["state"], json!("denied"));
    assert!(denied.body["id"].is_string());
    let grant = denied.body["error"]["missing_grant"]
        .as_str()
        .expect("a grant");
    assert!(grant.contains("coder") && grant.contains("send"), "{grant}");
    assert_eq!(denied.body["error"]["cause"], json!("no_grant"));
    assert!(denied.body["error"].get("rule").is_none());
    let nowhere = place
        .post("planner", "/v1/send", json!({"to": "coder@gw-z"}))
        .await;
    assert_eq!((nowhere.status, nowhere.code()), (404, "unknown_gateway"));
}

#[tokio::test]
async fn a_guard_that_denies_is_named_and_one_that_makes_wait_is_no_failure() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("narrow").await;
    let send = |body: &str| json!({"to": "narrow@gw-a", "body": body});

    let denied = place.post("planner", "/v1/send", send("eleven byte")).await;
    assert_eq!((denied.status, denied.code()), (403, "denied"));
    let error = &denied.body["error"];
    assert_eq!(
        (&error["cause"], &error["rule"]),
        (&json!("guard"), &json!("g-narrow"))
    );

    place.post("planner", "/v1/send", send("1")).await;
    let asked = json!({"to": "narrow@gw-a", "body": "2", "timeout_ms": 200});
    let waits = place.post("planner", "/v1/ask", asked).await;
    assert_eq!(waits.body["state"], json!("accepted"), "{}", waits.body);
    assert_eq!(waits.code(), "timeout");
    let id = waits.body["id"].as_str().expect("an id");
    let status = place.get("planner", &format!("/v1/messages/{id}")).await;
    assert_eq!(status.body["state"], json!("accepted"));
    assert_eq!(status.body["error"]["code"], json!("throttled"));
    let metrics = place.get("planner", "/v1/metrics").await.text;
    assert!(
        metrics.contains("\ncrabmesh_messages_throttled_total 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_question_without_an_answer_ends_with_the_state_so_far() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;

    let body = json!({"to": "coder@gw-a", "body": "?", "timeout_ms": 50});
    let asked = place.post("planner", "/v1/ask", body).await;

    assert_eq!((asked.status, asked.code()), (200, "timeout"), "{asked:?}");
    assert!(["accepted", "stored"].contains(&asked.body["state"].as_str().expect("a state")));
    assert!(asked.body["id"].is_string());
}

#[tokio::test]
async fn the_admin_acts_for_an_agent_and_an_agent_for_itself_alone() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;

    let headers = vec![("x-crabmesh-agent", "planner".to_owned())];
    let call = Call {
        headers: headers.clone(),
        ..place.admin()
    };
    let sent = place
        .call(
            &call,
            "POST",
            "/v1/send",
            r#"{"to": "coder@gw-a", "body": "x"}"#,
        )
        .await;
    assert_eq!(sent.status, 200, "{sent:?}");

    let call = Call {
        headers,
        ..place.agent("coder")
    };
    assert_eq!(
        place.call(&call, "GET", "/v1/messages", "").await.code(),
        "another_agent"
    );
    let headers = vec![("x-crabmesh-agent", "nobody".to_owned())];
    let call = Call {
        headers,
        ..place.admin()
    };
    assert_eq!(
        place.call(&call, "GET", "/v1/messages", "").await.code(),
        "unknown_agent"
    );
}

#[tokio::test]
async fn a_configured_admin_needs_no_token_on_the_socket() {
    let uid = rustix::process::geteuid().as_raw();
    let mut place = Place::with(ApiConfig {
        admin_uids: vec![uid],
        ..ApiConfig::default()
    })
    .await;
    place.add("planner").await;

    let call = |unix| Call {
        unix,
        token: None,
        headers: Vec::new(),
    };
    assert_eq!(
        place
            .call(&call(true), "GET", "/v1/status", "")
            .await
            .status,
        200
    );
    assert_eq!(
        place
            .call(&call(false), "GET", "/v1/status", "")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn the_admin_applies_a_kill_file_and_hears_why_not() {
    let place = Place::open().await;
    let apply = async |file: &str| {
        let body = json!({ "file": file }).to_string();
        place
            .call(&place.admin(), "POST", "/v1/admin/kill", &body)
            .await
    };
    let file = |set: &[u8]| identity::KillFile::from_parts(b"log", set).to_text();

    let applied = apply(&file(b"good")).await;
    assert_eq!(
        (applied.status, &applied.body["version"]),
        (200, &json!("1.2"))
    );
    assert_eq!(applied.body["peers"], json!(3));

    let forged = apply(&file(b"forged")).await;
    assert_eq!((forged.status, forged.code()), (400, "kill_refused"));
    let half = file(b"good");
    for (garbage, says) in [
        ("hello", "cmk1"),
        (&half[..half.len() / 2], "damaged"),
        ("cmt1aaaa", "join token"),
    ] {
        let refused = apply(garbage).await;
        assert_eq!((refused.status, refused.code()), (400, "kill_refused"));
        let reason = refused.body["error"]["reason"].to_string();
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn an_agent_that_calls_too_often_is_told_so() {
    let config = ApiConfig {
        calls_per_second: 0.001,
        burst: 3.0,
        ..ApiConfig::default()
    };
    let mut place = Place::with(config).await;
    place.add("planner").await;
    place.add("coder").await;

    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(place.get("planner", "/v1/health").await.status);
    }

    assert_eq!(seen, [200, 200, 200, 429]);
    assert_eq!(
        place.get("coder", "/v1/health").await.status,
        200,
        "the others go on"
    );
}

#[tokio::test]
async fn agents_come_and_go_with_their_tokens() {
    let mut place = Place::open().await;
    let first = place.add("planner").await;
    let admin = place.admin();

    let rotated = place
        .call(&admin, "POST", "/v1/admin/agents/planner/rotate", "{}")
        .await;
    let second = rotated.body["token"].as_str().expect("a token").to_owned();
    let with = |token| Call {
        unix: false,
        token: Some(token),
        headers: Vec::new(),
    };
    assert_eq!(
        place
            .call(&with(&first), "GET", "/v1/health", "")
            .await
            .status,
        401
    );
    assert_eq!(
        place
            .call(&with(&second), "GET", "/v1/health", "")
            .await
            .status,
        200
    );

    let list = place.call(&admin, "GET", "/v1/admin/agents", "").await;
    assert_eq!(list.body["agents"][0]["name"], json!("planner"));
    assert!(list.body["agents"][0]["idle_s"].is_u64(), "{list:?}");
    assert!(!list.text.contains("cma_"), "a token is shown once");
    let again = place
        .call(&admin, "POST", "/v1/admin/agents", r#"{"name": "planner"}"#)
        .await;
    assert_eq!((again.status, again.code()), (409, "exists"));

    assert_eq!(
        place
            .call(&admin, "DELETE", "/v1/admin/agents/planner", "")
            .await
            .status,
        204
    );
    assert_eq!(
        place
            .call(&admin, "DELETE", "/v1/admin/agents/planner", "")
            .await
            .status,
        404
    );
    assert_eq!(
        place
            .call(&with(&second), "GET", "/v1/health", "")
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn the_node_tells_how_it_stands() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let admin = place.admin();

    let status = place.call(&admin, "GET", "/v1/status", "").await;
    assert_eq!(status.body["node"]["isolation"], json!("none"));
    assert_eq!(
        place.call(&admin, "GET", "/v1/policy", "").await.code(),
        "no_policy"
    );
    let agents = place.get("planner", "/v1/agents").await;
    assert_eq!(agents.body["agents"][0]["address"], json!("coder@gw-b"));
    let metrics = place.get("planner", "/v1/metrics").await.text;
    assert!(
        metrics.contains("\ncrabmesh_api_calls_total ") && metrics.ends_with("played 1\n"),
        "{metrics}"
    );
    let document = place.get("planner", "/v1/openapi.json").await;
    assert_eq!(document.text, api::OPENAPI);

    let ping = place
        .post("planner", "/v1/ping", json!({"target": "gw-b"}))
        .await;
    assert_eq!(
        ping.body,
        json!({"path": {"kind": "none", "remote": null}, "rtt_ms": 1.5})
    );
    let lost = place
        .post(
            "planner",
            "/v1/ping",
            json!({"target": "silent", "timeout_ms": 20}),
        )
        .await;
    assert_eq!((lost.status, &lost.body["rtt_ms"]), (200, &Value::Null));
    let denied = place
        .post("planner", "/v1/ping", json!({"target": "coder@gw-b"}))
        .await;
    assert_eq!((denied.status, denied.code()), (403, "denied"));
}

#[tokio::test]
async fn a_state_directory_with_a_long_path_has_its_socket_elsewhere() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = node::state::StateDir::create(&home.path().join("d".repeat(120))).expect("made");

    let place = Place::on(home, state, ApiConfig::default()).await;

    assert!(
        place.socket.as_os_str().len() < 108,
        "{}",
        place.socket.display()
    );
    assert_eq!(
        place
            .call(&place.admin(), "GET", "/v1/health", "")
            .await
            .status,
        200
    );
    let noted: api::Endpoints = place
        .state
        .read_json("api.json")
        .expect("readable")
        .expect("there");
    assert_eq!(
        (noted.socket, noted.loopback),
        (place.socket.clone(), place.loopback)
    );
}

#[tokio::test]
async fn whoever_waits_is_let_go_when_the_node_stops() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    let mut events = place.follow("coder").await;
    let stop = place.stop.take().expect("it runs");

    let waiting = place.get("planner", "/v1/messages?wait=20");
    let stopping = async {
        // Asked first, so that the other call is being answered by now.
        assert_eq!(place.get("planner", "/v1/health").await.status, 200);
        drop(stop);
    };
    let (waited, ()) = tokio::join!(waiting, stopping);

    assert_eq!(
        (waited.status, waited.code()),
        (503, "stopping"),
        "{waited:?}"
    );
    assert!(events.end().await, "the stream goes on");
}

impl Answered {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn reason(&self) -> &str {
        self.body["error"]["reason"].as_str().unwrap_or_default()
    }
}

const ID: &str = "019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d";
