//! The document against the code: every route is in it and every routed word is valid by it.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    Access, AckAnswer, AckRequest, Acked, AgentAdd, AgentAdded, AgentEntry, Agents, AskRequest,
    BeaconStatus, Body, ErrorAnswer, Failure, Health, HeartbeatRequest, Isolation, KillApplied,
    KillRequest, Kind, LocalAgentEntry, LocalAgents, MapStatus, NodeStatus, OPENAPI, OwnPresence,
    Path, PathKind, PeerPath, PeerStatus, Ping, PingRequest, Policy, PolicyStatus, Presence,
    Profile, ProfileRequest, Received, ReceivedList, RejectRequest, Reply, ReplyRequest,
    RevocationsStatus, Route, SendAnswer, SendRequest, Skill, State, Status, Timestamp, Worker,
    WorkerSet, WorkerSetAnswer, WorkerState, WorkerStatus,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[test]
fn the_document_has_every_route_and_no_other() {
    let document = document();
    let mut written = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let operations = item.as_object().expect("operations");
        for (verb, operation) in operations.iter().filter(|(key, _)| *key != "parameters") {
            let access = operation["x-access"].as_str().expect("x-access").to_owned();
            written.insert(format!("{} {path}", verb.to_uppercase()), access);
        }
    }
    let routed = Route::ALL.iter().map(|route| {
        let access = match route.access {
            Access::Agent => "agent",
            Access::Any => "any",
            Access::Admin => "admin",
        };
        (
            format!("{} {}", route.verb.as_str(), route.path),
            access.to_owned(),
        )
    });

    assert_eq!(written, routed.collect());
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document = document();
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    let mut used = BTreeSet::new();
    references(&document, &mut used);

    let known: BTreeSet<String> = schemas
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(used, known, "left: used, right: defined");
}

