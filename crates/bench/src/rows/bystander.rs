//! What those notice who do not move, while others do at the default throttle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;
use rand::RngExt as _;
use serde_json::json;

use super::data::COUNTRIES;
use super::stage::{SHOP, Stage, Tuning};
use super::writers::{Known, Shape, Writer, settled_users};
use crate::report::{Figure, Report, Series};
use crate::stats::{median, percentile};

const WRITERS: usize = 16;
const THINK: Duration = Duration::from_millis(20);
/// How long is measured without a move, before each and after the last.
const QUIET: Duration = Duration::from_secs(8);
/// A country each.
const MOVES: std::ops::Range<usize> = 2..5;

pub(crate) async fn measure(stage: &Stage, report: &mut Report, usual: &Tuning) -> Result<()> {
    println!("bystander: {WRITERS} writers, orders, {THINK:?} think");
    let known = settled_users(&stage.source).await?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(Writer::connect(&stage.source, SHOP).await?);
    }
    let (mut quiet, mut beside) = (Series::default(), Series::default());
    let mut rates = Vec::new();
    let without = async || {
        latencies(&writers, &known, async {
            tokio::time::sleep(QUIET).await;
            Ok(())
        })
        .await
        .map(|(latencies, ())| percentile(&latencies, 99.0))
    };
    // Once for nothing: caches.
    without().await?;
    for country in &COUNTRIES[MOVES] {
        stage.settle().await?;
        quiet.values.push(without().await?);
        let args = [
            "--config", usual.file, "apply", "--yes", "--json", "--phase", country,
        ];
        let (latencies, ran) = latencies(&writers, &known, stage.domicile.run(&args)).await?;
        beside.values.push(percentile(&latencies, 99.0));
        rates.push(ran.number("rows") / ran.wall.as_secs_f64());
        println!(
            "  p99 {:.2} ms without, {:.2} ms beside a move of {:.0} rows/s",
            quiet.values[quiet.values.len() - 1],
            beside.values[beside.values.len() - 1],
            rates[rates.len() - 1]
        );
    }
    report.add(Figure {
        bench: "rows.bystander_p99".to_owned(),
        unit: "ms",
        ours: beside,
        peer: Some(("no move", quiet)),
        more: vec![
            ("move_rows_per_s", json!(median(&rates).round())),
            ("throttle", json!("default")),
        ],
    })
}

/// How long each transaction took, in milliseconds, while `meanwhile` ran.
async fn latencies<T>(
    writers: &[Writer],
    known: &[Known],
    meanwhile: impl Future<Output = Result<T>>,
) -> Result<(Vec<f64>, T)> {
    let over = AtomicBool::new(false);
    let writing = try_join_all(writers.iter().map(async |writer| {
        let mut took = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let who = known[rand::rng().random_range(0..known.len())];
            let began = Instant::now();
            writer.write(Shape::Order, &who).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(THINK).await;
        }
        anyhow::Ok(took)
    }));
    let meanwhile = async {
        let done = meanwhile.await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let (took, done) = tokio::try_join!(writing, meanwhile)?;
    Ok((took.concat(), done))
}
