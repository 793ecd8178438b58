//! Applies changes at the target, strictly: a row that must be there is, a row that must not be is not.
//!
//! Changes of different tables commute, because foreign keys are checked at accept; of one row the stream's order is
//! kept; changes of different rows of a table commute too, and those of one kind go in one statement.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::try_join_all;
use model::UserKey;
use model::fault::{Bug, planted};
use model::table::{HomeSchema, OwnedTable, TableName, quote};
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Doing, Error, Result};
use crate::kept::{Asks, Keeping, Kept};
use crate::pgoutput::{Tuple, TupleValue};
use crate::transaction::{Change, Op};

/// How many rows, and how many bytes of them, go in one statement at most: bounds the statement's arrays.
const RUN_MAX: usize = 2_000;
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A user to whom a change could not be applied, and why. The reason names tables and constraints, no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoilt {
    /// The user.
    pub user: UserKey,
    /// Why.
    pub reason: String,
}

/// Applies `changes` in `tx`, which writes as a replica. Changes of the users in `spoilt` are left out.
///
/// Where a change fails by the fault of its row, everything is done again one by one, and the users whose rows
/// fail are returned: all their changes from the failing one on are left out, the others' are applied.
pub async fn apply(
    tx: &mut Transaction<'_>,
    kept: &Kept,
    home: &HomeSchema,
    changes: &[Change],
    spoilt: &HashSet<UserKey>,
) -> Result<Vec<Spoilt>> {
    let wanted: Vec<&Change> = changes
        .iter()
        .filter(|c| !spoilt.contains(&UserKey::from(c.user.as_str())))
        .filter(|c| !forgotten(c))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let asked = Keeping::new(&*tx, kept);
    // Sent together, and taken in this order: where the savepoint fails, everything after it does. It is let go of with the
    // transaction's end, so that nobody waits for that either.
    let (begun, applied) = tokio::join!(
        biased;
        tx.batch_execute("SAVEPOINT together"),
        in_runs(&asked, home, &wanted),
    );
    begun.doing("beginning to apply changes")?;
    match applied {
        Ok(()) => Ok(Vec::new()),
        // Where one table's statement failed, another's may be the first to say so.
        Err(error) if error.is_about_rows() || error.is_aborted() => {
            tx.batch_execute("ROLLBACK TO SAVEPOINT together")
                .await
                .doing("taking changes back")?;
            one_by_one(tx, home, &wanted).await
        }
        Err(error) => Err(error),
    }
}

/// Always false, but for the planted bug: it forgets one INSERT in twenty.
fn forgotten(change: &Change) -> bool {
    static INSERTS: AtomicU32 = AtomicU32::new(0);
    planted(Bug::LoseRow)
        && matches!(change.op, Op::Insert { .. })
        && INSERTS.fetch_add(1, Ordering::Relaxed).is_multiple_of(20)
}

