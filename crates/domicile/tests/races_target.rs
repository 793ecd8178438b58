//! What happens at the target while users arrive, and what stands there already: nothing is overwritten, nobody is
//! created twice, and who does not fit is refused, on the way out and on the way back.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Result, ensure};
use support::depot::refused;
use support::{Clusters, World, connect};

async fn depot(name: &str) -> Result<World> {
    World::depot(Clusters::shared().await?, name).await
}

const STATE: &str = "SELECT state || ' ' || epoch FROM domicile.resident WHERE user_key = 5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_the_target_for_users_who_are_not_home_yet_are_refused() -> Result<()> {
    let statements = [
        "INSERT INTO account VALUES (5, 'IN', 'born here')",
        "UPDATE account SET points = 1 WHERE id = 5",
        "DELETE FROM account WHERE id = 5",
        "INSERT INTO orders VALUES (555, 5, 'here')",
        "UPDATE orders SET note = 'here' WHERE id = 51",
        "UPDATE orders SET account_id = 12 WHERE id = 51",
        "INSERT INTO item (order_id) VALUES (51)",
        "DELETE FROM item WHERE order_id = 51",
        "TRUNCATE item",
    ];
    let world = depot("foreign_writes").await?;
    // His record, and then his rows, too, stand there. Once he is offered the target reads them: what it holds would wait.
    for point in ["after-enrol", "after-drained", "after-fence"] {
        let ran = world
            .held("domicile.toml", point, &[], async || {
                for as_whom in [world.application(1).await?, world.admin(1).await?] {
                    for mode in ["origin", "replica"] {
                        // The application may not choose its mode.
                        let set = format!("SET session_replication_role = {mode}");
                        if as_whom.batch_execute(&set).await.is_err() {
                            continue;
                        }
                        for statement in statements {
                            // With foreign keys off, a child of nobody's: it is found below.
                            if mode == "replica" && statement.contains("INTO item") {
                                continue;
                            }
                            refuse_or_touch_nothing(&as_whom, statement).await?;
                        }
                    }
                }
                Ok(())
            })
            .await?
            .expect(0)?;
        assert_eq!(ran.summary()?["moved"], 10, "{point}");
        world.expect_all_arrived().await?;
        world.apply("back.toml").run().await?.expect(0)?;
    }
    Ok(())
}

