//! The policy engine at 10,000 rules and 100,000 gateways, beside a scan of all rules in the same
//! run: `cargo bench -p crabmesh-policy`. Exit 1 where a limit is missed.
//!
//! What is measured once in each process (compiling, loading) is measured after a first run that
//! warms the allocator and the caches; a verdict is timed one by one, less what reading the clock
//! takes (its median over as many empty turns).

#![allow(clippy::print_stdout, reason = "it prints its table")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use identity::{AgentName, NodeId, UnixTime};
use policy::{Document, MessageRequest, Node, Policy, Verb};

const NODES: usize = 100_000;
const RULES: usize = 10_000;
const TAGS: u64 = 2_000;
const USERS: u64 = 5_000;
const GROUPS: u64 = 1_000;
const AGENTS: u64 = 200;
const VERDICTS: usize = 200_000;
const NOW: UnixTime = UnixTime(1_800_000_000);

/// How many gateways one has something to do with in a mesh of this size (coordinator.md §3.3).
const PEERS: usize = 716;
/// A scan is slow: as many as show it.
const SCANNED: usize = 2_000;

/// Rules of the sort that a file has few of: they concern everybody.
const BROAD: usize = 20;

fn main() -> ExitCode {
    let mut table = Table::default();
    let mut random = Random(7);
    let text = file(&mut random);
    let nodes = nodes(&mut random);
    let (document, _) = Document::parse("bench", &text).expect("a policy");

    load(&mut table, &text);
    let policy = compile(&mut table, &document, &nodes);
    join(&mut table, &policy, &mut random);
    verdicts(&mut table, &policy, &text, &nodes, &mut random);

    table.print()
}

/// Reads a file of the largest size, with every diagnostic that it earns.
fn load(table: &mut Table, text: &str) {
    let mut long = text.to_owned();
    // Comments count as much as rules do, and files have them.
    while long.len() < LARGE {
        long.insert_str(
            1,
            "\n  // Whoever reads this file next should find what each part is for.",
        );
    }
    let read = |text: &str| {
        let start = Instant::now();
        let (document, said) = Document::parse("bench", text).expect("a policy");
        let took = start.elapsed();
        black_box((document.rule_count(), said.len()));
        took
    };
    read(&long);
    let took = (0..5).map(|_| read(&long)).min().unwrap_or_default();
    // The same with a mistake in each of many rules: what is said about them is part of the time.
    let wrong = long.replace("\"request\"]", "\"reqest\"]");
    let refuse = || {
        let start = Instant::now();
        let said = Document::parse("bench", &wrong).expect_err("refused");
        let shown: usize = said.iter().map(|said| said.position().0).sum();
        black_box(shown);
        start.elapsed()
    };
    refuse();
    let refused = (0..5).map(|_| refuse()).min().unwrap_or_default();
    let size = long.len() as f64 / 1e6;
    table.row(
        &format!("load {size:.1} MB, {RULES} rules"),
        format!("{:.1} ms", millis(took)),
        "50 ms",
        took <= Duration::from_millis(50),
    );
    table.row(
        "load it with a mistake in every message rule",
        format!("{:.1} ms", millis(refused)),
        "50 ms",
        refused <= Duration::from_millis(50),
    );
}

fn compile(table: &mut Table, document: &Document, nodes: &[Node]) -> Policy {
    let before = resident();
    let start = Instant::now();
    let policy = Policy::compile_for(document, nodes, &nodes[0].id);
    let took = start.elapsed();
    let memory = resident().saturating_sub(before);
    table.row(
        &format!("compile {RULES} rules x {NODES} gateways, one core"),
        format!("{:.2} s", took.as_secs_f64()),
        "2 s",
        took <= Duration::from_secs(2),
    );
    table.row(
        "memory of that",
        format!("{:.0} MB", memory as f64 / 1e6),
        "500 MB",
        memory <= 500_000_000,
    );
    policy
}