#[test]
fn every_answer_is_valid_by_the_document() {
    let failure = Failure {
        missing_grant: Some(r#"{"src": ["agent:a@gw-a"]}"#.into()),
        cause: Some("guard".into()),
        rule: Some("g-size".into()),
        ..Failure::new("denied", "no grant").hint("ask the operator")
    };
    let reply = Reply {
        id: ID.into(),
        from: address(),
        body: None,
        body_base64: Some("/w==".into()),
        content_type: "application/octet-stream".into(),
    };
    let answer = SendAnswer {
        id: ID.into(),
        state: State::Done,
        reply: Some(reply),
        error: Some(failure.clone()),
    };
    valid("SendAnswer", &answer);
    for state in [
        State::Accepted,
        State::Stored,
        State::Delivered,
        State::Denied,
        State::Expired,
        State::Failed,
    ] {
        valid(
            "SendAnswer",
            &SendAnswer {
                state,
                reply: None,
                error: None,
                ..answer.clone()
            },
        );
    }
    for kind in [Kind::Message, Kind::Reply, Kind::Failure] {
        let received = Received {
            id: ID.into(),
            kind,
            from: address(),
            to: address(),
            body: Some("hi".into()),
            body_base64: None,
            content_type: "text/plain".into(),
            created_at: Timestamp(1_795_470_123_456),
            attempt: 1,
            reply_expected: true,
            stream: true,
            conversation: Some("c-1".into()),
            root: ID.into(),
            depth: 1,
            in_reply_to: Some(ID.into()),
            error: Some(failure.clone()),
        };
        valid("Received", &received);
        valid(
            "ReceivedList",
            &ReceivedList {
                messages: vec![received],
            },
        );
    }
    let acked = Acked {
        id: ID.into(),
        error: None,
    };
    valid("Acked", &acked);
    valid(
        "AckAnswer",
        &AckAnswer {
            results: vec![
                acked,
                Acked {
                    id: ID.into(),
                    error: Some(failure.clone()),
                },
            ],
        },
    );
    valid("ErrorAnswer", &ErrorAnswer { error: failure });
    let entry = AgentEntry {
        address: address(),
        online: true,
        presence: Presence::Unknown,
        last_seen_s: None,
        streams: true,
        description: None,
        skills: vec![skill()],
    };
    for presence in [Presence::Online, Presence::Away, Presence::Offline] {
        let description = Some("Plans.".into());
        let entry = AgentEntry {
            presence,
            description,
            ..entry.clone()
        };
        valid("AgentEntry", &entry);
        assert_eq!(
            serde_json::to_value(presence).ok(),
            Some(presence.as_str().into())
        );
    }
    valid(
        "Agents",
        &Agents {
            agents: vec![entry],
        },
    );
    let (name, token, api) = (name(), "cma_x".to_owned(), "http://127.0.0.1:1".to_owned());
    valid(
        "AgentAdded",
        &AgentAdded {
            name: name.clone(),
            address: Some(address()),
            token,
            api,
            worker_secret: Some("whsec_AAAA".into()),
        },
    );
    valid(
        "WorkerSetAnswer",
        &WorkerSetAnswer {
            name: name.clone(),
            worker_secret: None,
        },
    );
    let entry = LocalAgentEntry {
        name,
        created_at: Timestamp(0),
        idle_s: Some(3),
        worker: Some(WorkerStatus {
            worker: exec(),
            state: WorkerState::Failing,
            since: Timestamp(0),
            why: Some("exit code 1".into()),
            done: 1,
            retried: 2,
            given_up: 3,
        }),
        presence: Presence::Away,
        description: Some("Plans.".into()),
        skills: vec![skill()],
    };
    valid(
        "Profile",
        &Profile {
            name: entry.name.clone(),
            presence: entry.presence,
            description: None,
            skills: vec![skill()],
        },
    );
    valid("LocalAgentEntry", &entry);
    valid(
        "LocalAgents",
        &LocalAgents {
            agents: vec![entry],
        },
    );
    valid(
        "Health",
        &Health {
            ok: true,
            version: "0.1.0".into(),
        },
    );
    valid(
        "KillApplied",
        &KillApplied {
            version: "1.2".into(),
            news: true,
            peers: 3,
            beacons: 0,
        },
    );
    valid(
        "Policy",
        &Policy {
            version: "1.2".into(),
            signed_at: Timestamp(0),
            text: "{}".into(),
        },
    );
    valid(
        "Ping",
        &Ping {
            path: Path::none(),
            rtt_ms: None,
        },
    );
    valid(
        "Ping",
        &Ping {
            path: Path::direct("192.0.2.1:1".parse().expect("an address")),
            rtt_ms: Some(0.5),
        },
    );
}

#[test]
fn status_has_the_words_that_were_promised() {
    let gateway = || "gw-a".parse().expect("a name");
    let tag = || vec!["tag:home".parse().expect("a tag")];
    let status = Status {
        mesh: "home".into(),
        node: NodeStatus {
            name: Some(gateway()),
            id: "ab".repeat(16),
            tags: tag(),
            expires_at: Some(Timestamp(0)),
            isolation: Isolation::None,
            enforces: vec!["rate".into()],
        },
        beacons: vec![BeaconStatus {
            address: "b.example.com:443".parse().expect("an address"),
            state: "quic".into(),
            rtt_ms: Some(1.5),
        }],
        peers: vec![PeerStatus {
            name: gateway(),
            id: "cd".repeat(16),
            tags: tag(),
            online: true,
            path: PeerPath {
                kind: PathKind::Relay,
                remote: Some("b.example.com:443".into()),
                why: "not proven".into(),
            },
            rtt_ms: None,
            last_handshake_s: Some(3),
            tx_bytes: 1,
            rx_bytes: 2,
            queued: 0,
            expires_at: None,
        }],
        policy: Some(PolicyStatus {
            version: "1.1".into(),
            age_s: 4,
        }),
        revocations: Some(RevocationsStatus {
            version: "1.2".into(),
            kills: vec!["agent:coder@gw-b".into()],
        }),
        map: MapStatus { age_s: None },
    };
    valid("Status", &status);
    valid(
        "Status",
        &Status {
            policy: None,
            revocations: None,
            ..status.clone()
        },
    );

    let status = serde_json::to_value(&status).expect("it serialises");
    assert_eq!(
        keys(&status),
        [
            "beacons",
            "map",
            "mesh",
            "node",
            "peers",
            "policy",
            "revocations"
        ]
    );
    assert_eq!(
        keys(&status["node"]),
        ["enforces", "expires_at", "id", "isolation", "name", "tags"]
    );
    assert_eq!(keys(&status["beacons"][0]), ["address", "rtt_ms", "state"]);
    assert_eq!(
        keys(&status["peers"][0]),
        [
            "expires_at",
            "id",
            "last_handshake_s",
            "name",
            "online",
            "path",
            "queued",
            "rtt_ms",
            "rx_bytes",
            "tags",
            "tx_bytes",
        ]
    );
    assert_eq!(keys(&status["peers"][0]["path"]), ["kind", "remote", "why"]);
}

#[test]
fn every_request_is_valid_by_the_document_and_unknown_fields_are_refused_by_name() {
    let send = SendRequest {
        to: address(),
        body: Some("hi".into()),
        body_base64: None,
        content_type: Some("text/plain".into()),
        ttl_s: Some(60),
        id: Some(ID.into()),
        reply_expected: true,
        cause: Some("none".into()),
        conversation: Some("c-1".into()),
    };
    request("SendRequest", &send);
    let ask = AskRequest {
        to: address(),
        body: None,
        body_base64: Some("/w==".into()),
        content_type: None,
        ttl_s: None,
        id: None,
        timeout_ms: Some(1000),
        stream: true,
        cause: Some(ID.into()),
        conversation: None,
    };
    request("AskRequest", &ask);
    request(
        "RejectRequest",
        &RejectRequest {
            reason: Some("not mine".into()),
        },
    );
    request(
        "ReplyRequest",
        &ReplyRequest {
            body: Some("yes".into()),
            ..ReplyRequest::default()
        },
    );
    request(
        "AckRequest",
        &AckRequest {
            ids: vec![ID.into()],
        },
    );
    request("HeartbeatRequest", &HeartbeatRequest { hold_s: Some(30) });
    for worker in [None, Some(http()), Some(exec()), Some(openclaw())] {
        let add = AgentAdd {
            name: name(),
            worker: worker.clone(),
            worker_secret: None,
            description: None,
            skills: Vec::new(),
        };
        request("AgentAdd", &add);
        let worker_secret = Some("whsec_AAAA".into());
        request(
            "WorkerSet",
            &WorkerSet {
                worker,
                worker_secret,
            },
        );
    }
    request("Worker", &http());
    request("Worker", &exec());
    request("Worker", &openclaw());
    let add = AgentAdd {
        name: name(),
        worker: None,
        worker_secret: None,
        description: None,
        skills: Vec::new(),
    };
    request("AgentAdd", &add);
    request(
        "AgentAdd",
        &AgentAdd {
            description: Some("Plans.".into()),
            skills: vec![skill()],
            ..add
        },
    );
    for presence in [OwnPresence::Online, OwnPresence::Away] {
        request(
            "ProfileRequest",
            &ProfileRequest {
                description: Some(String::new()),
                skills: Some(vec![skill()]),
                presence: Some(presence),
            },
        );
    }
    request("ProfileRequest", &ProfileRequest::default());
    request(
        "KillRequest",
        &KillRequest {
            file: "cmk1aaaa".into(),
        },
    );
    request(
        "PingRequest",
        &PingRequest {
            target: "gw-b".into(),
            timeout_ms: None,
        },
    );
}

#[test]
fn a_client_reads_answers_with_fields_that_it_does_not_know() {
    let answer = json!({"id": ID, "state": "stored", "colour": "green"});

    let read: SendAnswer = serde_json::from_value(answer).expect("read");

    assert_eq!(read.state, State::Stored);
    assert_eq!(Body::from_fields(None, None), Ok(Body::Text(String::new())));
}

fn request<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(schema: &str, value: &T) {
    valid(schema, value);
    let mut json = serde_json::to_value(value).expect("it serialises");
    let back: T = serde_json::from_value(json.clone()).expect("it reads back");
    assert_eq!(&back, value);

    json["colour"] = json!("green");
    assert!(
        !validator(schema).is_valid(&json),
        "{schema} takes an unknown field"
    );
    let error = serde_json::from_value::<T>(json)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("colour"), "{error}");
}

