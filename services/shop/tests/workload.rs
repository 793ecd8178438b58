//! Writers against real databases: what they acknowledge is there, also through moves and crashes.

mod support;

use std::time::Duration;

use anyhow::Result;
use shop::check::{Residence, check};
use shop::workload::{Isolation, UserSpec, Workload, WorkloadOptions};
use support::Shop;
use testbed::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

fn options(shop: &Shop, users: std::ops::RangeInclusive<i32>) -> WorkloadOptions {
    WorkloadOptions {
        sites: shop.sites.clone(),
        users: users
            .map(|key| UserSpec {
                key,
                first_home: "beijing".to_owned(),
            })
            .collect(),
        writers: 8,
        isolations: Isolation::ALL.to_vec(),
        ..WorkloadOptions::default()
    }
}

async fn more_acknowledged(workload: &Workload, count: usize) -> Result<()> {
    let goal = workload.acknowledged() + count;
    wait_until("the writers went on", PATIENCE, async || {
        Ok(workload.acknowledged() >= goal)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_move_under_overlapping_writers_and_nothing_is_lost() -> Result<()> {
    let shop = Shop::open("moves").await?;
    let workload = Workload::start(options(&shop, 1..=6)).await?;
    more_acknowledged(&workload, 200).await?;
    for user in 1..=4 {
        shop.move_user(user, "beijing", "singapore", Duration::from_millis(20))
            .await?;
        more_acknowledged(&workload, 30).await?;
    }
    wait_until("a pause was measured", PATIENCE, async || {
        Ok(!workload.pauses().is_empty())
    })
    .await?;
    let pauses = workload.pause_records();
    assert!(
        pauses
            .iter()
            .all(|pause| pause.from == "beijing" && pause.to == "singapore")
    );
    assert!(
        pauses
            .iter()
            .any(|pause| pause.length >= Duration::from_millis(10))
    );

    let log = workload.stop().await?;
    assert!(log.entries.iter().any(|entry| entry.site == "singapore"));
    let verdict = check(&shop.sites, &log, |user| match user {
        1..=4 => Residence::at("beijing").then("singapore"),
        _ => Residence::at("beijing"),
    })
    .await?;
    assert!(
        verdict.is_clean() && log.anomalies.is_empty(),
        "{verdict:#?}"
    );
    assert!(verdict.acknowledged >= 320);

    // The same rows, were nobody said to have moved.
    let wrong = check(&shop.sites, &log, |_| Residence::at("beijing")).await?;
    assert!(wrong.lost > 0 && wrong.misplaced > 0 && wrong.duplicated > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_crash_and_unknown_ones_are_whole_or_absent() -> Result<()> {
    let shop = Shop::open("crash").await?;
    let workload = Workload::start(options(&shop, 1..=20)).await?;
    for _ in 0..3 {
        more_acknowledged(&workload, 150).await?;
        shop.cluster.stop_immediate().await?;
        shop.cluster.start_again().await?;
    }
    more_acknowledged(&workload, 150).await?;
    let log = workload.stop().await?;
    let verdict = check(&shop.sites, &log, |_| Residence::at("beijing")).await?;
    assert!(
        verdict.is_clean() && log.anomalies.is_empty(),
        "{verdict:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_create_users_and_write_the_log_to_a_file() -> Result<()> {
    let shop = Shop::open("newcomers").await?;
    // The smallest guard knows nobody new; Domicile's does.
    let client = shop.mover("beijing").await?;
    client
        .batch_execute(
            r#"DROP TRIGGER "A_GUARD" ON customer; DROP TRIGGER "A_GUARD" ON invoice;
                          DROP TRIGGER "A_GUARD" ON invoice_line"#,
        )
        .await?;
    let path = std::env::temp_dir().join(format!("shop-log-{}", shop.cluster.port()));
    let mut options = options(&shop, 1..=5);
    options.newcomers = vec![("IN".to_owned(), "beijing".to_owned())];
    options.newcomers_percent = 20;
    options.log_file = Some(path.clone());
    let workload = Workload::start(options).await?;
    more_acknowledged(&workload, 200).await?;
    let log = workload.stop().await?;
    let lines = std::fs::read_to_string(&path)?;
    std::fs::remove_file(&path)?;
    assert_eq!(lines.lines().count(), log.entries.len());
    assert!(log.users().len() > 5);
    let verdict = check(&shop.sites, &log, |_| Residence::at("beijing")).await?;
    assert!(
        verdict.is_clean() && log.anomalies.is_empty(),
        "{verdict:#?}"
    );
    Ok(())
}
