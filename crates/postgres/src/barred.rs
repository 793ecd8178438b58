//! Who may not go where, by a site's own copy of the policy.

use model::table::{HomeSchema, quote};
use model::{Market, ServiceName, SiteName, UserKey};
use residency::kept::{Asks, Keeping, Kept};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::catalog::ReadError;

/// Why this site's own copy of the policy does not let a user go somewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// His market is pinned to another site.
    #[error("market {market} is pinned to {site}")]
    Pinned {
        /// The market.
        market: Market,
        /// Its pin.
        site: SiteName,
    },
    /// No phase whose basis holds gives his market that home.
    #[error("the policy gives market {market} no home at {site}, or none whose basis holds")]
    NoPhase {
        /// The market; empty if NULL.
        market: Market,
        /// Where he was to go.
        site: SiteName,
    },
    /// He is said to come back, and never left from here.
    #[error("he never left from {site}, to which he is said to come back")]
    NeverHere {
        /// Where he was to go.
        site: SiteName,
    },
}

/// On what terms users go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// A phase must send them, under a basis that holds.
    Phase,
    /// They go back to where they came from; asked at the site that they leave.
    Back,
    /// They come back to here; asked here, where it is known who left.
    Return,
}

/// Those of `keys` who may not go to `site` on these terms, each with why. Reads what is locked or written in `client`'s
/// transaction, if it has one.
pub async fn barred(
    client: &(impl GenericClient + Sync),
    kept: &Kept,
    schema: &HomeSchema,
    keys: &[UserKey],
    (service, site): (&ServiceName, &SiteName),
    terms: Terms,
) -> Result<Vec<(UserKey, Barred)>, ReadError> {
    let market = match &schema.users.market {
        Some(market) => format!("coalesce(({market})::text, '')"),
        None => "''::text".to_owned(),
    };
    // Looked up once for each market, not for each user: a batch is closed while this is asked.
    let may = match terms {
        Terms::Phase => {
            "u.market IN (SELECT m.market FROM (SELECT DISTINCT u.market FROM u) AS m \
             WHERE EXISTS (SELECT FROM f WHERE coalesce(f.home ->> m.market, f.others) = $2))"
        }
        Terms::Back => "true",
        Terms::Return => "EXISTS (SELECT FROM domicile.passenger AS w WHERE w.user_key = u.key)",
    };
    let keys: Vec<&str> = keys.iter().map(UserKey::as_str).collect();
    let sql = format!(
        "WITH u AS MATERIALIZED ( \
           SELECT {key} AS key, {market} AS market FROM {table} WHERE {key} = ANY($1::text[]::{kind}[])), \
         f AS MATERIALIZED ( \
           SELECT f -> 'home' AS home, f ->> 'others' AS others \
           FROM (SELECT i.body FROM domicile.policy AS i ORDER BY i.n DESC LIMIT 1) AS i, jsonb_array_elements(i.body -> 'phases') AS f \
           WHERE f -> 'services' ? $3 AND (f -> 'basis' ->> 'expires')::date > (now() AT TIME ZONE 'UTC')::date) \
         SELECT u.key::text, u.market, p.site FROM u LEFT JOIN domicile.pinned AS p ON p.market = u.market \
         WHERE p.site <> $2 OR p.site IS NULL AND NOT ({may})",
        key = quote(&schema.users.key),
        table = schema.users.name.sql(),
        kind = schema.users.kind.sql_type(),
    );
    let rows = Keeping::new(client, kept)
        .ask(
            &sql,
            &[
                (&keys, Type::TEXT_ARRAY),
                (&site.as_str(), Type::TEXT),
                (&service.as_str(), Type::TEXT),
            ],
        )
        .await
        .map_err(ReadError::of("the users' markets"))?;
    let read = |row: &tokio_postgres::Row| {
        let market = Market::new(row.get::<_, String>(1));
        let barred = match (row.get::<_, Option<String>>(2), terms) {
            (Some(pin), _) => Barred::Pinned {
                market,
                site: SiteName::new(pin),
            },
            (None, Terms::Return) => Barred::NeverHere { site: site.clone() },
            (None, Terms::Phase | Terms::Back) => Barred::NoPhase {
                market,
                site: site.clone(),
            },
        };
        (UserKey::new(row.get::<_, String>(0)), barred)
    };
    Ok(rows.iter().map(read).collect())
}
