//! What a daemon says where something stands still that should not.

#![cfg(feature = "planted-faults")]

mod support;

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Result, ensure};
use serde_json::Value;
use support::linked::Linked;
use support::served::Served;

/// The alerts of the one service.
fn raised(status: &Value) -> Option<Vec<String>> {
    let alerts = status["services"][0]["alerts"].as_array()?;
    let name = |alert: &Value| alert["alert"].as_str().map(str::to_owned);
    alerts.iter().map(name).collect()
}

/// Waits until these are raised and no other, in `/status` and in the metrics.
async fn until(served: &Served, wanted: &[&str]) -> Result<Value> {
    let so = |status: &Value| raised(status).is_some_and(|raised| raised == wanted);
    let status = served.until(&format!("raised: {wanted:?}"), so).await?;
    let (_, metrics) = served.get("/metrics").await?;
    let on = metrics
        .lines()
        .filter(|line| line.starts_with("domicile_alert{"));
    let on: Vec<&str> = on.filter(|line| line.ends_with(" 1.0")).collect();
    ensure!(on.len() == wanted.len(), "{on:?}\n{metrics}");
    for name in wanted {
        let named = on
            .iter()
            .any(|line| line.contains(&format!("alert=\"{name}\"")));
        ensure!(named, "{name}: {on:?}");
    }
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_still_is_raised_with_what_to_do_and_over_when_it_is_mended() -> Result<()> {
    let (linked, _) = Linked::shop("alarmed", 60).await?;
    let world = &linked.world;
    let mut file = OpenOptions::new()
        .append(true)
        .open(world.path("beijing.toml"))?;
    write!(
        file,
        "\n[alerts]\nin_doubt = \"1s\"\nnever_promoted = [\"reports\"]\n"
    )?;
    drop(file);
    let (both, hold) = linked.serve_holding("after-accept").await?;
    until(&both[0], &[]).await?;

    // Whoever may do everything takes the guard off.
    let admin = world.admin(0).await?;
    let off = "ALTER EVENT TRIGGER domicile_keep_guard DISABLE;
        ALTER TABLE invoice DISABLE TRIGGER \"DOMICILE_GUARD_TRUNCATE\"";
    admin.batch_execute(off).await?;
    let status = until(&both[0], &["guard_missing"]).await?;
    let alert = &status["services"][0]["alerts"][0];
    ensure!(
        alert["what"]
            .as_str()
            .is_some_and(|what| what.contains("invoice")),
        "{alert}"
    );
    ensure!(
        alert["mend"]
            .as_str()
            .is_some_and(|mend| mend.contains("install")),
        "{alert}"
    );
    ensure!(alert["since"].is_u64(), "{alert}");
    ensure!(
        both[0].log().contains("\"alert\":\"guard_missing\""),
        "{}",
        both[0].log()
    );
    let on = "ALTER TABLE invoice ENABLE ALWAYS TRIGGER \"DOMICILE_GUARD_TRUNCATE\";
        ALTER EVENT TRIGGER domicile_keep_guard ENABLE";
    admin.batch_execute(on).await?;
    until(&both[0], &[]).await?;

    // A standby that commits do not wait for.
    let standby = world.clusters.0[0].standby("follower").await?;
    until(&both[0], &["standby_not_synchronous"]).await?;
    let checked = linked.at(0, &["check"]).run().await?;
    ensure!(
        checked
            .stdout
            .contains("commits do not wait for the standby"),
        "{checked}"
    );
    drop(standby);
    until(&both[0], &[]).await?;

    // The target has decided, and the source does not hear of it.
    let apply = linked.apply(0).start()?;
    support::wait_for_file(&hold, true).await?;
    linked.relay.let_through(false);
    linked.relay.cut().await;
    std::fs::remove_file(&hold)?;
    until(&both[0], &["in_doubt"]).await?;
    linked.relay.let_through(true);
    until(&both[0], &[]).await?;
    drop(apply);
    Ok(())
}
