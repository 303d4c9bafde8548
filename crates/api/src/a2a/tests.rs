//! Each sentence of the protocol that is ours to keep, in both versions.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_message_reads_back_what_it_writes_in_both_versions() {
    let mut message = Message {
        id: "m-1".into(),
        context: Some("c-1".into()),
        task: Some("t-1".into()),
        role: Role::User,
        parts: vec![
            Part::text("grüße\n"),
            Part::of(Content::Data(json!({"a": [1, null]}))),
            Part::of(Content::Data(json!(["no", "object"]))),
            Part {
                media_type: Some("image/png".into()),
                filename: Some("a.png".into()),
                ..Part::of(Content::Raw(vec![0xff, 0, 1, 0xfb]))
            },
            Part::of(Content::Url("https://example.com/a".into())),
        ],
        metadata: json!({"k": {"v": 1}}).as_object().cloned(),
        extensions: vec!["https://example.com/x".into()],
        references: vec!["t-0".into()],
    };
    message.parts[0].metadata = json!({"x": 1}).as_object().cloned();
    for version in [Version::V1, Version::V03] {
        let written = message.write(version);
        assert_eq!(
            Message::read(&written, version),
            Ok(message.clone()),
            "{written}"
        );
    }
    let null = json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"data": null}]});
    let read = Message::read(&null, Version::V1).expect("null is a value");
    assert_eq!(read.parts[0].content, Content::Data(Value::Null));
}

#[test]
fn a_request_is_read_in_the_version_of_its_method_or_its_header() {
    let v1 = rpc("SendMessage", json!({"message": v1_message()}));
    let v03 = rpc(
        "message/send",
        json!({"message": {"kind": "message", "messageId": "m", "role": "user",
            "parts": [{"kind": "text", "text": "hi"}]}, "configuration": {"blocking": false}}),
    );
    for (bytes, named, version, at_once) in [
        (&v1, None, Version::V1, false),
        (&v1, Some("1.0"), Version::V1, false),
        (&v1, Some("1.0.3"), Version::V1, false),
        (&v03, None, Version::V03, true),
        (&v03, Some("0.3.0"), Version::V03, true),
        (&v03, Some(""), Version::V03, true),
    ] {
        let read = read(bytes, Version::named(named));
        let Ok(Call::Send(params)) = read.call else {
            panic!("{read:?}");
        };
        assert_eq!((read.version, params.at_once), (version, at_once));
        assert_eq!(params.message.parts, [Part::text("hi")]);
        assert_eq!(read.id, json!("1"));
    }
    for (named, kind) in [
        (Some("0.3"), ProblemKind::MethodNotFound),
        (Some("2.0"), ProblemKind::VersionNotSupported),
        (Some("1.1"), ProblemKind::VersionNotSupported),
        (Some("x\u{1b}"), ProblemKind::VersionNotSupported),
    ] {
        let problem = read(&v1, Version::named(named)).call.expect_err("refused");
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(!problem.message.contains('\u{1b}'));
    }
}

