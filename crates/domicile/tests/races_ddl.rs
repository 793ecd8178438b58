//! Somebody changes a table while users move: at every step, at either end. The move stops before anybody goes over
//! it, names the table and what happened to it, and leaves everybody at home; what harms nothing does not stop it.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use support::program::Ran;
use support::{Clusters, SITES, World};

const CUSTOMERS: u32 = 8;

/// A column that every write of the tests changes, and the user who makes them.
const WRITE: &str = "UPDATE customer SET city = city || '+' WHERE customer_id = 5";
const WRITTEN: &str =
    "SELECT length(city) - length(rtrim(city, '+')) FROM customer WHERE customer_id = 5";

/// A change of a table, and how it is taken back.
#[derive(Clone, Copy)]
struct Change {
    ddl: &'static str,
    back: &'static str,
    /// The table that must be named, and what is said of it.
    table: &'static str,
    said: &'static str,
}

/// Changes of tables with users' rows.
const OF_OWNED: [Change; 7] = [
    Change {
        ddl: "ALTER TABLE customer ADD COLUMN note text",
        back: "ALTER TABLE customer DROP COLUMN note",
        table: "customer",
        said: "column note is new",
    },
    Change {
        ddl: "ALTER TABLE customer DROP COLUMN spare",
        back: "ALTER TABLE customer ADD COLUMN spare text",
        table: "customer",
        said: "column spare is gone",
    },
    Change {
        ddl: "ALTER TABLE customer RENAME COLUMN company TO firm",
        back: "ALTER TABLE customer RENAME COLUMN firm TO company",
        table: "customer",
        said: "column company is called firm now",
    },
    Change {
        ddl: "ALTER TABLE customer ALTER COLUMN company TYPE text",
        back: "ALTER TABLE customer ALTER COLUMN company TYPE varchar(80)",
        table: "customer",
        said: "column company was character varying(80) and is text now",
    },
    Change {
        ddl: "ALTER TABLE invoice_line ALTER COLUMN quantity DROP NOT NULL",
        back: "ALTER TABLE invoice_line ALTER COLUMN quantity SET NOT NULL",
        table: "invoice_line",
        said: "column quantity has another NOT NULL",
    },
    Change {
        ddl: "CREATE TABLE diary (customer_id int REFERENCES customer, day date)",
        back: "DROP TABLE diary",
        table: "customer",
        said: "foreign key diary_customer_id_fkey came or went",
    },
    Change {
        ddl: "ALTER TABLE invoice_line RENAME TO line",
        back: "ALTER TABLE line RENAME TO invoice_line",
        table: "invoice_line",
        said: "it is called line now",
    },
];

/// Where nobody's rows are concerned yet.
const OTHERS: [Change; 2] = [
    Change {
        ddl: "CREATE TABLE diary (customer_id int, day date)",
        back: "DROP TABLE diary",
        table: "diary",
        said: "it is new, and nobody classified it",
    },
    Change {
        ddl: "ALTER TABLE invoice REPLICA IDENTITY FULL",
        back: "ALTER TABLE invoice REPLICA IDENTITY DEFAULT",
        table: "invoice",
        said: "another key or replica identity names its rows",
    },
];

async fn shop(name: &str) -> Result<World> {
    let world = World::shop(Clusters::shared().await?, name, CUSTOMERS, &[("IN", 1)]).await?;
    let spare = "ALTER TABLE customer ADD COLUMN spare text";
    for site in [0, 1] {
        world.admin(site).await?.batch_execute(spare).await?;
    }
    world.install().await?;
    Ok(world)
}

/// A run in which `change` is made at `site` while the program stands at `point`; a write of a moving user follows.
async fn run_with(world: &World, point: &str, site: usize, change: &Change) -> Result<Ran> {
    world
        .held("domicile.toml", point, &[], async || {
            world.admin(site).await?.batch_execute(change.ddl).await?;
            // Closed users' writes are refused; nobody else's are.
            match world.application(0).await?.batch_execute(WRITE).await {
                Err(error) if error.code().is_some_and(|code| code.code() == "40001") => Ok(()),
                written => Ok(written?),
            }
        })
        .await
}

/// Stopped, with the reason; and everybody lives where he did.
async fn expect_stopped(world: &World, ran: Ran, site: usize, change: &Change) -> Result<()> {
    let ran = ran.expect(1)?;
    let named = format!(
        "{} changed at {} while users moved: ",
        change.table, SITES[site]
    );
    ensure!(
        ran.stderr.contains(&named) && ran.stderr.contains(change.said),
        "{named}{}: {ran}",
        change.said
    );
    let settled = "SELECT count(*) FROM domicile.resident WHERE state <> 'settled'";
    ensure!(
        world.value(0, settled).await? == "0",
        "somebody is not at home: {ran}"
    );
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    ensure!(world.value(0, slots).await? == "0", "a slot is left");
    world.application(0).await?.batch_execute(WRITE).await?;
    Ok(())
}

/// Where changes are made. A held program is between two of its own transactions there. Not once a batch is offered: both
/// ends read it beside that, and a change waits for whoever reads.
const POINTS: [&str; 6] = [
    "before-begin",
    "after-enrol",
    "after-copied",
    "after-drained",
    "before-fence",
    "after-fence",
];

