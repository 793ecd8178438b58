//! Putting Domicile into a home database, and taking it out again.
//!
//! Runs once as an owner or administrator; everything later runs as the mover's role. Each step is its own short
//! transaction and may run twice. No lock is held for long: triggers are attached table by table under a
//! short `lock_timeout`, with retries.

use std::time::Duration;

use model::policy::Policy;
use model::table::{HomeSchema, OwnedTable, literal, quote};
use model::{ServiceName, SiteName};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::guard::{self, Terms};
use crate::{Error, Result, audit, door, need, policy, schema, watch};

/// The version of the tables that this program creates.
pub const VERSION: i32 = 7;

/// How long attaching a trigger may wait for the application's open transactions before it lets others pass.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often it tries. Together with the pauses about a minute.
const ATTEMPTS: u32 = 30;

/// What is to be installed.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// This site.
    pub site: &'a SiteName,
    /// The service's origin.
    pub origin: &'a SiteName,
    /// The classified tables, as read here.
    pub home: &'a HomeSchema,
    /// The role that the mover logs in as, and its password where it is to be created.
    pub mover: (&'a str, Option<&'a str>),
    /// The policy, of which the site gets its own copy.
    pub policy: &'a Policy,
    /// The highest integer key at the origin at adoption, told to the other sites; see [`mark_at_origin`].
    pub mark: Option<i64>,
    /// `open` or `closed`.
    pub after_restart: &'a str,
}

/// The publication's and the slot's name for a service.
pub fn stream_name(service: &ServiceName) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    format!(
        "domicile_{}",
        service
            .as_str()
            .chars()
            .map(clean)
            .take(50)
            .collect::<String>()
    )
}

/// The mark of the origin: the highest integer key there at adoption. Kept from an earlier installation, so that
/// installing again does not adopt users of other sites. `None` for keys that are no integers.
pub async fn mark_at_origin(session: &Client, home: &HomeSchema) -> Result<Option<i64>> {
    if home.users.kind != model::KeyKind::Integer {
        return Ok(None);
    }
    let doing = "reading the highest user key at the origin";
    let there: bool = session
        .query_one("SELECT to_regclass('domicile.home') IS NOT NULL", &[])
        .await
        .doing(doing)?
        .get(0);
    if there {
        let row = session
            .query_opt("SELECT mark FROM domicile.home", &[])
            .await
            .doing(doing)?;
        if let Some(row) = row {
            return Ok(row.get(0));
        }
    }
    let sql = format!(
        "SELECT coalesce(max({})::bigint, 0) FROM {}",
        quote(&home.users.key),
        home.users.name.sql()
    );
    Ok(Some(
        session.query_one(&sql, &[]).await.doing(doing)?.get(0),
    ))
}

/// Installs. Returns what was done, a line a step.
pub async fn install(session: &mut Client, wanted: &Installation<'_>) -> Result<Vec<String>> {
    let mut done = Vec::new();
    refuse_another_service(session, wanted).await?;
    role(session, wanted, &mut done).await?;
    tables(session, wanted).await?;
    done.push("schema domicile".to_owned());
    let terms = Terms {
        site: wanted.site,
        origin: wanted.origin,
        mark: wanted.mark,
        mover: wanted.mover.0,
        pinned: &wanted.policy.pinned,
        closes: wanted.after_restart == "closed",
    };
    session
        .batch_execute(&guard::shared_functions(wanted.home, &terms))
        .await
        .doing("creating the guard's shared functions")?;
    for table in &wanted.home.owned {
        session
            .batch_execute(&guard::table_function(wanted.home, table, &terms))
            .await
            .doing("creating a guard function")?;
        session
            .batch_execute(&need::setter(table, terms.mover))
            .await
            .doing("creating a function that sets the guard")?;
    }
    session
        .batch_execute(&need::function(wanted.home, terms.mover))
        .await
        .doing("creating the function that says where the guard is needed")?;
    grants(session, wanted).await?;
    // The user table first: from then on new users get their records; the other tables find them.
    for table in &wanted.home.owned {
        attach(session, wanted.home, table, &terms).await?;
        done.push(format!("guard on {}", table.name));
    }
    ownerless(session, wanted, &terms).await?;
    if keep_guard(session, terms.mover).await? {
        done.push("event trigger that keeps the guard".to_owned());
    }
    publication(session, wanted).await?;
    done.push(format!("publication {}", stream_name(wanted.service)));
    Ok(done)
}

