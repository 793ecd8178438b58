//! The guard by need: where it rests while nobody moves, what keeps it standing, and that nobody comes between.
#![cfg(feature = "planted-faults")]

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use handoff::record::State;
use model::Epoch;
use model::fault::{Bug, plant};
use residency::{Error, rest, watch};
use support::{Shape, Site, cluster, number, outcome, states, tried, until};
use tokio_postgres::Client;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tables besides the usual ones: a partitioned one, and one whose rows may be nobody's.
const MORE: &str = "
    CREATE TABLE visit (id bigint, customer_id bigint NOT NULL REFERENCES customer, at integer NOT NULL,
        PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (at);
    CREATE TABLE visit_1a PARTITION OF visit_1 FOR VALUES FROM (0) TO (50);
    INSERT INTO visit SELECT u, u, 1 FROM generate_series(1, 12) AS u;
    CREATE TABLE wish (id bigint PRIMARY KEY, customer_id bigint REFERENCES customer);
";

/// Where the guard may rest. Not on `customer`, the user table, nor on `note`, whose foreign key has two columns and is
/// not MATCH FULL, nor on `wish`, whose column may be null.
const MAY: [&str; 3] = ["orders", "line", "visit"];

/// A home database into which no other role of the cluster may connect: the movers of other tests may set what ours may.
async fn site() -> Result<Site> {
    let mut site = Site::bare(
        cluster(&[]).await?,
        Shape {
            extra: MORE,
            extra_tables: &[("visit", "customer_id"), ("wish", "customer_id")],
            ..Shape::default()
        },
    )
    .await?;
    site.install().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!(
            "REVOKE CONNECT ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}, {2}",
            site.database, site.app, site.mover
        ))
        .await?;
    Ok(site)
}

/// The tables on which the guard does not stand, sorted.
async fn off(session: &Client, site: &Site) -> Result<Vec<String>> {
    let mut off = watch::unguarded(session, &site.home).await?;
    off.sort();
    let bare = |table: &String| table.replace("\"public\".", "").replace('"', "");
    Ok(off.iter().map(bare).collect())
}

fn sorted(tables: &[&str]) -> Vec<String> {
    let mut tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
    tables.sort();
    tables
}

/// Lets the guard rest, and expects it to do so on `tables` and to stand on the others.
async fn rests_on(site: &Site, mover: &mut Client, tables: &[&str], when: &str) -> Result<()> {
    rest::rest(mover, &site.home)
        .await
        .with_context(|| when.to_owned())?;
    let found = off(mover, site).await?;
    ensure!(found == sorted(tables), "{when}: off on {found:?}");
    let mut resting = rest::resting(mover, &site.home).await?;
    resting.sort();
    ensure!(resting.len() == found.len(), "{when}: {resting:?}");
    Ok(())
}

#[tokio::test]
async fn it_rests_where_foreign_keys_do_its_work_and_is_put_on_again() -> Result<()> {
    let site = site().await?;
    let (mut mover, app) = (site.mover().await?, site.app().await?);
    ensure!(
        off(&mover, &site).await?.is_empty(),
        "install leaves it standing"
    );
    rests_on(&site, &mut mover, &MAY, "at first").await?;
    for (said, sql) in [
        ("23503", "INSERT INTO orders VALUES (900, 0, 77)"),
        ("23503", "INSERT INTO line VALUES (901, 1)"),
        ("23503", "INSERT INTO visit VALUES (900, 77, 1)"),
        (
            "23503",
            "UPDATE orders SET customer_id = 77 WHERE customer_id = 1",
        ),
        (
            "ok",
            "UPDATE orders SET total = total + 1; INSERT INTO visit VALUES (901, 1, 1)",
        ),
        (
            "ok",
            "INSERT INTO customer VALUES (77, 'CN', 'new'); INSERT INTO orders VALUES (770, 0, 77)",
        ),
    ] {
        assert_eq!(tried(&app, sql).await?, said, "{sql}");
    }
    rest::raise(&mut mover, &site.home, PATIENCE).await?;
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    ensure!(rest::resting(&mover, &site.home).await?.is_empty());
    // One whom it had seen as coming, and one who is not here.
    assert_eq!(
        tried(&app, "INSERT INTO orders VALUES (900, 0, 77)").await?,
        "DM421"
    );
    rests_on(&site, &mut mover, &MAY, "again").await
}

