//! Agents that the node serves: from the call that adds one to the one that removes it.

use serde_json::{Value, json};

use crate::place::{Answered, Place};

#[tokio::test]
async fn an_agent_is_served_from_its_adding_to_its_removal() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let added = admin(
        &place,
        "POST",
        "",
        json!({"name": "coder", "worker": cat("one")}),
    )
    .await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!(added.body.get("worker_secret"), None, "a command has none");

    assert_eq!(ask(&place).await, "? one");

    let shown = admin(&place, "GET", "/coder", Value::Null).await;
    let worker = &shown.body["worker"];
    assert_eq!(
        (&worker["worker"]["kind"], &worker["state"], &worker["done"]),
        (&json!("exec"), &json!("ok"), &json!(1)),
        "{shown:?}"
    );
    let metrics = place.get("planner", "/v1/metrics").await.text;
    let line = r#"crabmesh_worker_done_total{agent="coder",worker="exec"} 1"#;
    assert!(metrics.contains(line), "{metrics}");

    let set = admin(
        &place,
        "POST",
        "/coder/worker",
        json!({"worker": cat("two")}),
    )
    .await;
    assert_eq!(set.status, 200, "{set:?}");
    assert_eq!(ask(&place).await, "? two");

    // From here on it calls the API itself, as everybody.
    let set = admin(&place, "POST", "/coder/worker", json!({"worker": null})).await;
    assert_eq!(set.status, 200, "{set:?}");
    let shown = admin(&place, "GET", "/coder", Value::Null).await;
    assert_eq!(shown.body.get("worker"), None);
    let removed = admin(&place, "DELETE", "/coder", Value::Null).await;
    assert_eq!(removed.status, 204);
}

#[tokio::test]
async fn an_answer_comes_in_parts_where_they_are_wanted() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let script = r#"echo one; read -r wait; echo "two $CRABMESH_STREAM""#;
    let worker = json!({"kind": "exec", "command": ["sh", "-c", script]});
    admin(
        &place,
        "POST",
        "",
        json!({"name": "coder", "worker": worker}),
    )
    .await;

    let body = json!({"to": "coder@gw-a", "body": "?\n", "stream": true}).to_string();
    let call = place.agent("planner");
    let mut events = place.events(&call, "POST", "/v1/ask", &body).await;

    assert_eq!(events.event().await.0, "accepted");
    let part = |seq: u64, text: &str| {
        let data = json!({"seq": seq, "text": text});
        ("part".to_owned(), format!("1.{seq}"), data)
    };
    assert_eq!(events.event().await, part(1, "one\n"));
    assert_eq!(events.event().await, part(2, "two 1\n"));
    let (name, _, answer) = events.event().await;
    assert_eq!(
        (&*name, &answer["reply"]["body"]),
        ("answer", &json!("one\ntwo 1\n"))
    );
}

#[tokio::test]
async fn a_try_that_failed_after_its_first_part_leaves_the_next_without() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let script = r#"echo "try $CRABMESH_ATTEMPT"; test "$CRABMESH_ATTEMPT" = 2"#;
    let worker = json!({"kind": "exec", "command": ["sh", "-c", script]});
    admin(
        &place,
        "POST",
        "",
        json!({"name": "coder", "worker": worker}),
    )
    .await;

    let body = json!({"to": "coder@gw-a", "body": "?", "stream": true}).to_string();
    let call = place.agent("planner");
    let mut events = place.events(&call, "POST", "/v1/ask", &body).await;

    assert_eq!(events.event().await.0, "accepted");
    assert_eq!(events.event().await.2["text"], json!("try 1\n"));
    let (name, _, answer) = events.event().await;
    assert_eq!(
        (&*name, &answer["reply"]["body"]),
        ("answer", &json!("try 2\n"))
    );
}

