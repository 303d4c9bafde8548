//! Files that want to cost time or memory, or to look like what they are not. That these end at
//! all is the point: what grows with the square of a file would not.

use identity::{AgentName, NodeId, UnixTime};
use policy::{Document, MAX_TEXT, MessageRequest, Node, Policy, Verb};

fn refused(text: &str) -> Vec<policy::Diagnostic> {
    Document::parse("hostile.hujson", text).expect_err("it is refused")
}

fn list(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect::<Vec<_>>().join(",")
}

#[test]
fn a_hundred_thousand_mistakes_among_ten_thousand_names_are_told_in_a_hundred() {
    let tags = list(10_000, |n| format!("\"tag:known-{n:05}\": []"));
    let hosts = list(10_000, |n| format!("\"host-{n:05}\": \"10.0.0.1\""));
    let wrong = list(100_000, |n| format!("\"tag:knwon-{n:05}\""));
    let text = format!(
        "{{\"tagOwners\": {{{tags}}}, \"hosts\": {{{hosts}}}, \
         \"grants\": [{{\"src\": [{wrong}], \"dst\": [\"*\"], \"msg\": [\"send\"]}}]}}"
    );
    assert!(text.len() < MAX_TEXT);

    let said = refused(&text);

    assert_eq!(said.len(), 100);
    assert!(
        said[0]
            .hint()
            .is_some_and(|hint| hint.starts_with("did you mean"))
    );
}

#[test]
fn a_hundred_thousand_gateways_that_are_nearly_hosts_are_warned_of_twenty_times() {
    let hosts = list(10_000, |n| format!("\"host-{n:05}\": \"10.0.0.1\""));
    let bare = list(100_000, |n| format!("\"hots-{n:05}\""));
    let text = format!(
        "{{\"hosts\": {{{hosts}}}, \
         \"grants\": [{{\"src\": [{bare}], \"dst\": [\"*\"], \"msg\": [\"send\"]}}]}}"
    );

    let (document, said) = Document::parse("hostile.hujson", &text).expect("it loads");

    // And of the missing tests.
    assert_eq!((document.rule_count(), said.len()), (1, 21));
    // And one verdict on it is one verdict.
    let node = Node::new(NodeId([1; 16]), "hots-00007".parse().expect("a name"));
    let policy = Policy::compile(&document, std::slice::from_ref(&node));
    let agent: AgentName = "coder".parse().expect("a name");
    assert!(policy.allows(&MessageRequest {
        src: (node.id, &agent),
        dst: (node.id, &agent),
        verb: Verb::Send,
        at: UnixTime(0),
        bytes: None,
    }));
}