#[tokio::test]
async fn it_stands_while_anybody_is_neither_settled_nor_gone_and_erased() -> Result<()> {
    let site = site().await?;
    let mut mover = site.mover().await?;
    for state in states() {
        let name = state.name();
        let settled = matches!(state, State::Settled { .. });
        site.become_one(1, state).await?;
        let off: &[&str] = if settled { &MAY } else { &[] };
        rests_on(&site, &mut mover, off, name).await?;
        rest::raise(&mut mover, &site.home, PATIENCE).await?;
    }
    site.become_one(
        1,
        State::Departed {
            to: support::there(),
            epoch: Epoch(9),
            erased: true,
        },
    )
    .await?;
    rests_on(&site, &mut mover, &MAY, "departed and erased").await
}

/// A condition taken away: what it is, how it is taken away and brought back, where the guard still rests without it, and
/// whether that shows at once.
struct Condition {
    what: &'static str,
    away: String,
    back: String,
    left: &'static [&'static str],
    at_once: bool,
}

#[tokio::test]
async fn each_condition_that_is_missing_keeps_it_on_or_puts_it_on() -> Result<()> {
    let site = site().await?;
    let (mut mover, admin) = (site.mover().await?, site.session("postgres").await?);
    // Somewhere to subscribe to.
    let elsewhere = format!("{}_elsewhere", site.database);
    site.cluster.create_database(&elsewhere).await?;
    support::connect(&site.cluster, "postgres", &elsewhere)
        .await?
        .batch_execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, total integer, customer_id bigint);
             CREATE PUBLICATION p FOR TABLE orders",
        )
        .await?;
    let condition = |what, away: &str, back: &str, left, at_once| Condition {
        what,
        away: away
            .replace("$APP", &site.app)
            .replace("$MOVER", &site.mover),
        back: back
            .replace("$APP", &site.app)
            .replace("$MOVER", &site.mover),
        left,
        at_once,
    };
    let orders_key = "ALTER TABLE orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer";
    let line_key = "ALTER TABLE line ADD CONSTRAINT line_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders";
    let trigger = |said: &str| {
        format!(
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE orders {said} TRIGGER %I', g.tgname) FROM pg_trigger AS g
               JOIN pg_constraint AS c ON c.oid = g.tgconstraint WHERE c.conname = 'orders_customer_id_fkey'
                 AND g.tgrelid = 'orders'::regclass ORDER BY g.tgname LIMIT 1); END $$"
        )
    };
    let conditions = [
        condition(
            "the foreign key itself",
            "ALTER TABLE line DROP CONSTRAINT line_order_id_fkey",
            line_key,
            &["orders", "visit"],
            true,
        ),
        condition(
            "the foreign key of a table on the way",
            "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey",
            orders_key,
            &["visit"],
            true,
        ),
        condition(
            "its being validated",
            &format!(
                "ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey; {orders_key} NOT VALID"
            ),
            "ALTER TABLE orders VALIDATE CONSTRAINT orders_customer_id_fkey",
            &["visit"],
            true,
        ),
        condition(
            "its triggers",
            &trigger("DISABLE"),
            &trigger("ENABLE"),
            &["visit"],
            true,
        ),
        condition(
            "the key that it refers to, with all that hangs on it",
            "ALTER TABLE note DROP CONSTRAINT note_order_id_n_fkey; ALTER TABLE orders DROP CONSTRAINT orders_pkey CASCADE",
            &format!(
                "ALTER TABLE orders ADD PRIMARY KEY (id); {line_key};
              ALTER TABLE note ADD FOREIGN KEY (order_id, n) REFERENCES line"
            ),
            &["orders", "visit"],
            true,
        ),
        condition(
            "NOT NULL",
            "ALTER TABLE orders ALTER customer_id DROP NOT NULL",
            "ALTER TABLE orders ALTER customer_id SET NOT NULL",
            &["visit"],
            true,
        ),
        condition(
            "the foreign key of a partitioned table",
            "ALTER TABLE visit DROP CONSTRAINT visit_customer_id_fkey",
            "ALTER TABLE visit ADD FOREIGN KEY (customer_id) REFERENCES customer",
            &["orders", "line"],
            true,
        ),
        condition(
            "that no subscription writes there",
            &format!(
                "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, slot_name = NONE, enabled = false)",
                site.cluster.url("postgres", &elsewhere)
            ),
            "DROP SUBSCRIPTION s",
            &["line", "visit"],
            true,
        ),
        condition(
            "that nobody else may set session_replication_role",
            "GRANT SET ON PARAMETER session_replication_role TO $APP",
            "REVOKE SET ON PARAMETER session_replication_role FROM $APP",
            &[],
            false,
        ),
        condition(
            "that nobody else may become the mover",
            "GRANT $MOVER TO $APP; ALTER ROLE $APP NOINHERIT",
            "REVOKE $MOVER FROM $APP; ALTER ROLE $APP INHERIT",
            &[],
            false,
        ),
        condition(
            "that nobody else may execute what sets it",
            "GRANT EXECUTE ON FUNCTION domicile.as_replica() TO $APP",
            "REVOKE EXECUTE ON FUNCTION domicile.as_replica() FROM $APP",
            &[],
            false,
        ),
        condition(
            "that it is set for no role",
            "ALTER ROLE $APP SET session_replication_role = replica",
            "ALTER ROLE $APP RESET session_replication_role",
            &[],
            false,
        ),
        condition(
            "that no function sets it",
            "CREATE FUNCTION mighty() RETURNS void LANGUAGE sql SET session_replication_role = replica AS ''",
            "DROP FUNCTION mighty()",
            &[],
            false,
        ),
        condition(
            "after_restart = open",
            "UPDATE domicile.home SET after_restart = 'closed'",
            "UPDATE domicile.home SET after_restart = 'open'",
            &[],
            false,
        ),
        condition(
            "the event trigger",
            "ALTER EVENT TRIGGER domicile_keep_guard_drop DISABLE",
            "ALTER EVENT TRIGGER domicile_keep_guard_drop ENABLE ALWAYS",
            &[],
            false,
        ),
    ];
    for condition in conditions {
        let what = condition.what;
        let run = async |sql: &str| -> Result<()> {
            for statement in statements(sql) {
                admin
                    .batch_execute(&statement)
                    .await
                    .with_context(|| format!("{what}: {statement}"))?;
            }
            Ok(())
        };
        rest::raise(&mut mover, &site.home, PATIENCE).await?;
        run(&condition.away).await?;
        rests_on(&site, &mut mover, condition.left, what).await?;
        run(&condition.back).await?;
        rests_on(&site, &mut mover, &MAY, what).await?;
        // And while it rests.
        run(&condition.away).await?;
        if condition.at_once {
            let found = off(&mover, &site).await?;
            ensure!(found == sorted(condition.left), "{what}: off on {found:?}");
        }
        rests_on(&site, &mut mover, condition.left, what).await?;
        run(&condition.back).await?;
    }
    // A row without its parent, of which the foreign key knows nothing.
    rest::raise(&mut mover, &site.home, PATIENCE).await?;
    admin
        .batch_execute(
            "SET session_replication_role = replica; ALTER TABLE orders DISABLE TRIGGER \"DOMICILE_GUARD\"",
        )
        .await
        .expect_err("not even a superuser takes it off by hand");
    admin
        .batch_execute(
            "BEGIN; SET LOCAL session_replication_role = replica; INSERT INTO domicile.resident (user_key, state, epoch, seen)
               VALUES (4711, 'settled', 1, 1); INSERT INTO orders VALUES (47110, 0, 4711); COMMIT",
        )
        .await?;
    rests_on(&site, &mut mover, &["visit"], "an order of nobody's").await
}

