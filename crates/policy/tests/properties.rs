//! Random policies and meshes: the compiled policy says what a naive reading of the rules says,
//! the packet filter and the self-tests agree with it, and no text ends the parser.

use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, UnixTime};
use policy::{Document, InnerPacket, MessageRequest, Network, Node, Policy, Prefix, Verb, VerbSet};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const ROUTER_PORT: u16 = 4747;
const NOW: UnixTime = UnixTime(1_800_000_000);
const AGENTS: [&str; 3] = ["planner", "coder", "logger"];
const USERS: [&str; 3] = ["ana@x.org", "bo@x.org", "cy@x.org"];
const TAGS: [&str; 3] = ["tag:a", "tag:b", "tag:c"];
const GROUPS: [(&str, &[&str]); 2] = [
    ("group:g", &["ana@x.org", "bo@x.org"]),
    ("group:h", &["bo@x.org"]),
];
const VERBS: [&str; 5] = ["send", "request", "stream", "publish", "subscribe"];
const PORTS: [u16; 4] = [22, 443, 4747, 50_000];

/// A rule as its author thinks of it: text only.
#[derive(Clone, Debug)]
struct Rule {
    src: Vec<String>,
    dst: Vec<String>,
    msg: Vec<&'static str>,
    ip: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Machine {
    user: Option<&'static str>,
    tags: Vec<&'static str>,
}

fn node_selector() -> impl Strategy<Value = String> {
    let fixed = [
        "*",
        "autogroup:member",
        "autogroup:tagged",
        "gw-0",
        "gw-1",
        "gw-4",
    ];
    let all = fixed
        .into_iter()
        .chain(USERS)
        .chain(TAGS)
        .chain(GROUPS.map(|(name, _)| name));
    select(all.map(str::to_owned).collect::<Vec<_>>())
}

fn agent_selector() -> impl Strategy<Value = String> {
    let name = select(vec!["*", "planner", "coder", "logger"]);
    prop_oneof![
        node_selector(),
        (name, node_selector()).prop_map(|(name, node)| format!("agent:{name}@{node}")),
    ]
}

fn host_selector() -> impl Strategy<Value = String> {
    prop_oneof![
        node_selector(),
        select(vec![
            "fd00::2".to_owned(),
            "fd00::/126".to_owned(),
            "lab".to_owned()
        ])
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let own = || select(vec!["autogroup:member", "group:g", "ana@x.org"]).prop_map(str::to_owned);
    let verbs = || subsequence(VERBS.to_vec(), 1..=3);
    let ports = || {
        subsequence(
            vec!["*", "22", "tcp:443", "udp:1-60000", "ipv6-icmp:*"],
            1..=2,
        )
    };
    prop_oneof![
        3 => (vec(agent_selector(), 0..3), vec(agent_selector(), 1..3), verbs())
            .prop_map(|(src, dst, msg)| Rule { src, dst, msg, ip: vec![] }),
        2 => (vec(prop_oneof![agent_selector(), host_selector()], 1..3), vec(host_selector(), 1..3), ports())
            .prop_map(|(src, dst, ip)| Rule { src, dst, msg: vec![], ip }),
        1 => (vec(own(), 1..3), verbs(), ports()).prop_map(|(src, msg, ip)| {
            Rule { src, dst: vec!["autogroup:self".into()], msg, ip }
        }),
    ]
}

fn machine() -> impl Strategy<Value = Machine> {
    (
        proptest::option::of(select(USERS.to_vec())),
        subsequence(TAGS.to_vec(), 0..=2),
    )
        .prop_map(|(user, tags)| Machine { user, tags })
}

fn text(rules: &[Rule]) -> String {
    let list = |items: &[String]| {
        format!(
            "[{}]",
            items.iter().map(|i| format!("{i:?},")).collect::<String>()
        )
    };
    let words = |items: &[&str]| {
        list(
            &items
                .iter()
                .map(|item| (*item).to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let grants: String = rules
        .iter()
        .map(|rule| {
            let (msg, ip) = (words(&rule.msg), words(&rule.ip));
            format!(
                "{{\"src\": {}, \"dst\": {}, \"msg\": {msg}, \"ip\": {ip}}},\n",
                list(&rule.src),
                list(&rule.dst)
            )
        })
        .collect();
    format!(
        "{{\"groups\": {{\"group:g\": [\"ana@x.org\", \"bo@x.org\"], \"group:h\": [\"bo@x.org\"]}},
        \"hosts\": {{\"lab\": \"fd00::4/126\"}},
        \"tagOwners\": {{\"tag:a\": [], \"tag:b\": [], \"tag:c\": []}},
        \"grants\": [{grants}]}}"
    )
}

fn nodes(machines: &[Machine]) -> Vec<Node> {
    let node = |(n, machine): (usize, &Machine)| Node {
        user: machine.user.map(|user| user.parse().expect("a user")),
        tags: machine
            .tags
            .iter()
            .map(|tag| tag.parse().expect("a tag"))
            .collect(),
        addresses: vec![address(n)],
        ..Node::new(id(n), format!("gw-{n}").parse().expect("a name"))
    };
    machines.iter().enumerate().map(node).collect()
}

fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n).expect("few"); 16])
}

fn address(n: usize) -> IpAddr {
    Ipv6Addr::from_bits(0xfd00 << 112 | n as u128).into()
}

/// The naive reading: no classes, no indices, only text.
mod naive {
    use super::*;

