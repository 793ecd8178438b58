//! What is asked of a home database after moves: for verification, erasure, going back and uninstalling.

use std::collections::BTreeSet;
use std::time::Duration;

use model::{BatchId, Epoch, KeyKind, MoveId, ServiceName, SiteName, UserKey};
use serde_json::Value;
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::journal::BatchRow;
use crate::{Error, Result};

/// Whether Domicile is installed here.
pub async fn installed(session: &impl GenericClient) -> Result<bool> {
    let row = session
        .query_one(
            "SELECT to_regclass('domicile.home') IS NOT NULL \
                AND to_regclass('domicile.resident') IS NOT NULL",
            &[],
        )
        .await
        .doing("looking for an installation")?;
    Ok(row.get(0))
}

/// The service, the site and the origin that this database is installed as; `None` where it is not, or where the
/// session's role may not look.
pub async fn installed_as(session: &impl GenericClient) -> Result<Option<[String; 3]>> {
    let silent = [
        Some(&SqlState::UNDEFINED_TABLE),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE),
    ];
    let sql = "SELECT service, site, origin FROM domicile.home";
    match session.query_opt(sql, &[]).await {
        Err(error) if silent.contains(&error.code()) => Ok(None),
        found => Ok(found
            .doing("looking as what this database is installed")?
            .map(|row| [row.get(0), row.get(1), row.get(2)])),
    }
}

/// The key of the digests of all batches that leave from here: the same for as long as this installation
/// lasts, so that frozen rows can be read again later and compared with what was agreed on. Derived from this
/// home's secret, from which the digest's key cannot lead back.
pub async fn digest_key(session: &impl GenericClient) -> Result<[u8; 32]> {
    // No user key begins with a zero byte, so no hash of one in an entry of version 3 can be this one.
    let row = session
        .query_one(
            r"SELECT sha256(secret || '\x00'::bytea || convert_to('digest of rows', 'UTF8')) FROM domicile.home",
            &[],
        )
        .await
        .doing("reading the key of digests")?;
    let key: Vec<u8> = row.get(0);
    key.try_into()
        .map_err(|_| Error::Refused("the key of digests is not 32 bytes long".to_owned()))
}

/// A batch that left from here, without its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The batch.
    pub batch: BatchId,
    /// Its move.
    pub r#move: MoveId,
    /// How long ago it left, by this database's clock.
    pub age: Duration,
}

/// The batches that left from here, the oldest first: of one move or of all; with `users` those alone in which
/// one of them went.
pub async fn departed(
    session: &impl GenericClient,
    kind: KeyKind,
    of: Option<&MoveId>,
    users: Option<&[UserKey]>,
) -> Result<Vec<Departed>> {
    let users: Option<Vec<&str>> = users.map(|users| users.iter().map(UserKey::as_str).collect());
    let rows = session
        .query(
            &format!(
                "SELECT batch, move_id, greatest(0, extract(epoch FROM now() - departed_at))::float8 \
                 FROM domicile.batch_log AS b \
                 WHERE ($1::text IS NULL OR move_id = $1) \
                   AND ($2::text[] IS NULL OR EXISTS (SELECT FROM domicile.passenger AS p \
                        WHERE p.batch = b.batch AND p.user_key = ANY ($2::text[]::{}[]))) \
                 ORDER BY departed_at, batch",
                kind.sql_type()
            ),
            &[&of.map(MoveId::as_str), &users],
        )
        .await
        .doing("reading the journal of batches")?;
    let read = |row: &tokio_postgres::Row| Departed {
        batch: BatchId::new(row.get::<_, String>(0)),
        r#move: MoveId::new(row.get::<_, String>(1)),
        age: Duration::from_secs_f64(row.get(2)),
    };
    Ok(rows.iter().map(read).collect())
}

/// One batch with its users.
pub async fn batch(session: &impl GenericClient, batch: &BatchId) -> Result<Option<BatchRow>> {
    let row = session
        .query_opt(
            "SELECT b.move_id, m.target, b.digest, array_agg(p.user_key::text ORDER BY p.user_key), \
                    array_agg(p.epoch ORDER BY p.user_key) \
             FROM domicile.batch_log AS b JOIN domicile.move AS m USING (move_id) \
             JOIN domicile.passenger AS p USING (batch) \
             WHERE b.batch = $1 GROUP BY b.batch, b.move_id, m.target, b.digest",
            &[&batch.as_str()],
        )
        .await
        .doing("reading a batch of the journal")?;
    Ok(row.map(|row| {
        let users = row.get::<_, Vec<String>>(3).into_iter().map(UserKey::new);
        let epochs = row.get::<_, Vec<i64>>(4).into_iter().map(Epoch);
        BatchRow {
            batch: batch.clone(),
            r#move: MoveId::new(row.get::<_, String>(0)),
            target: SiteName::new(row.get::<_, String>(1)),
            digest: row.get(2),
            users: users.zip(epochs).collect(),
        }
    }))
}

/// The digest in this site's decision on a batch that arrived here.
pub async fn decided_digest(
    session: &impl GenericClient,
    service: &ServiceName,
    batch: &BatchId,
) -> Result<Option<Value>> {
    let row = session
        .query_opt(
            "SELECT digest FROM domicile.decision WHERE service = $1 AND batch = $2",
            &[&service.as_str(), &batch.as_str()],
        )
        .await
        .doing("reading the digest of a decision")?;
    Ok(row.and_then(|row| row.get(0)))
}

/// Those of `users` whom `peer` may hear of: who changed home once, which every peer is told anyway (see [`tidings`](crate::tidings)), or are on their
/// way between it and here.
pub async fn concerned(
    session: &impl GenericClient,
    kind: KeyKind,
    users: &[UserKey],
    peer: &SiteName,
) -> Result<BTreeSet<UserKey>> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    let rows = session
        .query(
            &format!(
                "SELECT k FROM unnest($1::text[]) AS k JOIN domicile.resident AS r ON r.user_key = k::{} \
                  WHERE r.told <> 0 OR r.peer = $2",
                kind.sql_type()
            ),
            &[&keys, &peer.as_str()],
        )
        .await
        .doing("looking whom a peer may hear of")?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

/// How many users this site's records say are at `site`, or on their way there or from there.
pub async fn pointing_at(session: &impl GenericClient, site: &SiteName) -> Result<u64> {
    let row = session
        .query_one(
            "SELECT count(*) FROM domicile.resident WHERE peer = $1",
            &[&site.as_str()],
        )
        .await
        .doing("counting who went to a site")?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// The users who would be open to writes here again, or half-way, without the guard: counts by state.
///
/// Somebody who left and whose rows are erased is none of them, except at the origin: there his key would be
/// known again.
pub async fn reopening(session: &impl GenericClient) -> Result<Vec<(String, u64)>> {
    let rows = session
        .query(
            "SELECT state, count(*) FROM domicile.resident CROSS JOIN domicile.home AS h \
             WHERE state <> 'settled' \
               AND (h.is_origin OR state <> 'departed' OR erased_at IS NULL) \
             GROUP BY state ORDER BY state",
            &[],
        )
        .await
        .doing("looking for users who would reopen")?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs()))
        .collect())
}
