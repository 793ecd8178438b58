//! Entries for the ledger: rows of an append-only table, written in the transaction that they describe.
//!
//! Users appear as commitments (see [`ledger::entry::commitment`]), nothing personal is in an entry. Each user has a salt of his own at this
//! site, and each entry a nonce, both random: a commitment is opened by the hash of the two, which says nothing of another
//! entry, or of another user. The salts stay here.

use std::collections::BTreeSet;

use ledger::tree::Hash;
use model::UserKey;
use serde_json::Value;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::error::Doing;
use crate::kept::Asks;
use crate::{Error, Result};

/// Appends an entry of `kind`. The commitments to `users` go into the body's field `users`, sorted, so that their order
/// tells nothing. The body's field `policy` names the version of the policy that is in
/// force here.
pub async fn append(tx: &impl Asks, kind: &str, body: Value, users: &[UserKey]) -> Result<()> {
    // In the order of the keys: two transactions that name the same users do not wait for each other crosswise.
    let keys: BTreeSet<&str> = users.iter().map(UserKey::as_str).collect();
    let keys: Vec<&str> = keys.into_iter().collect();
    // Who has no salt yet gets one of a seed that is kept nowhere: cheaper than as many random numbers, in the pause of a
    // batch. A salt that is there is written again, so that it is returned whoever made it.
    tx.tell(
        "WITH drawn AS MATERIALIZED ( \
           SELECT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) AS nonce, \
                  uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) AS seed), \
         salted AS ( \
           INSERT INTO domicile.salt AS s (user_key, salt) \
           SELECT k, sha256(seed || convert_to(k, 'UTF8')) FROM unnest($3::text[]) AS k, drawn \
           ON CONFLICT (user_key) DO UPDATE SET salt = s.salt RETURNING user_key, salt), \
         named AS ( \
           SELECT encode(sha256(sha256(salt || nonce) || convert_to(user_key, 'UTF8')), 'hex') AS c FROM salted, drawn) \
         INSERT INTO domicile.entry (kind, body) \
         SELECT $1, $2::jsonb || jsonb_build_object('nonce', encode(nonce, 'hex'), \
              'policy', (SELECT p.version FROM domicile.policy AS p ORDER BY p.n DESC LIMIT 1), \
             'users', coalesce((SELECT jsonb_agg(c ORDER BY c) FROM named), '[]'::jsonb)) FROM drawn",
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

/// An entry about a user, with what opens his commitment in it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its position in the log.
    pub position: u64,
    /// What opens his commitment.
    pub opening: Hash,
}

/// The entries of the log that are about `user`, in its order, as far as it has `size` entries. None once his salt is
/// [forgotten](forget). Reads all entries.
pub async fn about(session: &impl GenericClient, user: &UserKey, size: u64) -> Result<Vec<Opened>> {
    let doing = "looking for a user's ledger entries";
    let rows = session
        .query(
            "SELECT l.position, o.opening \
               FROM domicile.salt AS s, domicile.entry AS e JOIN domicile.leaf AS l USING (n), \
                    LATERAL (SELECT CASE WHEN e.body ->> 'nonce' ~ '^([0-9a-f]{2})+$' \
                         THEN sha256(s.salt || decode(e.body ->> 'nonce', 'hex')) END AS opening) AS o \
              WHERE s.user_key = $1 AND l.position < $2 \
                AND e.body -> 'users' ? encode(sha256(o.opening || convert_to(s.user_key, 'UTF8')), 'hex') \
              ORDER BY l.position",
            &[&user.as_str(), &size.cast_signed()],
        )
        .await
        .doing(doing)?;
    let opened = rows.iter().map(|row| {
        Some(Opened {
            position: row.get::<_, i64>(0).cast_unsigned(),
            opening: Hash::from_slice(row.get(1))?,
        })
    });
    opened
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Refused("an opening of the ledger is not 32 bytes long".to_owned()))
}

/// The positions of the entries about one erasure in the log, in its order, as far as it has `size` entries. Reads all entries.
pub async fn of_erasure(
    session: &impl GenericClient,
    erasure: &str,
    size: u64,
) -> Result<Vec<u64>> {
    let rows = session
        .query(
            "SELECT l.position FROM domicile.entry AS e JOIN domicile.leaf AS l USING (n) \
              WHERE e.kind IN ('erasing', 'erased') AND e.body ->> 'erasure' = $1 AND l.position < $2 ORDER BY l.position",
            &[&erasure, &size.cast_signed()],
        )
        .await
        .doing("looking for an erasure's ledger entries")?;
    Ok(rows
        .iter()
        .map(|row| row.get::<_, i64>(0).cast_unsigned())
        .collect())
}

/// Forgets the salts of `users`: from then on nobody, this site included, can tell which entries are about them. Proofs that
/// were given out before still hold. Whoever is written of again gets a new salt.
pub async fn forget(session: &impl GenericClient, users: &[UserKey]) -> Result<u64> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    session
        .execute(
            "DELETE FROM domicile.salt WHERE user_key = ANY ($1::text[])",
            &[&keys],
        )
        .await
        .doing("forgetting users' salts")
}
