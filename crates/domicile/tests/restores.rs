//! A database that went back in time does not become a second home: restored from a backup, or a standby that had
//! missed a write, at either site.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::linked::Linked;
use support::program::Ran;
use support::served::{Served, leads};
use support::{Clusters, PATIENCE, SITES, World, code, write};
use testbed::{Backup, wait_until};

/// How a site's database goes back.
enum Back {
    Backup(Backup),
    Standby(testbed::Cluster),
}

impl Back {
    /// From now on `site` can go back to now.
    async fn keep(world: &World, site: usize, promoted: bool) -> Result<Back> {
        let cluster = &world.clusters.0[site];
        Ok(match promoted {
            false => Back::Backup(cluster.backup().await?),
            true => {
                let standby = cluster.standby("behind").await?;
                // It hears nothing from now on.
                standby.stop_immediate().await?;
                Back::Standby(standby)
            }
        })
    }

    async fn go(self, world: &World, site: usize) -> Result<()> {
        let cluster = &world.clusters.0[site];
        match self {
            Back::Backup(backup) => cluster.restore(&backup).await,
            Back::Standby(standby) => cluster.fail_over(standby).await,
        }
    }
}

/// A shop whose sites are closed after a restart; ten users will go to singapore, ten stay.
async fn shop(name: &str) -> Result<World> {
    let clusters = Clusters::own(name).await?;
    let world = World::shop(clusters, name, 20, &[("CN", 10), ("IN", 10)]).await?;
    world.close_after_restarts().await?;
    Ok(world)
}

fn last(ran: &Ran) -> Result<Value> {
    let line = ran.stdout.lines().last().context("it says something")?;
    Ok(serde_json::from_str(line)?)
}

/// The users who are lost at `site`, as `guard status` says.
async fn lost(world: &World, site: usize) -> Result<(bool, usize)> {
    let ran = world
        .program(&["guard", "status", "--site", SITES[site], "--json"])
        .run()
        .await?
        .expect(0)?;
    let guard = last(&ran)?["guards"][0].clone();
    let lost = guard["lost"].as_array().context("a list")?.len();
    Ok((guard["open"].as_bool().context("a word")?, lost))
}

async fn the_source_goes_back(name: &str, promoted: bool) -> Result<()> {
    let world = shop(name).await?;
    let gone = world.users_of(0, "IN").await?;
    let stays = world.users_of(0, "CN").await?[0];
    let back = Back::keep(&world, 0, promoted).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    for user in &gone {
        assert_eq!(write(&world, 1, *user).await?, "ok");
    }

    back.go(&world, 0).await?;
    // It believes that everybody lives there, and lets nobody write until it has heard better.
    for user in gone.iter().chain([&stays]) {
        assert_eq!(write(&world, 0, *user).await?, "DM503", "user {user}");
    }
    assert_eq!(lost(&world, 0).await?, (false, 0));
    assert_eq!(write(&world, 1, gone[0]).await?, "ok");

    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    ensure!(ran.stderr.contains("went back in time"), "{ran}");
    assert_eq!(last(&ran)?["moves"], serde_json::json!([]));
    assert_eq!(lost(&world, 0).await?, (true, 0));
    for user in &gone {
        assert_eq!(write(&world, 0, *user).await?, "DM421");
        assert_eq!(write(&world, 1, *user).await?, "ok");
    }
    assert_eq!(write(&world, 0, stays).await?, "ok");
    world.expect_one_home_each().await?;
    Ok(())
}