async fn refuse_another_service(session: &Client, wanted: &Installation<'_>) -> Result<()> {
    let doing = "looking for an earlier installation";
    let there: bool = session
        .query_one("SELECT to_regclass('domicile.home') IS NOT NULL", &[])
        .await
        .doing(doing)?
        .get(0);
    if !there {
        return Ok(());
    }
    let Some(row) = session
        .query_opt(
            "SELECT service, site, origin, version FROM domicile.home",
            &[],
        )
        .await
        .doing(doing)?
    else {
        return Ok(());
    };
    let found: (String, String, String, i32) = (row.get(0), row.get(1), row.get(2), row.get(3));
    let asked = (
        wanted.service.as_str(),
        wanted.site.as_str(),
        wanted.origin.as_str(),
    );
    if (found.0.as_str(), found.1.as_str(), found.2.as_str()) != asked {
        return Err(Error::Refused(format!(
            "this database is installed as service {:?} at site {:?} with origin {:?}, not as {:?} at {:?} with \
             origin {:?}; correct the configuration, or uninstall first",
            found.0, found.1, found.2, asked.0, asked.1, asked.2
        )));
    }
    if found.3 > VERSION {
        return Err(Error::Refused(format!(
            "this database was installed by a later version of Domicile ({}, this one knows {VERSION}); upgrade",
            found.3
        )));
    }
    Ok(())
}

async fn role(session: &Client, wanted: &Installation<'_>, done: &mut Vec<String>) -> Result<()> {
    let (name, password) = wanted.mover;
    let doing = "creating the mover's role";
    let found = session
        .query_opt(
            "SELECT rolreplication, rolsuper FROM pg_roles WHERE rolname = $1",
            &[&name],
        )
        .await
        .doing(doing)?;
    let quoted = quote(name);
    let superuser = match found {
        None => {
            let password = password.map_or(String::new(), |p| format!(" PASSWORD {}", literal(p)));
            session
                .batch_execute(&format!("CREATE ROLE {quoted} LOGIN REPLICATION{password}"))
                .await
                .doing(doing)?;
            done.push(format!("role {name}"));
            false
        }
        Some(row) if row.get::<_, bool>(1) => true,
        Some(row) => {
            if !row.get::<_, bool>(0) {
                session
                    .batch_execute(&format!("ALTER ROLE {quoted} REPLICATION"))
                    .await
                    .doing(doing)?;
            }
            false
        }
    };
    if superuser {
        return Ok(());
    }
    // Only what is missing: an owner without rights over roles can install once somebody has granted these.
    let sees: bool = session
        .query_one(
            "SELECT pg_has_role($1, 'pg_read_all_stats', 'USAGE')",
            &[&name],
        )
        .await
        .doing("looking for pg_read_all_stats")?
        .get(0);
    if !sees {
        let grant = format!("GRANT pg_read_all_stats TO {quoted}");
        grant_in_cluster(session, &grant)
            .await
            .doing("granting pg_read_all_stats")?;
    }
    let version: i32 = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .doing("reading the server's version")?
        .get(0);
    if version >= 150_000
        && !session
            .query_one(
                "SELECT has_parameter_privilege($1, 'session_replication_role', 'SET')",
                &[&name],
            )
            .await
            .doing("looking for SET ON PARAMETER session_replication_role")?
            .get::<_, bool>(0)
    {
        let grant = format!("GRANT SET ON PARAMETER session_replication_role TO {quoted}");
        grant_in_cluster(session, &grant)
            .await
            .doing("granting SET ON PARAMETER session_replication_role")?;
    }
    Ok(())
}

