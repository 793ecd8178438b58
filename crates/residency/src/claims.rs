//! Names that are unique at all sites, as the registry's database keeps them: by keyed hashes alone.
//!
//! # What holds of an entry
//!
//! - A hash has at most one entry, and so one user. A claim inserts it, or finds it; of two that come at once one wins.
//! - Until its `until` an entry is never taken away. Whoever claimed it writes the name in a transaction that begins before; after that it
//!   goes only where the user's home said that he does not hold it, and that nobody can still write it ([`activity`]).
//! - Each claim gives it another `turn`, and what was found out about one turn does nothing to the next.
//! - Homes are the authority: what they tell is held, and what they tell against an entry of another user's changes nothing: it is handed
//!   back as a conflict.

mod hash;
mod quiet;
mod told;

use std::time::Duration;

use model::{KeyKind, SiteName, UserKey};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use crate::error::Doing;
use crate::kept::Asks;
use crate::{Error, Result};

pub use hash::Hash;
pub use quiet::{Activity, activity};
pub use told::{Turned, begins, ends, is_filled, tell};

/// How long the answer of an operation is kept.
const KEPT: &str = "1 day";

/// Whose name it is, and since when for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of its turns this is.
    pub turn: i64,
    /// The kind of name.
    pub kind: String,
    /// The user.
    pub user: UserKey,
    /// Where he was last known to live, or where it was claimed.
    pub site: SiteName,
    /// Whether his home has said that he holds it.
    pub held: bool,
}

/// What is asked once.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Its id.
    pub id: Hash,
    /// For whom.
    pub user: &'a UserKey,
    /// Of which kind the keys of users are.
    pub keys: KeyKind,
    /// The kind of name.
    pub kind: &'a str,
    /// The name.
    pub name: Hash,
}

/// How an operation was answered, the first time and ever after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The name is the user's until then; his home has not said yet that he holds it.
    Claimed {
        /// Milliseconds since 1970, by the registry's clock.
        until_ms: i64,
    },
    /// His home has said that he holds it already.
    Held {
        /// As for a new claim: until then nobody takes it away, whatever his home says.
        until_ms: i64,
    },
    /// It is another user's.
    Taken,
    /// It is nobody's any more.
    Released,
    /// It is nobody's as soon as his home can say that nothing writes it any more.
    Releasing,
    /// It was not released: his home holds it.
    StillHeld,
}

/// What the homes say of a claim that is to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// He holds the name, at that site.
    Held(SiteName),
    /// He does not, and nobody can still write it.
    Free,
    /// He does not, and transactions are open that may still write it.
    Waits,
    /// Nobody can say now.
    Unsure,
}

