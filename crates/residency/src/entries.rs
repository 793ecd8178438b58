//! Entries for the ledger: rows of an append-only table, written in the transaction that they describe.
//!
//! Users appear as keyed hashes under this home's own secret; nothing personal is in an entry.

use model::UserKey;
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// Appends an entry of `kind`. `users` are hashed into the body's field `users`, and its field `policy` names the version of
/// the policy that is in force here.
pub async fn append(tx: &impl Asks, kind: &str, body: Value, users: &[UserKey]) -> Result<()> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    tx.tell(
        "INSERT INTO domicile.entry (kind, body) \
         SELECT $1, $2::jsonb || jsonb_build_object( \
           'policy', (SELECT p.version FROM domicile.policy AS p ORDER BY p.n DESC LIMIT 1), 'users', coalesce((SELECT jsonb_agg( \
             encode(substr(sha256(h.secret || convert_to(k, 'UTF8')), 1, 16), 'hex')) \
           FROM unnest($3::text[]) AS k), '[]'::jsonb)) FROM domicile.home AS h",
        &[
            (&kind, Type::TEXT),
            (&body, Type::JSONB),
            (&keys, Type::TEXT_ARRAY),
        ],
    )
    .await
    .doing("writing a ledger entry")?;
    Ok(())
}
