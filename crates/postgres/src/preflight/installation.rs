//! Whether Domicile is installed here, for this service and site, whole.

use std::collections::BTreeMap;

use residency::guard::{TRIGGER, TRUNCATE_TRIGGER};
use residency::install::{VERSION, stream_name};
use tokio_postgres::Client;

use super::{Expectation, Findings};
use crate::catalog::{ReadError, TriggerFires};

const INSTALL: &str = "domicile install";

/// Returns whether Domicile is installed here for this service and site.
pub(super) async fn look(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<bool, ReadError> {
    // The schema's existence is visible to every role, to_regclass inside it is not.
    let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                               WHERE n.nspname = 'domicile' AND c.relname = 'home'), \
                      EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'domicile' \
                                 AND has_schema_privilege(n.oid, 'USAGE'))";
    let what = "whether Domicile is installed";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(ReadError::of(what))?;
    if !row.get::<_, bool>(0) {
        findings.blocker("Domicile is not installed in this database", INSTALL);
        return Ok(false);
    }
    if !row.get::<_, bool>(1) {
        findings.blocker(
            "this role may not look into schema domicile: Domicile was installed for another role",
            "connect as the role that install names, or run domicile install for this one",
        );
        return Ok(false);
    }
    let sql = "SELECT service, site, origin, version, fingerprint FROM domicile.home";
    let Some(row) = client
        .query_opt(sql, &[])
        .await
        .map_err(ReadError::of(what))?
    else {
        findings.blocker("Domicile's installation here was not finished", INSTALL);
        return Ok(false);
    };
    let (service, site, origin): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let wanted = (
        expect.service.as_str(),
        findings.site.as_str(),
        expect.origin.as_str(),
    );
    if (service, site, origin) != wanted {
        findings.blocker(
            format!(
                "this database is installed for service {service} at site {site}, origin {origin}, not \
                 for {} at {}, origin {}",
                wanted.0, wanted.1, wanted.2
            ),
            "correct the database's address, the site or the origin in the configuration",
        );
        return Ok(false);
    }
    let version: i32 = row.get(3);
    if version < VERSION {
        findings.blocker(
            format!("Domicile's tables here are of version {version}, this program's of {VERSION}"),
            INSTALL,
        );
    } else if version > VERSION {
        findings.blocker(
            format!("Domicile's tables here are of version {version}, this program's of {VERSION}"),
            "upgrade this program",
        );
    }
    if row.get::<_, &str>(4) != expect.schema.fingerprint {
        findings.blocker(
            "the tables or their classification changed since Domicile was installed",
            INSTALL,
        );
    }
    let resting = match version == VERSION {
        true => resting(client).await?,
        false => BTreeMap::new(),
    };
    guard(expect, &resting, findings);
    publication(client, expect, findings).await?;
    Ok(true)
}

/// The tables on which the guard rests as nobody moves, by object id, each with the reason why it may not, if there is one.
async fn resting(client: &Client) -> Result<BTreeMap<u32, Option<String>>, ReadError> {
    let sql =
        "SELECT relation::oid, domicile.guard_needed(relation) FROM domicile.guarded WHERE rests";
    let rows = client
        .query(sql, &[])
        .await
        .map_err(ReadError::of("where the guard rests"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn guard(
    expect: &Expectation<'_>,
    resting: &BTreeMap<u32, Option<String>>,
    findings: &mut Findings<'_>,
) {
    for table in &expect.schema.owned {
        let triggers = expect
            .catalog
            .tables
            .get(&table.name)
            .map_or(&[][..], |t| &t.triggers);
        for name in [TRIGGER, TRUNCATE_TRIGGER] {
            match triggers.iter().find(|trigger| trigger.name == name) {
                Some(trigger) if trigger.fires == TriggerFires::Always => {}
                Some(trigger)
                    if name == TRIGGER
                        && trigger.fires == TriggerFires::Disabled
                        && resting.contains_key(&table.oid) =>
                {
                    if let Some(Some(why)) = resting.get(&table.oid) {
                        findings.warning(
                            format!(
                                "the guard rests on {}, and may not any more: {why}",
                                table.name
                            ),
                            INSTALL,
                        );
                    }
                }
                Some(_) => findings.blocker(
                    format!(
                        "trigger {name} on {} does not fire always: writes can pass the guard",
                        table.name
                    ),
                    INSTALL,
                ),
                None => findings.blocker(
                    format!(
                        "trigger {name} is missing on {}: writes pass unguarded",
                        table.name
                    ),
                    INSTALL,
                ),
            }
        }
    }
}

async fn publication(
    client: &Client,
    expect: &Expectation<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ReadError> {
    // Row filters, column lists and whole schemas exist from 15 on.
    let partial = if expect.catalog.server_version >= 150_000 {
        "EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid \
                    AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)) \
         OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)"
    } else {
        "false"
    };
    let sql = format!(
        "SELECT p.puballtables, p.pubinsert AND p.pubupdate AND p.pubdelete, {partial}, \
                ARRAY(SELECT r.prrelid FROM pg_publication_rel r WHERE r.prpubid = p.oid) \
           FROM pg_publication p WHERE p.pubname = $1"
    );
    let name = stream_name(expect.service);
    let found = client
        .query_opt(&sql, &[&name])
        .await
        .map_err(ReadError::of("the publication"))?;
    let Some(row) = found else {
        findings.blocker(format!("publication {name} is missing"), INSTALL);
        return Ok(());
    };
    if row.get(0) {
        findings.blocker(
            format!(
                "publication {name} is FOR ALL TABLES, which breaks updates of tables without a key"
            ),
            format!("DROP PUBLICATION {name}, then domicile install"),
        );
        return Ok(());
    }
    if !row.get::<_, bool>(1) || row.get(2) {
        findings.blocker(
            format!("publication {name} leaves out some operations, rows or columns"),
            format!("DROP PUBLICATION {name}, then domicile install"),
        );
    }
    let mut published: Vec<u32> = row.get(3);
    let mut owned: Vec<u32> = expect.schema.owned.iter().map(|table| table.oid).collect();
    published.sort_unstable();
    owned.sort_unstable();
    if published != owned {
        findings.blocker(
            format!("publication {name} does not name exactly the tables that users own"),
            "domicile install, once no move runs",
        );
    }
    Ok(())
}
