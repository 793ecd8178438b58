//! The guard refuses every write for a user who does not live here, in whatever form it comes, and no other.

mod support;

use anyhow::{Context as _, Result};
use futures_util::SinkExt as _;
use handoff::record::State;
use residency::gateways;
use support::{Shape, Site, outcome, refusal, states, there, tried};
use tokio_postgres::Client;

/// Forms that a settled and a moving user may write in; `$U` is his number. Number 12 simply
/// lives here, at the other end of rows that change hands.
const FORMS: &[(&str, &str)] = &[
    (
        "insert",
        "INSERT INTO orders VALUES (nextval('more'), 0, $U)",
    ),
    ("update", "UPDATE orders SET total = 1 WHERE id = $U0"),
    ("delete", "DELETE FROM orders WHERE id = $U0"),
    (
        "re-home away",
        "UPDATE orders SET customer_id = 12 WHERE id = $U0",
    ),
    (
        "re-home to",
        "UPDATE orders SET customer_id = $U WHERE id = 120",
    ),
    (
        "insert or update",
        "INSERT INTO orders VALUES ($U0, 5, $U) ON CONFLICT (id) DO UPDATE SET total = excluded.total",
    ),
    (
        "merge: update",
        "MERGE INTO orders AS o USING (SELECT $U0 AS id) AS s ON o.id = s.id WHEN MATCHED THEN UPDATE SET total = 2",
    ),
    (
        "merge: insert",
        "MERGE INTO orders AS o USING (SELECT 0 AS id) AS s ON o.id = s.id \
         WHEN NOT MATCHED THEN INSERT VALUES (nextval('more'), 2, $U)",
    ),
    (
        "merge: delete",
        "MERGE INTO orders AS o USING (SELECT $U0 AS id) AS s ON o.id = s.id WHEN MATCHED THEN DELETE",
    ),
    (
        "with",
        "WITH gone AS (DELETE FROM note WHERE id = $U RETURNING order_id) SELECT * FROM gone",
    ),
    (
        "with that nobody reads",
        "WITH more AS (INSERT INTO orders VALUES (nextval('more'), 0, $U)) SELECT 1",
    ),
    ("child insert", "INSERT INTO line VALUES ($U0, 2, 1, 'x')"),
    (
        "child update",
        "UPDATE line SET what = 'y' WHERE order_id = $U0",
    ),
    ("child delete", "DELETE FROM line WHERE order_id = $U0"),
    (
        "child re-homed away",
        "UPDATE line SET order_id = 120, n = 7 WHERE order_id = $U0",
    ),
    (
        "child re-homed to",
        "UPDATE line SET order_id = $U0, n = 7 WHERE order_id = 120",
    ),
    (
        "grandchild insert",
        "INSERT INTO note VALUES (nextval('more'), $U0, 1, 'x')",
    ),
    (
        "grandchild update",
        "UPDATE note SET body = 'y' WHERE id = $U",
    ),
    ("grandchild delete", "DELETE FROM note WHERE id = $U"),
    (
        "grandchild re-homed away",
        "UPDATE note SET order_id = 120 WHERE id = $U",
    ),
    (
        "grandchild re-homed to",
        "UPDATE note SET order_id = $U0 WHERE id = 12",
    ),
    (
        "user update",
        "UPDATE customer SET name = 'm' WHERE id = $U",
    ),
    (
        "user delete, with a cascade",
        "DELETE FROM customer WHERE id = $U",
    ),
    (
        "user insert or update",
        "INSERT INTO customer VALUES ($U, 'CN', 'x') ON CONFLICT (id) DO UPDATE SET name = 'x'",
    ),
    (
        "parent's key, with a cascade",
        "UPDATE orders SET id = nextval('more') WHERE id = $U0",
    ),
];

fn of(form: &str, user: i64) -> String {
    form.replace("$U", &user.to_string())
}

/// The SQLSTATE that a write for a user in `state` gets.
fn expected(state: &State) -> &'static str {
    match state {
        State::Settled { .. } | State::Moving { .. } => "ok",
        State::Fenced { .. } | State::Offered { .. } => "40001",
        State::Departed { .. } | State::Arriving { .. } | State::Clearing { .. } => "DM421",
        State::Lost { .. } => "DM423",
    }
}

/// A home with one user in each state, from number 1 on; number 11 has no record.
async fn everybody() -> Result<(Site, Vec<(i64, State)>)> {
    let site = Site::new().await?;
    let users: Vec<(i64, State)> = (1..).zip(states()).collect();
    for (user, state) in &users {
        site.become_one(*user, state.clone()).await?;
    }
    Ok((site, users))
}