/// Grants something that all databases of the cluster share. Two installations at the same time meet in its catalog,
/// and PostgreSQL then fails one of them instead of letting it wait.
async fn grant_in_cluster(session: &Client, grant: &str) -> Result<(), tokio_postgres::Error> {
    for _ in 1..ATTEMPTS {
        let met = [
            Some(&SqlState::UNIQUE_VIOLATION),
            Some(&SqlState::INTERNAL_ERROR),
        ];
        match session.batch_execute(grant).await {
            Err(error) if met.contains(&error.code()) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    session.batch_execute(grant).await
}

async fn tables(session: &mut Client, wanted: &Installation<'_>) -> Result<()> {
    let doing = "creating the schema domicile";
    let kind = wanted.home.users.kind;
    let tx = session.transaction().await.doing(doing)?;
    let stood = door::stands(&tx).await?;
    tx.batch_execute(&schema::statements(kind))
        .await
        .doing(doing)?;
    tx.batch_execute(&schema::keepers()).await.doing(doing)?;
    tx.execute(
        "INSERT INTO domicile.home AS h (service, site, origin, is_origin, key_kind, known_by, mark, version, \
             after_restart, secret, fingerprint) \
         VALUES ($1, $2, $3, $2 = $3, $4, $5, $6, $7, $8, \
             sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), $9) \
         ON CONFLICT (single) DO UPDATE SET version = excluded.version, \
             after_restart = excluded.after_restart, fingerprint = excluded.fingerprint",
        &[
            &wanted.service.as_str(),
            &wanted.site.as_str(),
            &wanted.origin.as_str(),
            &match kind {
                model::KeyKind::Integer => "integer",
                model::KeyKind::Uuid => "uuid",
                model::KeyKind::Text => "text",
            },
            &if wanted.mark.is_some() { "mark" } else { "row" },
            &wanted.mark,
            &VERSION,
            &wanted.after_restart,
            &wanted.home.fingerprint,
        ],
    )
    .await
    .doing(doing)?;
    policy::install(&tx, wanted.policy).await?;
    // There was no door before: nothing that went back in time could have been noticed. Where there was one, an installation compares nothing.
    if !stood {
        door::let_open(&tx, "installed").await?;
    }
    // On 14 nobody but a superuser may set the parameter: a function of one does it for the mover alone.
    tx.batch_execute(
        "CREATE OR REPLACE FUNCTION domicile.as_replica() RETURNS void LANGUAGE sql SECURITY DEFINER \
         SET search_path = pg_catalog, pg_temp \
         AS $$ SELECT set_config('session_replication_role', 'replica', true) $$;
         REVOKE ALL ON FUNCTION domicile.as_replica() FROM PUBLIC;",
    )
    .await
    .doing(doing)?;
    tx.commit().await.doing(doing)
}

async fn grants(session: &Client, wanted: &Installation<'_>) -> Result<()> {
    let mover = quote(wanted.mover.0);
    let append_only: Vec<String> = schema::APPEND_ONLY
        .iter()
        .map(|table| format!("domicile.{table}"))
        .collect();
    let mut sql = format!(
        "GRANT USAGE ON SCHEMA domicile TO {mover};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA domicile TO {mover};
         GRANT DELETE ON domicile.spool, domicile.slot, domicile.spoilt, domicile.set_aside, domicile.salt, domicile.erasing, domicile.open,
             domicile.gateway, domicile.closing, domicile.closed, domicile.traffic, domicile.counting,
             domicile.claim, domicile.claim_operation TO {mover};
         REVOKE UPDATE ON {append_only} FROM {mover};
         -- What it asks, it cannot answer.
         REVOKE INSERT, UPDATE ON domicile.policy, domicile.pinned FROM {mover};
         GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA domicile TO {mover};
         DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO {mover}', current_database()); END $$;
         GRANT USAGE ON SCHEMA domicile TO PUBLIC;
         -- Whoever may execute a guard function could attach it to a table of his own, and have records written.
         REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA domicile FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION domicile.where_is({key}) TO PUBLIC;
         GRANT EXECUTE ON FUNCTION domicile.as_replica(), domicile.known({key}) TO {mover};\n",
        append_only = append_only.join(", "),
        key = wanted.home.users.kind.sql_type(),
    );
    let names = wanted
        .home
        .owned
        .iter()
        .map(|t| &t.name)
        .chain(wanted.home.references.keys());
    let schemas: std::collections::BTreeSet<&str> =
        names.map(|name| name.schema.as_str()).collect();
    for schema in schemas {
        sql.push_str(&format!(
            "GRANT USAGE ON SCHEMA {} TO {mover};\n",
            quote(schema)
        ));
    }
    for table in &wanted.home.owned {
        sql.push_str(&format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {mover};\n",
            table.name.sql()
        ));
    }
    for table in wanted.home.references.keys() {
        // UPDATE: a row that a moved one refers to is locked FOR KEY SHARE.
        let insert = match wanted.home.references_copied.contains(table) {
            true => ", INSERT",
            false => "",
        };
        sql.push_str(&format!(
            "GRANT SELECT, UPDATE{insert} ON {} TO {mover};\n",
            table.sql()
        ));
    }
    session
        .batch_execute(&sql)
        .await
        .doing("granting the mover's rights")
}

/// The event trigger, where we may create it: whether it stands.
async fn keep_guard(session: &mut Client, mover: &str) -> Result<bool> {
    let doing = "creating the event trigger that keeps the guard";
    let superuser: bool = session
        .query_one(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .doing(doing)?
        .get(0);
    if superuser {
        let tx = session.transaction().await.doing(doing)?;
        tx.batch_execute(&watch::event_trigger(mover))
            .await
            .doing(doing)?;
        tx.commit().await.doing(doing)?;
    }
    Ok(superuser)
}

/// Users who came after the mark was read and before the guard stood have no record: they get one in the
/// transaction that attaches it, which no writer overlaps.
fn late_comers(home: &HomeSchema, terms: &Terms<'_>) -> String {
    match terms.mark {
        Some(mark) if terms.site == terms.origin => format!(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen) \
             SELECT u.{key}, 'settled', 0, 0 FROM {table} AS u WHERE u.{key} > {mark} \
             ON CONFLICT (user_key) DO NOTHING;",
            key = quote(&home.users.key),
            table = home.users.name.sql()
        ),
        _ => String::new(),
    }
}

async fn attach(
    session: &mut Client,
    home: &HomeSchema,
    table: &OwnedTable,
    terms: &Terms<'_>,
) -> Result<()> {
    let doing = "attaching the guard";
    let standing: bool = session
        .query_one(
            "SELECT bool_and((SELECT count(*) = 2 FROM pg_trigger AS t \
                 WHERE t.tgrelid = part.relation AND t.tgname = ANY ($2) \
                   AND (t.tgenabled = 'A' OR t.tgenabled = 'D' AND t.tgname = $4 AND w.rests AND w.may) \
                   AND position(quote_literal($3::text) IN pg_get_triggerdef(t.oid)) > 0)) \
             FROM (SELECT $1::text::regclass::oid UNION SELECT p.relid::oid \
                   FROM pg_partition_tree($1::text::regclass) AS p WHERE p.isleaf) AS part(relation), \
                  (SELECT coalesce(bool_or(g.rests), false), domicile.guard_needed($1::text::regclass) IS NULL \
                   FROM domicile.guarded AS g WHERE g.relation = $1::text::regclass) AS w(rests, may)",
            &[
                &table.name.sql(),
                &vec![guard::TRIGGER, guard::TRUNCATE_TRIGGER],
                &terms.mover,
                &guard::TRIGGER,
            ],
        )
        .await
        .doing(doing)?
        .get(0);
    if standing && table.identity_wanted.is_none() {
        return Ok(());
    }
    for attempt in 1.. {
        let tx = session.transaction().await.doing(doing)?;
        let late = if table.name == home.users.name {
            late_comers(home, terms)
        } else {
            String::new()
        };
        let sql = format!(
            "SET LOCAL lock_timeout = {timeout};
             DELETE FROM domicile.guarded WHERE relation = {relation}::regclass;
             {attach}
             {late}
             INSERT INTO domicile.guarded VALUES ({relation}::regclass);",
            timeout = LOCK_TIMEOUT.as_millis(),
            relation = literal(&table.name.sql()),
            attach = guard::attach(table, terms)
        );
        match tx.batch_execute(&sql).await {
            Ok(()) => return tx.commit().await.doing(doing),
            Err(error)
                if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && attempt < ATTEMPTS =>
            {
                tx.rollback().await.doing(doing)?;
                // Let the writers that queued behind us pass.
                tokio::time::sleep(LOCK_TIMEOUT * 2).await;
            }
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Err(Error::Refused(format!(
                    "the guard could not be attached to {}: transactions keep it locked; end long ones and \
                     run install again",
                    table.name
                )));
            }
            Err(error) => return Err(error).doing(doing),
        }
    }
    unreachable!("the last attempt returns")
}

