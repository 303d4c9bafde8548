//! How long the largest allowed file takes to load and to lint, and two of them to compare:
//! `cargo run --release -p crabmesh-policy --example load`.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use identity::UnixTime;
use policy::{Document, MAX_TEXT, Matrix, PolicyDiff};

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
    let started = Instant::now();
    let diff = PolicyDiff::between(&old, &new, &[], NOW);
    println!(
        "two versions: wider? {wider:?}; diff {:?}, {} gains, {} losses, complete: {}",
        started.elapsed(),
        diff.gains.len(),
        diff.losses.len(),
        diff.complete
    );
    let started = Instant::now();
    let matrix = Matrix::new(&new, &[], NOW);
    println!(
        "matrix {:?}, {} cells",
        started.elapsed(),
        matrix.cells.len()
    );
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
