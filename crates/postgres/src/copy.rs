//! Copies the rows of a chunk: one short snapshot at the source, streamed straight into the target.
//!
//! Binary COPY where every type's binary form means the same at both sites, else text.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, pin_mut};
use model::UserKey;
use model::table::{HomeSchema, OwnedTable, TableName};
use model::way::Among;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_postgres::{Client, CopyInSink, IsolationLevel, Transaction};

use crate::error::{Doing, Error, Result};
use crate::pace::Pace;
use crate::plans;
use crate::sharing;
use crate::snapshot::Snapshot;

/// PostgreSQL sends a message per row; the target gets them together, about so many bytes at a time.
const PIECE: usize = 64 * 1024;

/// What goes from a [`Reader`] to a [`Writer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A table begins.
    Table(TableName),
    /// A part of its rows, in COPY's form, cut anywhere between two of them.
    Rows(Bytes),
    /// It is whole.
    End,
}

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

    /// Reads every owned table, and sends it piece by piece. `pace` bounds it; a row of more than `row_max` bytes ends it with
    /// [`Error::RowTooLarge`]. Returns the bytes read, in COPY's form.
    ///
    /// # Errors
    /// [`Error::Stopped`] where the pace says so, or nobody takes the pieces any more. The session then has a stream that is
    /// not read to its end.
    pub async fn read(
        &self,
        home: &HomeSchema,
        pieces: &mpsc::Sender<Piece>,
        pace: &mut Pace,
        row_max: u64,
    ) -> Result<u64> {
        let mut bytes = 0;
        for table in &home.owned {
            bytes += self.table(table, pieces, pace, row_max).await?;
        }
        Ok(bytes)
    }

    async fn table(
        &self,
        table: &OwnedTable,
        pieces: &mpsc::Sender<Piece>,
        pace: &mut Pace,
        row_max: u64,
    ) -> Result<u64> {
        let rows = table.select(
            Among::Relation("pg_temp.domicile_chunk"),
            |_| table.column_list("t."),
            None,
        );
        let out = format!("COPY ({rows}) TO STDOUT (FORMAT {})", form(table));
        let reading = || format!("reading {} for a copy", table.name);
        let source = self.tx.copy_out(&out).await.doing(reading())?;
        pin_mut!(source);
        send(pieces, Piece::Table(table.name.clone())).await?;
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
                send(pieces, Piece::Rows(piece.split().freeze())).await?;
                pace.copied(sent).await?;
            }
        }
        if !piece.is_empty() {
            let sent = piece.len() as u64;
            send(pieces, Piece::Rows(piece.freeze())).await?;
            pace.copied(sent).await?;
        }
        send(pieces, Piece::End).await?;
        Ok(bytes)
    }

    /// Lets go of the snapshot.
    pub async fn close(self) -> Result<()> {
        self.tx.rollback().await.doing("closing a chunk's snapshot")
    }
}

/// Writes what a [`Reader`] sends, in a transaction that writes as a replica.
#[derive(Default)]
pub struct Writer {
    open: Option<(TableName, Pin<Box<CopyInSink<Bytes>>>)>,
    rows: u64,
}

// === impl Writer ===

impl Writer {
    /// Writes a piece into `tx`, which must be the same for all of them.
    ///
    /// # Errors
    /// Among others where a piece does not follow from those before it, or names a table that `home` does not have.
    pub async fn write(
        &mut self,
        tx: &Transaction<'_>,
        home: &HomeSchema,
        piece: Piece,
    ) -> Result<()> {
        match (piece, self.open.take()) {
            (Piece::Table(name), None) => {
                let known = home.owned.iter().find(|table| table.name == name);
                let table = known.ok_or_else(|| Error::UnknownTable(name.clone()))?;
                let into = format!(
                    "COPY {} ({}) FROM STDIN (FORMAT {})",
                    table.name.sql(),
                    table.column_list(""),
                    form(table)
                );
                let sink = tx.copy_in(&into).await.doing(writing(&name))?;
                self.open = Some((name, Box::pin(sink)));
            }
            (Piece::Rows(rows), Some((name, mut sink))) => {
                sink.send(rows).await.doing(writing(&name))?;
                self.open = Some((name, sink));
            }
            (Piece::End, Some((name, mut sink))) => {
                self.rows += sink.as_mut().finish().await.doing(writing(&name))?;
            }
            (Piece::Table(_), Some(_)) | (Piece::Rows(_) | Piece::End, None) => {
                return Err(Error::Disorder);
            }
        }
        Ok(())
    }

    /// The rows written, once every table is whole.
    ///
    /// # Errors
    /// Where one is not.
    pub fn finish(self) -> Result<u64> {
        match self.open {
            None => Ok(self.rows),
            Some(_) => Err(Error::Disorder),
        }
    }
}

fn writing(table: &TableName) -> String {
    format!("writing {table} from a copy")
}

fn form(table: &OwnedTable) -> &'static str {
    match table.portable_binary() {
        true => "binary",
        false => "text",
    }
}

/// Sends a piece; nobody takes it where the copy was broken off.
pub(crate) async fn send(pieces: &mpsc::Sender<Piece>, piece: Piece) -> Result<()> {
    pieces.send(piece).await.map_err(|_| Error::Stopped)
}
