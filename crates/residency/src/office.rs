//! Which mover acts at a site: one at a time, and one that lost its office changes nothing.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use crate::error::Doing;
use crate::{Error, LOCK_CLASS, Result};

/// An office that this process holds. The session that took it keeps a lock for as long as it lives; every
/// transaction checks the term, so that a process whose session was lost, and which another replaced,
/// commits nothing more.
#[derive(Clone, Debug)]
pub struct Office {
    name: String,
    term: i64,
}

impl Office {
    /// The office of the mover of departures from a database.
    pub const DEPARTURES: &'static str = "departures";

    /// The office of arrivals from one source.
    pub fn arrivals(source: &model::SiteName) -> String {
        format!("arrivals from {source}")
    }

    /// Takes the office `name` for as long as `session` lives.
    ///
    /// # Errors
    /// [`Error::Office`] where a living session of another process holds it.
    pub async fn take(session: &Client, name: &str) -> Result<Self> {
        let locked: bool = session
            .query_one(
                "SELECT pg_try_advisory_lock($1, -1 - (abs(hashtext($2)::bigint) % 1000000000)::int)",
                &[&LOCK_CLASS, &name],
            )
            .await
            .doing("taking the mover's office")?
            .get(0);
        if !locked {
            return Err(Error::Office {
                name: name.to_owned(),
            });
        }
        let term = session
            .query_one(
                "INSERT INTO domicile.office AS o (name, term) VALUES ($1, 1) \
                 ON CONFLICT (name) DO UPDATE SET term = o.term + 1, taken_at = now() RETURNING term",
                &[&name],
            )
            .await
            .doing("taking the mover's office")?
            .get(0);
        Ok(Self {
            name: name.to_owned(),
            term,
        })
    }

    /// Finds, in the transaction `tx` and until its end, that the office is still ours.
    pub async fn hold(&self, tx: &impl GenericClient) -> Result<()> {
        // Typed, so that it goes in one round trip: every transaction begins with this.
        let row = tx
            .query_typed_opt(
                "SELECT 1 FROM domicile.office WHERE name = $1 AND term = $2 FOR SHARE",
                &[(&self.name, Type::TEXT), (&self.term, Type::INT8)],
            )
            .await
            .doing("checking the mover's office")?;
        row.map(drop).ok_or_else(|| Error::Office {
            name: self.name.clone(),
        })
    }
}
