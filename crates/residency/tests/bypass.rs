//! Ways round the guard: each is refused, or wants a role that the application does not have; and where such a role
//! gets by, `check` has something to show for it. What the table below says of superusers is what can be said of
//! them: they can do anything, and only some of it shows.

mod support;

use anyhow::{Result, ensure};
use futures_util::SinkExt as _;
use support::{Shape, Site, outcome, read_home, refusal, states, tried};
use tokio_postgres::Client;

/// What stands around the tables before Domicile comes: views, rules, functions of somebody mightier, an owner who
/// can log in, and a role that may set a parameter.
const AROUND: &str = "
    CREATE VIEW order_view AS SELECT * FROM orders;
    CREATE VIEW order_ruled AS SELECT * FROM orders;
    CREATE RULE ins AS ON INSERT TO order_ruled DO INSTEAD INSERT INTO orders VALUES (NEW.id, NEW.total, NEW.customer_id);
    CREATE RULE upd AS ON UPDATE TO order_ruled DO INSTEAD UPDATE orders SET total = NEW.total WHERE id = OLD.id;
    CREATE RULE del AS ON DELETE TO order_ruled DO INSTEAD DELETE FROM orders WHERE id = OLD.id;
    CREATE TABLE scratch (id bigint PRIMARY KEY, customer_id bigint);
    CREATE RULE also AS ON INSERT TO scratch DO ALSO UPDATE orders SET total = 8 WHERE id = NEW.id;
    CREATE VIEW order_triggered AS SELECT * FROM orders;
    CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN UPDATE orders SET total = NEW.total WHERE id = OLD.id; RETURN NEW; END $$;
    CREATE TRIGGER instead INSTEAD OF UPDATE ON order_triggered FOR EACH ROW EXECUTE FUNCTION instead();
    CREATE FUNCTION mighty(u bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        AS $$ BEGIN UPDATE orders SET total = 9 WHERE customer_id = u; END $$;
    CREATE FUNCTION mighty_replica(u bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET session_replication_role = replica
        AS $$ BEGIN UPDATE orders SET total = 9 WHERE customer_id = u; END $$;
    CREATE PROCEDURE dynamic(u bigint) LANGUAGE plpgsql
        AS $$ BEGIN EXECUTE format('DELETE FROM note WHERE id = %s', u); END $$;
    DO $$ BEGIN CREATE ROLE bypass_owner LOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
    GRANT CREATE ON SCHEMA public TO bypass_owner;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO bypass_owner;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO bypass_owner;
    ALTER TABLE customer OWNER TO bypass_owner;
    ALTER TABLE orders OWNER TO bypass_owner;
    ALTER TABLE line OWNER TO bypass_owner;
    ALTER TABLE note OWNER TO bypass_owner;
";

/// Forms that no other test of the guard has; `$U` is a user who may not be written for, and has rows.
const FORMS: &[(&str, &str)] = &[
    (
        "insert of several rows",
        "INSERT INTO orders VALUES (nextval('more'), 0, 12), (nextval('more'), 0, $U)",
    ),
    (
        "insert by query",
        "INSERT INTO orders SELECT nextval('more'), 0, customer_id FROM orders WHERE id = $U0",
    ),
    (
        "insert with defaults",
        "INSERT INTO orders (id, customer_id) VALUES (nextval('more'), $U)",
    ),
    (
        "insert or nothing",
        "INSERT INTO orders VALUES (nextval('more'), 0, $U) ON CONFLICT DO NOTHING",
    ),
    (
        "insert overriding",
        "INSERT INTO orders OVERRIDING SYSTEM VALUE VALUES (nextval('more'), 0, $U) RETURNING id",
    ),
    (
        "update from",
        "UPDATE orders AS o SET total = 3 FROM customer AS c WHERE c.id = o.customer_id AND c.id = $U",
    ),
    (
        "update of everybody's",
        "UPDATE orders SET total = total + 1",
    ),
    (
        "update of rows to themselves",
        "UPDATE orders SET total = total WHERE id = $U0",
    ),
    (
        "update at a cursor",
        "DECLARE c CURSOR FOR SELECT * FROM orders WHERE id = $U0 FOR UPDATE; FETCH c; \
      UPDATE orders SET total = 4 WHERE CURRENT OF c",
    ),
    (
        "delete using",
        "DELETE FROM line AS l USING orders AS o WHERE o.id = l.order_id AND o.customer_id = $U",
    ),
    (
        "delete with returning",
        "DELETE FROM note WHERE id = $U RETURNING body",
    ),
    (
        "delete at a savepoint",
        "SAVEPOINT s; DELETE FROM note WHERE id = $U; RELEASE s",
    ),
    (
        "chain of withs",
        "WITH a AS (UPDATE orders SET total = 5 WHERE id = $U0 RETURNING id), \
         b AS (INSERT INTO note SELECT nextval('more'), id, 1, 'x' FROM a RETURNING id) SELECT * FROM b",
    ),
    (
        "cascade from the user",
        "DELETE FROM customer WHERE id = $U",
    ),
    ("cascade from a parent", "DELETE FROM orders WHERE id = $U0"),
    (
        "cascade of a key",
        "UPDATE orders SET id = nextval('more') WHERE id = $U0",
    ),
    ("view", "UPDATE order_view SET total = 6 WHERE id = $U0"),
    (
        "view, insert",
        "INSERT INTO order_view VALUES (nextval('more'), 0, $U)",
    ),
    ("view, delete", "DELETE FROM order_view WHERE id = $U0"),
    (
        "rule, insert",
        "INSERT INTO order_ruled VALUES (nextval('more'), 0, $U)",
    ),
    (
        "rule, update",
        "UPDATE order_ruled SET total = 7 WHERE id = $U0",
    ),
    ("rule, delete", "DELETE FROM order_ruled WHERE id = $U0"),
    ("rule of another table", "INSERT INTO scratch VALUES ($U0)"),
    (
        "trigger instead",
        "UPDATE order_triggered SET total = 7 WHERE id = $U0",
    ),
    ("function of a superuser", "SELECT mighty($U)"),
    (
        "function of a superuser, as a replica",
        "SELECT mighty_replica($U)",
    ),
    ("procedure", "CALL dynamic($U)"),
    (
        "block",
        "DO $$ BEGIN UPDATE note SET body = 'z' WHERE id = $U; END $$",
    ),
    (
        "prepared statement",
        "DEALLOCATE ALL; PREPARE p AS UPDATE note SET body = 'z' WHERE id = $1; EXECUTE p($U)",
    ),
    (
        "foreign table",
        "UPDATE far_orders SET total = 8 WHERE id = $U0",
    ),
    (
        "foreign table, insert",
        "INSERT INTO far_orders VALUES (nextval('more'), 0, $U)",
    ),
];

/// A way round that wants something done first. The write that follows is for a user who departed.
struct Game {
    name: &'static str,
    /// Ends with `--` where it has written already.
    first: &'static str,
    /// What the plain role, the tables' owner and a superuser get: an SQLSTATE, or `ok` with what shows of it.
    gets: [&'static str; 3],
}

const fn game(name: &'static str, first: &'static str, gets: [&'static str; 3]) -> Game {
    Game { name, first, gets }
}

const WRITE: &str = "UPDATE public.orders SET total = 99 WHERE id = 50";

const GAMES: &[Game] = &[
    game("disable the trigger", r#"ALTER TABLE orders DISABLE TRIGGER "DOMICILE_GUARD""#, ["42501", "DM409", "DM409"]),
    game("disable all triggers", "ALTER TABLE orders DISABLE TRIGGER ALL", ["42501", "42501", "DM409"]),
    game("disable the user's triggers", "ALTER TABLE orders DISABLE TRIGGER USER", ["42501", "DM409", "DM409"]),
    game("fire at the origin only", r#"ALTER TABLE orders ENABLE TRIGGER "DOMICILE_GUARD""#, ["42501", "DM409", "DM409"]),
    game("fire in replicas only", r#"ALTER TABLE orders ENABLE REPLICA TRIGGER "DOMICILE_GUARD""#, ["42501", "DM409", "DM409"]),
    game("drop the trigger", r#"DROP TRIGGER "DOMICILE_GUARD" ON orders"#, ["42501", "DM409", "DM409"]),
    game("rename the trigger", r#"ALTER TRIGGER "DOMICILE_GUARD" ON orders RENAME TO g"#, ["42501", "DM409", "DM409"]),
    game(
        "replace the trigger",
        r#"CREATE OR REPLACE TRIGGER "DOMICILE_GUARD" AFTER INSERT ON orders FOR EACH ROW WHEN (false)
           EXECUTE FUNCTION instead()"#,
        ["DM409"; 3],
    ),
    game("drop what the trigger calls", "DROP FUNCTION domicile.guard_truncate() CASCADE", ["42501", "42501", "DM409"]),
    game("write as a replica", "SET session_replication_role = replica", ["42501", "42501", "DM421"]),
    game(
        "write as a replica from the next login on",
        "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
        ["42501", "42501", "DM421"],
    ),
    game("become the mover", "SET SESSION AUTHORIZATION $MOVER", ["42501", "42501", "ok"]),
    game("take the mover's role", "SET ROLE $MOVER", ["42501", "42501", "DM421"]),
    game("call oneself the mover", "SET application_name = 'domicile mover'", ["DM421"; 3]),
    game("settings that nobody reads", "SET domicile.mover = 'on'; SET domicile.guard = 'off'; \
      SELECT set_config('domicile.session_user', '$MOVER', true)", ["DM421"; 3]),
    game("a record of one's own", "UPDATE domicile.resident SET state = 'settled'", ["42501", "42501", "ok"]),
    game("a record more", "INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES (5, 'settled', 9, 9) \
      ON CONFLICT (user_key) DO UPDATE SET state = 'settled'", ["42501", "42501", "ok"]),
    game("forget that the table is guarded", "DELETE FROM domicile.guarded", ["42501", "42501", "DM421"]),
    game(
        "tables in the way",
        "CREATE TEMP TABLE resident (user_key bigint, state text); CREATE TEMP TABLE customer (id bigint);
         CREATE TEMP TABLE pg_trigger (x int); SET search_path = pg_temp, public",
        ["DM421"; 3],
    ),
    game(
        "functions and operators in the way",
        "CREATE FUNCTION pg_temp.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'replica' $$;
         CREATE FUNCTION pg_temp.admit(bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT NULL::bigint $$;
         CREATE FUNCTION pg_temp.never(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
         CREATE OPERATOR pg_temp.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = pg_temp.never);
         CREATE DOMAIN pg_temp.text AS pg_catalog.text;
         SET search_path = pg_temp, pg_catalog, public",
        ["DM421"; 3],
    ),
    game(
        "operators in a schema of one's own",
        "CREATE FUNCTION public.never(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
         CREATE FUNCTION public.never(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
         CREATE OPERATOR public.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = public.never);
         CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.never);
         SET search_path = public, pg_catalog",
        ["42501", "DM421", "DM421"],
    ),
    game(
        "another table under the name",
        "ALTER TABLE orders RENAME TO orders_of_old; CREATE TABLE orders (LIKE orders_of_old INCLUDING ALL); \
         INSERT INTO orders VALUES (50, 0, 5)",
        ["42501", "ok: unguarded, unclassified", "ok: unguarded, unclassified"],
    ),
    game(
        "a table that inherits",
        "CREATE TABLE more_orders () INHERITS (orders); INSERT INTO more_orders VALUES (51, 0, 5) --",
        ["42501", "ok: unclassified", "ok: unclassified"],
    ),
    game(
        "another type, and other values with it",
        "ALTER TABLE note ALTER COLUMN body TYPE varchar(90) USING body || '!' --",
        ["42501", "ok: changed", "ok: changed"],
    ),
    game("the whole schema", "DROP SCHEMA domicile CASCADE", ["42501", "42501", "ok: not installed"]),
    game("the keeper", "ALTER EVENT TRIGGER domicile_keep_guard DISABLE; \
      ALTER TABLE orders DISABLE TRIGGER USER", ["42501", "42501", "ok: unguarded"]),
    game("truncate", "TRUNCATE note", ["DM409"; 3]),
    game("truncate with a cascade", "TRUNCATE customer CASCADE", ["DM409"; 3]),
    game("truncate from outside", "TRUNCATE product CASCADE", ["DM409"; 3]),
];

/// A site that is not the origin: user 3 is fenced, 5 departed, 7 nobody ever heard of, and 12 lives here.
async fn site() -> Result<Site> {
    let site = Site::shaped(Shape {
        is_origin: false,
        mark: Some(100),
        extra: AROUND,
        extra_tables: &[("scratch", "ignore")],
        ..Shape::default()
    })
    .await?;
    let states = states();
    for (user, state) in [(3, 2), (5, 4), (12, 0)] {
        site.become_one(user, states[state].clone()).await?;
    }
    let admin = site.session("postgres").await?;
    let roles = format!("{}, bypass_owner", site.app);
    admin
        .batch_execute(&format!(
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {roles}"
        ))
        .await?;
    Ok(site)
}

/// A foreign table that leads back to `orders`, as the very role that asks. False where the extension is missing.
async fn loop_back(site: &Site, admin: &Client) -> Result<bool> {
    let there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'";
    if support::number(admin, there).await? == 0 {
        return Ok(false);
    }
    let mapping = |role: &str| {
        format!(
            "CREATE USER MAPPING FOR {role} SERVER far OPTIONS (user '{role}', password_required 'false');"
        )
    };
    let all = [site.app.as_str(), "bypass_owner", "postgres"]
        .map(mapping)
        .concat();
    admin
        .batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{}', dbname '{}');
             {all}
             CREATE FOREIGN TABLE far_orders (id bigint, total integer, customer_id bigint) SERVER far
                 OPTIONS (table_name 'orders');
             GRANT ALL ON far_orders TO {}, bypass_owner;
             GRANT USAGE ON FOREIGN SERVER far TO {}",
            site.cluster.port(),
            site.database,
            site.app,
            site.app,
        ))
        .await?;
    Ok(true)
}

#[tokio::test]
async fn no_form_of_writing_gets_by_whoever_writes() -> Result<()> {
    let site = site().await?;
    let admin = site.session("postgres").await?;
    let far = loop_back(&site, &admin).await?;
    let mut wrong = Vec::new();
    let mut tries = 0;
    for role in [site.app.as_str(), "bypass_owner", "postgres"] {
        let session = site.session(role).await?;
        for (user, wanted) in [(3, "40001"), (5, "DM421"), (7, "DM421"), (12, "ok")] {
            for (name, form) in FORMS {
                // Its first refusal is whose row comes first.
                let everybody = *name == "update of everybody's";
                if name.contains("foreign") && !far || everybody && user == 12 {
                    continue;
                }
                let said = tried(&session, &form.replace("$U", &user.to_string())).await?;
                let fits =
                    said == wanted || everybody && ["40001", "DM421"].contains(&said.as_str());
                if !fits {
                    wrong.push(format!("{role}, user {user}, {name}: {said}, not {wanted}"));
                }
                tries += 1;
            }
            let said = copied(&session, "orders (id, customer_id)", user).await?;
            if said != wanted {
                wrong.push(format!("{role}, user {user}, COPY: {said}, not {wanted}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tries >= 3 * 4 * (FORMS.len() - 3), "{tries}");
    Ok(())
}

/// What comes of `COPY table FROM STDIN` with a row of `user`, undone at once.
async fn copied(session: &Client, table: &str, user: i64) -> Result<String> {
    session.batch_execute("BEGIN").await?;
    let copy = format!("COPY {table} FROM STDIN");
    let sink = session.copy_in::<_, bytes::Bytes>(&copy).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(format!("{}\t12\n{}\t{user}\n", 90_000, 90_001).into())
        .await?;
    let said = match sink.finish().await {
        Ok(_) => "ok".to_owned(),
        Err(error) => refusal(&error).0,
    };
    session.batch_execute("ROLLBACK").await?;
    Ok(said)
}

#[tokio::test]
async fn every_way_round_is_refused_or_wants_a_mightier_role() -> Result<()> {
    let site = site().await?;
    let mut wrong = Vec::new();
    for (n, role) in [site.app.as_str(), "bypass_owner", "postgres"]
        .into_iter()
        .enumerate()
    {
        for game in GAMES {
            let session = site.session(role).await?;
            session.batch_execute("BEGIN").await?;
            let first = game.first.replace("$MOVER", &site.mover);
            let said = match first.strip_suffix("--") {
                Some(whole) => outcome(&session, whole).await,
                None => outcome(&session, &format!("{first}; {WRITE}")).await,
            };
            let got = if said == "ok" {
                let shows = shows(&site, &session).await?;
                if shows.is_empty() {
                    said
                } else {
                    format!("{said}: {shows}")
                }
            } else {
                said
            };
            session.batch_execute("ROLLBACK").await?;
            if got != game.gets[n] {
                wrong.push(format!(
                    "{role}, {}: {got}, not {}",
                    game.name, game.gets[n]
                ));
            }
            ensure!(
                n != 0 || !game.gets[n].starts_with("ok"),
                "{}: the application gets by",
                game.name
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// What `check` would have to say, inside a transaction in which somebody got by.
async fn shows(site: &Site, session: &Client) -> Result<String> {
    session
        .batch_execute("RESET SESSION AUTHORIZATION; RESET search_path")
        .await?;
    let installed = "SELECT count(*) FROM pg_namespace WHERE nspname = 'domicile'";
    if support::number(session, installed).await? == 0 {
        return Ok("not installed".to_owned());
    }
    let mut shows = Vec::new();
    if !residency::watch::unguarded(session, &site.home)
        .await?
        .is_empty()
    {
        shows.push("unguarded");
    }
    match read_home(session, &site.shape).await {
        Ok(home) if home.fingerprint == site.home.fingerprint => {}
        Ok(_) => shows.push("changed"),
        Err(_) => shows.push("unclassified"),
    }
    Ok(shows.join(", "))
}

#[tokio::test]
async fn where_no_event_trigger_keeps_the_guard_its_loss_shows() -> Result<()> {
    let site = site().await?;
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(
            "DROP EVENT TRIGGER domicile_keep_guard; DROP EVENT TRIGGER domicile_keep_guard_drop",
        )
        .await?;
    let app = site.app.as_str();
    let replaced = r#"CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE OR REPLACE TRIGGER "DOMICILE_GUARD" AFTER INSERT OR UPDATE OR DELETE ON orders
        FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()"#;
    let always = r#"ALTER TABLE orders ENABLE ALWAYS TRIGGER "DOMICILE_GUARD""#;
    let hollow = r#"CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE OR REPLACE TRIGGER "DOMICILE_GUARD" AFTER INSERT OR UPDATE OR DELETE ON orders
        FOR EACH ROW EXECUTE FUNCTION nothing(); "#;
    let hollow = format!("{hollow}{always}");
    let narrow = format!(
        r#"CREATE OR REPLACE TRIGGER "DOMICILE_GUARD" AFTER INSERT ON orders FOR EACH ROW
        EXECUTE FUNCTION domicile.guard_truncate(); {always}"#
    );
    let never = format!(
        r#"CREATE OR REPLACE TRIGGER "DOMICILE_GUARD" AFTER INSERT OR UPDATE OR DELETE ON orders
        FOR EACH ROW WHEN (false) EXECUTE FUNCTION domicile.guard_truncate(); {always}"#
    );
    for (first, role, wanted) in [
        (
            r#"DROP TRIGGER "DOMICILE_GUARD" ON orders"#,
            "bypass_owner",
            "ok",
        ),
        (
            r#"ALTER TABLE orders DISABLE TRIGGER "DOMICILE_GUARD""#,
            "bypass_owner",
            "ok",
        ),
        (
            r#"ALTER TABLE orders ENABLE TRIGGER "DOMICILE_GUARD_TRUNCATE""#,
            "bypass_owner",
            "DM421",
        ),
        // With every right on the table, as applications often have: TRIGGER is among them.
        (replaced, app, "ok"),
        (&hollow, "bypass_owner", "ok"),
        (&hollow, "postgres", "ok"),
        (&narrow, "postgres", "ok"),
        (&never, "postgres", "ok"),
        (r#"DROP TRIGGER "DOMICILE_GUARD" ON orders"#, app, "42501"),
    ] {
        let session = site.session(role).await?;
        session.batch_execute("BEGIN").await?;
        assert_eq!(
            outcome(&session, first).await,
            if wanted == "42501" { wanted } else { "ok" },
            "{first}"
        );
        if wanted != "42501" {
            let bare = residency::watch::unguarded(&session, &site.home).await?;
            assert_eq!(bare, [r#""public"."orders""#], "{first}");
            assert_eq!(outcome(&session, WRITE).await, wanted, "{first}");
        }
        session.batch_execute("ROLLBACK").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_foreign_table_does_not_lend_the_movers_name() -> Result<()> {
    let site = site().await?;
    let admin = site.session("postgres").await?;
    if !loop_back(&site, &admin).await? {
        return Ok(());
    }
    let app = site.app().await?;
    let lent = format!(
        "DROP USER MAPPING FOR {app} SERVER far;
         CREATE USER MAPPING FOR {app} SERVER far OPTIONS (user '{mover}');
         UPDATE far_orders SET total = 1 WHERE id = 50",
        app = site.app,
        mover = site.mover
    );
    // Nobody but a superuser may let a mapping go without the password of the role that it names.
    assert_eq!(tried(&app, &lent).await?, "2F003");
    Ok(())
}
