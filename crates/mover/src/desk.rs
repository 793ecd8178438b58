//! The sessions that transitions go through, one at each end, and their transactions.

use postgres::connect::Session;

use crate::error::{At, Result};
use crate::route::End;

/// The sessions that transitions go through.
pub struct Desk {
    /// At the source.
    pub source: Session,
    /// At the target.
    pub target: Session,
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
