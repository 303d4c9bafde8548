//! How long the largest allowed file takes to load and to lint, and two of them to compare:
//! `cargo run --release -p crabmesh-policy --example load`.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use identity::{NodeId, UnixTime};
use policy::{Document, MAX_TEXT, Matrix, Node, PolicyDiff};

const NOW: UnixTime = UnixTime(1_800_000_000);
const RULES: usize = 10_000;

fn main() {
    for (name, text) in [
        ("different", file(|n| (n % 400, n % 397, n % 9_000))),
        ("one pair", file(|n| (0, 1, n))),
        ("all shadowed", file(|_| (0, 1, 22))),
    ] {
        let document = parse(&text);
        let parsed = best(|| drop(parse(&text)));
        let linted = best(|| drop(document.lint(&[])));
        let said: usize = document.lint(&[]).len();
        println!(
            "{name}: {RULES} rules, {} bytes: load {parsed:?}, lint {linted:?} ({said} warnings)",
            text.len()
        );
    }
    let (old, new) = (
        file(|n| (n % 400, n % 397, n % 9_000)),
        file(|n| (n % 400, n % 397, n % 9_001)),
    );
    let (old, new) = (parse(&old), parse(&new));
    let wider = best(|| drop(new.lint_since(&old, &[], NOW)));
    for gateways in [0, 100_000] {
        compare(&old, &new, &gateways_of(gateways), wider);
    }
}

fn compare(old: &Document, new: &Document, nodes: &[Node], wider: Duration) {
    let started = Instant::now();
    let diff = PolicyDiff::between(old, new, nodes, NOW);
    println!(
        "two versions, {} gateways: wider? {wider:?}; diff {:?}, {} gains, {} losses, complete: {}",
        nodes.len(),
        started.elapsed(),
        diff.gains.len(),
        diff.losses.len(),
        diff.complete
    );
    let started = Instant::now();
    let matrix = Matrix::new(new, nodes, NOW);
    println!(
        "matrix {:?}, {} cells",
        started.elapsed(),
        matrix.cells.len()
    );
}

/// Gateways with one or two tags each.
fn gateways_of(count: u64) -> Vec<Node> {
    let tag = |n: u64| format!("tag:t{}", n % 400).parse().expect("a tag");
    let gateway = |n: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let mut node = Node::new(NodeId(id), format!("gw-{n}").parse().expect("a name"));
        node.tags = if n.is_multiple_of(7) {
            vec![tag(n), tag(n / 400)]
        } else {
            vec![tag(n)]
        };
        node
    };
    (0..count).map(gateway).collect()
}

/// A file of the largest allowed size, with comments as people write them.
fn file(rule: impl Fn(usize) -> (usize, usize, usize)) -> String {
    let mut text = String::from("{\n  \"tagOwners\": {\n");
    for n in 0..400 {
        text.push_str(&format!("    \"tag:t{n}\": [\"ana@example.com\"],\n"));
    }
    text.push_str("  },\n  \"grants\": [\n");
    for n in 0..RULES {
        let (src, dst, port) = rule(n);
        let port = port % 65_535 + 1;
        text.push_str(&format!(
            "    {{\"src\":[\"tag:t{src}\"],\"dst\":[\"tag:t{dst}\"],\"ip\":[\"tcp:{port}\"],\"msg\":[\"send\"]}},\n"
        ));
    }
    text.push_str("  ],\n");
    while text.len() + 80 < MAX_TEXT {
        text.push_str("  // Said at length, so that the file is as long as it may be.\n");
    }
    text.push('}');
    assert!(text.len() <= MAX_TEXT, "{} bytes", text.len());
    text
}

fn parse(text: &str) -> Document {
    Document::parse("load", text).expect("a policy").0
}

fn best(mut run: impl FnMut()) -> Duration {
    let times = (0..5).map(|_| {
        let started = Instant::now();
        run();
        started.elapsed()
    });
    times.min().unwrap_or_default()
}
