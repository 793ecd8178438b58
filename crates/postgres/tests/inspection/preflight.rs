//! Each thing that must hold, broken, is found and comes with its mend.

use std::time::Duration;

use anyhow::Result;
use model::ownership::Ownership;
use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use postgres::catalog::Catalog;
use postgres::connect::{Session, connect};
use postgres::preflight::{Expectation, Finding, Ids, Level, Side, compare, compare_ids, inspect};

use crate::support::{chinook, chinook_declared, cluster, database, declared, installed, schema};

struct Look {
    ids: Ids,
    long_transaction: Duration,
}

const LOOK: Look = Look {
    ids: Ids::Application,
    long_transaction: Duration::from_secs(60),
};

async fn look_at(
    session: &Session,
    (catalog, home): &(Catalog, HomeSchema),
    look: Look,
) -> Result<Vec<Finding>> {
    let (service, site) = (ServiceName::from("shop"), SiteName::from("beijing"));
    let expect = Expectation {
        service: &service,
        origin: &site,
        schema: home,
        catalog,
        ids: look.ids,
        long_transaction: look.long_transaction,
    };
    Ok(inspect(session, &site, &expect).await?)
}

fn side<'a>(site: &'a SiteName, (catalog, schema): &'a (Catalog, HomeSchema)) -> Side<'a> {
    Side {
        site,
        schema,
        catalog,
    }
}

#[track_caller]
fn assert_found(findings: &[Finding], level: Level, part: &str) {
    let found = findings
        .iter()
        .any(|finding| finding.level == level && finding.what.contains(part));
    assert!(found, "no {level:?} about {part:?} in {findings:#?}");
    assert!(findings.iter().all(|finding| !finding.mend.is_empty()));
}

fn blockers(findings: &[Finding]) -> Vec<&str> {
    let blockers = findings
        .iter()
        .filter(|finding| finding.level == Level::Blocker);
    blockers.map(|finding| finding.what.as_str()).collect()
}

#[tokio::test]
async fn an_installed_database_has_no_blocker() -> Result<()> {
    let cluster = cluster("ready").await?;
    let mut session = chinook(&cluster, "chinook").await?;
    let read = schema(&session, &chinook_declared()).await?;
    let before = look_at(&session, &read, LOOK).await?;
    assert_eq!(
        blockers(&before),
        ["Domicile is not installed in this database"]
    );

    installed(&mut session, "beijing", "beijing", &read.1).await?;
    let mover = connect(&cluster.url("domicile", "chinook"), "check").await?;
    let read = schema(&mover, &chinook_declared()).await?;
    let findings = look_at(&mover, &read, LOOK).await?;
    assert_eq!(blockers(&findings), Vec::<&str>::new());
    assert_found(&findings, Level::Warning, "guard advisory: role postgres");
    assert_found(&findings, Level::Warning, "fsync");
    let json = serde_json::to_value(&findings[0])?;
    assert_eq!(
        (&json["level"], &json["site"]),
        (&"warning".into(), &"beijing".into())
    );

    // Whoever has every right on a table has the right TRIGGER; only the event trigger stands against its use.
    let advisory = "guard advisory: role clerk has the right TRIGGER";
    session
        .batch_execute("CREATE ROLE clerk LOGIN; GRANT ALL ON public.invoice TO clerk")
        .await?;
    let findings = look_at(&mover, &read, LOOK).await?;
    assert!(!findings.iter().any(|f| f.what.contains(advisory)));
    session
        .batch_execute("DROP EVENT TRIGGER domicile_keep_guard")
        .await?;
    let findings = look_at(&mover, &read, LOOK).await?;
    assert_found(&findings, Level::Warning, advisory);

    // A superuser is let through, with a word, and told that the guard was made for another.
    let findings = look_at(&session, &read, LOOK).await?;
    assert_found(&findings, Level::Warning, "is a superuser");
    assert_found(
        &findings,
        Level::Blocker,
        "the guard stands against role postgres",
    );
    Ok(())
}