/// A gateway joins: the policy that was stays as it is, for whoever still holds it.
fn join(table: &mut Table, policy: &Policy, random: &mut Random) {
    let mut current = policy.clone();
    let mut times = Vec::new();
    for n in 0..2_000 {
        let joined = [node(NODES + n, random)];
        let start = Instant::now();
        let next = current
            .with_changes(&joined, &[])
            .expect("not the local one");
        times.push(start.elapsed());
        current = next;
    }
    let (half, most) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    table.row(
        "one gateway joins",
        format!("p50 {:.1} us, p99 {:.1} us", micros(half), micros(most)),
        "50 us",
        half <= Duration::from_micros(50),
    );
}

fn verdicts(table: &mut Table, policy: &Policy, text: &str, nodes: &[Node], random: &mut Random) {
    let agents: Vec<AgentName> = (0..AGENTS)
        .map(|n| agent(n).parse().expect("a name"))
        .collect();
    let scan = naive::Rules::read(text, nodes);
    let peers: Vec<usize> = (0..PEERS)
        .map(|_| 1 + random.below(NODES as u64 - 1) as usize)
        .collect();
    let everybody: Vec<usize> = (1..NODES).collect();
    let request = |(src, dst, a, b): (usize, usize, usize, usize)| MessageRequest {
        src: (nodes[src].id, &agents[a]),
        dst: (nodes[dst].id, &agents[b]),
        verb: Verb::Request,
        at: NOW,
        bytes: Some(1024),
    };
    let mut reads: Vec<Duration> = (0..VERDICTS).map(|_| Instant::now().elapsed()).collect();
    let clock = quantile(&mut reads, 0.5);
    let time = |each: &dyn Fn(usize) -> bool, count: usize| {
        let mut times = Vec::with_capacity(count);
        let mut allowed = 0usize;
        for n in 0..count {
            let start = Instant::now();
            allowed += usize::from(each(n));
            times.push(start.elapsed().saturating_sub(clock));
        }
        (times, allowed)
    };
    for (from, among, limit) in [
        (format!("its {PEERS} peers"), &peers, true),
        (format!("any of {NODES}, caches cold"), &everybody, false),
    ] {
        // Half of them between agents that a rule names, three of four to this gateway.
        let asked: Vec<(usize, usize, usize, usize)> = (0..VERDICTS)
            .map(|_| {
                let peer = among[random.below(among.len() as u64) as usize];
                let (a, b) = match random.below(2) {
                    0 => scan.named_pair(random.below(BROAD as u64) as usize),
                    _ => (random.below(AGENTS) as usize, random.below(AGENTS) as usize),
                };
                match random.below(4) {
                    0 => (0, peer, a, b),
                    _ => (peer, 0, a, b),
                }
            })
            .collect();
        // As they come off the wire: by value, and not from a list of all nodes.
        let requests: Vec<MessageRequest<'_>> = asked.iter().map(|it| request(*it)).collect();
        let ask = |n: usize| policy.allows(&requests[n]);
        time(&ask, VERDICTS);
        let (mut engine, allowed) = time(&ask, VERDICTS);
        let (half, most) = (quantile(&mut engine, 0.5), quantile(&mut engine, 0.99));
        let share = 100.0 * allowed as f64 / VERDICTS as f64;
        table.row(
            &format!("verdict on {from} ({share:.0} % allowed)"),
            format!("p50 {} ns, p99 {} ns", half.as_nanos(), most.as_nanos()),
            if limit { "p99 200 ns" } else { "-" },
            !limit || most < Duration::from_nanos(200),
        );
        if limit {
            let (mut linear, _) = time(&|n| scan.allows(asked[n]), SCANNED);
            // The two must say the same, or neither figure means anything.
            let agree = (0..SCANNED).all(|n| ask(n) == scan.allows(asked[n]));
            let scanned = quantile(&mut linear, 0.5);
            let times = scanned.as_secs_f64() / half.as_secs_f64();
            table.row(
                "the same by a scan of all rules",
                format!("p50 {:.1} us, {times:.0} times", micros(scanned)),
                "the same verdicts",
                agree,
            );
            let words = |n: usize| policy.authorize(&requests[n]).is_allowed();
            let (mut words, _) = time(&words, 20_000);
            let (half, most) = (quantile(&mut words, 0.5), quantile(&mut words, 0.99));
            table.row(
                "with the words of a refusal",
                format!("p50 {} ns, p99 {} ns", half.as_nanos(), most.as_nanos()),
                "-",
                true,
            );
        }
    }
}

