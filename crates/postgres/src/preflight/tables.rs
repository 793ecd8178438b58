//! The tables: what the log does not show, what would fire on copied rows, and who could take the guard off.

use std::collections::BTreeMap;

use model::table::quote;
use residency::guard::{TRIGGER, TRUNCATE_TRIGGER};
use residency::watch::EVENT_TRIGGER;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Expectation, Findings};
use crate::catalog::{ReadError, TableKind, TriggerFires};

pub(super) async fn look(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    owned(expect, findings);
    rules(client, expect, findings).await?;
    owners(client, expect, findings).await?;
    replacers(client, expect, findings).await?;
    strays(expect, findings);
    two_users(client, expect, findings).await?;
    market(client, expect, findings).await
}

fn owned(expect: &Expectation<'_>, findings: &mut Findings<'_>) {
    for owned in &expect.schema.owned {
        let Some(table) = expect.catalog.tables.get(&owned.name) else {
            continue;
        };
        let sql = owned.name.sql();
        if table.unlogged {
            findings.blocker(
                format!(
                    "table {} is unlogged: its changes do not show in the log",
                    owned.name
                ),
                format!("ALTER TABLE {sql} SET LOGGED"),
            );
        }
        if table.identity_nothing {
            findings.blocker(
                format!("table {} has REPLICA IDENTITY NOTHING", owned.name),
                format!("ALTER TABLE {sql} REPLICA IDENTITY DEFAULT"),
            );
        }
        if let Some(index) = &table.identity_wanted {
            findings.blocker(
                format!(
                    "table {} has no primary key, and no replica identity yet: its updates and deletes would not show \
                     in the log",
                    owned.name
                ),
                format!(
                    "run `domicile install` as its owner, or ALTER TABLE {sql} REPLICA IDENTITY USING INDEX {}",
                    quote(index)
                ),
            );
        }
        for hop in owned.parents().filter(|hop| !hop.enforced && !hop.against) {
            findings.warning(
                format!(
                    "rows of {} lead to {} by no validated foreign key: once users have left, the guard refuses those \
                     whose row there is missing",
                    owned.name, hop.parent
                ),
                format!(
                    "add a foreign key from ({columns}) to {}, or VALIDATE CONSTRAINT the one that stands; where there \
                     cannot be one, see that an index stands on ({columns})",
                    hop.parent,
                    columns = hop.columns.join(", "),
                ),
            );
        }
        for hop in owned.parents().filter(|hop| hop.against) {
            findings.warning(
                format!(
                    "rows of {} belong to whoever's {} points at them: users who share one are set aside",
                    owned.name, hop.parent
                ),
                format!(
                    "see that an index stands on ({}) of {}, or give {} a column with the user's key",
                    hop.parent_columns.join(", "),
                    hop.parent,
                    owned.name
                ),
            );
        }
        let fires = |fires| matches!(fires, TriggerFires::Always | TriggerFires::Replica);
        for trigger in table.triggers.iter().filter(|trigger| fires(trigger.fires)) {
            if [TRIGGER, TRUNCATE_TRIGGER].contains(&trigger.name.as_str()) {
                continue;
            }
            findings.blocker(
                format!(
                    "trigger {} on {} fires on copied rows too",
                    trigger.name, owned.name
                ),
                format!(
                    "ALTER TABLE {sql} ENABLE TRIGGER {}, without ALWAYS or REPLICA",
                    quote(&trigger.name)
                ),
            );
        }
    }
}

/// Rewrite rules that hold for the mover as well would change what it applies.
async fn rules(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let oids: Vec<u32> = expect.schema.owned.iter().map(|table| table.oid).collect();
    let sql = "SELECT rulename::text, ev_class::regclass::text FROM pg_rewrite \
                WHERE ev_class = ANY($1) AND ev_enabled IN ('A', 'R')";
    for row in client
        .query(sql, &[&oids])
        .await
        .map_err(ReadError::of("the rewrite rules"))?
    {
        let (rule, table): (&str, &str) = (row.get(0), row.get(1));
        findings.blocker(
            format!("rule {rule} on {table} holds for copied rows too"),
            format!(
                "ALTER TABLE {table} ENABLE RULE {}, without ALWAYS or REPLICA",
                quote(rule)
            ),
        );
    }
    Ok(())
}

/// Whoever owns a table can drop its triggers, and the owner may be the application.
async fn owners(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let mut by_owner: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for owned in &expect.schema.owned {
        if let Some(table) = expect.catalog.tables.get(&owned.name) {
            by_owner
                .entry(&table.owner)
                .or_default()
                .push(owned.name.to_string());
        }
    }
    let names: Vec<&str> = by_owner.keys().copied().collect();
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1) AND rolcanlogin";
    let rows = client
        .query(sql, &[&names])
        .await
        .map_err(ReadError::of("the tables' owners"))?;
    for row in rows {
        let owner: &str = row.get(0);
        findings.warning(
            format!(
                "guard advisory: role {owner} can log in and owns {}, so it could drop the guard's triggers",
                by_owner[owner].join(", ")
            ),
            "let a role without LOGIN own the tables, and the application connect as another",
        );
    }
    Ok(())
}

