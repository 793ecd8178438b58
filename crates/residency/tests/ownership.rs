//! Every form of ownership at the guard: whose writes it refuses, and whom its messages name, as the reader of the stream
//! takes them.

mod support;

use anyhow::{Context as _, Result, ensure};
use handoff::record::State;
use model::ownership::{Case, Ownership};
use model::{BatchId, Epoch};
use postgres::transaction::{OwnerChange, Transaction};
use support::watched::Watched;
use support::{ATTEMPT, Shape, there, tried};

/// Rows owned against the arrow, by the first of several columns, by cases, and in partitions; children below each. User u
/// has the rows u, those of the second alternative 100 + u; his purchase is u * 10.
const SCHEMA: &str = "
CREATE TABLE address (id bigint PRIMARY KEY, street text);
CREATE TABLE address_line (id bigint PRIMARY KEY, v text,
    address_id bigint NOT NULL REFERENCES address ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE purchase (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer ON DELETE CASCADE, v text,
    address_id bigint REFERENCES address ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE);
CREATE TABLE gift (id bigint PRIMARY KEY, buyer_id bigint, seller_id bigint, v text);
CREATE TABLE gift_tag (id bigint PRIMARY KEY, v text, gift_id bigint NOT NULL REFERENCES gift ON DELETE CASCADE);
CREATE TABLE ticket (id bigint PRIMARY KEY, purchase_id bigint REFERENCES purchase ON DELETE CASCADE, user_id bigint, v text);
CREATE TABLE ticket_line (id bigint PRIMARY KEY, v text, ticket_id bigint NOT NULL REFERENCES ticket ON DELETE CASCADE);
CREATE TYPE kind AS ENUM ('order', 'user', 'other');
CREATE TABLE remark (id bigint PRIMARY KEY, kind kind NOT NULL, object_id bigint, v text);
CREATE TABLE reply (id bigint PRIMARY KEY, v text, remark_id bigint NOT NULL REFERENCES remark ON DELETE CASCADE);
CREATE TABLE happened (id bigint, at integer, customer_id bigint REFERENCES customer ON DELETE CASCADE, v text, c \"char\",
    PRIMARY KEY (id, at, c)) PARTITION BY RANGE (at);
CREATE TABLE happened_early PARTITION OF happened FOR VALUES FROM (0) TO (100) PARTITION BY LIST (c);
CREATE TABLE happened_early_a PARTITION OF happened_early FOR VALUES IN ('a');
CREATE TABLE happened_early_b (c \"char\" NOT NULL, gone text, v text, customer_id bigint, at integer NOT NULL, id bigint NOT NULL);
ALTER TABLE happened_early_b DROP COLUMN gone;
ALTER TABLE happened_early ATTACH PARTITION happened_early_b FOR VALUES IN ('b');
CREATE TABLE happened_late PARTITION OF happened FOR VALUES FROM (100) TO (200);
CREATE TABLE happened_detail (id bigint PRIMARY KEY, v text, event_id bigint, at integer, c \"char\",
    FOREIGN KEY (event_id, at, c) REFERENCES happened ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE visit (id bigint NOT NULL, customer_id bigint NOT NULL REFERENCES customer ON DELETE CASCADE, v text,
    UNIQUE (id, customer_id)) PARTITION BY RANGE (id);
CREATE TABLE visit_low PARTITION OF visit FOR VALUES FROM (0) TO (100);
INSERT INTO address SELECT u, 's' FROM generate_series(1, 12) AS u;
INSERT INTO address_line SELECT u, 'v', u FROM generate_series(1, 12) AS u;
INSERT INTO purchase SELECT u * 10, u, 'v', u FROM generate_series(1, 12) AS u;
INSERT INTO gift SELECT u, u, 3, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO gift SELECT 100 + u, NULL, u, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO gift_tag SELECT u, 'v', u FROM generate_series(1, 12) AS u;
INSERT INTO gift_tag SELECT 100 + u, 'v', 100 + u FROM generate_series(1, 12) AS u;
INSERT INTO ticket SELECT u, u * 10, NULL, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO ticket SELECT 100 + u, NULL, u, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO ticket_line SELECT u, 'v', u FROM generate_series(1, 12) AS u;
INSERT INTO ticket_line SELECT 100 + u, 'v', 100 + u FROM generate_series(1, 12) AS u;
INSERT INTO remark SELECT u, 'order', u * 10, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO remark SELECT 100 + u, 'user', u, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO remark SELECT 200 + u, 'other', u, 'v' FROM generate_series(1, 12) AS u;
INSERT INTO reply SELECT u, 'v', u FROM generate_series(1, 12) AS u;
INSERT INTO reply SELECT 100 + u, 'v', 100 + u FROM generate_series(1, 12) AS u;
INSERT INTO happened SELECT u, 5, u, 'v', 'a' FROM generate_series(1, 12) AS u;
INSERT INTO happened SELECT 100 + u, 5, u, 'v', 'b' FROM generate_series(1, 12) AS u;
INSERT INTO happened_detail SELECT u, 'v', u, 5, 'a' FROM generate_series(1, 12) AS u;
";

fn forms() -> Vec<(&'static str, Ownership)> {
    let parse = |text: &str| Ownership::parse(text).expect("a form");
    let first = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        Ownership::parse_first(&texts).expect("a list")
    };
    let cases = [
        ("kind = 'order'", "object_id -> purchase"),
        ("kind = 'user'", "object_id"),
    ];
    let cases = cases.map(|(when, owner)| Case::parse(when, owner).expect("a case"));
    vec![
        ("purchase", parse("customer_id")),
        ("address", parse("<- purchase.address_id")),
        ("address_line", parse("address_id -> address")),
        ("gift", first(&["buyer_id", "seller_id"])),
        ("gift_tag", parse("gift_id -> gift")),
        ("ticket", first(&["purchase_id -> purchase", "user_id"])),
        ("ticket_line", parse("ticket_id -> ticket")),
        ("remark", Ownership::Cases(cases.into())),
        ("reply", parse("remark_id -> remark")),
        ("happened", parse("customer_id")),
        ("visit", parse("customer_id")),
        ("happened_detail", parse("(event_id, at, c) -> happened")),
    ]
}

fn shape() -> Shape {
    Shape {
        extra: SCHEMA,
        extra_forms: forms,
        ..Shape::default()
    }
}

/// What did not come out as it should: all of it is shown at once.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless<T: PartialEq + std::fmt::Debug>(&mut self, found: &T, wanted: &T, sql: &str) {
        if found != wanted {
            self.0.push(format!("{sql}: {found:?}, not {wanted:?}"));
        }
    }

    fn end(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{}", self.0.join("\n"));
        Ok(())
    }
}