fn valid(schema: &str, value: &impl Serialize) {
    let value = serde_json::to_value(value).expect("it serialises");
    if let Err(error) = validator(schema).validate(&value) {
        panic!("{schema}: {error} in {value}");
    }
}

fn validator(schema: &str) -> jsonschema::Validator {
    let document = document();
    let root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/components/schemas/{schema}"),
        "components": document["components"],
    });
    jsonschema::validator_for(&root).expect("the document's schemas are schemas")
}

fn references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(target) if key == "$ref" => drop(into.insert(target.to_owned())),
                    _ => references(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the document is JSON")
}

fn http() -> Worker {
    Worker::Http {
        url: "https://agent.example.com/hook".into(),
        timeout_s: Some(30),
        concurrency: Some(4),
        insecure_http: true,
    }
}

fn exec() -> Worker {
    Worker::Exec {
        command: vec!["./answer.sh".into(), "-v".into()],
        timeout_s: Some(30),
        concurrency: Some(2),
    }
}

fn openclaw() -> Worker {
    Worker::Openclaw {
        url: "ws://127.0.0.1:18789".into(),
        agent: Some("ops".into()),
        timeout_s: Some(30),
        concurrency: Some(2),
    }
}

fn address() -> identity::AgentAddress {
    "coder@gw-b".parse().expect("an address")
}

fn skill() -> Skill {
    Skill {
        id: "code.review".into(),
        name: Some("Review".into()),
        description: None,
    }
}

fn name() -> identity::AgentName {
    "coder".parse().expect("a name")
}

const ID: &str = "019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d";
