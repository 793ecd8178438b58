//! What the gateways of a site were asked, kept as history in the home database: by minute, home and market, nothing of users.
//!
//! Any number of gateways add to the same rows. What one of them adds has a number, which grows and stands in the same transaction: told again
//! because nobody knows whether it was committed, it is not counted again.

use std::time::{Duration, SystemTime};

use model::{Market, SiteName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::error::Doing;
use crate::kept::Asks;
use crate::{LOCK_CLASS, Result};

/// How long minutes are kept; then they become hours. Long enough to see what a move of yesterday did by the minute.
pub const MINUTES_KEPT: Duration = Duration::from_secs(2 * 86_400);

/// How long hours are kept: a year, and a month to look back on it.
pub const HOURS_KEPT: Duration = Duration::from_secs(400 * 86_400);

/// How long the number of a gateway's last counts is kept. A gateway that was told of nothing for so long holds back counts of an hour at most.
const NUMBERS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Under [`LOCK_CLASS`], beside the stripes: who makes hours of minutes.
const TENDING: i32 = 0x0054_7261;

/// So many minutes or hours are read at once.
const PAGE: i64 = 500;

/// What was asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The site that answered, or would have; `None`: it was not found out.
    pub home: Option<SiteName>,
    /// The market that requests named: one of policy, `other`, or empty where they named none.
    pub market: Market,
    /// Requests of clients.
    pub requests: u64,
    /// Those answered 5xx.
    pub failures: u64,
    /// Those that waited before a closed door.
    pub parked: u64,
    /// Those that were sent on because a first site was not the home.
    pub redirected: u64,
    /// Microseconds that all of them took.
    pub total_us: u64,
    /// How many took at most as long as each bound but longer than the one before; the last: longer than all.
    pub within: Vec<u64>,
}

/// Counts of one gateway since those that it told before.
#[derive(Clone, Debug)]
pub struct Told {
    /// Above the numbers of all that this gateway told before.
    pub n: i64,
    /// How long ago it was, in the middle of the time that they are of.
    pub age: Duration,
    /// What was counted, each home and market once.
    pub counted: Vec<Counted>,
}

/// A minute or an hour of history, or what several of them add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// When it began.
    pub from: SystemTime,
    /// How long it is.
    pub span: Duration,
    /// The bounds of [`Counted::within`] in milliseconds, as they were then.
    pub bounds_ms: Vec<u64>,
    /// What was counted.
    pub counted: Counted,
}

/// What is added to the row of the same time, home, market and bounds.
const ADD: &str = "ON CONFLICT (at, span, home, market, bounds_ms) DO UPDATE SET \
       requests = t.requests + excluded.requests, failures = t.failures + excluded.failures, parked = t.parked + excluded.parked, \
       redirected = t.redirected + excluded.redirected, total_us = t.total_us + excluded.total_us, \
       within = (SELECT array_agg(a + b ORDER BY i) FROM unnest(t.within, excluded.within) WITH ORDINALITY AS u(a, b, i))";

/// Adds what `gateway` tells, unless it stands there already; says whether it did not.
pub async fn add(
    session: &impl Asks,
    gateway: &str,
    bounds_ms: &[u64],
    told: &Told,
) -> Result<bool> {
    let bounds: Vec<i32> = bounds_ms.iter().map(|bound| *bound as i32).collect();
    let counted: Vec<Value> = told.counted.iter().map(row).collect();
    // In one order, so that two gateways do not wait for each other.
    let sql = format!(
        "WITH told AS ( \
           INSERT INTO domicile.counting AS c (gateway, n) VALUES ($1, $2) \
           ON CONFLICT (gateway) DO UPDATE SET n = excluded.n, at = now() WHERE c.n < excluded.n RETURNING n), \
         added AS ( \
           INSERT INTO domicile.traffic AS t \
             (at, span, home, market, bounds_ms, requests, failures, parked, redirected, total_us, within) \
           SELECT date_trunc('minute', clock_timestamp() - make_interval(secs => $3), 'UTC'), 'minute', r.home, r.market, $4, \
                  r.requests, r.failures, r.parked, r.redirected, r.total_us, r.within \
           FROM told, jsonb_to_recordset($5) AS r(home text, market text, requests bigint, failures bigint, parked bigint, \
                                                  redirected bigint, total_us bigint, within bigint[]) \
           ORDER BY r.home, r.market {ADD} RETURNING 1) \
         SELECT EXISTS (SELECT FROM told), (SELECT count(*) FROM added)"
    );
    let rows = session
        .ask(
            &sql,
            &[
                (&gateway, Type::TEXT),
                (&told.n, Type::INT8),
                (&told.age.as_secs_f64(), Type::FLOAT8),
                (&bounds, Type::INT4_ARRAY),
                (&Value::Array(counted), Type::JSONB),
            ],
        )
        .await
        .doing("adding to the history of requests")?;
    Ok(rows.iter().any(|row| row.get(0)))
}

