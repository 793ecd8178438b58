//! What the guard costs those who do not move: two databases with the same rows on one server, with and without it,
//! written in turns.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::wait_until;

use super::data::COUNTRIES;
use super::stage::{SHOP, Stage, Tuning};
use super::writers::{Known, Shape, Writer, settled_users, slice};
use crate::report::{Figure, Report, Series};

/// The shop's twin without a guard.
const PLAIN: &str = "plain";

const CLIENTS: usize = 8;
/// Short, and many: what else the machine does lasts longer than a slice, and so falls on both sides.
const SLICE: Duration = Duration::from_millis(500);
const PAIRS_IDLE: usize = 24;
const PAIRS_MOVING: usize = 20;
/// Bulk updates take as long as they take.
const PAIRS_BULK: usize = 8;
/// Rows of a bulk update, at full scale.
const BULK: f64 = 100_000.0;
/// How long the move beside the slices is made to last, by its rate: longer than they take.
const MOVE_LASTS: f64 = 300.0;

/// Takes everything of Domicile's out, whatever it is: this database was never under its care.
const STRIP: &str = "
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT evtname FROM pg_event_trigger LOOP
            EXECUTE format('DROP EVENT TRIGGER %I', name);
        END LOOP;
        FOR name IN SELECT pubname FROM pg_publication LOOP
            EXECUTE format('DROP PUBLICATION %I', name);
        END LOOP;
    END $$;
    DROP SCHEMA domicile CASCADE;";

struct Sides {
    guarded: Vec<Writer>,
    plain: Vec<Writer>,
    known: Vec<Known>,
}

pub(crate) async fn measure(stage: &Stage, report: &mut Report, usual: &Tuning) -> Result<()> {
    let (departing, moving) = (COUNTRIES[0], COUNTRIES[1]);
    println!("guard: {CLIENTS} clients; {departing} departs and is erased, later {moving} moves");
    let run = async |args: &[&str]| {
        let config = ["--config", usual.file];
        stage.domicile.run(&[&config, args].concat()).await
    };
    let departed = run(&["apply", "--yes", "--json", "--phase", departing]).await?;
    run(&["erase", "--now", "--json"]).await?;
    stage.source.sql(SHOP, "VACUUM (ANALYZE)").await?;
    stage.source.copy_database(SHOP, PLAIN).await?;
    stage.source.sql(PLAIN, STRIP).await?;
    let sides = Sides::open(stage).await?;

    sides
        .figures(report, "rows.guard_tps_idle", PAIRS_IDLE, &[], || Ok(()))
        .await?;

    let rate = (departed.number("bytes") / MOVE_LASTS).max(1.0).round();
    let slow = Tuning {
        file: "slow.toml",
        lines: format!("limits = {{ rate = \"{rate}B/s\" }}"),
        by_country: true,
    };
    stage.configure(&slow)?;
    let args = [
        "--config", slow.file, "apply", "--yes", "--json", "--phase", moving,
    ];
    let mut running = stage.domicile.start(&args)?;
    let admin = stage.source.connect("postgres", SHOP).await?;
    wait_until("users move", Duration::from_secs(60), async || {
        let any = "SELECT EXISTS (SELECT FROM domicile.resident WHERE state = 'moving')";
        Ok(admin.query_one(any, &[]).await?.get(0))
    })
    .await?;
    let more = [("move_rate", json!(format!("{rate} B/s")))];
    let still = || {
        ensure!(running.runs(), "the move ended before the measuring did");
        Ok(())
    };
    sides
        .figures(report, "rows.guard_tps_moving", PAIRS_MOVING, &more, still)
        .await?;
    running.kill().await?;
    wait_until("the mover has left", Duration::from_secs(30), async || {
        let left = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'domicile')";
        Ok(admin.query_one(left, &[]).await?.get(0))
    })
    .await?;
    drop(admin);
    drop(sides);
    run(&["apply", "--yes", "--json", "--phase", moving]).await?;
    stage.source.drop_database(PLAIN).await
}

// === impl Sides ===

impl Sides {
    async fn open(stage: &Stage) -> Result<Self> {
        let bulk = (BULK * stage.options.scale).clamp(1.0, BULK) as u64;
        let mut sides = Self {
            guarded: Vec::new(),
            plain: Vec::new(),
            known: settled_users(&stage.source).await?,
        };
        for (writers, database) in [(&mut sides.guarded, SHOP), (&mut sides.plain, PLAIN)] {
            for _ in 0..CLIENTS {
                writers.push(Writer::connect(&stage.source, database).await?);
            }
            writers[0].prepare_bulk(bulk).await?;
        }
        Ok(sides)
    }

    /// A figure for each shape, from `pairs` pairs of slices that stand side by side; `still` is asked after each.
    async fn figures(
        &self,
        report: &mut Report,
        bench: &str,
        pairs: usize,
        more: &[(&'static str, serde_json::Value)],
        mut still: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        for shape in Shape::ALL {
            let (mut ours, mut peer) = (Series::default(), Series::default());
            for writers in [&self.plain, &self.guarded] {
                slice(writers, shape, &self.known, SLICE).await?;
            }
            let pairs = match shape {
                Shape::Bulk => PAIRS_BULK,
                Shape::Row | Shape::Order | Shape::Path => pairs,
            };
            for pair in 0..pairs {
                let one = async |guarded: bool| {
                    let writers = if guarded { &self.guarded } else { &self.plain };
                    slice(writers, shape, &self.known, SLICE).await
                };
                // ABBA: whatever drifts, drifts for both.
                let (with, without) = if pair % 2 == 0 {
                    let with = one(true).await?;
                    (with, one(false).await?)
                } else {
                    let without = one(false).await?;
                    (one(true).await?, without)
                };
                ours.add(with.rate, with.cpu_us);
                peer.add(without.rate, without.cpu_us);
                still()?;
            }
            report.add(Figure {
                bench: format!("{bench}.{}", shape.name()),
                unit: "transactions/s",
                ours,
                peer: Some(("no guard", peer)),
                more: more.to_vec(),
            })?;
        }
        Ok(())
    }
}