#[tokio::test]
async fn rows_that_lead_to_two_users_are_counted() -> Result<()> {
    let cluster = cluster("pairs").await?;
    let tables = "CREATE TABLE person (id int PRIMARY KEY, land text NOT NULL);
        CREATE TABLE sale (id int PRIMARY KEY, person_id int REFERENCES person);
        CREATE TABLE deal (id int PRIMARY KEY, buyer_id int, sale_id int REFERENCES sale);
        INSERT INTO person VALUES (1, 'CN'), (2, 'IN');
        INSERT INTO sale VALUES (1, 1), (2, 2);
        INSERT INTO deal VALUES (1, 1, NULL), (2, 1, 1), (3, 1, 2), (4, NULL, 2), (5, 2, 1)";
    let session = database(&cluster, "pairs", tables).await?;
    let mut pairs = declared("person", "id", Some("land"), &[("sale", "person_id")]);
    pairs.tables.insert(
        "deal".to_owned(),
        Ownership::parse_first(&["buyer_id".to_owned(), "sale_id -> sale".to_owned()])?,
    );
    let read = schema(&session, &pairs).await?;
    let findings = look_at(&session, &read, LOOK).await?;
    let told = "2 rows of deal lead to two users";
    assert_found(&findings, Level::Warning, told);
    Ok(())
}

