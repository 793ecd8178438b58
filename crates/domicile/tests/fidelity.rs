//! What the stream tells of a row depends on its replica identity and on what stands out of line: whole moves of such
//! rows while they change. And a target that is damaged between copy and verification.

mod support;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use support::{Clusters, World};
use tokio_postgres::Client;

const ACCOUNT: &str = r#"{ table = "account", key = "id", market = "country" }"#;

/// The moved users.
const USERS: [i64; 6] = [1, 2, 3, 4, 5, 6];

/// The same table under every replica identity, and a child that does not say whose it is.
const IDENTITIES: &str = "
    CREATE TABLE account (id bigint PRIMARY KEY, country text NOT NULL, name text);
    ALTER TABLE account REPLICA IDENTITY FULL;
    CREATE TABLE by_default (id bigint PRIMARY KEY, code text NOT NULL UNIQUE,
        account_id bigint NOT NULL REFERENCES account, v text);
    CREATE TABLE by_index (LIKE by_default INCLUDING ALL, FOREIGN KEY (account_id) REFERENCES account);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
    CREATE TABLE by_full (LIKE by_default INCLUDING ALL, FOREIGN KEY (account_id) REFERENCES account);
    ALTER TABLE by_full REPLICA IDENTITY FULL;
    CREATE TABLE by_nothing (LIKE by_default INCLUDING ALL, FOREIGN KEY (account_id) REFERENCES account);
    ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE kid (id bigint PRIMARY KEY, parent_id bigint NOT NULL
        REFERENCES by_default ON DELETE CASCADE ON UPDATE CASCADE, v text);
    ALTER TABLE kid REPLICA IDENTITY FULL;
    CREATE SEQUENCE more START 1000;
";

const TABLES: [&str; 6] = [
    "account",
    "by_default",
    "by_index",
    "by_full",
    "by_nothing",
    "kid",
];

const OWNERSHIP: &str = "by_default = \"account_id\"\nby_index = \"account_id\"\nby_full = \"account_id\"\n\
    by_nothing = \"account_id\"\nkid = \"parent_id -> by_default\"\n";

const MEND: &str = r#"ALTER TABLE "public"."by_nothing" REPLICA IDENTITY DEFAULT"#;

/// What the application does to the rows of `$U` in `$T`, again and again.
const CHANGES: &[&str] = &[
    "INSERT INTO $T SELECT n, 'c' || n, $U, 'new' FROM nextval('more') AS n",
    "UPDATE $T SET v = v || '.' WHERE account_id = $U",
    "DELETE FROM $T WHERE id = (SELECT min(id) FROM $T WHERE account_id = $U)",
    // A new key under every identity.
    "UPDATE $T SET id = nextval('more'), code = code || '-' WHERE id = (SELECT max(id) FROM $T WHERE account_id = $U)",
    "INSERT INTO kid SELECT nextval('more'), min(id), 'k' FROM by_default WHERE account_id = $U HAVING count(*) > 0",
    "UPDATE kid SET v = v || '.' WHERE parent_id IN (SELECT id FROM by_default WHERE account_id = $U)",
    "DELETE FROM kid WHERE id = (SELECT min(k.id) FROM kid AS k JOIN by_default AS d ON d.id = parent_id WHERE account_id = $U)",
    "INSERT INTO $T SELECT n, 'c' || n, $U, 'newer' FROM nextval('more') AS n",
    "UPDATE account SET name = name || '.' WHERE id = $U",
];

async fn make(name: &str, sql: &str, rows: &str, ownership: &str) -> Result<World> {
    let world = World::empty(Clusters::shared().await?, name).await?;
    for site in [0, 1] {
        world.admin(site).await?.batch_execute(sql).await?;
    }
    world.admin(0).await?.batch_execute(rows).await?;
    world.write_configuration(
        "domicile.toml",
        ACCOUNT,
        ownership,
        "out",
        &[("IN", "singapore")],
    )?;
    Ok(world)
}