#[test]
fn every_bad_request_is_refused_by_its_code_and_names_the_culprit() {
    let params = |params: Value| rpc("SendMessage", params);
    let part = |part: Value| {
        params(json!({"message": {"messageId": "m", "role": "ROLE_USER", "parts": [part]}}))
    };
    let long = "x".repeat(MAX_ID + 1);
    for (bytes, code, says) in [
        (b"{".to_vec(), -32700, "not JSON"),
        (b"\xff".to_vec(), -32700, "not JSON"),
        (vec![b'['; 1000], -32700, "not JSON"),
        (b"[]".to_vec(), -32600, "batches"),
        (b"7".to_vec(), -32600, "object"),
        (b"{}".to_vec(), -32600, "jsonrpc"),
        (
            br#"{"jsonrpc":"2.0","id":1}"#.to_vec(),
            -32600,
            "method is missing",
        ),
        (
            br#"{"jsonrpc":"2.0","id":1,"method":7}"#.to_vec(),
            -32600,
            "method must",
        ),
        (
            br#"{"jsonrpc":"2.0","id":[],"method":"GetTask"}"#.to_vec(),
            -32600,
            "id must",
        ),
        (rpc("Send\u{7}", json!({})), -32601, "no method Send\\u{7}"),
        (rpc("GetTask", json!({})), -32602, "params.id is missing"),
        (
            rpc("GetTask", json!({"id": 7})),
            -32602,
            "params.id must be a string",
        ),
        (
            rpc("GetTask", json!({"id": "a\n"})),
            -32602,
            "control character",
        ),
        (
            rpc("GetTask", json!({"id": long})),
            -32602,
            "longer than 256",
        ),
        (
            rpc("GetTask", json!({"id": "a", "historyLength": -1})),
            -32602,
            "at least 0",
        ),
        (
            rpc("GetTask", json!({"id": "a", "historyLength": 1.5})),
            -32602,
            "whole number",
        ),
        (
            rpc("GetTask", json!([])),
            -32602,
            "params must be an object",
        ),
        (
            rpc("ListTasks", json!({"pageSize": 0})),
            -32602,
            "params.pageSize must be from 1 to 100",
        ),
        (
            rpc("ListTasks", json!({"pageSize": 101})),
            -32602,
            "from 1 to 100",
        ),
        (
            rpc("ListTasks", json!({"status": "done"})),
            -32602,
            "params.status",
        ),
        (
            rpc("ListTasks", json!({"statusTimestampAfter": "now"})),
            -32602,
            "statusTimestampAfter",
        ),
        (params(json!({})), -32602, "params.message is missing"),
        (
            params(json!({"message": []})),
            -32602,
            "params.message must be an object",
        ),
        (
            params(json!({"message": {"role": "ROLE_USER", "parts": []}})),
            -32602,
            "params.message.messageId is missing",
        ),
        (
            params(json!({"message": {"messageId": "m", "parts": []}})),
            -32602,
            "params.message.role is missing",
        ),
        (
            params(json!({"message": {"messageId": "m", "role": "ROLE_USER"}})),
            -32602,
            "params.message.parts must have",
        ),
        (
            params(
                json!({"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x"}]}}),
            ),
            -32602,
            "params.message.role must be ROLE_USER",
        ),
        (
            part(json!({})),
            -32602,
            "params.message.parts[0] must have one of",
        ),
        (
            part(json!({"text": "a", "url": "b"})),
            -32602,
            "only one of",
        ),
        (
            part(json!({"text": 7})),
            -32602,
            "params.message.parts[0].text must be a string",
        ),
        (
            part(json!({"raw": "?"})),
            -32602,
            "params.message.parts[0].raw is not base64",
        ),
        (
            part(json!({"text": "a", "mediaType": "ä"})),
            -32602,
            "mediaType",
        ),
        (
            params(json!({"message": v1_message(), "configuration": {"returnImmediately": 1}})),
            -32602,
            "params.configuration.returnImmediately",
        ),
        (
            params(
                json!({"message": v1_message(), "configuration": {"taskPushNotificationConfig": {"url": "http://a"}}}),
            ),
            -32003,
            "calls nobody back",
        ),
        (
            rpc(
                "message/send",
                json!({"message": {"messageId": "m", "role": "user", "parts": [{"text": "a"}]}}),
            ),
            -32602,
            "params.message.parts[0].kind is missing",
        ),
        (
            rpc(
                "message/send",
                json!({"message": {"messageId": "m", "role": "user", "parts": [{"kind": "file", "file": {}}]}}),
            ),
            -32602,
            "params.message.parts[0].file must have",
        ),
    ] {
        let problem = read(&bytes, Ok(None)).call.expect_err(says);
        assert_eq!(problem.kind.code(), code, "{problem:?}");
        assert!(
            problem.message.contains(says),
            "{says}: {}",
            problem.message
        );
        assert_eq!(ProblemKind::of_code(code.into()), Some(problem.kind));
        assert_eq!(problem.rpc()["code"], code);
        assert_eq!(
            problem.http()["error"]["details"][0]["domain"],
            "a2a-protocol.org"
        );
    }
}

#[test]
fn every_method_of_the_specification_is_known() {
    for method in [
        "SubscribeToTask",
        "CancelTask",
        "tasks/get",
        "tasks/cancel",
        "tasks/resubscribe",
    ] {
        let read = read(&rpc(method, json!({"id": "t"})), Ok(None));
        assert!(read.call.is_ok(), "{read:?}");
    }
    for method in [
        "CreateTaskPushNotificationConfig",
        "GetTaskPushNotificationConfig",
        "ListTaskPushNotificationConfigs",
        "DeleteTaskPushNotificationConfig",
        "tasks/pushNotificationConfig/set",
    ] {
        assert_eq!(read(&rpc(method, json!({})), Ok(None)).call, Ok(Call::Push));
    }
    let list = json!({"pageSize": "7", "status": "TASK_STATE_WORKING", "context_id": "c",
        "statusTimestampAfter": "2026-11-23T21:30:00.5Z", "includeArtifacts": true});
    let Ok(Call::List(list)) = read(&rpc("ListTasks", list), Ok(None)).call else {
        panic!("no list");
    };
    assert_eq!((list.page_size, list.state), (7, Some(TaskState::Working)));
    assert_eq!(list.context.as_deref(), Some("c"));
    let after = list.after.expect("a time").to_string();
    assert_eq!(
        (after.as_str(), list.artifacts),
        ("2026-11-23T21:30:00.500Z", true)
    );
    let query = [("pageSize", "2"), ("includeArtifacts", "false")];
    let query = query.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(read_list(query).expect("a query").page_size, 2);
}