#[test]
fn what_looks_like_a_name_and_is_another_is_refused_everywhere() {
    // Cyrillic а, fullwidth a, a combining accent, a dotless i, a mathematical a.
    for look_alike in [
        "\u{430}na",
        "\u{ff41}na",
        "a\u{301}na",
        "an\u{131}",
        "\u{1d41a}na",
    ] {
        for text in [
            format!(r#"{{"tagOwners": {{"tag:{look_alike}": []}}}}"#),
            format!(r#"{{"groups": {{"group:{look_alike}": []}}}}"#),
            format!(r#"{{"groups": {{"group:a": ["{look_alike}@example.com"]}}}}"#),
            format!(r#"{{"hosts": {{"{look_alike}": "10.0.0.1"}}}}"#),
            format!(r#"{{"ipsets": {{"ipset:{look_alike}": []}}}}"#),
            format!(r#"{{"postures": {{"posture:{look_alike}": ["a:b IS SET"]}}}}"#),
            format!(r#"{{"postures": {{"posture:a": ["node:{look_alike} IS SET"]}}}}"#),
            grant(&format!("agent:{look_alike}@*"), "*"),
            grant(&format!("{look_alike}@example.com"), "*"),
            grant(look_alike, "*"),
            grant("*", &format!("topic:{look_alike}")),
            grant("*", &format!("svc:{look_alike}")),
            grant("*", &format!("internet:{look_alike}.com")),
            format!(r#"{{"blocks": [{{"id": "{look_alike}", "match": ["*"]}}]}}"#),
        ] {
            assert!(Document::parse("hostile.hujson", &text).is_err(), "{text}");
        }
    }
}

fn grant(src: &str, dst: &str) -> String {
    format!(r#"{{"grants": [{{"src": ["{src}"], "dst": ["{dst}"], "msg": ["publish"]}}]}}"#)
}

#[test]
fn patterns_are_walked_once_however_they_are_made() {
    // What makes a backtracking matcher take for ever.
    let stars = vec!["*"; 60].join("/");
    let text = format!(
        r#"{{"grants": [{{"src": ["*"], "dst": ["topic:{stars}"], "msg": ["publish"]}},
            {{"src": ["*"], "dst": ["*"], "ip": ["tcp:80"], "http": [{{"paths": ["/{stars}"]}}]}}],
          "tests": [{{"src": "*", "deny": ["topic:{}/b:publish", {{"http": "GET /{}", "dst": "gw-a:80"}}]}}]}}"#,
        vec!["a"; 60].join("/"),
        vec!["a"; 10_000].join("/"),
    );

    let (document, _) = Document::parse("hostile.hujson", &text).expect("it loads");

    assert!(Policy::run_tests(&document, &[], UnixTime(0)).passed());
    let deep = vec!["a"; 65].join("/");
    assert_eq!(
        refused(&grant("*", &format!("topic:{deep}")))[0].code(),
        "E020"
    );
    assert_eq!(refused(&grant("*", "topic:**/a"))[0].code(), "E020");
}

#[test]
fn the_same_twice_is_refused_at_every_depth() {
    for text in [
        r#"{"grants": [], "grants": []}"#,
        r#"{"tagOwners": {"tag:a": [], "tag:a": []}}"#,
        r#"{"ipsets": {"ipset:a": [], "ipset:a": []}}"#,
        r#"{"postures": {"posture:a": ["a:b IS SET"], "posture:a": ["a:b IS SET"]}}"#,
        r#"{"autoApprovers": {"exitNode": [], "EXITNODE": []}}"#,
        r#"{"grants": [{"src": ["*"], "src": ["*"], "dst": ["*"], "msg": ["send"]}]}"#,
        r#"{"grants": [{"src": ["*"], "dst": ["*"], "app": {"a.b/c": [], "a.b/c": []}}]}"#,
        r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send"], "valid": {"windows": [{"days": "mon", "days": "tue"}]}}]}"#,
        r#"{"guards": [{"src": ["*"], "dst": ["*"], "rate": {"limit": "1/s", "limit": "9/s"}}]}"#,
        r#"{"blocks": [{"match": ["*"], "match": []}]}"#,
        r#"{"tests": [{"src": "*", "deny": ["*:22"], "deny": []}]}"#,
    ] {
        let said = refused(text);
        assert!(
            said.iter().any(|it| it.code() == "E003"),
            "{text}: {said:?}"
        );
    }
}

#[test]
fn numbers_and_dates_at_their_ends_are_refused_or_held() {
    for demand in [
        r#""rate": {"limit": "99999999999999999999/s"}"#,
        r#""rate": {"limit": "0/s"}"#,
        r#""rate": {"limit": "1/s", "burst": 4294967296}"#,
        r#""rate": {"limit": "1/s", "burst": -1}"#,
        r#""rate": {"limit": "1/s", "burst": 1e400}"#,
        r#""maxBytes": "99999999999999MiB99""#,
        r#""maxBytes": "18446744073709551615MiB""#,
        r#""spend": {"cap": "$184467440737095516.16/day"}"#,
        r#""spend": {"cap": "$1/day", "alertAt": [1.5]}"#,
        r#""approve": {"by": ["autogroup:member"], "ttl": "99999999999d"}"#,
        r#""deny": {"windows": [{"hours": "24:00-25:00"}]}"#,
        r#""deny": {"windows": [{"tz": "../../etc/passwd"}]}"#,
        r#""deny": {"windows": []}"#,
    ] {
        let text = format!(r#"{{"guards": [{{"src": ["*"], "dst": ["*"], {demand}}}]}}"#);
        assert!(
            Document::parse("hostile.hujson", &text).is_err(),
            "{demand}"
        );
    }
    let text = r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send"], "valid":
        {"notAfter": "9999-12-30T00:00:00Z", "windows": [{"days": "mon-sun", "hours": "23:59-00:01", "tz": "Pacific/Apia"}]}}]}"#;
    let (document, _) = Document::parse("hostile.hujson", text).expect("it loads");
    let node = Node::new(NodeId([1; 16]), "gw-a".parse().expect("a name"));
    let policy = Policy::compile(&document, std::slice::from_ref(&node));
    let agent: AgentName = "coder".parse().expect("a name");
    for at in [
        0,
        1,
        253_402_128_000,
        253_402_300_799,
        u64::MAX / 2,
        u64::MAX,
    ]
    .map(UnixTime)
    {
        let request = MessageRequest {
            src: (node.id, &agent),
            dst: (node.id, &agent),
            verb: Verb::Send,
            at,
            bytes: Some(u64::MAX),
        };
        let _ = (policy.allows(&request), policy.next_change(at));
    }
    assert!(!policy.may_talk(&node.id, &node.id, UnixTime(u64::MAX)));
}
