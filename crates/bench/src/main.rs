//! `bench`: what a move costs, beside what one would use instead, measured in the same run.
//!
//! Prints a table and writes a line of JSON per figure. The program under test is the release build of
//! `domicile` that stands beside this one, run as an operator runs it.

mod cost;
mod gateway;
mod link;
mod profile;
mod program;
mod report;
mod rows;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

/// What a move costs, beside its peers, measured in the same run.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// How much data: 1 is 1,000,000 users and 14.5 M rows. Default: BENCH_SCALE, else 1
    #[arg(long)]
    scale: Option<f64>,
    /// Of the rows' figures only these groups
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<rows::Group>,
    /// How often each copy is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Show which statements took the servers' time (needs pg_stat_statements; costs a little)
    #[arg(long)]
    profile: bool,
    /// Where the figures are written
    #[arg(long, default_value = "target/bench/results.jsonl")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Rows,
    Link,
    Gateway,
    Objects,
    Messages,
    All,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        // As a shell reports a program that Ctrl-C ended.
        Ok(false) => ExitCode::from(130),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures; false if it was interrupted. Either way nothing is left running: what was started ends with its owner.
fn run(cli: Cli) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch signals")?;
        let mut hang_up = signal(SignalKind::hangup()).context("cannot watch signals")?;
        tokio::select! {
            done = measure(cli) => done.map(|()| true),
            _ = tokio::signal::ctrl_c() => Ok(false),
            _ = terminate.recv() => Ok(false),
            _ = hang_up.recv() => Ok(false),
        }
    })
}

async fn measure(cli: Cli) -> Result<()> {
    let scale = match cli.scale {
        Some(scale) => scale,
        None => scale_of_environment()?,
    };
    if !(0.01..=10.0).contains(&scale) {
        bail!("the scale must be between 0.01 and 10");
    }
    for what in [What::Objects, What::Messages] {
        if cli.what == what || cli.what == What::All {
            let name = format!("{what:?}").to_lowercase();
            println!("{name}: there is nothing to measure yet");
        }
    }
    if matches!(cli.what, What::Objects | What::Messages) {
        return Ok(());
    }
    let mut report = report::Report::create(&cli.out)?;
    let rounds = cli.rounds.max(1);
    if matches!(cli.what, What::Gateway | What::All) {
        let measured = gateway::measure(scale, rounds, &mut report).await;
        if cli.what == What::Gateway {
            println!("\n{}", report.table());
            return measured;
        }
        measured?;
    }
    let linked = match cli.what {
        What::Rows => Ok(()),
        _ => link::measure((scale, rounds, cli.profile), &cli.only, &mut report).await,
    };
    if cli.what == What::Link {
        println!("\n{}", report.table());
        return linked;
    }
    let options = rows::Options {
        scale,
        rounds,
        profile: cli.profile,
        groups: if cli.only.is_empty() {
            rows::Group::value_variants().to_vec()
        } else {
            cli.only
        },
    };
    let measured = rows::measure(&options, &mut report).await;
    println!("\n{}", report.table());
    linked.and(measured)
}

fn scale_of_environment() -> Result<f64> {
    match std::env::var("BENCH_SCALE") {
        Ok(text) => text.parse().context("BENCH_SCALE must be a number"),
        Err(_) => Ok(1.0),
    }
}
