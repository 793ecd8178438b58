//! A home with a slot, in which users 1 and 2 move: what the guard writes into the stream, as the stream's reader has it.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes};
use handoff::record::State;
use model::Epoch;
use postgres::lsn::Lsn;
use postgres::pgoutput;
use postgres::transaction::{Assembler, Event, Op, Transaction};
use residency::install::stream_name;
use tokio_postgres::Client;

use super::{ATTEMPT, Shape, Site, service, there};

const SLOT_OPTIONS: &str = "'proto_version', '1', 'messages', 'true', 'publication_names'";

/// A home with a slot, in which users 1 and 2 move.
pub struct Watched {
    pub site: Site,
    reader: Client,
    slot: String,
}

impl Watched {
    pub async fn new(shape: Shape) -> Result<Self> {
        let site = Site::shaped(shape).await?;
        let reader = site.session("postgres").await?;
        // As the stream's own session has it.
        reader
            .batch_execute(
                "SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'; SET IntervalStyle = 'postgres'",
            )
            .await?;
        let slot = format!("slot_{}", site.database);
        reader
            .execute(
                "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
                &[&slot],
            )
            .await?;
        for user in [1, 2] {
            let moving = State::Moving {
                epoch: Epoch(7),
                to: there(),
                attempt: ATTEMPT,
            };
            site.become_one(user, moving).await?;
        }
        let watched = Self { site, reader, slot };
        watched.transactions().await?;
        Ok(watched)
    }

    /// The transactions since the last look, without those that concern nobody.
    pub async fn transactions(&self) -> Result<Vec<Transaction>> {
        let keys: HashMap<u32, Vec<String>> = {
            let owned = self.site.home.owned.iter();
            owned.map(|table| (table.oid, table.key.clone())).collect()
        };
        let mut assembler = Assembler::new(keys, 1 << 20);
        let rows = self
            .reader
            .query(
                &format!(
                    "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, {SLOT_OPTIONS}, $2)"
                ),
                &[&self.slot, &stream_name(&service())],
            )
            .await?;
        let mut found = Vec::new();
        for row in rows {
            if let Some(transaction) =
                assembler.feed(event(Bytes::from(row.get::<_, Vec<u8>>(0)))?)?
            {
                found.push(transaction);
            }
        }
        Ok(found)
    }

    /// Runs `sql` as the application in one transaction; gives what the reader made of it.
    pub async fn after(&self, app: &Client, sql: &str) -> Result<Transaction> {
        app.batch_execute(&format!("BEGIN; {sql}; COMMIT"))
            .await
            .with_context(|| sql.to_owned())?;
        let mut found = self.transactions().await?;
        found.retain(|t| {
            !t.changes.is_empty() || !t.unresolved.is_empty() || !t.departures.is_empty()
        });
        match found.len() {
            0 | 1 => Ok(found.pop().unwrap_or_else(nothing)),
            n => bail!("{n} transactions instead of one"),
        }
    }

    /// `table verb user` of every change, and nothing unresolved, nobody sent back.
    pub async fn changes(&self, app: &Client, sql: &str) -> Result<Vec<String>> {
        let transaction = self.after(app, sql).await?;
        assert!(
            transaction.unresolved.is_empty(),
            "{sql}: {:?}",
            transaction.unresolved
        );
        assert!(
            transaction.departures.is_empty(),
            "{sql}: {:?}",
            transaction.departures
        );
        Ok(self.told(&transaction))
    }

    pub fn told(&self, transaction: &Transaction) -> Vec<String> {
        let told = transaction.changes.iter().map(|change| {
            assert_eq!(change.attempt, ATTEMPT.0);
            let table = self
                .site
                .home
                .owned_by_oid(change.table)
                .map(|t| t.name.to_string());
            let verb = match change.op {
                Op::Insert { .. } => "+",
                Op::Update { .. } => "~",
                Op::Delete { .. } => "-",
            };
            format!("{}{verb}{}", table.unwrap_or_default(), change.user)
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        told
    }
}

fn nothing() -> Transaction {
    Transaction {
        xid: 0,
        commit_lsn: Lsn(0),
        end_lsn: Lsn(0),
        changes: Vec::new(),
        marks: Vec::new(),
        departures: Vec::new(),
        unresolved: Vec::new(),
        truncated: Vec::new(),
        oversized: Vec::new(),
    }
}

/// One message of the output plugin.
fn event(mut data: Bytes) -> Result<Event> {
    fn text(data: &mut Bytes) -> Result<String> {
        let end = data.iter().position(|b| *b == 0).context("a text ends")?;
        let text = String::from_utf8(data.split_to(end).to_vec())?;
        data.advance(1);
        Ok(text)
    }
    match data.first().context("a tag")? {
        b'B' => {
            data.advance(1);
            let final_lsn = Lsn(data.get_u64());
            data.advance(8);
            Ok(Event::Begin {
                final_lsn,
                xid: data.get_u32(),
            })
        }
        b'C' => {
            data.advance(2);
            Ok(Event::Commit {
                lsn: Lsn(data.get_u64()),
                end_lsn: Lsn(data.get_u64()),
            })
        }
        b'M' => {
            data.advance(1);
            let transactional = data.get_u8() == 1;
            data.advance(8);
            let prefix = text(&mut data)?;
            data.advance(4);
            Ok(Event::Message {
                transactional,
                prefix,
                content: data,
            })
        }
        _ => Ok(Event::Row(pgoutput::decode(data)?)),
    }
}