/// Rows whose owner has no user row belong to no plan: their owners are recorded as settled at the origin.
async fn ownerless(session: &Client, wanted: &Installation<'_>, terms: &Terms<'_>) -> Result<()> {
    if terms.site != terms.origin {
        return Ok(());
    }
    let users = &wanted.home.users;
    let owned = wanted.home.owned.iter().filter(|t| t.name != users.name);
    let direct = owned.flat_map(|table| {
        let ways = table.ways.iter().filter(|way| way.hops.is_empty());
        ways.map(move |way| (table, way))
    });
    for (table, way) in direct {
        let owner = way.owner_of("t");
        let above = terms
            .mark
            .map_or(String::new(), |mark| format!(" AND {owner} > {mark}"));
        let sql = format!(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen) \
             SELECT DISTINCT {owner}::{kind}, 'settled', 0, 0 FROM {table} AS t \
             WHERE {when} AND {owner} IS NOT NULL{above} \
               AND NOT EXISTS (SELECT 1 FROM {users} AS u WHERE u.{key} = {owner}) \
             ON CONFLICT (user_key) DO NOTHING",
            kind = users.kind.sql_type(),
            table = table.name.sql(),
            when = way.when[0].sql("t"),
            users = users.name.sql(),
            key = quote(&users.key),
        );
        session
            .execute(&sql, &[])
            .await
            .doing("recording owners without a user row")?;
    }
    Ok(())
}

