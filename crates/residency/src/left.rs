//! When users left, by market: of the journal, which writes it down with each departure. Nothing is decided by it.

use std::time::SystemTime;

use model::{Market, MoveId, SiteName};
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;

use crate::Result;
use crate::error::Doing;

/// Users of one market who left from here in one move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The move.
    pub r#move: MoveId,
    /// Its phase, where it is one's.
    pub phase: Option<String>,
    /// Where they went.
    pub target: SiteName,
    /// Their market, empty if NULL; `None`: nobody wrote it down.
    pub market: Option<Market>,
    /// How many.
    pub users: u64,
    /// When the first of them left.
    pub first: SystemTime,
    /// When the last of them left.
    pub last: SystemTime,
}

/// Who left from here, by move and market, the first first.
pub async fn left(session: &impl GenericClient) -> Result<Vec<Left>> {
    let rows = session
        .query(
            "SELECT m.move_id, m.phase, m.target, k.market, sum(coalesce(k.users::bigint, b.users))::bigint, \
                    min(b.departed_at), max(b.departed_at) \
               FROM domicile.batch_log AS b JOIN domicile.move AS m USING (move_id) \
               LEFT JOIN LATERAL jsonb_each_text(b.markets) AS k(market, users) ON true \
              GROUP BY 1, 2, 3, 4 ORDER BY 6, 1, 4",
            &[],
        )
        .await
        .doing("reading when users left")?;
    let read = |row: &tokio_postgres::Row| Left {
        r#move: MoveId::new(row.get::<_, String>(0)),
        phase: row.get(1),
        target: SiteName::new(row.get::<_, String>(2)),
        market: row.get::<_, Option<String>>(3).map(Market::new),
        users: row.get::<_, i64>(4).unsigned_abs(),
        first: row.get(5),
        last: row.get(6),
    };
    Ok(rows.iter().map(read).collect())
}
