//! Answers in parts, messages that are taken back, and messages that are rejected.

use serde_json::{Value, json};

use crate::place::{Answered, Call, Events, Place};

#[tokio::test]
async fn an_answer_comes_in_parts_and_then_whole() {
    let mut asked = Asked::open().await;
    let path = format!("/v1/messages/{}/parts", asked.id);

    let lines = "{\"seq\":1,\"text\":\"for\"}\n{\"seq\":2,\"text\":\"ty\"}\n\n{\"seq\":3,\"base64\":\"/w==\",\"kind\":\"sound\"}";
    let taken = asked.publish(&path, lines).await;
    assert_eq!(
        (taken.status, &taken.body),
        (200, &json!({"next": 4, "closed": false}))
    );
    let again = asked.publish(&path, "{\"seq\":2,\"text\":\"ty\"}").await;
    assert_eq!(again.body["next"], json!(4), "a part comes once");
    asked.reply("forty-two").await;

    let part = |n: u64, rest: Value| {
        let mut data = json!({"seq": n});
        let fields = data.as_object_mut().expect("an object");
        fields.extend(rest.as_object().expect("an object").clone());
        ("part".to_owned(), format!("1.{n}"), data)
    };
    assert_eq!(asked.asker.event().await, part(1, json!({"text": "for"})));
    assert_eq!(asked.asker.event().await, part(2, json!({"text": "ty"})));
    let sound = json!({"base64": "/w==", "kind": "sound"});
    assert_eq!(asked.asker.event().await, part(3, sound));
    let (name, _, answer) = asked.asker.event().await;
    assert_eq!((&*name, &answer["state"]), ("answer", &json!("done")));
    assert_eq!(answer["reply"]["body"], json!("forty-two"));
    assert!(asked.asker.is_over().await, "the answer is the last event");

    let late = asked.publish(&path, "{\"seq\":4,\"text\":\"late\"}").await;
    assert_eq!((late.status, late.code()), (409, "no_open_request"));
}

#[tokio::test]
async fn who_lost_the_connection_takes_the_parts_up_from_where_it_was() {
    let mut asked = Asked::open().await;
    let path = format!("/v1/messages/{}/parts", asked.id);
    asked
        .publish(
            &path,
            "{\"seq\":1,\"text\":\"a\"}\n{\"seq\":2,\"text\":\"b\"}",
        )
        .await;
    assert_eq!(asked.asker.event().await.1, "1.1");

    let headers = vec![("last-event-id", "1.1".to_owned())];
    let call = Call {
        headers,
        ..asked.place.agent("planner")
    };
    let mut again = asked.place.events(&call, "GET", &path, "").await;
    drop(asked.asker);
    assert_eq!(again.event().await.1, "1.2");
    let tail = format!("{path}?after=1.2");
    let mut third = asked
        .place
        .events(&asked.place.agent("planner"), "GET", &tail, "")
        .await;
    asked
        .place
        .call(
            &ndjson(&asked.place),
            "POST",
            &path,
            "{\"seq\":3,\"text\":\"c\"}",
        )
        .await;
    assert_eq!(third.event().await.1, "1.3");
    drop(again);
    let reply = format!("/v1/messages/{}/reply", asked.id);
    asked
        .place
        .post("coder", &reply, json!({"body": "abc"}))
        .await;
    let (name, _, answer) = third.event().await;
    assert_eq!(
        (&*name, &answer["reply"]["body"]),
        ("answer", &json!("abc"))
    );
}

#[tokio::test]
async fn an_agent_that_begins_anew_voids_what_it_said_before() {
    let mut asked = Asked::open().await;
    let path = format!("/v1/messages/{}/parts", asked.id);
    asked.publish(&path, "{\"seq\":1,\"text\":\"wrong\"}").await;
    assert_eq!(asked.asker.event().await.0, "part");
    let release = format!("/v1/messages/{}/release", asked.id);
    asked.place.post("coder", &release, json!({})).await;
    assert_eq!(asked.worker.event().await.2["attempt"], json!(2));

    asked.publish(&path, "{\"seq\":1,\"text\":\"right\"}").await;

    let (name, _, data) = asked.asker.event().await;
    assert_eq!((&*name, data), ("restart", json!({"attempt": 2})));
    assert_eq!(asked.asker.event().await.1, "2.1");
    let stale = asked
        .publish(&format!("{path}?attempt=1"), "{\"seq\":2,\"text\":\"x\"}")
        .await;
    assert_eq!((stale.status, stale.code()), (409, "stale"));
    let ahead = asked
        .publish(&format!("{path}?attempt=3"), "{\"seq\":2,\"text\":\"x\"}")
        .await;
    assert_eq!((ahead.status, ahead.code()), (409, "stale"));
}

