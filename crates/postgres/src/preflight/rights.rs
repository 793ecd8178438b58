//! What the current role may do, and what it had better not be.

use residency::guard::TRIGGER;
use tokio_postgres::Client;

use super::{Expectation, Findings};
use crate::catalog::ReadError;

pub(super) async fn look(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let superuser = role(client, findings).await?;
    replica(client, expect, superuser, findings).await?;
    tables(client, expect, findings).await?;
    exemption(client, expect, findings).await
}

async fn role(client: &Client, findings: &mut Findings<'_>) -> Result<bool, ReadError> {
    // A managed service grants replication by a role of its own instead of the attribute.
    let sql = "SELECT r.rolname::text, r.rolsuper, \
                      r.rolreplication OR EXISTS (SELECT FROM pg_roles m \
                          WHERE m.rolname = 'rds_replication' AND pg_has_role(m.oid, 'USAGE')), \
                      pg_has_role('pg_read_all_stats', 'USAGE'), \
                      (SELECT count(*) FROM pg_stat_activity a \
                        WHERE a.usesysid = r.oid AND a.datname = current_database() \
                          AND a.application_name NOT LIKE 'domicile %' \
                          AND coalesce(a.backend_type, 'client backend') = 'client backend') \
                 FROM pg_roles r WHERE r.rolname = session_user";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(ReadError::of("the role's attributes"))?;
    let (name, superuser): (&str, bool) = (row.get(0), row.get(1));
    if superuser {
        findings.warning(
            format!("role {name} is a superuser; a move needs no such rights"),
            "connect as the role that domicile install created",
        );
    }
    if !superuser && !row.get::<_, bool>(2) {
        findings.blocker(
            format!("role {name} may not replicate"),
            format!("ALTER ROLE {name} REPLICATION"),
        );
    }
    if !row.get::<_, bool>(3) {
        findings.blocker(
            format!(
                "role {name} cannot see other sessions, so it cannot wait for their transactions"
            ),
            format!("GRANT pg_read_all_stats TO {name}"),
        );
    }
    let others: i64 = row.get(4);
    if others > 0 {
        findings.warning(
            format!(
                "{others} sessions of other programs use role {name}, which the guard lets pass"
            ),
            "let the application connect as a role of its own",
        );
    }
    superusers(client, findings).await?;
    Ok(superuser)
}

/// An application that connects as a superuser could write past the guard, and nothing would stop it.
async fn superusers(client: &Client, findings: &mut Findings<'_>) -> Result<(), ReadError> {
    let sql = "SELECT a.usename::text, count(*) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid \
                WHERE r.rolsuper AND a.datname = current_database() AND a.usename <> session_user \
                  AND a.application_name NOT LIKE 'domicile %' \
                  AND coalesce(a.backend_type, 'client backend') = 'client backend' \
                GROUP BY 1 ORDER BY 1";
    for row in client
        .query(sql, &[])
        .await
        .map_err(ReadError::of("the sessions of superusers"))?
    {
        let (role, sessions): (&str, i64) = (row.get(0), row.get(1));
        findings.warning(
            format!("{sessions} sessions of other programs use role {role}, a superuser, whom no guard stops"),
            "let the application connect as a role that is no superuser and owns no table",
        );
    }
    Ok(())
}

/// May the session put the application's triggers and foreign keys to rest?
async fn replica(
    client: &Client,
    expect: &Expectation<'_>,
    superuser: bool,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    if superuser {
        return Ok(());
    }
    let by_function = "EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
                                JOIN pg_roles o ON o.oid = p.proowner \
                                WHERE n.nspname = 'domicile' AND p.proname = 'as_replica' \
                                  AND p.prosecdef AND o.rolsuper \
                                  AND has_function_privilege(p.oid, 'EXECUTE'))";
    let (may, mend) = if expect.catalog.server_version >= 150_000 {
        let by_right = "has_parameter_privilege('session_replication_role', 'SET')";
        (
            format!("{by_right} OR {by_function}"),
            "GRANT SET ON PARAMETER session_replication_role",
        )
    } else {
        (
            by_function.to_owned(),
            "domicile install as a superuser, for domicile.as_replica()",
        )
    };
    let what = "the right to set session_replication_role";
    let may: bool = client
        .query_one_scalar(&format!("SELECT {may}"), &[])
        .await
        .map_err(ReadError::of(what))?;
    if !may {
        findings.blocker("this role may not set session_replication_role", mend);
    }
    Ok(())
}

