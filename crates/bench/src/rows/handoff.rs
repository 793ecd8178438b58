//! What the handoff of a batch costs where nobody writes: how long it takes, and whose CPU.

use anyhow::{Result, ensure};
use serde_json::json;

use super::data::COUNTRIES;
use super::stage::{Stage, Tuning};
use crate::report::{Figure, Report, Series};
use crate::stats::median;
use crate::{cost, profile};

/// As in the configuration that a user gets who says nothing.
const BATCH: f64 = 64.0;
/// A country each.
const MOVES: std::ops::Range<usize> = 7..10;

pub(crate) async fn measure(stage: &Stage, report: &mut Report, usual: &Tuning) -> Result<()> {
    println!("handoff: a country each, batches of {BATCH} users, no writers");
    let mut ours = Series::default();
    let mut parts: [Vec<f64>; 3] = Default::default();
    for country in &COUNTRIES[MOVES] {
        stage.settle().await?;
        if stage.options.profile {
            profile::begin(&stage.source.cluster).await?;
            profile::begin(&stage.target.cluster).await?;
        }
        let before = stage.cpu()?;
        let args = [
            "--config", usual.file, "apply", "--yes", "--json", "--phase", country,
        ];
        let ran = stage.domicile.run(&args).await?;
        let cpu = stage.cpu()?.since(before);
        if stage.options.profile {
            profile::show(&stage.source.cluster).await?;
            profile::show(&stage.target.cluster).await?;
        }
        ensure!(ran.last["verified"] == true, "not verified: {}", ran.last);
        let batches = (ran.number("moved") / BATCH).ceil().max(1.0);
        let each = |seconds: f64| seconds * 1e6 / batches;
        let pause = ran.number("pause_ms.p50");
        ours.add(pause, each(cpu.all()));
        let shares = [cpu.source, cpu.target, cpu.children].map(each);
        println!(
            "  {country}: {batches} batches, pause p50 {pause:.1} p99 {:.1} ms, all {:.1} ms a batch; CPU us a batch \
             {:.0} = source {:.0} + target {:.0} + mover {:.0}   load {}",
            ran.number("pause_ms.p99"),
            ran.wall.as_secs_f64() * 1e3 / batches,
            each(cpu.all()),
            shares[0],
            shares[1],
            shares[2],
            cost::load(),
        );
        for (part, share) in parts.iter_mut().zip(shares) {
            part.push(share);
        }
    }
    let part = |n: usize| json!(median(&parts[n]).round());
    report.add(Figure {
        bench: "rows.handoff_ms".to_owned(),
        unit: "ms",
        ours,
        peer: None,
        more: vec![
            ("cpu_us_source", part(0)),
            ("cpu_us_target", part(1)),
            ("cpu_us_mover", part(2)),
        ],
    })
}