/// The rules as somebody would write the scan: each tried in turn, by sets of node numbers.
mod naive {
    use super::*;

    pub struct Rules(Vec<(Side, Side)>);

    struct Side {
        nodes: Vec<bool>,
        agent: Option<usize>,
    }

    impl Rules {
        /// Reads the message rules of the file that this bench wrote, a line each.
        pub fn read(text: &str, nodes: &[Node]) -> Self {
            let groups = groups(text);
            let lines = text.lines().filter(|line| line.contains("\"request\"]"));
            let parse = |line: &str, key: &str| {
                let start = line.find(key).expect("there") + key.len();
                let end = start + line[start..].find('"').expect("closed");
                Side::new(&line[start..end], nodes, &groups)
            };
            Self(
                lines
                    .map(|line| (parse(line, "\"src\": [\""), parse(line, "\"dst\": [\"")))
                    .collect(),
            )
        }

        /// The agents that the nth of the last rules is for: those that concern everybody.
        pub fn named_pair(&self, rule: usize) -> (usize, usize) {
            let (from, to) = &self.0[self.0.len() - 1 - rule];
            (from.agent.unwrap_or_default(), to.agent.unwrap_or_default())
        }

        pub fn allows(&self, (src, dst, a, b): (usize, usize, usize, usize)) -> bool {
            self.0
                .iter()
                .any(|(from, to)| from.has(src, a) && to.has(dst, b))
        }
    }

    impl Side {
        fn new(text: &str, nodes: &[Node], groups: &[(String, BTreeSet<String>)]) -> Self {
            let (agent, selector) = match text
                .strip_prefix("agent:")
                .and_then(|it| it.split_once('@'))
            {
                Some(("*", selector)) => (None, selector),
                Some((name, selector)) => (name[1..].parse().ok(), selector),
                None => (None, text),
            };
            let members = groups
                .iter()
                .find(|(name, _)| name == selector)
                .map(|(_, it)| it);
            let has = |node: &Node| {
                let user = node.owner().map(|user| user.as_str());
                selector == "*"
                    || node.tags.iter().any(|tag| tag.as_str() == selector)
                    || user == Some(selector)
                    || members.is_some_and(|it| user.is_some_and(|user| it.contains(user)))
            };
            Self {
                nodes: nodes.iter().map(has).collect(),
                agent,
            }
        }

        fn has(&self, node: usize, agent: usize) -> bool {
            self.nodes[node] && self.agent.is_none_or(|named| named == agent)
        }
    }

    fn groups(text: &str) -> Vec<(String, BTreeSet<String>)> {
        let lines = text
            .lines()
            .filter(|line| line.trim().starts_with("\"group:"));
        lines
            .map(|line| {
                let mut words = line.split('"').skip(1).step_by(2);
                let name = words.next().expect("a name").to_owned();
                (name, words.map(str::to_owned).collect())
            })
            .collect()
    }
}

