//! Moves between two daemons: each site opens its own database alone, and everything else goes over the link.

#![cfg(feature = "planted-faults")]

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::linked::{Linked, met};
use support::{PATIENCE, more_acknowledged};
use testbed::wait_until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_move_a_shop_under_writers() -> Result<()> {
    let (linked, movers) = Linked::shop("by_daemons", 400).await?;
    let both = linked.serve_both().await?;
    let workload = linked.writers().await?;
    let ran = linked.apply(0).run().await?;
    let ran = ran
        .expect(0)
        .map_err(|error| error.context(format!("{}\n{}", both[0].log(), both[1].log())))?;
    let summary = ran.summary()?;
    assert_eq!(summary["moved"], movers.len(), "{summary}");
    assert_eq!(summary["mismatches"], 0, "{summary}");
    linked.at_rest(workload, &movers).await?;
    let again = linked.apply(0).run().await?.expect(0)?;
    ensure!(!again.stdout.contains("\"event\":\"started\""), "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_again_and_again_delays_a_move_and_loses_nothing() -> Result<()> {
    let (linked, movers) = Linked::shop("cut_link", 300).await?;
    let both = linked.serve_both().await?;
    let workload = linked.writers().await?;
    let mut apply = linked.apply(0).start()?;
    let moved = "SELECT count(*) FROM domicile.resident WHERE state = 'departed'";
    let (mut cuts, mut before) = (0, 0);
    wait_until("the move is over", PATIENCE, async || {
        let more: usize = linked.world.value(0, moved).await?.parse()?;
        // Seldom, whenever it has come further: so it is cut at ever other steps.
        if more >= before + 48 || cuts == 0 {
            linked.relay.cut().await;
            (cuts, before) = (cuts + 1, more);
        }
        Ok(more == movers.len())
    })
    .await
    .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    ensure!(cuts > 2, "it was cut {cuts} times");
    linked.at_rest(workload, &movers).await?;
    // It may have been told of a delay; what it says of users moved in its time is no more than the truth.
    wait_until("apply ends", PATIENCE, async || {
        Ok(apply.ended()?.is_some())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_link_is_down_offered_users_wait_and_no_second_home_appears() -> Result<()> {
    let (linked, movers) = Linked::shop("down_link", 120).await?;
    let (both, hold) = linked.serve_holding("after-accept").await?;
    let workload = linked.writers().await?;
    let apply = linked.apply(0).start()?;
    support::wait_for_file(&hold, true).await?;
    // The target has decided; the source does not hear of it.
    linked.relay.let_through(false);
    linked.relay.cut().await;
    std::fs::remove_file(&hold)?;
    let offered = "SELECT count(*) FROM domicile.resident WHERE state = 'offered'";
    ensure!(
        linked.world.value(0, offered).await? != "0",
        "nobody is in doubt"
    );
    both[0]
        .until("beijing knows that the link is down", |status| {
            status["peers"][0]["connected"] == false
        })
        .await?;
    ensure!(
        linked.world.value(0, offered).await? != "0",
        "somebody reopened the batch alone"
    );
    // The operator of the source is told of it, who knows his own database alone.
    let status = linked.at(0, &["status", "--json"]).run().await?.expect(1)?;
    let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
    ensure!(status["in_doubt"][0]["to"] == "singapore", "{status}");
    linked.relay.let_through(true);
    linked.at_rest(workload, &movers).await?;
    apply.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_told_to_end_comes_to_a_safe_point_and_the_next_goes_on() -> Result<()> {
    let (linked, movers) = Linked::shop("told_to_end", 600).await?;
    let [beijing, singapore] = linked.serve_both().await?;
    let workload = linked.writers().await?;
    let apply = linked.apply(0).start()?;
    let begun = "SELECT count(*) > 0 FROM domicile.resident WHERE state = 'departed'";
    linked.world.wait_for(0, begun, "true").await?;
    let (ran, log, took) = beijing.terminate().await?;
    ensure!(ran.code == Some(0), "{ran}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}: {log}");
    let closed = "SELECT count(*) FROM domicile.resident WHERE state IN ('fenced', 'offered')";
    assert_eq!(linked.world.value(0, closed).await?, "0", "{log}");
    let moved: usize = linked
        .world
        .value(
            0,
            "SELECT count(*) FROM domicile.resident WHERE state = 'departed'",
        )
        .await?
        .parse()?;
    ensure!(
        moved < movers.len(),
        "it was over before it was told to end"
    );
    let told = apply.end().await?.expect(3)?;
    ensure!(told.stderr.contains("goes on"), "{told}");
    more_acknowledged(&workload, 60).await?;
    let both = [linked.serve(0).await?, singapore];
    met(&both).await?;
    linked.at_rest(workload, &movers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_whose_policies_differ_move_nobody_over_the_link() -> Result<()> {
    let (linked, _) = Linked::shop("policies_differ", 40).await?;
    let world = &linked.world;
    world.admin(1).await?.batch_execute(
        "INSERT INTO domicile.policy (version, body) SELECT 'sha256/other', body FROM domicile.policy ORDER BY n DESC LIMIT 1",
    ).await?;
    let _both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?.expect(2)?;
    ensure!(ran.stderr.contains("is of version"), "{ran}");
    let refused = "SELECT count(*) > 0 FROM domicile.entry WHERE kind = 'policy_refused'";
    assert_eq!(world.value(1, refused).await?, "true");
    let anybody = "SELECT count(*) FROM domicile.resident WHERE state <> 'settled'";
    for site in [0, 1] {
        assert_eq!(world.value(site, anybody).await?, "0");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_fit_stays_with_the_targets_reason_and_the_others_move() -> Result<()> {
    let (linked, movers) = Linked::shop("misfits_linked", 60).await?;
    let world = &linked.world;
    let taken = "INSERT INTO customer (customer_id, first_name, last_name, email, country)
                 VALUES (900001, 'Some', 'Body', $1, 'SG')";
    let address = format!("user{}@example.com", movers[3]);
    world
        .application(1)
        .await?
        .execute(taken, &[&address])
        .await?;
    let both = linked.serve_both().await?;
    let ran = linked.apply(0).run().await?;
    let ran = ran
        .expect(1)
        .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
    let aside = ran.set_aside()?;
    ensure!(
        aside.len() == 1
            && aside[0].0 == movers[3].to_string()
            && aside[0].1.contains("customer_email_key"),
        "{ran}"
    );
    assert_eq!(ran.summary()?["moved"], movers.len() - 1);
    world.expect_rest_but_running().await
}
