//! Digests by statements that a session keeps are those of fresh ones, whatever is done to the tables in between.

use anyhow::{Result, ensure};
use model::UserKey;
use postgres::connect::Session;
use postgres::digest::BatchDigest;
use postgres::kept::{Asks as _, Keeping, Kept};
use postgres::verify::{self, Reader};
use tokio_postgres::types::Type;

use crate::world::{World, cluster, key};

const TABLES: &str = "
    CREATE TABLE member (id int PRIMARY KEY, name text);
    CREATE TABLE item (id int PRIMARY KEY, owner int NOT NULL REFERENCES member, note text);
    CREATE TABLE part (id int PRIMARY KEY, item_id int NOT NULL REFERENCES item, weight int);
    CREATE INDEX item_owner ON item (owner);
    CREATE INDEX part_item ON part (item_id);
    INSERT INTO member SELECT n, 'member ' || n FROM generate_series(1, 20000) AS n;
    INSERT INTO item SELECT n, n, 'item ' || n FROM generate_series(1, 20000) AS n;
    INSERT INTO part SELECT n, n, n % 100 FROM generate_series(1, 20000) AS n;";

/// As often as a server needs to make up its mind for a plan that it keeps, and some.
const OFTEN: usize = 12;

fn some_users(from: usize) -> Vec<UserKey> {
    let users = from..from + 64;
    users.map(|n| UserKey::new(n.to_string())).collect()
}

async fn world(name: &str) -> Result<World> {
    let tables = [("item", "owner"), ("part", "item_id -> item")];
    World::new(cluster(name).await?, TABLES, TABLES, &tables).await
}

async fn kept_digest(
    world: &World,
    session: &mut Session,
    users: &[UserKey],
) -> Result<BatchDigest> {
    let kept = session.kept();
    let tx = session.transaction().await?;
    let reader = Reader::prepare(&tx, &kept, &world.from).await?;
    reader.by_index(&tx).await?;
    Ok(reader.digest(&tx, users, &key()).await?)
}

async fn fresh_digest(world: &World, users: &[UserKey]) -> Result<BatchDigest> {
    let mut session = world.session("source").await?;
    let tx = session.transaction().await?;
    Ok(verify::digest(&tx, &world.from, users, &key()).await?)
}

#[tokio::test]
async fn what_a_kept_statement_reads_is_what_is_there() -> Result<()> {
    let world = world("kept").await?;
    let users = some_users(100);
    let mut session = world.session("source").await?;
    for n in 0..OFTEN {
        let users = some_users(n * 64 + 1);
        let fresh = fresh_digest(&world, &users).await?;
        assert_eq!(fresh.rows(), 3 * 64);
        assert_eq!(kept_digest(&world, &mut session, &users).await?, fresh);
    }
    for harmless in [
        "UPDATE item SET note = 'another' WHERE owner = 100",
        "CREATE INDEX item_note ON item (note)",
        "DROP INDEX item_owner",
        "INSERT INTO part VALUES (30000, 101, 7)",
        "DELETE FROM part WHERE item_id = 102",
        "ALTER TABLE part ADD COLUMN colour text",
        "VACUUM FULL item",
        "ALTER TABLE part RENAME TO piece; CREATE TABLE part AS SELECT id, item_id, weight + 1 AS weight FROM piece",
        "DROP TABLE part; ALTER TABLE piece RENAME TO part",
        "ALTER TABLE item RENAME COLUMN note TO words; ALTER TABLE item ADD COLUMN note text DEFAULT 'unread'",
    ] {
        let admin = world.session("source").await?;
        admin.batch_execute("SET search_path = public").await?;
        // One by one: some are refused together with others.
        for statement in harmless.split("; ") {
            admin.batch_execute(statement).await?;
        }
        let fresh = fresh_digest(&world, &users).await?;
        let kept = kept_digest(&world, &mut session, &users).await?;
        assert_eq!(kept, fresh, "after {harmless}");
    }
    Ok(())
}

#[tokio::test]
async fn a_column_of_another_type_is_an_error_once_and_nothing_else() -> Result<()> {
    let world = world("kept_type").await?;
    let users = some_users(100);
    let mut session = world.session("source").await?;
    for _ in 0..OFTEN {
        kept_digest(&world, &mut session, &users).await?;
    }
    let kept = session.kept();
    let tx = session.transaction().await?;
    let reader = Reader::prepare(&tx, &kept, &world.from).await?;
    drop(tx);
    let wide = "ALTER TABLE public.part ALTER COLUMN weight TYPE bigint";
    world.source.batch_execute(wide).await?;
    let tx = session.transaction().await?;
    let refused = reader.digest(&tx, &users, &key()).await;
    ensure!(
        refused.is_err(),
        "a result of other types was read: {refused:?}"
    );
    drop(tx);
    let again = kept_digest(&world, &mut session, &users).await?;
    assert_eq!(again, fresh_digest(&world, &users).await?);

    let gone = "ALTER TABLE public.part DROP COLUMN weight";
    world.source.batch_execute(gone).await?;
    for _ in 0..2 {
        ensure!(kept_digest(&world, &mut session, &users).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn a_plan_that_is_kept_goes_by_index() -> Result<()> {
    let world = world("kept_plan").await?;
    let scans = "SELECT sum(seq_scan)::bigint FROM pg_stat_user_tables WHERE schemaname = 'public'";
    let mut session = world.session("source").await?;
    let watch = world.session("source").await?;
    let read = async |session: &Session| -> Result<i64> {
        session
            .query("SELECT pg_stat_force_next_flush()", &[])
            .await?;
        // Its own counters are told when the statement after has ended.
        session.query("SELECT 1", &[]).await?;
        Ok(watch.query_one(scans, &[]).await?.get(0))
    };
    let before = read(&session).await?;
    for n in 0..OFTEN {
        kept_digest(&world, &mut session, &some_users(n * 64 + 1)).await?;
    }
    assert_eq!(read(&session).await?, before);
    Ok(())
}

#[tokio::test]
async fn no_more_is_kept_than_the_bound_allows() -> Result<()> {
    let world = world("kept_bound").await?;
    let kept = Kept::default();
    for n in 0..600 {
        let sql = format!("SELECT $1::int + {n}");
        let asked = Keeping::new(&*world.source, &kept);
        let rows = asked.ask(&sql, &[(&1_i32, Type::INT4)]).await?;
        assert_eq!(rows[0].get::<_, i32>(0), n + 1);
    }
    let standing = "SELECT count(*) FROM pg_prepared_statements";
    let standing: i64 = world.source.query_one(standing, &[]).await?.get(0);
    ensure!(standing <= 513, "{standing} statements are kept");
    Ok(())
}
