//! The mover's side of the gateways' door: it is closed for the users of a batch before their fence, and opened after.
//!
//! What the door gives beyond the guard: the guard refuses writes, but no read. A gateway that still forwarded a user's reads to
//! his old home once the new one has accepted him would show him his own past. So no fence is raised before every
//! registered gateway holds that user's requests back, or can be seen to forward none at all.
//!
//! **No gateway is overlooked**, by a flag at each side. The mover commits the closing and *then* reads who is registered; a gateway commits
//! its registration and *then* reads the closings ([`gateways`](crate::gateways)). Whichever of the two commits came first, the other side's read
//! began after it and sees it: either the gateway finds the closing, or the mover finds the gateway and waits for it.
//!
//! **A lease ends once**, for both. That it is over is not read off a clock by each side for itself: the mover writes it down
//! ([`pass`]), on the row that a renewal writes too, and both look again under that row's lock. So a renewal that comes late either keeps the
//! mover waiting, or is told that a fence may have gone past it.
//!
//! **A closing that nobody opens** (its mover died) is opened by gateways, once its time is over, by a write as well
//! ([`gateways::reopen`](crate::gateways::reopen)); and a fence holds the closing locked until its commit, and gives up where it was opened. So it
//! is never raised behind a door that somebody has opened already.
//!
//! **Where no gateway was ever registered** nothing is written at all: the fence then holds a lock that a registration takes too, and looks again
//! under it. See [`Gate`](crate::fence::Gate).

use std::time::Duration;

use model::{BatchId, Epoch, KeyKind, SiteName, UserKey};
use tokio_postgres::types::Type;

use crate::Result;
use crate::error::Doing;
use crate::kept::Asks;

/// On this channel gateways are told that a door closes or opens. Its payload is the batch: a hint, as every notification is.
pub const TO_GATEWAYS: &str = "domicile_gateway";

/// On this channel movers are told that a gateway has closed its door for the batch in the payload, or has left.
pub const TO_MOVERS: &str = "domicile_mover";

/// The lock that a registration takes alone, and fences of a place without gateways share: with [`LOCK_CLASS`](crate::LOCK_CLASS).
pub(crate) const GATE: i32 = 0x0047_6174;

/// A gateway that the mover waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Its name.
    pub name: String,
    /// Whether its lease is over: [`pass`] says whether it stays so.
    pub ended: bool,
}

/// What gateways are told when a door opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The users live here, as before: under the epochs of their records.
    Here,
    /// They live there, under these epochs.
    There {
        /// Their home.
        home: SiteName,
        /// Under which epochs.
        epochs: Vec<(UserKey, Epoch)>,
    },
    /// It is not known, or not the same for all: gateways look at the records.
    Look,
}

/// Whether any gateway stands before this database, or did within the last day.
pub async fn attended(session: &impl Asks) -> Result<bool> {
    let rows = session
        .ask("SELECT EXISTS (SELECT FROM domicile.gateway)", &[])
        .await
        .doing("looking for gateways")?;
    Ok(rows.iter().any(|row| row.get(0)))
}

/// Who has not renewed its lease for more than half of it: as a rule it has died. To be waited for, or [passed](pass), before any user is closed: he
/// would wait for it too.
pub async fn silent(session: &impl Asks) -> Result<Vec<Awaited>> {
    let rows = session
        .ask(
            "SELECT g.name, g.lease_until <= now.at FROM domicile.gateway AS g, \
                    (SELECT clock_timestamp() AS at) AS now \
              WHERE g.passed_at IS NULL AND now.at - g.renewed_at > g.lease_until - now.at",
            &[],
        )
        .await
        .doing("looking for gateways that have fallen silent")?;
    Ok(rows.iter().map(awaited).collect())
}

