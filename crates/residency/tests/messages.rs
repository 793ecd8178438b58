//! What the guard writes into the change stream names the owner of every changed row of a moving user, as the
//! reader of the stream expects it: the reader itself judges here.

mod support;

use anyhow::{Context as _, Result};
use support::Shape;
use support::watched::Watched;

#[tokio::test]
async fn every_change_of_a_moving_user_is_attributed_and_no_other_is() -> Result<()> {
    let watched = Watched::new(Shape::default()).await?;
    let app = watched.site.app().await?;
    for (sql, wanted) in [
        ("INSERT INTO orders VALUES (1, 0, 1)", vec!["orders+1"]),
        ("INSERT INTO line VALUES (1, 1, 1, 'x')", vec!["line+1"]),
        ("INSERT INTO note VALUES (100, 1, 1, 'x')", vec!["note+1"]),
        (
            "UPDATE note SET body = 'y' WHERE id IN (1, 2, 3)",
            vec!["note~1", "note~2"],
        ),
        (
            "UPDATE line SET n = 9 WHERE order_id = 10",
            vec!["line~1", "note~1"],
        ),
        (
            "UPDATE customer SET name = 'z'",
            vec!["customer~1", "customer~2"],
        ),
        ("DELETE FROM note WHERE id = 100", vec!["note-1"]),
        (
            "DELETE FROM orders WHERE id = 1",
            vec!["line-1", "orders-1"],
        ),
        (
            "INSERT INTO orders VALUES (2, 0, 3); DELETE FROM orders WHERE id = 30",
            vec![],
        ),
        (
            "INSERT INTO orders VALUES (10, 5, 1) ON CONFLICT (id) DO UPDATE SET total = 5",
            vec!["orders~1"],
        ),
        // Settled users' rows in the same transaction are left out.
        (
            "DELETE FROM orders WHERE id = 40; UPDATE orders SET total = 1 WHERE id = 20",
            vec!["orders~2"],
        ),
        // A whole user, with everything below him.
        (
            "DELETE FROM customer WHERE id = 2",
            vec!["customer-2", "line-2", "note-2", "orders-2"],
        ),
        (
            "INSERT INTO customer VALUES (2, 'CN', 'back')",
            vec!["customer+2"],
        ),
        // A savepoint that is taken back says nothing.
        (
            "SAVEPOINT a; INSERT INTO orders VALUES (3, 0, 1); ROLLBACK TO a; INSERT INTO orders VALUES (4, 0, 1)",
            vec!["orders+1"],
        ),
    ] {
        assert_eq!(watched.changes(&app, sql).await?, wanted, "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn a_parents_new_key_takes_the_children_along_and_sends_nobody_back() -> Result<()> {
    let watched = Watched::new(Shape::default()).await?;
    let app = watched.site.app().await?;
    let told = watched
        .changes(&app, "UPDATE orders SET id = 77 WHERE id = 10")
        .await?;
    assert_eq!(told, ["line~1", "note~1", "orders~1"]);
    let told = watched
        .changes(&app, "UPDATE orders SET id = 78 WHERE id = 30")
        .await?;
    assert!(told.is_empty(), "a settled user's: {told:?}");
    Ok(())
}

#[tokio::test]
async fn a_child_that_outlives_its_parent_is_told_and_stops_nothing() -> Result<()> {
    let watched = Watched::new(Shape {
        extra: "CREATE TABLE remark (id bigint PRIMARY KEY, order_id bigint REFERENCES orders ON DELETE SET NULL);
                INSERT INTO remark SELECT u, u * 10 FROM generate_series(1, 12) AS u;",
        extra_tables: &[("remark", "order_id -> orders")],
        ..Shape::default()
    })
    .await?;
    let app = watched.site.app().await?;
    // Nobody who moves: nothing to be told, above all nothing that cannot be followed.
    assert!(
        watched
            .changes(&app, "DELETE FROM orders WHERE id = 30")
            .await?
            .is_empty()
    );
    let told = watched
        .changes(&app, "DELETE FROM orders WHERE id = 10")
        .await?;
    assert_eq!(told, ["line-1", "note-1", "orders-1", "remark~1"]);
    Ok(())
}

#[tokio::test]
async fn rows_that_change_hands_send_both_users_back() -> Result<()> {
    let watched = Watched::new(Shape::default()).await?;
    let app = watched.site.app().await?;
    let (one, two) = (Some(("1".to_owned(), 1)), Some(("2".to_owned(), 1)));
    for (sql, before, after) in [
        (
            "UPDATE orders SET customer_id = 2 WHERE id = 10",
            one.clone(),
            two.clone(),
        ),
        (
            "UPDATE orders SET customer_id = 3 WHERE id = 20",
            two.clone(),
            None,
        ),
        (
            "UPDATE orders SET customer_id = 1 WHERE id = 40",
            None,
            one.clone(),
        ),
        (
            "UPDATE line SET order_id = 40, n = 7 WHERE order_id = 50",
            None,
            one.clone(),
        ),
        (
            "UPDATE note SET order_id = 60 WHERE id = 4",
            one.clone(),
            None,
        ),
        // By the key alone: another's row takes the one that a moving user's row left, and the other way round.
        (
            "DELETE FROM note WHERE id = 1; INSERT INTO note VALUES (1, 80, 1, 'x')",
            two.clone(),
            None,
        ),
        (
            "DELETE FROM note WHERE id = 7; INSERT INTO note VALUES (7, 40, 1, 'x')",
            one.clone(),
            None,
        ),
    ] {
        let transaction = watched.after(&app, sql).await?;
        assert!(
            transaction.unresolved.is_empty(),
            "{sql}: {:?}",
            transaction.unresolved
        );
        let departures: Vec<_> = transaction.departures.iter().collect();
        assert!(
            departures
                .iter()
                .any(|d| d.user_before == before && d.user_after == after),
            "{sql}: {departures:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn children_before_their_parents_are_attributed_at_the_commit() -> Result<()> {
    let watched = Watched::new(Shape {
        foreign_key: "DEFERRABLE INITIALLY DEFERRED",
        ..Shape::default()
    })
    .await?;
    let app = watched.site.app().await?;
    let told = watched
        .changes(
            &app,
            "INSERT INTO note VALUES (500, 500, 1, 'x'); INSERT INTO line VALUES (500, 1, 1, 'x');
             INSERT INTO orders VALUES (500, 0, 1)",
        )
        .await?;
    assert_eq!(told, ["line+1", "note+1", "orders+1"]);
    Ok(())
}

#[tokio::test]
async fn keys_of_every_type_read_as_in_the_stream_whatever_the_application_sets() -> Result<()> {
    const KEYS: &[(&str, &str)] = &[
        (
            "at timestamptz, n integer",
            "'2014-11-11 11:11:11.25+08', 1",
        ),
        ("at timestamp, n integer", "'2014-11-11 11:11:11.5', 1"),
        ("d date, s smallint", "'2014-11-12', 2"),
        ("span interval", "'1 day 02:03:04'"),
        ("code char(8)", "'ab'"),
        ("code bpchar", "'ab '"),
        ("code char", "'a'"),
        ("code varchar(9)", "'a b '"),
        ("yes boolean, n bigint", "true, 3"),
        ("half float8, quarter real", "0.1, 0.2"),
        ("much numeric(9,3)", "1.5"),
        ("raw bytea", r"'\x00ff'"),
        ("uid uuid", "'00000000-0000-0000-0000-00000000000A'"),
        ("word domain_yes, said mood", "false, 'it''s'"),
        (
            "pair point_of, r int4range, span tstzrange",
            "'x', '[1,4)', '[2014-01-01,2014-02-01)'",
        ),
        (
            "tags text[], ats timestamptz[]",
            "'{a,\"b c\"}', '{2014-11-11 11:11:11+08}'",
        ),
    ];
    let mut extra = String::from(
        "CREATE DOMAIN domain_yes AS boolean; CREATE TYPE mood AS ENUM ('it''s', 'not'); CREATE DOMAIN point_of AS char(3);",
    );
    let mut tables = Vec::new();
    for (n, (columns, _)) in KEYS.iter().enumerate() {
        let names: Vec<&str> = columns
            .split(", ")
            .filter_map(|c| c.split(' ').next())
            .collect();
        extra.push_str(&format!(
            "CREATE TABLE odd{n} ({columns}, v integer, owner bigint REFERENCES customer ON DELETE CASCADE,
                 PRIMARY KEY ({key}));
             CREATE TABLE below{n} (id integer PRIMARY KEY, {columns},
                 FOREIGN KEY ({key}) REFERENCES odd{n} ON DELETE CASCADE);",
            key = names.join(", ")
        ));
        tables.push((format!("odd{n}"), "owner".to_owned()));
        tables.push((
            format!("below{n}"),
            format!("({}) -> odd{n}", names.join(", ")),
        ));
    }
    // Leaked once, in a test: a shape is a constant everywhere else.
    let tables: Vec<(&'static str, &'static str)> = tables
        .into_iter()
        .map(|(table, owner)| (&*table.leak(), &*owner.leak()))
        .collect();
    let watched = Watched::new(Shape {
        extra: extra.leak(),
        extra_tables: tables.leak(),
        ..Shape::default()
    })
    .await?;
    let app = watched.site.app().await?;
    app.batch_execute(
        "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = 'iso_8601';
         SET extra_float_digits = -5; SET bytea_output = 'escape'",
    )
    .await?;
    for (n, (columns, values)) in KEYS.iter().enumerate() {
        for (sql, wanted) in [
            (
                format!("INSERT INTO odd{n} VALUES ({values}, 1, 1)"),
                vec![format!("odd{n}+1")],
            ),
            (
                format!("UPDATE odd{n} SET v = 2"),
                vec![format!("odd{n}~1")],
            ),
            (
                format!("INSERT INTO below{n} VALUES (1, {values})"),
                vec![format!("below{n}+1")],
            ),
            (
                format!("DELETE FROM odd{n}"),
                vec![format!("below{n}-1"), format!("odd{n}-1")],
            ),
        ] {
            assert_eq!(
                watched
                    .changes(&app, &sql)
                    .await
                    .with_context(|| format!("key {columns}"))?,
                wanted,
                "{columns}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn users_with_uuid_and_text_keys_are_named_as_they_print() -> Result<()> {
    for key in ["uuid", "text", "smallint"] {
        let watched = Watched::new(Shape {
            key,
            ..Shape::default()
        })
        .await?;
        let app = watched.site.app().await?;
        let transaction = watched
            .after(&app, "UPDATE note SET body = 'y' WHERE id = 1")
            .await?;
        let users: Vec<&str> = transaction
            .changes
            .iter()
            .map(|c| c.user.as_str())
            .collect();
        assert_eq!(users, [watched.site.user(1).as_str()], "{key}");
    }
    Ok(())
}
