//! Installing, again and under load; taking out; by an owner who is no superuser.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result};
use handoff::record::State;
use model::Epoch;
use residency::{Error, install, watch};
use support::{Shape, Site, cluster, number, outcome, service, states, there};

#[tokio::test]
async fn installing_twice_changes_nothing() -> Result<()> {
    let mut site = Site::new().await?;
    let admin = site.session("postgres").await?;
    site.become_one(1, states().swap_remove(1)).await?;
    admin
        .batch_execute("INSERT INTO customer VALUES (500, 'CN', 'later')")
        .await?;
    let facts = "SELECT string_agg(f, ';' ORDER BY f) FROM (
        SELECT tgrelid::regclass || '.' || tgname || tgenabled::text || oid AS f FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT evtname || evtenabled::text FROM pg_event_trigger
        UNION ALL SELECT user_key || state || epoch FROM domicile.resident
        UNION ALL SELECT site || mark || secret::text FROM domicile.home
        UNION ALL SELECT p.prrelid::regclass::text FROM pg_publication_rel AS p) AS facts";
    let before: String = admin.query_one(facts, &[]).await?.get(0);
    site.install().await?;
    let after: String = admin.query_one(facts, &[]).await?.get(0);
    assert_eq!(before, after);
    assert!(watch::unguarded(&admin, &site.home).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn installing_again_waits_for_nobody_who_writes() -> Result<()> {
    let mut site = Site::new().await?;
    let writer = site.app().await?;
    // One who created a user holds a lock on the table of residents until he ends.
    writer
        .batch_execute(
            "BEGIN; INSERT INTO customer VALUES (600, 'CN', 'x'); UPDATE orders SET total = 1",
        )
        .await?;
    tokio::time::timeout(Duration::from_secs(20), site.install())
        .await
        .context("it waited")??;
    writer.batch_execute("COMMIT").await?;
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_written_is_had_in_time_and_writers_pass_meanwhile() -> Result<()> {
    let mut site = Site::bare(cluster(&[]).await?, Shape::default()).await?;
    let (writer, other, watch) = (
        site.app().await?,
        site.app().await?,
        site.session("postgres").await?,
    );
    writer
        .batch_execute("BEGIN; UPDATE orders SET total = 1 WHERE id = 10")
        .await?;
    let installing = async { site.install().await };
    let ending = async {
        let waits = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database \
                     WHERE NOT l.granted AND d.datname = current_database() \
                       AND l.relation = 'orders'::regclass";
        support::until(&watch, "install waits for the writer", waits).await?;
        // This one queues behind it, and is let pass long before the first writer ends.
        assert_eq!(
            outcome(&other, "UPDATE orders SET total = 2 WHERE id = 20").await,
            "ok"
        );
        writer.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    };
    let (installed, ended) = tokio::join!(installing, ending);
    ended?;
    assert!(installed?.iter().any(|line| line.contains("orders")));
    assert!(watch::unguarded(&watch, &site.home).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn users_who_came_while_it_was_installed_are_adopted() -> Result<()> {
    let mut site = Site::bare(cluster(&[]).await?, Shape::default()).await?;
    let app = site.app().await?;
    app.batch_execute("BEGIN; INSERT INTO customer VALUES (300, 'CN', 'late')")
        .await?;
    let watch = site.session("postgres").await?;
    let installing = async { site.install().await };
    let ending = async {
        let waits = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database \
                     WHERE NOT l.granted AND d.datname = current_database() \
                       AND l.relation = 'customer'::regclass";
        support::until(&watch, "install waits for the creation", waits).await?;
        app.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    };
    let (installed, ended) = tokio::join!(installing, ending);
    ended?;
    installed?;
    assert_eq!(number(&app, "SELECT max(id) FROM customer").await?, 300);
    assert_eq!(
        site.record(300).await?.context("a record")?.state.name(),
        "settled"
    );
    assert_eq!(
        outcome(&app, "UPDATE customer SET name = 'x' WHERE id = 300").await,
        "ok"
    );
    Ok(())
}

#[tokio::test]
async fn owners_without_a_user_row_are_recorded_as_settled() -> Result<()> {
    let site = Site::shaped(Shape {
        extra: "CREATE TABLE wish (id bigint PRIMARY KEY, customer_id bigint); INSERT INTO wish VALUES (1, 5000), (2, 1), (3, NULL)",
        extra_tables: &[("wish", "customer_id")],
        ..Shape::default()
    })
    .await?;
    assert_eq!(
        site.record(5000).await?.context("a record")?.state.name(),
        "settled"
    );
    let app = site.app().await?;
    assert_eq!(outcome(&app, "UPDATE wish SET id = id + 10").await, "ok");
    assert_eq!(
        outcome(&app, "INSERT INTO wish VALUES (4, 5001)").await,
        "DM421"
    );
    Ok(())
}

#[tokio::test]
async fn another_site_is_not_installed_over_this_one() -> Result<()> {
    let mut site = Site::new().await?;
    site.shape.is_origin = false;
    let refused = site.install().await.err().context("must be refused")?;
    assert!(refused.to_string().contains("uninstall first"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn uninstalling_is_refused_while_somebody_would_reopen_and_leaves_nothing_after() -> Result<()>
{
    let mut site = Site::new().await?;
    let mut admin = site.session("postgres").await?;
    for (n, state) in (1..).zip(states()) {
        let settled = matches!(state, State::Settled { .. });
        site.become_one(n, state).await?;
        if !settled {
            let refused = install::uninstall(&mut admin, &service(), &site.home).await;
            assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
            assert!(watch::unguarded(&admin, &site.home).await?.is_empty());
        }
        site.become_one(n, State::Settled { epoch: Epoch(8) })
            .await?;
    }
    // At the origin also after the erasure: his key would be known again.
    let erased = State::Departed {
        to: there(),
        epoch: Epoch(9),
        erased: true,
    };
    site.become_one(1, erased).await?;
    assert!(
        install::uninstall(&mut admin, &service(), &site.home)
            .await
            .is_err()
    );
    site.become_one(1, State::Settled { epoch: Epoch(10) })
        .await?;
    install::uninstall(&mut admin, &service(), &site.home).await?;
    let left = number(
        &admin,
        "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) + (SELECT count(*) FROM pg_event_trigger) \
              + (SELECT count(*) FROM pg_publication) \
              + (SELECT count(*) FROM pg_namespace WHERE nspname = 'domicile')",
    )
    .await?;
    assert_eq!(left, 0);
    assert!(
        install::uninstall(&mut admin, &service(), &site.home)
            .await?
            .is_empty()
    );
    assert_eq!(outcome(&site.app().await?, "TRUNCATE note").await, "ok");
    site.install().await?;
    Ok(())
}

#[tokio::test]
async fn the_publication_names_the_owned_tables_and_is_mended() -> Result<()> {
    let mut site = Site::new().await?;
    let admin = site.session("postgres").await?;
    let named =
        "SELECT string_agg(tablename::text, ' ' ORDER BY tablename) FROM pg_publication_tables";
    for _ in 0..2 {
        let tables: String = admin.query_one(named, &[]).await?.get(0);
        assert_eq!(tables, "customer line note orders");
        admin
            .batch_execute("ALTER PUBLICATION domicile_shop DROP TABLE note; ALTER PUBLICATION domicile_shop ADD TABLE product")
            .await?;
        site.install().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_installs_once_the_movers_role_is_granted() -> Result<()> {
    let mut site = Site::bare(cluster(&[]).await?, Shape::default()).await?;
    let admin = site.session("postgres").await?;
    let owner = format!("owner_{}", site.database);
    let mover = site.mover.clone();
    admin
        .batch_execute(&format!(
            "CREATE ROLE {owner} LOGIN; ALTER DATABASE {database} OWNER TO {owner};
             ALTER TABLE customer OWNER TO {owner}; ALTER TABLE orders OWNER TO {owner};
             ALTER TABLE line OWNER TO {owner}; ALTER TABLE note OWNER TO {owner}; ALTER TABLE product OWNER TO {owner}",
            database = site.database
        ))
        .await?;
    let mut session = site.session(&owner).await?;
    let refused = site.install_as(&mut session).await;
    assert!(
        refused.is_err(),
        "an owner cannot make a role that replicates"
    );
    admin
        .batch_execute(&format!(
            "CREATE ROLE {mover} LOGIN REPLICATION; GRANT pg_read_all_stats TO {mover};
             GRANT SET ON PARAMETER session_replication_role TO {mover}"
        ))
        .await?;
    site.install_as(&mut session).await?;
    site.install_as(&mut session).await?;
    site.become_one(1, states().swap_remove(1)).await?;
    site.become_one(5, states().swap_remove(4)).await?;
    let app = site.app().await?;
    assert_eq!(
        outcome(&app, "UPDATE orders SET total = 1 WHERE id = 10").await,
        "ok"
    );
    assert_eq!(
        outcome(&app, "UPDATE line SET what = 'x' WHERE order_id = 10").await,
        "ok"
    );
    assert_eq!(
        outcome(&app, "UPDATE line SET what = 'x' WHERE order_id = 50").await,
        "DM421"
    );
    assert_eq!(
        outcome(&app, "INSERT INTO customer VALUES (800, 'CN', 'x')").await,
        "ok"
    );
    Ok(())
}