#[test]
fn one_text_crosses_the_mesh_as_it_is_and_everything_else_whole() {
    let mut message = Message::read(&v1_message(), Version::V1).expect("a message");
    let (content_type, body) = body_of(&message);
    assert_eq!(
        (content_type.as_str(), &body[..]),
        ("text/plain; charset=utf-8", &b"hi"[..])
    );
    assert_eq!(
        parts_of(&content_type, &body),
        (vec![Part::text("hi")], None)
    );

    message.parts.push(Part::of(Content::Raw(vec![0, 1])));
    message.metadata = json!({"a": 1}).as_object().cloned();
    let (content_type, body) = body_of(&message);
    assert_eq!(content_type, MESSAGE_TYPE);
    let (parts, metadata) = parts_of(&content_type, &body);
    assert_eq!((parts, metadata), (message.parts, message.metadata));
}

#[test]
fn any_body_has_parts_whatever_its_type_says() {
    let of = |content_type: &str, body: &[u8]| parts_of(content_type, body).0.remove(0);
    let markdown = of("text/markdown", b"# a");
    assert_eq!(markdown.content, Content::Text("# a".into()));
    assert_eq!(markdown.media_type.as_deref(), Some("text/markdown"));
    assert_eq!(
        of("application/json", b"[1]"),
        Part::of(Content::Data(json!([1])))
    );
    let data = of("application/problem+json", b"{}");
    assert_eq!(data.content, Content::Data(json!({})));
    for (content_type, body) in [
        ("text/plain", &b"\xff"[..]),
        ("application/json", b"{"),
        (MESSAGE_TYPE, b"{}"),
        (MESSAGE_TYPE, b"{"),
        ("image/png", b"text"),
    ] {
        let part = of(content_type, body);
        assert_eq!(part.content, Content::Raw(body.to_vec()), "{content_type}");
        assert_eq!(part.media_type.as_deref(), Some(content_type));
    }
}

#[test]
fn what_is_told_of_a_task_reads_back_in_both_versions() {
    let status = Status {
        state: TaskState::Rejected,
        message: Some(Message::of_agent("s".into(), vec![Part::text("no")])),
        at: None,
    };
    let artifact = Artifact {
        id: "reply".into(),
        name: None,
        parts: vec![Part::text("yes")],
        metadata: None,
    };
    let task = Task {
        id: "t".into(),
        context: "c".into(),
        status: status.clone(),
        artifacts: vec![artifact.clone()],
        history: Vec::new(),
    };
    let (id, context) = (task.id.clone(), task.context.clone());
    for event in [
        Event::Task(task),
        Event::Message(Message::of_agent("m".into(), vec![Part::text("yes")])),
        Event::Status {
            task: id.clone(),
            context: context.clone(),
            status,
        },
        Event::Artifact {
            task: id,
            context,
            artifact,
            append: true,
            last: false,
        },
    ] {
        for version in [Version::V1, Version::V03] {
            let written = event.write(version);
            assert_eq!(
                Event::read(&written, version),
                Ok(event.clone()),
                "{written}"
            );
        }
    }
    let odd = json!({"id": "t", "status": {"state": "pondering"}});
    let task = Task::read(&odd, Version::V1).expect("read");
    assert_eq!(task.status.state, TaskState::Unknown);
}

#[test]
fn a_card_is_read_by_clients_of_both_versions() {
    let card = Card {
        name: "coder@gw-b".into(),
        description: "d".into(),
        url: "http://127.0.0.1:1/a2a/gw-b/coder".into(),
        skills: vec![Skill::talk()],
    };
    let v1 = card.write(Some(Version::V1));
    assert_eq!(v1["supportedInterfaces"][0]["protocolVersion"], "1.0");
    assert_eq!(v1["url"], Value::Null);
    let both = card.write(None);
    assert_eq!(both["url"], v1["supportedInterfaces"][0]["url"]);
    assert_eq!(both["securitySchemes"]["bearer"]["type"], "http");
    assert_eq!(both["capabilities"]["pushNotifications"], false);
}

fn rpc(method: &str, params: Value) -> Vec<u8> {
    let request = json!({"jsonrpc": "2.0", "id": "1", "method": method, "params": params});
    request.to_string().into_bytes()
}

fn v1_message() -> Value {
    json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]})
}
