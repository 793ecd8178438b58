//! What homes tell the registry: all names that their users have, page by page, again and again.

use model::{KeyKind, SiteName, UserKey};
use tokio_postgres::types::Type;

use super::Hash;
use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// What a page of names changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// Entries that are new or confirmed.
    pub changed: u64,
    /// Names that are another user's here: the user of whom they were told, and the other.
    pub conflicts: Vec<(Hash, UserKey, UserKey)>,
}

/// Takes in what `site` tells of its users, each with a name of `kind`. A name of nobody's is his, one that he claimed is held, and one of
/// another user's stays that one's: it is handed back.
pub async fn tell(
    session: &impl Asks,
    keys: KeyKind,
    site: &SiteName,
    kind: &str,
    names: &[(UserKey, Hash)],
) -> Result<Turned> {
    let doing = "taking in the names of a site";
    let users: Vec<&str> = names.iter().map(|(user, _)| user.as_str()).collect();
    let hashes: Vec<&[u8]> = names.iter().map(|(_, hash)| hash.bytes()).collect();
    let key = keys.sql_type();
    // In the order of the hashes, so that two sites that tell at once do not wait for each other; and each once.
    let changed = session
        .tell(
            &format!(
                "INSERT INTO domicile.claim AS c (hash, kind, user_key, site, state, until) \
                 SELECT DISTINCT ON (h) h, $3, u::{key}, $4, 'held', clock_timestamp() \
                   FROM unnest($1::bytea[], $2::text[]) AS t(h, u) ORDER BY h, u \
                 ON CONFLICT (hash) DO UPDATE SET state = 'held', site = excluded.site, turn = c.turn + 1 \
                 WHERE c.user_key = excluded.user_key AND (c.state <> 'held' OR c.site <> excluded.site)"
            ),
            &[
                (&hashes, Type::BYTEA_ARRAY),
                (&users, Type::TEXT_ARRAY),
                (&kind, Type::TEXT),
                (&site.as_str(), Type::TEXT),
            ],
        )
        .await
        .doing(doing)?;
    let rows = session
        .ask(
            &format!(
                "SELECT t.h, t.u, c.user_key::text FROM unnest($1::bytea[], $2::text[]) AS t(h, u) \
                   JOIN domicile.claim AS c ON c.hash = t.h WHERE c.user_key <> t.u::{key}"
            ),
            &[(&hashes, Type::BYTEA_ARRAY), (&users, Type::TEXT_ARRAY)],
        )
        .await
        .doing(doing)?;
    let conflict = |row: &tokio_postgres::Row| {
        let user = |n: usize| UserKey::new(row.get::<_, String>(n));
        (Hash::of(row.get(0)), user(1), user(2))
    };
    Ok(Turned {
        changed,
        conflicts: rows.iter().map(conflict).collect(),
    })
}

/// `site` begins to tell all its names of `kind`.
pub async fn begins(session: &impl Asks, site: &SiteName, kind: &str) -> Result<()> {
    session
        .tell(
            "INSERT INTO domicile.claim_told AS t (site, kind) VALUES ($1, $2) \
             ON CONFLICT (site, kind) DO UPDATE SET beginning = clock_timestamp()",
            &[(&site.as_str(), Type::TEXT), (&kind, Type::TEXT)],
        )
        .await
        .doing("noting that a site begins to tell its names")?;
    Ok(())
}

/// `site` has told all its names of `kind` since it last began.
pub async fn ends(session: &impl Asks, site: &SiteName, kind: &str) -> Result<()> {
    session
        .tell(
            "UPDATE domicile.claim_told SET began_at = beginning, first_at = coalesce(first_at, clock_timestamp()) \
              WHERE site = $1 AND kind = $2",
            &[(&site.as_str(), Type::TEXT), (&kind, Type::TEXT)],
        )
        .await
        .doing("noting that a site told its names")?;
    Ok(())
}

/// Whether the registry knows all names of `kind` that were there before it: each of `sites` has told them, and once more since the last of them
/// told them for the first time: a user who changed home while two of them told theirs may have been missed by both. Where the site is closed after
/// restarts, they have done so since its server started: it may be a restored one, which does not know what was claimed since.
pub async fn is_filled(session: &impl Asks, kind: &str, sites: &[SiteName]) -> Result<bool> {
    let names: Vec<&str> = sites.iter().map(SiteName::as_str).collect();
    let rows = session
        .ask(
            "SELECT count(*) = cardinality($2) AND coalesce(min(t.began_at) >= max(t.first_at), false) \
                    AND coalesce(min(t.began_at) >= pg_postmaster_start_time() OR max(h.after_restart) <> 'closed', false) \
               FROM domicile.claim_told AS t, domicile.home AS h \
              WHERE t.kind = $1 AND t.site = ANY ($2) AND t.first_at IS NOT NULL",
            &[(&kind, Type::TEXT), (&names, Type::TEXT_ARRAY)],
        )
        .await
        .doing("looking whether all sites told their names")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}