/// Closes the door of `users`, committed when this returns, and tells the gateways. A batch is closed once; a second time changes
/// nothing. `until` is how long gateways wait for word before they may open it themselves.
pub async fn close(
    session: &impl Asks,
    kind: KeyKind,
    batch: &BatchId,
    users: &[UserKey],
    until: Duration,
) -> Result<()> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    session
        .ask(
            &format!(
                "WITH shut AS (INSERT INTO domicile.closing (batch, users, until) \
                   VALUES ($1, $2::text[]::{}[], clock_timestamp() + make_interval(secs => $3)) \
                   ON CONFLICT (batch) DO NOTHING RETURNING batch) \
                 SELECT pg_notify('{TO_GATEWAYS}', batch) FROM shut",
                kind.sql_type()
            ),
            &[
                (&batch.as_str(), Type::TEXT),
                (&keys, Type::TEXT_ARRAY),
                (&until.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
        .doing("closing the gateways' door")?;
    Ok(())
}

/// Who has not closed its door for `batch`, of those that are registered now. To be asked after [`close`] alone, in a
/// transaction of its own.
pub async fn not_yet(session: &impl Asks, batch: &BatchId) -> Result<Vec<Awaited>> {
    let rows = session
        .ask(
            "SELECT g.name, g.lease_until <= clock_timestamp() FROM domicile.gateway AS g \
              WHERE g.passed_at IS NULL AND NOT EXISTS (SELECT FROM domicile.closed AS c \
                WHERE c.batch = $1 AND c.gateway = g.name)",
            &[(&batch.as_str(), Type::TEXT)],
        )
        .await
        .doing("looking which gateways have closed their door")?;
    Ok(rows.iter().map(awaited).collect())
}

fn awaited(row: &tokio_postgres::Row) -> Awaited {
    Awaited {
        name: row.get(0),
        ended: row.get(1),
    }
}

/// Goes past those of `names` whose lease is over and has not been renewed at this moment either: from then on they must register
/// anew. Waits for a renewal that is being committed.
pub async fn pass(session: &impl Asks, names: &[&str]) -> Result<()> {
    session
        .tell(
            "UPDATE domicile.gateway SET passed_at = clock_timestamp() \
              WHERE name = ANY ($1) AND passed_at IS NULL AND lease_until <= clock_timestamp()",
            &[(&names, Type::TEXT_ARRAY)],
        )
        .await
        .doing("going past a gateway whose lease is over")?;
    Ok(())
}

/// Opens the door of `batch` and tells the gateways what that means. Nothing where it was opened with a home before, or was never
/// closed; what gateways opened themselves may still be told a home.
pub async fn open(
    session: &impl Asks,
    kind: KeyKind,
    batch: &BatchId,
    opening: &Opening,
) -> Result<()> {
    let (home, epochs): (Option<&str>, &[(UserKey, Epoch)]) = match opening {
        Opening::Here | Opening::Look => (None, &[]),
        Opening::There { home, epochs } => (Some(home.as_str()), epochs),
    };
    let keys: Vec<&str> = epochs.iter().map(|(user, _)| user.as_str()).collect();
    let epochs: Vec<i64> = epochs.iter().map(|(_, epoch)| epoch.0).collect();
    session
        .ask(
            &format!(
                "WITH told AS (SELECT CASE WHEN $2 THEN (SELECT h.site FROM domicile.home AS h) ELSE $3 END AS home), \
                 opened AS (UPDATE domicile.closing AS c SET opened_at = clock_timestamp(), home = t.home, \
                     epochs = CASE WHEN t.home IS NOT NULL THEN \
                       ARRAY(SELECT coalesce(CASE WHEN $2 THEN r.epoch ELSE e.epoch END, 0) \
                         FROM unnest(c.users) WITH ORDINALITY AS u(k, n) \
                         LEFT JOIN unnest($4::text[]::{0}[], $5::bigint[]) AS e(k, epoch) ON e.k = u.k \
                         LEFT JOIN domicile.resident AS r ON $2 AND r.user_key = u.k ORDER BY u.n) END \
                   FROM told AS t WHERE c.batch = $1 \
                     AND (c.opened_at IS NULL OR c.home IS NULL AND t.home IS NOT NULL) RETURNING c.batch) \
                 SELECT pg_notify('{TO_GATEWAYS}', batch) FROM opened",
                kind.sql_type()
            ),
            &[
                (&batch.as_str(), Type::TEXT),
                (&matches!(opening, Opening::Here), Type::BOOL),
                (&home, Type::TEXT),
                (&keys, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
            ],
        )
        .await
        .doing("opening the gateways' door")?;
    Ok(())
}

/// Deletes what nobody needs any more: closings that are over since ten minutes, with what gateways said of them, and gateways whose lease
/// ended a day ago. The closing of users who are still fenced stays.
pub async fn tidy(session: &impl Asks) -> Result<()> {
    let doing = "deleting closings that are over";
    session
        .tell(
            "DELETE FROM domicile.closing AS c \
              WHERE coalesce(c.opened_at, c.until) < clock_timestamp() - interval '10 minutes' \
                AND NOT EXISTS (SELECT FROM domicile.resident AS r \
                  WHERE r.user_key = ANY (c.users) AND r.state IN ('fenced', 'offered'))",
            &[],
        )
        .await
        .doing(doing)?;
    // A closing is committed before anybody can say anything of it.
    session
        .tell(
            "DELETE FROM domicile.closed AS d \
              WHERE NOT EXISTS (SELECT FROM domicile.closing AS c WHERE c.batch = d.batch)",
            &[],
        )
        .await
        .doing(doing)?;
    session
        .tell(
            "DELETE FROM domicile.gateway WHERE lease_until < clock_timestamp() - interval '1 day'",
            &[],
        )
        .await
        .doing(doing)?;
    Ok(())
}
