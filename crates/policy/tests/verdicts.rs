//! Who may do what, and what the refused are told.

use std::net::IpAddr;

use identity::{AgentName, NodeId, UnixTime};
use policy::{Document, InnerPacket, MessageRequest, Node, Policy, Verb, Verdict};

const ROUTER_PORT: u16 = 4747;
const NOW: UnixTime = UnixTime(1_800_000_000);
const FILE: &str = r#"{
    "groups": {"group:ops": ["ana@example.com"]},
    "hosts": {"lab": "fd00::20/124"},
    "tagOwners": {"tag:prod": ["group:ops"], "tag:ci": ["group:ops"]},
    "grants": [
        {"id": "plan-code", "src": ["agent:planner@tag:prod"], "dst": ["agent:coder@tag:ci"], "msg": ["request"]},
        {"src": ["group:ops"], "dst": ["tag:prod"], "ip": ["tcp:22"], "msg": ["send"]},
        {"id": "own", "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"], "msg": ["stream"]},
        {"id": "lab", "src": ["gw-a"], "dst": ["lab"], "ip": ["tcp:445"]},
    ],
    "acls": [{"action": "accept", "src": ["tag:ci"], "dst": ["tag:prod:80,443"]}],
    "tests": [],
}"#;

fn nodes() -> Vec<Node> {
    vec![
        node(1, "gw-a", None, &["tag:prod"]),
        node(2, "gw-b", None, &["tag:ci"]),
        node(3, "laptop", Some("ana@example.com"), &[]),
        node(4, "phone", Some("ana@example.com"), &[]),
        node(5, "other", Some("cy@example.com"), &[]),
        // Tagged: the user that the membership also names does not count.
        node(6, "gw-c", Some("ana@example.com"), &["tag:ci"]),
    ]
}

fn node(n: u8, name: &str, user: Option<&str>, tags: &[&str]) -> Node {
    Node {
        user: user.map(|user| user.parse().expect("a user")),
        tags: tags.iter().map(|tag| tag.parse().expect("a tag")).collect(),
        addresses: vec![address(n)],
        ..Node::new(id(n), name.parse().expect("a name"))
    }
}

fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn address(n: u8) -> IpAddr {
    format!("fd00::{:x}", 0x20 + u16::from(n) * 4)
        .parse()
        .expect("an address")
}

fn policy() -> Policy {
    policy_of(FILE)
}

fn policy_of(text: &str) -> Policy {
    let (document, _) = Document::parse("policy.hujson", text).expect("the file loads");
    Policy::compile(&document, &nodes())
}

fn ask(policy: &Policy, src: (u8, &str), dst: (u8, &str), verb: Verb) -> Verdict {
    let agent = |name: &str| name.parse::<AgentName>().expect("an agent");
    let (from, to) = (agent(src.1), agent(dst.1));
    policy.authorize(&MessageRequest {
        src: (id(src.0), &from),
        dst: (id(dst.0), &to),
        verb,
        at: UnixTime(0),
        bytes: None,
    })
}

fn packet(src: u8, dst: u8, protocol: u8, dst_port: u16) -> InnerPacket {
    InnerPacket {
        src: address(src),
        dst: address(dst),
        protocol,
        src_port: 40_000,
        dst_port,
    }
}

#[test]
fn without_a_policy_and_without_grants_nothing_passes() {
    for (policy, code) in [
        (Policy::default(), "no_policy"),
        (policy_of("{}"), "no_grant"),
    ] {
        let Verdict::Denied(denial) = ask(&policy, (1, "planner"), (2, "coder"), Verb::Request)
        else {
            panic!("denied")
        };
        assert_eq!(denial.code, code);
        assert!(!policy.may_talk(&id(1), &id(2), NOW));
        let filter = policy.packet_filter(&id(1), ROUTER_PORT, NOW);
        assert!(!filter.allows(&id(2), &packet(2, 1, 6, 22)));
        assert!(!filter.allows(&id(2), &router_packet(2, 1)));
    }
}