async fn the_target_goes_back(name: &str, promoted: bool) -> Result<()> {
    let world = shop(name).await?;
    let gone = world.users_of(0, "IN").await?;
    let back = Back::keep(&world, 1, promoted).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(write(&world, 1, gone[0]).await?, "ok");

    back.go(&world, 1).await?;
    // Nobody can be written anywhere, rather than at two places.
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(lost(&world, 1).await?, (true, 10));
    for user in &gone {
        assert_eq!(write(&world, 0, *user).await?, "DM421");
    }
    let new = world.application(1).await?;
    let squatter = "INSERT INTO customer SELECT * FROM json_populate_record(NULL::customer, \
        json_build_object('customer_id', $1::int, 'first_name', 'a', 'last_name', 'b', 'country', 'IN', 'email', 'c')) AS c";
    let said = new.execute(squatter, &[&gone[0]]).await;
    assert_eq!(said.map_err(|error| code(&error)), Err("DM423".to_owned()));

    // Their rows stand at beijing still: they are given back, and taken there.
    let resolve = async |args: &[&str]| -> Result<Ran> {
        let mut all = vec![
            "resolve", "--lost", "all", "--reason", "restored", "--yes", "--json",
        ];
        all.extend(args);
        world.program(&all).run().await?.expect(0)
    };
    let ceded = resolve(&["--site", "singapore", "--to", "beijing"]).await?;
    assert_eq!(last(&ceded)?["users"].as_array().map(Vec::len), Some(10));
    assert_eq!(lost(&world, 1).await?, (true, 0));
    assert_eq!(lost(&world, 0).await?, (true, 10));
    assert_eq!(write(&world, 0, gone[0]).await?, "DM423");
    let taken = resolve(&["--site", "beijing", "--here"]).await?;
    let rows = &last(&taken)?["users"][0][1];
    ensure!(rows.as_u64() > Some(1), "with his rows: {rows}");
    for user in &gone {
        assert_eq!(write(&world, 0, *user).await?, "ok");
        // There, nothing of theirs is left to be written.
        assert_eq!(write(&world, 1, *user).await?, "0 rows");
    }
    // And they move again, as anybody.
    let again = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(last(&again)?["moved"], 10);
    assert_eq!(write(&world, 1, gone[0]).await?, "ok");
    world.expect_one_home_each().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_source_is_closed_until_it_has_heard_who_left() -> Result<()> {
    the_source_goes_back("source_restored", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_source_is_closed_until_it_has_heard_who_left() -> Result<()> {
    the_source_goes_back("source_promoted", true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_restored_target_forgot_is_lost_and_can_be_given_back() -> Result<()> {
    the_target_goes_back("target_restored", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_promoted_target_forgot_is_lost_and_can_be_given_back() -> Result<()> {
    the_target_goes_back("target_promoted", true).await
}

/// A batch that was offered and answered, and neither side knows it any more, or one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_went_back_to_before_its_offer_does_not_reopen_alone() -> Result<()> {
    let world = shop("unoffered").await?;
    let gone = world.users_of(0, "IN").await?;
    // Fenced, and not offered yet: then the source may reopen by itself.
    world.dies_at("domicile.toml", "before-offer").await?;
    world.free().await?;
    let back = Back::keep(&world, 0, false).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(write(&world, 1, gone[0]).await?, "ok");
    back.go(&world, 0).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    for user in &gone {
        assert_eq!(write(&world, 0, *user).await?, "DM421");
        assert_eq!(write(&world, 1, *user).await?, "ok");
    }
    world.expect_one_home_each().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_reaches_no_peer_stays_closed_until_somebody_opens_it() -> Result<()> {
    let world = shop("alone").await?;
    let one = world.users_of(0, "CN").await?[0];
    let open = |word: &str| {
        let args = [
            "guard", word, "--site", "beijing", "--reason", "a drill", "--json",
        ];
        world.program(&args)
    };
    // By hand, while nothing happened.
    open("close").run().await?.expect(0)?;
    assert_eq!(write(&world, 0, one).await?, "DM503");
    let ran = world.apply("domicile.toml").run().await?.expect(3)?;
    ensure!(ran.stderr.contains("closed by hand"), "{ran}");
    assert_eq!(write(&world, 0, one).await?, "DM503");
    open("open").run().await?.expect(0)?;
    assert_eq!(write(&world, 0, one).await?, "ok");

    world.clusters.0[0].kill9().await?;
    world.clusters.0[1].stop_immediate().await?;
    world.clusters.0[0].start_again().await?;
    assert_eq!(write(&world, 0, one).await?, "DM503");
    open("open").run().await?.expect(0)?;
    assert_eq!(write(&world, 0, one).await?, "ok");
    world.clusters.0[1].start_again().await?;
    // The other one was restarted too, and is compared before anything comes there.
    assert_eq!(lost(&world, 1).await?, (false, 0));
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(lost(&world, 1).await?, (true, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bug_of_opening_without_having_heard_makes_a_second_home() -> Result<()> {
    let world = shop("unheard").await?;
    let gone = world.users_of(0, "IN").await?[0];
    let back = Back::keep(&world, 0, false).await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    back.go(&world, 0).await?;
    let reckless = world
        .apply("domicile.toml")
        .env("DOMICILE_BUG", "open-uncompared");
    // Whatever it says: the same user can be written at both sites, and this is how these tests see it.
    reckless.run().await?;
    assert_eq!(write(&world, 0, gone).await?, "ok");
    assert_eq!(write(&world, 1, gone).await?, "ok");
    Ok(())
}

/// Waits until an update of `user` says `wanted` at `site`.
async fn until_written(world: &World, site: usize, user: i32, wanted: &str) -> Result<()> {
    let what = format!("a write at {} says {wanted}", SITES[site]);
    wait_until(&what, PATIENCE, async || {
        Ok(write(world, site, user).await? == wanted)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_opens_its_restored_site_once_it_has_heard_the_peers_over_the_link() -> Result<()>
{
    let linked = Linked::new(shop("by_link").await?).await?;
    let world = &linked.world;
    let gone = world.users_of(0, "IN").await?;
    let stays = world.users_of(0, "CN").await?[0];
    let backups = [
        Back::keep(world, 0, false).await?,
        Back::keep(world, 1, false).await?,
    ];
    let both = linked.serve_both().await?;
    linked.apply(0).run().await?.expect(0)?;
    assert_eq!(write(world, 1, gone[0]).await?, "ok");

    // The peer is out of reach: the site stays closed, whoever leads.
    linked.relay.let_through(false);
    linked.relay.cut().await;
    let [source, target] = backups;
    source.go(world, 0).await?;
    leading(&both[0]).await?;
    wait_until("it says whom it waits for", PATIENCE, async || {
        Ok(both[0].log().contains("not compared with this peer yet"))
    })
    .await?;
    assert_eq!(write(world, 0, stays).await?, "DM503");
    assert_eq!(write(world, 0, gone[0]).await?, "DM503");

    linked.relay.let_through(true);
    until_written(world, 0, stays, "ok").await?;
    for user in &gone {
        assert_eq!(write(world, 0, *user).await?, "DM421");
    }

    // Then the other one goes back, and finds its users lost.
    target.go(world, 1).await?;
    leading(&both[1]).await?;
    wait_until("it is open", PATIENCE, async || Ok(lost(world, 1).await?.0)).await?;
    // The source went back as well, and heard from the target who had left: that is what it tells now.
    assert_eq!(lost(world, 1).await?, (true, 10));
    let args = [
        "--config",
        "singapore.toml",
        "resolve",
        "--lost",
        "all",
        "--site",
        "singapore",
        "--to",
        "beijing",
        "--reason",
        "restored",
        "--yes",
    ];
    resolved(world, &args).await?;
    until_written(world, 0, gone[0], "DM423").await?;
    let args = [
        "--config",
        "beijing.toml",
        "resolve",
        "--lost",
        "all",
        "--site",
        "beijing",
        "--here",
        "--reason",
        "restored",
        "--yes",
    ];
    resolved(world, &args).await?;
    for user in &gone {
        assert_eq!(write(world, 0, *user).await?, "ok");
    }
    world.expect_one_home_each().await
}

/// Waits until the daemon has heard its peers once more, and the lost are resolved.
async fn resolved(world: &World, args: &[&str]) -> Result<()> {
    let mut last = None;
    let done = wait_until("they are resolved", PATIENCE, async || {
        let ran = world.program(args).run().await?;
        let done = ran.code == Some(0);
        last = Some(ran);
        Ok(done)
    })
    .await;
    done.with_context(|| format!("{last:?}"))
}

async fn leading(served: &Served) -> Result<()> {
    served.until("it leads", leads).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_that_waits_for_a_standby_is_waited_for_before_a_restored_source_is_opened()
-> Result<()> {
    let world = shop("hanging").await?;
    let gone = world.users_of(0, "IN").await?[0];
    let back = Back::keep(&world, 0, false).await?;
    let hold = world.path("hold");
    let apply = world
        .apply("domicile.toml")
        .env("DOMICILE_HOLD", format!("before-accept={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    let standby = async |name: &str| -> Result<()> {
        let admin = world.admin(1).await?;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
        admin.batch_execute(&set).await?;
        Ok(admin.batch_execute("SELECT pg_reload_conf()").await?)
    };
    standby("nobody").await?;
    std::fs::remove_file(&hold)?;
    // The acceptance is written at the target, and nobody can see it: not even a peer who asks.
    let hangs = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'domicile %'";
    world.wait_for(1, hangs, "true").await?;
    drop(apply);
    back.go(&world, 0).await?;
    let ran = world.apply("domicile.toml").run().await?;
    ensure!(ran.code == Some(2) || ran.code == Some(3), "{ran}");
    assert_eq!(write(&world, 0, gone).await?, "DM503");

    standby("").await?;
    world.wait_for(1, hangs, "false").await?;
    world.free().await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(write(&world, 0, gone).await?, "DM421");
    assert_eq!(write(&world, 1, gone).await?, "ok");
    world.expect_one_home_each().await
}