/// Whoever has the right TRIGGER can replace a trigger by one of the same name, where no event trigger refuses it.
async fn replacers(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let oids: Vec<u32> = expect.schema.owned.iter().map(|table| table.oid).collect();
    let sql = "SELECT DISTINCT r.rolname::text FROM pg_roles r CROSS JOIN unnest($1::oid[]) o \
                 JOIN pg_class c ON c.oid = o \
                 JOIN pg_trigger g ON g.tgrelid = c.oid AND g.tgname = $3 \
                WHERE r.rolcanlogin AND NOT r.rolsuper AND has_table_privilege(r.oid, c.oid, 'TRIGGER') \
                  AND NOT pg_has_role(r.oid, c.relowner, 'USAGE') \
                  AND NOT EXISTS (SELECT FROM pg_event_trigger \
                                   WHERE evtname = $2 AND evtenabled = 'A') ORDER BY 1";
    let what = "the right to replace triggers";
    for row in client
        .query(sql, &[&oids, &EVENT_TRIGGER, &TRIGGER])
        .await
        .map_err(ReadError::of(what))?
    {
        let role: &str = row.get(0);
        findings.warning(
            format!("guard advisory: role {role} has the right TRIGGER, so it could replace the guard's triggers"),
            format!(
                "REVOKE TRIGGER ON the tables that users own FROM {}, or domicile install as a superuser",
                quote(role)
            ),
        );
    }
    Ok(())
}

/// Copies of users' rows that no classification covers, and keys that may find nothing elsewhere.
fn strays(expect: &Expectation<'_>, findings: &mut Findings<'_>) {
    for (name, table) in &expect.catalog.tables {
        if table.kind == TableKind::MaterializedView {
            findings.warning(
                format!("materialized view {name} may hold rows of users and is not moved"),
                format!("refresh {name} after a move, and after an erasure"),
            );
        }
    }
    for key in &expect.schema.foreign_keys {
        let child_owned = expect.schema.owned(&key.child).is_some();
        let parent_known = expect.schema.owned(&key.parent).is_some()
            || expect.schema.references.contains_key(&key.parent);
        if child_owned && !parent_known {
            findings.warning(
                format!(
                    "{} points at {} ({}), which is ignored: a user whose row there is missing at the target is \
                     set aside",
                    key.child, key.parent, key.name
                ),
                format!("classify {} as \"reference\" or as owned, or keep it the same at all sites", key.parent),
            );
        }
    }
}

/// Rows that lead to two users go with the one that the declaration puts first: the other is told of, never in silence.
async fn two_users(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let tables = expect.schema.owned.iter();
    for table in tables.filter(|table| table.may_name_two()) {
        let sql = format!(
            "SELECT count(*) FROM {} AS t CROSS JOIN LATERAL ({}) AS w(k) \
             WHERE EXISTS (SELECT FROM ({}) AS o(k) WHERE o.k <> w.k)",
            table.name.sql(),
            table.owners_of("t"),
            table.everybody_of("t"),
        );
        let row = match client.query_one(&sql, &[]).await {
            Ok(row) => row,
            // A right that is missing is named where rights are looked at.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => continue,
            Err(error) => return Err(ReadError::of(format!("table {}", table.name))(error)),
        };
        let rows: i64 = row.get(0);
        if rows > 0 {
            findings.warning(
                format!(
                    "{rows} rows of {} lead to two users: they go with the first in the order of its declaration, and \
                     the other keeps nothing of them",
                    table.name
                ),
                format!(
                    "if that is not meant, put the ways of {} into another order, or give each user a row of his own",
                    table.name
                ),
            );
        }
    }
    Ok(())
}

/// The market's expression is the operator's; the server alone can say whether it is one.
async fn market(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    let users = &expect.schema.users;
    let Some(market) = &users.market else {
        return Ok(());
    };
    let sql = format!("SELECT ({market})::text FROM {} LIMIT 0", users.name.sql());
    let Err(source) = client.batch_execute(&sql).await else {
        return Ok(());
    };
    match source.as_db_error() {
        // A right that is missing is named where rights are looked at.
        Some(reason) if *reason.code() == SqlState::INSUFFICIENT_PRIVILEGE => Ok(()),
        Some(reason) => {
            findings.blocker(
                format!("the market {market} cannot be read from {}: {}", users.name, reason.message()),
                "correct the service's market: a column, or an SQL expression over its columns with the \
                 names of functions qualified",
            );
            Ok(())
        }
        None => Err(ReadError {
            what: "the users' market".to_owned(),
            source,
        }),
    }
}
