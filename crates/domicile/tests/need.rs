//! The guard by need, through the program: it stands from before the first record leaves rest until everything is erased,
//! rests otherwise, and nothing is lost on the way in or out.

mod support;

use std::time::Duration;

use anyhow::{Result, ensure};
use shop::workload::{Isolation, WorkloadOptions};
use support::{Clusters, World, more_acknowledged};

const STANDS: &str = "customer:A invoice:A invoice_line:A";
/// The user table's never does.
const RESTS: &str = "customer:A invoice:D invoice_line:D";

fn busy() -> WorkloadOptions {
    WorkloadOptions {
        writers: 8,
        isolations: Isolation::ALL.to_vec(),
        think: Duration::from_millis(10),
        ..WorkloadOptions::default()
    }
}

/// A shop at clusters of its own: roles of other tests may set what only the mover may.
async fn shop(name: &str) -> Result<World> {
    let markets = [("IN", 1), ("FR", 1), ("CN", 2)];
    let world = World::shop(Clusters::own(name).await?, name, 240, &markets).await?;
    world.configure(
        "more.toml",
        "more",
        &[("IN", "singapore"), ("FR", "singapore")],
    )?;
    world.configure("back.toml", "back", &[("IN", "beijing")])?;
    world.install().await?;
    Ok(world)
}

/// How the guard is, at both sites.
async fn guard(world: &World) -> Result<[String; 2]> {
    let states = "SELECT string_agg(tgrelid::regclass || ':' || tgenabled::text, ' ' ORDER BY tgrelid::regclass::text)
                  FROM pg_trigger WHERE tgname = 'DOMICILE_GUARD'";
    Ok([world.value(0, states).await?, world.value(1, states).await?])
}