/// The statements of a text one by one: some may not stand in a transaction with others.
fn statements(sql: &str) -> Vec<String> {
    if sql.starts_with("DO") {
        return vec![sql.to_owned()];
    }
    sql.split(';').map(|one| one.trim().to_owned()).collect()
}

#[tokio::test]
async fn nobody_but_the_mover_takes_it_off_and_he_not_while_users_move() -> Result<()> {
    let site = site().await?;
    let (mut mover, admin, app) = (
        site.mover().await?,
        site.session("postgres").await?,
        site.app().await?,
    );
    let setter: String = admin
        .query_one(
            "SELECT format('SELECT %s(false)', p.oid::regproc) FROM pg_proc AS p WHERE p.proname LIKE 'set\\_guard\\_%\\_orders'",
            &[],
        )
        .await?
        .get(0);
    let by_hand = "ALTER TABLE orders DISABLE TRIGGER \"DOMICILE_GUARD\"";
    assert_eq!(outcome(&app, &setter).await, "42501");
    assert_eq!(outcome(&mover, &setter).await, "DM409");
    assert_eq!(outcome(&admin, by_hand).await, "DM409");
    // Said to rest, it may: and what the word is worth shows when somebody moves.
    let says = format!(
        "BEGIN; UPDATE domicile.guarded SET rests = true WHERE relation = 'orders'::regclass; {setter};"
    );
    assert_eq!(outcome(&mover, &format!("{says} ROLLBACK")).await, "ok");
    mover.batch_execute("ROLLBACK").await?;
    for state in states() {
        if matches!(state, State::Settled { .. }) {
            continue;
        }
        let name = state.name();
        site.become_one(1, state).await?;
        for session in [&mover, &admin] {
            assert_eq!(outcome(session, &says).await, "DM409", "{name}");
            session.batch_execute("ROLLBACK").await?;
        }
    }
    site.become_one(1, State::Settled { epoch: Epoch(8) })
        .await?;
    // Of a table that may never rest.
    let says = "BEGIN; UPDATE domicile.guarded SET rests = true WHERE relation = 'wish'::regclass; \
                ALTER TABLE wish DISABLE TRIGGER \"DOMICILE_GUARD\"; COMMIT";
    assert_eq!(
        outcome(&admin, says).await,
        "ok",
        "it is put on again at once"
    );
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    rests_on(&site, &mut mover, &MAY, "after all that").await?;
    // Taken off it can be put on by hand; and the other half is never taken off.
    assert_eq!(
        outcome(
            &admin,
            "ALTER TABLE orders DISABLE TRIGGER \"DOMICILE_GUARD_TRUNCATE\""
        )
        .await,
        "DM409"
    );
    assert_eq!(
        outcome(&admin, "DROP TRIGGER \"DOMICILE_GUARD\" ON orders").await,
        "DM409"
    );
    Ok(())
}