async fn publication(session: &Client, wanted: &Installation<'_>) -> Result<()> {
    let doing = "creating the publication";
    let name = stream_name(wanted.service);
    let tables: Vec<String> = wanted
        .home
        .owned
        .iter()
        .map(|table| table.name.sql())
        .collect();
    let tables = tables.join(", ");
    let oids: Vec<u32> = wanted.home.owned.iter().map(|table| table.oid).collect();
    let row = session
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE r.prrelid = ANY ($2)), coalesce(bool_and(p.pubviaroot), false) \
             FROM pg_publication AS p JOIN pg_publication_rel AS r ON r.prpubid = p.oid WHERE p.pubname = $1",
            &[&name, &oids],
        )
        .await
        .doing(doing)?;
    let exact = row.get::<_, i64>(0) == oids.len() as i64
        && row.get::<_, i64>(1) == oids.len() as i64
        && row.get(2);
    let there: bool = session
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = $1)",
            &[&name],
        )
        .await
        .doing(doing)?
        .get(0);
    let sql = match (there, exact) {
        // Partitions speak in the name of their root, and so do those to come.
        (false, _) => format!(
            "CREATE PUBLICATION {} FOR TABLE {tables} WITH (publish_via_partition_root = true)",
            quote(&name)
        ),
        (true, true) => return Ok(()),
        (true, false) => format!(
            "ALTER PUBLICATION {name} SET TABLE {tables}; \
             ALTER PUBLICATION {name} SET (publish_via_partition_root = true)",
            name = quote(&name)
        ),
    };
    session.batch_execute(&sql).await.doing(doing)
}

/// Takes Domicile out of a home database.
///
/// # Errors
/// [`Error::Refused`] while a user has departed, is moving or arriving: without the guard his old rows here
/// would be open to writes again. See [`audit::reopening`].
pub async fn uninstall(
    session: &mut Client,
    service: &ServiceName,
    home: &HomeSchema,
) -> Result<Vec<String>> {
    let doing = "uninstalling";
    let there: bool = session
        .query_one("SELECT to_regclass('domicile.resident') IS NOT NULL", &[])
        .await
        .doing(doing)?
        .get(0);
    if !there {
        return Ok(Vec::new());
    }
    let tx = session.transaction().await.doing(doing)?;
    tx.batch_execute(&format!(
        "SET LOCAL lock_timeout = {}; LOCK TABLE domicile.resident IN SHARE ROW EXCLUSIVE MODE",
        LOCK_TIMEOUT.as_millis() * 4
    ))
    .await
    .doing(doing)?;
    let reopening = audit::reopening(&tx).await?;
    if !reopening.is_empty() {
        let counts: Vec<String> = reopening
            .iter()
            .map(|(state, users)| format!("{users} {state}"))
            .collect();
        return Err(Error::Refused(format!(
            "users who do not simply live here would be open to writes again: {}; move them home first",
            counts.join(", ")
        )));
    }
    tx.batch_execute(&format!(
        "DELETE FROM domicile.guarded; DROP EVENT TRIGGER IF EXISTS {}; DROP EVENT TRIGGER IF EXISTS {}",
        watch::EVENT_TRIGGER,
        watch::DROP_TRIGGER
    ))
    .await
    .doing(doing)?;
    for table in &home.owned {
        tx.batch_execute(&guard::detach(table)).await.doing(doing)?;
    }
    let name = stream_name(service);
    tx.batch_execute(&format!(
        "DROP PUBLICATION IF EXISTS {}; DROP SCHEMA domicile CASCADE",
        quote(&name)
    ))
    .await
    .doing(doing)?;
    tx.commit().await.doing(doing)?;
    session
        .execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = $1 AND NOT active",
            &[&name],
        )
        .await
        .doing("dropping the replication slot")?;
    Ok(vec![
        "guard".into(),
        format!("publication {name}"),
        "schema domicile".into(),
    ])
}
