//! What a new version changes, held against the verdicts of both versions: a case is a gain exactly
//! where the old one denies and the new one allows it, and a loss the other way round.

use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, UnixTime};
use policy::{
    Access, Document, HttpRequest, InnerPacket, MessageRequest, Node, Policy, PolicyDiff, Verb,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const NOW: UnixTime = UnixTime(1_800_000_000);
const PORTS: [u16; 5] = [22, 80, 443, 8080, 50_000];

/// More by `PROPTEST_CASES`.
fn cases() -> u32 {
    ProptestConfig::default().cases.max(192)
}

fn node_selector() -> impl Strategy<Value = &'static str> {
    select(vec![
        "*",
        "autogroup:member",
        "autogroup:tagged",
        "gw-0",
        "gw-1",
        "ana@x.org",
        "bo@x.org",
        "tag:a",
        "tag:b",
        "group:g",
    ])
}

fn end() -> impl Strategy<Value = String> {
    let agent = select(vec!["", "", "agent:*@", "agent:planner@", "agent:coder@"]);
    (agent, node_selector()).prop_map(|(agent, node)| format!("{agent}{node}"))
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => node_selector().prop_map(str::to_owned),
        2 => select(vec!["fd00::/126", "fd00::2", "fd00::100/120", "ipset:s"]).prop_map(str::to_owned),
    ]
}

fn onward() -> impl Strategy<Value = &'static str> {
    select(vec![
        r#""dst": ["topic:a/*"], "msg": ["publish"]"#,
        r#""dst": ["topic:a/**"], "msg": ["publish", "subscribe"]"#,
        r#""dst": ["topic:*/b", "topic:a/b/c"], "msg": ["publish"]"#,
        r#""dst": ["internet:x.org:443"]"#,
        r#""dst": ["internet:*.x.org"]"#,
        r#""dst": ["internet:a.x.org"], "ip": ["tcp:80-443"]"#,
        r#""dst": ["svc:db"]"#,
    ])
}

fn requests() -> impl Strategy<Value = &'static str> {
    select(vec![
        r#"[{"methods": ["GET"], "paths": ["/a/**"]}]"#,
        r#"[{"methods": ["GET", "POST"], "paths": ["/a/b", "/c/*"]}]"#,
        r#"[{"paths": ["/**"]}]"#,
        r#"[{"methods": ["GET"]}]"#,
    ])
}