#[tokio::test]
async fn partitions_rest_and_stand_with_their_root_and_those_to_come_too() -> Result<()> {
    let site = site().await?;
    let (mut mover, admin) = (site.mover().await?, site.session("postgres").await?);
    let states =
        "SELECT string_agg(DISTINCT g.tgenabled::text, '') FROM pg_partition_tree('visit') AS p
                  JOIN pg_trigger AS g ON g.tgrelid = p.relid WHERE g.tgname = 'DOMICILE_GUARD'";
    let found = async || -> Result<String> { Ok(admin.query_one(states, &[]).await?.get(0)) };
    assert_eq!(found().await?, "A");
    rests_on(&site, &mut mover, &MAY, "with two levels of partitions").await?;
    assert_eq!(found().await?, "D");
    admin
        .batch_execute(
            "CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (100) TO (200);
             CREATE TABLE visit_3 (LIKE visit INCLUDING ALL);
             ALTER TABLE visit ATTACH PARTITION visit_3 FOR VALUES FROM (200) TO (300)",
        )
        .await?;
    assert_eq!(found().await?, "D");
    let app = site.app().await?;
    assert_eq!(
        tried(&app, "INSERT INTO visit VALUES (1, 77, 250)").await?,
        "23503"
    );
    rest::raise(&mut mover, &site.home, PATIENCE).await?;
    assert_eq!(found().await?, "A");
    admin
        .batch_execute("CREATE TABLE visit_4 PARTITION OF visit FOR VALUES FROM (300) TO (400)")
        .await?;
    assert_eq!(found().await?, "A");
    assert_eq!(
        tried(&app, "INSERT INTO visit VALUES (1, 77, 350)").await?,
        "DM421"
    );
    rests_on(&site, &mut mover, &MAY, "with new ones").await?;
    admin
        .batch_execute(
            "ALTER TABLE visit DETACH PARTITION visit_4; DROP TABLE visit_2; ALTER TABLE visit ADD more text;
             CREATE TEMP TABLE t (id bigint PRIMARY KEY); DROP TABLE t",
        )
        .await
        .context("ordinary changes of tables")?;
    rests_on(&site, &mut mover, &MAY, "after ordinary changes").await
}

