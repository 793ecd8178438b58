//! The figures about rows: how fast they are copied, how long users pause, what the guard costs, what others notice.

mod bystander;
mod copy;
pub(crate) mod data;
mod guard;
mod handoff;
pub(crate) mod pause;
mod peers;
pub(crate) mod stage;
mod writers;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::cost;
use crate::report::Report;
use stage::{Stage, Tuning};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    Copy,
    Guard,
    Bystander,
    Handoff,
    Pause,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scale: f64,
    pub(crate) rounds: usize,
    pub(crate) profile: bool,
    pub(crate) groups: Vec<Group>,
}

/// Measures everything asked for.
pub(crate) async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let users = data::customers(options.scale);
    println!(
        "rows: {users} users in {} countries, {} invoices; load of this machine before: {}",
        data::COUNTRIES.len(),
        users * 3,
        cost::load()
    );
    let stage = Stage::build(options).await?;
    let asked = |group| options.groups.contains(&group);
    let mut failed = Vec::new();
    // What cannot be measured does not keep us from the rest.
    let mut note = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            println!("  {what} could not be measured: {error:#}");
            failed.push(what.to_owned());
        }
    };
    if asked(Group::Copy) {
        note("copy", copy::measure(&stage, report).await);
    }
    // The rest with the configuration that a user gets who says nothing.
    let usual = Tuning {
        file: "usual.toml",
        lines: String::new(),
        by_country: true,
    };
    if options.groups != [Group::Copy] {
        stage.fresh_shop(&usual).await?;
    }
    if asked(Group::Guard) {
        note("guard", guard::measure(&stage, report, &usual).await);
    }
    if asked(Group::Bystander) {
        note(
            "bystander",
            bystander::measure(&stage, report, &usual).await,
        );
    }
    if asked(Group::Handoff) {
        note("handoff", handoff::measure(&stage, report, &usual).await);
    }
    if asked(Group::Pause) {
        for (writers, bench) in [(16, "rows.pause_p99_ms.16"), (64, "rows.pause_p99_ms")] {
            let measured = pause::measure(&stage, report, &usual, writers, bench).await;
            note(bench, measured);
        }
    }
    if !failed.is_empty() {
        bail!("not everything could be measured: {}", failed.join(", "));
    }
    Ok(())
}
