//! Copies catalogue rows that a target lacks, where the configuration asks for it. Rows that stand at both are not touched.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, pin_mut};
use model::table::{HomeSchema, TableName, quote};
use tokio::sync::mpsc;
use tokio_postgres::{Client, CopyInSink, Transaction};

use crate::copy::{Piece, send};
use crate::error::{Doing, Error, Result};
use crate::replica;

/// Reads the tables that are marked as copied, and sends them piece by piece.
///
/// # Errors
/// [`Error::Stopped`] where nobody takes the pieces any more.
pub async fn read(source: &Client, home: &HomeSchema, pieces: &mpsc::Sender<Piece>) -> Result<()> {
    for name in &home.references_copied {
        let list = columns(home, name)?;
        let reading = || format!("reading reference table {name}");
        // Text: its form means the same at both sites, and catalogues are small.
        let rows = source
            .copy_out(&format!(
                "COPY (SELECT {list} FROM {}) TO STDOUT",
                name.sql()
            ))
            .await
            .doing(reading())?;
        pin_mut!(rows);
        send(pieces, Piece::Table(name.clone())).await?;
        while let Some(rows) = rows.next().await {
            send(pieces, Piece::Rows(rows.doing(reading())?)).await?;
        }
        send(pieces, Piece::End).await?;
    }
    Ok(())
}

/// Adds the rows that [`read`] sends and that lack here, in one transaction.
pub struct Bringing<'a> {
    tx: Transaction<'a>,
    home: &'a HomeSchema,
    open: Option<(TableName, Pin<Box<CopyInSink<Bytes>>>)>,
}

// === impl Bringing ===

impl<'a> Bringing<'a> {
    /// Begins.
    pub async fn begin(target: &'a mut Client, home: &'a HomeSchema) -> Result<Self> {
        let tx = target
            .transaction()
            .await
            .doing("copying reference tables")?;
        replica::assume(&tx).await?;
        let open = None;
        Ok(Self { tx, home, open })
    }

    /// Takes a piece.
    ///
    /// # Errors
    /// Among others where it does not follow from those before it, or names a table that is not to be copied.
    pub async fn write(&mut self, piece: Piece) -> Result<()> {
        match (piece, self.open.take()) {
            (Piece::Table(name), None) => {
                let list = columns(self.home, &name)?;
                self.tx
                    .batch_execute(&format!(
                        "CREATE TEMPORARY TABLE domicile_reference ON COMMIT DROP AS SELECT {list} FROM {} LIMIT 0",
                        name.sql()
                    ))
                    .await
                    .doing(writing(&name))?;
                let into = format!("COPY pg_temp.domicile_reference ({list}) FROM STDIN");
                let sink = self.tx.copy_in(&into).await.doing(writing(&name))?;
                self.open = Some((name, Box::pin(sink)));
            }
            (Piece::Rows(rows), Some((name, mut sink))) => {
                sink.send(rows).await.doing(writing(&name))?;
                self.open = Some((name, sink));
            }
            (Piece::End, Some((name, mut sink))) => {
                sink.as_mut().finish().await.doing(writing(&name))?;
                self.add(&name).await?;
            }
            (Piece::Table(_), Some(_)) | (Piece::Rows(_) | Piece::End, None) => {
                return Err(Error::Disorder);
            }
        }
        Ok(())
    }

    async fn add(&self, name: &TableName) -> Result<()> {
        let list = columns(self.home, name)?;
        let insert = format!(
            "INSERT INTO {} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM pg_temp.domicile_reference \
             ON CONFLICT DO NOTHING",
            name.sql()
        );
        self.tx.execute(&insert, &[]).await.doing(writing(name))?;
        self.tx
            .batch_execute("DROP TABLE pg_temp.domicile_reference")
            .await
            .doing(writing(name))
    }

    /// Commits, once every table is whole.
    ///
    /// # Errors
    /// Where one is not.
    pub async fn finish(self) -> Result<()> {
        match self.open {
            None => self.tx.commit().await.doing("copying reference tables"),
            Some(_) => Err(Error::Disorder),
        }
    }
}

fn writing(table: &TableName) -> String {
    format!("copying reference table {table}")
}

/// The columns of a reference table that are copied.
fn columns(home: &HomeSchema, name: &TableName) -> Result<String> {
    let copied = home.references_copied.iter().any(|known| known == name);
    let columns = home.references.get(name).filter(|_| copied);
    let columns = columns.ok_or_else(|| Error::UnknownTable(name.clone()))?;
    let copied = columns.iter().filter(|column| !column.generated);
    let list: Vec<String> = copied.map(|column| quote(&column.name)).collect();
    Ok(list.join(", "))
}