async fn tables(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let owned = expect
        .schema
        .owned
        .iter()
        .map(|table| (table.oid, &table.name, "{SELECT,INSERT,UPDATE,DELETE}"));
    let references = expect.schema.references.keys().filter_map(|name| {
        expect.catalog.tables.get(name).map(|table| {
            match expect.schema.references_copied.contains(name) {
                true => (table.oid, name, "{SELECT,INSERT,UPDATE}"),
                false => (table.oid, name, "{SELECT,UPDATE}"),
            }
        })
    });
    let all: Vec<_> = owned.chain(references).collect();
    let oids: Vec<u32> = all.iter().map(|(oid, _, _)| *oid).collect();
    let rights: Vec<&str> = all.iter().map(|(_, _, rights)| *rights).collect();
    // UPDATE on a reference table: its rows are locked FOR KEY SHARE when users arrive who point at them.
    let sql = "SELECT session_user::text, \
                      array_to_string(ARRAY(SELECT p FROM unnest(t.rights::text[]) p \
                          WHERE NOT has_table_privilege(t.oid, p)), ', '), \
                      has_schema_privilege(c.relnamespace, 'USAGE'), row_security_active(t.oid), \
                      pg_has_role(c.relowner, 'USAGE') AND NOT (SELECT rolsuper FROM pg_roles \
                                                                 WHERE rolname = session_user) \
                 FROM unnest($1::oid[], $2::text[]) WITH ORDINALITY t(oid, rights, place) \
                 JOIN pg_class c ON c.oid = t.oid ORDER BY t.place";
    let rows = client
        .query(sql, &[&oids, &rights])
        .await
        .map_err(ReadError::of("the role's rights on tables"))?;
    let mut owner_of = Vec::new();
    for (row, (_, name, _)) in rows.iter().zip(&all) {
        let (role, missing): (&str, &str) = (row.get(0), row.get(1));
        if !missing.is_empty() {
            findings.blocker(
                format!("role {role} lacks {missing} on {name}"),
                format!(
                    "GRANT {missing} ON {} TO {role}, or domicile install",
                    name.sql()
                ),
            );
        }
        if !row.get::<_, bool>(2) {
            findings.blocker(
                format!("role {role} may not use schema {}", name.schema),
                format!(
                    "GRANT USAGE ON SCHEMA {} TO {role}",
                    model::table::quote(&name.schema)
                ),
            );
        }
        if row.get(3) {
            findings.blocker(
                format!("row-level security hides rows of {name} from role {role}"),
                format!("ALTER ROLE {role} BYPASSRLS"),
            );
        }
        if row.get(4) {
            owner_of.push(name.to_string());
        }
    }
    if !owner_of.is_empty() {
        findings.warning(
            format!(
                "the mover's role owns tables of the application: {}",
                owner_of.join(", ")
            ),
            "connect as the role that domicile install created",
        );
    }
    Ok(())
}

/// Does the guard let this role pass? It is exempt by the name under which Domicile was installed.
async fn exemption(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let oids: Vec<u32> = expect.schema.owned.iter().map(|table| table.oid).collect();
    let sql = "SELECT session_user::text FROM pg_trigger t \
                WHERE t.tgrelid = ANY($1) AND t.tgname = $2 \
                  AND strpos(pg_get_triggerdef(t.oid), quote_literal(session_user)) = 0 LIMIT 1";
    let refused = client
        .query_opt(sql, &[&oids, &TRIGGER])
        .await
        .map_err(ReadError::of("the guard's exemption"))?;
    if let Some(row) = refused {
        findings.blocker(
            format!(
                "the guard stands against role {} too: installed for another mover",
                row.get::<_, &str>(0)
            ),
            "connect as the role that install names, or run domicile install for this one",
        );
    }
    Ok(())
}