async fn unsettled(world: &World, site: usize) -> Result<String> {
    let sql = "SELECT count(*) FROM domicile.resident
               WHERE state <> 'settled' AND NOT (state = 'departed' AND erased_at IS NOT NULL)";
    world.value(site, sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stands_from_before_the_first_enrolment_until_all_is_erased() -> Result<()> {
    let world = shop("need").await?;
    assert_eq!(guard(&world).await?, [STANDS; 2], "after install");
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(
        guard(&world).await?,
        [STANDS, RESTS],
        "departed, not erased"
    );
    let erase = ["--config", "more.toml", "erase", "--now"];
    world.program(&erase).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS; 2], "erased");
    let check = ["--config", "more.toml", "check"];
    world.program(&check).run().await?.expect(0)?;

    // The next move, while writers write: nobody is on his way before it stands at both ends.
    let movers = world.users_of(0, "FR").await?;
    let workload = world.writers("beijing", &movers, busy()).await?;
    more_acknowledged(&workload, 200).await?;
    let ran = world
        .held("more.toml", "after-raise", &[], async || {
            assert_eq!(guard(&world).await?, [STANDS; 2], "before the enrolment");
            assert_eq!(unsettled(&world, 0).await?, "0");
            assert_eq!(unsettled(&world, 1).await?, "0");
            more_acknowledged(&workload, 50).await
        })
        .await?
        .expect(0)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    more_acknowledged(&workload, 200).await?;
    assert_eq!(guard(&world).await?, [STANDS, RESTS]);
    let log = workload.stop().await?;
    world.expect_clean(&log, "beijing", |_| true).await?;

    // Taken off again while writers write at the new home; and whoever is not at the old one is refused by his keys.
    let workload = world.writers("singapore", &movers, busy()).await?;
    more_acknowledged(&workload, 50).await?;
    world.program(&erase).run().await?.expect(0)?;
    more_acknowledged(&workload, 50).await?;
    let log = workload.stop().await?;
    world.expect_clean(&log, "singapore", |_| false).await?;
    assert_eq!(guard(&world).await?, [RESTS; 2], "erased again");
    let app = world.application(0).await?;
    let gone = format!(
        "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) VALUES (9000000, {}, now(), 1)",
        movers[0]
    );
    let refused = app.batch_execute(&gone).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("23503"));
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_kept_locked_stops_a_move_before_it_has_begun() -> Result<()> {
    let world = shop("locked").await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let erase = ["--config", "more.toml", "erase", "--now"];
    world.program(&erase).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS; 2]);
    let facts =
        "SELECT (SELECT string_agg((to_jsonb(r) - 'told')::text, ' ' ORDER BY user_key) FROM domicile.resident AS r)
                     || (SELECT string_agg(m::text, ' ' ORDER BY move_id) FROM domicile.move AS m)
                     || (SELECT count(*) FROM pg_replication_slots)";
    let before = world.value(0, facts).await?;
    let long = world.application(1).await?;
    long.batch_execute("BEGIN; UPDATE invoice_line SET quantity = quantity")
        .await?;
    let ran = world.apply("more.toml").run().await?.expect(4)?;
    ensure!(
        ran.stderr.contains("invoice_line")
            && ran.stderr.contains("of shop, open for")
            && ran.stderr.contains("at singapore"),
        "{ran}"
    );
    assert_eq!(world.value(0, facts).await?, before);
    assert_eq!(guard(&world).await?[0], RESTS, "as if nothing had happened");
    long.batch_execute("COMMIT").await?;
    world.apply("more.toml").run().await?.expect(0)?;
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_killed_while_it_takes_the_guard_off_or_puts_it_on_leaves_nobody_unguarded()
-> Result<()> {
    let world = shop("killed").await?;
    let movers = world.users_of(0, "IN").await?;
    let workload = world.writers("beijing", &movers, busy()).await?;
    more_acknowledged(&workload, 50).await?;
    // Between the disabling and its commit.
    world.dies_at("domicile.toml", "before-rest").await?;
    world.free().await?;
    assert_eq!(guard(&world).await?, [STANDS; 2], "rolled back");
    more_acknowledged(&workload, 50).await?;
    let erase = ["--config", "more.toml", "erase", "--now"];
    world.program(&erase).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS; 2]);
    let log = workload.stop().await?;
    world.expect_clean(&log, "beijing", |_| true).await?;
    // Between putting it on and the enrolment, and right after the enrolment.
    let movers = world.users_of(0, "FR").await?;
    let workload = world.writers("beijing", &movers, busy()).await?;
    for point in ["after-raise", "after-begin", "after-enrol"] {
        world.dies_at("more.toml", point).await?;
        world.free().await?;
        assert_eq!(guard(&world).await?, [STANDS; 2], "{point}");
        // Whoever has nobody on his way takes it off, and nobody else.
        world.program(&erase).run().await?.expect(0)?;
        let off = match point {
            "after-raise" => [RESTS, RESTS],
            "after-begin" => [RESTS, STANDS],
            _ => [STANDS, STANDS],
        };
        assert_eq!(guard(&world).await?, off, "{point}");
        more_acknowledged(&workload, 20).await?;
    }
    world.apply("more.toml").run().await?.expect(0)?;
    more_acknowledged(&workload, 50).await?;
    let log = workload.stop().await?;
    world.expect_clean(&log, "beijing", |_| true).await?;
    assert_eq!(guard(&world).await?, [STANDS, RESTS]);
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_back_puts_it_on_and_an_aborted_move_lets_it_rest() -> Result<()> {
    let world = shop("rolled").await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    let erase = ["--config", "more.toml", "erase", "--now"];
    world.program(&erase).run().await?.expect(0)?;
    let id = ran.summary()?["move"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let back = ["rollback", id.as_str(), "--json"];
    world.program(&back).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS, STANDS], "all are back");
    world.program(&erase).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS; 2]);
    world.dies_at("domicile.toml", "after-enrol").await?;
    world.free().await?;
    assert_eq!(guard(&world).await?, [STANDS; 2]);
    let id = world
        .value(
            0,
            "SELECT move_id FROM domicile.move WHERE state = 'running'",
        )
        .await?;
    world.program(&["abort", &id]).run().await?.expect(0)?;
    assert_eq!(guard(&world).await?, [RESTS; 2], "nobody has gone");
    world.expect_rest().await?;
    Ok(())
}