async fn one_by_one(
    tx: &mut Transaction<'_>,
    home: &HomeSchema,
    changes: &[&Change],
) -> Result<Vec<Spoilt>> {
    let mut spoilt: HashMap<&str, String> = HashMap::new();
    for change in changes {
        if spoilt.contains_key(change.user.as_str()) {
            continue;
        }
        let single = tx
            .savepoint("single")
            .await
            .doing("beginning to apply a change")?;
        match in_runs(&single, home, std::slice::from_ref(change)).await {
            Ok(()) => single.commit().await.doing("applying a change")?,
            Err(error) if error.is_about_rows() => {
                single.rollback().await.doing("taking a change back")?;
                spoilt.insert(&change.user, reason(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(spoilt
        .into_iter()
        .map(|(user, reason)| Spoilt {
            user: user.into(),
            reason,
        })
        .collect())
}

/// An error about rows in one line.
pub fn reason(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn in_runs(tx: &impl Asks, home: &HomeSchema, changes: &[&Change]) -> Result<()> {
    let mut by_table: Vec<(u32, Vec<&Change>)> = Vec::new();
    let mut position: HashMap<u32, usize> = HashMap::new();
    for change in changes {
        let at = *position.entry(change.table).or_insert_with(|| {
            by_table.push((change.table, Vec::new()));
            by_table.len() - 1
        });
        by_table[at].1.push(change);
    }
    // The tables' statements are sent together: none waits for another table's answer.
    try_join_all(
        by_table
            .iter()
            .map(|(_, changes)| in_runs_of_table(tx, home, changes)),
    )
    .await?;
    Ok(())
}

async fn in_runs_of_table(tx: &impl Asks, home: &HomeSchema, changes: &[&Change]) -> Result<()> {
    let relation = &changes[0].relation;
    let name = TableName {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
    };
    let table = home.owned(&name).ok_or(Error::UnknownTable(name))?;
    for run in runs(changes) {
        statement(tx, table, &run).await?;
    }
    Ok(())
}

/// What makes changes fit into one statement: the operation and the columns that it carries.
#[derive(PartialEq, Eq)]
enum Shape {
    Insert,
    Update {
        key_changes: bool,
        absent: Vec<usize>,
    },
    Delete,
}

fn shape(change: &Change) -> Shape {
    match &change.op {
        Op::Insert { .. } => Shape::Insert,
        Op::Update { key_old, new } => {
            let absent = |(n, value): (usize, &TupleValue)| {
                matches!(value, TupleValue::Unchanged).then_some(n)
            };
            Shape::Update {
                key_changes: key_old.is_some(),
                absent: new.0.iter().enumerate().filter_map(absent).collect(),
            }
        }
        Op::Delete { .. } => Shape::Delete,
    }
}

/// A statement in the making.
struct Run<'a> {
    shape: Shape,
    changes: Vec<&'a Change>,
    bytes: usize,
}

/// The changes of one table, put together to statements that are to run in this order. Changes of one row keep the
/// stream's order and never share a statement; changes of different rows commute, but for a unique value that one
/// leaves and another takes: such a statement fails, and everything is done again one by one. Of updates of one row
/// that follow each other only the last is there: it says all that the row then holds.
fn runs<'a>(changes: &[&'a Change]) -> Vec<Vec<&'a Change>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    // Where the last change of a row stands: its run, and its place there.
    let mut last: HashMap<Vec<Option<&'a [u8]>>, (usize, usize)> = HashMap::new();
    // Nothing goes before this run.
    let mut floor = 0;
    for change in changes {
        let shape = shape(change);
        if matches!(
            shape,
            Shape::Update {
                key_changes: true,
                ..
            }
        ) {
            // Key changes go alone: a later one may take the key that an earlier one leaves.
            runs.push(Run {
                shape,
                changes: vec![change],
                bytes: change.bytes(),
            });
            floor = runs.len();
            continue;
        }
        let before = last.get(&key_of(change)).copied();
        if let Some((run, place)) = before
            && run >= floor
            && runs[run].shape == shape
            && matches!(shape, Shape::Update { .. })
            && runs[run].changes[place].relation == change.relation
        {
            let before = std::mem::replace(&mut runs[run].changes[place], change);
            runs[run].bytes = runs[run].bytes + change.bytes() - before.bytes();
            continue;
        }
        let first = before.map_or(0, |(run, _)| run + 1).max(floor);
        let fits = |run: &Run<'_>| {
            run.changes.len() < RUN_MAX
                && run.bytes < RUN_BYTES_MAX
                && run.shape == shape
                && run.changes[0].relation == change.relation
        };
        let at = match runs[first..].iter().position(fits) {
            Some(n) => first + n,
            None => {
                runs.push(Run {
                    shape,
                    changes: Vec::new(),
                    bytes: 0,
                });
                runs.len() - 1
            }
        };
        runs[at].changes.push(change);
        runs[at].bytes += change.bytes();
        last.insert(key_of(change), (at, runs[at].changes.len() - 1));
    }
    runs.into_iter().map(|run| run.changes).collect()
}

fn key_of(change: &Change) -> Vec<Option<&[u8]>> {
    let tuple = match &change.op {
        Op::Insert { new } => new,
        Op::Update { key_old, new } => key_old.as_ref().unwrap_or(new),
        Op::Delete { key } => key,
    };
    change
        .relation
        .key_positions()
        .into_iter()
        .map(|n| tuple.0.get(n).and_then(TupleValue::data))
        .collect()
}

/// One column of a statement's arrays.
struct Values<'a> {
    column: usize,
    old: bool,
    values: Vec<Option<&'a str>>,
}

