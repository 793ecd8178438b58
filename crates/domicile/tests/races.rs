//! What the application does at the source while its users move: each race of DESIGN section 4 by itself, with the
//! program held at the step where it hurts most. What was acknowledged arrives once, or stays with who stays.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, pin_mut};
use support::depot::refused;
use support::{Clusters, World};

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

async fn depot(name: &str) -> Result<World> {
    World::depot(Clusters::shared().await?, name).await
}

/// A session of the mover waits for a writer's lock: the fence stands in the queue.
const FENCE_WAITS: &str =
    "SELECT count(*) > 0 FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cascades_and_set_null_of_moving_users_arrive() -> Result<()> {
    // While the changes are spooled, and when they are applied as they come.
    for point in ["after-copied", "after-drained"] {
        let world = depot(&format!("cascades_{}", point.replace('-', "_"))).await?;
        let ran = world
            .held("domicile.toml", point, &[], async || {
                let application = world.application(0).await?;
                for statement in [
                    // The items go with their order.
                    "DELETE FROM orders WHERE id = 11",
                    // The items stay, without wrapping.
                    "DELETE FROM wrapping WHERE id = 2",
                    // The items follow their order's new key.
                    "UPDATE orders SET id = 939 WHERE id = 31",
                    // The same, and away again, in one transaction.
                    "BEGIN; UPDATE orders SET id = 949 WHERE id = 41; DELETE FROM orders WHERE id = 949; COMMIT",
                    // A whole user.
                    "DELETE FROM account WHERE id = 5",
                    // And of one who stays.
                    "DELETE FROM account WHERE id = 11",
                ] {
                    application.batch_execute(statement).await?;
                }
                Ok(())
            })
            .await?
            .expect(0)?;
        assert_eq!(ran.set_aside()?, []);
        world.expect_all_arrived().await?;
        let counts = "SELECT concat_ws(' ', (SELECT count(*) FROM account), (SELECT count(*) FROM wrapping),
            (SELECT count(*) FROM orders), (SELECT count(*) FROM item),
            (SELECT count(*) FROM item WHERE wrapping_id IS NULL), (SELECT count(*) FROM item WHERE order_id = 939))";
        assert_eq!(world.value(1, counts).await?, "9 8 25 50 6 2", "{point}");
    }
    Ok(())
}

/// `zzz` sorts behind the guard's trigger: whatever the guard sees, it is not yet what is stored.
const REDIRECT: &str = "
CREATE FUNCTION redirect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note LIKE 'to %' THEN NEW.account_id := substr(NEW.note, 4)::int; END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION redirect_after() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.note LIKE 'then to %' THEN
        UPDATE orders SET account_id = substr(NEW.note, 9)::int, note = 'was ' || NEW.account_id WHERE id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION redirect();