#[tokio::test]
async fn installing_again_leaves_it_as_it_is_and_uninstalling_takes_all() -> Result<()> {
    let mut site = site().await?;
    let mut mover = site.mover().await?;
    rests_on(&site, &mut mover, &MAY, "at first").await?;
    site.install().await?;
    assert_eq!(off(&mover, &site).await?, sorted(&MAY));
    // Where it may not rest any more it stands.
    let mut admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!(
            "GRANT SET ON PARAMETER session_replication_role TO {}",
            site.app
        ))
        .await?;
    site.install().await?;
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    admin
        .batch_execute(&format!(
            "REVOKE SET ON PARAMETER session_replication_role FROM {}",
            site.app
        ))
        .await?;
    rests_on(&site, &mut mover, &MAY, "again").await?;
    // During a move it stands, and installing does not take it off.
    rest::raise(&mut mover, &site.home, PATIENCE).await?;
    site.become_one(1, states().swap_remove(1)).await?;
    site.install().await?;
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    site.become_one(1, State::Settled { epoch: Epoch(8) })
        .await?;
    rests_on(&site, &mut mover, &MAY, "before it goes").await?;
    residency::install::uninstall(&mut admin, &support::service(), &site.home).await?;
    assert_eq!(
        number(
            &admin,
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"
        )
        .await?,
        0
    );
    Ok(())
}

