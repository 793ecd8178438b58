//! The zoo: one of everything that applications do with their tables, moved there and back under writers.

mod support;

#[path = "zoo/bundle.rs"]
mod bundle;
#[path = "zoo/writer.rs"]
mod writer;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use bundle::{AUDIT, Kind, Row, TABLES, create};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use support::{Clusters, World};
use writer::{Known, Writers};

const SCHEMA: &str = include_str!("zoo/zoo.sql");
const CLASSIFICATION: &str = include_str!("zoo/tables.toml");

/// Members 1 to 40; the even ones are of market IN, and of these every fourth is written for by nobody.
const MEMBERS: i64 = 40;

fn is_mover(user: i64) -> bool {
    user % 2 == 0
}

fn is_quiet(user: i64) -> bool {
    user % 8 == 0
}

/// Both sites with the schema, members and their bundles at the first, and Domicile installed.
async fn zoo(name: &str) -> Result<(World, writer::World)> {
    let world = World::empty(Clusters::shared().await?, name).await?;
    let country = "INSERT INTO country VALUES ('IN', 'India'); INSERT INTO scratch VALUES (1);";
    let (source, target) = (world.admin(0).await?, world.admin(1).await?);
    source.batch_execute(&format!("{SCHEMA}{country}")).await?;
    // Types under other object ids, and sequences of its own.
    target
        .batch_execute(&format!(
            "CREATE TYPE other AS ENUM ('x'); {SCHEMA}{country}
             ALTER SEQUENCE audit_id_seq RESTART 1000000; ALTER SEQUENCE wide_seq_seq RESTART 1000000"
        ))
        .await?;
    let mut rng = SmallRng::seed_from_u64(7);
    let mut known = writer::World::new();
    let mut sql = String::new();
    for user in 1..=MEMBERS {
        let market = if is_mover(user) { "IN" } else { "CN" };
        sql.push_str(&format!(
            "INSERT INTO member VALUES ({user}, '{market}', 'm{user}@example.com', NULL, 'first');\n"
        ));
        let mut bundles = Vec::new();
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let operation = create(kind, user * 1000 + n as i64 * 10, user, "first", &mut rng);
            for statement in operation.transactions.iter().flatten() {
                sql.push_str(&format!("{statement};\n"));
            }
            bundles.extend(operation.after);
        }
        known.insert(user, Known { site: 0, bundles });
    }
    source
        .batch_execute(&format!("BEGIN; {sql}; COMMIT"))
        .await?;
    let user = r#"{ table = "member", key = "id", market = "market" }"#;
    world.write_configuration(
        "domicile.toml",
        user,
        CLASSIFICATION,
        "out",
        &[("IN", "singapore")],
    )?;
    world.write_configuration(
        "back.toml",
        user,
        CLASSIFICATION,
        "back",
        &[("IN", "beijing")],
    )?;
    world.install().await?;
    for site in [&source, &target] {
        site.batch_execute(
            "GRANT USAGE ON SCHEMA \"Zoo\" TO shop; GRANT ALL ON ALL TABLES IN SCHEMA \"Zoo\" TO shop",
        )
        .await?;
    }
    Ok((world, known))
}

/// The rows of every user at `site`, as that user's owner SQL has it: the row and its `v`, whoever lives where.
async fn rows_at(world: &World, site: usize) -> Result<BTreeMap<(i64, Row), Vec<String>>> {
    let client = world.admin(site).await?;
    let mut found: BTreeMap<(i64, Row), Vec<String>> = BTreeMap::new();
    for (table, key, owner) in TABLES {
        let sql = format!(
            "SELECT ({owner})::bigint, {key}::bigint, t.v FROM {table} AS t WHERE ({owner}) IS NOT NULL"
        );
        for row in client.query(&sql, &[]).await? {
            let of = (row.get(0), (*table, row.get(1)));
            found.entry(of).or_default().push(row.get(2));
        }
    }
    Ok(found)
}

/// How many rows stand acknowledged, besides the user's own.
fn rows_of(known: &Known) -> usize {
    let rows = known.bundles.iter().flat_map(|bundle| &bundle.rows);
    rows.map(|(row, _)| row).collect::<BTreeSet<_>>().len()
}

