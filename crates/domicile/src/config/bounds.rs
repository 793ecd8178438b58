//! `batch`, `limits` and `erase` of a service, with their defaults.

use std::time::Duration;

use model::{Market, UserKey};

use super::policy::day;
use super::reader::Node;
use super::{ConfigError, quantity};

/// What is fenced and handed off together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// At most this many users. Default 64.
    pub users: u64,
    /// At most this many rows; a bigger user goes alone. Default 20,000.
    pub rows: u64,
}

/// What a move may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest that a batch may stay fenced before it goes back to catching up. Default 1 s.
    pub max_pause: Duration,
    /// The most WAL that a move may keep back at the source, in bytes. Default 10 GiB.
    pub wal: u64,
    /// The most that a move copies, in bytes per second; `None`: as fast as it goes. Default `None`.
    pub rate: Option<u64>,
    /// The largest row that is carried, in bytes; a user with a larger one is set aside. Default 64 MiB: some three
    /// copies of a row stand in the mover's memory at a time, which is to stay below 256 MiB.
    pub row: u64,
}

/// When the source is erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erase {
    /// How long after the handoff. Default 30 days.
    pub after: Duration,
    /// How long backups are kept, after which nothing is left of what was erased. Default 35 days.
    pub backups_kept: Duration,
    /// Whose rows must not be erased, whatever is due.
    pub hold: Option<Hold>,
}

/// A hold: a legal one, or a retention that a law demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Users of these markets.
    pub markets: Vec<Market>,
    /// These users. With neither markets nor users: everybody.
    pub users: Vec<UserKey>,
    /// Why; shown, and written into receipts: names nobody.
    pub reason: String,
    /// Up to and without this day, `YYYY-MM-DD`, in UTC; `None`: until it is taken out.
    pub until: Option<String>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            users: 64,
            rows: 20_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pause: Duration::from_secs(1),
            wal: 10 << 30,
            rate: None,
            row: 64 << 20,
        }
    }
}

impl Default for Erase {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            after: DAY * 30,
            backups_kept: DAY * 35,
            hold: None,
        }
    }
}

pub(super) fn read_batch(node: Option<Node<'_>>) -> Result<Batch, ConfigError> {
    let mut batch = Batch::default();
    let Some(node) = node else {
        return Ok(batch);
    };
    let mut table = node.table()?;
    if let Some(users) = table.take("users") {
        batch.users = users.positive()?;
    }
    if let Some(rows) = table.take("rows") {
        batch.rows = rows.positive()?;
    }
    table.finish()?;
    Ok(batch)
}

pub(super) fn read_limits(node: Option<Node<'_>>) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    let Some(node) = node else {
        return Ok(limits);
    };
    let mut table = node.table()?;
    if let Some(pause) = table.take("max_pause") {
        let read = |text: &str| quantity::duration(text).filter(|pause| !pause.is_zero());
        limits.max_pause = pause.read("a duration above zero such as \"1s\" or \"500ms\"", read)?;
    }
    if let Some(wal) = table.take("wal") {
        let read = |text: &str| quantity::size(text).filter(|size| *size > 0);
        limits.wal = wal.read("a size above zero such as \"10GiB\"", read)?;
    }
    if let Some(rate) = table.take("rate") {
        limits.rate = rate.read(
            "\"unlimited\" or a rate such as \"20MiB/s\"",
            quantity::rate,
        )?;
    }
    if let Some(row) = table.take("row") {
        let read = |text: &str| quantity::size(text).filter(|size| *size > 0);
        limits.row = row.read("a size above zero such as \"64MiB\"", read)?;
    }
    table.finish()?;
    Ok(limits)
}

pub(super) fn read_erase(node: Option<Node<'_>>) -> Result<Erase, ConfigError> {
    let mut erase = Erase::default();
    let Some(node) = node else {
        return Ok(erase);
    };
    let form = "a duration such as \"30d\" or \"12h\"";
    let mut table = node.table()?;
    if let Some(after) = table.take("after") {
        erase.after = after.read(form, quantity::duration)?;
    }
    if let Some(kept) = table.take("backups_kept") {
        erase.backups_kept = kept.read(form, quantity::duration)?;
    }
    erase.hold = table
        .take("hold")
        .map(|node| read_hold(&node))
        .transpose()?;
    table.finish()?;
    Ok(erase)
}

fn read_hold(node: &Node<'_>) -> Result<Hold, ConfigError> {
    let mut table = node.table()?;
    let mut list = |key| -> Result<Vec<String>, ConfigError> {
        let Some(node) = table.take(key) else {
            return Ok(Vec::new());
        };
        let items = node.nodes()?;
        if items.is_empty() {
            // Everybody is held by leaving it out, not by naming nobody.
            return Err(node.error("names nobody"));
        }
        let texts = items
            .iter()
            .map(|item| item.string().map(ToOwned::to_owned));
        texts.collect()
    };
    let (markets, users) = (list("markets")?, list("users")?);
    let reason = table.need("reason")?;
    let reason = match reason.string()?.trim() {
        "" => return Err(reason.error("says nothing; a hold needs a reason")),
        text => text.to_owned(),
    };
    let until = table
        .take("until")
        .map(|until| until.read("a day, as \"2027-01-31\"", day))
        .transpose()?;
    table.finish()?;
    Ok(Hold {
        markets: markets.into_iter().map(Market::new).collect(),
        users: users.into_iter().map(UserKey::new).collect(),
        reason,
        until,
    })
}
