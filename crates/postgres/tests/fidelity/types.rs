//! Every type, its special values and random ones: by binary COPY, by text COPY, by inserts and by updates from the
//! stream; compared column by column through the types' own send functions, and by our digest.

use anyhow::Result;
use model::table::{literal, quote};
use postgres::connect::{Session, connect};

use crate::kinds::{KINDS, Kind, MADE};
use crate::values::{Chance, random};
use crate::world::{ByKey, World, cluster, users};

/// Rows that each of the three users has in each table.
const ROWS: u64 = 240;

/// The columns, named `c0`, `c1`, ..., with the types that this server has.
async fn available(session: &Session) -> Result<Vec<(String, &'static Kind)>> {
    let mut columns = Vec::new();
    for (n, kind) in KINDS.iter().enumerate() {
        let there = match (kind.extension, kind.sql_type) {
            (Some(extension), _) => {
                let sql = "SELECT count(*) > 0 FROM pg_available_extensions WHERE name = $1";
                session.query_one(sql, &[&extension]).await?.get(0)
            }
            (None, "xml") => session.batch_execute("SELECT '<a/>'::xml").await.is_ok(),
            _ => true,
        };
        if there {
            columns.push((format!("c{n}"), kind));
        }
    }
    Ok(columns)
}

fn tables(columns: &[(String, &Kind)]) -> String {
    let extensions = columns.iter().filter_map(|(_, kind)| kind.extension);
    let extensions: String = extensions
        .map(|e| format!("CREATE EXTENSION {e};"))
        .collect();
    let list = |all: bool| {
        let wanted: Vec<String> = columns
            .iter()
            .filter(|(_, kind)| all || kind.portable)
            .map(|(name, kind)| format!("{name} {}", kind.sql_type))
            .collect();
        wanted.join(", ")
    };
    format!(
        "{extensions} {MADE}
         CREATE TABLE member (id bigint PRIMARY KEY);
         CREATE TABLE in_binary (id bigint PRIMARY KEY, owner bigint NOT NULL REFERENCES member, {});
         CREATE TABLE in_text (id bigint PRIMARY KEY, owner bigint NOT NULL REFERENCES member, {});",
        list(false),
        list(true),
    )
}

const TABLES: [&str; 2] = ["in_binary", "in_text"];

fn names(columns: &[(String, &Kind)], table: &str) -> Vec<String> {
    let wanted = columns
        .iter()
        .filter(|(_, kind)| table == "in_text" || kind.portable);
    wanted.map(|(name, _)| name.clone()).collect()
}

/// Values of every column for the rows of all users, at the source alone.
async fn stage(world: &World, columns: &[(String, &Kind)]) -> Result<()> {
    let typed: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("{name} {}", kind.sql_type))
        .collect();
    world
        .source
        .batch_execute(&format!(
            "SET search_path = public; CREATE TABLE staged (id bigint PRIMARY KEY, owner bigint, {})",
            typed.join(", ")
        ))
        .await?;
    let mut chance = Chance::new(44);
    let mut rows = Vec::new();
    for id in 0..3 * ROWS {
        let nth = id % ROWS;
        let value = |(_, kind): &(String, &Kind), chance: &mut Chance| {
            if let Some(special) = kind.special.get(nth as usize) {
                return literal(special);
            }
            if chance.below(10) == 0 {
                return "NULL".to_owned();
            }
            let value = random(kind.sql_type, chance);
            literal(value.as_deref().unwrap_or_else(|| chance.of(kind.special)))
        };
        let values: Vec<String> = columns
            .iter()
            .map(|column| value(column, &mut chance))
            .collect();
        rows.push(format!("({id}, {}, {})", 1 + id / ROWS, values.join(", ")));
        if rows.len() == 60 {
            let insert = format!(
                "INSERT INTO staged VALUES {}",
                std::mem::take(&mut rows).join(", ")
            );
            world.source.batch_execute(&insert).await?;
        }
    }
    assert!(rows.is_empty(), "a whole number of statements");
    world
        .source
        .batch_execute("SET search_path = pg_catalog, pg_temp")
        .await?;
    Ok(())
}

/// Says of the rows of `user` whose they are, as the guard does.
fn said(table: &str, user: i64) -> String {
    format!(
        "SELECT pg_logical_emit_message(true, 'domicile.row', jsonb_build_object('t',
             'public.{table}'::regclass::oid::bigint, 'k', jsonb_build_array(id::text), 'u', '{user}', 'a', 1)::text)
         FROM public.{table} WHERE owner = {user}"
    )
}