/// Every acknowledged write stands once at the user's home, and nothing else of his does.
async fn expect_acknowledged(
    world: &World,
    known: &writer::World,
    home: impl Fn(i64) -> usize,
) -> Result<()> {
    let sites = [rows_at(world, 0).await?, rows_at(world, 1).await?];
    let mut wrong = Vec::new();
    for (user, known) in known {
        let mut wanted: BTreeMap<Row, &str> = BTreeMap::new();
        for bundle in &known.bundles {
            wanted.extend(bundle.rows.iter().map(|(row, v)| (*row, v.as_str())));
        }
        wanted.insert(("member", *user), "first");
        let here = sites[home(*user)].range((*user, ("", i64::MIN))..(*user + 1, ("", i64::MIN)));
        let mut here: BTreeMap<Row, &Vec<String>> = here.map(|((_, row), v)| (*row, v)).collect();
        for (row, v) in wanted {
            match here.remove(&row).map(Vec::as_slice) {
                Some([one]) if one == v => {}
                other => wrong.push(format!("user {user}, {row:?}: {other:?} instead of {v}")),
            }
        }
        wrong.extend(
            here.into_iter()
                .map(|(row, v)| format!("user {user}: {row:?} stands, {v:?}")),
        );
    }
    ensure!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// The rows of `users` in every table are the same at both sites, byte by byte as they print.
async fn expect_equal(world: &World, users: &[i64]) -> Result<usize> {
    let mut rows = 0;
    let tables = TABLES
        .iter()
        .map(|(table, _, owner)| (*table, *owner))
        .chain([AUDIT]);
    let sites = [world.admin(0).await?, world.admin(1).await?];
    let settings =
        "SET DateStyle = 'ISO, YMD'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres';
                    SET extra_float_digits = 3; SET bytea_output = 'hex'; SET search_path = public";
    for site in &sites {
        site.batch_execute(settings).await?;
    }
    for (table, owner) in tables {
        let columns = sites[0]
            .query_one(
                "SELECT string_agg('t.' || quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
                &[&table],
            )
            .await?
            .get::<_, String>(0);
        let sql = format!(
            "SELECT ({owner})::bigint, ROW({columns})::text FROM {table} AS t WHERE ({owner}) = ANY ($1) ORDER BY 1, 2"
        );
        let mut texts = Vec::new();
        for site in &sites {
            let found = site.query(&sql, &[&users]).await?;
            let found: Vec<(i64, String)> =
                found.iter().map(|row| (row.get(0), row.get(1))).collect();
            texts.push(found);
        }
        rows += texts[0].len();
        let differs = texts[0].iter().zip(&texts[1]).find(|(a, b)| a != b);
        ensure!(
            texts[0] == texts[1],
            "{table}: {} and {} rows; the first that differ: {differs:?}",
            texts[0].len(),
            texts[1].len()
        );
    }
    Ok(rows)
}

/// Runs `apply` until exactly `aside` stay set aside.
async fn apply_until_only(
    world: &World,
    file: &str,
    aside: &BTreeSet<String>,
) -> Result<Vec<(String, String)>> {
    let mut last = Vec::new();
    for _ in 0..6 {
        let ran = world.apply(file).run().await?;
        ensure!(matches!(ran.code, Some(0 | 1)), "{ran}");
        ensure!(
            !ran.stdout.contains("verification:"),
            "rows differed: {ran}"
        );
        last = ran.set_aside()?;
        eprintln!("set aside: {last:?}");
        if last
            .iter()
            .map(|(user, _)| user.clone())
            .collect::<BTreeSet<_>>()
            == *aside
        {
            return Ok(last);
        }
    }
    anyhow::bail!("still set aside: {last:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zoo_moves_there_and_back_under_writers() -> Result<()> {
    let (world, mut known) = zoo("zoo_all").await?;
    let ran = world.program(&["check", "--json"]).run().await?;
    ensure!(ran.code == Some(0), "{ran}");
    let quiet: writer::World = known.extract_if(.., |user, _| is_quiet(*user)).collect();
    let movers: Vec<i64> = (1..=MEMBERS).filter(|user| is_mover(*user)).collect();
    let urls = [0, 1].map(|n| world.clusters.0[n].url("shop", &world.name));
    let nobody = BTreeSet::new();

    let mut writers = Writers::start(known, urls.clone(), 6, 100_000_000);
    writers.more(60).await?;
    apply_until_only(&world, "domicile.toml", &nobody).await?;
    writers.more(60).await?;
    let known = writers.stop().await?;
    let there = |user: i64| usize::from(is_mover(user));
    expect_acknowledged(&world, &known, there).await?;
    expect_acknowledged(&world, &quiet, there).await?;
    world.expect_one_home_each().await?;
    let quiet_movers: Vec<i64> = quiet.keys().copied().collect();
    ensure!(expect_equal(&world, &quiet_movers).await? > 100);

    let mut writers = Writers::start(known, urls, 6, 200_000_000);
    writers.more(60).await?;
    apply_until_only(&world, "back.toml", &nobody).await?;
    writers.more(60).await?;
    let known = writers.stop().await?;
    expect_acknowledged(&world, &known, |_| 0).await?;
    expect_acknowledged(&world, &quiet, |_| 0).await?;

    // Once more, with nobody writing: what stands there then is what stood here, of everybody.
    apply_until_only(&world, "domicile.toml", &nobody).await?;
    let rows = expect_equal(&world, &movers).await?;
    let acknowledged: usize = known
        .iter()
        .chain(&quiet)
        .filter(|(user, _)| is_mover(**user))
        .map(|(_, known)| 1 + rows_of(known))
        .sum();
    ensure!(
        rows >= acknowledged && acknowledged > 100,
        "{rows} rows were compared, {acknowledged} acknowledged"
    );
    expect_acknowledged(&world, &known, there).await?;
    world.expect_one_home_each().await?;
    let ran = world.program(&["verify"]).run().await?;
    ensure!(ran.code == Some(0), "{ran}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shares_a_row_stays_and_partitions_may_come_meanwhile() -> Result<()> {
    let (world, _) = zoo("zoo_ties").await?;
    let source = world.admin(0).await?;
    // Members 2 and 4 order to one address, and 6 to one of 7's, who stays; 10 has written to 11.
    source
        .batch_execute(
            "INSERT INTO orders (id, member_id, address_id, v) VALUES (902, 2, 4000, 's'), (906, 6, 7000, 's');
             INSERT INTO message VALUES (910, 10, 11, 'tied')",
        )
        .await?;
    let before = rows_at(&world, 0).await?;
    let application = world.application(0).await?;
    let ran = world.apply("domicile.toml").run().await?.expect(1)?;
    let aside: BTreeMap<String, String> = ran.set_aside()?.into_iter().collect();
    let address = "a row of address belongs to another user too";
    for (user, part) in [
        ("2", address),
        ("4", address),
        ("6", address),
        ("10", "message_to_id_fkey"),
    ] {
        let reason = aside.get(user).cloned().unwrap_or_default();
        ensure!(
            reason.contains(part),
            "user {user}: {reason:?}; all: {aside:?}"
        );
    }
    ensure!(aside.len() == 4, "{aside:?}");
    let after = [rows_at(&world, 0).await?, rows_at(&world, 1).await?];
    for user in [2, 4, 6, 10] {
        let of = |rows: &BTreeMap<(i64, Row), Vec<String>>| -> Vec<_> {
            let own = rows.iter().filter(|((owner, _), _)| *owner == user);
            own.map(|(row, v)| (*row, v.clone())).collect()
        };
        ensure!(of(&before) == of(&after[0]), "user {user} is untouched");
        ensure!(
            of(&after[1]).is_empty(),
            "nothing of user {user} is left at the target"
        );
        for table in ["orders", "message"] {
            let owner = if table == "orders" {
                "member_id"
            } else {
                "from_id"
            };
            let write = format!("UPDATE {table} SET v = v WHERE {owner} = {user}");
            application.batch_execute(&write).await?;
        }
    }

    // Mended, they go; and while they do a partition is added, the target first.
    application
        .batch_execute(
            "DELETE FROM orders WHERE id IN (902, 906); DELETE FROM message WHERE id = 910",
        )
        .await?;
    let partition = "CREATE TABLE event_new PARTITION OF event FOR VALUES FROM (200) TO (300);
                     GRANT ALL ON event_new TO shop";
    world.admin(1).await?.batch_execute(partition).await?;
    // Its snapshot is taken, and nothing is read yet.
    let meanwhile = async || {
        source.batch_execute(partition).await?;
        application
            .batch_execute("INSERT INTO event VALUES (901, 250, 'n', 10, 'new')")
            .await?;
        for leaf in ["event_new", "event_early_b", "event_late", "event"] {
            let refused = application
                .batch_execute(&format!("TRUNCATE {leaf} CASCADE"))
                .await;
            let code = refused.as_ref().err().and_then(|error| error.code());
            ensure!(
                code.is_some_and(|code| code.code() == "DM409"),
                "{leaf}: {refused:?}"
            );
        }
        Ok(())
    };
    let ran = world
        .held("domicile.toml", "before-copy", &[], meanwhile)
        .await?
        .expect(0)?;
    ensure!(ran.summary()?["moved"] == 4, "{ran}");
    let row = "SELECT count(*) FROM event_new WHERE member_id = 10 AND v = 'new'";
    ensure!(world.value(1, row).await? == "1");
    ensure!(expect_equal(&world, &[2, 4, 6, 10]).await? > 100);
    world.expect_one_home_each().await
}

/// The forms that ask most of the key, with users known by a key of this type.
async fn a_core_moves(name: &str, key: &str, users: [&str; 3]) -> Result<()> {
    let world = World::empty(Clusters::shared().await?, name).await?;
    let schema = format!(
        "CREATE TABLE member (id {key} PRIMARY KEY, market text NOT NULL, v text);
         CREATE TABLE address (id bigint PRIMARY KEY, v text);
         CREATE TABLE orders (id bigint PRIMARY KEY, member_id {key} NOT NULL REFERENCES member, address_id bigint REFERENCES address);
         CREATE TABLE gift (id bigint PRIMARY KEY, buyer_id {key}, seller_id {key}, order_id bigint REFERENCES orders, v text);"
    );
    let [source, target] = [world.admin(0).await?, world.admin(1).await?];
    source.batch_execute(&schema).await?;
    target.batch_execute(&schema).await?;
    for (n, user) in users.iter().enumerate() {
        let market = if n < 2 { "IN" } else { "CN" };
        source
            .batch_execute(&format!(
                "INSERT INTO member VALUES ('{user}', '{market}', 'v'); INSERT INTO address VALUES ({n}, 'v');
                 INSERT INTO orders VALUES ({n}, '{user}', {n});
                 INSERT INTO gift VALUES ({n}, NULL, '{user}', NULL, 'v'), (10 + {n}, '{user}', NULL, NULL, 'v'),
                     (20 + {n}, NULL, NULL, {n}, 'v'), (30 + {n}, NULL, NULL, NULL, 'v')"
            ))
            .await?;
    }
    let user = r#"{ table = "member", key = "id", market = "market" }"#;
    let tables = "orders = \"member_id\"\naddress = \"<- orders.address_id\"\n\
                  gift = [\"order_id -> orders\", \"buyer_id\", \"seller_id\"]\n";
    world.write_configuration("domicile.toml", user, tables, "out", &[("IN", "singapore")])?;
    world.install().await?;
    let holding = world.admin(1).await?;
    holding
        .batch_execute("BEGIN; LOCK TABLE member IN EXCLUSIVE MODE")
        .await?;
    let moving = world.apply("domicile.toml").start()?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock'";
    world.wait_for(1, waits, "1").await?;
    let application = world.application(0).await?;
    application
        .batch_execute(
            "UPDATE gift SET v = 'late'; UPDATE address SET v = 'late'; UPDATE member SET v = 'late';
             DELETE FROM gift WHERE id = 11",
        )
        .await?;
    holding.batch_execute("COMMIT").await?;
    let ran = moving.end().await?.expect(0)?;
    ensure!(ran.summary()?["moved"] == 2, "{ran}");
    for (table, rows) in [
        ("member", "2"),
        ("address", "2"),
        ("orders", "2"),
        ("gift", "5"),
    ] {
        let all = format!("SELECT count(*) FROM {table}");
        ensure!(world.value(1, &all).await? == rows, "{table}");
        let late = format!(
            "SELECT string_agg(t::text, ',' ORDER BY t::text) FROM {table} AS t WHERE id::text IN \
             (SELECT i FROM unnest($1::text[]) AS i)"
        );
        let ids = target
            .query_one(&format!("SELECT array_agg(id::text) FROM {table}"), &[])
            .await?;
        let ids: Vec<String> = ids.get(0);
        let [here, there] = [
            source.query_one(&late, &[&ids]).await?,
            target.query_one(&late, &[&ids]).await?,
        ];
        ensure!(
            here.get::<_, String>(0) == there.get::<_, String>(0),
            "{table}"
        );
    }
    world.expect_one_home_each().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_forms_move_with_keys_of_every_type() -> Result<()> {
    let uuids = [1, 2, 3].map(|n| format!("00000000-0000-4000-8000-00000000000{n}"));
    a_core_moves("zoo_int", "integer", ["1", "2", "3"]).await?;
    a_core_moves("zoo_key_uuid", "uuid", [&uuids[0], &uuids[1], &uuids[2]]).await?;
    a_core_moves(
        "zoo_key_text",
        "text",
        ["anna", "b, \"c\" \\d", "\u{e9}l\u{e8}ve"],
    )
    .await
}