/// Claims for as long as `lease`, where nobody else has it; `site` is where it is claimed.
///
/// # Errors
/// [`Error::Refused`] where the operation's id was used for something else.
pub async fn claim(
    session: &mut Client,
    operation: &Operation<'_>,
    site: &SiteName,
    lease: Duration,
) -> Result<Answer> {
    let doing = "claiming a name";
    let tx = session.transaction().await.doing(doing)?;
    if let Some(answer) = begin(&tx, operation, "claim").await? {
        tx.commit().await.doing(doing)?;
        return Ok(answer);
    }
    let rows = tx
        .ask(
            &format!(
                "INSERT INTO domicile.claim AS c (hash, kind, user_key, site, state, until) \
                 VALUES ($1, $2, $3::text::{}, $4, 'pending', clock_timestamp() + make_interval(secs => $5)) \
                 ON CONFLICT (hash) DO UPDATE SET until = greatest(c.until, excluded.until), turn = c.turn + 1, \
                   site = CASE WHEN c.state = 'held' THEN c.site ELSE excluded.site END \
                 WHERE c.user_key = excluded.user_key \
                 RETURNING c.state, (extract(epoch FROM c.until) * 1000)::bigint",
                operation.keys.sql_type()
            ),
            &[
                (&operation.name.bytes(), Type::BYTEA),
                (&operation.kind, Type::TEXT),
                (&operation.user.as_str(), Type::TEXT),
                (&site.as_str(), Type::TEXT),
                (&lease.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
        .doing(doing)?;
    let answer = match rows.first() {
        None => Answer::Taken,
        Some(row) if row.get::<_, &str>(0) == "held" => Answer::Held {
            until_ms: row.get(1),
        },
        Some(row) => Answer::Claimed {
            until_ms: row.get(1),
        },
    };
    end(&tx, operation, answer).await?;
    tx.commit().await.doing(doing)?;
    Ok(answer)
}

/// The first answer of a release, where it was given.
///
/// # Errors
/// As of [`claim`].
pub async fn released_before(
    session: &impl Asks,
    operation: &Operation<'_>,
) -> Result<Option<Answer>> {
    let rows = session
        .ask(
            "UPDATE domicile.claim_operation SET asked_at = clock_timestamp() WHERE operation = $1 \
             RETURNING request, answer::text",
            &[(&operation.id.bytes(), Type::BYTEA)],
        )
        .await
        .doing("looking for an operation's first answer")?;
    let first = rows.first().map(|row| (row.get(0), row.get(1)));
    first.map_or(Ok(None), |(request, answer)| {
        operation.same(request, "release", answer)
    })
}

/// Releases what was found so: `entry` is what stood there when the homes were asked, `None` where nothing did. `None` is answered, and nothing done, where
/// it has changed since or nobody was sure; then it is to be asked again.
///
/// # Errors
/// As of [`claim`].
pub async fn release(
    session: &mut Client,
    operation: &Operation<'_>,
    entry: Option<&Entry>,
    finding: &Finding,
) -> Result<Option<Answer>> {
    let doing = "releasing a name";
    let tx = session.transaction().await.doing(doing)?;
    if let Some(answer) = begin(&tx, operation, "release").await? {
        tx.commit().await.doing(doing)?;
        return Ok(Some(answer));
    }
    let name = operation.name;
    let answer = match entry {
        None => Some(Answer::Released),
        Some(entry) if entry.user != *operation.user => Some(Answer::Taken),
        Some(entry) => {
            let (sql, answer) = match finding {
                Finding::Held(_) => (
                    "SELECT FROM domicile.claim WHERE hash = $1 AND turn = $2",
                    Answer::StillHeld,
                ),
                Finding::Free => (
                    "DELETE FROM domicile.claim WHERE hash = $1 AND turn = $2 RETURNING true",
                    Answer::Released,
                ),
                Finding::Unsure => return Ok(None),
                // Whoever began to write while it was his may do so still: the lease ends, and the homes are asked until they are sure.
                Finding::Waits => (
                    "UPDATE domicile.claim SET state = 'pending', until = least(until, clock_timestamp()), \
                       asked_at = 'epoch' WHERE hash = $1 AND turn = $2 RETURNING true",
                    Answer::Releasing,
                ),
            };
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
                [(&name.bytes(), Type::BYTEA), (&entry.turn, Type::INT8)];
            let rows = tx.ask(sql, &parameters).await.doing(doing)?;
            rows.first().map(|_| answer)
        }
    };
    let Some(answer) = answer else {
        return Ok(None);
    };
    end(&tx, operation, answer).await?;
    tx.commit().await.doing(doing)?;
    Ok(Some(answer))
}

/// Whose name it is.
pub async fn locate(session: &impl Asks, name: Hash) -> Result<Option<Entry>> {
    let rows = session
        .ask(
            "SELECT hash, turn, kind, user_key::text, site, state = 'held' FROM domicile.claim WHERE hash = $1",
            &[(&name.bytes(), Type::BYTEA)],
        )
        .await
        .doing("looking whose a name is")?;
    Ok(rows.first().map(|row| entry(row).1))
}

/// Up to `most` entries that the homes are to be asked about, those first that were asked about longest ago: of the pending ones those whose lease is
/// over, of the `held` ones any that nobody has claimed anew. They count as asked about.
pub async fn due(session: &impl Asks, held: bool, most: i64) -> Result<Vec<(Hash, Entry)>> {
    let state = if held { "held" } else { "pending" };
    let rows = session
        .ask(
            "UPDATE domicile.claim AS c SET asked_at = clock_timestamp() \
               FROM (SELECT hash FROM domicile.claim WHERE state = $1 AND until < clock_timestamp() \
                      ORDER BY asked_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS d \
              WHERE c.hash = d.hash \
             RETURNING c.hash, c.turn, c.kind, c.user_key::text, c.site, c.state = 'held'",
            &[(&state, Type::TEXT), (&most, Type::INT8)],
        )
        .await
        .doing("looking which claims are to be confirmed")?;
    Ok(rows.iter().map(entry).collect())
}

/// Writes down what the homes said of that turn of an entry. Returns whether it did: a later turn is left alone.
pub async fn settle(session: &impl Asks, name: Hash, turn: i64, finding: &Finding) -> Result<bool> {
    let doing = "confirming a claim";
    let changed = match finding {
        Finding::Waits | Finding::Unsure => return Ok(false),
        Finding::Held(site) => {
            session
                .tell(
                    "UPDATE domicile.claim SET state = 'held', site = $3 WHERE hash = $1 AND turn = $2",
                    &[
                        (&name.bytes(), Type::BYTEA),
                        (&turn, Type::INT8),
                        (&site.as_str(), Type::TEXT),
                    ],
                )
                .await
        }
        Finding::Free => {
            session
                .tell(
                    "DELETE FROM domicile.claim WHERE hash = $1 AND turn = $2 AND until < clock_timestamp()",
                    &[(&name.bytes(), Type::BYTEA), (&turn, Type::INT8)],
                )
                .await
        }
    };
    Ok(changed.doing(doing)? == 1)
}

/// Forgets operations that are older than their answers are kept.
pub async fn forget(session: &impl Asks) -> Result<u64> {
    session
        .tell(
            &format!(
                "DELETE FROM domicile.claim_operation WHERE asked_at < clock_timestamp() - interval '{KEPT}'"
            ),
            &[],
        )
        .await
        .doing("forgetting old operations")
}

/// Takes the operation up, or finds its first answer. A second one of the same id waits here for the first. It is a write either way: the
/// commit that follows says that the answer is durable.
async fn begin(
    tx: &Transaction<'_>,
    operation: &Operation<'_>,
    verb: &str,
) -> Result<Option<Answer>> {
    let rows = tx
        .ask(
            "INSERT INTO domicile.claim_operation AS o (operation, request) VALUES ($1, $2) \
             ON CONFLICT (operation) DO UPDATE SET asked_at = clock_timestamp() RETURNING request, answer::text",
            &[
                (&operation.id.bytes(), Type::BYTEA),
                (&operation.request(verb), Type::TEXT),
            ],
        )
        .await
        .doing("taking up an operation")?;
    let row = rows.first().map(|row| (row.get(0), row.get(1)));
    row.map_or(Ok(None), |(request, answer)| {
        operation.same(request, verb, answer)
    })
}

async fn end(tx: &Transaction<'_>, operation: &Operation<'_>, answer: Answer) -> Result<()> {
    let text = serde_json::to_string(&answer).map_err(|why| Error::Refused(why.to_string()))?;
    tx.tell(
        "UPDATE domicile.claim_operation SET answer = $2::text::jsonb WHERE operation = $1",
        &[(&operation.id.bytes(), Type::BYTEA), (&text, Type::TEXT)],
    )
    .await
    .doing("writing down an operation's answer")?;
    Ok(())
}

fn entry(row: &tokio_postgres::Row) -> (Hash, Entry) {
    let entry = Entry {
        turn: row.get(1),
        kind: row.get(2),
        user: UserKey::new(row.get::<_, String>(3)),
        site: SiteName::new(row.get::<_, String>(4)),
        held: row.get(5),
    };
    (Hash::of(row.get(0)), entry)
}

// === impl Operation ===

impl Operation<'_> {
    /// What is asked, as it is compared with what an operation of the same id asked before.
    fn request(&self, verb: &str) -> String {
        format!("{verb} {} {} {}", self.kind, self.name, self.user)
    }

    /// The first answer, where this is what was asked then.
    fn same(&self, request: String, verb: &str, answer: Option<String>) -> Result<Option<Answer>> {
        if request != self.request(verb) {
            return Err(Error::Refused(OTHER.to_owned()));
        }
        let read = answer.map(|text| serde_json::from_str(&text)).transpose();
        read.map_err(|_| Error::Refused("an operation's answer cannot be read".to_owned()))
    }
}

/// What [`Error::Refused`] says of an operation whose id was used for something else.
pub const OTHER: &str = "the operation's id was used for something else";