fn router_packet(src: u8, dst: u8) -> InnerPacket {
    InnerPacket {
        src_port: ROUTER_PORT,
        ..packet(src, dst, 17, ROUTER_PORT)
    }
}

#[test]
fn a_grant_allows_its_agents_and_verbs_and_nobody_elses() {
    let policy = policy();

    let allowed = ask(&policy, (1, "planner"), (2, "coder"), Verb::Request);
    assert!(matches!(allowed, Verdict::Allowed { grant, .. } if grant.to_string() == "plan-code"));
    for (src, dst, verb) in [
        ((1, "planner"), (2, "coder"), Verb::Send),
        ((1, "other"), (2, "coder"), Verb::Request),
        ((1, "planner"), (2, "other"), Verb::Request),
        ((2, "coder"), (1, "planner"), Verb::Request),
        ((3, "planner"), (2, "coder"), Verb::Request),
        ((1, "planner"), (1, "coder"), Verb::Request),
    ] {
        assert!(
            !ask(&policy, src, dst, verb).is_allowed(),
            "{src:?} {dst:?} {verb}"
        );
    }
    let anyone = ask(&policy, (3, "any"), (1, "whoever"), Verb::Send);
    assert!(matches!(anyone, Verdict::Allowed { grant, .. } if grant.to_string() == "grants[1]"));
}

#[test]
fn self_is_the_same_user_on_untagged_gateways() {
    let policy = policy();

    assert!(ask(&policy, (3, "a"), (4, "b"), Verb::Stream).is_allowed());
    assert!(ask(&policy, (3, "a"), (3, "b"), Verb::Stream).is_allowed());
    assert!(!ask(&policy, (3, "a"), (5, "b"), Verb::Stream).is_allowed());
    assert!(
        !ask(&policy, (3, "a"), (6, "b"), Verb::Stream).is_allowed(),
        "a tag removes the user"
    );
    assert!(policy.may_talk(&id(3), &id(4), NOW) && !policy.may_talk(&id(3), &id(5), NOW));
}

#[test]
fn a_denial_names_the_reason_and_a_grant_that_would_help() {
    let policy = policy();

    let Verdict::Denied(denial) = ask(&policy, (1, "planner"), (2, "coder"), Verb::Send) else {
        panic!("denied")
    };
    assert_eq!(denial.code, "no_grant");
    assert_eq!(
        denial.reason,
        "no grant lets agent:planner@gw-a send to agent:coder@gw-b; grant plan-code allows only request"
    );
    let missing = denial.missing_grant.expect("a grant");
    let pasted = policy_of(&FILE.replace("\"grants\": [", &format!("\"grants\": [{missing},")));
    assert!(ask(&pasted, (1, "planner"), (2, "coder"), Verb::Send).is_allowed());
    assert!(!ask(&pasted, (1, "other"), (2, "coder"), Verb::Send).is_allowed());

    let Verdict::Denied(back) = ask(&policy, (2, "coder"), (1, "planner"), Verb::Request) else {
        panic!("denied")
    };
    assert!(
        back.reason
            .ends_with("; grant plan-code allows it the other way only"),
        "{}",
        back.reason
    );
    let Verdict::Denied(stranger) = ask(&policy, (9, "coder"), (1, "planner"), Verb::Request)
    else {
        panic!("denied")
    };
    assert_eq!(
        (stranger.code, stranger.missing_grant),
        ("unknown_node", None)
    );
}