CREATE TRIGGER zzz_after AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION redirect_after();";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_sorts_last_and_changes_the_owner_takes_nothing_along_or_away() -> Result<()>
{
    let world = depot("redirect").await?;
    for site in [0, 1] {
        world.admin(site).await?.batch_execute(REDIRECT).await?;
    }
    world
        .held("domicile.toml", "after-drained", &[], async || {
            let application = world.application(0).await?;
            // From one who moves to one who stays, the other way round, and between two who move: before, then after.
            for (n, kind) in ["to", "then to"].into_iter().enumerate() {
                for (m, (from, to)) in [(1, 11), (11, 2), (3, 4)].into_iter().enumerate() {
                    let id = 501 + 10 * n + m;
                    let insert = format!("INSERT INTO orders VALUES ({id}, {from}, '{kind} {to}')");
                    application.batch_execute(&insert).await?;
                    let item = format!("INSERT INTO item (order_id) VALUES ({id})");
                    application.batch_execute(&item).await?;
                }
            }
            Ok(())
        })
        .await?
        .expect(0)?;
    world.expect_all_arrived().await?;
    let owners = |who: &str| {
        format!(
            "SELECT string_agg(o.id || ':' || account_id, ' ' ORDER BY o.id) FROM orders AS o JOIN item ON order_id = o.id
             WHERE o.id > 500 AND account_id {who}"
        )
    };
    let moved = "502:2 503:4 512:2 513:4";
    assert_eq!(world.value(1, &owners("IS NOT NULL")).await?, moved);
    assert_eq!(world.value(0, &owners("> 10")).await?, "501:11 511:11");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_is_refused_and_one_behind_the_guards_back_gives_the_move_up() -> Result<()> {
    let world = depot("truncate").await?;
    let before = world.movers_rows(0).await?;
    let ran = world
        .held("domicile.toml", "after-drained", &[], async || {
            let (application, admin) = (world.application(0).await?, world.admin(0).await?);
            for truncate in [
                "TRUNCATE item",
                "TRUNCATE orders CASCADE",
                "TRUNCATE account, wrapping, orders, item",
            ] {
                for session in [&application, &admin] {
                    assert_eq!(refused(session, truncate).await?, "DM409", "{truncate}");
                }
            }
            let as_replica = "SET session_replication_role = replica; TRUNCATE item";
            assert_eq!(refused(&admin, as_replica).await?, "DM409");
            assert_eq!(world.movers_rows(0).await?, before);
            // Only who takes the guard off, and the watch over it, gets through.
            Ok(admin
                .batch_execute(
                    r#"SET session_replication_role = origin;
                     ALTER EVENT TRIGGER domicile_keep_guard DISABLE;
                     BEGIN; ALTER TABLE item DISABLE TRIGGER ALL; TRUNCATE item;
                     ALTER TABLE item ENABLE TRIGGER ALL, ENABLE ALWAYS TRIGGER "DOMICILE_GUARD",
                     ENABLE ALWAYS TRIGGER "DOMICILE_GUARD_TRUNCATE"; COMMIT;
                     ALTER EVENT TRIGGER domicile_keep_guard ENABLE ALWAYS"#,
                )
                .await?)
        })
        .await?
        .expect(1)?;
    ensure!(ran.stderr.contains("a TRUNCATE of item"), "{ran}");
    world.expect_one_home_each().await?;
    let there = world.value(1, "SELECT count(*) FROM account").await?;
    assert_eq!(there, "0", "nobody went");
    world.apply("domicile.toml").run().await?.expect(0)?;
    world.expect_all_arrived().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_update_of_everybody_takes_few_locks_and_loses_nothing() -> Result<()> {
    let world = depot("bulk").await?;
    let many =
        "INSERT INTO account SELECT u, 'IN', 'many' || u FROM generate_series(1001, 1600) AS u;
                INSERT INTO orders SELECT u, u FROM generate_series(1001, 1600) AS u";
    world.admin(0).await?.batch_execute(many).await?;
    let locks =
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
    let bulk = world.application(0).await?;
    let running = world.path("hold");
    let moving = world
        .apply("domicile.toml")
        .env(
            "DOMICILE_HOLD",
            format!("after-drained={}", running.display()),
        )
        .start()?;
    support::wait_for_file(&running, true).await?;
    bulk.batch_execute(
        "BEGIN; UPDATE account SET points = points + 1; UPDATE orders SET note = note || '+'",
    )
    .await?;
    let held: i64 = bulk.query_one(locks, &[]).await?.get(0);
    ensure!((1..=1024).contains(&held), "{held} advisory locks");
    std::fs::remove_file(&running)?;
    // The fence stands behind it, and lets others pass between its tries.
    world.wait_for(0, FENCE_WAITS, "true").await?;
    let other = world.application(0).await?;
    other
        .batch_execute("INSERT INTO orders VALUES (991, 9, 'other')")
        .await?;
    bulk.batch_execute("COMMIT").await?;
    let ran = moving.end().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 610);
    world.expect_all_arrived().await?;
    let once = "SELECT (SELECT count(*) FROM account WHERE points = 1) || ' ' ||
                       (SELECT count(*) FROM orders WHERE note = '+' OR id = 991)";
    assert_eq!(world.value(1, once).await?, "610 631");
    assert_eq!(
        refused(&bulk, "UPDATE account SET points = points + 1").await?,
        "DM421"
    );
    Ok(())
}

/// A transaction that is open when the fence is raised, and what ends it.
async fn open(world: &World, level: &str, user: i32, kind: &str) -> Result<tokio_postgres::Client> {
    let session = world.application(0).await?;
    let order = 10 * user + 1;
    let statement = match kind {
        "update" => format!("UPDATE account SET points = 7 WHERE id = {user}"),
        "savepoint" => format!(
            "SAVEPOINT s; DELETE FROM orders WHERE id = {order}; ROLLBACK TO s;
             UPDATE orders SET note = 'kept' WHERE id = {order}"
        ),
        "cursor" => format!(
            "DECLARE c CURSOR WITH HOLD FOR SELECT oid FROM pg_class; FETCH 2 FROM c;
             INSERT INTO item (order_id, n) VALUES ({order}, 7)"
        ),
        other => anyhow::bail!("{other}"),
    };
    session
        .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; {statement}"))
        .await?;
    Ok(session)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_open_at_the_fence_are_waited_for_whatever_they_are() -> Result<()> {
    // A slot waits for prepared transactions of the whole server; here it is made before.
    let world = depot("open_at_fence").await?;
    let copying = world.application(0).await?;
    let copy = copying.copy_in::<_, Bytes>("COPY orders (id, account_id, note) FROM STDIN");
    let hold = world.path("hold");
    let moving = world
        .apply("domicile.toml")
        .env("DOMICILE_HOLD", format!("before-fence={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    let mut sessions = Vec::new();
    let mut snapshots = Vec::new();
    let mut user = 0;
    for level in LEVELS {
        for kind in ["update", "savepoint", "cursor"] {
            user += 1;
            sessions.push(open(&world, level, user, kind).await?);
        }
        // Read before the fence, write after it.
        let old = world.application(0).await?;
        old.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"
        ))
        .await?;
        snapshots.push(old);
    }
    let copy = copy.await?;
    pin_mut!(copy);
    copy.send(Bytes::from_static(b"901\t10\tcopied\n")).await?;
    let prepared = world.application(0).await?;
    prepared
        .batch_execute("BEGIN; UPDATE account SET points = 8 WHERE id = 10; PREPARE TRANSACTION 'races-at-fence'")
        .await?;
    std::fs::remove_file(&hold)?;
    world.wait_for(0, FENCE_WAITS, "true").await?;
    let mut committed = [0; 3];
    for (n, session) in sessions.iter().enumerate() {
        match session.batch_execute("COMMIT").await {
            Ok(()) => committed[n % 3] += 1,
            // At SERIALIZABLE they may be in each other's way; nowhere else.
            Err(error) => assert!(n >= 6 && error.code().is_some_and(|c| c.code() == "40001")),
        }
    }
    copy.finish().await?;
    // The prepared one alone is left, and is waited for, too.
    world.wait_for(0, FENCE_WAITS, "true").await?;
    assert_eq!(
        world
            .value(1, "SELECT count(*) FROM domicile.decision")
            .await?,
        "0"
    );
    prepared
        .batch_execute("COMMIT PREPARED 'races-at-fence'")
        .await?;
    let ran = moving.end().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 10);
    world.expect_all_arrived().await?;
    let written = "SELECT concat_ws(' ', (SELECT count(*) FROM account WHERE points = 7),
        (SELECT count(*) FROM account WHERE points = 8), (SELECT count(*) FROM orders WHERE note = 'kept'),
        (SELECT count(*) FROM orders WHERE note = 'copied'), (SELECT count(*) FROM item WHERE n = 7))";
    let [updates, savepoints, cursors] = committed;
    assert!(committed.iter().all(|n| *n >= 2));
    let acknowledged = format!("{updates} 1 {savepoints} 1 {cursors}");
    assert_eq!(world.value(1, written).await?, acknowledged);
    for (level, old) in LEVELS.into_iter().zip(&snapshots) {
        let code = refused(old, "UPDATE account SET points = 9 WHERE id = 1").await?;
        assert!(
            ["40001", "DM421"].contains(&code.as_str()),
            "{level}: {code}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_and_its_parents_change_of_hands_meet_in_both_orders() -> Result<()> {
    let world = depot("hands").await?;
    let mut given = 0;
    world
        .held("domicile.toml", "after-drained", &[], async || {
            for (n, level) in LEVELS.into_iter().enumerate() {
                let (from, to) = (n as i32 + 1, n as i32 + 6);
                let begin = format!("BEGIN ISOLATION LEVEL {level}");
                for (child_first, order) in [(true, 10 * from + 1), (false, 10 * from + 2)] {
                    let (child, parent) = (world.application(0).await?, world.application(0).await?);
                    let write = format!("{begin}; INSERT INTO item (order_id, n) VALUES ({order}, 5)");
                    let give = format!("{begin}; UPDATE orders SET account_id = {to} WHERE id = {order}");
                    let (first, one, second, two) = if child_first {
                        (&child, write, &parent, give)
                    } else {
                        (&parent, give, &child, write)
                    };
                    first.batch_execute(&one).await?;
                    // It waits for the first or is refused; never does it pass unseen.
                    let waiting = second.batch_execute(&two);
                    let ends = async {
                        let blocked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()
                                       AND usename = 'shop' AND wait_event_type = 'Lock'";
                        world.wait_for(0, blocked, "true").await?;
                        Ok::<_, anyhow::Error>(first.batch_execute("COMMIT").await?)
                    };
                    let (waited, ended) = tokio::join!(waiting, ends);
                    ended?;
                    let committed = match waited {
                        Ok(()) => second.batch_execute("COMMIT").await.is_ok(),
                        Err(error) => {
                            assert_eq!(error.code().map(|c| c.code()), Some("40001"), "{level}");
                            second.batch_execute("ROLLBACK").await?;
                            false
                        }
                    };
                    given += if child_first { i32::from(committed) } else { 1 };
                }
            }
            Ok(())
        })
        .await?
        .expect(0)?;
    // Whatever was acknowledged at the source stands at the target, under the owner that it has.
    world.expect_all_arrived().await?;
    let of_new = "SELECT count(*) FROM orders WHERE account_id BETWEEN 6 AND 8 AND id < 60";
    assert_eq!(world.value(1, of_new).await?, given.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_drawn_right_after_the_handoff_collide_with_nothing() -> Result<()> {
    let world = depot("sequences").await?;
    world
        .held("domicile.toml", "after-drained", &[], async || {
            let insert = "INSERT INTO item (order_id, n) SELECT 11, 1 FROM generate_series(1, 500)";
            Ok(world.application(0).await?.batch_execute(insert).await?)
        })
        .await?
        .expect(0)?;
    world.expect_all_arrived().await?;
    let insert = "INSERT INTO item (order_id, n) SELECT 11, 2 FROM generate_series(1, 5000)";
    world.application(1).await?.batch_execute(insert).await?;
    // Those who stay go on drawing, and the ones who return bring theirs along.
    let stays = "INSERT INTO item (order_id, n) SELECT 111, 3 FROM generate_series(1, 500)";
    world.application(0).await?.batch_execute(stays).await?;
    world.apply("back.toml").run().await?.expect(0)?;
    let insert = "INSERT INTO item (order_id, n) SELECT 11, 4 FROM generate_series(1, 5000)";
    world.application(0).await?.batch_execute(insert).await?;
    let counts = "SELECT string_agg(c::text, ' ' ORDER BY n) FROM (SELECT n, count(*) AS c FROM item WHERE n > 0 GROUP BY n) AS i";
    assert_eq!(world.value(0, counts).await?, "500 5000 500 5000");
    Ok(())
}