/// A change at `site` while the program stands at `point`; then it is taken back.
async fn case(world: &World, point: &str, site: usize, change: &Change) -> Result<()> {
    let ran = run_with(world, point, site, change).await?;
    expect_stopped(world, ran, site, change).await?;
    world
        .admin(site)
        .await?
        .batch_execute(change.back)
        .await
        .with_context(|| format!("{point}: {}", change.back))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_at_any_step_stops_the_move_and_is_named() -> Result<()> {
    let world = shop("ddl_steps").await?;
    for site in [0, 1] {
        for (n, point) in POINTS.into_iter().enumerate() {
            // Each at another step at the other site.
            let change = &OF_OWNED[(n + 3 * site) % OF_OWNED.len()];
            case(&world, point, site, change).await?;
        }
    }
    arrive_whole(&world).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_table_or_another_key_during_catch_up_stops_the_move() -> Result<()> {
    let world = shop("ddl_others").await?;
    for site in [0, 1] {
        for change in &OTHERS {
            case(&world, "after-drained", site, change).await?;
        }
    }
    arrive_whole(&world).await
}

/// Once all is as it was, everybody goes, with every write.
async fn arrive_whole(world: &World) -> Result<()> {
    let writes = world.value(0, WRITTEN).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], CUSTOMERS);
    assert_eq!(world.value(1, WRITTEN).await?, writes);
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_made_at_both_sites_meanwhile_stops_this_run_and_not_the_next() -> Result<()> {
    let world = shop("ddl_both").await?;
    let ran = world
        .held("domicile.toml", "after-drained", &[], async || {
            for site in [1, 0] {
                world
                    .admin(site)
                    .await?
                    .batch_execute(OF_OWNED[0].ddl)
                    .await?;
            }
            let note = "UPDATE customer SET note = 'kept' WHERE customer_id = 5";
            Ok(world.application(0).await?.batch_execute(note).await?)
        })
        .await?;
    expect_stopped(&world, ran, 0, &OF_OWNED[0]).await?;
    world.install().await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let note = "SELECT note FROM customer WHERE customer_id = 5";
    assert_eq!(world.value(1, note).await?, "kept");
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_made_while_nobody_runs_is_seen_in_the_stream() -> Result<()> {
    let world = shop("ddl_between_runs").await?;
    world.dies_at("domicile.toml", "after-drained").await?;
    // Read from the stream later, under the columns of its own time.
    let application = world.application(0).await?;
    application.batch_execute(WRITE).await?;
    let rename = "ALTER TABLE customer RENAME COLUMN city TO town";
    for site in [1, 0] {
        world.admin(site).await?.batch_execute(rename).await?;
    }
    world.free().await?;
    world.install().await?;
    let ran = world.apply("domicile.toml").run().await?.expect(1)?;
    let said = "customer changed at beijing while users moved: the change stream describes it with other columns";
    ensure!(ran.stderr.contains(said), "{ran}");
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], CUSTOMERS);
    assert_eq!(world.value(1, &WRITTEN.replace("city", "town")).await?, "1");
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_made_meanwhile_harms_nothing() -> Result<()> {
    for (site, point) in [
        (0, "after-drained"),
        (1, "after-drained"),
        (1, "after-fence"),
    ] {
        let world = shop(&format!("ddl_index_{site}_{}", point.replace('-', "_"))).await?;
        let index = Change {
            ddl: "CREATE INDEX ON customer (city); CREATE INDEX ON invoice (billing_city)",
            ..OF_OWNED[0]
        };
        run_with(&world, point, site, &index).await?.expect(0)?;
        world.expect_rest().await?;
    }
    Ok(())
}

/// With the source's read behind it, a batch goes: whatever is added then holds nothing of its users. The next one stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_made_after_the_last_read_does_not_hold_the_batch_back() -> Result<()> {
    let clusters = Clusters::shared().await?;
    let world = World::shop(clusters, "ddl_late", 24, &[("IN", 1)]).await?;
    let ran = run_with(&world, "before-accept", 0, &OF_OWNED[0])
        .await?
        .expect(1)?;
    ensure!(ran.stderr.contains(OF_OWNED[0].said), "{ran}");
    assert_eq!(ran.summary()?["moved"], 16);
    world.expect_rest_but_running().await?;
    world.admin(1).await?.batch_execute(OF_OWNED[0].ddl).await?;
    world.install().await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(
        world.value(1, WRITTEN).await?,
        world.value(0, WRITTEN).await?
    );
    world.expect_rest().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_does_not_look_loses_a_column_and_is_caught() -> Result<()> {
    let note = "SELECT string_agg(note, ',') FROM customer WHERE customer_id = 5";
    for bug in [None, Some("schema-unwatched")] {
        let kind = if bug.is_some() { "planted" } else { "sound" };
        let world = shop(&format!("ddl_{kind}")).await?;
        let bug = bug.map(|bug| ("DOMICILE_BUG", bug));
        let ran = world
            .held(
                "domicile.toml",
                "after-drained",
                bug.as_slice(),
                async || {
                    world.admin(0).await?.batch_execute(OF_OWNED[0].ddl).await?;
                    let write = "UPDATE customer SET note = 'acknowledged' WHERE customer_id = 5";
                    Ok(world.application(0).await?.batch_execute(write).await?)
                },
            )
            .await?;
        let home = usize::from(bug.is_some());
        if bug.is_some() {
            // Everybody has gone, verified, and an acknowledged value with nobody.
            ran.expect(0)?;
            world.admin(1).await?.batch_execute(OF_OWNED[0].ddl).await?;
            assert_eq!(world.value(home, note).await?, "");
        } else {
            ran.expect(1)?;
            assert_eq!(world.value(home, note).await?, "acknowledged");
        }
    }
    Ok(())
}
