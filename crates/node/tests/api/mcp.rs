//! `/mcp` over the real listeners, by hand: what a client that follows the protocol never sends,
//! and whose a session is. Clients that do follow it are in `crates/cli/tests/mcp.rs`.

use serde_json::{Value, json};

use crate::place::{Answered, Call, Place};

#[tokio::test]
async fn a_session_is_worth_nothing_with_another_agents_token() {
    let place = opened().await;
    let session = initialize(&place.agent("planner"), &place).await;
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});

    for (method, body) in [("POST", list.to_string()), ("GET", String::new())] {
        let foreign = within(place.agent("coder"), &session);
        let answered = place.call(&foreign, method, "/mcp", &body).await;
        assert_eq!(answered.status, 404, "{method}: {answered:?}");
    }
    // Ending it is answered as ending one that is gone, and ends nothing.
    let foreign = within(place.agent("coder"), &session);
    place.call(&foreign, "DELETE", "/mcp", "").await;
    let stranger = within(
        Call {
            token: Some("cma_wrong"),
            ..place.agent("coder")
        },
        &session,
    );
    let answered = place
        .call(&stranger, "POST", "/mcp", &list.to_string())
        .await;
    assert_eq!((answered.status, answered.code()), (401, "unauthorized"));

    let own = within(place.agent("planner"), &session);
    let tools = place.mcp(&own, &list).await;
    assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(6));
}

#[tokio::test]
async fn a_session_ends_when_its_client_ends_it_and_when_its_agent_is_removed() {
    let place = opened().await;
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let session = initialize(&place.agent("planner"), &place).await;
    let own = within(place.agent("planner"), &session);

    let ended = place.call(&own, "DELETE", "/mcp", "").await;

    assert_eq!(ended.status, 202);
    let gone = place.call(&own, "POST", "/mcp", &list.to_string()).await;
    assert_eq!(gone.status, 404, "{gone:?}");

    let session = initialize(&place.agent("planner"), &place).await;
    let mut own = within(place.agent("planner"), &session);
    own.headers.push(("connection", "close".into()));
    let mut stream = place.events_of(&own).await;
    place
        .call(&place.admin(), "DELETE", "/v1/admin/agents/planner", "")
        .await;
    assert!(stream.end().await, "its stream outlives the agent");
}

#[tokio::test]
async fn the_admin_is_no_agent_and_may_act_for_one() {
    let place = opened().await;
    let body = initialization().to_string();

    let refused = place.call(&mcp(place.admin()), "POST", "/mcp", &body).await;

    assert_eq!((refused.status, refused.code()), (400, "agent_missing"));
    assert!(refused.text.contains("X-Crabmesh-Agent"), "{refused:?}");
    let mut acting = place.admin();
    acting.headers.push(("x-crabmesh-agent", "planner".into()));
    initialize(&acting, &place).await;
}

