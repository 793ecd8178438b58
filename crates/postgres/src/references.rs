//! Copies catalogue rows that a target lacks, where the configuration asks for it. Rows that stand at both are not touched.

use futures_util::{SinkExt, StreamExt, pin_mut};
use model::table::{Column, HomeSchema, TableName, quote};
use tokio_postgres::{Client, CopyInSink, Transaction};

use crate::error::{Doing, Result};
use crate::replica;

/// Brings the rows of the tables marked as copied from `source` to `target`, in one transaction there. Returns the tables
/// of which rows came, with their numbers.
pub async fn bring(
    source: &Client,
    target: &mut Client,
    home: &HomeSchema,
) -> Result<Vec<(TableName, u64)>> {
    let mut brought = Vec::new();
    if home.references_copied.is_empty() {
        return Ok(brought);
    }
    let doing = "copying reference tables";
    let tx = target.transaction().await.doing(doing)?;
    replica::assume(&tx).await?;
    for name in &home.references_copied {
        let rows = bring_one(source, &tx, name, &home.references[name]).await?;
        if rows > 0 {
            brought.push((name.clone(), rows));
        }
    }
    tx.commit().await.doing(doing)?;
    Ok(brought)
}

async fn bring_one(
    source: &Client,
    tx: &Transaction<'_>,
    name: &TableName,
    columns: &[Column],
) -> Result<u64> {
    let copied = columns.iter().filter(|column| !column.generated);
    let list: Vec<String> = copied.map(|column| quote(&column.name)).collect();
    let list = list.join(", ");
    let reading = || format!("reading reference table {name}");
    let writing = || format!("copying reference table {name}");
    tx.batch_execute(&format!(
        "CREATE TEMPORARY TABLE domicile_reference ON COMMIT DROP AS SELECT {list} FROM {} LIMIT 0",
        name.sql()
    ))
    .await
    .doing(writing())?;
    // Text: its form means the same at both sites, and catalogues are small.
    let rows = source
        .copy_out(&format!(
            "COPY (SELECT {list} FROM {}) TO STDOUT",
            name.sql()
        ))
        .await
        .doing(reading())?;
    let sink: CopyInSink<bytes::Bytes> = tx
        .copy_in(&format!(
            "COPY pg_temp.domicile_reference ({list}) FROM STDIN"
        ))
        .await
        .doing(writing())?;
    pin_mut!(rows, sink);
    while let Some(piece) = rows.next().await {
        sink.send(piece.doing(reading())?).await.doing(writing())?;
    }
    sink.finish().await.doing(writing())?;
    let added = tx
        .execute(
            &format!(
                "INSERT INTO {} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM pg_temp.domicile_reference \
                 ON CONFLICT DO NOTHING",
                name.sql()
            ),
            &[],
        )
        .await
        .doing(writing())?;
    tx.batch_execute("DROP TABLE pg_temp.domicile_reference")
        .await
        .doing(writing())?;
    Ok(added)
}
