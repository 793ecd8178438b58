//! What stands still at a site that should not: for alerts. Nothing is decided by it.

use std::time::Duration;

use model::table::HomeSchema;
use tokio_postgres::GenericClient;

use crate::door::{self, Door};
use crate::error::Doing;
use crate::{Result, rest, watch};

/// How many users are in a state, and how long the first of them has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub users: u64,
    /// Since when, by this database's clock; zero where there are none.
    pub longest: Duration,
}

/// How a home is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Users who were offered to another site that has not answered.
    pub in_doubt: Waiting,
    /// Users who are on their way here, or whose rows are being cleared away again.
    pub arriving: Waiting,
    /// Whether the site is open.
    pub door: Door,
    /// Owned tables on which the guard does not stand and may not rest.
    pub unguarded: Vec<String>,
}

/// How this home is. Reads the records of users on their way, not those of all.
pub async fn look(session: &impl GenericClient, schema: &HomeSchema) -> Result<Vitals> {
    // Whoever has an attempt is in the index of attempts.
    let row = session
        .query_one(
            "SELECT count(*) FILTER (WHERE away), coalesce(max(age) FILTER (WHERE away), 0)::float8, \
                    count(*) FILTER (WHERE NOT away), coalesce(max(age) FILTER (WHERE NOT away), 0)::float8 \
               FROM (SELECT state = 'offered' AS away, greatest(0, extract(epoch FROM now() - changed_at)) AS age \
                       FROM domicile.resident \
                      WHERE attempt IS NOT NULL AND state IN ('offered', 'arriving', 'clearing')) AS waiting",
            &[],
        )
        .await
        .doing("looking who waits")?;
    let waiting = |at: usize| Waiting {
        users: row.get::<_, i64>(at).unsigned_abs(),
        longest: Duration::from_secs_f64(row.get(at + 1)),
    };
    let resting = rest::resting(session, schema).await?;
    let mut unguarded = watch::unguarded(session, schema).await?;
    unguarded.retain(|table| !resting.contains(table));
    Ok(Vitals {
        in_doubt: waiting(0),
        arriving: waiting(2),
        door: door::look(session).await?,
        unguarded,
    })
}
