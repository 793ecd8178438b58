//! What departed users left behind is still what both sides agreed on before the switch.

use std::collections::BTreeSet;

use handoff::record::State;
use model::{BatchId, ServiceName, UserKey};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::verify;
use residency::journal::BatchRow;
use residency::{audit, records};
use tokio_postgres::{IsolationLevel, Transaction};

use super::{Home, Mismatch, Verified, mismatch};
use crate::exit::{Exit, OrFail, Outcome};

/// Looks at every batch of every site's journal, or at those in which one of `only` went.
pub(super) async fn verify(
    name: &ServiceName,
    homes: &mut [Home],
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    for at in 0..homes.len() {
        let home = &homes[at];
        let failed = || format!("{name}: cannot read what left from {}", home.site);
        let kind = home.schema()?.users.kind;
        let key = audit::digest_key(&*home.session)
            .await
            .or_fail(Exit::Unreached, failed)?;
        let left = audit::departed(&*home.session, kind, None, only)
            .await
            .or_fail(Exit::Unreached, failed)?;
        let key = DigestKey::new(key);
        for departed in left {
            one(name, homes, at, &departed.batch, &key, verified).await?;
        }
    }
    Ok(())
}

async fn one(
    name: &ServiceName,
    homes: &mut [Home],
    at: usize,
    id: &BatchId,
    key: &DigestKey,
    verified: &mut Verified,
) -> Outcome<()> {
    let failed = |site: &model::SiteName| format!("{name}: cannot verify batch {id} at {site}");
    let home = &mut homes[at];
    let (site, schema) = (home.site.clone(), home.schema()?.clone());
    let snapshot = snapshot(&mut home.session)
        .await
        .or_fail(Exit::Unreached, || failed(&site))?;
    let batch = audit::batch(&snapshot, id)
        .await
        .or_fail(Exit::Unreached, || failed(&site))?;
    let Some(batch) = batch else { return Ok(()) };
    let users: Vec<UserKey> = batch.users.iter().map(|(user, _)| user.clone()).collect();
    let records = records::look(&snapshot, schema.users.kind, &users)
        .await
        .or_fail(Exit::Unreached, || failed(&site))?;
    let frozen = batch
        .users
        .iter()
        .zip(&records)
        .all(|((_, epoch), record)| {
            matches!(record.as_ref().map(|r| &r.state),
            Some(State::Departed { epoch: at, erased: false, .. }) if at == epoch)
        });
    if !frozen {
        verified.frozen.past += 1;
        return Ok(());
    }
    let found = verify::digest(&snapshot, &schema, &users, key)
        .await
        .or_fail(Exit::Unreached, || failed(&site))?;
    let each = verify::digest_each(&snapshot, &schema, &users, key)
        .await
        .or_fail(Exit::Unreached, || failed(&site))?;
    drop(snapshot);

    let new = homes.iter_mut().find(|home| home.site == batch.target);
    let agreed = match (&batch.digest, &new) {
        (Some(digest), _) => Some(digest.clone()),
        // An earlier process verified it and was gone before it wrote it down: the target's decision has it.
        (None, Some(new)) => audit::decided_digest(&*new.session, name, id)
            .await
            .or_fail(Exit::Unreached, || failed(&new.site))?,
        (None, None) => None,
    };
    let agreed = agreed
        .and_then(|digest| serde_json::from_value::<BatchDigest>(digest.get("rows")?.clone()).ok());
    let mut wrong = |table: Option<String>, what: String| {
        verified.wrong(Mismatch {
            table,
            ..mismatch(name, &site, what)
        });
    };
    match agreed {
        None => wrong(
            None,
            format!("batch {id}: no digest stands in either site's records"),
        ),
        Some(agreed) => {
            let tables = agreed.differing_tables(&found);
            for table in &tables {
                let what = format!(
                    "the frozen rows of batch {id} ({}) are not those that both sides agreed on before the switch",
                    span(&batch)
                );
                wrong(Some((*table).to_owned()), what);
            }
            if tables.is_empty() {
                verified.frozen.batches += 1;
            }
        }
    }
    let Some(new) = new else { return Ok(()) };
    let schema = new.schema()?.clone();
    let target = new.site.clone();
    let there = self::snapshot(&mut new.session)
        .await
        .or_fail(Exit::Unreached, || failed(&target))?;
    let records = records::look(&there, schema.users.kind, &users)
        .await
        .or_fail(Exit::Unreached, || failed(&target))?;
    // Of somebody who has gone on, or whose frozen rows are here no more, nothing is said.
    let home: BTreeSet<&UserKey> = users
        .iter()
        .zip(&records)
        .filter(|(_, record)| record.as_ref().is_some_and(|r| r.state.is_home()))
        .map(|(user, _)| user)
        .collect();
    let now = verify::digest_each(&there, &schema, &users, key)
        .await
        .or_fail(Exit::Unreached, || failed(&target))?;
    for user in home {
        match each.get(user) == now.get(user) {
            true => verified.frozen.unchanged += 1,
            false => verified.frozen.changed += 1,
        }
    }
    Ok(())
}

async fn snapshot(session: &mut Session) -> Result<Transaction<'_>, tokio_postgres::Error> {
    session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
}

/// Whose batch it is: bounded, whatever its size.
fn span(batch: &BatchRow) -> String {
    let named: Vec<&str> = batch
        .users
        .iter()
        .take(5)
        .map(|(user, _)| user.as_str())
        .collect();
    match batch.users.len() - named.len() {
        0 => format!("users {}", named.join(", ")),
        more => format!("users {} and {more} more", named.join(", ")),
    }
}
