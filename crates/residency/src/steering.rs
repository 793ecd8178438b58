//! How a move is steered while it runs, and what it says of itself: the wish and the throttle, written by whoever steers,
//! and the present activity, written by the process that carries the move. Both ends of a word are rows in the source's
//! database, so that it reaches another process, and one that is started later.

use std::time::Duration;

use model::MoveId;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use crate::Result;
use crate::error::Doing;
use crate::office::Office;

/// What is wished of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// That it goes on.
    #[default]
    Go,
    /// That it holds still until somebody wishes that it goes on.
    Pause,
    /// That it ends, with everybody who has not moved where he lives. Never taken back.
    Abort,
}

/// How fast a move may copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Throttle {
    /// As the configuration says.
    #[default]
    Configured,
    /// As fast as it goes, whatever the configuration says.
    Unlimited,
    /// So many bytes a second, at most.
    Rate(u64),
}

/// What a move is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Whether it may go on.
    pub wish: Wish,
    /// How fast.
    pub throttle: Throttle,
}

/// What is known of a running move.
#[derive(Clone, Debug)]
pub struct Told {
    /// The move.
    pub r#move: MoveId,
    /// What it was told.
    pub orders: Orders,
    /// What the process that carries it said of itself last; `None` where no process carries it now.
    pub doing: Option<Doings>,
}

/// The last word of a process that carries a move and is there.
#[derive(Clone, Debug)]
pub struct Doings {
    /// What it does, in the mover's form.
    pub activity: Value,
    /// How long ago it said so.
    pub age: Duration,
}

// === impl Wish ===

impl Wish {
    fn stored(self) -> Option<&'static str> {
        match self {
            Self::Go => None,
            Self::Pause => Some("pause"),
            Self::Abort => Some("abort"),
        }
    }

    fn read(stored: Option<&str>) -> Self {
        match stored {
            None => Self::Go,
            Some("pause") => Self::Pause,
            // The table's CHECK leaves nothing else; to hold still for ever would be worse.
            Some(_) => Self::Abort,
        }
    }
}

// === impl Throttle ===

impl Throttle {
    /// The rate in force, in bytes a second, where the configuration says `configured`.
    pub fn over(self, configured: Option<u64>) -> Option<u64> {
        match self {
            Self::Configured => configured,
            Self::Unlimited => None,
            Self::Rate(rate) => Some(rate),
        }
    }
}

/// Wishes something of a running move. False where it does not run, or is to be aborted already: that stands.
pub async fn wish(session: &impl GenericClient, id: &MoveId, wish: Wish) -> Result<bool> {
    let told = session
        .execute(
            "INSERT INTO domicile.steering AS s (move_id, wish) \
             SELECT move_id, $2 FROM domicile.move WHERE move_id = $1 AND state = 'running' \
             ON CONFLICT (move_id) DO UPDATE SET wish = excluded.wish, at = now() \
             WHERE s.wish IS DISTINCT FROM 'abort' OR excluded.wish = 'abort'",
            &[&id.as_str(), &wish.stored()],
        )
        .await
        .doing("telling a move what is wished")?;
    Ok(told > 0)
}

/// Throttles a running move. False where it does not run.
pub async fn throttle(
    session: &impl GenericClient,
    id: &MoveId,
    throttle: Throttle,
) -> Result<bool> {
    let rate = throttle.over(None).map(stored_rate);
    let throttled = throttle != Throttle::Configured;
    let told = session
        .execute(
            "INSERT INTO domicile.steering (move_id, throttled, rate) \
             SELECT move_id, $2, $3 FROM domicile.move WHERE move_id = $1 AND state = 'running' \
             ON CONFLICT (move_id) DO UPDATE SET throttled = excluded.throttled, rate = excluded.rate, at = now()",
            &[&id.as_str(), &throttled, &rate],
        )
        .await
        .doing("throttling a move")?;
    Ok(told > 0)
}

fn stored_rate(rate: u64) -> i64 {
    i64::try_from(rate).unwrap_or(i64::MAX).max(1)
}

fn read_orders(wish: Option<&str>, throttled: Option<bool>, rate: Option<i64>) -> Orders {
    let throttle = match (throttled, rate) {
        (Some(true), Some(rate)) => Throttle::Rate(rate.unsigned_abs()),
        (Some(true), None) => Throttle::Unlimited,
        (Some(false) | None, _) => Throttle::Configured,
    };
    Orders {
        wish: Wish::read(wish),
        throttle,
    }
}

/// What a move is told.
pub async fn orders(session: &impl GenericClient, id: &MoveId) -> Result<Orders> {
    let row = session
        .query_opt(
            "SELECT wish, throttled, rate FROM domicile.steering WHERE move_id = $1",
            &[&id.as_str()],
        )
        .await
        .doing("reading what a move is told")?;
    Ok(row.map_or_else(Orders::default, |row| {
        read_orders(row.get(0), row.get(1), row.get(2))
    }))
}

/// Lets a session that only looks and tells wait for nothing: not for a standby, so that what it tells may be lost, and
/// not for long in any statement.
pub async fn unhurried(session: &Client) -> Result<()> {
    session
        .batch_execute("SET synchronous_commit = off; SET statement_timeout = 5000")
        .await
        .doing("preparing to look what is wished of a move")
}

/// Writes down what the process in `office` does for the move. Returns the end of the WAL here.
pub async fn tell(
    session: &impl GenericClient,
    id: &MoveId,
    office: &Office,
    activity: &Value,
) -> Result<u64> {
    let row = session
        .query_one(
            "WITH told AS (INSERT INTO domicile.activity (move_id, term, doing) VALUES ($1, $2, $3) \
               ON CONFLICT (move_id) DO UPDATE SET term = excluded.term, doing = excluded.doing, at = now()) \
             SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint",
            &[&id.as_str(), &office.term(), &activity],
        )
        .await
        .doing("writing down what a move does")?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// What is known of the moves that run from here. A word of a process that is gone, or that lost its office, is left
/// out. Empty where the installation is of an earlier version.
pub async fn running(session: &impl GenericClient) -> Result<Vec<Told>> {
    let holder = Office::holder(session, Office::DEPARTURES).await?;
    let rows = session
        .query(
            "SELECT m.move_id, s.wish, s.throttled, s.rate, a.term, a.doing, \
                    (extract(epoch FROM clock_timestamp() - a.at) * 1000)::bigint \
             FROM domicile.move AS m LEFT JOIN domicile.steering AS s USING (move_id) \
             LEFT JOIN domicile.activity AS a USING (move_id) \
             WHERE m.state = 'running' ORDER BY m.started_at, m.move_id",
            &[],
        )
        .await
        .doing("reading what moves do");
    let rows = match rows {
        Err(error) if error.sqlstate() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(Vec::new()),
        rows => rows?,
    };
    let told = |row: &tokio_postgres::Row| {
        let term: Option<i64> = row.get(4);
        let doing = term.filter(|term| Some(*term) == holder).map(|_| Doings {
            activity: row.get(5),
            age: Duration::from_millis(row.get::<_, i64>(6).max(0).unsigned_abs()),
        });
        Told {
            r#move: MoveId::new(row.get::<_, String>(0)),
            orders: read_orders(row.get(1), row.get(2), row.get(3)),
            doing,
        }
    };
    Ok(rows.iter().map(told).collect())
}
