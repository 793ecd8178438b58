//! A schema with what real ones have and samples lack.

use anyhow::Result;
use model::table::TableName;
use model::{KeyKind, UserKey};
use postgres::catalog::{self, TableKind};
use postgres::census::{census, orphan_rows, users_exist, users_page};
use postgres::classify::{ClassifyError, classify};
use postgres::propose::propose;

use crate::support::{cluster, database, declared, schema};

const ODD: &str = r#"
CREATE SCHEMA "Odd Shop";
CREATE TYPE mood AS ENUM ('calm', 'it''s fine');
CREATE TYPE place AS (city text, code int);
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 90);
CREATE TABLE "Odd Shop"."User" (
    "Id" uuid PRIMARY KEY,
    "Land" text,
    mood mood,
    moods mood[],
    tags text[],
    born place,
    span int4range,
    kind regclass,
    label short_text,
    shout text GENERATED ALWAYS AS (upper("Land")) STORED
);
CREATE TABLE "Odd Shop"."order" (
    a int, b int, owner uuid REFERENCES "Odd Shop"."User", helper uuid REFERENCES "Odd Shop"."User",
    PRIMARY KEY (a, b)
);
CREATE TABLE "Odd Shop".item (
    n bigserial PRIMARY KEY, x int NOT NULL, y int NOT NULL,
    FOREIGN KEY (y, x) REFERENCES "Odd Shop"."order" (b, a)
);
CREATE TABLE "Odd Shop".note (id int NOT NULL, text text, item bigint);
CREATE UNIQUE INDEX note_id ON "Odd Shop".note (id);
ALTER TABLE "Odd Shop".note REPLICA IDENTITY USING INDEX note_id;
CREATE TABLE event (at date NOT NULL, user_id uuid) PARTITION BY RANGE (at);
CREATE TABLE event_old PARTITION OF event FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
CREATE TABLE log (line text);
CREATE UNLOGGED TABLE cache (k int PRIMARY KEY);
CREATE VIEW everyone AS SELECT * FROM "Odd Shop"."User";
INSERT INTO "Odd Shop"."User" ("Id", "Land") VALUES
    ('00000000-0000-0000-0000-00000000000a', 'CN'), ('00000000-0000-0000-0000-00000000000b', NULL);
INSERT INTO "Odd Shop"."order" VALUES (1, 2, '00000000-0000-0000-0000-00000000000a', NULL), (3, 4, NULL, NULL);
INSERT INTO "Odd Shop".item (x, y) VALUES (1, 2), (1, 2), (3, 4);
INSERT INTO "Odd Shop".note VALUES (1, 'hers', 1), (2, 'nobody''s', 99);
"#;

const TABLES: &[(&str, &str)] = &[
    ("Odd Shop.order", "owner"),
    ("Odd Shop.item", "(x, y) -> Odd Shop.order"),
    ("Odd Shop.note", "item -> Odd Shop.item"),
    ("event", "ignore"),
    ("log", "ignore"),
    ("cache", "ignore"),
];

#[tokio::test]
async fn types_keys_and_ways_are_read_for_what_they_are() -> Result<()> {
    let cluster = cluster("odd").await?;
    let session = database(&cluster, "odd", ODD).await?;
    let declared = declared("Odd Shop.User", "Id", Some("lower(\"Land\")"), TABLES);
    let (catalog, home) = schema(&session, &declared).await?;

    assert_eq!(home.users.kind, KeyKind::Uuid);
    assert_eq!(home.users.market.as_deref(), Some("(lower(\"Land\"))"));
    let names: Vec<&str> = home
        .owned
        .iter()
        .map(|table| table.name.name.as_str())
        .collect();
    assert_eq!(names, ["User", "order", "item", "note"]);
    let user = &home.owned[0];
    let portable: Vec<&str> = user
        .columns
        .iter()
        .filter(|column| column.portable_binary)
        .map(|column| column.name.as_str())
        .collect();
    // Arrays of enums, composites and regclass name object ids of this database.
    assert_eq!(
        portable,
        ["Id", "Land", "mood", "tags", "span", "label", "shout"]
    );
    assert!(!user.portable_binary());
    let shout = catalog.tables[&user.name].column("shout").expect("there");
    assert!(shout.column.generated && shout.generation.as_deref() == Some("upper(\"Land\")"));
    let mood = catalog.tables[&user.name].column("mood").expect("there");
    assert_eq!(mood.definition.as_deref(), Some("'calm','it''s fine'"));
    assert_eq!(mood.column.sql_type, "public.mood");

    let item = &home.owned[2];
    assert_eq!(item.ways[0].hops[0].columns, ["x", "y"]);
    assert_eq!(
        item.ways[0].hops[0].parent_columns,
        ["a", "b"],
        "by the foreign key, not by place"
    );
    assert!(item.ways[0].hops[0].enforced);
    let note = &home.owned[3];
    assert_eq!(note.key, ["id"]);
    assert_eq!(note.ways[0].hops.len(), 2);
    assert!(!note.ways[0].hops[0].enforced, "no foreign key");
    assert_eq!(
        catalog.tables[&item.name]
            .column("n")
            .expect("there")
            .sequences
            .len(),
        1
    );
    assert_eq!(
        catalog.tables[&TableName::parse("event_old")].kind,
        TableKind::Leaf
    );
    Ok(())
}

