//! The fence: from its COMMIT on, no write for these users commits at this site.

use std::time::{Duration, Instant};

use handoff::record::{Event, Resident, State};
use model::{Attempt, BatchId, KeyKind, UserKey};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::closings::{self, GATE};
use crate::error::Doing;
use crate::kept::{Asks, Keeping, Kept};
use crate::office::Office;
use crate::records::{self, Change};
use crate::{Error, LOCK_CLASS, Result};

/// The prefix of the logical message that the fence writes: when the stream reaches it, everything before the
/// fence has been read.
pub const MESSAGE: &str = "domicile.fence";

/// A fence that stands.
#[derive(Debug)]
pub struct Fenced {
    /// The users with their records.
    pub residents: Vec<(UserKey, Resident)>,
    /// How long it took: mostly the wait for transactions that were open.
    pub took: Duration,
}

/// How the gateways' door stands before a fence. The fence's own transaction makes sure that it stays so until the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// No gateway was registered when one looked. One that registers now waits for the commit, and then finds the fence; one
    /// that has since is not gone past.
    Unattended,
    /// Closed by [`closings::close`], under the fence's batch, and every gateway has said so. Who opens it waits for the commit.
    Closed,
}

// === impl Gate ===

impl Gate {
    /// Keeps gateways from registering until the transaction ends, where none stands.
    async fn enter(self, tx: &impl Asks) -> Result<()> {
        if self == Self::Unattended {
            tx.ask(
                &format!("SELECT pg_advisory_xact_lock_shared({LOCK_CLASS}, {GATE})"),
                &[],
            )
            .await
            .doing("keeping gateways out")?;
        }
        Ok(())
    }

    /// Whether it stands as it says. A statement after [`enter`](Self::enter)'s, so that it sees what was committed before that lock was had.
    async fn stands(self, tx: &impl Asks, batch: &BatchId) -> Result<bool> {
        match self {
            Self::Unattended => closings::attended(tx).await.map(|attended| !attended),
            Self::Closed => {
                let shut = tx
                    .ask(
                        "SELECT FROM domicile.closing WHERE batch = $1 AND opened_at IS NULL FOR SHARE",
                        &[(&batch.as_str(), Type::TEXT)],
                    )
                    .await
                    .doing("holding the gateways' door")?;
                Ok(!shut.is_empty())
            }
        }
    }
}

/// Whom a fence closes, and as what.
#[derive(Clone, Copy, Debug)]
pub struct Closed<'a> {
    /// The users.
    pub users: &'a [UserKey],
    /// The attempt under which all of them move.
    pub attempt: Attempt,
    /// The batch that they become.
    pub batch: &'a BatchId,
    /// How the gateways' door stands.
    pub gate: Gate,
}

/// Raises the fence, by statements that `session` has `kept`. Waits in the lock's queue behind the writers that
/// hold it, at most `patience`; then gives up, having changed nothing, so that writers that queue behind it
/// are not held for longer than that.
///
/// # Errors
/// [`Error::FenceTimeout`]: writers are still open; come again after a pause. [`Error::DoorOpen`]: a gateway has registered meanwhile, or the
/// door was opened; close it first.
pub async fn raise(
    session: &mut Client,
    kept: &Kept,
    office: &Office,
    kind: KeyKind,
    closed: Closed<'_>,
    patience: Duration,
) -> Result<Fenced> {
    let Closed {
        users,
        attempt,
        batch,
        gate,
    } = closed;
    let started = Instant::now();
    let timed_out = |error: Error| match error.sqlstate() {
        Some(&SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED) => Error::FenceTimeout {
            milliseconds: patience.as_millis() as u64,
        },
        _ => error,
    };
    let tx = session.transaction().await.doing("beginning the fence")?;
    let asked = Keeping::new(&tx, kept);
    let bound = format!(
        "SET LOCAL statement_timeout = {}",
        patience.as_millis().max(1)
    );
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    // Sent together; the server takes them in this order, each a statement with a snapshot of its own: the records are
    // read when the stripes are ours, and not before. A time-out of the wait fails what follows it too, so the first
    // error is the one that counts.
    let (held, bounded, entered, stands, locked, records) = tokio::join!(
        biased;
        office.hold(&asked),
        tx.batch_execute(&bound),
        gate.enter(&asked),
        gate.stands(&asked, batch),
        lock_stripes(&asked, kind, &keys),
        records::lock(&asked, kind, users),
    );
    held.map_err(timed_out)?;
    bounded.doing("bounding the fence")?;
    entered.map_err(timed_out)?;
    if !stands.map_err(timed_out)? {
        return Err(Error::DoorOpen);
    }
    locked.map_err(timed_out)?;
    let records = records.map_err(timed_out)?;
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: Event::Fence {
                attempt,
                batch: batch.clone(),
            },
        })
        .collect();
    let residents = records::steps(&changes, &records)?;
    // The bound is for the wait; a COMMIT that waits for a standby must not be cancelled by it.
    let (written, marked, unbounded) = tokio::join!(
        biased;
        records::write(&asked, kind, users, &residents, None),
        mark(&asked, batch),
        tx.batch_execute("SET LOCAL statement_timeout = 0"),
    );
    written.map_err(timed_out)?;
    marked.doing("marking the fence in the stream")?;
    unbounded.doing("unbounding the fence")?;
    tx.commit().await.doing("committing the fence")?;
    debug_assert!(
        residents
            .iter()
            .all(|r| matches!(r.state, State::Fenced { .. }))
    );
    Ok(Fenced {
        residents: users.iter().cloned().zip(residents).collect(),
        took: started.elapsed(),
    })
}