/// Statements that write for `user`, in every form.
fn writes(user: i64) -> Vec<String> {
    let (purchase, second) = (user * 10, 100 + user);
    let mut all = vec![
        format!("INSERT INTO purchase VALUES (9001, {user}, 'n', NULL)"),
        format!("UPDATE purchase SET v = 'n' WHERE id = {purchase}"),
        format!("UPDATE purchase SET address_id = NULL WHERE id = {purchase}"),
        format!("UPDATE purchase SET customer_id = 3 WHERE id = {purchase}"),
        format!("UPDATE purchase SET customer_id = {user} WHERE id = 30"),
        format!("UPDATE purchase SET address_id = {user} WHERE id = 30"),
        format!("INSERT INTO purchase VALUES (9001, 3, 'n', {user})"),
        format!("DELETE FROM purchase WHERE id = {purchase}"),
        format!("UPDATE address SET id = 9001 WHERE id = {user}"),
        format!("UPDATE gift SET buyer_id = NULL WHERE id = {user}"),
        format!("UPDATE gift SET buyer_id = 3 WHERE id = {second}"),
        format!("UPDATE gift SET buyer_id = {user} WHERE id = 3"),
        format!("UPDATE gift SET buyer_id = NULL, seller_id = {user} WHERE id = 3"),
        format!("INSERT INTO gift VALUES (9001, {user}, 3, 'n'), (9002, 3, {user}, 'n')"),
        format!("INSERT INTO gift VALUES (9001, NULL, {user}, 'n')"),
        format!("INSERT INTO ticket VALUES (9001, {purchase}, NULL, 'n')"),
        format!("INSERT INTO ticket VALUES (9001, {purchase}, 3, 'n')"),
        format!("INSERT INTO ticket VALUES (9001, NULL, {user}, 'n')"),
        format!("UPDATE ticket SET purchase_id = NULL, user_id = 3 WHERE id = {user}"),
        format!("UPDATE ticket SET purchase_id = 30 WHERE id = {second}"),
        format!("UPDATE ticket SET purchase_id = {purchase} WHERE id = 3"),
        format!("INSERT INTO remark VALUES (9001, 'order', {purchase}, 'n')"),
        format!("INSERT INTO remark VALUES (9001, 'user', {user}, 'n')"),
        format!("UPDATE remark SET kind = 'other' WHERE id = {user}"),
        format!("UPDATE remark SET object_id = 30 WHERE id = {user}"),
        format!("UPDATE remark SET object_id = 3 WHERE id = {second}"),
        format!("UPDATE remark SET object_id = {purchase} WHERE id = 3"),
        format!("UPDATE remark SET kind = 'user', object_id = {user} WHERE id = 3"),
        format!("UPDATE remark SET kind = 'user' WHERE id = 200 + {user}"),
        format!("INSERT INTO happened VALUES (9001, 5, {user}, 'n', 'a')"),
        format!("INSERT INTO happened_early_b VALUES ('b', 'n', {user}, 5, 9001)"),
        format!("UPDATE happened SET at = 150 WHERE id = {user}"),
        format!("UPDATE happened SET c = 'b' WHERE id = {user}"),
        format!("UPDATE happened SET customer_id = {user} WHERE id = 3"),
        format!("UPDATE happened_early_b SET v = 'n' WHERE customer_id = {user}"),
        format!("DELETE FROM happened_early WHERE customer_id = {user}"),
        format!("DELETE FROM customer WHERE id = {user}"),
    ];
    for (child, parent, of) in [
        ("address_line", "address", vec![user]),
        ("gift_tag", "gift", vec![user, second]),
        ("ticket_line", "ticket", vec![user, second]),
        ("reply", "remark", vec![user, second]),
    ] {
        for row in of {
            all.extend([
                format!("INSERT INTO {child} VALUES (9001, 'n', {row})"),
                format!("UPDATE {child} SET v = 'n' WHERE id = {row}"),
                format!("UPDATE {child} SET {parent}_id = 3 WHERE id = {row}"),
                format!("UPDATE {child} SET {parent}_id = {row} WHERE id = 3"),
                format!("DELETE FROM {child} WHERE id = {row}"),
                format!(
                    "UPDATE {parent} SET {} = 'n' WHERE id = {row}",
                    if parent == "address" { "street" } else { "v" }
                ),
                format!("DELETE FROM {parent} WHERE id = {row}"),
            ]);
        }
    }
    all.extend([
        format!("UPDATE happened_detail SET v = 'n' WHERE id = {user}"),
        format!("UPDATE happened_detail SET event_id = 3 WHERE id = {user}"),
        format!("UPDATE happened_detail SET event_id = {user} WHERE id = 3"),
        format!("DELETE FROM happened_detail WHERE id = {user}"),
    ]);
    all
}

