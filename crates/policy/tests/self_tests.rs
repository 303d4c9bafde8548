//! The `tests` section of a file: which expectations hold, and what is said where they do not.

use identity::{NodeId, UnixTime};
use policy::{Document, Node, Policy, TestReport};

const RULES: &str = r#"
    "groups": {"group:ops": ["ana@example.com", "bo@example.com"], "group:none": []},
    "tagOwners": {"tag:prod": ["group:ops"], "tag:ci": ["group:ops"]},
    "grants": [
        {"id": "plan-code", "src": ["agent:planner@tag:prod"], "dst": ["agent:coder@tag:ci"], "msg": ["request"]},
        {"id": "logs", "src": ["agent:*@tag:ci"], "dst": ["agent:logger@tag:prod"], "msg": ["send"]},
        {"id": "ssh", "src": ["group:ops"], "dst": ["tag:prod"], "ip": ["tcp:22"]},
        {"id": "own", "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
    ]"#;

fn run(tests: &str, nodes: &[Node]) -> TestReport {
    let text = format!("{{{RULES}, \"tests\": [{tests}]}}");
    let (document, _) = Document::parse("policy.hujson", &text).expect("the file loads");
    Policy::run_tests(&document, nodes, UnixTime(1_800_000_000))
}

fn gateway(n: u8, name: &str, tag: &str) -> Node {
    Node {
        user: None,
        tags: vec![tag.parse().expect("a tag")],
        addresses: vec![format!("fd00::{n}").parse().expect("an address")],
        ..Node::new(NodeId([n; 16]), name.parse().expect("a name"))
    }
}

#[test]
fn expectations_hold_before_the_first_gateway_has_joined() {
    let report = run(
        r#"
        {"src": "agent:planner@tag:prod", "accept": ["agent:coder@tag:ci:request"], "deny": ["agent:coder@tag:ci:publish", "agent:*@tag:ci:send"]},
        {"src": "agent:*@tag:ci", "accept": ["agent:logger@tag:prod:send"], "deny": ["agent:planner@tag:prod:send"]},
        {"src": "group:ops", "accept": ["tag:prod:22"], "deny": ["tag:ci:22", "tag:prod:23"]},
        {"src": "ana@example.com", "accept": ["autogroup:self:8080", "tag:prod:22"], "deny": ["bo@example.com:8080"]},
        {"src": "cy@example.com", "deny": ["tag:prod:22"]},
        {"src": "ana@example.com", "proto": "udp", "deny": ["tag:prod:22"]},
        {"src": "*", "deny": ["gw-z:22"]},
        "#,
        &[],
    );

    let failed: Vec<_> = report.outcomes.iter().filter(|o| !o.passed).collect();
    assert!(report.passed(), "{failed:?}");
    assert_eq!(report.outcomes.len(), 14);
    assert_eq!(report.outcomes[0].reason, "allowed by grant plan-code");
}

#[test]
fn a_failed_expectation_says_why_and_what_is_missing() {
    let report = run(
        r#"
        {"src": "agent:planner@tag:prod", "accept": ["agent:coder@tag:ci:send"]},
        {"src": "agent:planner@tag:prod", "deny": ["agent:coder@tag:ci:request"]},
        {"src": "group:ops", "accept": ["tag:prod:443"]},
        {"src": "group:none", "deny": ["tag:prod:22"]},
        {"src": "agent:*@tag:prod", "accept": ["agent:coder@tag:ci:request"]},
        "#,
        &[gateway(1, "gw-a", "tag:prod"), gateway(2, "gw-b", "tag:ci")],
    );

    assert_eq!(report.failures(), 5);
    let said: Vec<_> = report
        .outcomes
        .iter()
        .map(|outcome| outcome.reason.as_str())
        .collect();
    assert!(
        said[0].starts_with("no grant lets agent:planner@gw-a send to agent:coder@gw-b"),
        "{said:?}"
    );
    assert_eq!(said[1], "allowed from gw-a to gw-b by grant plan-code");
    assert!(
        said[2].ends_with("reach port 443 of gw-a; grant ssh allows only tcp:22"),
        "{said:?}"
    );
    assert!(said[3].starts_with("nothing can match"));
    assert!(
        said[4].contains("agent:coder@gw-a") || said[4].contains("@gw-a request"),
        "{said:?}"
    );
    let diagnostic = report.outcomes[0]
        .diagnostic
        .as_ref()
        .expect("a failure has one");
    assert_eq!(
        (diagnostic.code(), diagnostic.message()),
        ("E070", "test(s) failed")
    );
    assert!(
        diagnostic
            .hint()
            .expect("help")
            .contains(r#""msg": ["send"]"#)
    );
    let ports = report.outcomes[2]
        .diagnostic
        .as_ref()
        .and_then(|d| d.hint())
        .expect("help");
    assert!(ports.contains(r#""ip": ["tcp:443"]"#), "{ports}");
}

#[test]
fn every_gateway_that_a_selector_matches_must_agree() {
    let mut nodes = vec![gateway(1, "gw-a", "tag:prod"), gateway(2, "gw-b", "tag:ci")];
    let test = r#"{"src": "agent:planner@*", "deny": ["agent:coder@gw-b:send"]}, {"src": "agent:planner@*", "accept": ["agent:coder@gw-b:request"]}"#;

    assert_eq!(
        run(test, &nodes[..1]).failures(),
        1,
        "gw-b alone has no tag"
    );
    assert_eq!(run(test, &nodes).failures(), 1, "gw-b may not ask itself");
    nodes.remove(1);
    nodes.push(gateway(3, "gw-b", "tag:prod"));
    assert_eq!(run(test, &nodes).failures(), 1);
}

#[test]
fn tests_that_try_nothing_definite_are_refused() {
    for (test, code) in [
        (r#"{"src": "*"}"#, "E070"),
        (r#"{"src": "*", "accept": []}"#, "E070"),
        (r#"{"src": "*", "accept": ["tag:prod"]}"#, "E070"),
        (r#"{"src": "*", "accept": ["tag:prod:22-23"]}"#, "E070"),
        (r#"{"src": "*", "accept": ["agent:coder@tag:ci"]}"#, "E070"),
        (
            r#"{"src": "agent:planner@tag:prod", "deny": ["tag:prod:22"]}"#,
            "E070",
        ),
        (
            r#"{"src": "tag:prod", "deny": [{"http": "FETCH", "dst": "tag:prod:80"}]}"#,
            "E070",
        ),
        (
            r#"{"src": "tag:prod", "deny": ["internet:*.example.net:443"]}"#,
            "E070",
        ),
        (r#"{"src": "tag:typo", "deny": ["tag:prod:22"]}"#, "E070"),
    ] {
        let text = format!("{{{RULES}, \"tests\": [{test}]}}");
        let said = Document::parse("policy.hujson", &text).expect_err(test);
        assert_eq!(said[0].code(), code, "{test}: {said:?}");
    }
}
