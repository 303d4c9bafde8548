//! `policy`: files of any author, read, formatted and translated.

use std::sync::LazyLock;

use identity::{AgentName, NodeId, UnixTime};
use policy::{Document, MessageRequest, Network, Node, Policy, Prefix, Verb};

static NODES: LazyLock<Vec<Node>> = LazyLock::new(|| {
    let node = |n: u8, name: &str, user: Option<&str>, tags: &[&str]| Node {
        user: user.map(|user| user.parse().expect("a user")),
        tags: tags.iter().map(|tag| tag.parse().expect("a tag")).collect(),
        addresses: vec![format!("fd00::{n}").parse().expect("an address")],
        ..Node::new(NodeId([n; 16]), name.parse().expect("a name"))
    };
    vec![
        node(1, "gw-a", None, &["tag:a"]),
        node(2, "gw-b", Some("ana@example.com"), &[]),
    ]
});

/// A policy file: it is read or refused with words that can be shown, and what is read can be
/// compiled, asked, explained, tested and listed.
pub fn policy(bytes: &[u8]) {
    let (document, said) = match Document::parse_bytes("fuzz.hujson", bytes) {
        Ok(read) => read,
        Err(said) => {
            assert!(!said.is_empty(), "a refusal without a reason");
            said.iter()
                .for_each(|diagnostic| drop(diagnostic.render(false)));
            return;
        }
    };
    said.iter()
        .chain(&document.lint(&NODES))
        .for_each(|diagnostic| {
            let _ = (diagnostic.render(false), serde_json::to_string(diagnostic));
        });
    judge(&document);
    // Ten thousand rules and tests are for the bench, not for each of a million runs.
    if document.expectation_count() < 50 {
        drop(Policy::run_tests(&document, &NODES, MOMENT));
    }
    let mesh = [Prefix::host(NODES[0].addresses[0])].into_iter().collect();
    let network = Network::new(&document, &NODES, &mesh);
    for node in NODES.iter() {
        for rule in network.rules_for(node) {
            assert!(!rule.sources.is_empty(), "a rule from nobody");
        }
    }
    assert!(document.summary().count() >= document.rule_count());
}

/// Whoever is asked says the same.
fn judge(document: &Document) {
    let whole = Policy::compile(document, &NODES);
    let (a, b) = (NODES[0].id, NODES[1].id);
    let local = Policy::compile_for(document, &NODES, &b);
    let grown = Policy::compile(document, &NODES[..1])
        .with_changes(&NODES[1..], &[])
        .expect("there is a policy");
    let agent: AgentName = "coder".parse().expect("a name");
    let at = whole.next_change(MOMENT).unwrap_or(MOMENT);
    for verb in Verb::ALL {
        let request = MessageRequest {
            src: (a, &agent),
            dst: (b, &agent),
            verb,
            at,
            bytes: Some(1000),
        };
        let verdict = whole.authorize(&request);
        assert_eq!(verdict, local.authorize(&request));
        assert_eq!(verdict, grown.authorize(&request));
        let answers = Policy::explain(
            document,
            &NODES,
            "agent:coder@gw-a",
            "agent:coder@gw-b",
            verb.as_str(),
            at,
        );
        if let Ok([answer]) = answers.as_deref() {
            // What is explained has no body, and so no size that a guard could refuse.
            let unsized_verdict = whole.allows(&MessageRequest {
                bytes: None,
                ..request
            });
            assert_eq!(answer.allowed, unsized_verdict);
        }
        if verdict.is_allowed() {
            assert!(document.rule_count() > 0, "allowed without a rule");
            assert!(
                whole.may_talk(&a, &b, at) && whole.reachable((&a, Some(&agent)), (&b, &agent), at)
            );
        }
    }
    let _ = whole.packet_filter(&a, 4747, at);
}

/// A policy file as text: it is formatted once for all, and what becomes of it at Tailscale, or of
/// theirs here, loads.
pub fn policy_text(bytes: &[u8]) {
    let Ok(text) = policy::text_of("fuzz.hujson", bytes) else {
        return;
    };
    if let Ok(once) = policy::format("fuzz.hujson", text) {
        let twice = policy::format("fuzz.hujson", &once).expect("it is HuJSON still");
        assert_eq!(once, twice, "formatted twice is not formatted once");
        let read = |text| Document::parse("fuzz.hujson", text);
        match (read(text), read(&once)) {
            (Ok((before, _)), Ok((after, _))) => assert!(before.summary().eq(after.summary())),
            (before, after) => assert_eq!(before.is_ok(), after.is_ok(), "it loads no more"),
        }
    }
    let imported = policy::import_from_tailscale("fuzz.hujson", text);
    let exported = policy::export_to_tailscale("fuzz.hujson", text, UnixTime(0));
    for translated in [imported, exported].into_iter().flatten() {
        if let Err(said) = Document::parse("fuzz.hujson", &translated.text) {
            panic!("{}\n{said:?}", translated.text);
        }
        let again = policy::format("fuzz.hujson", &translated.text);
        assert_eq!(again.as_ref().ok(), Some(&translated.text), "{again:?}");
    }
}

/// 2026-11-25, a Wednesday.
const MOMENT: UnixTime = UnixTime(1_795_608_000);
