//! Copies the rows of a chunk: one short snapshot at the source, streamed straight into the target.
//!
//! Binary COPY where every type's binary form means the same at both sites, else text.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, pin_mut};
use model::UserKey;
use model::table::{HomeSchema, OwnedTable, TableName};
use model::way::Among;
use tokio_postgres::{Client, CopyInSink, IsolationLevel, Transaction};

use crate::error::{Doing, Error, Result};
use crate::pace::Pace;
use crate::plans;
use crate::sharing;
use crate::snapshot::Snapshot;

/// PostgreSQL sends a message per row; the target gets them together, about so many bytes at a time.
const PIECE: usize = 64 * 1024;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows.
    pub rows: u64,
    /// Bytes in COPY's form.
    pub bytes: u64,
}

/// A chunk's snapshot at the source: everything that it sees is copied, everything else comes by the stream.
pub struct Reader<'a> {
    tx: Transaction<'a>,
    snapshot: Snapshot,
}

/// Puts the chunk's users where [`Reader`] finds them, and opens its snapshot.
pub async fn open<'a>(
    session: &'a mut Client,
    home: &HomeSchema,
    users: &[UserKey],
) -> Result<Reader<'a>> {
    let doing = "preparing a chunk";
    let kind = home.users.kind.sql_type();
    session
        .batch_execute(&format!(
            "CREATE TEMPORARY TABLE IF NOT EXISTS domicile_chunk (user_key {kind} PRIMARY KEY);
             TRUNCATE pg_temp.domicile_chunk"
        ))
        .await
        .doing(doing)?;
    let keys: Vec<&str> = users.iter().map(UserKey::as_str).collect();
    session
        .execute(
            &format!(
                "INSERT INTO pg_temp.domicile_chunk SELECT k::{kind} FROM unnest($1::text[]) AS k"
            ),
            &[&keys],
        )
        .await
        .doing(doing)?;
    // Without statistics the planner takes nested loops for a join that wants a hash.
    session
        .batch_execute("ANALYZE pg_temp.domicile_chunk")
        .await
        .doing(doing)?;
    let tx = session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .doing(doing)?;
    if plans::are_few(&tx, home, users.len()).await? {
        plans::by_index(&tx, home).await?;
    }
    let text: String = tx
        .query_one("SELECT pg_current_snapshot()::text", &[])
        .await
        .doing("opening a chunk's snapshot")?
        .get(0);
    let snapshot = text
        .parse()
        .map_err(|_| Error::Slot(format!("unreadable snapshot {text:?}")))?;
    Ok(Reader { tx, snapshot })
}

impl Reader<'_> {
    /// What the chunk sees.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The users of `who` with a row that another user owns too, each with its table.
    pub async fn shared(
        &self,
        home: &HomeSchema,
        who: &[UserKey],
    ) -> Result<Vec<(UserKey, TableName)>> {
        sharing::shared(&self.tx, home, who).await
    }

    /// Copies every owned table into `target`, where a transaction is open that writes as a replica. `pace`
    /// bounds it; a row of more than `row_max` bytes ends it with [`Error::RowTooLarge`].
    ///
    /// # Errors
    /// [`Error::Stopped`] where the pace says so. Both sessions then have streams that are not read to their ends.
    pub async fn copy(
        &self,
        home: &HomeSchema,
        target: &Transaction<'_>,
        pace: &mut Pace,
        row_max: u64,
    ) -> Result<Copied> {
        let mut total = Copied::default();
        for table in &home.owned {
            let copied = self.table(table, target, pace, row_max).await?;
            total.rows += copied.rows;
            total.bytes += copied.bytes;
        }
        Ok(total)
    }

    async fn table(
        &self,
        table: &OwnedTable,
        target: &Transaction<'_>,
        pace: &mut Pace,
        row_max: u64,
    ) -> Result<Copied> {
        let form = if table.portable_binary() {
            "binary"
        } else {
            "text"
        };
        let rows = table.select(
            Among::Relation("pg_temp.domicile_chunk"),
            |_| table.column_list("t."),
            None,
        );
        let out = format!("COPY ({rows}) TO STDOUT (FORMAT {form})");
        let into = format!(
            "COPY {} ({}) FROM STDIN (FORMAT {form})",
            table.name.sql(),
            table.column_list("")
        );
        let reading = || format!("reading {} for a copy", table.name);
        let writing = || format!("writing {} from a copy", table.name);
        let source = self.tx.copy_out(&out).await.doing(reading())?;
        let sink: CopyInSink<Bytes> = target.copy_in(&into).await.doing(writing())?;
        pin_mut!(source, sink);
        let mut piece = BytesMut::with_capacity(PIECE * 2);
        let mut bytes = 0;
        while let Some(row) = source.next().await {
            let row = row.doing(reading())?;
            // A message of the server's is a row, so this costs nothing that grows with the rows.
            if row.len() as u64 > row_max {
                return Err(Error::RowTooLarge {
                    table: table.name.clone(),
                    bytes: row.len() as u64,
                    limit: row_max,
                });
            }
            bytes += row.len() as u64;
            piece.extend_from_slice(&row);
            if piece.len() >= PIECE {
                let sent = piece.len() as u64;
                sink.send(piece.split().freeze()).await.doing(writing())?;
                pace.copied(sent).await?;
            }
        }
        if !piece.is_empty() {
            let sent = piece.len() as u64;
            sink.send(piece.freeze()).await.doing(writing())?;
            pace.copied(sent).await?;
        }
        let rows = sink.finish().await.doing(writing())?;
        Ok(Copied { rows, bytes })
    }

    /// Lets go of the snapshot.
    pub async fn close(self) -> Result<()> {
        self.tx.rollback().await.doing("closing a chunk's snapshot")
    }
}
