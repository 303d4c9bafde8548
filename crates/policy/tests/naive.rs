//! The whole decision against a reading of the same rules that shares nothing with the engine: no
//! classes, no numbers, no documents, only the author's words. What is explained, what is enforced
//! at each gateway and what the reading says must be one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, UnixTime};
use policy::{
    Attribute, Document, HttpRequest, InnerPacket, MessageRequest, Node, Policy, Verb, Verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const ROUTER_PORT: u16 = 4747;
const AGENTS: [&str; 3] = ["planner", "coder", "other"];
const USERS: [&str; 3] = ["ana@x.org", "bo@x.org", "cy@y.org"];
const TAGS: [&str; 3] = ["tag:a", "tag:b", "tag:c"];
const VERBS: [&str; 3] = ["send", "request", "stream"];
/// 2026-11-25T12:00:00Z, a Wednesday, and some hours round it.
const NOON: u64 = 1795608000;
const MOMENTS: [u64; 4] = [NOON - 30 * 3_600, NOON - 8 * 3_600, NOON, NOON + 12 * 3_600];

#[derive(Clone, Debug)]
struct Rule {
    src: Vec<String>,
    dst: Vec<String>,
    msg: Vec<&'static str>,
    ports: Vec<u16>,
    paths: Vec<&'static str>,
    posture: Option<&'static str>,
    valid: Option<Valid>,
}

#[derive(Clone, Copy, Debug)]
enum Valid {
    Until(u64),
    From(u64),
    /// Of every day, in UTC.
    Hours(u64, u64),
}

#[derive(Clone, Debug)]
struct Guard {
    src: Vec<String>,
    dst: Vec<String>,
    msg: Vec<&'static str>,
    demand: Demand,
}

#[derive(Clone, Copy, Debug)]
enum Demand {
    Bytes(u64),
    NotIn(u64, u64),
    Approve,
    Rate,
}

#[derive(Clone, Debug)]
struct Block {
    matches: Vec<String>,
    until: Option<u64>,
}

#[derive(Clone, Debug)]
struct Machine {
    user: Option<&'static str>,
    tags: Vec<&'static str>,
    age: Option<u8>,
}

#[derive(Clone, Debug)]
struct File {
    rules: Vec<Rule>,
    guards: Vec<Guard>,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    src: usize,
    from: Option<&'a str>,
    dst: usize,
    to: Option<&'a str>,
    at: u64,
}

fn node_selector() -> impl Strategy<Value = String> {
    let fixed = [
        "*",
        "autogroup:member",
        "autogroup:tagged",
        "gw-0",
        "gw-1",
        "group:g",
        "user:*@x.org",
    ];
    let all = fixed.into_iter().chain(USERS).chain(TAGS);
    select(all.map(str::to_owned).collect::<Vec<_>>())
}

fn agent_selector() -> impl Strategy<Value = String> {
    let name = select(vec!["*", "planner", "coder"]);
    (name, node_selector()).prop_map(|(name, node)| format!("agent:{name}@{node}"))
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![2 => agent_selector(), 3 => node_selector()]
}

fn host() -> impl Strategy<Value = String> {
    let addresses = ["fd00::1", "fd00::/127", "ipset:s"];
    prop_oneof![3 => node_selector(), 1 => select(addresses.map(str::to_owned).to_vec())]
}

fn valid() -> impl Strategy<Value = Valid> {
    let moment = || select(MOMENTS.to_vec());
    prop_oneof![
        moment().prop_map(Valid::Until),
        moment().prop_map(Valid::From),
        hours().prop_map(|(from, to)| Valid::Hours(from, to)),
    ]
}

fn hours() -> impl Strategy<Value = (u64, u64)> {
    select(vec![(8, 20), (20, 8), (11, 13), (22, 6), (0, 12)])
}

fn rule() -> impl Strategy<Value = Rule> {
    let posture = || proptest::option::weighted(0.3, select(vec!["posture:new", "posture:set"]));
    let valid = || proptest::option::weighted(0.4, valid());
    let own = select(vec!["autogroup:member", "group:g", "ana@x.org"]).prop_map(str::to_owned);
    let verbs = || subsequence(VERBS.to_vec(), 1..=3);
    let ports = || subsequence(vec![22, 443, 8080], 1..=2);
    prop_oneof![
        4 => (vec(selector(), 0..3), vec(selector(), 1..3), verbs(), posture(), valid())
            .prop_map(|(src, dst, msg, posture, valid)| Rule { src, dst, msg, ports: vec![], paths: vec![], posture, valid }),
        2 => (vec(host(), 1..3), vec(host(), 1..3), ports(), posture(), valid())
            .prop_map(|(src, dst, ports, posture, valid)| Rule { src, dst, msg: vec![], ports, paths: vec![], posture, valid }),
        1 => (vec(host(), 1..3), vec(node_selector(), 1..3), ports(), subsequence(vec!["/a/*", "/b"], 1..=2))
            .prop_map(|(src, dst, ports, paths)| Rule { src, dst, msg: vec![], ports, paths, posture: None, valid: None }),
        1 => (vec(own, 1..3), verbs(), ports(), posture()).prop_map(|(src, msg, ports, posture)| {
            Rule { src, dst: vec!["autogroup:self".into()], msg, ports, paths: vec![], posture, valid: None }
        }),
    ]
}

fn guard() -> impl Strategy<Value = Guard> {
    let demand = prop_oneof![
        Just(Demand::Bytes(1000)),
        hours().prop_map(|(from, to)| Demand::NotIn(from, to)),
        Just(Demand::Approve),
        Just(Demand::Rate),
    ];
    let msg = prop_oneof![2 => Just(vec![]), 1 => subsequence(VERBS.to_vec(), 1..=2)];
    (vec(selector(), 1..3), vec(selector(), 1..3), msg, demand).prop_map(
        |(src, dst, msg, demand)| Guard {
            src,
            dst,
            msg,
            demand,
        },
    )
}

fn block() -> impl Strategy<Value = Block> {
    let until = proptest::option::of(select(MOMENTS.to_vec()));
    (vec(selector(), 1..2), until).prop_map(|(matches, until)| Block { matches, until })
}

fn file() -> impl Strategy<Value = File> {
    (vec(rule(), 0..6), vec(guard(), 0..2), vec(block(), 0..2)).prop_map(
        |(rules, guards, blocks)| File {
            rules,
            guards,
            blocks,
        },
    )
}

fn machine() -> impl Strategy<Value = Machine> {
    (
        proptest::option::of(select(USERS.to_vec())),
        subsequence(TAGS.to_vec(), 0..=2),
        proptest::option::of(select(vec![10u8, 200])),
    )
        .prop_map(|(user, tags, age)| Machine { user, tags, age })
}

impl File {
    fn text(&self) -> String {
        let list = |items: &[String]| serde_json::to_string(items).expect("text");
        let words = |items: &[&str]| serde_json::to_string(items).expect("text");
        let grants: String = self
            .rules
            .iter()
            .map(|rule| {
                let mut grant = format!(
                    "{{\"src\": {}, \"dst\": {}",
                    list(&rule.src),
                    list(&rule.dst)
                );
                if !rule.msg.is_empty() {
                    grant += &format!(", \"msg\": {}", words(&rule.msg));
                }
                if !rule.ports.is_empty() {
                    let ports: Vec<String> = rule
                        .ports
                        .iter()
                        .map(|port| format!("tcp:{port}"))
                        .collect();
                    grant += &format!(", \"ip\": {}", list(&ports));
                }
                if !rule.paths.is_empty() {
                    grant += &format!(
                        ", \"http\": [{{\"methods\": [\"GET\"], \"paths\": {}}}]",
                        words(&rule.paths)
                    );
                }
                if let Some(posture) = rule.posture {
                    grant += &format!(", \"srcPosture\": [\"{posture}\"]");
                }
                grant += &match rule.valid {
                    None => String::new(),
                    Some(Valid::Until(at)) => {
                        format!(", \"valid\": {{\"notAfter\": \"{}\"}}", rfc3339(at))
                    }
                    Some(Valid::From(at)) => {
                        format!(", \"valid\": {{\"notBefore\": \"{}\"}}", rfc3339(at))
                    }
                    Some(Valid::Hours(from, to)) => {
                        format!(", \"valid\": {{\"windows\": [{}]}}", window(from, to))
                    }
                };
                grant + "},\n"
            })
            .collect();
        let guards: String = self
            .guards
            .iter()
            .map(|guard| {
                let msg = match guard.msg.is_empty() {
                    true => String::new(),
                    false => format!("\"msg\": {}, ", words(&guard.msg)),
                };
                let demand = match guard.demand {
                    Demand::Bytes(most) => format!("\"maxBytes\": \"{most}B\""),
                    Demand::NotIn(from, to) => {
                        format!("\"deny\": {{\"windows\": [{}]}}", window(from, to))
                    }
                    Demand::Approve => "\"approve\": {\"by\": [\"group:g\"]}".to_owned(),
                    Demand::Rate => "\"rate\": {\"limit\": \"5/m\"}".to_owned(),
                };
                format!(
                    "{{\"src\": {}, \"dst\": {}, {msg}{demand}}},\n",
                    list(&guard.src),
                    list(&guard.dst)
                )
            })
            .collect();
        let blocks: String = self
            .blocks
            .iter()
            .map(|block| {
                let until = block
                    .until
                    .map(|at| format!(", \"until\": \"{}\"", rfc3339(at)));
                format!(
                    "{{\"match\": {}{}}},\n",
                    list(&block.matches),
                    until.unwrap_or_default()
                )
            })
            .collect();
        format!(
            "{{\"groups\": {{\"group:g\": [\"ana@x.org\", \"bo@x.org\"]}},
            \"ipsets\": {{\"ipset:s\": [\"add fd00::/126\", \"remove fd00::2\"]}},
            \"tagOwners\": {{\"tag:a\": [], \"tag:b\": [], \"tag:c\": []}},
            \"postures\": {{\"posture:new\": [\"node:age < 90\"], \"posture:set\": [\"node:age IS SET\"]}},
            \"grants\": [{grants}], \"guards\": [{guards}], \"blocks\": [{blocks}]}}"
        )
    }

    // -- the naive reading --

    fn blocked(&self, machines: &[Machine], asked: Asked<'_>) -> bool {
        let ends = [(asked.src, asked.from), (asked.dst, asked.to)];
        self.blocks.iter().any(|block| {
            block.until.is_none_or(|until| asked.at < until)
                && block.matches.iter().any(|selector| {
                    ends.iter()
                        .any(|(n, agent)| means(selector, *n, &machines[*n], *agent))
                })
        })
    }

    fn granted(
        &self,
        machines: &[Machine],
        asked: Asked<'_>,
        what: impl Fn(&Rule) -> bool,
    ) -> bool {
        self.rules.iter().any(|rule| {
            what(rule)
                && rule.connects(machines, asked)
                && rule.meets(&machines[asked.src])
                && rule.holds(asked.at)
        })
    }

    fn guards_stop(
        &self,
        machines: &[Machine],
        asked: Asked<'_>,
        verb: Option<&str>,
        bytes: u64,
    ) -> bool {
        let (src, dst) = (&machines[asked.src], &machines[asked.dst]);
        self.guards.iter().any(|guard| {
            let about = (guard.msg.is_empty()
                || verb.is_some_and(|verb| guard.msg.contains(&verb)))
                && guard
                    .src
                    .iter()
                    .any(|it| means(it, asked.src, src, asked.from))
                && guard
                    .dst
                    .iter()
                    .any(|it| means(it, asked.dst, dst, asked.to));
            about
                && match guard.demand {
                    Demand::Bytes(most) => bytes > most,
                    Demand::NotIn(from, to) => in_hours(asked.at, from, to),
                    Demand::Approve => true,
                    Demand::Rate => false,
                }
        })
    }

    fn may(&self, machines: &[Machine], asked: Asked<'_>, verb: &str, bytes: u64) -> bool {
        !self.blocked(machines, asked)
            && self.granted(machines, asked, |rule| rule.msg.contains(&verb))
            && !self.guards_stop(machines, asked, Some(verb), bytes)
    }

    fn packet(&self, machines: &[Machine], asked: Asked<'_>, port: u16) -> bool {
        !self.blocked(machines, asked)
            && self.granted(machines, asked, |rule| {
                rule.paths.is_empty() && rule.ports.contains(&port)
            })
            && !self.guards_stop(machines, asked, None, 0)
    }

    fn request(&self, machines: &[Machine], asked: Asked<'_>, port: u16, path: &str) -> bool {
        let lets = |rule: &Rule| {
            rule.paths.is_empty()
                || rule
                    .paths
                    .iter()
                    .any(|it| *it == path || (*it == "/a/*" && path == "/a/x"))
        };
        !self.blocked(machines, asked)
            && self.granted(machines, asked, |rule| {
                rule.ports.contains(&port) && lets(rule)
            })
            && !self.guards_stop(machines, asked, None, 0)
    }
}

impl Rule {
    fn connects(&self, machines: &[Machine], asked: Asked<'_>) -> bool {
        let (a, b) = (&machines[asked.src], &machines[asked.dst]);
        let one_user = a.owner().is_some() && a.owner() == b.owner();
        self.src
            .iter()
            .any(|it| means(it, asked.src, a, asked.from))
            && self.dst.iter().any(|it| match it.as_str() {
                "autogroup:self" => one_user,
                _ => means(it, asked.dst, b, asked.to),
            })
    }

    fn meets(&self, machine: &Machine) -> bool {
        match self.posture {
            None => true,
            Some("posture:new") => machine.age.is_some_and(|age| age < 90),
            Some(_) => machine.age.is_some(),
        }
    }

    fn holds(&self, at: u64) -> bool {
        match self.valid {
            None => true,
            Some(Valid::Until(until)) => at < until,
            Some(Valid::From(from)) => from <= at,
            Some(Valid::Hours(from, to)) => in_hours(at, from, to),
        }
    }
}

impl Machine {
    fn owner(&self) -> Option<&'static str> {
        self.user.filter(|_| self.tags.is_empty())
    }
}

