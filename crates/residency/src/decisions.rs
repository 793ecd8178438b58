//! The target's word on batches, in the database: a row inserted once.

use handoff::decision::{Decision, Outcome};
use model::{BatchId, Epoch, ServiceName, SiteName, UserKey};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// The decision on `batch`, if one stands.
pub async fn standing(
    tx: &impl Asks,
    service: &ServiceName,
    batch: &BatchId,
) -> Result<Option<Decision>> {
    let rows = tx
        .ask(
            "SELECT verdict, named, highest FROM domicile.decision WHERE service = $1 AND batch = $2",
            &[
                (&service.as_str(), Type::TEXT),
                (&batch.as_str(), Type::TEXT),
            ],
        )
        .await
        .doing("reading a decision")?;
    Ok(rows.first().map(|row| {
        if row.get::<_, &str>(0) == "accepted" {
            return Decision::Accepted;
        }
        let named = row.get::<_, Value>(1);
        let pair = |v: &Value| Some((UserKey::from(v[0].as_str()?), v[1].as_str()?.to_owned()));
        let named = named
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(pair)
            .collect();
        Decision::Refused {
            named,
            highest: Epoch(row.get(2)),
        }
    }))
}

/// Whether `batch`, of `source`, was accepted here.
pub async fn accepted_from(
    tx: &impl Asks,
    service: &ServiceName,
    batch: &BatchId,
    source: &SiteName,
) -> Result<bool> {
    let rows = tx
        .ask(
            "SELECT FROM domicile.decision \
             WHERE service = $1 AND batch = $2 AND source = $3 AND verdict = 'accepted'",
            &[
                (&service.as_str(), Type::TEXT),
                (&batch.as_str(), Type::TEXT),
                (&source.as_str(), Type::TEXT),
            ],
        )
        .await
        .doing("reading a decision")?;
    Ok(!rows.is_empty())
}

/// Inserts `wish` as the decision on `batch`, or reads the one that was there first.
pub async fn decide(
    tx: &impl Asks,
    service: &ServiceName,
    batch: &BatchId,
    source: &SiteName,
    wish: Decision,
    digest: Option<&Value>,
) -> Result<Outcome> {
    let (verdict, named, highest) = match &wish {
        Decision::Accepted => ("accepted", Value::Array(Vec::new()), 0),
        Decision::Refused { named, highest } => {
            let named = named
                .iter()
                .map(|(user, reason)| serde_json::json!([user, reason]));
            ("refused", Value::Array(named.collect()), highest.0)
        }
    };
    let inserted = tx
        .tell(
            "INSERT INTO domicile.decision (service, batch, source, verdict, named, highest, digest) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (service, batch) DO NOTHING",
            &[
                (&service.as_str(), Type::TEXT),
                (&batch.as_str(), Type::TEXT),
                (&source.as_str(), Type::TEXT),
                (&verdict, Type::TEXT),
                (&named, Type::JSONB),
                (&highest, Type::INT8),
                (&digest, Type::JSONB),
            ],
        )
        .await
        .doing("inserting a decision")?;
    if inserted == 1 {
        return Ok(Outcome::Decided(wish));
    }
    let standing = standing(tx, service, batch).await?;
    Ok(Outcome::Standing(standing.expect(
        "ON CONFLICT found a committed row, and decisions are never deleted",
    )))
}