#[test]
fn the_routers_port_is_open_exactly_where_messages_may_flow() {
    let policy = policy();
    let at_ci = policy.packet_filter(&id(2), ROUTER_PORT, NOW);
    let at_prod = policy.packet_filter(&id(1), ROUTER_PORT, NOW);

    assert!(policy.may_talk(&id(1), &id(2), NOW) && policy.may_talk(&id(2), &id(1), NOW));
    assert!(at_ci.allows(&id(1), &router_packet(1, 2)));
    assert!(
        at_prod.allows(&id(2), &router_packet(2, 1)),
        "replies need it in both directions"
    );
    assert!(!at_ci.allows(&id(5), &router_packet(5, 2)));
    assert!(!at_ci.allows(
        &id(1),
        &InnerPacket {
            src_port: 1,
            ..router_packet(1, 2)
        }
    ));
    assert!(
        !at_ci.allows(&id(1), &router_packet(1, 3)),
        "not an address of this gateway"
    );
    let wide = policy_of(r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#);
    let filter = wide.packet_filter(&id(2), ROUTER_PORT, NOW);
    assert!(
        !filter.allows(&id(1), &router_packet(1, 2)),
        "an ip grant never opens it"
    );
    assert!(filter.allows(&id(1), &packet(1, 2, 17, 53)));
}

#[test]
fn packets_pass_by_node_and_port_and_never_by_agent() {
    let policy = policy();
    let at_prod = policy.packet_filter(&id(1), ROUTER_PORT, NOW);
    let at_phone = policy.packet_filter(&id(4), ROUTER_PORT, NOW);

    assert!(at_prod.allows(&id(3), &packet(3, 1, 6, 22)));
    assert!(!at_prod.allows(&id(3), &packet(3, 1, 17, 22)), "only tcp");
    assert!(at_prod.allows(&id(2), &packet(2, 1, 6, 443)), "by the ACL");
    assert!(
        at_prod.allows(&id(2), &packet(2, 1, 58, 0)),
        "who may open a port may ping"
    );
    assert!(!at_prod.allows(&id(2), &packet(2, 1, 6, 444)));
    assert!(at_phone.allows(&id(3), &packet(3, 4, 6, 9)), "own gateways");
    assert!(!at_phone.allows(&id(5), &packet(5, 4, 6, 9)));
    let by_agent = policy_of(r#"{"grants": [{"src": ["agent:*@*"], "dst": ["*"], "ip": ["*"]}]}"#);
    assert!(
        !by_agent
            .packet_filter(&id(1), ROUTER_PORT, NOW)
            .allows(&id(2), &packet(2, 1, 6, 1))
    );
}

#[test]
fn a_host_is_the_gateways_that_have_its_address() {
    let policy = policy();

    // lab is fd00::20/124, where only gw-a and gw-b would be: gw-b is fd00::28.
    let at_b = policy.packet_filter(&id(2), ROUTER_PORT, NOW);
    assert!(at_b.allows(&id(1), &packet(1, 2, 6, 445)));
    assert!(
        !policy
            .packet_filter(&id(4), ROUTER_PORT, NOW)
            .allows(&id(1), &packet(1, 4, 6, 445))
    );
}

#[test]
fn a_directory_shows_whom_some_verb_reaches() {
    let policy = policy();
    let name = |text: &str| text.parse::<AgentName>().expect("an agent");

    assert!(policy.reachable(
        (&id(1), Some(&name("planner"))),
        (&id(2), &name("coder")),
        NOW
    ));
    assert!(policy.reachable((&id(1), None), (&id(2), &name("coder")), NOW));
    assert!(!policy.reachable(
        (&id(1), Some(&name("other"))),
        (&id(2), &name("coder")),
        NOW
    ));
    assert!(!policy.reachable((&id(1), None), (&id(2), &name("other")), NOW));
    assert!(!policy.reachable((&id(2), None), (&id(1), &name("planner")), NOW));
}

#[test]
fn a_name_that_matches_no_gateway_is_pointed_out() {
    let text = r#"{"grants": [{"src": ["gw-a"], "dst": ["gw-z"], "msg": ["send"]}]}"#;
    let (document, _) = Document::parse("policy.hujson", text).expect("the file loads");

    let said = document.lint(&nodes());

    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0].message(),
        "\"gw-z\" matches no gateway of this mesh"
    );
}