#[tokio::test]
async fn whoever_wrote_unguarded_has_ended_before_it_stands() -> Result<()> {
    let site = site().await?;
    let (mut mover, watch, writer, other) = (
        site.mover().await?,
        site.session("postgres").await?,
        site.app().await?,
        site.app().await?,
    );
    rests_on(&site, &mut mover, &MAY, "at first").await?;
    // A plan made before, and a snapshot taken before, neither of which has touched the table since.
    let planned = other
        .prepare("UPDATE orders SET total = 5 WHERE customer_id = $1")
        .await?;
    other.execute(&planned, &[&2_i64]).await?;
    writer
        .batch_execute("BEGIN; UPDATE orders SET total = 1 WHERE id = 10")
        .await?;
    let raising = rest::raise(&mut mover, &site.home, PATIENCE);
    let ending = async {
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass";
        until(&watch, "it waits for the writer", waits).await?;
        writer
            .batch_execute("UPDATE orders SET total = 2 WHERE id = 10; COMMIT")
            .await?;
        anyhow::Ok(())
    };
    let (raised, ended) = tokio::join!(raising, ending);
    raised?;
    ended?;
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    // Standing, it is met by plans of before and in transactions of before.
    let old = site.app().await?;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM product")
        .await?;
    site.become_one(2, states().swap_remove(2)).await?;
    let refused = other.execute(&planned, &[&2_i64]).await.unwrap_err();
    assert_eq!(support::refusal(&refused).0, "40001");
    old.batch_execute("ROLLBACK").await?;
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_not_had_in_time_is_named_with_who_has_it() -> Result<()> {
    let site = site().await?;
    let (mut mover, writer) = (site.mover().await?, site.app().await?);
    rests_on(&site, &mut mover, &MAY, "at first").await?;
    writer
        .batch_execute("BEGIN; UPDATE line SET what = 'x' WHERE order_id = 10")
        .await?;
    let pid = support::pid(&writer).await?;
    let refused = rest::raise(&mut mover, &site.home, Duration::from_millis(600)).await;
    match refused {
        Err(Error::Held { table, holders }) => {
            assert_eq!(table, "line");
            ensure!(
                holders
                    .iter()
                    .any(|who| who.contains(&format!("process {pid} of {}", site.app))),
                "{holders:?}"
            );
        }
        other => anyhow::bail!("{other:?}"),
    }
    writer.batch_execute("COMMIT").await?;
    rest::raise(&mut mover, &site.home, PATIENCE).await?;
    assert_eq!(off(&mover, &site).await?, Vec::<String>::new());
    Ok(())
}

/// Takes the guard off as [`rest::rest`] does and holds still before its commit, while somebody is enrolled. Says whether a
/// write for who moves passed unguarded.
async fn enrolment_meets_taking_off(bug: Option<Bug>) -> Result<bool> {
    let site = site().await?;
    let (taker, mut enroller, watch) = (
        site.mover().await?,
        site.mover().await?,
        site.session("postgres").await?,
    );
    let setter: String = watch
        .query_one(
            "SELECT format('SELECT %s(false)', p.oid::regproc) FROM pg_proc AS p WHERE p.proname LIKE 'set\\_guard\\_%\\_orders'",
            &[],
        )
        .await?
        .get(0);
    taker
        .batch_execute(&format!(
            "BEGIN; LOCK TABLE domicile.guarded IN SHARE ROW EXCLUSIVE MODE;
             UPDATE domicile.guarded SET rests = true WHERE relation = 'orders'::regclass; {setter}"
        ))
        .await?;
    plant(bug);
    let tx = enroller.transaction().await?;
    let enrolling = async {
        if rest::stands(&tx, &site.home).await? {
            site.enrol(&tx, &[1]).await?;
            tx.commit().await?;
            return anyhow::Ok(true);
        }
        Ok(false)
    };
    let ending = async {
        if bug.is_none() {
            let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'domicile.guarded'::regclass";
            until(&watch, "the enrolment waits its turn", waits).await?;
        }
        taker.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    };
    let (enrolled, ended) = tokio::join!(enrolling, ending);
    plant(None);
    ended?;
    let enrolled = enrolled?;
    Ok(enrolled && !off(&watch, &site).await?.is_empty())
}

#[tokio::test]
async fn an_enrolment_waits_for_who_takes_it_off_and_sees_that_it_is_off() -> Result<()> {
    ensure!(!enrolment_meets_taking_off(None).await?);
    Ok(())
}

#[tokio::test]
async fn an_enrolment_that_does_not_look_is_caught() -> Result<()> {
    ensure!(enrolment_meets_taking_off(Some(Bug::EnrolUnguarded)).await?);
    Ok(())
}

/// Enrols somebody and holds still before the commit, while the guard is to be taken off. Says whether it was.
async fn taking_off_meets_enrolment(bug: Option<Bug>) -> Result<bool> {
    plant(bug);
    let site = site().await?;
    let (mut taker, mut enroller, watch) = (
        site.mover().await?,
        site.mover().await?,
        site.session("postgres").await?,
    );
    let tx = enroller.transaction().await?;
    ensure!(rest::stands(&tx, &site.home).await?);
    site.enrol(&tx, &[1]).await?;
    let resting = rest::rest(&mut taker, &site.home);
    let ending = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'domicile.guarded'::regclass";
        until(&watch, "it waits its turn", waits).await?;
        tx.commit().await?;
        anyhow::Ok(())
    };
    let (rested, ended) = tokio::join!(resting, ending);
    plant(None);
    ended?;
    rested?;
    Ok(!off(&watch, &site).await?.is_empty())
}