/// Refused by the guard, by the foreign key or the key behind it, or no row is there to be touched.
async fn refuse_or_touch_nothing(session: &tokio_postgres::Client, statement: &str) -> Result<()> {
    match session.execute(statement, &[]).await {
        Ok(0) if !statement.starts_with("TRUNCATE") => Ok(()),
        Ok(rows) => anyhow::bail!("{statement} touched {rows} rows"),
        Err(error) => {
            let code = error.code().map_or("", |code| code.code());
            let known = ["40001", "DM421", "DM409", "23503", "23505"].contains(&code);
            ensure!(known, "{statement}: {error}");
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_planted_at_the_target_is_found_and_neither_taken_nor_overwritten() -> Result<()> {
    // By a superuser, as a replica, before the order is there to say whose it is; and by the one role that the guard
    // lets through, among rows that arrived: one more, one less, one other, one in other hands.
    let (early, late) = ("after-enrol", "after-fence");
    for (n, (point, plant)) in [
        (early, "INSERT INTO item (order_id, n) VALUES (51, 9)"),
        (late, "INSERT INTO orders VALUES (555, 5, 'planted')"),
        (late, "DELETE FROM item WHERE order_id = 51"),
        (late, "UPDATE account SET points = points + 1 WHERE id = 5"),
        (late, "UPDATE orders SET account_id = 6 WHERE id = 51"),
    ]
    .into_iter()
    .enumerate()
    {
        let world = depot(&format!("planted_{n}")).await?;
        let url = if point == early {
            world.admin_url(1)
        } else {
            world.mover_url(1)
        };
        let ran = world
            .held("domicile.toml", point, &[], async || {
                let as_replica = format!("SET session_replication_role = replica; {plant}");
                Ok(connect(&url).await?.batch_execute(&as_replica).await?)
            })
            .await?
            .expect(1)?;
        let aside = ran.set_aside()?;
        let reason = |user: &str| {
            aside
                .iter()
                .find(|(aside, _)| aside == user)
                .map(|(_, r)| r.as_str())
        };
        let found = reason("5").unwrap_or_default();
        ensure!(
            found.starts_with("verification: rows of "),
            "{plant}: {ran}"
        );
        // Where a row went from one to the other, both differ.
        assert_eq!(aside.len(), if n == 4 { 2 } else { 1 }, "{plant}: {ran}");
        assert_eq!(
            world
                .value(
                    1,
                    "SELECT count(*) FROM orders WHERE account_id = 5 OR id = 51"
                )
                .await?,
            "0"
        );
        assert_eq!(
            world.value(0, STATE).await?.split_once(' ').map(|s| s.0),
            Some("settled")
        );
        world.apply("domicile.toml").run().await?.expect(0)?;
        world.expect_all_arrived().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_or_unique_value_that_is_taken_at_the_target_is_never_overwritten() -> Result<()> {
    let world = depot("taken").await?;
    // Somebody born at singapore has an order under a key of user 3's, and a name of user 7's.
    let born = "INSERT INTO account VALUES (900, 'SG', 'name7'); INSERT INTO orders VALUES (31, 900, 'mine')";
    let singapore = world.application(1).await?;
    singapore.batch_execute(born).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(1)?;
    let mut aside = ran.set_aside()?;
    aside.sort();
    let reasons: Vec<_> = aside
        .iter()
        .map(|(user, reason)| (user.as_str(), reason.as_str()))
        .collect();
    let [("3", order), ("7", name)] = reasons[..] else {
        anyhow::bail!("{ran}");
    };
    ensure!(
        order.contains("orders_pkey") && name.contains("account_name_key"),
        "{ran}"
    );
    let mine = "SELECT (SELECT string_agg(o::text, ',') FROM orders AS o WHERE id = 31) || (SELECT name FROM account WHERE id = 900)";
    assert_eq!(world.value(1, mine).await?, "(31,900,mine)name7");
    for user in [3, 7] {
        let write = format!("UPDATE account SET points = 1 WHERE id = {user}");
        assert_eq!(
            world.application(0).await?.execute(&write, &[]).await?,
            1,
            "he lives on at home"
        );
    }
    singapore
        .batch_execute(
            "DELETE FROM orders WHERE id = 31; UPDATE account SET name = 'another' WHERE id = 900",
        )
        .await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_on_the_way_back_stays_and_his_old_record_is_restored() -> Result<()> {
    let world = depot("refused_back").await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let (beijing, singapore) = (world.application(0).await?, world.application(1).await?);
    let record = world.value(0, STATE).await?;
    ensure!(record.starts_with("departed "), "{record}");
    // Meanwhile one who stayed took the name under which user 5 wants to come back.
    singapore
        .batch_execute("UPDATE account SET name = 'wanted' WHERE id = 5")
        .await?;
    beijing
        .batch_execute("UPDATE account SET name = 'wanted' WHERE id = 12")
        .await?;
    let ran = world.apply("back.toml").run().await?.expect(1)?;
    assert_eq!(ran.summary()?["moved"], 9);
    let aside = ran.set_aside()?;
    ensure!(
        aside.len() == 1 && aside[0].0 == "5" && aside[0].1.contains("account_name_key"),
        "{ran}"
    );
    world.expect_one_home_each().await?;
    // He was told where to go before, and is now; at home he writes on.
    assert_eq!(world.value(0, STATE).await?, record);
    let born_again = "INSERT INTO account VALUES (5, 'IN', 'born here')";
    assert_eq!(refused(&beijing, born_again).await?, "DM421");
    // Nothing of him is left there and nobody moves: here the guard may rest, and then the foreign key refuses.
    let orphan = refused(&beijing, "INSERT INTO orders VALUES (555, 5, '')").await?;
    ensure!(["DM421", "23503"].contains(&orphan.as_str()), "{orphan}");
    singapore
        .batch_execute("INSERT INTO orders VALUES (555, 5, 'at singapore')")
        .await?;
    assert_eq!(
        world
            .value(0, "SELECT name FROM account WHERE id = 12")
            .await?,
        "wanted"
    );
    beijing
        .batch_execute("UPDATE account SET name = 'given up' WHERE id = 12")
        .await?;
    world.apply("back.toml").run().await?.expect(0)?;
    assert_eq!(
        world
            .value(0, "SELECT note FROM orders WHERE id = 555")
            .await?,
        "at singapore"
    );
    world.expect_one_home_each().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_born_elsewhere_moves_to_the_origin_and_back_and_is_created_nowhere_twice()
-> Result<()> {
    let world = depot("born_elsewhere").await?;
    let (beijing, singapore) = (world.application(0).await?, world.application(1).await?);
    let born = "INSERT INTO account VALUES (800, 'IN', 'born'); INSERT INTO orders VALUES (8001, 800, 'first')";
    singapore.batch_execute(born).await?;
    // A key that another site may have given away is known nowhere else: there he is created by nobody's mistake
    // once he has been there.
    world
        .held("back.toml", "after-drained", &[], async || {
            let again = refused(&beijing, "INSERT INTO account VALUES (800, 'IN', 'twin')").await?;
            assert!(
                ["40001", "DM421", "23505"].contains(&again.as_str()),
                "{again}"
            );
            let note = "UPDATE orders SET note = 'second' WHERE id = 8001";
            Ok(singapore.batch_execute(note).await?)
        })
        .await?
        .expect(0)?;
    let note = "SELECT note FROM orders WHERE id = 8001";
    assert_eq!(world.value(0, note).await?, "second");
    for statement in [
        "DELETE FROM account WHERE id = 800",
        "INSERT INTO orders VALUES (8002, 800, '')",
    ] {
        assert_eq!(refused(&singapore, statement).await?, "DM421");
    }
    // Deleted at his home, his key is still his: nobody is created under it at a site that he has left.
    world.apply("domicile.toml").run().await?.expect(0)?;
    singapore
        .batch_execute("DELETE FROM account WHERE id = 800")
        .await?;
    let twin = refused(&beijing, "INSERT INTO account VALUES (800, 'IN', 'twin')").await?;
    ensure!(twin == "DM421" || twin == "23505", "{twin}");
    world.expect_one_home_each().await
}