    fn node_matches(selector: &str, n: usize, machine: &Machine) -> bool {
        let user = machine.user.filter(|_| machine.tags.is_empty());
        match selector {
            "*" => true,
            "autogroup:member" | "autogroup:self" => user.is_some(),
            "autogroup:tagged" => !machine.tags.is_empty(),
            "fd00::2" => n == 2,
            "fd00::/126" => n < 4,
            "lab" => (4..8).contains(&n),
            _ if selector == format!("gw-{n}") => true,
            _ if selector.starts_with("tag:") => machine.tags.contains(&selector),
            _ if selector.starts_with("group:") => GROUPS.iter().any(|(name, members)| {
                *name == selector && user.is_some_and(|u| members.contains(&u))
            }),
            _ => user == Some(selector),
        }
    }

    fn matches(selector: &str, n: usize, machine: &Machine, agent: Option<&str>) -> bool {
        match (selector.strip_prefix("agent:"), agent) {
            (None, _) => node_matches(selector, n, machine),
            (Some(_), None) => false,
            (Some(rest), Some(agent)) => {
                let (name, node) = rest.split_once('@').expect("an agent selector");
                (name == "*" || name == agent) && node_matches(node, n, machine)
            }
        }
    }

    /// Whether a rule reaches from one end to the other; without agents, for packets.
    pub fn connects(
        rule: &Rule,
        machines: &[Machine],
        (src, from): (usize, Option<&str>),
        (dst, to): (usize, Option<&str>),
    ) -> bool {
        let (a, b) = (&machines[src], &machines[dst]);
        let same_user = a.user == b.user && a.tags.is_empty() && b.tags.is_empty();
        let self_passes = |selector: &str| selector != "autogroup:self" || same_user;
        rule.src
            .iter()
            .any(|selector| matches(selector, src, a, from))
            && rule
                .dst
                .iter()
                .any(|selector| matches(selector, dst, b, to) && self_passes(selector))
    }

    pub fn may(
        rules: &[Rule],
        machines: &[Machine],
        src: (usize, &str),
        dst: (usize, &str),
        verb: Option<&str>,
    ) -> bool {
        rules.iter().any(|rule| {
            verb.map_or(!rule.msg.is_empty(), |verb| rule.msg.contains(&verb))
                && connects(rule, machines, (src.0, Some(src.1)), (dst.0, Some(dst.1)))
        })
    }