#[tokio::test]
async fn it_is_not_taken_off_under_an_enrolment_that_is_about_to_commit() -> Result<()> {
    ensure!(!taking_off_meets_enrolment(None).await?);
    Ok(())
}

#[tokio::test]
async fn taking_it_off_without_looking_for_who_moves_is_caught() -> Result<()> {
    ensure!(taking_off_meets_enrolment(Some(Bug::RestUnsettled)).await?);
    Ok(())
}

#[tokio::test]
async fn a_foreign_key_dropped_meanwhile_is_seen_by_one_of_the_two() -> Result<()> {
    let site = site().await?;
    let (mut taker, owner, watch) = (
        site.mover().await?,
        site.session("postgres").await?,
        site.session("postgres").await?,
    );
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'domicile.guarded'::regclass";
    // The key of a table on the way goes first: nobody takes the guard off meanwhile, nor below it afterwards.
    owner
        .batch_execute("BEGIN; ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey")
        .await?;
    let resting = rest::rest(&mut taker, &site.home).await?;
    ensure!(
        resting.is_empty(),
        "while a key is being dropped: {resting:?}"
    );
    owner.batch_execute("COMMIT").await?;
    assert_eq!(off(&watch, &site).await?, Vec::<String>::new());
    rests_on(&site, &mut taker, &["visit"], "without the key").await?;
    owner
        .batch_execute("ALTER TABLE orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer")
        .await?;
    // It is taken off first: whoever drops the key waits, and puts it on again.
    let setter: String = watch
        .query_one(
            "SELECT format('SELECT %s(false)', p.oid::regproc) FROM pg_proc AS p WHERE p.proname LIKE 'set\\_guard\\_%\\_line'",
            &[],
        )
        .await?
        .get(0);
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        rest::raise(&mut taker, &site.home, PATIENCE).await?;
        taker
            .batch_execute(&format!(
                "BEGIN; LOCK TABLE domicile.guarded IN SHARE ROW EXCLUSIVE MODE;
                 UPDATE domicile.guarded SET rests = true WHERE relation = 'line'::regclass; {setter}"
            ))
            .await?;
        let drop = format!(
            "BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM product;
             ALTER TABLE orders DROP CONSTRAINT orders_customer_id_fkey; COMMIT"
        );
        let dropping = outcome(&owner, &drop);
        let ending = async {
            until(&watch, "it waits its turn", waits).await?;
            taker.batch_execute("COMMIT").await?;
            anyhow::Ok(())
        };
        let (dropped, ended) = tokio::join!(dropping, ending);
        ended?;
        if isolation == "READ COMMITTED" {
            assert_eq!(dropped, "ok");
            assert_eq!(off(&watch, &site).await?, Vec::<String>::new());
            owner
                .batch_execute("ALTER TABLE orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer")
                .await?;
        } else {
            assert_eq!(dropped, "40001", "its snapshot is too old to see it");
            owner.batch_execute("ROLLBACK").await?;
        }
    }
    Ok(())
}
