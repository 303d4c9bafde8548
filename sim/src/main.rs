//! `sim --seed N [--trace]` replays one world; `sim --seeds N [--from M]` runs many on all cores.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::{Report, Scenario, World};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seed, mut seeds, mut from, mut trace) = (None, 1000, 0, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        match argument.as_str() {
            "--seed" => seed = number(),
            "--seeds" => seeds = number().unwrap_or(seeds),
            "--from" => from = number().unwrap_or(from),
            "--trace" => trace = true,
            _ => {
                eprintln!("usage: sim [--seed N [--trace]] [--seeds N] [--from N]");
                return ExitCode::from(2);
            }
        }
    }
    match seed {
        Some(seed) => one(seed, trace),
        None => many(from, seeds),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let scenario = Scenario::of(seed);
    eprintln!("{scenario:#?}");
    let report = World::new(scenario, trace).run();
    eprintln!("{report:#?}");
    if report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn many(from: u64, seeds: u64) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(from);
    let bad: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    let totals = [const { AtomicU64::new(0) }; 7];
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        return;
                    }
                    let report = World::new(Scenario::of(seed), false).run();
                    let facts = [
                        report.messages as u64,
                        report.packets,
                        report.lasted.as_secs(),
                        report.handshakes,
                        report.cancelled as u64,
                        report.loops,
                        report.answers as u64,
                    ];
                    for (total, fact) in totals.iter().zip(facts) {
                        total.fetch_add(fact, Ordering::Relaxed);
                    }
                    if !report.violations.is_empty() {
                        eprintln!("seed {seed}: {}", report.violations.join("\n    "));
                        bad.lock().expect("no thread panics with it").push(report);
                    }
                }
            });
        }
    });
    let [
        messages,
        packets,
        seconds,
        handshakes,
        cancelled,
        loops,
        answers,
    ] = totals.map(AtomicU64::into_inner);
    let bad = bad.into_inner().expect("all threads ended well");
    eprintln!(
        "{seeds} seeds from {from}: {} bad; {messages} messages, {answers} answers, {cancelled} taken back, {loops} loops, {packets} datagrams, {handshakes} handshakes, {} h of virtual time in {:.1} s",
        bad.len(),
        seconds / 3600,
        started.elapsed().as_secs_f64(),
    );
    if let Some(first) = bad.iter().map(|report| report.seed).min() {
        eprintln!("hint: replay with: sim --seed {first} --trace");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