#[tokio::test]
async fn nobody_writes_for_who_left_or_is_fenced_in_any_form() -> Result<()> {
    let watched = Watched::new(shape()).await?;
    let (site, epoch, to) = (&watched.site, Epoch(7), there());
    let departed = State::Departed {
        to: to.clone(),
        epoch,
        erased: false,
    };
    let fenced = State::Fenced {
        epoch,
        to,
        batch: BatchId::from("m/1"),
        attempt: ATTEMPT,
    };
    site.become_one(8, departed).await?;
    site.become_one(9, fenced).await?;
    let app = site.app().await?;
    let mut wrong = Wrong::default();
    for (user, wanted) in [(8, "DM421"), (9, "40001"), (1, "ok"), (4, "ok")] {
        for sql in writes(user) {
            wrong.unless(
                &tried(&app, &sql).await?.as_str(),
                &wanted,
                &format!("user {user}: {sql}"),
            );
        }
    }
    for sql in [
        "INSERT INTO gift VALUES (9001, 3, 8, 'the other end')",
        "UPDATE gift SET seller_id = 9 WHERE id = 3",
        "INSERT INTO remark VALUES (9001, 'other', 8, 'nobody''s')",
        "UPDATE remark SET v = 'n' WHERE id = 208",
        "INSERT INTO address VALUES (9001, 'nobody''s yet')",
    ] {
        wrong.unless(&tried(&app, sql).await?.as_str(), &"ok", sql);
    }
    // Erased, they are not to come back.
    let mover = site.mover().await?;
    mover
        .batch_execute("DELETE FROM customer WHERE id = 8; DELETE FROM purchase WHERE id = 80; DELETE FROM address WHERE id = 8")
        .await?;
    for (sql, wanted) in [
        (
            "INSERT INTO remark VALUES (9001, 'order', 80, 'n')",
            "DM421",
        ),
        ("UPDATE remark SET object_id = 80 WHERE id = 3", "DM421"),
        (
            "UPDATE remark SET kind = 'user', object_id = 8 WHERE id = 3",
            "DM421",
        ),
        ("INSERT INTO reply VALUES (9001, 'n', 8)", "DM421"),
        ("INSERT INTO purchase VALUES (80, 8, 'n', NULL)", "DM421"),
        ("INSERT INTO address_line VALUES (9001, 'n', 8)", "23503"),
        ("TRUNCATE happened_early_b CASCADE", "DM409"),
        ("TRUNCATE happened CASCADE", "DM409"),
    ] {
        wrong.unless(&tried(&app, sql).await?.as_str(), &wanted, sql);
    }
    wrong.end()
}

