//! What a site's database says about a batch that is to be taken back from a site that is destroyed.

use std::time::Duration;

use model::{BatchId, SiteName, UserKey};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::office::Office;
use crate::{Error, Result, door};

/// The office whose term is the latest round of reclaiming that this site was told of.
const ROUNDS: &str = "reclaiming";

/// How far the clock of the database may have gone back since a statement was made.
const CLOCK_BACK: Duration = Duration::from_secs(60);

/// How a statement of a certain time stands at the site that it was made at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Good,
    /// The site is not open.
    Closed,
    /// The site was opened after it was made.
    Reopened,
    /// It is older than it may be, or of a time to come.
    Old,
}

/// The batch that is offered to `to`, or to any site: where it was offered, and its users in the order of their keys. `None` where it is not in doubt.
pub async fn in_doubt(
    session: &impl GenericClient,
    batch: &BatchId,
) -> Result<Option<(SiteName, Vec<UserKey>)>> {
    let rows = session
        .query(
            "SELECT peer, array_agg(user_key::text ORDER BY user_key) FROM domicile.resident \
              WHERE state = 'offered' AND batch = $1 GROUP BY peer",
            &[&batch.as_str()],
        )
        .await
        .doing("looking for a batch in doubt")?;
    Ok(rows.first().map(|row| {
        let users = row.get::<_, Vec<String>>(1).into_iter();
        (
            SiteName::new(row.get::<_, String>(0)),
            users.map(UserKey::new).collect(),
        )
    }))
}

/// The time by this database's clock: RFC 3339 in UTC with six digits of the second.
pub async fn now(session: &impl GenericClient) -> Result<String> {
    let row = session
        .query_one(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
            &[],
        )
        .await
        .doing("reading the clock")?;
    Ok(row.get(0))
}

/// How what was stated at the time `at` (see [`now`]) stands, where it counts for `lasts`.
pub async fn standing(session: &impl GenericClient, at: &str, lasts: Duration) -> Result<Standing> {
    if !door::is_open(session).await? {
        return Ok(Standing::Closed);
    }
    let (lasts, back) = (lasts.as_secs_f64(), CLOCK_BACK.as_secs_f64());
    let row = session
        .query_one(
            "SELECT o.at <= $1::text::timestamptz, extract(epoch FROM clock_timestamp() - $1::text::timestamptz) \
                    BETWEEN -$2::float8 AND $3::float8 FROM domicile.open AS o",
            &[&at, &back, &lasts],
        )
        .await;
    let row = match row {
        Err(error) if error.code() == Some(&SqlState::INVALID_DATETIME_FORMAT) => {
            return Err(Error::Refused("the statement names no time".to_owned()));
        }
        row => row.doing("looking how old a statement is")?,
    };
    Ok(match (row.get(0), row.get(1)) {
        (false, _) => Standing::Reopened,
        (true, false) => Standing::Old,
        (true, true) => Standing::Good,
    })
}

/// How often processes of `site` came here, to be told of changes of home or to bring users.
pub async fn came(session: &impl GenericClient, site: &SiteName) -> Result<i64> {
    let row = session
        .query_one(
            "SELECT coalesce(max(term), 0) FROM domicile.office WHERE name = $1",
            &[&Office::arrivals(site)],
        )
        .await
        .doing("looking how often a site came")?;
    Ok(row.get(0))
}

/// Whether that is still as often as `came`, from now on to the end of the transaction `tx`: who comes waits for that.
pub async fn stays_away(tx: &impl GenericClient, site: &SiteName, came: i64) -> Result<bool> {
    let doing = "looking whether a site has come";
    let office = Office::arrivals(site);
    // A row that is not there cannot be locked.
    tx.execute(
        "INSERT INTO domicile.office (name, term) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING",
        &[&office],
    )
    .await
    .doing(doing)?;
    let row = tx
        .query_one(
            "SELECT term FROM domicile.office WHERE name = $1 FOR SHARE",
            &[&office],
        )
        .await
        .doing(doing)?;
    Ok(row.get::<_, i64>(0) == came)
}

/// Raises the latest round of reclaiming that this site was told of to `round`, unless it is above that; returns what it is then.
pub async fn raise(session: &impl GenericClient, round: i64) -> Result<i64> {
    let row = session
        .query_one(
            "INSERT INTO domicile.office AS o (name, term) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET term = greatest(o.term, excluded.term) RETURNING term",
            &[&ROUNDS, &round],
        )
        .await
        .doing("writing down a round of reclaiming")?;
    Ok(row.get(0))
}