/// A file of so many rules: half about messages, half about packets, a line each.
fn file(random: &mut Random) -> String {
    let mut text = String::from("{\n  \"groups\": {\n");
    for group in 0..GROUPS {
        let members: Vec<String> = (0..8)
            .map(|_| format!("{:?}", user(random.below(USERS))))
            .collect();
        writeln!(text, "    \"group:g{group}\": [{}],", members.join(", ")).expect("memory");
    }
    text.push_str("  },\n  \"tagOwners\": {\n");
    for tag in 0..TAGS {
        writeln!(text, "    \"tag:t{tag}\": [\"group:g0\"],").expect("memory");
    }
    text.push_str("  },\n  \"grants\": [\n");
    for n in 0..RULES {
        let (src, dst) = match n >= RULES - BROAD {
            true => (
                format!("agent:{}@*", agent(random.below(AGENTS))),
                format!("agent:{}@*", agent(random.below(AGENTS))),
            ),
            false => (selector(random), selector(random)),
        };
        let what = match n >= RULES - BROAD || n % 2 == 0 {
            true => "\"msg\": [\"send\", \"request\"]".to_owned(),
            false => format!("\"ip\": [\"tcp:{}\"]", 1 + random.below(60_000)),
        };
        let agents = what.starts_with("\"msg\"");
        let end = |selector: String, random: &mut Random| match agents && n < RULES - BROAD {
            true if random.below(2) == 0 => {
                format!("agent:{}@{selector}", agent(random.below(AGENTS)))
            }
            true => format!("agent:*@{selector}"),
            false => selector,
        };
        let (src, dst) = (end(src, random), end(dst, random));
        writeln!(
            text,
            "    {{\"id\": \"r{n}\", \"src\": [\"{src}\"], \"dst\": [\"{dst}\"], {what}}},"
        )
        .expect("memory");
    }
    text.push_str("  ],\n  \"guards\": [\n    {\"id\": \"size\", \"src\": [\"agent:*@*\"], \"dst\": [\"agent:*@*\"], \"maxBytes\": \"256KiB\"},\n  ],\n}\n");
    text
}

fn selector(random: &mut Random) -> String {
    match random.below(10) {
        0..=5 => format!("tag:t{}", random.below(TAGS)),
        6..=7 => format!("group:g{}", random.below(GROUPS)),
        _ => user(random.below(USERS)),
    }
}

fn nodes(random: &mut Random) -> Vec<Node> {
    (0..NODES).map(|n| node(n, random)).collect()
}

/// Seven of ten are tagged, with up to three tags; the others are people's.
fn node(n: usize, random: &mut Random) -> Node {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_be_bytes());
    id[8..].copy_from_slice(&random.next().to_be_bytes());
    let mut node = Node::new(NodeId(id), format!("gw-{n}").parse().expect("a name"));
    match random.below(10) {
        0..=6 => {
            let count = 1 + random.below(3);
            let tags: BTreeSet<u64> = (0..count).map(|_| random.below(TAGS)).collect();
            node.tags = tags
                .iter()
                .map(|tag| format!("tag:t{tag}").parse().expect("a tag"))
                .collect();
        }
        _ => node.user = Some(user(random.below(USERS)).parse().expect("a user")),
    }
    node.addresses = vec![Ipv6Addr::from_bits(0xfd00 << 112 | n as u128).into()];
    node
}

fn user(n: u64) -> String {
    format!("user{n}@example.com")
}

fn agent(n: u64) -> String {
    format!("a{n}")
}

/// A small generator with a fixed seed (SplitMix64): every run measures the same mesh.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Default)]
struct Table {
    rows: Vec<[String; 4]>,
    missed: bool,
}

impl Table {
    fn row(&mut self, what: &str, figure: String, limit: &str, pass: bool) {
        let verdict = if pass { "pass" } else { "MISSED" };
        self.missed |= !pass;
        self.rows
            .push([what.into(), figure, limit.into(), verdict.into()]);
    }

    fn print(&self) -> ExitCode {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or(0)
        };
        let (a, b, c) = (width(0), width(1), width(2));
        for [what, figure, limit, verdict] in &self.rows {
            println!("{what:a$}  {figure:b$}  {limit:c$}  {verdict}");
        }
        match self.missed {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        }
    }
}

fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * part) as usize;
    times
        .get(at.min(times.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Bytes of memory that this process has, from /proc.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or_default() * 1024
}

/// The size of a file with as many rules as one may have, as files are.
const LARGE: usize = 1_400_000;