fn row(counted: &Counted) -> Value {
    json!({
        "home": counted.home.as_ref().map_or("", SiteName::as_str),
        "market": counted.market.as_str(),
        "requests": counted.requests,
        "failures": counted.failures,
        "parked": counted.parked,
        "redirected": counted.redirected,
        "total_us": counted.total_us,
        "within": counted.within,
    })
}

/// Makes hours of old minutes, and lets go what is older than history is kept. Where another session is about it, nothing.
pub async fn tend(session: &impl Asks) -> Result<()> {
    let sql = format!(
        "WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({LOCK_CLASS}, {TENDING}) AS held), \
         forgotten AS (DELETE FROM domicile.counting USING alone WHERE held AND at < now() - make_interval(secs => $3)), \
         gone AS (DELETE FROM domicile.traffic USING alone \
                   WHERE held AND span = 'hour' AND at < now() - make_interval(secs => $2)), \
         old AS (DELETE FROM domicile.traffic AS t USING alone \
                  WHERE held AND t.span = 'minute' AND t.at < date_trunc('hour', now() - make_interval(secs => $1), 'UTC') \
                  RETURNING date_trunc('hour', t.at, 'UTC') AS hour, t.*), \
         buckets AS (SELECT hour, home, market, bounds_ms, array_agg(n ORDER BY i) AS within \
                       FROM (SELECT o.hour, o.home, o.market, o.bounds_ms, u.i, sum(u.n)::bigint AS n \
                               FROM old AS o, unnest(o.within) WITH ORDINALITY AS u(n, i) GROUP BY 1, 2, 3, 4, 5) AS each \
                      GROUP BY 1, 2, 3, 4), \
         sums AS (SELECT hour, home, market, bounds_ms, sum(requests)::bigint AS requests, sum(failures)::bigint AS failures, \
                         sum(parked)::bigint AS parked, sum(redirected)::bigint AS redirected, sum(total_us)::bigint AS total_us \
                    FROM old GROUP BY 1, 2, 3, 4) \
         INSERT INTO domicile.traffic AS t \
           (at, span, home, market, bounds_ms, requests, failures, parked, redirected, total_us, within) \
         SELECT hour, 'hour', home, market, bounds_ms, requests, failures, parked, redirected, total_us, within \
           FROM sums JOIN buckets USING (hour, home, market, bounds_ms) ORDER BY 1, 3, 4, 5 {ADD}"
    );
    let kept = [MINUTES_KEPT, HOURS_KEPT, NUMBERS_KEPT].map(|kept| kept.as_secs_f64());
    session
        .tell(
            &sql,
            &[
                (&kept[0], Type::FLOAT8),
                (&kept[1], Type::FLOAT8),
                (&kept[2], Type::FLOAT8),
            ],
        )
        .await
        .doing("tending the history of requests")?;
    Ok(())
}

/// Gives `each` the history of the last `since`, or all of it, from the first on: page by page, so that no memory grows with it.
pub async fn history(
    session: &impl GenericClient,
    since: Option<Duration>,
    mut each: impl FnMut(Traffic),
) -> Result<()> {
    let since = since.map(|since| since.as_secs_f64());
    let mut after: Option<SystemTime> = None;
    loop {
        let rows = session
            .query(
                "WITH wanted AS (SELECT DISTINCT at FROM domicile.traffic WHERE ($1::timestamptz IS NULL OR at > $1) \
                     AND ($2::float8 IS NULL OR at >= date_trunc('minute', now() - make_interval(secs => $2), 'UTC')) \
                   ORDER BY at LIMIT $3) \
                 SELECT at, span, bounds_ms, home, market, requests, failures, parked, redirected, total_us, within \
                   FROM domicile.traffic JOIN wanted USING (at) ORDER BY at, home, market",
                &[&after, &since, &PAGE],
            )
            .await
            .doing("reading the history of requests")?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = Some(last.get(0));
        rows.iter().map(traffic).for_each(&mut each);
    }
}

fn traffic(row: &tokio_postgres::Row) -> Traffic {
    let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let home: String = row.get(3);
    let bounds: Vec<i32> = row.get(2);
    let within: Vec<i64> = row.get(10);
    Traffic {
        from: row.get(0),
        span: match row.get::<_, &str>(1) {
            "minute" => Duration::from_secs(60),
            _ => Duration::from_secs(3600),
        },
        bounds_ms: bounds
            .iter()
            .map(|ms| u64::from(ms.unsigned_abs()))
            .collect(),
        counted: Counted {
            home: (!home.is_empty()).then(|| SiteName::new(home)),
            market: Market::new(row.get::<_, String>(4)),
            requests: number(5),
            failures: number(6),
            parked: number(7),
            redirected: number(8),
            total_us: number(9),
            within: within.into_iter().map(i64::unsigned_abs).collect(),
        },
    }
}