async fn statement(tx: &impl Asks, table: &OwnedTable, run: &[&Change]) -> Result<()> {
    let relation = &run[0].relation;
    let columns = &relation.columns;
    let key = relation.key_positions();
    let copied = |n: &usize| table.copied().any(|column| column.name == columns[*n].name);
    let type_of = |n: usize| {
        let found = table
            .columns
            .iter()
            .find(|column| column.name == columns[n].name);
        match found.map_or("text", |column| column.sql_type.as_str()) {
            // From text its cast looks for a relation of that name; it is its input function that knows `-`, too.
            "regclass" => "bpchar::regclass",
            sql_type => sql_type,
        }
    };
    let name = |n: usize| quote(&columns[n].name);
    let mut arrays: Vec<Values<'_>> = Vec::new();
    let mut array = |column: usize, old: bool, pick: fn(&Op) -> Option<&Tuple>| -> Result<String> {
        let mut values = Vec::with_capacity(run.len());
        for change in run {
            let value = pick(&change.op).and_then(|tuple| tuple.0.get(column));
            values.push(match value.and_then(TupleValue::data) {
                None => None,
                Some(bytes) => Some(std::str::from_utf8(bytes).map_err(|_| Error::Strict {
                    operation: "text that is not UTF-8",
                    table: table.name.clone(),
                    expected: 1,
                    found: 0,
                })?),
            });
        }
        arrays.push(Values {
            column,
            old,
            values,
        });
        Ok(format!("v.{}{column}", if old { "o" } else { "c" }))
    };
    let of_new: fn(&Op) -> Option<&Tuple> = |op| match op {
        Op::Insert { new } | Op::Update { new, .. } => Some(new),
        Op::Delete { .. } => None,
    };
    let of_key: fn(&Op) -> Option<&Tuple> = |op| match op {
        Op::Insert { new } => Some(new),
        Op::Update { key_old, new } => Some(key_old.as_ref().unwrap_or(new)),
        Op::Delete { key } => Some(key),
    };
    let mut matching = || -> Result<String> {
        let mut terms = Vec::new();
        for n in &key {
            terms.push(format!(
                "t.{} = {}::{}",
                name(*n),
                array(*n, true, of_key)?,
                type_of(*n)
            ));
        }
        Ok(terms.join(" AND "))
    };
    let (operation, head, tail) = match shape(run[0]) {
        Shape::Insert => {
            let mut names = Vec::new();
            let mut values = Vec::new();
            for n in (0..columns.len()).filter(copied) {
                names.push(name(n));
                values.push(format!("{}::{}", array(n, false, of_new)?, type_of(n)));
            }
            let head = format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ",
                table.name.sql(),
                names.join(", "),
                values.join(", ")
            );
            ("INSERT", head, String::new())
        }
        Shape::Update {
            key_changes,
            absent,
        } => {
            let condition = matching()?;
            let identity = |n: &usize| {
                table
                    .columns
                    .iter()
                    .any(|c| c.identity && c.name == columns[*n].name)
            };
            let changes = |n: &usize| !absent.contains(n) && (key_changes || !key.contains(n));
            if (0..columns.len()).any(|n| copied(&n) && identity(&n) && changes(&n)) {
                // No UPDATE writes a value to a column that is GENERATED ALWAYS AS IDENTITY.
                let mut kept = vec!["v.*".to_owned()];
                let mut names = Vec::new();
                let mut values = Vec::new();
                for n in (0..columns.len()).filter(copied) {
                    names.push(name(n));
                    if absent.contains(&n) {
                        kept.push(format!("t.{} AS k{n}", name(n)));
                        values.push(format!("v.k{n}"));
                    } else {
                        values.push(format!("{}::{}", array(n, false, of_new)?, type_of(n)));
                    }
                }
                let table = table.name.sql();
                let head = "WITH v AS (SELECT * FROM ".to_owned();
                let tail = format!(
                    "), gone AS (DELETE FROM {table} AS t USING v WHERE {condition} RETURNING {}) \
                     INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone AS v",
                    kept.join(", "),
                    names.join(", "),
                    values.join(", ")
                );
                ("UPDATE", head, tail)
            } else {
                let mut set = Vec::new();
                for n in (0..columns.len()).filter(copied).filter(changes) {
                    set.push(format!(
                        "{} = {}::{}",
                        name(n),
                        array(n, false, of_new)?,
                        type_of(n)
                    ));
                }
                if set.is_empty() {
                    // Nothing but the key: the row must be there all the same.
                    set.push(format!("{k} = t.{k}", k = name(key[0])));
                }
                let head = format!(
                    "UPDATE {} AS t SET {} FROM ",
                    table.name.sql(),
                    set.join(", ")
                );
                ("UPDATE", head, format!(" WHERE {condition}"))
            }
        }
        Shape::Delete => {
            let condition = matching()?;
            (
                "DELETE",
                format!("DELETE FROM {} AS t USING ", table.name.sql()),
                format!(" WHERE {condition}"),
            )
        }
    };
    let parameters: Vec<String> = (1..=arrays.len())
        .map(|n| format!("${n}::text[]"))
        .collect();
    let aliases: Vec<String> = arrays
        .iter()
        .map(|a| format!("{}{}", if a.old { "o" } else { "c" }, a.column))
        .collect();
    let sql = format!(
        "{head}unnest({}) AS v({}){tail}",
        parameters.join(", "),
        aliases.join(", ")
    );
    let doing = || format!("applying {operation} to {}", table.name);
    let values: Vec<(&(dyn ToSql + Sync), Type)> = arrays
        .iter()
        .map(|a| (&a.values as &(dyn ToSql + Sync), Type::TEXT_ARRAY))
        .collect();
    let found = tx.tell(&sql, &values).await.doing(doing())?;
    if found != run.len() as u64 && !planted(Bug::SkipMissingRow) {
        return Err(Error::Strict {
            operation,
            table: table.name.clone(),
            expected: run.len() as u64,
            found,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