    pub fn passes(
        rules: &[Rule],
        machines: &[Machine],
        src: usize,
        dst: usize,
        protocol: u8,
        port: u16,
    ) -> bool {
        rules.iter().any(|rule| {
            let open = rule.ip.iter().any(|ip| match *ip {
                "*" => [1, 6, 17, 58].contains(&protocol),
                "22" => protocol == 58 || ([6, 17].contains(&protocol) && port == 22),
                "tcp:443" => protocol == 6 && port == 443,
                "udp:1-60000" => protocol == 17 && (1..=60_000).contains(&port),
                "ipv6-icmp:*" => protocol == 58,
                other => panic!("{other}"),
            });
            open && connects(rule, machines, (src, None), (dst, None))
        })
    }
}

fn compiled(rules: &[Rule], machines: &[Machine]) -> Policy {
    let (document, _) = Document::parse("random", &text(rules)).expect("a well-formed policy");
    Policy::compile(&document, &nodes(machines))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_policy_says_what_a_naive_reading_says(
        rules in vec(rule(), 0..6),
        machines in vec(machine(), 1..6),
    ) {
        let policy = compiled(&rules, &machines);
        let everywhere = || 0..machines.len();
        let agents: Vec<AgentName> = AGENTS.iter().map(|name| name.parse().expect("a name")).collect();

        for (src, dst) in everywhere().flat_map(|src| everywhere().map(move |dst| (src, dst))) {
            let mut any = false;
            for (from, to) in agents.iter().flat_map(|from| agents.iter().map(move |to| (from, to))) {
                let ends = ((src, from.as_str()), (dst, to.as_str()));
                for verb in Verb::ALL {
                    let request = MessageRequest { src: (id(src), from), dst: (id(dst), to), verb, at: NOW, bytes: None };
                    let expected = naive::may(&rules, &machines, ends.0, ends.1, Some(verb.as_str()));
                    prop_assert_eq!(policy.authorize(&request).is_allowed(), expected, "{} {:?}", text(&rules), ends);
                }
                let some_verb = naive::may(&rules, &machines, ends.0, ends.1, None);
                prop_assert_eq!(policy.reachable((&id(src), Some(from)), (&id(dst), to), NOW), some_verb);
                let streams = naive::may(&rules, &machines, ends.0, ends.1, Some("stream"));
                prop_assert_eq!(policy.reachable_by(Verb::Stream, (&id(src), Some(from)), (&id(dst), to), NOW), streams);
                any |= some_verb;
            }
            // The three agents stand for all: the rules name no other.
            let back = AGENTS.iter().any(|from| AGENTS.iter().any(|to| {
                naive::may(&rules, &machines, (dst, from), (src, to), None)
            }));
            prop_assert_eq!(policy.may_talk(&id(src), &id(dst), NOW), any || back);
        }
    }

    #[test]
    fn the_packet_filter_says_what_a_naive_reading_says(
        rules in vec(rule(), 0..6),
        machines in vec(machine(), 2..6),
    ) {
        let policy = compiled(&rules, &machines);
        for dst in 0..machines.len() {
            let filter = policy.packet_filter(&id(dst), ROUTER_PORT, NOW);
            for src in (0..machines.len()).filter(|src| *src != dst) {
                for (protocol, port) in [6, 17, 58, 47].into_iter().flat_map(|p| PORTS.map(|port| (p, port))) {
                    let packet = InnerPacket { src: address(src), dst: address(dst), protocol, src_port: 4747, dst_port: port };
                    let expected = match (protocol, port) {
                        (17, ROUTER_PORT) => policy.may_talk(&id(src), &id(dst), NOW),
                        _ => naive::passes(&rules, &machines, src, dst, protocol, port),
                    };
                    prop_assert_eq!(filter.allows(&id(src), &packet), expected, "{} {:?}", text(&rules), packet);
                }
            }
        }
    }

    /// The address view, which knows of networks behind gateways, and the filter of known peers.
    #[test]
    fn the_packet_rules_say_what_the_filter_says(
        rules in vec(rule(), 0..6),
        machines in vec(machine(), 2..6),
    ) {
        let (document, _) = Document::parse("random", &text(&rules)).expect("a well-formed policy");
        let nodes = nodes(&machines);
        let policy = Policy::compile(&document, &nodes);
        let mesh = ["fd00::/16".parse::<Prefix>().expect("a block")].into_iter().collect();
        let network = Network::new(&document, &nodes, &mesh);
        for (dst, node) in nodes.iter().enumerate() {
            let filter = policy.packet_filter(&id(dst), ROUTER_PORT, NOW);
            let lets_in = network.rules_for(node);
            for src in (0..machines.len()).filter(|src| *src != dst) {
                for (protocol, port) in [6, 17, 58].into_iter().flat_map(|p| [22, 443, 50_000].map(|port| (p, port))) {
                    let packet = InnerPacket { src: address(src), dst: address(dst), protocol, src_port: 40_000, dst_port: port };
                    let by_rules = lets_in.iter().any(|rule| {
                        let of = rule.protocols.is_empty() || rule.protocols.contains(&protocol);
                        let onto = rule.destinations.iter().any(|(addresses, (first, last))| {
                            // ICMP has no ports: whoever may open one may ping.
                            addresses.contains(packet.dst) && (protocol == 58 || (*first..=*last).contains(&port))
                        });
                        of && onto && rule.sources.contains(packet.src)
                    });
                    prop_assert_eq!(by_rules, filter.allows(&id(src), &packet), "{}\n{:?}", text(&rules), packet);
                }
            }
        }
    }

    #[test]
    fn the_self_tests_agree_with_the_verdicts(
        rules in vec(rule(), 0..6),
        machines in vec(machine(), 2..5),
        verb in select(VERBS.to_vec()),
    ) {
        let tests: String = (0..machines.len())
            .map(|n| format!(r#"{{"src": "agent:planner@gw-0", "accept": ["agent:coder@gw-{n}:{verb}"]}},"#))
            .collect();
        let file = text(&rules).replace("\"grants\"", &format!("\"tests\": [{tests}], \"grants\""));
        let (document, _) = Document::parse("random", &file).expect("a well-formed policy");

        let report = Policy::run_tests(&document, &nodes(&machines), NOW);

        for (n, outcome) in report.outcomes.iter().enumerate() {
            let expected = naive::may(&rules, &machines, (0, "planner"), (n, "coder"), Some(verb));
            prop_assert_eq!(outcome.passed, expected, "{}", file);
        }
    }

    #[test]
    fn the_order_of_grants_never_matters(
        rules in vec(rule(), 2..6),
        machines in vec(machine(), 1..5),
    ) {
        let (one, mut reversed) = (compiled(&rules, &machines), rules.clone());
        reversed.reverse();
        let other = compiled(&reversed, &machines);
        let agent: AgentName = "coder".parse().expect("a name");
        for (src, dst) in (0..machines.len()).flat_map(|s| (0..machines.len()).map(move |d| (s, d))) {
            for verb in Verb::ALL {
                let request = MessageRequest { src: (id(src), &agent), dst: (id(dst), &agent), verb, at: NOW, bytes: None };
                prop_assert_eq!(one.authorize(&request).is_allowed(), other.authorize(&request).is_allowed());
            }
        }
    }

    #[test]
    fn a_policy_that_follows_its_members_says_what_one_made_anew_says(
        rules in vec(rule(), 0..6),
        before in vec(machine(), 1..6),
        after in vec(machine(), 0..6),
    ) {
        // The gateway that it is made for stays as it is.
        let after: Vec<Machine> = before[..1].iter().chain(&after).cloned().collect();
        let (document, _) = Document::parse("random", &text(&rules)).expect("a well-formed policy");
        let (old, new) = (nodes(&before), nodes(&after));
        let joined: Vec<Node> = new.iter().skip(1).cloned().collect();
        let left: Vec<NodeId> = (after.len()..before.len()).map(id).collect();

        let followed = Policy::compile_for(&document, &old, &id(0)).with_changes(&joined, &left);
        let followed = followed.expect("its own gateway did not change");
        let fresh = Policy::compile_for(&document, &new, &id(0));

        let everywhere = 0..before.len().max(after.len());
        let agents: Vec<AgentName> = AGENTS.iter().map(|name| name.parse().expect("a name")).collect();
        for (src, dst) in everywhere.clone().flat_map(|src| everywhere.clone().map(move |dst| (src, dst))) {
            for (from, to) in agents.iter().flat_map(|from| agents.iter().map(move |to| (from, to))) {
                for verb in Verb::ALL {
                    let request = MessageRequest { src: (id(src), from), dst: (id(dst), to), verb, at: NOW, bytes: None };
                    prop_assert_eq!(followed.authorize(&request), fresh.authorize(&request), "{}", text(&rules));
                }
            }
            prop_assert_eq!(followed.may_talk(&id(src), &id(dst), NOW), fresh.may_talk(&id(src), &id(dst), NOW));
        }
    }

    #[test]
    fn no_text_ends_the_parser(noise in "\\PC{0,200}", bytes in vec(any::<u8>(), 0..200), rules in vec(rule(), 0..3), cut in any::<prop::sample::Index>(), with in "[\\[\\]{}\",:*@/0-9a-z\\\\ \n]{0,3}") {
        let _ = Document::parse("noise", &noise);
        let _ = Document::parse_bytes("noise", &bytes);
        // One place of a good file damaged.
        let good = text(&rules);
        let at = cut.index(good.len());
        let damaged = format!("{}{with}{}", &good[..at], &good[(at + 1).min(good.len())..]);
        match Document::parse("damaged", &damaged) {
            Ok((document, said)) => {
                said.iter().for_each(|d| drop(d.render(false)));
                drop(Policy::run_tests(&document, &[], NOW));
            }
            Err(said) => {
                prop_assert!(!said.is_empty());
                said.iter().for_each(|d| drop(d.render(false)));
            }
        }
    }
}

#[test]
fn an_empty_set_of_verbs_contains_none() {
    assert!(
        Verb::ALL
            .iter()
            .all(|verb| !VerbSet::default().contains(*verb))
    );
}