fn means(selector: &str, n: usize, machine: &Machine, agent: Option<&str>) -> bool {
    if let Some(rest) = selector.strip_prefix("agent:") {
        let (name, node) = rest.split_once('@').expect("an agent selector");
        return agent.is_some_and(|agent| name == "*" || name == agent)
            && means(node, n, machine, None);
    }
    match selector {
        "*" => true,
        "autogroup:member" => machine.owner().is_some(),
        "autogroup:tagged" => !machine.tags.is_empty(),
        "group:g" => machine
            .owner()
            .is_some_and(|user| ["ana@x.org", "bo@x.org"].contains(&user)),
        "user:*@x.org" => machine.owner().is_some_and(|user| user.ends_with("@x.org")),
        "fd00::1" => n == 1,
        "fd00::/127" => n < 2,
        "ipset:s" => n < 4 && n != 2,
        _ => {
            selector == format!("gw-{n}")
                || machine.tags.contains(&selector)
                || machine.owner() == Some(selector)
        }
    }
}

fn in_hours(at: u64, from: u64, to: u64) -> bool {
    let hour = at % 86_400 / 3_600;
    match from < to {
        true => (from..to).contains(&hour),
        false => hour >= from || hour < to,
    }
}

fn window(from: u64, to: u64) -> String {
    format!("{{\"hours\": \"{from:02}:00-{to:02}:00\"}}")
}