/// Runs `statements` in turn for every user until all have left; returns how many were acknowledged.
async fn write_until_gone(application: &Client, statements: &[String]) -> Result<usize> {
    let mut here = BTreeSet::from(USERS);
    let mut done = 0;
    while !here.is_empty() {
        for statement in statements {
            for user in here.clone() {
                let sql = statement.replace("$U", &user.to_string());
                match application.batch_execute(&sql).await {
                    Ok(()) => done += 1,
                    Err(error) => match error.code().map(|state| state.code()) {
                        Some("40001" | "40P01") => {}
                        Some("DM421") => drop(here.remove(&user)),
                        _ => return Err(error).with_context(|| sql),
                    },
                }
            }
        }
    }
    Ok(done)
}

async fn expect_equal(world: &World, tables: &[&str]) -> Result<()> {
    for table in tables {
        let all = format!(
            "SELECT count(*) || md5(string_agg(md5(t::text), ',' ORDER BY t::text)) FROM {table} AS t"
        );
        assert_eq!(
            world.value(0, &all).await?,
            world.value(1, &all).await?,
            "{table}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_every_replica_identity_arrive_while_they_change_or_are_refused() -> Result<()> {
    let rows = "
        INSERT INTO account SELECT u, 'IN', 'n' FROM generate_series(1, 6) AS u;
        INSERT INTO by_default SELECT u * 10 + k, 'c' || u * 10 + k, u, 'v' FROM generate_series(1, 6) AS u, generate_series(1, 9) AS k;
        INSERT INTO by_index SELECT * FROM by_default; INSERT INTO by_full SELECT * FROM by_default;
        INSERT INTO by_nothing SELECT * FROM by_default; INSERT INTO kid SELECT id + 500, id, 'k' FROM by_default;";
    let world = make("identities", IDENTITIES, rows, OWNERSHIP).await?;
    for site in [0, 1] {
        let role =
            "CREATE ROLE mover_identities LOGIN; GRANT USAGE ON SCHEMA public TO mover_identities";
        world.admin(site).await?.batch_execute(role).await?;
    }
    let admin = format!("beijing={}", world.admin_url(0));
    let ran = world
        .program(&["install", "--admin", &admin])
        .run()
        .await?
        .expect(2)?;
    assert!(
        ran.stderr
            .contains("table by_nothing has REPLICA IDENTITY NOTHING"),
        "{ran}"
    );
    let ran = world.program(&["check"]).run().await?;
    assert!(ran.code != Some(0) && ran.stdout.contains(MEND), "{ran}");
    for site in [0, 1] {
        world.admin(site).await?.batch_execute(MEND).await?;
    }
    world.install().await?;

    let application = world.application(0).await?;
    let tables = ["by_default", "by_index", "by_full", "by_nothing"];
    let statements: Vec<String> = CHANGES
        .iter()
        .flat_map(|change| tables.map(|table| change.replace("$T", table)))
        .collect();
    let writer = tokio::spawn(async move { write_until_gone(&application, &statements).await });
    // Some rows change hands meanwhile: their users go again.
    let giver = world.application(0).await?;
    for table in tables {
        let gives = format!(
            "UPDATE {table} SET account_id = 2 WHERE id = (SELECT max(id) FROM {table} WHERE account_id = 1)"
        );
        let _ = giver.batch_execute(&gives).await;
    }
    let (_, runs) = world.apply_until("domicile.toml", 0, 4).await?;
    let written = writer.await??;
    assert!(written > 50 && runs <= 4, "{written} changes, {runs} runs");
    world.expect_one_home_each().await?;
    expect_equal(&world, &TABLES).await?;
    let users = "SELECT count(DISTINCT account_id) FROM by_index";
    assert_eq!(world.value(1, users).await?, "6");
    Ok(())
}

/// Values that cannot be compressed, out of line: of 9 kB, 1 MB and 20 MB.
const DOCUMENTS: &str = "
    CREATE TABLE account (id bigint PRIMARY KEY, country text NOT NULL, name text);
    CREATE TABLE document (id bigint PRIMARY KEY, account_id bigint NOT NULL REFERENCES account, n int NOT NULL DEFAULT 0,
        kept text, packed text, changed text);
    ALTER TABLE document ALTER kept SET STORAGE EXTERNAL;
    CREATE TABLE document_full (LIKE document INCLUDING ALL, FOREIGN KEY (account_id) REFERENCES account);
    ALTER TABLE document_full REPLICA IDENTITY FULL;
    CREATE SEQUENCE more START 1000;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_out_of_line_that_do_not_change_arrive_with_rows_that_do() -> Result<()> {
    let rows = "
        CREATE FUNCTION noise(seed bigint, bytes bigint) RETURNS text LANGUAGE sql AS
            $$ SELECT string_agg(md5(seed || ' ' || x), '') FROM generate_series(1, bytes / 32) AS x $$;
        INSERT INTO account SELECT u, 'IN', 'n' FROM generate_series(1, 6) AS u;
        INSERT INTO document SELECT u * 10 + k, u, 0, noise(u * 10 + k, size), repeat('ab', 300000), noise(k, 9216)
            FROM generate_series(1, 6) AS u, (VALUES (1, 9216), (2, 1048576)) AS s(k, size);
        INSERT INTO document VALUES (99, 6, 0, noise(99, 20 * 1048576), NULL, '');
        INSERT INTO document_full SELECT * FROM document WHERE id % 10 = 1;";
    let world = make(
        "documents",
        DOCUMENTS,
        rows,
        "document = \"account_id\"\ndocument_full = \"account_id\"\n",
    )
    .await?;
    world.install().await?;
    let application = world.application(0).await?;
    let writer = tokio::spawn(async move {
        let statements = [
            "UPDATE document SET n = n + 1 WHERE account_id = $U",
            "UPDATE document_full SET n = n + 1 WHERE account_id = $U",
            "UPDATE document SET changed = reverse(changed) || 'x' WHERE account_id = $U AND id % 10 = 1",
            // A new key, with the values out of line as they are.
            "UPDATE document SET id = nextval('more') WHERE id = (SELECT max(id) FROM document WHERE account_id = $U AND id <> 99)",
            "UPDATE document SET kept = reverse(kept) WHERE account_id = $U AND id % 10 = 1",
        ];
        write_until_gone(&application, &statements.map(str::to_owned)).await
    });
    world
        .wait_for(0, "SELECT count(*) > 3 FROM document WHERE n > 1", "true")
        .await?;
    world.apply("domicile.toml").run().await?.expect(0)?;
    let written = writer.await??;
    assert!(written > 30, "{written}");
    world.expect_one_home_each().await?;
    expect_equal(&world, &["account", "document", "document_full"]).await?;
    let sizes = "SELECT string_agg(DISTINCT length(kept)::text, ' ' ORDER BY length(kept)::text) FROM document";
    assert_eq!(world.value(1, sizes).await?, "1048576 20971520 9216");
    let packed = "SELECT count(*) FROM document WHERE packed = repeat('ab', 300000)";
    assert_eq!(world.value(1, packed).await?, "12");
    Ok(())
}

/// Damage at the target between copy and verification, each to one user of a batch; the tables that he is told of.
#[cfg(feature = "planted-faults")]
const DAMAGE: &[(i32, &str, &str)] = &[
    (2, "UPDATE customer SET support_rep_id = NULL WHERE customer_id = 2", "customer"),
    (3, "UPDATE invoice SET total = total + 0.01 WHERE invoice_id = (SELECT min(invoice_id) FROM invoice WHERE customer_id = 3)", "invoice"),
    (5, "UPDATE invoice SET total = -total WHERE customer_id = 5", "invoice"),
    (7, "DELETE FROM invoice_line WHERE invoice_line_id = (SELECT min(invoice_line_id) FROM invoice_line AS l
            JOIN invoice AS i USING (invoice_id) WHERE customer_id = 7)", "invoice_line"),
    (8, "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) VALUES (987654, 8, now(), 1)", "invoice"),
    (11, "UPDATE invoice_line SET unit_price = unit_price + 1 WHERE invoice_id IN
            (SELECT invoice_id FROM invoice WHERE customer_id = 11)", "invoice_line"),
    (12, "UPDATE customer SET first_name = last_name, last_name = first_name WHERE customer_id = 12", "customer"),
    // His invoice in another's hands: it befalls both.
    (14, "UPDATE invoice SET customer_id = 15 WHERE invoice_id = (SELECT min(invoice_id) FROM invoice WHERE customer_id = 14)",
        "invoice, invoice_line"),
    (15, "SELECT", "invoice, invoice_line"),
    // His invoice at a stranger's, and so its lines.
    (17, "UPDATE invoice SET customer_id = 900001 WHERE invoice_id = (SELECT max(invoice_id) FROM invoice WHERE customer_id = 17)",
        "invoice, invoice_line"),
    // The quantities of two lines exchanged, and made different for it.
    (18, "UPDATE invoice_line AS l SET track_id = o.track_id FROM invoice_line AS o WHERE o.invoice_id = l.invoice_id
            AND o.invoice_line_id <> l.invoice_line_id AND o.track_id <> l.track_id
            AND l.invoice_id = (SELECT min(invoice_id) FROM invoice WHERE customer_id = 18)", "invoice_line"),
];

#[cfg(feature = "planted-faults")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_damaged_on_the_way_stays_and_the_others_move() -> Result<()> {
    let world = World::shop(Clusters::shared().await?, "damaged", 24, &[("IN", 1)]).await?;
    let hold = world.path("hold");
    let moving = world
        .apply("domicile.toml")
        .env("DOMICILE_HOLD", format!("after-drained={}", hold.display()))
        .start()?;
    support::wait_for_file(&hold, true).await?;
    // The mover's role is the one that the guard lets through.
    let mover = support::connect(&world.mover_url(1)).await?;
    mover
        .batch_execute("SET session_replication_role = replica")
        .await?;
    for (user, sql, _) in DAMAGE {
        mover
            .batch_execute(sql)
            .await
            .with_context(|| format!("user {user}"))?;
    }
    std::fs::remove_file(&hold)?;
    let ran = moving.end().await?.expect(1)?;
    let mut aside = ran.set_aside()?;
    aside.sort_by_key(|(user, _)| user.parse::<i32>().unwrap_or(0));
    let told = |tables: &str| format!("verification: rows of {tables} differ");
    let expected: Vec<(String, String)> = DAMAGE
        .iter()
        .map(|(user, _, tables)| (user.to_string(), told(tables)))
        .collect();
    assert_eq!(aside, expected);
    assert_eq!(ran.summary()?["moved"], 24 - DAMAGE.len());
    let homes = world.expect_rest().await?;
    for (user, home) in &homes {
        let stays = aside.iter().any(|(aside, _)| aside == user);
        assert_eq!(
            *home,
            if stays { "beijing" } else { "singapore" },
            "user {user}"
        );
    }
    // Nothing of theirs is left where they do not live, but for the row that stands under a stranger's name.
    let users: Vec<String> = DAMAGE.iter().map(|(user, ..)| user.to_string()).collect();
    let left = format!(
        "SELECT count(*) FROM customer WHERE customer_id IN ({})",
        users.join(",")
    );
    assert_eq!(world.value(1, &left).await?, "0");
    mover
        .batch_execute(
            "DELETE FROM invoice_line WHERE invoice_id IN (SELECT invoice_id FROM invoice WHERE customer_id = 900001);
             DELETE FROM invoice WHERE customer_id = 900001",
        )
        .await?;
    let ran = world.apply("domicile.toml").run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], DAMAGE.len());
    for table in ["customer", "invoice", "invoice_line"] {
        expect_equal(&world, &[table]).await?;
    }
    Ok(())
}
