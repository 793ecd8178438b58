//! Whole moves under writers, by the real program: what was acknowledged stands once, at the right site.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use shop::workload::{Isolation, WorkloadOptions};
use support::{Clusters, PATIENCE, World, more_acknowledged};
use tokio_postgres::Client;

/// One in ten stays.
const MARKETS: [(&str, u32); 2] = [("IN", 9), ("CN", 1)];

fn busy() -> WorkloadOptions {
    WorkloadOptions {
        writers: 8,
        isolations: Isolation::ALL.to_vec(),
        think: Duration::from_millis(25),
        ..WorkloadOptions::default()
    }
}

async fn shop(name: &str, customers: u32) -> Result<World> {
    World::shop(Clusters::shared().await?, name, customers, &MARKETS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_moves_there_and_back_under_writers_at_every_isolation_level() -> Result<()> {
    let world = shop("there_and_back", 600).await?;
    let movers = world.users_of(0, "IN").await?;
    let stayers = world.users_of(0, "CN").await?;
    assert!(movers.len() > 400 && stayers.len() > 20);
    let everybody: Vec<i32> = movers.iter().chain(&stayers).copied().collect();

    let workload = world.writers("beijing", &everybody, busy()).await?;
    more_acknowledged(&workload, 100).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    more_acknowledged(&workload, 100).await?;
    let pauses = workload.pauses();
    let log = workload.stop().await?;
    let summary = ran.summary()?;
    assert_eq!(summary["moved"], movers.len(), "{summary}");
    assert_eq!(summary["mismatches"], 0, "{summary}");
    assert_eq!(summary["verified"], true, "{summary}");
    let there = |user: i32| movers.contains(&user);
    let verdict = world.expect_clean(&log, "beijing", there).await?;
    assert!(
        verdict.acknowledged >= 200 && !pauses.is_empty(),
        "{verdict:?}"
    );
    let homes = world.expect_rest().await?;
    for user in &movers {
        assert_eq!(homes[&user.to_string()], "singapore");
    }
    let no_wal = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    for site in [0, 1] {
        assert_eq!(
            world.value(site, no_wal).await?,
            "0",
            "no slot keeps WAL back"
        );
    }

    world.configure("back.toml", "back", &[("IN", "beijing")])?;
    world.install().await?;
    let workload = world.writers("singapore", &movers, busy()).await?;
    more_acknowledged(&workload, 100).await?;
    let ran = world.apply("back.toml").run().await?.expect(0)?;
    more_acknowledged(&workload, 100).await?;
    let log = workload.stop().await?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    world.expect_clean(&log, "singapore", |_| true).await?;
    let homes = world.expect_rest().await?;
    assert!(homes.values().all(|home| *home == "beijing"));

    // What they left at singapore goes; at home nothing is touched.
    let erase = ["--config", "back.toml", "erase", "--now"];
    world.program(&erase).run().await?.expect(0)?;
    let rows = "SELECT (SELECT count(*) FROM customer) + (SELECT count(*) FROM invoice)
                     + (SELECT count(*) FROM invoice_line)";
    assert_eq!(world.value(1, rows).await?, "0");
    world.expect_clean(&log, "singapore", |_| true).await?;
    Ok(())
}

/// Runs `statements` in one transaction at the site where the guard lets it commit; false where the rows are nowhere
/// in time.
async fn write_at_home(world: &World, statements: &str) -> Result<usize> {
    let sites = [world.application(0).await?, world.application(1).await?];
    let (started, mut site) = (Instant::now(), 0);
    while started.elapsed() < PATIENCE {
        let outcome = sites[site]
            .batch_execute(&format!("BEGIN; {statements}; COMMIT"))
            .await;
        let Err(error) = outcome else {
            return Ok(site);
        };
        sites[site].batch_execute("ROLLBACK").await?;
        match error.code().map(|state| state.code()) {
            Some("40001" | "40P01") => {}
            Some("DM421" | "23503") => site = 1 - site,
            _ => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("no site would take: {statements}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_are_born_or_deleted_meanwhile_are_whole_or_gone() -> Result<()> {
    let world = shop("born_and_deleted", 240).await?;
    let movers = world.users_of(0, "IN").await?;
    let (leaving, writing) = movers.split_at(12);
    let options = WorkloadOptions {
        newcomers: vec![("IN".to_owned(), "beijing".to_owned())],
        newcomers_percent: 10,
        ..busy()
    };
    let workload = world.writers("beijing", writing, options).await?;
    more_acknowledged(&workload, 50).await?;
    let moving = world.apply("domicile.toml").start()?;
    let mut deleted_at = Vec::new();
    for user in leaving {
        let site = write_at_home(
            &world,
            &format!(
                "DELETE FROM invoice_line WHERE invoice_id IN
                     (SELECT invoice_id FROM invoice WHERE customer_id = {user});
                 DELETE FROM invoice WHERE customer_id = {user};
                 DELETE FROM customer WHERE customer_id = {user}"
            ),
        )
        .await?;
        deleted_at.push(site);
        more_acknowledged(&workload, 10).await?;
    }
    moving.end().await?.expect(0)?;
    more_acknowledged(&workload, 50).await?;
    let log = workload.stop().await?;
    // Whoever was born after his market was listed goes now.
    world.apply("domicile.toml").run().await?.expect(0)?;
    let homes = world.expect_rest().await?;
    let moved = |user: i32| homes[&user.to_string()] == "singapore";
    world.expect_clean(&log, "beijing", moved).await?;
    assert!(
        log.users().len() > writing.len(),
        "somebody was born meanwhile"
    );
    for user in log.users() {
        assert!(moved(*user), "user {user} is to live at singapore");
    }
    for user in leaving {
        let home = usize::from(moved(*user));
        let rows = format!("SELECT count(*) FROM customer WHERE customer_id = {user}");
        assert_eq!(world.value(home, &rows).await?, "0", "user {user}");
        let rows = format!("SELECT count(*) FROM invoice WHERE customer_id = {user}");
        assert_eq!(world.value(home, &rows).await?, "0", "user {user}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_does_not_fit_stays_and_the_others_move() -> Result<()> {
    let world = shop("misfits", 120).await?;
    let movers = world.users_of(0, "IN").await?;
    let (taken, tied) = (movers[3], movers[40]);
    let address = format!("user{taken}@example.com");
    let application = world.application(1).await?;
    application
        .execute(
            "INSERT INTO customer (customer_id, first_name, last_name, email, country)
             VALUES (900001, 'Some', 'Body', $1, 'SG')",
            &[&address],
        )
        .await?;
    let clerk =
        "INSERT INTO employee (employee_id, last_name, first_name) VALUES (99, 'New', 'Clerk')";
    world.admin(0).await?.batch_execute(clerk).await?;
    let assign = format!("UPDATE customer SET support_rep_id = 99 WHERE customer_id = {tied}");
    world.application(0).await?.batch_execute(&assign).await?;

    let workload = world.writers("beijing", &movers, busy()).await?;
    more_acknowledged(&workload, 30).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(1)?;
    more_acknowledged(&workload, 30).await?;
    let log = workload.stop().await?;
    let mut aside = ran.set_aside()?;
    aside.sort();
    let of = |user: i32| {
        let found = aside.iter().find(|(aside, _)| *aside == user.to_string());
        found.map_or("", |(_, reason)| reason)
    };
    assert_eq!(aside.len(), 2, "{aside:?}");
    assert!(of(taken).contains("customer_email_key"), "{aside:?}");
    assert!(
        of(tied).contains("customer_support_rep_id_fkey"),
        "{aside:?}"
    );
    assert!(!ran.stdout.contains("example.com") && !ran.stderr.contains("example.com"));
    assert_eq!(ran.summary()?["moved"], movers.len() - 2);
    let stays = |user: i32| user == taken || user == tied;
    world
        .expect_clean(&log, "beijing", |user| !stays(user))
        .await?;
    let homes = world.expect_rest().await?;
    for user in &movers {
        let home = if stays(*user) { "beijing" } else { "singapore" };
        assert_eq!(homes[&user.to_string()], home);
    }
    for user in [taken, tied] {
        let left = format!("SELECT count(*) FROM customer WHERE customer_id = {user}");
        assert_eq!(world.value(1, &left).await?, "0", "nothing of him is left");
    }

    // Mended, they go.
    application
        .batch_execute("DELETE FROM customer WHERE customer_id = 900001")
        .await?;
    world.admin(1).await?.batch_execute(clerk).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_holds_its_own_batch_back_and_no_other() -> Result<()> {
    let world = shop("idle", 400).await?;
    let movers = world.users_of(0, "IN").await?;
    let last = movers[movers.len() - 1];
    let moving = world.apply("domicile.toml").start()?;
    // Past the barrier, before the fence of the last batch.
    let streams = "SELECT count(*) FROM domicile.inbound WHERE state IN ('copied', 'streaming')";
    world.wait_for(1, streams, "1").await?;
    let idle = world.application(0).await?;
    idle.batch_execute(&format!(
        "BEGIN; UPDATE customer SET company = 'late' WHERE customer_id = {last}"
    ))
    .await?;
    let left =
        "SELECT count(*) FROM domicile.resident WHERE state IN ('moving', 'fenced', 'offered')";
    let batch = movers.len() % 16;
    world
        .wait_for(0, left, &if batch == 0 { 16 } else { batch }.to_string())
        .await?;
    idle.batch_execute("COMMIT").await?;
    let ran = moving.end().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    world.expect_rest().await?;
    let company = format!("SELECT company FROM customer WHERE customer_id = {last}");
    assert_eq!(world.value(1, &company).await?, "late");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_stops_the_move_until_it_ends() -> Result<()> {
    // A slot waits for transactions of every database of its server: the other tests' must not.
    let own = Clusters::own("prepared").await?;
    let world = World::shop(own, "prepared", 30, &MARKETS).await?;
    let movers = world.users_of(0, "IN").await?;
    let application = world.application(0).await?;
    application
        .batch_execute(&format!(
            "BEGIN; UPDATE customer SET company = 'prepared' WHERE customer_id = {};
             PREPARE TRANSACTION 'moves-prepared'",
            movers[0]
        ))
        .await?;
    let ran = world.apply("domicile.toml").run().await?.expect(4)?;
    assert!(
        ran.stderr.contains("prepared transaction of shop"),
        "{}",
        ran.stderr
    );
    world.expect_rest_but_running().await?;
    application
        .batch_execute("COMMIT PREPARED 'moves-prepared'")
        .await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    world.expect_rest().await?;
    let company = format!(
        "SELECT company FROM customer WHERE customer_id = {}",
        movers[0]
    );
    assert_eq!(world.value(1, &company).await?, "prepared");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_change_hands_between_moving_users_arrive_once() -> Result<()> {
    let world = shop("hands", 200).await?;
    let movers = world.users_of(0, "IN").await?;
    let workload = world.writers("beijing", &movers[20..], busy()).await?;
    more_acknowledged(&workload, 20).await?;
    let moving = world.apply("domicile.toml").start()?;
    let owned =
        |user: i32| format!("SELECT min(invoice_id) FROM invoice WHERE customer_id = {user}");
    let mut given = Vec::new();
    for pair in movers[..20].chunks(2) {
        let invoice = world.value(0, &owned(pair[0])).await?;
        let gives = format!(
            "UPDATE invoice SET customer_id = {} WHERE invoice_id = {invoice}",
            pair[1]
        );
        // Where he has left, the row is not there to be changed: his new home has it.
        let checked = format!(
            "DO $$ BEGIN {gives}; IF NOT FOUND THEN RAISE EXCEPTION 'elsewhere' USING ERRCODE = 'DM421'; END IF; END $$"
        );
        write_at_home(&world, &checked).await?;
        given.push((invoice, pair[1]));
    }
    let ran = moving.end().await?;
    ensure!(matches!(ran.code, Some(0 | 1)), "{ran}");
    more_acknowledged(&workload, 20).await?;
    let log = workload.stop().await?;
    world.apply_until("domicile.toml", 0, 3).await?;
    world.expect_clean(&log, "beijing", |_| true).await?;
    let homes = world.expect_rest().await?;
    for user in &movers {
        assert_eq!(homes[&user.to_string()], "singapore");
    }
    for (invoice, owner) in given {
        let row = format!(
            "SELECT string_agg(customer_id::text, ',') FROM invoice WHERE invoice_id = {invoice}"
        );
        assert_eq!(world.value(1, &row).await?, owner.to_string());
        let lines = format!("SELECT count(*) FROM invoice_line WHERE invoice_id = {invoice}");
        assert_eq!(world.value(1, &lines).await?, "3");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_operator_is_turned_away_and_changes_nothing() -> Result<()> {
    let world = shop("operators", 60).await?;
    let movers = world.users_of(0, "IN").await?;
    let idle = world.application(0).await?;
    idle.batch_execute(&format!(
        "BEGIN; UPDATE customer SET company = 'held' WHERE customer_id = {}",
        movers[0]
    ))
    .await?;
    let first = world.apply("domicile.toml").start()?;
    let working = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'domicile mover'";
    world.wait_for(0, working, "1").await?;
    let all = "SELECT md5(coalesce(string_agg(r::text, ',' ORDER BY user_key), '')) FROM domicile.resident AS r";
    let before = [world.value(0, all).await?, world.value(1, all).await?];
    let second = world.apply("domicile.toml").run().await?.expect(2)?;
    assert!(
        second.stderr.contains("already running"),
        "{}",
        second.stderr
    );
    let after = [world.value(0, all).await?, world.value(1, all).await?];
    assert_eq!(before, after);
    let moves = "SELECT count(*) FROM domicile.move";
    assert!(["0", "1"].contains(&world.value(0, moves).await?.as_str()));
    idle.batch_execute("COMMIT").await?;
    let ran = first.end().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], movers.len());
    world.expect_rest().await?;
    Ok(())
}

/// Types with a text form that settings change, types whose object ids differ from site to site, values out of line.
fn zoo(key: &str) -> String {
    format!(
        "CREATE TABLE account (id {key} PRIMARY KEY, country text NOT NULL, name text);
         CREATE TABLE zoo (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account_id {key} NOT NULL REFERENCES account,
             n numeric, ts timestamptz, d date, i interval, b bytea, j jsonb, js json, a int[], ta text[],
             m mood, p positive, f8 double precision, f4 real, net inet, u uuid, c char(5), v varchar(10),
             bits bit varying(9), r int4range, doubled bigint GENERATED ALWAYS AS (touched * 2) STORED,
             big text, touched int NOT NULL DEFAULT 0);
         ALTER TABLE zoo ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE note (zoo_id bigint NOT NULL REFERENCES zoo, line int, body text, PRIMARY KEY (zoo_id, line));"
    )
}

const MOOD: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'a \"b\", c');";
const POSITIVE: &str = "CREATE DOMAIN positive AS int CHECK (VALUE > 0);";

const ANIMALS: &str = r#"
INSERT INTO zoo (account_id, n, ts, d, i, b, j, js, a, ta, m, p, f8, f4, net, u, c, v, bits, r, big)
SELECT id, v.*, (SELECT string_agg(md5(x::text || id::text), '') FROM generate_series(1, 32768) AS x)
FROM account, (VALUES
    (1.0, '2024-02-29 23:59:59.999999+05:30'::timestamptz, 'infinity'::date, '1 mon -1 day 00:00:01'::interval,
     '\x00ff'::bytea, '{"b": [1, null], "a": "\u00e9"}'::jsonb, '{"b" : 1,  "a":2}'::json, '{1,NULL,3}'::int[],
     '{"a,b",NULL,"\"q\""}'::text[], 'ok'::mood, 7::positive, 'NaN'::float8, 0.1::float4, '10.0.0.1/8'::inet,
     '6f1f4a6e-0000-4000-8000-000000000001'::uuid, 'ab', 'tab	x', B'101', '[1,5)'::int4range),
    ('NaN'::numeric, '-infinity', '0044-03-15 BC', NULL, '', 'null', '[]', '{{1,2},{3,4}}', '{}',
     'a "b", c', 1, '-0'::float8, 'Infinity', '::1', NULL, '', '', B'', 'empty'),
    (123456789012345678901234567890.000100, NULL, NULL, '-178000000 years', NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, 4.9e-324, NULL, NULL, NULL, NULL, NULL, NULL, NULL)) AS v;
INSERT INTO note SELECT id, 1, 'of ' || id FROM zoo;
"#;

async fn animals_arrive_equal(name: &str, key: &str, users: &[&str]) -> Result<()> {
    let world = World::empty(Clusters::shared().await?, name).await?;
    let source = world.admin(0).await?;
    source
        .batch_execute(&format!("{MOOD}{POSITIVE}{}", zoo(key)))
        .await?;
    let target = world.admin(1).await?;
    // In another order: the types' object ids differ.
    target
        .batch_execute(&format!(
            "CREATE TYPE other AS ENUM ('x'); {POSITIVE}{MOOD}{} ALTER SEQUENCE zoo_id_seq RESTART 1000000",
            zoo(key)
        ))
        .await?;
    for user in users {
        let create = format!("INSERT INTO account VALUES ('{user}', 'IN', 'x')");
        source.batch_execute(&create).await?;
    }
    source.batch_execute(ANIMALS).await?;
    let tables = "zoo = \"account_id\"\nnote = \"zoo_id -> zoo\"\n";
    let user = r#"{ table = "account", key = "id", market = "country" }"#;
    world.write_configuration("domicile.toml", user, tables, "out", &[("IN", "singapore")])?;
    world.install().await?;

    let application = world.application(0).await?;
    let touching = tokio::spawn(touch(application));
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    let touched = touching.await??;
    assert_eq!(ran.summary()?["moved"], users.len());
    world.expect_one_home_each().await?;
    for table in ["account", "zoo", "note"] {
        let all =
            format!("SELECT string_agg(md5(t::text), ',' ORDER BY t::text) FROM {table} AS t");
        assert_eq!(
            world.value(0, &all).await?,
            world.value(1, &all).await?,
            "{table}"
        );
    }
    assert_eq!(
        world.value(1, "SELECT min(length(big)) FROM zoo").await?,
        "1048576"
    );
    let sum = world.value(1, "SELECT sum(touched) FROM zoo").await?;
    assert_eq!(
        sum,
        touched.to_string(),
        "acknowledged changes of a row with 1 MB out of line"
    );
    assert!(touched > 0);
    Ok(())
}

/// Changes a small column of rows with large ones until the users have left; says how many rows it changed.
async fn touch(application: Client) -> Result<u64> {
    let mut touched = 0;
    loop {
        for id in 1..=3 {
            let change = format!("UPDATE zoo SET touched = touched + 1 WHERE id = {id}");
            match application.execute(&change, &[]).await {
                Ok(rows) => touched += rows,
                Err(error) => match error.code().map(|state| state.code()) {
                    Some("40001") => {}
                    Some("DM421") => return Ok(touched),
                    _ => return Err(error.into()),
                },
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_with_uuid_keys_arrive_equal_with_every_type() -> Result<()> {
    let users = [
        "00000000-0000-4000-8000-000000000001",
        "ffffffff-ffff-4fff-bfff-ffffffffffff",
    ];
    animals_arrive_equal("zoo_uuid", "uuid", &users).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_with_text_keys_arrive_equal_with_every_type() -> Result<()> {
    let users = ["anna", "b, \"c\" \\d", "\u{e9}l\u{e8}ve \u{738b}"];
    animals_arrive_equal("zoo_text", "text", &users).await
}