/// Every value of a column by its row, as the type's send function has it: nothing of ours is asked.
async fn sent(session: &Session, table: &str, column: &str, kind: &Kind) -> Result<ByKey> {
    let value = match kind.told_by {
        Some(told) => told.replace('$', column),
        None => {
            let sql = "SELECT t.typsend::regproc::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                       WHERE a.attrelid = $1::text::regclass AND a.attname = $2";
            let send: String = session
                .query_one(sql, &[&format!("public.{table}"), &column])
                .await?
                .get(0);
            format!("encode({send}({column}), 'hex')")
        }
    };
    let sql = format!("SELECT id::text, coalesce({value}, 'null') FROM public.{table}");
    let rows = session.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_type_arrive_bit_by_bit() -> Result<()> {
    let cluster = cluster("types").await?;
    let columns = available(&connect(&cluster.url("postgres", "postgres"), "test").await?).await?;
    let target = format!("CREATE TYPE another AS ENUM ('x'); {}", tables(&columns));
    let owners = [("in_binary", "owner"), ("in_text", "owner")];
    let world = World::new(cluster, &tables(&columns), &target, &owners).await?;
    stage(&world, &columns).await?;

    for table in &world.from.owned {
        let binary = table.name.name != "in_text";
        assert_eq!(table.portable_binary(), binary, "{}", table.name);
        for (name, kind) in columns.iter().filter(|_| table.name.name == "in_text") {
            let column = table.columns.iter().find(|column| column.name == *name);
            assert_eq!(
                column.map(|c| c.portable_binary),
                Some(kind.portable),
                "{}",
                kind.sql_type
            );
        }
    }

    // The first user is copied whole; the third with empty rows, and gets his values by updates; the second by inserts.
    let source = &world.source;
    source
        .batch_execute("INSERT INTO public.member VALUES (1), (2), (3)")
        .await?;
    for table in TABLES {
        let list = names(&columns, table).join(", ");
        source
            .batch_execute(&format!(
                "INSERT INTO public.{table} (id, owner, {list}) SELECT id, owner, {list} FROM public.staged WHERE owner = 1;
                 INSERT INTO public.{table} (id, owner) SELECT id, owner FROM public.staged WHERE owner = 3"
            ))
            .await?;
    }
    assert_eq!(world.copy(&users(&[1, 2, 3])).await?, 3 + 2 * 2 * ROWS);
    for table in TABLES {
        let list = names(&columns, table).join(", ");
        source
            .batch_execute(&format!(
                "BEGIN;
                 INSERT INTO public.{table} (id, owner, {list}) SELECT id, owner, {list} FROM public.staged WHERE owner = 2;
                 {}; COMMIT; BEGIN;
                 UPDATE public.{table} AS t SET ({list}) = (SELECT {list} FROM public.staged AS s WHERE s.id = t.id)
                     WHERE owner = 3; {}; COMMIT",
                said(table, 2),
                said(table, 3)
            ))
            .await?;
    }
    world.follow(2 * 2 * ROWS as usize).await?;

    let mut differ = Vec::new();
    for table in TABLES {
        for (name, kind) in columns
            .iter()
            .filter(|(name, _)| names(&columns, table).contains(name))
        {
            let here = sent(&world.source, table, name, kind).await?;
            let there = sent(&world.target, table, name, kind).await?;
            assert_eq!(here.len() as u64, 3 * ROWS);
            let unlike = here
                .iter()
                .filter(|(id, value)| there.get(*id) != Some(value));
            let mut unlike = unlike.map(|(id, value)| (id, value, there.get(id)));
            if let Some((id, here, there)) = unlike.next() {
                differ.push(format!(
                    "{table}, {}: {} rows, first {id}: {here} {there:?}",
                    kind.sql_type,
                    1 + unlike.count()
                ));
            }
            // The test tests something: there is more than one value.
            assert!(
                here.values()
                    .collect::<std::collections::BTreeSet<_>>()
                    .len()
                    > 1,
                "{}",
                quote(kind.sql_type)
            );
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    let [here, there] = world.digests(&users(&[1, 2, 3])).await?;
    assert_eq!(here.differing_tables(&there), [""; 0]);
    assert_eq!(here.rows(), 3 + 2 * 3 * ROWS);
    Ok(())
}