fn rfc3339(at: u64) -> String {
    let hours = at / 3_600 + 12 + 24 * 25 - NOON / 3_600;
    format!("2026-11-{:02}T{:02}:00:00Z", hours / 24, hours % 24)
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
        attributes: machine
            .age
            .map(|age| ("node:age".into(), Attribute::Number(f64::from(age))))
            .into_iter()
            .collect(),
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

fn verb(word: &str) -> Verb {
    word.parse().expect("a verb")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_judged_as_the_words_say_wherever_they_are_judged(
        file in file(),
        machines in vec(machine(), 1..5),
        at in select(MOMENTS.to_vec()),
        bytes in select(vec![10u64, 5_000]),
    ) {
        let text = file.text();
        let (document, _) = Document::parse("random", &text).expect("a well-formed policy");
        let nodes = nodes(&machines);
        let whole = Policy::compile(&document, &nodes);
        let agents: Vec<AgentName> = AGENTS.iter().map(|name| name.parse().expect("a name")).collect();
        // Joined one by one, and one that left again.
        let grown = Policy::compile(&document, &nodes[..1]).with_changes(&nodes[1..], &[]).expect("it grows");
        let locals: BTreeMap<usize, Policy> = (0..nodes.len())
            .map(|n| (n, Policy::compile_for(&document, &nodes, &id(n))))
            .collect();
        for (src, dst) in (0..nodes.len()).flat_map(|s| (0..nodes.len()).map(move |d| (s, d))) {
            for (a, b) in agents.iter().flat_map(|a| agents.iter().map(move |b| (a, b))) {
                let asked = Asked { src, from: Some(a.as_str()), dst, to: Some(b.as_str()), at };
                for word in VERBS {
                    let expected = file.may(&machines, asked, word, bytes);
                    let request = MessageRequest {
                        src: (id(src), a), dst: (id(dst), b), verb: verb(word), at: UnixTime(at), bytes: Some(bytes),
                    };
                    for policy in [&whole, &grown, &locals[&src], &locals[&dst]] {
                        let verdict = policy.authorize(&request);
                        prop_assert_eq!(verdict.is_allowed(), expected, "{}\n{:?} {}", text, asked, word);
                        prop_assert_eq!(policy.allows(&request), expected);
                        if let Verdict::Denied(denial) = &verdict {
                            prop_assert_eq!(denial.code == "blocked", file.blocked(&machines, asked));
                        }
                    }
                    prop_assert_eq!(whole.authorize(&request), locals[&dst].authorize(&request));
                }
                let open = VERBS.iter().any(|word| file.granted(&machines, asked, |rule| rule.msg.contains(word)));
                let expected = open && !file.blocked(&machines, asked);
                let reachable = whole.reachable((&id(src), Some(a)), (&id(dst), b), UnixTime(at));
                prop_assert_eq!(reachable, expected, "{}\n{:?}", text, asked);
            }
        }
    }

    #[test]
    fn what_is_explained_is_what_is_enforced(
        file in file(),
        machines in vec(machine(), 1..4),
        at in select(MOMENTS.to_vec()),
    ) {
        let text = file.text();
        let (document, _) = Document::parse("random", &text).expect("a well-formed policy");
        let nodes = nodes(&machines);
        let policy = Policy::compile_for(&document, &nodes, &id(0));
        for (src, word, port) in (0..nodes.len()).flat_map(|s| [("send", 22u16), ("stream", 443)].map(|(w, p)| (s, w, p))) {
            let (a, b) = ("planner".parse().expect("a name"), "coder".parse().expect("a name"));
            let (from, to) = (format!("agent:{a}@gw-{src}"), format!("agent:{b}@gw-0"));
            let answers = Policy::explain(&document, &nodes, &from, &to, word, UnixTime(at)).expect("a question");
            let [answer] = &answers[..] else { panic!("one case: {answers:?}") };
            let request = MessageRequest {
                src: (id(src), &a), dst: (id(0), &b), verb: verb(word), at: UnixTime(at), bytes: None,
            };
            let verdict = policy.authorize(&request);
            prop_assert_eq!(answer.allowed, verdict.is_allowed(), "{}", text);
            match verdict {
                Verdict::Allowed { grant, .. } => prop_assert_eq!(&answer.decided_by, &format!("grants:{grant}")),
                Verdict::Denied(denial) => {
                    prop_assert_eq!(&answer.reason, &denial.reason);
                    prop_assert_eq!(&answer.missing_grant, &denial.missing_grant);
                }
            }
            // Whatever applies without being unmet is a grant that allows.
            let allows = answer.findings.iter().any(|it| it.kind == "grant" && it.applies);
            prop_assert!(!answer.allowed || allows);

            let packets = Policy::explain(&document, &nodes, &format!("gw-{src}"), "gw-0", &port.to_string(), UnixTime(at)).expect("a question");
            let [packet] = &packets[..] else { panic!("one case: {packets:?}") };
            let asked = Asked { src, from: None, dst: 0, to: None, at };
            prop_assert_eq!(packet.allowed, file.packet(&machines, asked, port), "{} {:?} {}", text, asked, port);
        }
    }

    #[test]
    fn packets_and_requests_pass_as_the_words_say(
        file in file(),
        machines in vec(machine(), 2..5),
        at in select(MOMENTS.to_vec()),
    ) {
        let text = file.text();
        let (document, _) = Document::parse("random", &text).expect("a well-formed policy");
        let policy = Policy::compile(&document, &nodes(&machines));
        for dst in 0..machines.len() {
            let filter = policy.packet_filter(&id(dst), ROUTER_PORT, UnixTime(at));
            for src in (0..machines.len()).filter(|src| *src != dst) {
                let asked = Asked { src, from: None, dst, to: None, at };
                for port in [22, 443, 8080, 9] {
                    let packet = InnerPacket { src: address(src), dst: address(dst), protocol: 6, src_port: 40_000, dst_port: port };
                    prop_assert_eq!(filter.allows(&id(src), &packet), file.packet(&machines, asked, port), "{}\n{:?} {}", text, asked, port);
                    for path in ["/a/x", "/b", "/a/x/y", "/a/../b"] {
                        let request = HttpRequest { src: (id(src), None), dst: id(dst), port, method: "GET", path, at: UnixTime(at) };
                        let judged = policy.authorize_http(&request).is_allowed();
                        prop_assert_eq!(judged, file.request(&machines, asked, port, path), "{}\n{:?} {} {}", text, asked, port, path);
                    }
                }
            }
        }
    }

    /// Between two moments without a change announced, no verdict changes.
    #[test]
    fn every_change_by_the_clock_is_announced(
        file in file(),
        machines in vec(machine(), 1..3),
        start in select(MOMENTS.to_vec()),
    ) {
        let (document, _) = Document::parse("random", &file.text()).expect("a well-formed policy");
        let policy = Policy::compile(&document, &nodes(&machines));
        let next = policy.next_change(UnixTime(start)).map_or(u64::MAX, |next| next.0);
        prop_assert!(next > start);
        let agent: AgentName = "coder".parse().expect("a name");
        let verdict = |at: u64| {
            let request = MessageRequest { src: (id(0), &agent), dst: (id(0), &agent), verb: Verb::Send, at: UnixTime(at), bytes: Some(10) };
            policy.allows(&request)
        };
        let last = next.min(start + 2 * 86_400);
        let before = verdict(start);
        for at in (start..last).step_by(1_800) {
            prop_assert_eq!(verdict(at), before, "{}: changed before {}", file.text(), next);
        }
    }
}
