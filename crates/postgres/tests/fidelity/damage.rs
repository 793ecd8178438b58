//! Damage at the target between copy and verification: each kind is noticed, and laid to the users and the tables
//! that it befell, and to no other.

use std::collections::BTreeMap;

use anyhow::Result;
use postgres::verify;

use crate::world::{World, cluster, key, users};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE member (id bigint PRIMARY KEY, name text);
    CREATE TABLE item (id bigint PRIMARY KEY, owner bigint NOT NULL REFERENCES member, a text, b text, n int,
        f float8, m numeric, i interval, j json, raw bytea, at timestamptz, mood mood, moods mood[], c char(4),
        big text, doubled int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE part (item_id bigint REFERENCES item, n int, body text, PRIMARY KEY (item_id, n));
";

/// Four users of a batch with three items each, of two parts each; and user 9, who is not in it.
const ROWS: &str = "
    INSERT INTO public.member SELECT u, 'n' || u FROM unnest(ARRAY[1, 2, 3, 4, 9]) AS u;
    INSERT INTO public.item SELECT u * 10 + k, u, 'ab', 'c', u * 100 + k, 0, 1.0, '1 day', '{\"a\": 1}', '\\x00ff', '2024-02-29',
        'sad', '{sad,ok}', 'x', repeat(md5(u::text), 9000) FROM public.member AS m(u, name), generate_series(1, 3) AS k;
    UPDATE public.item SET b = '', a = NULL WHERE id % 10 = 3;
    INSERT INTO public.part SELECT id, k, 'p' || id || k FROM public.item, generate_series(1, 2) AS s(k);
";

/// A name, what is done at the target, and who is to be named for which tables.
type Damage = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ONE: &[(&str, &str)] = &[("1", "item")];

const DAMAGE: &[Damage] = &[
    (
        "a bit of a number",
        "UPDATE item SET n = n # 1 WHERE id = 11",
        ONE,
    ),
    (
        "a bit of bytes",
        "UPDATE item SET raw = set_bit(raw, 3, 1 - get_bit(raw, 3)) WHERE id = 11",
        ONE,
    ),
    (
        "a bit of a float: the sign of zero",
        "UPDATE item SET f = '-0' WHERE id = 11",
        ONE,
    ),
    (
        "the last bit of a float",
        "UPDATE item SET f = 5e-324 WHERE id = 11",
        ONE,
    ),
    ("a scale", "UPDATE item SET m = 1.00 WHERE id = 11", ONE),
    (
        "a day for 24 hours",
        "UPDATE item SET i = '24 hours' WHERE id = 11",
        ONE,
    ),
    (
        "white space in json",
        "UPDATE item SET j = '{\"a\":1}' WHERE id = 11",
        ONE,
    ),
    (
        "a microsecond",
        "UPDATE item SET at = at + interval '1 us' WHERE id = 11",
        ONE,
    ),
    ("a label", "UPDATE item SET mood = 'ok' WHERE id = 11", ONE),
    (
        "the order of an array",
        "UPDATE item SET moods = '{ok,sad}' WHERE id = 11",
        ONE,
    ),
    (
        "the bounds of an array",
        "UPDATE item SET moods = '[0:1]={sad,ok}' WHERE id = 11",
        ONE,
    ),
    (
        "a null for nothing",
        "UPDATE item SET b = NULL WHERE id = 13",
        ONE,
    ),
    (
        "nothing for a null",
        "UPDATE item SET a = '' WHERE id = 13",
        ONE,
    ),
    (
        "a null and nothing, exchanged",
        "UPDATE item SET a = b, b = a WHERE id = 13",
        ONE,
    ),
    (
        "a boundary between two columns",
        "UPDATE item SET a = 'a', b = 'bc' WHERE id = 11",
        ONE,
    ),
    (
        "two columns exchanged",
        "UPDATE item SET a = b, b = a WHERE id = 11",
        ONE,
    ),
    (
        "a space at the end",
        "UPDATE item SET a = a || ' ' WHERE id = 11",
        ONE,
    ),
    (
        "a letter out of line",
        "UPDATE item SET big = overlay(big PLACING '_' FROM length(big)) WHERE id = 11",
        ONE,
    ),
    (
        "a placeholder out of line",
        "UPDATE item SET big = NULL WHERE id = 11",
        ONE,
    ),
    (
        "a letter composed otherwise",
        "UPDATE item SET c = e'e\\u0301' WHERE id = 11",
        ONE,
    ),
    (
        "a row gone",
        "DELETE FROM item WHERE id = 11",
        &[("1", "item"), ("1", "part")],
    ),
    (
        "a row more",
        "INSERT INTO item (id, owner) VALUES (77, 1)",
        ONE,
    ),
    (
        "a row twice, under another key",
        "INSERT INTO item (id, owner, a, b, n, f, m, i, j, raw, at, mood, moods, c, big) \
      SELECT 77, owner, a, b, n, f, m, i, j, raw, at, mood, moods, c, big FROM item WHERE id = 11",
        ONE,
    ),
    (
        "one gone and another come",
        "UPDATE item SET id = 77 WHERE id = 11",
        &[("1", "item"), ("1", "part")],
    ),
    (
        "values of two rows exchanged",
        "UPDATE item SET n = 223 - n WHERE id IN (11, 12)",
        ONE,
    ),
    (
        "keys of two rows exchanged",
        "UPDATE item SET id = -id WHERE id IN (11, 12); \
      UPDATE item SET id = 23 + id WHERE id < 0",
        ONE,
    ),
    (
        "values of two users exchanged",
        "UPDATE item SET n = 312 - n WHERE id IN (11, 21)",
        &[("1", "item"), ("2", "item")],
    ),
    (
        "two rows made alike",
        "UPDATE item SET n = 5 WHERE id IN (11, 12)",
        ONE,
    ),
    (
        "a row at another's of the batch",
        "UPDATE item SET owner = 2 WHERE id = 11",
        &[("1", "item"), ("1", "part"), ("2", "item"), ("2", "part")],
    ),
    (
        "a row at a stranger's",
        "UPDATE item SET owner = 9 WHERE id = 11",
        &[("1", "item"), ("1", "part")],
    ),
    (
        "a stranger's row",
        "UPDATE item SET owner = 1 WHERE id = 91",
        &[("1", "item"), ("1", "part")],
    ),
    (
        "all rows of two users exchanged",
        "UPDATE item SET owner = 3 - owner WHERE owner IN (1, 2)",
        &[("1", "item"), ("1", "part"), ("2", "item"), ("2", "part")],
    ),
    (
        "a child elsewhere",
        "UPDATE part SET item_id = 12, n = 7 WHERE item_id = 11 AND n = 1",
        &[("1", "part")],
    ),
    (
        "a child at another user's",
        "UPDATE part SET item_id = 22, n = 7 WHERE item_id = 11 AND n = 1",
        &[("1", "part"), ("2", "part")],
    ),
    (
        "a child gone",
        "DELETE FROM part WHERE item_id = 41 AND n = 2",
        &[("4", "part")],
    ),
    (
        "a child's letter",
        "UPDATE part SET body = upper(body) WHERE item_id = 41 AND n = 2",
        &[("4", "part")],
    ),
    (
        "the user's own row",
        "UPDATE member SET name = name || '.' WHERE id = 3",
        &[("3", "member")],
    ),
    (
        "the user's own row gone",
        "DELETE FROM member WHERE id = 3",
        &[("3", "member")],
    ),
    (
        "a bit for each",
        "UPDATE item SET n = n # 1 WHERE id % 10 = 2",
        &[("1", "item"), ("2", "item"), ("3", "item"), ("4", "item")],
    ),
    (
        "a stranger's letter, which is nobody's here",
        "UPDATE item SET a = 'z' WHERE owner = 9",
        &[],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_noticed_and_laid_to_whom_it_befell() -> Result<()> {
    let tables = [("item", "owner"), ("part", "item_id -> item")];
    let world = World::new(cluster("damage").await?, TABLES, TABLES, &tables).await?;
    world.source.batch_execute(ROWS).await?;
    let (batch, everybody) = (users(&[1, 2, 3, 4]), users(&[1, 2, 3, 4, 9]));
    world.copy(&everybody).await?;
    let [here, there] = world.digests(&batch).await?;
    assert_eq!(here, there);

    let mut reading = world.session("source").await?;
    let tx = reading.transaction().await?;
    let sound = verify::digest_each(&tx, &world.from, &batch, &key()).await?;
    let mut target = world.session("target").await?;
    let mut wrong = Vec::new();
    for (name, sql, expected) in DAMAGE {
        let tx = target.transaction().await?;
        tx.batch_execute(&format!(
            "SET LOCAL search_path = public; SET LOCAL session_replication_role = replica; {sql}"
        ))
        .await?;
        let whole = verify::digest(&tx, &world.to, &batch, &key()).await?;
        let each = verify::digest_each(&tx, &world.to, &batch, &key()).await?;
        tx.rollback().await?;
        let mut named: BTreeMap<(&str, &str), ()> = BTreeMap::new();
        for user in &batch {
            for table in sound[user].differing_tables(&each[user]) {
                named.insert((user.as_str(), table), ());
            }
        }
        let named: Vec<(&str, &str)> = named.into_keys().collect();
        if named != *expected {
            wrong.push(format!("{name}: {named:?}, not {expected:?}"));
        }
        if (whole == here) != expected.is_empty() {
            wrong.push(format!("{name}: the batch as a whole says otherwise"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
