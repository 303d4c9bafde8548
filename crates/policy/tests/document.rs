//! What a policy file may say, and what its author is told.

use policy::{Diagnostic, Document, Severity};

fn refused(text: &str) -> Vec<Diagnostic> {
    Document::parse("policy.hujson", text).expect_err("the file is refused")
}

/// The only mistake of a file: its code, message, the text it points at, and the help.
fn mistake(text: &str) -> (String, String, String, String) {
    let said = refused(text);
    let errors: Vec<_> = said
        .iter()
        .filter(|d| d.severity() == Severity::Error)
        .collect();
    let [error] = errors[..] else {
        panic!("one mistake, not {errors:?}")
    };
    let at = text[error.span()].to_owned();
    let hint = error.hint().unwrap_or_default().to_owned();
    (
        error.code().to_owned(),
        error.message().to_owned(),
        at,
        hint,
    )
}

fn warnings(text: &str) -> Vec<String> {
    let (_, warnings) = Document::parse("policy.hujson", text).expect("the file loads");
    warnings
        .iter()
        .map(|w| format!("{} {}", w.code(), w.message()))
        .collect()
}

/// A grant that is right, with one key more.
fn grant_with(extra: &str) -> String {
    format!(r#"{{"grants": [{{"src": ["*"], "dst": ["*"], "msg": ["send"], {extra}}}]}}"#)
}

#[test]
fn comments_and_trailing_commas_are_welcome_and_json5_is_not() {
    let (document, said) = Document::parse(
        "policy.hujson",
        "// the smallest\n{\"grants\": [{\"src\": [\"*\",], \"dst\": [\"*\"], \"msg\": [\"send\"],},],}",
    )
    .expect("HuJSON");

    assert_eq!(document.rule_count(), 1);
    assert_eq!(said.len(), 1, "only the missing tests: {said:?}");
    for text in [
        "{grants: []}",
        "{'grants': []}",
        "{\"grants\": [] \"tests\": []}",
        "{\"grants\": [+1]}",
        "{\"grants\": [0x1]}",
        "{\"grants\": [NaN]}",
        "{\"grants\": [\"\\x41\"]}",
        "{\"grants\": [{} {}]}",
        "{} {}",
        "{",
    ] {
        assert!(Document::parse("p", text).is_err(), "{text}");
    }
    assert_eq!(refused("{\"grants\": [+1]}")[0].code(), "E002");
}

#[test]
fn a_file_that_says_nothing_or_the_same_twice_is_refused() {
    assert_eq!(mistake("// nothing here\n").0, "E005");
    assert_eq!(mistake("").0, "E005");
    assert_eq!(mistake("[]").1, "the policy must be an object");
    let (code, message, at, _) = mistake(r#"{"grants": [], "Grants": []}"#);
    assert_eq!((code.as_str(), at.as_str()), ("E003", "\"Grants\""));
    assert_eq!(message, "duplicate object member name \"Grants\"");
    assert_eq!(
        mistake(r#"{"groups": {"group:a": [], "group:a": []}}"#).0,
        "E003"
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(refused(&deep)[0].code(), "E002");
    assert_eq!(refused(&" ".repeat(policy::MAX_TEXT + 1))[0].code(), "E001");
    let bytes = Document::parse_bytes("p", b"{\"grants\": [\"\xff\"]}").expect_err("not UTF-8");
    assert_eq!(bytes[0].code(), "E001");
}

#[test]
fn a_file_that_shows_something_else_than_it_means_is_refused() {
    for hidden in ['\u{202e}', '\u{1b}', '\u{200b}', '\u{feff}'] {
        let text = format!("{{\"grants\": [/* admins {hidden} only */]}}");
        assert_eq!(refused(&text)[0].code(), "E007", "{hidden:?}");
    }
    assert!(Document::parse("p", "\u{feff}{\"grants\": [] /* 世界 🦀 */}\r\n").is_ok());
}

#[test]
fn what_a_gateway_must_enforce_is_known_before_it_is_pushed() {
    let text = r#"{"grants": [], "guards": [
        {"id": "small", "src": ["*"], "dst": ["*"], "maxBytes": "256KiB", "rate": {"limit": "120/m"}},
        {"id": "first", "src": ["*"], "dst": ["*"], "approve": {"by": ["autogroup:member"]}},
        {"id": "night", "src": ["*"], "dst": ["internet:*"], "deny": {"windows": [{"days": "sat-sun"}]}},
    ]}"#;
    let (document, _) = Document::parse("policy.hujson", text).expect("the file loads");

    let demands: Vec<_> = document
        .demands()
        .into_iter()
        .map(|(feature, guard)| (feature.as_str(), guard.to_owned()))
        .collect();
    let of = |feature, guard: &str| (feature, guard.to_owned());
    assert_eq!(
        demands,
        [
            of("rate", "small"),
            of("maxBytes", "small"),
            of("deny", "night"),
            of("approve", "first")
        ]
    );
}

#[test]
fn what_only_tailscale_needs_is_ignored_with_a_word() {
    let said = warnings(r#"{"ssh": [{"action": "accept"}], "nodeAttrs": [], "grants": []}"#);

    assert!(
        said.contains(&"W101 \"ssh\" is ignored here".to_owned()),
        "{said:?}"
    );
    assert!(said.contains(&"W101 \"nodeAttrs\" is ignored here".to_owned()));
    assert!(said.contains(&"W102 no grants: everything is denied".to_owned()));
    assert!(said.contains(&"W103 no tests".to_owned()));
}

#[test]
fn a_mistyped_word_is_answered_with_the_one_that_was_meant() {
    assert_eq!(mistake(r#"{"grnats": []}"#).3, "did you mean \"grants\"?");
    assert_eq!(
        mistake(&grant_with(r#""scr": []"#)).3,
        "did you mean \"src\"?"
    );
    let tag = r#"{"tagOwners": {"tag:prod": ["a@b.c"]}, "grants": [{"src": ["tag:prd"], "dst": ["*"], "msg": ["send"]}]}"#;
    let (code, message, at, hint) = mistake(tag);
    assert_eq!((code.as_str(), at.as_str()), ("E021", "\"tag:prd\""));
    assert_eq!(message, "src=tag not found: \"tag:prd\"");
    assert_eq!(hint, "did you mean \"tag:prod\"?");
    let verb = r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["reqest"]}]}"#;
    assert_eq!(mistake(verb).3, "did you mean \"request\"?");
    let host = r#"{"hosts": {"nas": "10.0.0.1"}, "grants": [{"src": ["*"], "dst": ["nsa"], "ip": ["*"]}]}"#;
    assert!(
        warnings(host)
            .contains(&"W105 \"nsa\" is not in hosts: taken as the name of a gateway".into())
    );
}

#[test]
fn rules_that_cannot_mean_anything_are_refused_in_tailscales_words() {
    let of = |grant: &str| {
        let (code, message, ..) = mistake(&format!(
            r#"{{"tagOwners": {{"tag:a": []}}, "grants": [{grant}]}}"#
        ));
        format!("{code} {message}")
    };

    assert_eq!(
        of(r#"{"src": ["*"], "dst": ["*"]}"#),
        "E040 ip and app can not both be empty"
    );
    assert_eq!(
        of(r#"{"src": ["tag:a"], "dst": ["autogroup:self"], "ip": ["*"]}"#),
        "E034 autogroup:self can only be used with users, groups, or supported autogroups"
    );
    assert_eq!(
        of(r#"{"src": ["autogroup:self"], "dst": ["*"], "ip": ["*"]}"#),
        "E035 \"autogroup:self\" not valid on the src side of a rule"
    );
    assert_eq!(
        of(r#"{"src": ["*"], "dst": ["0.0.0.0/0"], "ip": ["*"]}"#),
        "E043 dst \"0.0.0.0/0\": to allow all IP addresses, use \"*\" or \"autogroup:internet\""
    );
    assert_eq!(
        of(r#"{"src": ["*"], "dst": ["*"], "ip": ["0"]}"#),
        "E050 port range \"0\": first port must be >0, or use '*' for wildcard"
    );
    assert_eq!(
        of(r#"{"src": ["*"], "dst": ["agent:coder@*"], "ip": ["22"]}"#),
        "E045 an agent has no ports of its own"
    );
    assert_eq!(
        of(r#"{"src": ["agent:Coder@*"], "dst": ["*"], "msg": ["send"]}"#)
            .split(' ')
            .next(),
        Some("E020")
    );
    assert_eq!(
        of(r#"{"src": ["agent:coder"], "dst": ["*"], "msg": ["send"]}"#)
            .split(' ')
            .next(),
        Some("E020")
    );
    assert_eq!(
        of(r#"{"src": ["tag:а"], "dst": ["*"], "msg": ["send"]}"#)
            .split(' ')
            .next(),
        Some("E020"),
        "a Cyrillic look-alike"
    );
    assert_eq!(
        of(r#"{"dst": ["*"], "msg": ["send"]}"#),
        "E006 \"src\" is missing"
    );
    assert_eq!(
        of(r#"{"src": "*", "dst": ["*"], "msg": ["send"]}"#),
        "E004 src must be an array of strings"
    );
    assert_eq!(
        mistake(r#"{"groups": {"group:a": [], "group:b": ["group:a"]}}"#).1,
        "groups[\"group:b\"]: \"group:a\": group members cannot be recursive"
    );
    assert_eq!(
        mistake(r#"{"acls": [{"action": "deny", "src": ["*"], "dst": ["*:*"]}]}"#).1,
        "action=\"deny\" is not supported"
    );
    let twice = r#"{"grants": [{"id": "a", "src": ["*"], "dst": ["*"], "msg": ["send"]}, {"id": "a", "src": ["*"], "dst": ["*"], "msg": ["send"]}]}"#;
    assert_eq!(mistake(twice).0, "E064");
}

#[test]
fn a_thousand_mistakes_are_told_in_a_hundred() {
    let many = vec!["1"; 1000].join(",");

    assert_eq!(refused(&format!("{{\"grants\": [{many}]}}")).len(), 100);
}

#[test]
fn a_diagnostic_shows_the_line_to_people_and_its_place_to_programs() {
    let said = refused("{\n  \"grants\": [],\n  \"gards\": []\n}");

    let shown = said[0].render(false);
    assert!(
        shown.contains("E010") && shown.contains("policy.hujson:3:3"),
        "{shown}"
    );
    assert!(
        shown.contains("\"gards\": []") && shown.contains("did you mean \"guards\"?"),
        "{shown}"
    );
    assert_eq!(said[0].position(), (3, 3));
}
