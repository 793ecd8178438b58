//! How fast a fifth of all users moves, and what memory that takes.

use anyhow::{Result, ensure};
use serde_json::json;

use super::peers::{self, Copied};
use super::stage::{Stage, Tuning};
use crate::report::{Figure, Report, Series};
use crate::stats::median;
use crate::{cost, profile};

/// What the copy is measured with: wide batches, since nobody writes.
const BATCH: &str = "batch = { users = 5000, rows = 100000 }";

pub(crate) async fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let tuning = Tuning {
        file: "wide.toml",
        lines: format!("{BATCH}\nlimits = {{ max_pause = \"10s\" }}"),
        by_country: false,
    };
    println!("copy: {BATCH}; peers in the same rounds");
    peers::prepare_logical(stage).await?;
    let (mut ours, mut pipe, mut checked, mut logical) = (
        Series::default(),
        Series::default(),
        Series::default(),
        Series::default(),
    );
    let mut parts = Vec::new();
    let mut peaks = Series::default();
    for round in 0..stage.options.rounds {
        // Each round begins with another one, so that nobody always follows the same.
        for turn in 0..4 {
            let (name, copied) = match (round + turn) % 4 {
                0 => {
                    let copied = peers::pipe(stage, false).await?;
                    pipe.add(copied.rate(), copied.cpu_us());
                    ("copy | copy", copied)
                }
                1 => {
                    let (copied, peak) = apply(stage, &tuning).await?;
                    ours.add(copied.rate(), copied.cpu_us());
                    peaks.values.push(peak);
                    parts.push(copied);
                    ("apply", copied)
                }
                2 => {
                    let copied = peers::logical(stage).await?;
                    logical.add(copied.rate(), copied.cpu_us());
                    ("logical replication", copied)
                }
                _ => {
                    let copied = peers::pipe(stage, true).await?;
                    checked.add(copied.rate(), copied.cpu_us());
                    ("copy | copy, FK triggers", copied)
                }
            };
            print(name, &copied);
        }
    }
    let part = |of: fn(&Copied) -> f64| {
        let each: Vec<f64> = parts.iter().map(|c| of(c) * 1e6 / c.rows as f64).collect();
        json!((median(&each) * 100.0).round() / 100.0)
    };
    let more = vec![
        ("cpu_us_source", part(|c| c.cpu.source)),
        ("cpu_us_target", part(|c| c.cpu.target)),
        ("cpu_us_mover", part(|c| c.cpu.children)),
        ("rows", json!(parts.first().map(|copied| copied.rows))),
        ("configuration", json!(BATCH)),
    ];
    for (bench, name, peer) in [
        ("rows.copy_vs_pipe", "copy | copy", pipe),
        ("rows.copy_vs_fk_pipe", "copy | copy, FK triggers", checked),
        ("rows.copy_vs_logical", "logical replication", logical),
    ] {
        report.add(Figure {
            bench: bench.to_owned(),
            unit: "rows/s",
            ours: ours.clone(),
            peer: Some((name, peer)),
            more: more.clone(),
        })?;
    }
    report.add(Figure {
        bench: "rows.mover_rss_mib".to_owned(),
        unit: "MiB",
        ours: peaks,
        peer: None,
        more: vec![("configuration", json!(BATCH))],
    })
}

/// One move, verification included, by the program as it is run; with the peak of its memory in MiB.
async fn apply(stage: &Stage, tuning: &Tuning) -> Result<(Copied, f64)> {
    stage.fresh_shop(tuning).await?;
    stage.settle().await?;
    if stage.options.profile {
        profile::begin(&stage.source.cluster).await?;
        profile::begin(&stage.target.cluster).await?;
    }
    let before = stage.cpu()?;
    let args = ["--config", tuning.file, "apply", "--yes", "--json"];
    let ran = stage.domicile.run(&args).await?;
    let cpu = stage.cpu()?.since(before);
    if stage.options.profile {
        profile::show(&stage.source.cluster).await?;
        profile::show(&stage.target.cluster).await?;
    }
    ensure!(
        ran.last["verified"] == true && ran.last["mismatches"] == 0,
        "the move was not verified: {}",
        ran.last
    );
    let copied = Copied {
        rows: ran.number("rows") as u64,
        wall: ran.wall,
        cpu,
    };
    Ok((copied, ran.peak_mib))
}

fn print(name: &str, copied: &Copied) {
    let us = |seconds: f64| seconds * 1e6 / copied.rows as f64;
    println!(
        "  {name:<26} {:>8} rows {:>7.2} s {:>9.0} rows/s   CPU us/row {:.2} = source {:.2} + target {:.2} + client {:.2}   load {}",
        copied.rows,
        copied.wall.as_secs_f64(),
        copied.rate(),
        copied.cpu_us(),
        us(copied.cpu.source),
        us(copied.cpu.target),
        us(copied.cpu.children),
        cost::load(),
    );
}
