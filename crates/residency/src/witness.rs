//! What this site countersigned of its peers' logs, and what it refused: append-only, so that no peer can take back a head.

use ledger::key::PublicKey;
use ledger::tree::Hash;
use ledger::witness::Refusal;
use tokio_postgres::{GenericClient, Row};

use crate::error::Doing;
use crate::log::damaged;
use crate::{LOCK_CLASS, Result};

/// A head that this site countersigned.
#[derive(Clone, Debug)]
pub struct Witnessed {
    /// The site of the log.
    pub of: String,
    /// How many entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The key with which the log's site signed it.
    pub key: PublicKey,
    /// Our key.
    pub own_key: PublicKey,
    /// The head with both signatures.
    pub note: String,
}

/// A head that this site refused to countersign.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The site of the log.
    pub of: String,
    /// The last head that was countersigned.
    pub held: String,
    /// The head that was shown.
    pub shown: String,
    /// The keys with which the two are signed.
    pub keys: [PublicKey; 2],
    /// Why not.
    pub reason: Refusal,
}

/// Keeps others from judging heads of the site `of` until the transaction `tx` ends: two who judge by the same last head
/// could countersign two histories.
pub async fn hold(tx: &impl GenericClient, of: &str) -> Result<()> {
    tx.execute(
        "SELECT pg_advisory_xact_lock($1, 1073741824 + (abs(hashtext('witness of ' || $2)::bigint) % 1000000000)::int)",
        &[&LOCK_CLASS, &of],
    )
    .await
    .doing("waiting for another witness")?;
    Ok(())
}

/// What this site countersigned, in that order: of the site `of` or of all sites; the last one alone, or all.
pub async fn witnessed(
    session: &impl GenericClient,
    of: Option<&str>,
    last: bool,
) -> Result<Vec<Witnessed>> {
    let rows = session
        .query(
            "SELECT w.of, w.size, w.root, w.key, w.own_key, w.note FROM domicile.witnessed AS w \
             WHERE ($1::text IS NULL OR w.of = $1) \
               AND (NOT $2 OR w.n = (SELECT max(l.n) FROM domicile.witnessed AS l WHERE l.of = w.of)) ORDER BY w.n",
            &[&of, &last],
        )
        .await
        .doing("reading what was countersigned")?;
    let read = |row: &Row| {
        Some(Witnessed {
            of: row.get(0),
            size: row.get::<_, i64>(1).cast_unsigned(),
            root: Hash::from_slice(row.get(2))?,
            key: PublicKey::from_slice(row.get(3)).ok()?,
            own_key: PublicKey::from_slice(row.get(4)).ok()?,
            note: row.get(5),
        })
    };
    let found: Option<Vec<Witnessed>> = rows.iter().map(read).collect();
    found.ok_or_else(|| damaged("what was countersigned"))
}

/// Keeps what is countersigned: before the countersignature is given out.
pub async fn add(tx: &impl GenericClient, witnessed: &Witnessed) -> Result<()> {
    tx.execute(
        "INSERT INTO domicile.witnessed (of, size, root, key, own_key, note) VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            &witnessed.of,
            &witnessed.size.cast_signed(),
            &&witnessed.root.0[..],
            &&witnessed.key.as_bytes()[..],
            &&witnessed.own_key.as_bytes()[..],
            &witnessed.note,
        ],
    )
    .await
    .doing("writing down what is countersigned")?;
    Ok(())
}

/// What this site refused to countersign.
pub async fn refused(session: &impl GenericClient) -> Result<Vec<Refused>> {
    let rows = session
        .query(
            "SELECT of, held, shown, held_key, shown_key, reason FROM domicile.refused_head ORDER BY n",
            &[],
        )
        .await
        .doing("reading what was refused")?;
    let key = |bytes: &[u8]| PublicKey::from_slice(bytes).ok();
    let read = |row: &Row| {
        Some(Refused {
            of: row.get(0),
            held: row.get(1),
            shown: row.get(2),
            keys: [key(row.get(3))?, key(row.get(4))?],
            reason: serde_json::from_value(serde_json::Value::String(row.get(5))).ok()?,
        })
    };
    let found: Option<Vec<Refused>> = rows.iter().map(read).collect();
    found.ok_or_else(|| damaged("what was refused"))
}

/// Keeps a refusal with its evidence, unless it is there.
pub async fn add_refused(tx: &impl GenericClient, refused: &Refused) -> Result<()> {
    let reason = serde_json::json!(refused.reason);
    tx.execute(
        "INSERT INTO domicile.refused_head (of, held, shown, held_key, shown_key, reason) \
         SELECT $1, $2, $3, $4, $5, $6 \
         WHERE NOT EXISTS (SELECT FROM domicile.refused_head WHERE of = $1 AND held = $2 AND shown = $3)",
        &[
            &refused.of,
            &refused.held,
            &refused.shown,
            &&refused.keys[0].as_bytes()[..],
            &&refused.keys[1].as_bytes()[..],
            &reason.as_str().unwrap_or_default(),
        ],
    )
    .await
    .doing("writing down what is refused")?;
    Ok(())
}