#[tokio::test]
async fn users_without_a_market_and_rows_without_an_owner_are_counted() -> Result<()> {
    let cluster = cluster("oddcensus").await?;
    let mut session = database(&cluster, "odd", ODD).await?;
    let declared = declared("Odd Shop.User", "Id", Some("lower(\"Land\")"), TABLES);
    let (_, home) = schema(&session, &declared).await?;
    let found = census(&mut session, &home, true).await?;
    let counts: Vec<(&str, u64, u64)> = found
        .iter()
        .map(|c| (c.market.as_str(), c.users, c.rows))
        .collect();
    // The user of cn has an order, two items and a note.
    assert_eq!(counts, [("", 1, 1), ("cn", 1, 5)]);

    let orphans = orphan_rows(&mut session, &home).await?;
    let orphans: Vec<(&str, u64)> = orphans
        .iter()
        .map(|(name, rows)| (name.name.as_str(), *rows))
        .collect();
    assert_eq!(orphans, [("item", 1), ("note", 1), ("order", 1)]);

    let page = users_page(&mut session, &home, true, &["".into()], None, 10).await?;
    assert_eq!(
        page,
        [(UserKey::from("00000000-0000-0000-0000-00000000000b"), 1)]
    );
    let spelt = UserKey::from("0000000000000000000000000000000A");
    let presence = users_exist(
        &mut session,
        &home,
        true,
        &[spelt.clone(), "nonsense".into()],
    )
    .await?;
    assert_eq!(presence.len(), 1);
    assert!(presence[&spelt].here && presence[&spelt].market.as_str() == "cn");
    Ok(())
}

#[tokio::test]
async fn every_mistake_is_named_in_one_run() -> Result<()> {
    let cluster = cluster("mistakes").await?;
    let session = database(&cluster, "odd", ODD).await?;
    // A partition's own foreign key, which its root does not have.
    let tie = r#"ALTER TABLE public.event_old
        ADD CONSTRAINT tie FOREIGN KEY (user_id) REFERENCES "Odd Shop"."User""#;
    session.batch_execute(tie).await?;
    let catalog = catalog::read(&session).await?;
    let wrong = declared(
        "Odd Shop.User",
        "Id",
        Some("land"),
        &[
            ("Odd Shop.order", "reference"),
            ("Odd Shop.item", "(x, y) -> Odd Shop.order"),
            ("Odd Shop.note", "text -> Odd Shop.note"),
            ("event", "user_id"),
            ("log", "?"),
            ("gone", "reference"),
            ("everyone", "reference"),
        ],
    );
    let errors = classify(&catalog, &wrong).expect_err("a list of mistakes");
    let table = |name: &str| TableName::parse(name);
    let tied = |error: &ClassifyError| matches!(error, ClassifyError::Tied { table: t, .. } if *t == table("Odd Shop.order"));
    assert_eq!(
        errors.iter().filter(|error| tied(error)).count(),
        2,
        "{errors:#?}"
    );
    for wanted in [
        ClassifyError::Tied {
            table: table("event_old"),
            constraint: "tie".into(),
            parent: table("Odd Shop.User"),
        },
        ClassifyError::NoSuchTable {
            table: table("gone"),
        },
        ClassifyError::Undecided {
            table: table("log"),
        },
        ClassifyError::Unclassified {
            table: table("cache"),
        },
        ClassifyError::NoKey {
            table: table("event"),
        },
        ClassifyError::UnsupportedTable {
            table: table("everyone"),
            form: "a view",
        },
        ClassifyError::ParentNotOwned {
            table: table("Odd Shop.item"),
            parent: table("Odd Shop.order"),
        },
        ClassifyError::Cycle {
            table: table("Odd Shop.note"),
            through: table("Odd Shop.note"),
        },
        ClassifyError::NoMarketColumn {
            table: table("Odd Shop.User"),
            column: "land".into(),
        },
    ] {
        assert!(errors.contains(&wanted), "{wanted:?} in {errors:#?}");
    }
    assert_eq!(errors.len(), 11, "{errors:#?}");
    assert!(errors.iter().all(|error| !error.mend().is_empty()));
    Ok(())
}

#[tokio::test]
async fn what_the_foreign_keys_do_not_settle_is_left_open() -> Result<()> {
    let cluster = cluster("oddpropose").await?;
    let session = database(&cluster, "odd", ODD).await?;
    let catalog = catalog::read(&session).await?;
    let proposal = propose(&catalog, "Odd Shop.User", None, None)?;
    assert_eq!((proposal.key.as_str(), proposal.market), ("Id", None));
    let proposed = |name: &str| {
        let proposed = &proposal.tables[&TableName::parse(name)];
        (proposed.ownership.to_string(), proposed.why.clone())
    };
    let (order, why) = proposed("Odd Shop.order");
    assert_eq!(order, "helper, else owner", "both may be null");
    assert!(why.contains("put the right one first"), "{why}");
    let (item, why) = proposed("Odd Shop.item");
    assert_eq!(item, "(y, x) -> Odd Shop.order");
    assert!(why.contains("may be null"), "{why}");
    let (event, why) = proposed("event");
    assert_eq!(event, "?");
    assert!(why.contains("user_id"), "{why}");
    assert_eq!(proposed("log").0, "?");
    assert!(!proposal.tables.contains_key(&TableName::parse("everyone")));
    assert!(!proposal.tables.contains_key(&TableName::parse("event_old")));
    Ok(())
}