#[tokio::test]
async fn a_worker_that_fails_says_so_and_its_asker_hears_of_it() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let worker = json!({"kind": "http", "url": "http://127.0.0.1:1/"});
    admin(
        &place,
        "POST",
        "",
        json!({"name": "coder", "worker": worker}),
    )
    .await;

    let body = json!({"to": "coder@gw-a", "body": "?", "timeout_ms": 1000});
    let asked = place.post("planner", "/v1/ask", body).await;

    assert_eq!(asked.body["error"]["code"], json!("timeout"), "{asked:?}");
    let shown = admin(&place, "GET", "/coder", Value::Null).await;
    let worker = &shown.body["worker"];
    assert_eq!(
        (&worker["state"], &worker["why"]),
        (&json!("failing"), &json!("connection refused")),
        "{shown:?}"
    );
}

#[tokio::test]
async fn a_secret_is_shown_when_it_is_made_and_never_again() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let worker = json!({"kind": "http", "url": "http://127.0.0.1:1/"});

    let added = admin(
        &place,
        "POST",
        "",
        json!({"name": "coder", "worker": worker}),
    )
    .await;
    let rotated = admin(&place, "POST", "/coder/rotate", json!({})).await;
    let set = admin(&place, "POST", "/coder/worker", json!({"worker": worker})).await;
    let brought =
        json!({"worker": worker, "worker_secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"});
    let taken = admin(&place, "POST", "/coder/worker", brought).await;

    let mut secrets: Vec<_> = [&added, &rotated, &set]
        .map(|answer| {
            answer.body["worker_secret"]
                .as_str()
                .expect("made")
                .to_owned()
        })
        .into();
    assert!(secrets.iter().all(|secret| secret.starts_with("whsec_")));
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 3, "each is another");
    assert_eq!((taken.status, taken.body.get("worker_secret")), (200, None));
    let list = admin(&place, "GET", "", Value::Null).await;
    assert!(!list.text.contains("whsec_"), "{list:?}");
}

#[tokio::test]
async fn a_worker_that_makes_no_sense_is_refused_and_nothing_is_added() {
    let mut place = Place::open().await;
    place.add("planner").await;
    for worker in [
        json!({"kind": "http", "url": "http://example.com/"}),
        json!({"kind": "http", "url": "https://a:b@example.com/"}),
        json!({"kind": "http", "url": "https://example.com/", "timeout_s": 0}),
        json!({"kind": "http"}),
        json!({"kind": "exec", "command": []}),
        json!({"kind": "exec", "command": ["./here"]}),
        json!({"kind": "exec", "command": ["cat"], "colour": "green"}),
        json!({"kind": "carrier pigeon"}),
    ] {
        let add = json!({"name": "coder", "worker": worker});
        let refused = admin(&place, "POST", "", add).await;
        assert_eq!(refused.status, 400, "{worker}: {refused:?}");
    }
    let secret = json!({"name": "coder", "worker_secret": "whsec_AAAA"});
    assert_eq!(admin(&place, "POST", "", secret).await.status, 400);
    let secret = json!({"name": "coder", "worker": cat(""), "worker_secret": "whsec_AAAA"});
    assert_eq!(admin(&place, "POST", "", secret).await.status, 400);
    let weak = json!({"kind": "http", "url": "https://example.com/"});
    let weak = json!({"name": "coder", "worker": weak, "worker_secret": "whsec_AAAA"});
    let refused = admin(&place, "POST", "", weak).await;
    assert_eq!(refused.status, 400);
    assert!(!refused.text.contains("AAAA"), "{refused:?}");
    let list = admin(&place, "GET", "", Value::Null).await;
    assert_eq!(list.body["agents"].as_array().map(Vec::len), Some(1));
}

async fn ask(place: &Place) -> String {
    let body = json!({"to": "coder@gw-a", "body": "?", "timeout_ms": 15000});
    let asked = place.post("planner", "/v1/ask", body).await;
    let reply = asked.body["reply"]["body"].as_str();
    reply.unwrap_or_else(|| panic!("{asked:?}")).to_owned()
}

async fn admin(place: &Place, verb: &str, path: &str, body: Value) -> Answered {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let path = format!("/v1/admin/agents{path}");
    place.call(&place.admin(), verb, &path, &body).await
}

fn cat(word: &str) -> Value {
    let script = format!("cat; printf ' {word}'");
    json!({"kind": "exec", "command": ["sh", "-c", script]})
}
