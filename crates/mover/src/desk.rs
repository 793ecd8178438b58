//! The sessions that transitions go through, one at each end, and their transactions.

use postgres::connect::Session;

use crate::error::{At, Result};
use crate::far::Seat;
use crate::route::{End, Offices, Route};

/// The sessions that transitions go through.
pub struct Desk {
    /// At the source.
    pub source: Session,
    /// At the target.
    pub target: Seat,
}

// === impl Desk ===

impl Desk {
    /// Opens both for `purpose`.
    pub async fn open(route: &Route, offices: &Offices, purpose: &'static str) -> Result<Self> {
        Ok(Self {
            source: route.source.session(purpose).await?,
            target: offices.seat(purpose).await?,
        })
    }
}

/// Begins a transaction at `end`.
pub(crate) async fn transaction<'a>(
    session: &'a mut Session,
    end: &End,
    doing: &'static str,
) -> Result<tokio_postgres::Transaction<'a>> {
    session
        .transaction()
        .await
        .map_err(|e| postgres::Error::from_server(doing, e))
        .at(&end.site, doing)
}

/// Commits it.
pub(crate) async fn commit(
    tx: tokio_postgres::Transaction<'_>,
    end: &End,
    doing: &'static str,
) -> Result<()> {
    tx.commit()
        .await
        .map_err(|e| postgres::Error::from_server(doing, e))
        .at(&end.site, doing)
}
