//! `crabmesh bench`: what this machine does, beside plain quinn, a bare fsync and bare SQLite in
//! the same run. Only ratios within one run mean anything: machines differ, and so do their hours.
//!
//! Whatever is measured runs as processes of its own, of this same binary: the public commands
//! where there is one, else a hidden [`role`] of `bench`.

mod ask;
mod bulk;
mod caller;
mod cores;
mod cut;
mod disk;
mod durable;
mod idle;
mod mesh;
mod parts;
mod plain;
mod role;
mod waiting;
mod worker;

use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::demo::process::Stage;
use crate::failure::{Exit, Failure};
use crate::output::{Output, note};

/// Measure this machine, beside plain QUIC and plain SQLite in the same run. Needs no root, and
/// leaves nothing behind. Build with --release: figures of a debug build mean nothing.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:
  crabmesh bench
  crabmesh bench --only bulk --json
  TMPDIR=/var/tmp crabmesh bench --only durable      on the disk under TMPDIR

Exit 1 when a figure misses its limit; never with --quick, whose figures are too short to mean much."
)]
pub struct Args {
    /// Only this: may be repeated
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Name>,
    /// A few seconds: shows that it works
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    role: Option<role::Role>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Round trip of 1 KiB, agent to agent, over two APIs
    Ask,
    /// One stream through the tunnel, and allocations per packet
    Bulk,
    /// Messages accepted by one gateway, each on disk before its answer
    Durable,
    /// A gateway with 50 peers that say nothing
    Idle,
    /// 200 answers at once, each in 50 parts a second
    Parts,
    /// A hundred inboxes with a thousand messages each
    Waiting,
    /// From a policy or a kill until each of 50 gateways obeys it
    Cut,
}

/// How long and how often: for figures, or to show that it works.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    asks: usize,
    bulk_bytes: u64,
    accepts: usize,
    peers: usize,
    settle: Duration,
    idle: Duration,
    streams: usize,
    parts: usize,
    inboxes: usize,
    waiting: usize,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    figure: String,
    limit: String,
    pass: bool,
    /// What it was measured against, and how far the rounds were apart.
    note: String,
}

pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if let Some(role) = args.role {
        return role.play(context);
    }
    let output = context.output();
    if cfg!(debug_assertions) {
        note(
            "crabmesh: this is a debug build; its figures mean nothing. Use `cargo run --release -- bench`",
        );
    }
    let effort = if args.quick { QUICK } else { FULL };
    let names = match args.only.is_empty() {
        true => vec![
            Name::Ask,
            Name::Bulk,
            Name::Durable,
            Name::Idle,
            Name::Parts,
            Name::Waiting,
            Name::Cut,
        ],
        false => args.only,
    };
    context.block_on(async move {
        let mut rows = Vec::new();
        let measured = measure(&names, effort, &mut rows).await;
        // What is known is shown, also after a failure.
        show(&rows, output)?;
        measured?;
        let missed = rows.iter().filter(|row| !row.pass).count();
        match missed > 0 && !args.quick {
            true => Err(Failure::failed(format!(
                "{missed} of {} figures miss their limits",
                rows.len()
            ))),
            false => Ok(()),
        }
    })
}

async fn measure(names: &[Name], effort: Effort, rows: &mut Vec<Row>) -> Result<(), Failure> {
    for name in names {
        note(format!("measuring: {name:?} (load {})", load()));
        let measured = match name {
            Name::Ask => {
                staged(async |stage: &mut Stage| ask::measure(stage, effort).await).await?
            }
            Name::Bulk => staged(async |_: &mut Stage| bulk::measure(effort).await).await?,
            Name::Durable => {
                staged(async |stage: &mut Stage| durable::measure(stage, effort).await).await?
            }
            Name::Idle => {
                staged(async |stage: &mut Stage| idle::measure(stage, effort).await).await?
            }
            Name::Parts => {
                staged(async |stage: &mut Stage| parts::measure(stage, effort).await).await?
            }
            Name::Waiting => {
                staged(async |stage: &mut Stage| waiting::measure(stage, effort).await).await?
            }
            Name::Cut => {
                rows.extend(
                    staged(async |stage: &mut Stage| cut::direct(stage, effort).await).await?,
                );
                staged(async |stage: &mut Stage| cut::relayed(stage, effort).await).await?
            }
        };
        rows.extend(measured);
    }
    Ok(())
}

/// Gives a stage to some work, and clears it away however that ends.
async fn staged<T>(work: impl AsyncFnOnce(&mut Stage) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut stage = Stage::build(false)?;
    let done = tokio::select! {
        done = work(&mut stage) => done,
        () = tokio::time::sleep(BOUND) => {
            Err(Failure::new(Exit::TimedOut, format!("not measured within {} s", BOUND.as_secs())))
        }
        _ = terminate.recv() => Err(Failure::failed("stopped")),
        _ = interrupt.recv() => Err(Failure::failed("stopped")),
    };
    if done.is_err() {
        stage.show_logs();
    }
    stage.strike().await;
    done
}

fn show(rows: &[Row], output: Output) -> Result<(), Failure> {
    if output.json() {
        return rows.iter().try_for_each(|row| output.object(row));
    }
    let head = ["WHAT", "FIGURE", "LIMIT", "", "NOTE"]
        .map(str::to_owned)
        .to_vec();
    let lines = rows.iter().map(|row| {
        let verdict = if row.pass { "pass" } else { "MISSED" };
        vec![
            row.what.to_owned(),
            row.figure.clone(),
            row.limit.clone(),
            verdict.to_owned(),
            row.note.clone(),
        ]
    });
    let table: Vec<_> = std::iter::once(head).chain(lines).collect();
    output.table(&table)
}

/// The middle one; 0 of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// `a .. b`, the lowest and the highest.
fn spread(values: &[f64], digits: usize) -> String {
    let (low, high) = (
        quantile(values.iter().copied(), 0.0),
        quantile(values.iter().copied(), 1.0),
    );
    format!("{low:.digits$}..{high:.digits$}")
}

/// How busy the machine is with others, for whoever reads the figures.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

const FULL: Effort = Effort {
    rounds: 5,
    asks: 400,
    bulk_bytes: 1_000_000_000,
    accepts: 16_384,
    peers: 50,
    settle: Duration::from_secs(20),
    idle: Duration::from_secs(20),
    streams: 200,
    parts: 1000,
    inboxes: 100,
    waiting: 1000,
};

const QUICK: Effort = Effort {
    rounds: 1,
    asks: 20,
    bulk_bytes: 10_000_000,
    accepts: 512,
    peers: 2,
    settle: Duration::from_millis(500),
    idle: Duration::from_millis(500),
    streams: 4,
    parts: 25,
    inboxes: 4,
    waiting: 40,
};

/// One measurement with its stage: 50 gateways start one after the other on a busy machine.
const BOUND: Duration = Duration::from_secs(240);

/// What an agent says.
const BODY: usize = 1024;
