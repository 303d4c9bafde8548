//! What `check` warns of, each in the smallest file that shows it, and beside it one that is right.

use std::time::{Duration, Instant};

use identity::{NodeId, UnixTime};
use policy::{Diagnostic, Document, MAX_TEXT, Node};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn document(sections: &str) -> Document {
    let text = format!(
        r#"{{"tagOwners": {{"tag:a": [], "tag:b": [], "tag:c": []}}, "groups": {{"group:g": ["ana@x.org", "bo@x.org"]}},
        "postures": {{"posture:p": ["node:tier == 'gold'"]}}, {sections}}}"#
    );
    match Document::parse("policy.hujson", &text) {
        Ok((document, _)) => document,
        Err(said) => panic!("{said:?}"),
    }
}

fn grants(list: &str) -> Document {
    document(&format!(r#""grants": [{list}]"#))
}

/// Codes and messages.
fn said(warnings: &[Diagnostic]) -> Vec<(&'static str, &str)> {
    warnings
        .iter()
        .map(|warning| (warning.code(), warning.message()))
        .collect()
}

fn codes(document: &Document) -> Vec<&'static str> {
    document.lint(&[]).iter().map(Diagnostic::code).collect()
}

fn node(n: u8, user: Option<&str>, tags: &[&str]) -> Node {
    let mut node = Node::new(NodeId([n; 16]), format!("gw-{n}").parse().expect("a name"));
    node.user = user.map(|user| user.parse().expect("a user"));
    node.tags = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
    node
}

#[test]
fn a_grant_that_another_one_covers_is_shadowed() {
    for (wide, narrow) in [
        (
            r#""src": ["tag:a", "tag:b"], "dst": ["*"], "msg": ["send", "request"]"#,
            r#""src": ["agent:x@tag:a"], "dst": ["agent:y@tag:c"], "msg": ["send"]"#,
        ),
        (
            r#""src": ["autogroup:tagged"], "dst": ["tag:b"], "ip": ["*"]"#,
            r#""src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22", "443"]"#,
        ),
        (
            r#""src": ["group:g"], "dst": ["tag:b"], "ip": ["22"]"#,
            r#""src": ["ana@x.org"], "dst": ["tag:b"], "ip": ["tcp:22"], "srcPosture": ["posture:p"]"#,
        ),
        (
            r#""src": ["tag:a"], "dst": ["10.0.0.0/8"], "ip": ["*"]"#,
            r#""src": ["tag:a"], "dst": ["10.1.0.0/16"], "ip": ["22"]"#,
        ),
        (
            r#""src": ["tag:a"], "dst": ["internet:*.x.org"]"#,
            r#""src": ["tag:a"], "dst": ["internet:a.x.org:443"], "http": [{"methods": ["GET"]}]"#,
        ),
        (
            r#""src": ["tag:a"], "dst": ["topic:a/**"], "msg": ["publish"]"#,
            r#""src": ["tag:a"], "dst": ["topic:a/*"], "msg": ["publish"]"#,
        ),
    ] {
        for (first, second) in [(wide, narrow), (narrow, wide)] {
            let file = grants(&format!("{{{first}}}, {{{second}}}"));
            let found = file.lint(&[]);
            let shadowed: Vec<_> = found.iter().filter(|it| it.code() == "W109").collect();
            assert_eq!(shadowed.len(), 1, "{first} / {second}: {found:?}");
            let place = if first == wide {
                "grants[0]"
            } else {
                "grants[1]"
            };
            assert_eq!(
                shadowed[0].message(),
                format!("{place} allows all of this already")
            );
        }
    }
    let twice = r#"{"id": "one", "src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]}, {"id": "two", "src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]}"#;
    assert_eq!(
        said(&grants(twice).lint(&[])),
        [("W109", "grant one allows all of this already")]
    );
}

#[test]
fn a_grant_that_allows_anything_of_its_own_is_not_shadowed() {
    for (one, other) in [
        (
            r#""dst": ["tag:b"], "msg": ["send"]"#,
            r#""dst": ["tag:b"], "msg": ["request"]"#,
        ),
        (
            r#""dst": ["tag:b"], "ip": ["tcp:*"]"#,
            r#""dst": ["tag:b"], "ip": ["22"]"#,
        ),
        (
            r#""dst": ["agent:x@tag:b"], "msg": ["send"]"#,
            r#""dst": ["agent:y@tag:b"], "msg": ["send"]"#,
        ),
        (
            r#""dst": ["tag:b"], "msg": ["send"], "valid": {"notAfter": "2090-01-01T00:00:00Z"}"#,
            r#""dst": ["agent:y@tag:b"], "msg": ["send"]"#,
        ),
        (
            r#""dst": ["tag:b"], "msg": ["send"], "srcPosture": ["posture:p"]"#,
            r#""dst": ["agent:y@tag:b"], "msg": ["send"]"#,
        ),
        (
            r#""dst": ["tag:b"], "ip": ["*"], "via": ["tag:c"]"#,
            r#""dst": ["tag:b"], "ip": ["22"]"#,
        ),
        (
            r#""dst": ["tag:b"], "ip": ["tcp:80"], "http": [{"methods": ["GET"]}]"#,
            r#""dst": ["tag:b"], "ip": ["tcp:80"], "http": [{"paths": ["/a"]}]"#,
        ),
    ] {
        let file = grants(&format!(
            r#"{{"src": ["tag:a"], {one}}}, {{"src": ["tag:a"], {other}}}"#
        ));
        assert!(!codes(&file).contains(&"W109"), "{one} / {other}");
    }
}

#[test]
fn a_guard_about_nothing_that_is_granted_has_no_effect() {
    let with = |guard: &str| {
        document(&format!(
            r#""grants": [{{"src": ["tag:a"], "dst": ["agent:x@tag:b"], "msg": ["send"]}}, {{"src": ["tag:c"], "dst": ["tag:c"], "ip": ["22"]}}],
            "guards": [{{{guard}}}]"#
        ))
    };
    for idle in [
        r#""id": "g", "src": ["group:g"], "dst": ["*"], "maxBytes": "1KiB""#,
        r#""id": "g", "src": ["*"], "dst": ["agent:y@tag:b"], "msg": ["send"], "maxBytes": "1KiB""#,
        r#""id": "g", "src": ["*"], "dst": ["*"], "msg": ["request"], "maxBytes": "1KiB""#,
        r#""id": "g", "src": ["tag:a"], "dst": ["internet:*"], "deny": {"windows": [{"days": "sat"}]}"#,
    ] {
        let found = with(idle).lint(&[]);
        assert_eq!(
            said(&found),
            [(
                "W110",
                "guard g has no effect: nothing that it is about is granted"
            )],
            "{idle}"
        );
    }
    for busy in [
        r#""src": ["*"], "dst": ["*"], "maxBytes": "1KiB""#,
        r#""src": ["agent:q@tag:a"], "dst": ["agent:*@*"], "rate": {"limit": "1/s"}"#,
        r#""src": ["tag:c"], "dst": ["tag:c"], "deny": {"windows": [{"days": "sat"}]}"#,
    ] {
        assert!(codes(&with(busy)).is_empty(), "{busy}");
    }
}

#[test]
fn as_many_ports_as_destinations_are_probably_meant_as_pairs() {
    let pairs =
        grants(r#"{"src": ["tag:a"], "dst": ["tag:b", "tag:c"], "ip": ["tcp:5432", "tcp:6379"]}"#);
    assert_eq!(codes(&pairs), ["W111"]);
    assert!(
        pairs.lint(&[])[0]
            .hint()
            .expect("help")
            .contains("a grant for each")
    );
    for fine in [
        r#""dst": ["tag:b"], "ip": ["tcp:22", "tcp:5432"]"#,
        r#""dst": ["tag:b", "tag:c"], "ip": ["tcp:80", "tcp:443"]"#,
        r#""dst": ["tag:b", "tag:c"], "ip": ["tcp:53", "udp:53"]"#,
        r#""dst": ["tag:b", "tag:c"], "ip": ["tcp:1-99", "tcp:200-300"]"#,
    ] {
        assert!(
            codes(&grants(&format!(r#"{{"src": ["tag:a"], {fine}}}"#))).is_empty(),
            "{fine}"
        );
    }
}

#[test]
fn a_tag_takes_a_gateway_from_its_user() {
    let file = grants(r#"{"src": ["ana@x.org", "cy@x.org"], "dst": ["tag:a"], "msg": ["send"]}"#);

    let found = file.lint(&[node(1, Some("ana@x.org"), &["tag:a"])]);
    assert_eq!(
        said(&found),
        [
            (
                "W112",
                "\"ana@x.org\" matches no gateway: those of ana@x.org all have tags"
            ),
            ("W107", "\"cy@x.org\" matches no gateway of this mesh"),
        ]
    );
    let both = [
        node(1, Some("ana@x.org"), &["tag:a"]),
        node(2, Some("ana@x.org"), &[]),
    ];
    assert_eq!(
        said(&file.lint(&both)).len(),
        1,
        "she has one without a tag"
    );
    let own = grants(r#"{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}"#);
    let codes: Vec<_> = own.lint(&both[..1]).iter().map(Diagnostic::code).collect();
    assert_eq!(codes, ["W112", "W112"]);
}

#[test]
fn a_posture_is_never_met_where_no_gateway_tells_the_attribute() {
    let file =
        grants(r#"{"src": ["*"], "dst": ["*"], "msg": ["send"], "srcPosture": ["posture:p"]}"#);
    let mut gateway = node(1, None, &["tag:a"]);

    let found = file.lint(std::slice::from_ref(&gateway));
    assert_eq!(
        said(&found),
        [(
            "W113",
            "no known gateway tells \"node:tier\": posture:p is never met"
        )]
    );
    let silver = policy::Attribute::Text("silver".into());
    gateway.attributes.insert("node:tier".into(), silver);
    assert!(file.lint(&[gateway]).is_empty());
}

#[test]
fn what_nothing_asks_for_is_told_once_a_kind() {
    let file = grants(
        r#"{"src": ["tag:a"], "dst": ["topic:x"], "msg": ["publish"]}, {"src": ["tag:a"], "dst": ["topic:y"], "msg": ["subscribe"]},
        {"src": ["tag:a"], "dst": ["tag:b"], "msg": ["stream", "call:deploy"]}, {"src": ["tag:a"], "dst": ["svc:db"]}"#,
    );
    let found = file.lint(&[]);
    let kinds: Vec<_> = found
        .iter()
        .map(|it| (it.code(), it.label_text().expect("a label")))
        .collect();

    assert_eq!(
        kinds,
        [
            ("W114", "the first grant of topics"),
            ("W114", "the first grant of \"call:\""),
            ("W114", "the first grant of \"svc:\""),
        ]
    );
    assert!(
        codes(&grants(
            r#"{"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send", "request"]}"#
        ))
        .is_empty()
    );
}

#[test]
fn a_version_that_locks_somebody_out_or_is_wider_says_so() {
    let before = grants(
        r#"{"src": ["group:g"], "dst": ["tag:a"], "msg": ["send"]}, {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22"]}"#,
    );
    let after = grants(
        r#"{"src": ["ana@x.org"], "dst": ["tag:a"], "msg": ["send"]}, {"id": "all", "src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22-23"]}"#,
    );

    let found = after.lint_since(&before, &[], NOW);
    assert_eq!(
        said(&found),
        [
            (
                "W115",
                "bo@x.org loses the last grant: whatever it was, it is denied now"
            ),
            (
                "W116",
                "wider than the policy in force: tag:a -> tag:b gains tcp:23"
            ),
        ]
    );
    assert!(found[1].span().start > 0, "at the grant that does it");
    assert!(before.lint_since(&before, &[], NOW).is_empty());
    assert!(
        said(&before.lint_since(&after, &[], NOW))
            .iter()
            .all(|(code, _)| *code == "W116")
    );
}

#[test]
fn of_each_kind_as_many_are_told_as_somebody_reads() {
    let many = r#"{"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]},"#.repeat(30);
    let found = grants(&many).lint(&[]);

    assert_eq!(found.len(), 21);
    assert_eq!(found[20].message(), "9 more of W109 are not shown");
}

/// The figures of a release build are those of `examples/load.rs`; here that it is not quadratic: the
/// naive way takes minutes.
#[test]
fn the_largest_file_is_linted_in_no_time() {
    let mut list = String::new();
    for n in 0..10_000 {
        let port = n % 60_000 + 1;
        list.push_str(&format!(
            r#"{{"src":["tag:a"],"dst":["tag:b"],"ip":["tcp:{port}"]}},"#
        ));
    }
    let file = grants(&list);
    assert!(list.len() < MAX_TEXT);

    let started = Instant::now();
    assert!(file.lint(&[]).is_empty());
    assert!(
        file.lint_since(&grants(""), &[], NOW)
            .iter()
            .all(|it| it.code() == "W116")
    );
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}