/// What narrows a grant.
fn only() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => Just(""),
        1 => Just(r#", "valid": {"notAfter": "2020-01-01T00:00:00Z"}"#),
        1 => Just(r#", "valid": {"notAfter": "2090-01-01T00:00:00Z"}"#),
        1 => Just(r#", "srcPosture": ["posture:p"]"#),
    ]
}

fn grant() -> impl Strategy<Value = String> {
    let list = |items: Vec<String>| format!("{items:?}");
    let ports = || {
        subsequence(
            vec!["*", "22", "tcp:80-443", "udp:1-60000", "ipv6-icmp:*"],
            1..=2,
        )
    };
    let words = || {
        subsequence(
            vec![
                "send",
                "request",
                "stream",
                "call:*",
                "call:deploy",
                "call:x",
            ],
            1..=3,
        )
    };
    prop_oneof![
        4 => (vec(end(), 1..3), vec(end(), 1..3), words(), only()).prop_map(move |(src, dst, msg, only)| {
            format!(r#"{{"src": {}, "dst": {}, "msg": {msg:?}{only}}}"#, list(src), list(dst))
        }),
        4 => (vec(host(), 1..3), vec(host(), 1..3), ports(), only()).prop_map(move |(src, dst, ip, only)| {
            format!(r#"{{"src": {}, "dst": {}, "ip": {ip:?}{only}}}"#, list(src), list(dst))
        }),
        2 => (vec(end(), 1..3), vec(node_selector(), 1..2), requests(), only()).prop_map(move |(src, dst, http, only)| {
            format!(r#"{{"src": {}, "dst": {dst:?}, "ip": ["tcp:80-443", "tcp:8080"], "http": {http}{only}}}"#, list(src))
        }),
        3 => (vec(end(), 1..3), onward(), only()).prop_map(move |(src, rest, only)| {
            format!(r#"{{"src": {}, {rest}{only}}}"#, list(src))
        }),
        2 => (select(vec!["autogroup:member", "group:g", "ana@x.org"]), words(), ports()).prop_map(|(src, msg, ip)| {
            format!(r#"{{"src": [{src:?}], "dst": ["autogroup:self"], "msg": {msg:?}, "ip": {ip:?}}}"#)
        }),
    ]
}

fn guard() -> impl Strategy<Value = String> {
    let demand = select(vec![
        r#""rate": {"limit": "9/m"}"#,
        r#""approve": {"by": ["ana@x.org"]}"#,
        r#""deny": {"windows": [{"hours": "00:00-24:00"}]}"#,
        r#""msg": ["request"], "deny": {"windows": [{"hours": "00:00-24:00"}]}"#,
    ]);
    let dst = prop_oneof![
        3 => end(),
        1 => host(),
        2 => select(vec!["topic:a/b", "topic:*/*", "internet:*", "internet:a.x.org:443", "svc:db"])
            .prop_map(str::to_owned),
    ];
    (end(), dst, demand).prop_map(|(src, dst, demand)| {
        format!(r#"{{"src": [{src:?}], "dst": [{dst:?}], {demand}}}"#)
    })
}

#[derive(Clone, Debug)]
struct File {
    grants: Vec<String>,
    guards: Vec<String>,
    blocks: Vec<String>,
    group: &'static str,
    set: &'static str,
}

fn file() -> impl Strategy<Value = File> {
    let block = end().prop_map(|end| format!(r#"{{"match": [{end:?}]}}"#));
    (
        vec(grant(), 0..5),
        prop_oneof![3 => Just(vec![]), 2 => vec(guard(), 0..3)],
        prop_oneof![4 => Just(vec![]), 1 => vec(block, 0..2)],
        select(vec![r#""ana@x.org""#, r#""ana@x.org", "bo@x.org""#]),
        select(vec!["fd00::/127", "fd00::3"]),
    )
        .prop_map(|(grants, guards, blocks, group, set)| File {
            grants,
            guards,
            blocks,
            group,
            set,
        })
}

/// Two versions that have something in common.
fn versions() -> impl Strategy<Value = (File, File)> {
    (file(), file(), 0..4usize, any::<bool>()).prop_map(|(old, mut new, shared, same)| {
        let common: Vec<String> = old.grants.iter().take(shared).cloned().collect();
        new.grants.extend(common);
        if same {
            (new.guards, new.blocks) = (old.guards.clone(), old.blocks.clone());
        }
        (old, new)
    })
}

fn text(file: &File) -> String {
    format!(
        r#"{{"groups": {{"group:g": [{}]}}, "ipsets": {{"ipset:s": [{:?}]}},
        "postures": {{"posture:p": ["node:tier == 'gold'"]}}, "tagOwners": {{"tag:a": [], "tag:b": []}},
        "grants": [{}], "guards": [{}], "blocks": [{}]}}"#,
        file.group,
        file.set,
        file.grants.join(",\n"),
        file.guards.join(", "),
        file.blocks.join(", ")
    )
}

#[derive(Clone, Debug)]
struct Machine {
    user: Option<&'static str>,
    tags: Vec<&'static str>,
    gold: bool,
    second: bool,
}

fn machine() -> impl Strategy<Value = Machine> {
    let user = proptest::option::of(select(vec!["ana@x.org", "bo@x.org", "cy@x.org"]));
    (
        user,
        subsequence(vec!["tag:a", "tag:b"], 0..=2),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(user, tags, gold, second)| Machine {
            user,
            tags,
            gold,
            second,
        })
}

fn nodes(machines: &[Machine]) -> Vec<Node> {
    let node = |(n, machine): (usize, &Machine)| {
        let mut node = Node::new(id(n), format!("gw-{n}").parse().expect("a name"));
        node.user = machine.user.map(|user| user.parse().expect("a user"));
        node.tags = machine
            .tags
            .iter()
            .map(|tag| tag.parse().expect("a tag"))
            .collect();
        node.addresses = addresses(n, machine);
        if machine.gold {
            let gold = policy::Attribute::Text("gold".into());
            node.attributes.insert("node:tier".into(), gold);
        }
        node
    };
    machines.iter().enumerate().map(node).collect()
}

fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n).expect("few"); 16])
}

fn addresses(n: usize, machine: &Machine) -> Vec<IpAddr> {
    let address = |low: usize| Ipv6Addr::from_bits(0xfd00 << 112 | low as u128).into();
    match machine.second {
        true => vec![address(n), address(0x100 + n)],
        false => vec![address(n)],
    }
}

fn document(file: &File) -> Document {
    match Document::parse("version", &text(file)) {
        Ok((document, _)) => document,
        Err(said) => panic!("{said:?}\n{}", text(file)),
    }
}

/// Whether a word of a difference opens a port, between these addresses.
fn opens(word: &str, ends: (IpAddr, IpAddr), protocol: u8, port: u16) -> bool {
    let (ports, only) = word.split_once(" (").unwrap_or((word, ""));
    let only = only.trim_end_matches(')').replace("from ", "");
    let (from, onto) = only.split_once("to ").unwrap_or((&only, ""));
    let is_meant = |named: &str, end: IpAddr| named.is_empty() || named.trim() == end.to_string();
    if !is_meant(from, ends.0) || !is_meant(onto, ends.1) {
        return false;
    }
    let (protocols, range) = match (ports, ports.split_once(':')) {
        ("every port", _) => (vec![1, 6, 17, 58], "*"),
        (_, Some(("tcp", range))) => (vec![6], range),
        (_, Some(("udp", range))) => (vec![17], range),
        (_, Some(("icmp", range))) => (vec![1], range),
        (_, Some(("ipv6-icmp", range))) => (vec![58], range),
        (range, None) if range.starts_with(|c: char| c.is_ascii_digit()) => {
            (vec![1, 6, 17, 58], range)
        }
        _ => return false,
    };
    protocols.contains(&protocol) && (![6, 17].contains(&protocol) || in_range(range, port))
}

fn in_range(range: &str, port: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match range {
        "*" => true,
        _ => (first.parse().expect("a port")..=last.parse().expect("a port")).contains(&port),
    }
}

/// `GET /a/** on tcp:80 but not POST /a/b on tcp:80`: the part before, or none where a request is
/// not meant.
fn lets(word: &str, method: &str, path: &str, port: u16) -> bool {
    let one = |part: &str| {
        let (request, ports) = part.split_once(" on tcp:").unwrap_or((part, "*"));
        let (methods, paths) = match request.strip_prefix("any method") {
            Some(rest) => (None, rest.trim()),
            None => request
                .split_once(' ')
                .map_or((Some(request), ""), |(m, p)| (Some(m), p)),
        };
        let meant = methods.is_none_or(|methods| methods.split('|').any(|it| it == method));
        in_range(ports, port) && meant && (paths.is_empty() || levels(&paths[1..], &path[1..]))
    };
    let (main, but) = word.split_once(" but not ").unwrap_or((word, ""));
    one(main) && (but.is_empty() || !but.split(", ").any(one))
}

/// Whether `a/*` or `a/**` means these levels.
fn levels(pattern: &str, text: &str) -> bool {
    match (pattern.split_once('/'), text.split_once('/')) {
        _ if pattern == "**" => !text.is_empty(),
        (None, None) => pattern == text || (pattern == "*" && !text.is_empty()),
        (Some((p, rest)), Some((t, more))) => (p == "*" || p == t) && levels(rest, more),
        _ => false,
    }
}

fn names_topic(name: &str, topic: &str) -> bool {
    name.strip_prefix("topic:")
        .is_some_and(|pattern| levels(pattern, topic))
}

/// `internet:*.x.org:443`; a port in the name only where it is one of what is left out.
fn names_host(name: &str, host: &str, port: u16) -> bool {
    let Some(rest) = name.strip_prefix("internet:") else {
        return false;
    };
    let (name, ports) = rest.split_once(':').unwrap_or((rest, "*"));
    let named = match name.strip_prefix("*.") {
        _ if name == "*" => true,
        Some(tail) => host.ends_with(&format!(".{tail}")),
        None => name == host,
    };
    named && in_range(ports, port)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_or_packet_is_a_gain_exactly_where_the_old_version_denies_and_the_new_allows(
        (old, new) in versions(),
        machines in vec(machine(), 1..5),
    ) {
        let nodes = nodes(&machines);
        let (before, after) = (document(&old), document(&new));
        let diff = PolicyDiff::between(&before, &after, &nodes, NOW);
        let policies = [&before, &after].map(|version| Policy::compile(version, &nodes));
        let agents: Vec<AgentName> = ["planner", "coder", "zed"].map(|name| name.parse().expect("a name")).into();
        prop_assert!(diff.complete);

        for (src, dst) in (0..machines.len()).flat_map(|s| (0..machines.len()).map(move |d| (s, d))) {
            for (from, to) in agents.iter().flat_map(|from| agents.iter().map(move |to| (from, to))) {
                for verb in Verb::ALL {
                    let request = MessageRequest { src: (id(src), from), dst: (id(dst), to), verb, at: NOW, bytes: None };
                    let allowed = policies.each_ref().map(|policy| policy.allows(&request));
                    let said = |list: &[Access]| list.iter().any(|access| {
                        access.is_about((&id(src), Some(from)), (&id(dst), Some(to))) && access.what.iter().any(|word| word == verb.as_str())
                    });
                    prop_assert_eq!(said(&diff.gains), allowed == [false, true], "{} {:?}\n{}\n->\n{}\n{:#?}", verb, (src, from, dst, to), text(&old), text(&new), diff.gains);
                    prop_assert_eq!(said(&diff.losses), allowed == [true, false], "{} {:?}\n{}\n->\n{}\n{:#?}", verb, (src, from, dst, to), text(&old), text(&new), diff.losses);
                }
            }
            if src == dst {
                continue;
            }
            let filters = policies.each_ref().map(|policy| policy.packet_filter(&id(dst), 4747, NOW));
            let ends = addresses(src, &machines[src]).into_iter();
            for (a, b) in ends.flat_map(|a| addresses(dst, &machines[dst]).into_iter().map(move |b| (a, b))) {
                for (protocol, port) in [1, 6, 17, 58, 47].into_iter().flat_map(|p| PORTS.map(|port| (p, port))) {
                    let packet = InnerPacket { src: a, dst: b, protocol, src_port: 4747, dst_port: port };
                    let allowed = filters.each_ref().map(|filter| filter.allows(&id(src), &packet));
                    let said = |list: &[Access]| list.iter().any(|access| {
                        access.is_about((&id(src), None), (&id(dst), None)) && access.what.iter().any(|word| opens(word, (a, b), protocol, port))
                    });
                    prop_assert_eq!(said(&diff.gains), allowed == [false, true], "{:?}\n{}\n->\n{}\n{:#?}", packet, text(&old), text(&new), diff.gains);
                    prop_assert_eq!(said(&diff.losses), allowed == [true, false], "{:?}\n{}\n->\n{}\n{:#?}", packet, text(&old), text(&new), diff.losses);
                }
            }
            for (agent, port, method, path) in [
                ("planner", 80, "GET", "/a/b"), ("coder", 443, "POST", "/a/b"), ("zed", 8080, "GET", "/c/d"),
                ("planner", 8080, "PUT", "/x"), ("zed", 80, "GET", "/"), ("coder", 22, "GET", "/a/z/z"),
            ] {
                let agent: AgentName = agent.parse().expect("a name");
                let request = HttpRequest { src: (id(src), Some(&agent)), dst: id(dst), port, method, path, at: NOW };
                let allowed = policies.each_ref().map(|policy| policy.authorize_http(&request).is_allowed());
                let said = |list: &[Access]| {
                    let about = list.iter().filter(|access| access.is_about((&id(src), Some(&agent)), (&id(dst), None)));
                    let words: Vec<&String> = about.flat_map(|access| &access.what).collect();
                    // A port that is open lets every request through, unless it is said otherwise.
                    let on_port = |word: &&&String| word.split_once(" but not ").map_or(word.as_str(), |it| it.0).split_once(" on tcp:").is_some_and(|it| in_range(it.1, port));
                    match words.iter().any(|word| on_port(&word)) {
                        true => words.iter().any(|word| word.contains(" on tcp:") && lets(word, method, path, port)),
                        false => words.iter().any(|word| {
                            let ends = (addresses(src, &machines[src])[0], addresses(dst, &machines[dst])[0]);
                            opens(word, ends, 6, port)
                        }),
                    }
                };
                // Requests know no addresses, and packets no agents: where rules name these, what is
                // said of a port is said of its packets alone.
                let apart = |file: &File| {
                    let by_address = file.grants.iter().chain(&file.guards).any(|rule| rule.contains("fd00") || rule.contains("ipset"));
                    by_address || file.guards.iter().chain(&file.blocks).any(|rule| rule.contains("agent:"))
                };
                // What is said of requests themselves holds everywhere.
                let requests = |list: &[Access]| list.iter()
                    .filter(|access| access.is_about((&id(src), Some(&agent)), (&id(dst), None)))
                    .flat_map(|access| &access.what)
                    .any(|word| word.contains(" on tcp:") && lets(word, method, path, port));
                prop_assert!(!requests(&diff.gains) || allowed == [false, true], "{:?}\n{}\n->\n{}\n{:#?}", request, text(&old), text(&new), diff.gains);
                prop_assert!(!requests(&diff.losses) || allowed == [true, false], "{:?}\n{}\n->\n{}\n{:#?}", request, text(&old), text(&new), diff.losses);
                if !apart(&old) && !apart(&new) {
                    prop_assert_eq!(said(&diff.gains), allowed == [false, true], "{:?}\n{}\n->\n{}\n{:#?}", request, text(&old), text(&new), diff.gains);
                    prop_assert_eq!(said(&diff.losses), allowed == [true, false], "{:?}\n{}\n->\n{}\n{:#?}", request, text(&old), text(&new), diff.losses);
                }
            }
        }
    }

    #[test]
    fn the_same_holds_of_skills_topics_services_and_the_internet(
        (old, new) in versions(),
        machines in vec(machine(), 1..4),
    ) {
        let nodes = nodes(&machines);
        let (before, after) = (document(&old), document(&new));
        let diff = PolicyDiff::between(&before, &after, &nodes, NOW);
        let allows = |version: &Document, src: &str, dst: &str, operation: &str| {
            let answers = Policy::explain(version, &nodes, src, dst, operation, NOW).expect("a question");
            prop_assert_eq!(answers.len(), 1, "{} {} {}", src, dst, operation);
            Ok(answers[0].allowed)
        };
        for (n, agent) in (0..machines.len()).flat_map(|n| ["planner", "zed"].map(|agent| (n, agent))) {
            let (src, name): (String, AgentName) = (format!("agent:{agent}@gw-{n}"), agent.parse().expect("a name"));
            for (dst, operation) in [
                ("topic:a/b", "publish"), ("topic:a/z", "publish"), ("topic:a/b/c", "publish"), ("topic:z/b", "publish"),
                ("topic:a/b", "subscribe"), ("svc:db", "connect"),
                ("internet:x.org:443", "connect"), ("internet:a.x.org:443", "connect"), ("internet:a.x.org:90", "connect"), ("internet:q.z.x.org:8443", "connect"),
            ] {
                let allowed = [allows(&before, &src, dst, operation)?, allows(&after, &src, dst, operation)?];
                let (host, port) = dst.strip_prefix("internet:").and_then(|rest| rest.split_once(':')).unwrap_or(("", "0"));
                let (topic, port) = (dst.trim_start_matches("topic:"), port.parse().expect("a port"));
                let is_meant = |named: &str| named == dst || names_topic(named, topic) || (!host.is_empty() && names_host(named, host, port));
                let said = |list: &[Access]| list.iter().filter(|access| access.is_from((&id(n), Some(&name)))).any(|access| {
                    access.dst.names.iter().any(|named| is_meant(named)) && access.what.iter().any(|word| {
                        let (main, but) = word.split_once(" but not ").unwrap_or((word, ""));
                        let port_meant = main.strip_prefix("connect to tcp:").is_none_or(|range| in_range(range, port));
                        main.starts_with(operation) && port_meant && (but.is_empty() || !but.split(", ").any(is_meant))
                    })
                });
                prop_assert_eq!(said(&diff.gains), allowed == [false, true], "{} {} {}\n{}\n->\n{}\n{:#?}", src, dst, operation, text(&old), text(&new), diff.gains);
                prop_assert_eq!(said(&diff.losses), allowed == [true, false], "{} {} {}\n{}\n->\n{}\n{:#?}", src, dst, operation, text(&old), text(&new), diff.losses);
            }
            for skill in ["call:deploy", "call:other", "call:x"] {
                let onto = format!("agent:coder@gw-{}", machines.len() - 1);
                let allowed = [allows(&before, &src, &onto, skill)?, allows(&after, &src, &onto, skill)?];
                let coder: AgentName = "coder".parse().expect("a name");
                let said = |list: &[Access]| list.iter()
                    .filter(|access| access.is_about((&id(n), Some(&name)), (&id(machines.len() - 1), Some(&coder))))
                    .flat_map(|access| &access.what)
                    .any(|word| {
                        let (main, but) = word.split_once(" but not ").unwrap_or((word, ""));
                        main == skill || (main == "call:*" && !but.split(", ").any(|it| it == skill))
                    });
                prop_assert_eq!(said(&diff.gains), allowed == [false, true], "{} {}\n{}\n->\n{}\n{:#?}", src, skill, text(&old), text(&new), diff.gains);
                prop_assert_eq!(said(&diff.losses), allowed == [true, false], "{} {}\n{}\n->\n{}\n{:#?}", src, skill, text(&old), text(&new), diff.losses);
            }
        }
    }

    #[test]
    fn order_ids_and_division_change_nothing(file in file(), machines in vec(machine(), 0..4)) {
        let mut other = file.clone();
        other.grants.reverse();
        other.guards.reverse();
        let named = |(n, rule): (usize, &String)| rule.replacen('{', &format!("{{\"id\": \"r{n}\", "), 1);
        other.grants = other.grants.iter().enumerate().map(named).collect();
        other.grants.extend(file.grants.iter().take(2).cloned());

        let diff = PolicyDiff::between(&document(&file), &document(&other), &nodes(&machines), NOW);

        prop_assert!(diff.is_empty(), "{:#?}\n{}", diff, text(&file));
    }
}

fn diff(old: &str, new: &str) -> PolicyDiff {
    let read = |grants: &str| {
        let text = format!(
            r#"{{"tagOwners": {{"tag:a": [], "tag:b": [], "tag:c": []}}, "hosts": {{"lab": "10.0.0.0/8"}},
            "groups": {{"group:g": ["ana@x.org", "bo@x.org"]}}, {grants}}}"#
        );
        Document::parse("t", &text).expect("a policy").0
    };
    PolicyDiff::between(&read(old), &read(new), &[], NOW)
}

fn said(list: &[Access]) -> Vec<String> {
    let lines = list.iter();
    lines
        .map(|line| format!("{} -> {}: {}", line.src, line.dst, line.what.join(", ")))
        .collect()
}

#[test]
fn a_difference_is_said_by_selectors() {
    let new = diff(
        r#""grants": [{"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]}, {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["22"]}]"#,
        r#""grants": [{"src": ["agent:x@tag:a", "tag:c"], "dst": ["tag:b"], "msg": ["send", "request"]}, {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22", "tcp:443"]},
            {"src": ["group:g"], "dst": ["autogroup:self"], "msg": ["send"]}]"#,
    );

    assert_eq!(
        said(&new.gains),
        [
            "agent:*@group:g -> agent:*@autogroup:self: send",
            "agent:*@tag:c -> agent:*@tag:b: send, request",
            "agent:x@tag:a -> agent:*@tag:b: request",
            "tag:a -> tag:b: tcp:443",
        ]
    );
    assert_eq!(
        said(&new.losses),
        [
            "agents * but x on tag:a -> agent:*@tag:b: send",
            "tag:a -> tag:b: icmp:*, udp:22, ipv6-icmp:*",
        ]
    );
    assert_eq!(new.gains[2].by, ["grants[0]"]);
}

#[test]
fn one_grant_in_two_parts_is_no_difference() {
    let parts = diff(
        r#""grants": [{"src": ["tag:a", "tag:b"], "dst": ["lab"], "ip": ["1-100"]}, {"src": ["tag:a"], "dst": ["topic:x/**"], "msg": ["publish"]}]"#,
        r#""grants": [{"src": ["tag:a"], "dst": ["10.0.0.0/9", "10.128.0.0/9"], "ip": ["1-50", "51-100"]}, {"src": ["tag:b"], "dst": ["lab"], "ip": ["1-100", "tcp:22"]},
            {"src": ["tag:a"], "dst": ["topic:x/**", "topic:x/y"], "msg": ["publish"]}]"#,
    );

    assert!(parts.is_empty(), "{parts:#?}");
}

#[test]
fn what_is_left_of_a_pattern_or_a_block_is_named() {
    let less = diff(
        r#""grants": [{"src": ["tag:a"], "dst": ["lab"], "ip": ["22"]}, {"src": ["tag:a"], "dst": ["topic:x/**"], "msg": ["publish"]}, {"src": ["tag:a"], "dst": ["internet:*.x.org"]}]"#,
        r#""grants": [{"src": ["tag:a"], "dst": ["10.1.0.0/16"], "ip": ["22"]}, {"src": ["tag:a"], "dst": ["topic:x/*"], "msg": ["publish"]}, {"src": ["tag:a"], "dst": ["internet:a.x.org:443"]}]"#,
    );

    assert!(less.gains.is_empty(), "{:#?}", less.gains);
    assert_eq!(
        said(&less.losses),
        [
            "agent:*@tag:a -> topic:x/**: publish but not topic:x/*",
            "tag:a -> 10.0.0.0/16, 10.2.0.0-10.255.255.255: 22",
            "tag:a -> internet:*.x.org: connect to tcp:1-442, connect to tcp:443 but not internet:a.x.org:443, connect to tcp:444-65535",
        ]
    );
}

#[test]
fn conditions_guards_blocks_and_postures_are_told_apart_from_access() {
    let changed = diff(
        r#""postures": {"posture:p": ["node:x < 1"]}, "grants": [{"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"]}, {"src": ["tag:c"], "dst": ["tag:b"], "msg": ["send"], "srcPosture": ["posture:p"]}],
            "guards": [{"id": "g", "src": ["*"], "dst": ["*"], "rate": {"limit": "9/m", "per": "src"}}, {"src": ["tag:a"], "dst": ["tag:b"], "maxBytes": "1KiB"}]"#,
        r#""postures": {"posture:p": ["node:x < 2"]}, "grants": [{"src": ["tag:a"], "dst": ["tag:b"], "msg": ["send"], "valid": {"notAfter": "2090-01-01T00:00:00Z"}}, {"src": ["tag:c"], "dst": ["tag:b"], "msg": ["send"], "srcPosture": ["posture:p"]}],
            "guards": [{"src": ["tag:a"], "dst": ["tag:b"], "maxBytes": "1024B"}, {"id": "g", "src": ["*"], "dst": ["*"], "rate": {"limit": "9/m", "per": "src,dst"}}],
            "blocks": [{"id": "q", "match": ["agent:x@tag:c"], "until": "2020-01-01T00:00:00Z"}]"#,
    );

    assert!(
        changed.gains.is_empty() && changed.losses.is_empty(),
        "{changed:#?}"
    );
    let conditions: Vec<_> = changed
        .conditions
        .iter()
        .map(|it| (it.access.src.to_string(), it.was.as_str(), it.is.as_str()))
        .collect();
    assert_eq!(
        conditions,
        [
            (
                "agent:*@tag:a".into(),
                "always",
                "until 2090-01-01T00:00:00Z"
            ),
            (
                "agent:*@tag:c".into(),
                "where node:x < 1",
                "where node:x < 2"
            ),
        ]
    );
    let rules: Vec<_> = changed
        .rules
        .iter()
        .map(|rule| (rule.kind, rule.name.as_str()))
        .collect();
    assert_eq!(
        rules,
        [("block", "q"), ("guard", "g"), ("posture", "posture:p")]
    );
}

/// Fifteen hundred ways to combine eleven tags are two million pairs.
#[test]
fn what_is_too_much_to_compare_by_gateways_is_compared_by_selectors() {
    let tags: Vec<String> = (0..11).map(|n| format!("tag:t{n}")).collect();
    let node = |n: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let some = tags.iter().enumerate().filter(|(bit, _)| n >> bit & 1 == 1);
        let mut node = Node::new(NodeId(id), format!("gw-{n}").parse().expect("a name"));
        node.tags = some.map(|(_, tag)| tag.parse().expect("a tag")).collect();
        node
    };
    let nodes: Vec<Node> = (1..=1_500).map(node).collect();
    let version = |grant: &str| {
        let owners: Vec<String> = tags.iter().map(|tag| format!("{tag:?}: []")).collect();
        let text = format!(
            r#"{{"tagOwners": {{{}}}, "grants": [{grant}], "guards": [{{"src": {tags:?}, "dst": ["*"], "rate": {{"limit": "9/s"}}}}]}}"#,
            owners.join(", ")
        );
        Document::parse("t", &text).expect("a policy").0
    };
    let (old, new) = (
        version(""),
        version(r#"{"src": ["*"], "dst": ["*"], "ip": ["22"]}"#),
    );

    let diff = PolicyDiff::between(&old, &new, &nodes, NOW);

    assert!(!diff.complete && !diff.is_empty());
    assert_eq!(said(&diff.gains), ["* -> *: 22"]);
    let few = PolicyDiff::between(&old, &new, &nodes[..100], NOW);
    assert!(few.complete);
    assert_eq!((few.gains.len(), few.gains[0].src.gateways), (1, 100));
}

#[test]
fn a_line_lists_as_many_names_as_somebody_reads() {
    let names: Vec<String> = (0..40).map(|n| format!("gw-{n:02}")).collect();
    let new = format!(r#""grants": [{{"src": {names:?}, "dst": ["tag:a"], "msg": ["send"]}}]"#);

    let many = diff(r#""grants": []"#, &new);

    let named = &many.gains[0].src.names;
    assert_eq!((named.len(), named[20].as_str()), (21, "20 more"));
}