/// Asks all that [`raise`] and an offer ask, of nobody, and takes it back: so that what the session has not kept yet, and the server has not
/// read yet, is not first met while users are closed.
pub async fn rehearse(
    session: &mut Client,
    kept: &Kept,
    office: &Office,
    kind: KeyKind,
) -> Result<()> {
    let doing = "rehearsing a fence";
    let tx = session.transaction().await.doing(doing)?;
    let asked = Keeping::new(&tx, kept);
    office.hold(&asked).await?;
    for gate in [Gate::Unattended, Gate::Closed] {
        gate.enter(&asked).await?;
        gate.stands(&asked, &BatchId::from("")).await?;
    }
    lock_stripes(&asked, kind, &[]).await?;
    records::lock(&asked, kind, &[]).await?;
    records::write(&asked, kind, &[], &[], None).await?;
    mark(&asked, &BatchId::from("")).await.doing(doing)?;
    tx.rollback().await.doing(doing)
}

/// Writes the fence's message into the stream, with the transaction.
async fn mark(tx: &impl Asks, batch: &BatchId) -> Result<u64, tokio_postgres::Error> {
    tx.tell(
        "SELECT pg_logical_emit_message(true, $1, $2)",
        &[(&MESSAGE, Type::TEXT), (&batch.as_str(), Type::TEXT)],
    )
    .await
}

/// Takes the exclusive locks of the users' stripes, in order.
async fn lock_stripes(tx: &impl Asks, kind: KeyKind, keys: &[&str]) -> Result<()> {
    tx.ask(
        &format!(
            "SELECT pg_advisory_xact_lock($1, s.stripe) FROM \
               (SELECT DISTINCT stripe FROM domicile.resident \
                WHERE user_key = ANY ($2::text[]::{}[]) ORDER BY stripe) AS s",
            kind.sql_type()
        ),
        &[(&LOCK_CLASS, Type::INT4), (&keys, Type::TEXT_ARRAY)],
    )
    .await
    .doing("waiting for open transactions of the batch")?;
    Ok(())
}

/// Who holds locks that a fence of `users` has to wait for: process, what it is at, for how long its transaction has been
/// open. Bounded in number.
pub async fn holders(session: &Client, kind: KeyKind, users: &[UserKey]) -> Result<Vec<String>> {
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    let rows = session
        .query(
            &format!(
                "SELECT DISTINCT format('process %s of %s, %s, its transaction open for %s', a.pid, \
                     coalesce(a.usename, '(unknown role)'), coalesce(a.state, '(unknown state)'), \
                     date_trunc('second', clock_timestamp() - coalesce(a.xact_start, a.backend_start))) \
                 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                 WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.pid <> pg_backend_pid() \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND l.classid = $1::int::oid AND l.objid::bigint IN \
                     (SELECT stripe FROM domicile.resident WHERE user_key = ANY ($2::text[]::{}[])) \
                 ORDER BY 1 LIMIT 5",
                kind.sql_type()
            ),
            &[&LOCK_CLASS, &keys],
        )
        .await
        .doing("looking who holds up a fence")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