#[tokio::test]
async fn parts_that_make_no_sense_are_refused_and_name_the_fault() {
    let asked = Asked::open().await;
    let path = format!("/v1/messages/{}/parts", asked.id);
    let long = "x".repeat(65 * 1024);
    for (lines, status, code, fault) in [
        (
            "{\"seq\":0,\"text\":\"a\"}".to_owned(),
            400,
            "schema",
            "number from 1",
        ),
        (
            "{\"seq\":2,\"text\":\"a\"}\n{\"seq\":4,\"text\":\"b\"}".into(),
            409,
            "gap",
            "part 3",
        ),
        ("{\"seq\":1".into(), 400, "schema", "EOF"),
        (
            "{\"seq\":1,\"text\":\"a\",\"tone\":1}".into(),
            400,
            "schema",
            "tone",
        ),
        (
            "{\"seq\":1,\"text\":\"a\",\"base64\":\"YQ==\"}".into(),
            400,
            "schema",
            "body",
        ),
        (
            "{\"seq\":9,\"text\":\"a\",\"kind\":\"Big\"}".into(),
            400,
            "schema",
            "kind",
        ),
        (
            format!("{{\"seq\":3,\"text\":\"{long}\"}}"),
            400,
            "schema",
            "64 KiB",
        ),
        ("y".repeat(500 * 1024), 400, "schema", "longer"),
    ] {
        let refused = asked.publish(&path, &lines).await;
        let short: String = lines.chars().take(60).collect();
        assert_eq!(
            (refused.status, refused.code()),
            (status, code),
            "{short}: {refused:?}"
        );
        assert!(refused.reason().contains(fault), "{short}: {refused:?}");
    }
    let wrong = asked
        .place
        .get("planner", &format!("{path}?after=now"))
        .await;
    assert_eq!((wrong.status, wrong.code()), (400, "schema"));
}

#[tokio::test]
async fn who_wants_the_answer_alone_is_sent_no_parts() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    let sent = json!({"to": "coder@gw-a", "body": "hi", "reply_expected": true});
    let id = place.post("planner", "/v1/send", sent).await.body["id"].clone();
    let path = format!("/v1/messages/{}/parts", id.as_str().expect("an id"));
    place.get("coder", "/v1/messages").await;

    let refused = place
        .call(&ndjson(&place), "POST", &path, "{\"seq\":1,\"text\":\"a\"}")
        .await;
    assert_eq!((refused.status, refused.code()), (409, "not_wanted"));
    let planner = Call {
        headers: ndjson(&place).headers,
        ..place.agent("planner")
    };
    let other = place.call(&planner, "POST", &path, "{}").await;
    assert_eq!((other.status, other.code()), (404, "not_found"));
}

#[tokio::test]
async fn a_question_in_parts_needs_a_grant_of_streams() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("narrow").await;
    let ask = json!({"to": "narrow@gw-a", "body": "hi", "stream": true});
    let refused = place.post("planner", "/v1/ask", ask).await;
    assert_eq!(
        (refused.status, &refused.body["state"]),
        (403, &json!("denied"))
    );
    let grant = refused.body["error"]["missing_grant"]
        .as_str()
        .expect("a grant");
    assert!(grant.contains("stream"), "{grant}");
}

#[tokio::test]
async fn who_works_on_what_is_taken_back_hears_so_everywhere() {
    let mut asked = Asked::open().await;
    let parts = format!("/v1/messages/{}/parts", asked.id);
    asked.publish(&parts, "{\"seq\":1,\"text\":\"a\"}").await;
    assert_eq!(asked.asker.event().await.0, "part");

    let cancel = format!("/v1/messages/{}/cancel", asked.id);
    let taken = asked.place.post("planner", &cancel, json!({})).await;
    assert_eq!(
        (taken.status, &taken.body["state"]),
        (200, &json!("failed"))
    );
    assert_eq!(taken.body["error"]["code"], json!("cancelled"));

    let (name, _, answer) = asked.asker.event().await;
    assert_eq!(
        (&*name, &answer["error"]["code"]),
        ("answer", &json!("cancelled"))
    );
    let (name, _, data) = asked.worker.event().await;
    assert_eq!((&*name, &data["id"]), ("cancel", &json!(asked.id)));
    let late = asked.publish(&parts, "{\"seq\":2,\"text\":\"b\"}").await;
    assert_eq!((late.status, late.code()), (409, "cancelled"));
    for verb in ["heartbeat", "reply"] {
        let path = format!("/v1/messages/{}/{verb}", asked.id);
        let body = if verb == "reply" {
            json!({"body": "x"})
        } else {
            json!({})
        };
        let refused = asked.place.post("coder", &path, body).await;
        assert_eq!(
            (refused.status, refused.code()),
            (409, "cancelled"),
            "{verb}"
        );
    }
    let foreign = asked.place.post("coder", &cancel, json!({})).await;
    assert_eq!((foreign.status, foreign.code()), (404, "not_found"));
}