/// What becomes of an answer of so many bytes from `coder@gw-b` to `planner@gw-a`.
fn answer(guards: &str, bytes: u64) -> Verdict {
    let text = format!(
        r#"{{"grants": [{{"src": ["agent:planner@*"], "dst": ["agent:coder@*"], "msg": ["request"]}}],
            "guards": [{guards}]}}"#
    );
    let agent = |name: &str| name.parse::<AgentName>().expect("an agent");
    policy_of(&text).authorize_reply(&MessageRequest {
        src: (id(1), &agent("planner")),
        dst: (id(2), &agent("coder")),
        verb: Verb::Request,
        at: NOW,
        bytes: Some(bytes),
    })
}

#[test]
fn an_answer_rides_the_grant_of_its_request_and_obeys_the_sizes_of_its_own_way() {
    let back =
        r#"{"id": "back", "src": ["agent:coder@*"], "dst": ["agent:*@*"], "maxBytes": "10"}"#;
    let forth =
        r#"{"id": "forth", "src": ["agent:planner@*"], "dst": ["agent:*@*"], "maxBytes": "10"}"#;

    assert!(answer("", 1_000).is_allowed());
    assert!(answer(back, 10).is_allowed());
    let Verdict::Denied(denial) = answer(back, 11) else {
        panic!("too long")
    };
    assert_eq!(denial.code, "guard");
    assert_eq!(denial.rule.expect("a guard").as_str(), "back");
    assert!(
        answer(forth, 1_000).is_allowed(),
        "that guard is about the request"
    );
}

#[test]
fn an_answer_draws_nothing_and_passes_no_block() {
    let rate = r#"{"src": ["agent:*@*"], "dst": ["agent:*@*"], "rate": {"limit": "1/d"}}"#;
    let Verdict::Allowed { buckets, .. } = answer(rate, 1) else {
        panic!("allowed")
    };
    assert_eq!(buckets, []);

    let asks = r#"{"src": ["agent:planner@*"], "dst": ["agent:*@*"],
        "deny": {"windows": [{"days": "mon-sun", "hours": "00:00-24:00"}]}}"#;
    assert!(
        !answer(asks, 1).is_allowed(),
        "the request itself may not pass now"
    );
    let stopped = r#"], "blocks": [{"match": ["agent:coder@gw-b"]}"#;
    assert!(!answer(stopped, 1).is_allowed());
}

#[test]
fn without_a_clock_what_holds_at_times_holds_never_and_what_denies_at_times_denies() {
    let text = r#"{
        "grants": [
            {"src": ["agent:a@*"], "dst": ["agent:b@*"], "msg": ["send"], "valid": {"notAfter": "2100-01-01T00:00:00Z"}},
            {"src": ["agent:a@*"], "dst": ["agent:b@*", "agent:c@*", "agent:d@*"], "msg": ["request"]},
        ],
        "guards": [{"src": ["agent:*@*"], "dst": ["agent:c@*"],
            "deny": {"windows": [{"days": "mon", "hours": "00:00-00:01"}]}}],
        "blocks": [{"match": ["agent:d@*"], "until": "2000-01-01T00:00:00Z"}],
    }"#;
    let (document, _) = Document::parse("policy.hujson", text).expect("the file loads");
    let compiled = [document.clone(), document.without_clock()]
        .map(|document| Policy::compile(&document, &nodes()));
    let verdicts = |dst: &str, verb| {
        compiled.each_ref().map(|policy| {
            let agent = |name: &str| name.parse::<AgentName>().expect("an agent");
            policy.allows(&MessageRequest {
                src: (id(1), &agent("a")),
                dst: (id(2), &agent(dst)),
                verb,
                at: NOW,
                bytes: None,
            })
        })
    };

    assert_eq!(verdicts("b", Verb::Send), [true, false]);
    assert_eq!(verdicts("c", Verb::Request), [true, false]);
    assert_eq!(verdicts("d", Verb::Request), [true, false]);
    assert_eq!(
        verdicts("b", Verb::Request),
        [true, true],
        "that asks no clock"
    );
}