#[tokio::test]
async fn every_form_names_the_owner_of_each_changed_row() -> Result<()> {
    let watched = Watched::new(shape()).await?;
    let app = watched.site.app().await?;
    let mut wrong = Wrong::default();
    for (sql, wanted) in [
        // Against the arrow.
        ("UPDATE address SET street = 't' WHERE id IN (1, 2, 3)", vec!["address~1", "address~2"]),
        ("UPDATE address_line SET v = 't' WHERE id IN (1, 3)", vec!["address_line~1"]),
        (
            "INSERT INTO address VALUES (501, 'n'); INSERT INTO address_line VALUES (501, 'n', 501);
             INSERT INTO purchase VALUES (501, 1, 'n', 501)",
            vec!["address+1", "address_line+1", "purchase+1"],
        ),
        (
            "INSERT INTO address VALUES (502, 'n'); UPDATE address SET street = 'm' WHERE id = 502;
             INSERT INTO purchase SELECT 510 + n, 1, 'n', 502 FROM generate_series(1, 2) AS n;
             UPDATE address SET street = 'o' WHERE id = 502",
            vec!["address+1", "address~1", "address~1", "purchase+1", "purchase+1"],
        ),
        ("INSERT INTO address VALUES (503, 'n'); UPDATE purchase SET address_id = 503 WHERE id = 511", vec!["address+1", "purchase~1"]),
        ("UPDATE purchase SET address_id = 502 WHERE id = 501; INSERT INTO address VALUES (507, 'n');
          UPDATE purchase SET address_id = 507 WHERE id = 512; DELETE FROM address WHERE id = 501",
         vec!["address+1", "address-1", "address_line-1", "purchase~1", "purchase~1"]),
        ("DELETE FROM purchase WHERE id = 512; DELETE FROM address WHERE id = 507", vec!["address-1", "purchase-1"]),
        (
            "SET CONSTRAINTS ALL DEFERRED; DELETE FROM purchase WHERE address_id = 502; DELETE FROM address WHERE id = 502",
            vec!["address-1", "purchase-1"],
        ),
        ("DELETE FROM address_line WHERE id = 2; DELETE FROM remark WHERE id = 2; DELETE FROM purchase WHERE id = 20; DELETE FROM address WHERE id = 2",
         vec!["address-2", "address_line-2", "purchase-2", "remark-2", "reply-2", "ticket-2", "ticket_line-2"]),
        ("DELETE FROM address WHERE id = 503", vec!["address-1", "purchase~1"]),
        ("INSERT INTO address VALUES (504, 'n'), (505, 'n'); INSERT INTO purchase VALUES (504, 3, 'n', 504)", vec![]),
        ("INSERT INTO address VALUES (506, 'n'); SAVEPOINT a; INSERT INTO purchase VALUES (520, 1, 'n', 506); RELEASE a;
          SAVEPOINT b; INSERT INTO purchase VALUES (521, 1, 'n', 506); RELEASE b",
         vec!["address+1", "purchase+1", "purchase+1"]),
        // The first of several.
        ("INSERT INTO gift VALUES (501, 1, 3, 'n'), (502, 3, 1, 'n'), (503, NULL, 2, 'n'), (504, NULL, NULL, 'n')", vec!["gift+1", "gift+2"]),
        ("UPDATE gift SET seller_id = 4 WHERE id IN (1, 3)", vec!["gift~1"]),
        ("INSERT INTO gift_tag VALUES (501, 'n', 501), (502, 'n', 502), (503, 'n', 503), (504, 'n', 504)", vec!["gift_tag+1", "gift_tag+2"]),
        ("DELETE FROM gift WHERE id > 500", vec!["gift-1", "gift-2", "gift_tag-1", "gift_tag-2"]),
        ("INSERT INTO ticket VALUES (501, 10, 3, 'n'), (502, NULL, 1, 'n'), (503, 30, 1, 'n'); INSERT INTO ticket_line VALUES (501, 'n', 501), (502, 'n', 502)",
         vec!["ticket+1", "ticket+1", "ticket_line+1", "ticket_line+1"]),
        ("UPDATE ticket SET purchase_id = 10 WHERE id = 502", vec!["ticket~1"]),
        // By cases.
        ("INSERT INTO remark VALUES (501, 'order', 10, 'n'), (502, 'user', 1, 'n'), (503, 'user', 3, 'n'), (504, 'other', 1, 'n')", vec!["remark+1", "remark+1"]),
        ("INSERT INTO reply VALUES (501, 'n', 501), (502, 'n', 502), (503, 'n', 503), (504, 'n', 504)", vec!["reply+1", "reply+1"]),
        ("UPDATE remark SET kind = 'order', object_id = 10 WHERE id = 502", vec!["remark~1"]),
        ("INSERT INTO reply VALUES (601, 'n', 501); INSERT INTO remark VALUES (601, 'order', 601, 'n'); INSERT INTO reply VALUES (602, 'n', 601);
          INSERT INTO purchase VALUES (601, 1, 'n', NULL)", vec!["purchase+1", "remark+1", "reply+1", "reply+1"]),
        ("INSERT INTO remark VALUES (603, 'order', 603, 'n'); INSERT INTO reply VALUES (603, 'n', 603); INSERT INTO purchase VALUES (603, 3, 'n', NULL)", vec![]),
        ("INSERT INTO remark VALUES (604, 'order', 604, 'dangles'); INSERT INTO reply VALUES (604, 'n', 604)", vec![]),
        ("UPDATE remark SET v = 'dangles still' WHERE id = 604; DELETE FROM reply WHERE id = 604", vec![]),
        ("DELETE FROM remark WHERE id = 601; DELETE FROM purchase WHERE id = 601", vec!["purchase-1", "remark-1", "reply-1"]),
        ("DELETE FROM purchase WHERE id = 10; DELETE FROM remark WHERE object_id = 10 AND kind = 'order'",
         vec!["purchase-1", "remark-1", "remark-1", "remark-1", "reply-1", "reply-1", "reply-1", "reply-1", "ticket-1", "ticket-1", "ticket-1", "ticket_line-1", "ticket_line-1", "ticket_line-1"]),
    ] {
        let found = watched.after(&app, sql).await?;
        if sql.contains("id = 10;") {
            // The address that the purchase pointed at stays, and is nobody's now.
            wrong.unless(&users(&found), &(vec!["1".to_owned()], vec![]), sql);
            continue;
        }
        wrong.unless(&found.unresolved, &vec![], sql);
        wrong.unless(&found.departures, &vec![], sql);
        wrong.unless(&watched.told(&found), &wanted.iter().map(ToString::to_string).collect(), sql);
    }
    wrong.end()
}

/// Who is sent back, before and after.
fn users(found: &Transaction) -> (Vec<String>, Vec<String>) {
    let of = |pick: fn(&OwnerChange) -> Option<&(String, i64)>| {
        let mut users: Vec<String> = found
            .departures
            .iter()
            .filter_map(pick)
            .map(|(user, _)| user.clone())
            .collect();
        users.sort();
        users.dedup();
        users
    };
    (
        of(|d| d.user_before.as_ref()),
        of(|d| d.user_after.as_ref()),
    )
}

#[tokio::test]
async fn rows_that_come_or_go_by_another_rows_change_send_the_user_back() -> Result<()> {
    let watched = Watched::new(shape()).await?;
    let app = watched.site.app().await?;
    let mut wrong = Wrong::default();
    app.batch_execute(
        "INSERT INTO address VALUES (700, 'nobody''s'), (701, 'nobody''s'), (702, 'nobody''s');
         INSERT INTO remark VALUES (700, 'order', 700, 'dangles');
         INSERT INTO purchase VALUES (31, 3, 'n', 3), (41, 4, 'n', NULL)",
    )
    .await?;
    for (sql, before, after) in [
        // An address that stood there, of nobody's.
        (
            "INSERT INTO purchase VALUES (701, 1, 'n', 700)",
            vec![],
            vec!["1"],
        ),
        (
            "UPDATE purchase SET address_id = 701 WHERE id = 20",
            vec!["2"],
            vec!["2"],
        ),
        // Of one who stays.
        (
            "UPDATE purchase SET address_id = 3 WHERE id = 701",
            vec!["1"],
            vec!["1"],
        ),
        (
            "INSERT INTO purchase VALUES (702, 2, 'n', 3)",
            vec!["1"],
            vec!["2"],
        ),
        (
            "UPDATE purchase SET address_id = 1 WHERE id = 41",
            vec!["1"],
            vec![],
        ),
        // Shared, it is written.
        (
            "UPDATE address SET street = 'shared' WHERE id = 3",
            vec!["1", "2"],
            vec![],
        ),
        (
            "UPDATE address_line SET v = 'shared' WHERE id = 3",
            vec!["1", "2"],
            vec![],
        ),
        // Left behind.
        (
            "UPDATE purchase SET address_id = NULL WHERE id = 20",
            vec!["2"],
            vec![],
        ),
        ("DELETE FROM purchase WHERE id = 10", vec!["1"], vec![]),
        (
            "INSERT INTO remark VALUES (703, 'order', 702, 'x')",
            vec![],
            vec![],
        ),
        ("DELETE FROM purchase WHERE id = 702", vec!["2"], vec![]),
        // A remark that waited for its purchase.
        (
            "INSERT INTO purchase VALUES (700, 1, 'n', NULL)",
            vec![],
            vec!["1"],
        ),
        (
            "UPDATE purchase SET id = 7000 WHERE id = 700",
            vec!["1"],
            vec![],
        ),
        (
            "UPDATE gift SET buyer_id = NULL WHERE id = 1",
            vec!["1"],
            vec![],
        ),
        (
            "UPDATE gift SET buyer_id = 2 WHERE id = 101",
            vec!["1"],
            vec!["2"],
        ),
        (
            "UPDATE ticket SET purchase_id = 7000 WHERE id = 3",
            vec![],
            vec!["1"],
        ),
        (
            "UPDATE remark SET kind = 'user' WHERE id = 202",
            vec![],
            vec!["2"],
        ),
        (
            "UPDATE remark SET kind = 'other' WHERE id = 102",
            vec!["2"],
            vec![],
        ),
        (
            "UPDATE happened SET customer_id = 3 WHERE id = 1",
            vec!["1"],
            vec![],
        ),
        (
            "UPDATE happened SET customer_id = 1, at = 150 WHERE id = 3",
            vec![],
            vec!["1"],
        ),
        (
            "UPDATE happened_detail SET event_id = 4 WHERE id = 2",
            vec!["2"],
            vec![],
        ),
    ] {
        let found = watched
            .after(&app, sql)
            .await
            .with_context(|| sql.to_owned())?;
        wrong.unless(&found.unresolved, &vec![], sql);
        let all = |(mut a, b): (Vec<String>, Vec<String>)| {
            a.extend(b);
            a.sort();
            a.dedup();
            a
        };
        let wanted = all((
            before.iter().map(ToString::to_string).collect(),
            after.iter().map(ToString::to_string).collect(),
        ));
        wrong.unless(&all(users(&found)), &wanted, sql);
        for departure in found
            .departures
            .iter()
            .flat_map(|d| [&d.user_before, &d.user_after])
            .flatten()
        {
            let named = (["1", "2"].contains(&departure.0.as_str()), departure.1);
            wrong.unless(&named, &(true, ATTEMPT.0), sql);
        }
    }
    wrong.end()
}

#[tokio::test]
async fn rows_of_partitions_are_told_in_the_name_of_their_root() -> Result<()> {
    let watched = Watched::new(shape()).await?;
    let app = watched.site.app().await?;
    let admin = watched.site.session("postgres").await?;
    for (sql, wanted) in [
        (
            "INSERT INTO happened VALUES (501, 5, 1, 'n', 'b'), (502, 5, 3, 'n', 'b')",
            vec!["happened+1"],
        ),
        (
            "INSERT INTO happened_early_b VALUES ('b', 'n', 2, 6, 503)",
            vec!["happened+2"],
        ),
        (
            "UPDATE happened SET v = 'o' WHERE id > 500",
            vec!["happened~1", "happened~2"],
        ),
        (
            "UPDATE happened SET at = 7 WHERE id = 1",
            vec!["happened_detail~1", "happened~1"],
        ),
        // Into another partition: a deletion and an insertion, and the child follows.
        (
            "UPDATE happened SET c = 'b' WHERE id = 1",
            vec!["happened+1", "happened-1", "happened_detail~1"],
        ),
        (
            "UPDATE happened SET at = 150 WHERE id = 501",
            vec!["happened+1", "happened-1"],
        ),
        (
            "INSERT INTO happened_detail VALUES (501, 'n', 501, 150, 'b')",
            vec!["happened_detail+1"],
        ),
        (
            "DELETE FROM happened WHERE id = 501",
            vec!["happened-1", "happened_detail-1"],
        ),
        (
            "DELETE FROM happened_early WHERE id = 503",
            vec!["happened-2"],
        ),
    ] {
        assert_eq!(
            watched
                .changes(&app, sql)
                .await
                .with_context(|| sql.to_owned())?,
            wanted,
            "{sql}"
        );
    }
    // Known by a unique index, which each of them has of its own.
    admin
        .batch_execute(
            "CREATE TABLE visit_high PARTITION OF visit FOR VALUES FROM (100) TO (200); GRANT ALL ON visit_high TO PUBLIC",
        )
        .await?;
    for id in [1, 101] {
        for (sql, wanted) in [
            (
                format!("INSERT INTO visit VALUES ({id}, 1, 'n')"),
                "visit+1",
            ),
            (
                format!("UPDATE visit SET v = 'm' WHERE id = {id}"),
                "visit~1",
            ),
            (format!("DELETE FROM visit WHERE id = {id}"), "visit-1"),
        ] {
            assert_eq!(
                watched
                    .changes(&app, &sql)
                    .await
                    .with_context(|| sql.clone())?,
                [wanted],
                "{sql}"
            );
        }
    }
    // One that comes meanwhile has the guard too.
    admin
        .batch_execute(
            "CREATE TABLE happened_new PARTITION OF happened FOR VALUES FROM (200) TO (300);
             GRANT ALL ON happened_new TO PUBLIC",
        )
        .await?;
    assert_eq!(
        watched
            .changes(&app, "INSERT INTO happened VALUES (600, 250, 1, 'n', 'c')")
            .await?,
        ["happened+1"]
    );
    assert_eq!(
        watched
            .changes(&app, "UPDATE happened SET at = 150 WHERE id = 600")
            .await?,
        ["happened+1", "happened-1"]
    );
    for leaf in [
        "happened_new",
        "happened_early_b",
        "happened_late",
        "happened",
    ] {
        assert_eq!(
            tried(&app, &format!("TRUNCATE {leaf} CASCADE")).await?,
            "DM409",
            "{leaf}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_row_is_told_with_its_owner_while_another_hand_points_it_elsewhere() -> Result<()> {
    let watched = Watched::new(shape()).await?;
    let (site, admin) = (&watched.site, watched.site.session("postgres").await?);
    let (writer, other) = (site.app().await?, site.app().await?);
    let waiter = support::pid(&writer).await?;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        // Purchase 10 of user 1, who moves, points at address 1; it is to go to 3, who stays, or to point elsewhere.
        for (elsewhere, write) in [
            (
                "UPDATE purchase SET address_id = NULL WHERE id = 10",
                "UPDATE address SET street = 'late' WHERE id = 1",
            ),
            (
                "UPDATE purchase SET customer_id = 3 WHERE id = 10",
                "UPDATE address SET street = 'late' WHERE id = 1",
            ),
            (
                "UPDATE purchase SET customer_id = 3 WHERE id = 10",
                "UPDATE address_line SET v = 'late' WHERE id = 1",
            ),
            (
                "UPDATE purchase SET customer_id = 3 WHERE id = 10",
                "UPDATE remark SET v = 'late' WHERE id = 1",
            ),
            (
                "UPDATE purchase SET customer_id = 3 WHERE id = 10",
                "UPDATE ticket_line SET v = 'late' WHERE id = 1",
            ),
        ] {
            // At READ COMMITTED the writer may find the new owner when it has waited, and write for him.
            let handed = level == "READ COMMITTED" && elsewhere.contains("customer_id");
            other.batch_execute(&format!("BEGIN; {elsewhere}")).await?;
            writer
                .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
                .await?;
            let both = async {
                let waits = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = {waiter} AND wait_event_type = 'Lock'"
                );
                support::until(&admin, "the writer waits", &waits).await?;
                other.batch_execute("COMMIT").await?;
                anyhow::Ok(())
            };
            let (said, waited) = tokio::join!(support::outcome(&writer, write), both);
            waited.with_context(|| format!("{level}: {elsewhere}: {write}: {said}"))?;
            writer.batch_execute("ROLLBACK").await?;
            ensure!(
                said == "40001" || said == "ok" && handed,
                "{level}: {elsewhere}: {write}: {said}"
            );
            // The other hand comes second: it waits for the writer, and the stream has both.
            admin
                .batch_execute("UPDATE purchase SET customer_id = 1, address_id = 1 WHERE id = 10")
                .await?;
            watched.transactions().await?;
            writer
                .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; {write}"))
                .await?;
            let second = support::pid(&other).await?;
            let both = async {
                let waits = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = {second} AND wait_event_type = 'Lock'"
                );
                support::until(&admin, "the other waits", &waits).await?;
                writer.batch_execute("COMMIT").await?;
                anyhow::Ok(())
            };
            let (said, waited) = tokio::join!(support::outcome(&other, elsewhere), both);
            waited.with_context(|| format!("{level}: {write}: {elsewhere}: {said}"))?;
            ensure!(said == "ok", "{level}: {write}: {elsewhere}: {said}");
            let found = watched.transactions().await?;
            let written = found
                .iter()
                .flat_map(|t| &t.changes)
                .any(|change| change.user == "1");
            let sent_back = found.iter().flat_map(|t| &t.departures).count();
            ensure!(
                written && sent_back > 0,
                "{level}: {write}, then {elsewhere}: {found:?}"
            );
            admin
                .batch_execute("UPDATE purchase SET customer_id = 1, address_id = 1 WHERE id = 10")
                .await?;
            watched.transactions().await?;
        }
    }
    Ok(())
}