#[tokio::test]
async fn a_large_table_without_an_index_on_its_owner_is_named() -> Result<()> {
    let cluster = cluster("unindexed").await?;
    let rows = "SELECT g, 1, g % 100, repeat('x', 1000) FROM generate_series(1, 20000) AS g";
    let tables = format!(
        "CREATE TABLE person (id int PRIMARY KEY, land text NOT NULL);
         INSERT INTO person VALUES (1, 'CN');
         CREATE TABLE visit (id int PRIMARY KEY, person_id int REFERENCES person, shop int, what text);
         CREATE TABLE sale (id int PRIMARY KEY, person_id int REFERENCES person, shop int, what text);
         CREATE TABLE seldom (id int PRIMARY KEY, person_id int REFERENCES person);
         CREATE INDEX ON visit (shop, person_id); CREATE INDEX ON sale (person_id, shop);
         INSERT INTO visit {rows}; INSERT INTO sale {rows}"
    );
    let session = database(&cluster, "unindexed", &tables).await?;
    let owners = ["visit", "sale", "seldom"].map(|table| (table, "person_id"));
    let unindexed = declared("person", "id", Some("land"), &owners);
    let read = schema(&session, &unindexed).await?;
    let named = async || -> Result<Vec<String>> {
        let findings = look_at(&session, &read, LOOK).await?;
        let found = findings
            .into_iter()
            .map(|f| format!("{}; {}", f.what, f.mend));
        Ok(found.filter(|f| f.contains("no index on")).collect())
    };
    let found = named().await?;
    assert_eq!(found.len(), 1, "{found:?}");
    let (what, mend) = found[0].split_once("; ").expect("a mend");
    assert!(what.contains("visit begins with"), "{what}");
    session.batch_execute(mend).await?;
    assert_eq!(named().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn whatever_was_taken_away_is_missed() -> Result<()> {
    let cluster = cluster("missing").await?;
    let mut session = chinook(&cluster, "chinook").await?;
    let (_, home) = schema(&session, &chinook_declared()).await?;
    installed(&mut session, "beijing", "beijing", &home).await?;
    let breakage = r#"
        -- As where no superuser installed: the guard can be taken off.
        DROP EVENT TRIGGER domicile_keep_guard; DROP EVENT TRIGGER domicile_keep_guard_drop;
        ALTER ROLE domicile NOREPLICATION;
        REVOKE pg_read_all_stats FROM domicile;
        DO $$ BEGIN IF current_setting('server_version_num')::int >= 150000 THEN
            EXECUTE 'REVOKE SET ON PARAMETER session_replication_role FROM domicile'; END IF; END $$;
        REVOKE EXECUTE ON FUNCTION domicile.as_replica() FROM domicile;
        REVOKE DELETE ON public.invoice FROM domicile;
        REVOKE SELECT ON public.track FROM domicile;
        DROP TRIGGER "DOMICILE_GUARD" ON public.invoice;
        ALTER TABLE public.customer ENABLE TRIGGER "DOMICILE_GUARD_TRUNCATE";
        ALTER PUBLICATION domicile_shop DROP TABLE public.invoice_line;
        ALTER TABLE public.invoice_line SET UNLOGGED;
        ALTER TABLE public.invoice_line DROP CONSTRAINT invoice_line_invoice_id_fkey;
        ALTER TABLE public.customer ENABLE ROW LEVEL SECURITY;
        CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER everywhere BEFORE INSERT ON public.invoice FOR EACH ROW EXECUTE FUNCTION public.f();
        ALTER TABLE public.invoice ENABLE ALWAYS TRIGGER everywhere;
        CREATE TRIGGER here BEFORE INSERT ON public.invoice FOR EACH ROW EXECUTE FUNCTION public.f();
        CREATE RULE odd AS ON INSERT TO public.invoice DO ALSO NOTHING;
        ALTER TABLE public.invoice ENABLE ALWAYS RULE odd;
        CREATE MATERIALIZED VIEW public.sums AS SELECT customer_id, sum(total) FROM public.invoice GROUP BY 1;
        UPDATE domicile.home SET version = 0, fingerprint = 'another';
    "#;
    session.batch_execute(breakage).await?;
    let mover = connect(&cluster.url("domicile", "chinook"), "check").await?;
    let read = schema(&mover, &chinook_declared()).await?;
    let findings = look_at(&mover, &read, LOOK).await?;
    for part in [
        "may not replicate",
        "cannot see other sessions",
        "may not set session_replication_role",
        "lacks DELETE on invoice",
        "lacks SELECT on track",
        "trigger DOMICILE_GUARD is missing on invoice",
        "trigger DOMICILE_GUARD_TRUNCATE on customer does not fire always",
        "does not name exactly the tables",
        "table invoice_line is unlogged",
        "row-level security hides rows of customer",
        "trigger everywhere on invoice fires on copied rows",
        "rule odd on public.invoice",
        "of version 0",
        "changed since Domicile was installed",
    ] {
        assert_found(&findings, Level::Blocker, part);
    }
    assert_eq!(blockers(&findings).len(), 14, "{findings:#?}");
    assert_found(
        &findings,
        Level::Warning,
        "rows of invoice_line lead to invoice by no validated foreign key",
    );
    assert_found(&findings, Level::Warning, "materialized view sums");

    session
        .batch_execute("UPDATE domicile.home SET site = 'elsewhere'")
        .await?;
    assert_found(
        &look_at(&mover, &read, LOOK).await?,
        Level::Blocker,
        "site elsewhere",
    );
    Ok(())
}

#[tokio::test]
async fn the_server_is_looked_at() -> Result<()> {
    let mut options = testbed::ClusterOptions::named("server");
    options.settings = [
        ("wal_level", "replica"),
        ("max_wal_senders", "0"),
        ("max_replication_slots", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let cluster = testbed::Cluster::start(options).await?;
    let session = chinook(&cluster, "chinook").await?;
    let read = schema(&session, &chinook_declared()).await?;
    let writer = connect(&cluster.url("postgres", "chinook"), "writer").await?;
    writer
        .batch_execute("BEGIN; UPDATE public.genre SET name = name WHERE genre_id = 1")
        .await?;
    let preparer = connect(&cluster.url("postgres", "chinook"), "preparer").await?;
    let prepare =
        "BEGIN; UPDATE public.genre SET name = name WHERE genre_id = 2; PREPARE TRANSACTION 'p'";
    preparer.batch_execute(prepare).await?;

    let patient = look_at(&session, &read, LOOK).await?;
    assert!(
        patient
            .iter()
            .all(|finding| !finding.what.contains("a transaction open"))
    );
    let findings = look_at(
        &session,
        &read,
        Look {
            long_transaction: Duration::ZERO,
            ..LOOK
        },
    )
    .await?;
    assert_found(&findings, Level::Blocker, "wal_level is replica");
    assert_found(&findings, Level::Blocker, "no replication slot is free");
    assert_found(&findings, Level::Blocker, "no WAL sender is free");
    assert_found(
        &findings,
        Level::Warning,
        "of role postgres has had a transaction open",
    );
    assert_found(
        &findings,
        Level::Warning,
        "1 prepared transactions are open",
    );
    assert_found(
        &findings,
        Level::Warning,
        "max_slot_wal_keep_size is unlimited",
    );
    Ok(())
}

#[tokio::test]
async fn a_market_that_is_no_expression_is_refused_by_the_server() -> Result<()> {
    let cluster = cluster("market").await?;
    let session = chinook(&cluster, "chinook").await?;
    let mut declared = chinook_declared();
    declared.market = Some("upper(country, 3)".to_owned());
    let read = schema(&session, &declared).await?;
    let findings = look_at(&session, &read, LOOK).await?;
    assert_found(
        &findings,
        Level::Blocker,
        "the market (upper(country, 3)) cannot be read",
    );
    Ok(())
}

#[tokio::test]
async fn differences_between_sites_are_named_by_table_and_column() -> Result<()> {
    let cluster = cluster("compare").await?;
    let first = chinook(&cluster, "first").await?;
    let second = chinook(&cluster, "second").await?;
    let change = "ALTER TABLE public.customer ALTER email TYPE varchar(61), ADD fax_two text; \
                  ALTER TABLE public.invoice ALTER total DROP NOT NULL; \
                  ALTER TABLE public.invoice_line DROP CONSTRAINT invoice_line_track_id_fkey; \
                  ALTER TABLE public.genre DROP name; ALTER TABLE public.genre ADD name varchar(120)";
    second.batch_execute(change).await?;
    let (a, b) = (SiteName::from("beijing"), SiteName::from("mumbai"));
    let here = schema(&first, &chinook_declared()).await?;
    let there = schema(&second, &chinook_declared()).await?;
    assert_eq!(compare(&side(&a, &here), &side(&b, &here)), []);
    let findings = compare(&side(&a, &here), &side(&b, &there));
    for part in [
        "column email of table customer (character varying(60) and character varying(61))",
        "column fax_two of table customer stands at mumbai and not at beijing",
        "column total of table invoice (NOT NULL)",
        "foreign key invoice_line_track_id_fkey of table invoice_line (track_id) to track stands at beijing",
    ] {
        assert_found(&findings, Level::Blocker, part);
    }
    assert_eq!(findings.len(), 4, "{findings:#?}");
    Ok(())
}

const WITH_SEQUENCES: &str = "
    CREATE TABLE person (id serial PRIMARY KEY, land text);
    CREATE TABLE post (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, person int NOT NULL REFERENCES person);
    CREATE TABLE vote (person int REFERENCES person, n int, PRIMARY KEY (person, n));
    INSERT INTO person (land) SELECT 'CN' FROM generate_series(1, 1234);";

#[tokio::test]
async fn sequences_that_collide_are_found_and_the_mend_mends() -> Result<()> {
    let cluster = cluster("ids").await?;
    let first = database(&cluster, "first", WITH_SEQUENCES).await?;
    let second = database(&cluster, "second", WITH_SEQUENCES).await?;
    let third = database(&cluster, "third", WITH_SEQUENCES).await?;
    let declared = declared(
        "person",
        "id",
        None,
        &[("post", "person"), ("vote", "person")],
    );
    let names = ["beijing", "mumbai", "california"].map(SiteName::from);
    let sessions = [&first, &second, &third];
    let read = async || -> Result<Vec<(Catalog, HomeSchema)>> {
        let mut read = Vec::new();
        for session in sessions {
            read.push(schema(session, &declared).await?);
        }
        Ok(read)
    };
    let collisions = |read: &[(Catalog, HomeSchema)]| {
        let sides: Vec<Side<'_>> = names
            .iter()
            .zip(read)
            .map(|(site, read)| side(site, read))
            .collect();
        assert_eq!(compare_ids(&sides, Ids::Application), []);
        compare_ids(&sides, Ids::Ranges)
    };
    let found = collisions(&read().await?);
    assert_eq!(found.len(), 6, "{found:#?}");
    for finding in &found {
        let place = names
            .iter()
            .position(|name| *name == finding.site)
            .expect("a site");
        sessions[place].batch_execute(&finding.mend).await?;
    }
    assert_eq!(collisions(&read().await?), []);
    for session in sessions {
        session
            .batch_execute("INSERT INTO public.person (land) VALUES ('IN')")
            .await?;
    }

    let one = &read().await?[0];
    let findings = look_at(
        &first,
        one,
        Look {
            ids: Ids::Uuid,
            ..LOOK
        },
    )
    .await?;
    assert_found(
        &findings,
        Level::Blocker,
        "the key (id) of person holds none",
    );
    assert!(
        findings
            .iter()
            .all(|finding| !finding.what.contains("of vote")),
        "{findings:#?}"
    );
    let findings = look_at(
        &first,
        one,
        Look {
            ids: Ids::Ranges,
            ..LOOK
        },
    )
    .await?;
    assert_eq!(
        blockers(&findings).len(),
        1,
        "only that nothing is installed"
    );
    Ok(())
}