async fn all_forms(app: &Client, users: &[(i64, State)]) -> Result<()> {
    let mut wrong = Vec::new();
    for (user, state) in users {
        for (name, form) in FORMS {
            let said = tried(app, &of(form, *user)).await?;
            if said != expected(state) {
                wrong.push(format!("{name} of a {} user: {said}", state.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[tokio::test]
async fn every_form_of_writing_is_refused_exactly_where_the_user_does_not_live() -> Result<()> {
    let (site, users) = everybody().await?;
    let app = site.app().await?;
    all_forms(&app, &users).await?;
    for (name, form) in FORMS {
        assert_eq!(
            tried(&app, &of(form, 11)).await?,
            "ok",
            "{name} of a user without a record"
        );
    }
    Ok(())
}

#[tokio::test]
async fn replica_mode_and_superuser_rights_open_nothing() -> Result<()> {
    let (site, users) = everybody().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!(
            "GRANT SET ON PARAMETER session_replication_role TO {}",
            site.app
        ))
        .await?;
    let may_set = site.app().await?;
    may_set
        .batch_execute("SET session_replication_role = replica")
        .await?;
    // In replica mode no foreign key acts: deleting a user leaves his rows to their own guards.
    all_forms(&may_set, &users).await?;
    all_forms(&admin, &users).await?;
    admin
        .batch_execute("SET session_replication_role = replica")
        .await?;
    all_forms(&admin, &users).await
}

#[tokio::test]
async fn the_mover_is_exempt_by_the_role_that_logged_in_and_by_nothing_else() -> Result<()> {
    let (site, users) = everybody().await?;
    let mover = site.mover().await?;
    for (user, state) in &users {
        let said = tried(
            &mover,
            &of("UPDATE orders SET total = 1 WHERE id = $U0", *user),
        )
        .await?;
        assert_eq!(said, "ok", "{}", state.name());
    }
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!("SET ROLE {}", site.mover))
        .await?;
    assert_eq!(
        tried(&admin, "UPDATE orders SET total = 1 WHERE id = 50").await?,
        "DM421"
    );
    Ok(())
}

#[tokio::test]
async fn copy_from_fires_the_guard() -> Result<()> {
    let (site, users) = everybody().await?;
    let app = site.app().await?;
    for (user, state) in &users {
        app.batch_execute("BEGIN").await?;
        let sink = app
            .copy_in::<_, bytes::Bytes>("COPY orders (id, customer_id) FROM STDIN")
            .await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(format!("{}\t12\n{}\t{user}\n", 90_000 + user * 2, 90_001 + user * 2).into())
            .await?;
        let said = match sink.finish().await {
            Ok(_) => "ok".to_owned(),
            Err(error) => refusal(&error).0,
        };
        app.batch_execute("ROLLBACK").await?;
        assert_eq!(said, expected(state), "{}", state.name());
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_names_the_home_and_the_epoch() -> Result<()> {
    let (site, _) = everybody().await?;
    let app = site.app().await?;
    let nonce = gateways::nonce(&site.mover().await?).await?;
    // 5: departed; 6: arriving, 7: clearing, both still at the other site.
    for user in [5, 6, 7] {
        let error = app
            .batch_execute(&of("UPDATE customer SET name = 'm' WHERE id = $U", user))
            .await
            .err()
            .context("must be refused")?;
        let (code, detail) = refusal(&error);
        let detail: serde_json::Value = serde_json::from_str(&detail.context("a DETAIL")?)?;
        assert_eq!(code, "DM421");
        assert_eq!(
            detail,
            serde_json::json!({"home": there(), "epoch": 7, "nonce": nonce})
        );
    }
    let error = app
        .batch_execute("INSERT INTO orders VALUES (nextval('more'), 0, 4711)")
        .await
        .err()
        .context("must be refused")?;
    let detail: serde_json::Value = serde_json::from_str(&refusal(&error).1.context("a DETAIL")?)?;
    assert_eq!(
        detail,
        serde_json::json!({"home": "beijing", "epoch": 0, "nonce": nonce})
    );
    Ok(())
}

#[tokio::test]
async fn where_is_says_where_to_go() -> Result<()> {
    let (site, users) = everybody().await?;
    let app = site.app().await?;
    let ask = async |user: i64| -> Result<(String, String)> {
        let row = app
            .query_one(
                "SELECT said->>'home', said->>'state' FROM domicile.where_is($1) AS said",
                &[&user],
            )
            .await?;
        Ok((
            row.get::<_, Option<String>>(0).unwrap_or_default(),
            row.get(1),
        ))
    };
    for (user, state) in &users {
        let home = match state {
            State::Lost { .. } => "",
            state if state.is_home() => "beijing",
            _ => "singapore",
        };
        assert_eq!(
            ask(*user).await?,
            (home.to_owned(), state.name().to_owned())
        );
    }
    assert_eq!(ask(11).await?, ("beijing".into(), "settled".into()));
    // Nobody here ever heard of this one: he does not live here.
    assert_eq!(ask(4711).await?, ("beijing".into(), "unknown".into()));
    Ok(())
}

#[tokio::test]
async fn truncate_is_refused_once_anybody_moves_or_left_and_allowed_before() -> Result<()> {
    let site = Site::new().await?;
    let app = site.app().await?;
    assert_eq!(tried(&app, "TRUNCATE note").await?, "ok");
    assert_eq!(tried(&app, "TRUNCATE customer CASCADE").await?, "ok");
    let moving = states().swap_remove(1);
    site.become_one(1, moving).await?;
    for sql in [
        "TRUNCATE note",
        "TRUNCATE customer CASCADE",
        "TRUNCATE product CASCADE",
        "TRUNCATE orders, line, note",
    ] {
        assert_eq!(tried(&app, sql).await?, "DM409", "{sql}");
    }
    let admin = site.session("postgres").await?;
    admin
        .batch_execute("SET session_replication_role = replica")
        .await?;
    assert_eq!(tried(&admin, "TRUNCATE note").await?, "DM409");
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_sorts_last_and_changes_the_owner_is_seen_through() -> Result<()> {
    let (site, _) = everybody().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(
            "CREATE FUNCTION switch_owner() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN IF NEW.total = 13 THEN NEW.customer_id := 5; END IF; RETURN NEW; END $$;
             CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION switch_owner();",
        )
        .await?;
    let app = site.app().await?;
    assert_eq!(
        tried(&app, "INSERT INTO orders VALUES (nextval('more'), 13, 12)").await?,
        "DM421"
    );
    assert_eq!(
        tried(&app, "UPDATE orders SET total = 13 WHERE id = 120").await?,
        "DM421"
    );
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_the_application_catches_leaves_nothing_behind() -> Result<()> {
    let (site, _) = everybody().await?;
    let app = site.app().await?;
    app.batch_execute(
        "DO $$ BEGIN
             BEGIN INSERT INTO orders VALUES (1, 0, 5); EXCEPTION WHEN OTHERS THEN NULL; END;
             INSERT INTO orders VALUES (2, 0, 12);
         END $$",
    )
    .await?;
    assert_eq!(
        support::number(&app, "SELECT count(*) FROM orders WHERE id = 1").await?,
        0
    );
    assert_eq!(
        support::number(&app, "SELECT count(*) FROM orders WHERE id = 2").await?,
        1
    );
    Ok(())
}

#[tokio::test]
async fn a_key_changes_only_for_someone_who_does_not_move() -> Result<()> {
    let (site, users) = everybody().await?;
    let app = site.app().await?;
    for (user, state) in &users {
        let said = tried(
            &app,
            &format!("UPDATE customer SET id = {} WHERE id = {user}", 1000 + user),
        )
        .await?;
        let wanted = match state {
            State::Moving { .. } => "40001",
            state => expected(state),
        };
        assert_eq!(said, wanted, "{}", state.name());
    }
    // Onto the old key of somebody who left, or who moves.
    app.batch_execute("DELETE FROM customer WHERE id = 2")
        .await?;
    assert_eq!(
        tried(&app, "UPDATE customer SET id = 2 WHERE id = 12").await?,
        "40001"
    );
    let mover = site.mover().await?;
    mover
        .batch_execute(
            "DELETE FROM note WHERE id = 5; DELETE FROM line WHERE order_id = 50;
        DELETE FROM orders WHERE id = 50; DELETE FROM customer WHERE id = 5",
        )
        .await?;
    assert_eq!(
        tried(&app, "UPDATE customer SET id = 5 WHERE id = 12").await?,
        "DM421"
    );
    // For one who simply lives here, both keys stay known.
    app.batch_execute("UPDATE customer SET id = 2000 WHERE id = 11")
        .await?;
    for user in [11, 2000] {
        let record = site.record(user).await?.context("a record")?;
        assert_eq!(record.state.name(), "settled");
    }
    assert_eq!(
        outcome(&app, "UPDATE orders SET total = 4 WHERE customer_id = 2000").await,
        "ok"
    );
    Ok(())
}

#[tokio::test]
async fn creation_at_the_origin_writes_a_record_and_never_over_one() -> Result<()> {
    let (site, users) = everybody().await?;
    let app = site.app().await?;
    app.batch_execute(
        "INSERT INTO customer VALUES (500, 'CN', 'new'); INSERT INTO orders VALUES (1, 0, 500)",
    )
    .await?;
    let record = site.record(500).await?.context("a record")?;
    assert_eq!(
        record.state,
        State::Settled {
            epoch: model::Epoch(1)
        }
    );
    let mover = site.mover().await?;
    mover
        .batch_execute(
            "DELETE FROM note; DELETE FROM line; DELETE FROM orders; DELETE FROM customer",
        )
        .await?;
    for (user, state) in &users {
        let said = outcome(
            &app,
            &format!("INSERT INTO customer VALUES ({user}, 'CN', 'x')"),
        )
        .await;
        assert_eq!(said, expected(state), "{}", state.name());
        let record = site.record(*user).await?.context("a record")?;
        assert_eq!(record.state, *state);
    }
    Ok(())
}

#[tokio::test]
async fn elsewhere_a_key_up_to_the_mark_is_not_created() -> Result<()> {
    let site = Site::shaped(Shape {
        is_origin: false,
        mark: Some(100),
        users: 3,
        ..Shape::default()
    })
    .await?;
    let app = site.app().await?;
    let error = app
        .batch_execute("INSERT INTO customer VALUES (100, 'CN', 'x')")
        .await
        .err()
        .context("must be refused")?;
    let (code, detail) = refusal(&error);
    assert_eq!(code, "DM421");
    assert!(detail.is_some_and(|d| d.contains("shanghai")));
    assert_eq!(
        outcome(&app, "INSERT INTO customer VALUES (101, 'CN', 'x')").await,
        "ok"
    );
    assert_eq!(
        site.record(101).await?.context("a record")?.state.name(),
        "settled"
    );
    assert_eq!(
        outcome(&app, "UPDATE customer SET id = 99 WHERE id = 101").await,
        "DM421"
    );
    // Rows that stood here before anybody said who they are: not ours to write.
    assert_eq!(
        outcome(&app, "UPDATE customer SET name = 'y' WHERE id = 1").await,
        "DM421"
    );
    assert_eq!(
        outcome(&app, "INSERT INTO note VALUES (7, 10, 1, 'b')").await,
        "DM421"
    );
    Ok(())
}

#[tokio::test]
async fn users_with_uuid_and_text_keys_are_known_by_their_rows() -> Result<()> {
    for key in ["uuid", "text", "integer"] {
        let site = Site::shaped(Shape {
            key,
            // A column whose name a careless function would take for its parameter.
            extra: "ALTER TABLE customer ADD COLUMN k text DEFAULT 'k'; ALTER TABLE customer ADD COLUMN said text",
            ..Shape::default()
        })
        .await?;
        let app = site.app().await?;
        let user = |n: i64| format!("'{}'", site.user(n).as_str());
        let own = format!(
            "INSERT INTO orders VALUES (nextval('more'), 0, {})",
            user(1)
        );
        assert_eq!(outcome(&app, &own).await, "ok", "{key}");
        assert_eq!(
            outcome(&app, "UPDATE note SET body = 'c' WHERE id = 3").await,
            "ok",
            "{key}"
        );
        // Gone, and still known.
        assert_eq!(
            outcome(
                &app,
                &format!("DELETE FROM customer WHERE id = {}", user(2))
            )
            .await,
            "ok"
        );
        if key != "integer" {
            assert_eq!(
                site.record(2).await?.context("a record")?.state.name(),
                "settled",
                "{key}"
            );
        }
        let new = format!(
            "INSERT INTO customer (id, country) VALUES ({}, 'CN')",
            user(777)
        );
        assert_eq!(outcome(&app, &new).await, "ok", "{key}");
        assert_eq!(
            site.record(777).await?.context("a record")?.state.name(),
            "settled",
            "{key}"
        );
        assert!(site.record(778).await?.is_none(), "{key}");
        site.become_one(1, states().swap_remove(4)).await?;
        assert_eq!(outcome(&app, &own).await, "DM421", "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pinned_market_is_written_at_its_pin_alone() -> Result<()> {
    let mut site = Site::bare(support::cluster(&[]).await?, Shape::default()).await?;
    site.policy.pinned = [("IN".into(), there()), ("CN".into(), support::here())].into();
    site.install().await?;
    let app = site.app().await?;
    assert_eq!(
        outcome(&app, "INSERT INTO customer VALUES (900, 'IN', 'x')").await,
        "DM403"
    );
    assert_eq!(
        outcome(&app, "UPDATE customer SET country = 'IN' WHERE id = 1").await,
        "DM403"
    );
    assert_eq!(
        outcome(&app, "INSERT INTO customer VALUES (900, 'CN', 'x')").await,
        "ok"
    );
    assert_eq!(
        outcome(&app, "INSERT INTO customer VALUES (901, 'BR', 'x')").await,
        "ok"
    );
    assert!(site.record(902).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn children_may_come_before_their_parents_where_foreign_keys_are_deferred() -> Result<()> {
    let site = Site::shaped(Shape {
        foreign_key: "DEFERRABLE INITIALLY DEFERRED",
        ..Shape::default()
    })
    .await?;
    let app = site.app().await?;
    let said = outcome(
        &app,
        "BEGIN; INSERT INTO note VALUES (70000, 70000, 1, 'x'); INSERT INTO line VALUES (70000, 1, 1, 'x');
         INSERT INTO orders VALUES (70000, 0, 7000); INSERT INTO customer VALUES (7000, 'CN', 'x'); COMMIT",
    )
    .await;
    assert_eq!(said, "ok");
    assert_eq!(
        site.record(7000).await?.context("a record")?.state.name(),
        "settled"
    );
    // Without the parent nothing is left, the record neither.
    let said = outcome(
        &app,
        "BEGIN; INSERT INTO orders VALUES (70001, 0, 7001); COMMIT",
    )
    .await;
    assert_eq!(said, "23503");
    assert!(site.record(7001).await?.is_none());
    // A parent who is not here is refused, whichever comes first.
    site.become_one(5, states().swap_remove(4)).await?;
    assert_eq!(
        tried(&app, "INSERT INTO orders VALUES (70002, 0, 5)").await?,
        "DM421"
    );
    assert_eq!(
        tried(
            &app,
            "INSERT INTO line VALUES (70003, 1, 1, 'x'); INSERT INTO orders VALUES (70003, 0, 5)"
        )
        .await?,
        "DM421"
    );
    Ok(())
}

#[tokio::test]
async fn one_statement_may_create_a_user_and_his_rows() -> Result<()> {
    let site = Site::new().await?;
    let app = site.app().await?;
    let sql = "WITH u AS (INSERT INTO customer VALUES (800, 'CN', 'x') RETURNING id) \
               INSERT INTO orders SELECT 8000, 0, id FROM u";
    assert_eq!(outcome(&app, sql).await, "ok");
    Ok(())
}

#[tokio::test]
async fn a_child_is_not_written_under_a_parent_that_changes_hands() -> Result<()> {
    let (site, _) = everybody().await?;
    // Both move: the child's writer holds the parent, and whoever gives it away waits.
    site.become_one(3, states().swap_remove(1)).await?;
    let (child, parent) = (site.app().await?, site.app().await?);
    child
        .batch_execute("BEGIN; INSERT INTO line VALUES (20, 5, 1, 'x')")
        .await?;
    parent
        .batch_execute("BEGIN; SET LOCAL statement_timeout = 200")
        .await?;
    assert_eq!(
        outcome(&parent, "UPDATE orders SET customer_id = 3 WHERE id = 20").await,
        "57014"
    );
    parent.batch_execute("ROLLBACK").await?;
    child.batch_execute("COMMIT").await?;
    // The other way round: the child waits for the parent, and comes too late.
    parent
        .batch_execute("BEGIN; UPDATE orders SET customer_id = 12 WHERE id = 20")
        .await?;
    let asking = site.session("postgres").await?;
    let pid = support::pid(&child).await?;
    let write = tokio::spawn(async move {
        let said = outcome(&child, "INSERT INTO line VALUES (20, 6, 1, 'x')").await;
        (said, child)
    });
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
    );
    support::until(&asking, "the child's writer waits", &waits).await?;
    parent.batch_execute("COMMIT").await?;
    let (said, child) = write.await?;
    // Read again it belongs to a settled user, in whose name the write may go on, or be tried again.
    assert!(said == "ok" || said == "40001", "{said}");
    assert_eq!(
        outcome(&child, "INSERT INTO line VALUES (20, 8, 1, 'x')").await,
        "ok"
    );
    // A snapshot that is older than the change is refused.
    let old = site.app().await?;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders")
        .await?;
    site.become_one(12, states().swap_remove(1)).await?;
    assert_eq!(
        outcome(&child, "UPDATE orders SET customer_id = 3 WHERE id = 20").await,
        "ok"
    );
    old.batch_execute(
        "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders",
    )
    .await?;
    assert_eq!(
        outcome(&child, "UPDATE orders SET customer_id = 12 WHERE id = 20").await,
        "ok"
    );
    assert_eq!(
        outcome(&old, "INSERT INTO line VALUES (20, 9, 1, 'x')").await,
        "40001"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_kept_for_ever_is_kept_from_superusers_too() -> Result<()> {
    let (site, _) = everybody().await?;
    let mover = site.mover().await?;
    residency::entries::append(&mover, "test", serde_json::json!({}), &[]).await?;
    let outcome_of = residency::decisions::decide(
        &mover,
        &support::service(),
        &"m/1".into(),
        &there(),
        handoff::decision::Decision::Accepted,
        None,
    )
    .await?;
    assert!(matches!(outcome_of, handoff::decision::Outcome::Decided(_)));
    let admin = site.session("postgres").await?;
    for mode in ["origin", "replica"] {
        admin
            .batch_execute(&format!("SET session_replication_role = {mode}"))
            .await?;
        for sql in [
            "DELETE FROM domicile.entry",
            "UPDATE domicile.entry SET kind = 'x'",
            "TRUNCATE domicile.entry",
            "DELETE FROM domicile.decision",
            "UPDATE domicile.decision SET verdict = 'refused'",
            "DELETE FROM domicile.resident",
            "TRUNCATE domicile.resident",
        ] {
            assert_eq!(tried(&admin, sql).await?, "DM409", "{sql} in mode {mode}");
        }
        for sql in [
            "ALTER TABLE orders DISABLE TRIGGER \"DOMICILE_GUARD\"",
            "ALTER TABLE orders DISABLE TRIGGER ALL",
            "ALTER TABLE orders ENABLE TRIGGER \"DOMICILE_GUARD\"",
            "DROP TRIGGER \"DOMICILE_GUARD\" ON orders",
            "ALTER TRIGGER \"DOMICILE_GUARD\" ON orders RENAME TO other",
            "DROP FUNCTION domicile.guard_truncate() CASCADE",
        ] {
            assert_eq!(tried(&admin, sql).await?, "DM409", "{sql} in mode {mode}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_application_cannot_call_or_borrow_what_the_guard_is_made_of() -> Result<()> {
    let (site, _) = everybody().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {}", site.app))
        .await?;
    let app = site.app().await?;
    let user_table = site
        .home
        .owned(&site.home.users.name)
        .context("the user table")?;
    let function = residency::guard::function_name(user_table);
    app.batch_execute("CREATE TABLE mine (id bigint, country text, name text)")
        .await?;
    for sql in [
        "SELECT * FROM domicile.resident".to_owned(),
        "UPDATE domicile.resident SET state = 'settled'".to_owned(),
        "SELECT domicile.admit(1)".to_owned(),
        "SELECT domicile.as_replica()".to_owned(),
        // On a table of its own it could have records written.
        format!(
            "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION domicile.\"{function}\"()"
        ),
    ] {
        assert_eq!(tried(&app, &sql).await?, "42501", "{sql}");
    }
    Ok(())
}

#[cfg(feature = "planted-faults")]
#[tokio::test]
async fn a_guard_that_forgets_the_old_owner_is_caught() -> Result<()> {
    use model::fault::{Bug, plant};

    plant(Some(Bug::GuardWithoutOld));
    let made = everybody().await;
    plant(None);
    let (site, _) = made?;
    let app = site.app().await?;
    let taken = "UPDATE orders SET customer_id = 12 WHERE id = 50";
    assert_eq!(
        tried(&app, taken).await?,
        "ok",
        "the planted bug lets the row of a user who left be taken"
    );
    let (site, _) = everybody().await?;
    assert_eq!(tried(&site.app().await?, taken).await?, "DM421");
    Ok(())
}