#[tokio::test]
async fn what_an_agent_rejects_has_failed_and_its_sender_hears_no_foreign_words() {
    let mut asked = Asked::open().await;
    let path = format!("/v1/messages/{}/reject", asked.id);
    let long = json!({"reason": "x".repeat(2000)});
    assert_eq!(asked.place.post("coder", &path, long).await.status, 400);

    let rejected = asked
        .place
        .post("coder", &path, json!({"reason": "not mine"}))
        .await;

    assert_eq!(rejected.status, 200, "{rejected:?}");
    let (name, _, answer) = asked.asker.event().await;
    assert_eq!((&*name, &answer["state"]), ("answer", &json!("failed")));
    assert_eq!(answer["error"]["code"], json!("rejected"));
    assert!(!answer.to_string().contains("not mine"));
}

#[tokio::test]
async fn two_agents_that_answer_everything_are_refused_at_the_api() {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    let first = place
        .post(
            "planner",
            "/v1/send",
            json!({"to": "coder@gw-a", "body": "hi", "cause": "none"}),
        )
        .await;
    assert_eq!(first.status, 200);
    let shown = place.get("coder", "/v1/messages?wait=5").await.body["messages"][0].clone();
    assert_eq!(
        (&shown["depth"], &shown["root"]),
        (&json!(0), &first.body["id"])
    );
    let stray = json!({"to": "coder@gw-a", "body": "hi", "cause": first.body["id"]});
    let refused = place.post("planner", "/v1/send", stray).await;
    assert_eq!(
        refused.code(),
        "unknown_cause",
        "it was never shown to its own sender"
    );
    let wrong = json!({"to": "coder@gw-a", "body": "hi", "cause": "because"});
    assert_eq!(
        place.post("planner", "/v1/send", wrong).await.code(),
        "schema"
    );
    let wrong = json!({"to": "coder@gw-a", "body": "hi", "conversation": "a b"});
    assert_eq!(
        place.post("planner", "/v1/send", wrong).await.code(),
        "schema"
    );
}

/// `planner` asks `coder` in parts, and `coder` was shown it.
struct Asked {
    place: Place,
    asker: Events,
    worker: Events,
    id: String,
}

impl Asked {
    async fn open() -> Self {
        let mut place = Place::open().await;
        place.add("planner").await;
        place.add("coder").await;
        let mut worker = place.follow("coder").await;
        let ask =
            json!({"to": "coder@gw-a", "body": "6 * 7?", "stream": true, "timeout_ms": 15000});
        let planner = place.agent("planner");
        let mut asker = place
            .events(&planner, "POST", "/v1/ask", &ask.to_string())
            .await;
        let (name, _, accepted) = asker.event().await;
        assert_eq!(
            (&*name, &accepted["state"]),
            ("accepted", &json!("accepted"))
        );
        let shown = worker.event().await.2;
        assert_eq!(
            (&shown["id"], &shown["stream"]),
            (&accepted["id"], &json!(true))
        );
        let id = shown["id"].as_str().expect("an id").to_owned();
        Self {
            place,
            asker,
            worker,
            id,
        }
    }

    async fn publish(&self, path: &str, lines: &str) -> Answered {
        self.place
            .call(&ndjson(&self.place), "POST", path, lines)
            .await
    }

    async fn reply(&self, body: &str) {
        let path = format!("/v1/messages/{}/reply", self.id);
        let replied = self.place.post("coder", &path, json!({"body": body})).await;
        assert_eq!(replied.status, 200, "{replied:?}");
    }
}

/// `coder`, line by line.
fn ndjson(place: &Place) -> Call<'_> {
    Call {
        headers: vec![("content-type", "application/x-ndjson".to_owned())],
        ..place.agent("coder")
    }
}