#[tokio::test]
async fn what_is_no_message_of_the_protocol_is_refused_in_its_words() {
    let place = opened().await;
    let agent = mcp(place.agent("planner"));
    for (body, status, code) in [
        ("{", 400, -32700),
        ("", 400, -32700),
        ("[]", 400, -32600),
        ("42", 400, -32600),
        (
            r#"{"jsonrpc": "1.0", "id": 1, "method": "ping"}"#,
            400,
            -32600,
        ),
    ] {
        let answered = place.call(&agent, "POST", "/mcp", body).await;
        let seen = answered.body["error"]["code"].as_i64();
        assert_eq!(
            (answered.status, seen),
            (status, Some(code)),
            "{body}: {answered:?}"
        );
    }
    let large = format!(r#"{{"jsonrpc": "2.0", "x": "{}"}}"#, "a".repeat(2 << 20));
    let answered = place.call(&agent, "POST", "/mcp", &large).await;
    assert_eq!((answered.status, answered.code()), (413, "too_large"));
    let ping = r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#;
    let answered = place.call(&agent, "POST", "/mcp", ping).await;
    assert_eq!(
        answered.status, 400,
        "a call without a session: {answered:?}"
    );
    let deaf = Call {
        headers: vec![("accept", "application/json".into())],
        ..place.agent("planner")
    };
    assert_eq!(place.call(&deaf, "POST", "/mcp", ping).await.status, 406);
    let browser = Call {
        headers: vec![("origin", format!("http://{}", place.loopback))],
        ..place.agent("planner")
    };
    let answered = place.call(&browser, "POST", "/mcp", ping).await;
    assert_eq!((answered.status, answered.code()), (403, "foreign_origin"));
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_told_to_the_model() {
    let place = opened().await;
    let session = initialize(&place.agent("planner"), &place).await;
    let own = within(place.agent("planner"), &session);
    for (tool, arguments, said) in [
        (
            "mesh_send",
            json!({"to": "coder@gw-a"}),
            "missing field `text`",
        ),
        ("mesh_send", json!({"to": 3, "text": "hi"}), "invalid type"),
        (
            "mesh_send",
            json!({"to": "coder", "text": "hi"}),
            "no agent@gateway",
        ),
        (
            "mesh_agents",
            json!({"colour": "green"}),
            "unknown field `colour`",
        ),
        ("mesh_reply", json!({"id": "x", "text": "hi"}), "schema"),
        ("mesh_ack", json!({"ids": []}), "give 1 to"),
        (
            "mesh_ask",
            json!({"to": "coder@gw-a", "text": "hi", "timeout_s": -1}),
            "invalid value",
        ),
        (
            "mesh_send",
            json!({"to": "coder@gw-a", "text": "a".repeat(262_145)}),
            "too_large",
        ),
    ] {
        let result = call(&place, &own, tool, arguments).await;
        let words = result["content"][0]["text"].as_str().unwrap_or_default();
        assert_eq!(result["isError"], json!(true), "{tool}: {result}");
        assert!(words.contains(said), "{tool}: {words}");
        assert!(words.contains("What to do: "), "{tool}: {words}");
    }
}

#[tokio::test]
async fn a_refusal_says_who_and_what_is_missing() {
    let place = opened().await;
    let session = initialize(&place.agent("coder"), &place).await;
    let own = within(place.agent("coder"), &session);
    let to = json!({"to": "planner@gw-a", "text": "hi"});

    let result = call(&place, &own, "mesh_ask", to).await;

    let error = &result["structuredContent"]["error"];
    assert_eq!(error["code"], "denied", "{result}");
    assert_eq!(error["agent"], "planner@gw-a");
    let grant = error["missing_grant"].as_str().expect("the grant");
    assert!(
        grant.contains("coder") && grant.contains("planner"),
        "{grant}"
    );
    let words = result["content"][0]["text"].as_str().expect("words");
    assert!(
        words.contains(grant) && words.contains("operator"),
        "{words}"
    );

    let nobody = json!({"to": "coder@gw-z", "text": "hi"});
    let result = call(&place, &own, "mesh_send", nobody).await;
    assert_eq!(
        result["structuredContent"]["error"]["code"],
        "unknown_gateway"
    );
}

#[tokio::test]
async fn what_has_no_room_in_one_answer_comes_with_the_next() {
    let place = opened().await;
    for letter in ["a", "b", "c"] {
        let body = json!({"to": "coder@gw-a", "body": letter.repeat(300)});
        let sent = place.post("planner", "/v1/send", body).await;
        let path = format!("/v1/messages/{}", sent.body["id"].as_str().expect("an id"));
        // Accepted is not there yet.
        while place.get("planner", &path).await.body["state"] == "accepted" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    let session = initialize(&place.agent("coder"), &place).await;
    let own = within(place.agent("coder"), &session);

    let mut seen = Vec::new();
    for _ in 0..2 {
        let few = json!({"wait_s": 5, "max_bytes": 1000});
        let result = call(&place, &own, "mesh_inbox", few).await["structuredContent"].take();
        for message in result["messages"].as_array().expect("messages") {
            let text = message["text"].as_str().expect("text");
            assert!(text.contains("from planner@gw-a, verified"), "{text}");
            let letters = text.lines().nth(1).expect("the text");
            seen.push((letters.to_owned(), result["more"].clone()));
        }
    }

    let all = |letter: &str, more: bool| (letter.repeat(300), json!(more));
    assert_eq!(seen, [all("a", true), all("b", true), all("c", false)]);
}

async fn opened() -> Place {
    let mut place = Place::open().await;
    place.add("planner").await;
    place.add("coder").await;
    place
}

async fn call(place: &Place, caller: &Call<'_>, tool: &str, arguments: Value) -> Value {
    let params = json!({"name": tool, "arguments": arguments});
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    place.mcp(caller, &call).await["result"].take()
}

/// The session's id.
async fn initialize(caller: &Call<'_>, place: &Place) -> String {
    let (session, answer) = place
        .initialize(&mcp(caller.clone()), &initialization())
        .await;
    assert_eq!(
        answer["result"]["serverInfo"]["name"], "crabmesh",
        "{answer}"
    );
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let caller = within(caller.clone(), &session);
    let answered: Answered = place
        .call(&caller, "POST", "/mcp", &initialized.to_string())
        .await;
    assert_eq!(answered.status, 202);
    session
}

fn initialization() -> Value {
    let client = json!({"name": "by hand", "version": "1"});
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client,
    }})
}

fn mcp(mut call: Call<'_>) -> Call<'_> {
    let accept = "application/json, text/event-stream";
    call.headers.push(("accept", accept.into()));
    call
}

fn within<'a>(call: Call<'a>, session: &str) -> Call<'a> {
    let mut call = mcp(call);
    call.headers.push(("mcp-session-id", session.into()));
    call.headers
        .push(("mcp-protocol-version", "2025-11-25".into()));
    call
}
