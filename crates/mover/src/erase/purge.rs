//! Carries erasures on from *deleted*: new files, new statistics, then the log, standbys, slots and backups.
//!
//! Every step looks at what it needs, does what may be missing, looks again, and writes what it saw. A run that is cut off
//! anywhere leaves a state that is true; the next one goes on from it. What others did (a rewrite by hand) counts as well.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use handoff::erasure::wal::{self, Mark, Wait as WalWait};
use handoff::erasure::{Event as Step, State};
use model::fault::{Bug, planted, point};
use postgres::connect::Session;
use postgres::scrub::{self, File, Part};
use postgres::{horizon, replica};
use residency::erasures::{self, Erasure, Scope};
use residency::{LOCK_CLASS, entries, records};
use serde_json::json;

use super::delete::body;
use crate::desk::{commit, transaction};
use crate::error::{At, Result};
use crate::route::End;

/// The second half of the advisory lock of whoever works tables over: one at a time.
const SCRUBBER: i32 = 0x5363_7262;

/// How often one run looks again for short transactions that still see what was deleted, a tenth of a second apart.
const LOOKS: u32 = 50;

/// How many segments of the log are turned over for one erasure at most: 16 GiB at the usual size.
const TURNS: u32 = 1024;

/// How many of them without any old segment going.
const TURNS_IN_VAIN: u32 = 5;

/// How far this run may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rewrite tables of any size; writers wait meanwhile.
    pub rewrite: bool,
    /// Go on to new segments of the log until old ones are written over, instead of waiting for writers to do it.
    pub turn_wal: bool,
    /// How long backups and archived logs are kept.
    pub backups_kept: Duration,
}

/// An erasure, and what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// As it is now.
    pub erasure: Erasure,
    /// What keeps the next state waiting; nothing where it is purged.
    pub waits: Vec<Wait>,
}

/// What keeps a state waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The role may not do what is needed.
    Rights(String),
    /// Users leave or arrive here: tables are not rewritten under a move.
    Move,
    /// Another process works tables over.
    Other,
    /// Somebody may still see the rows.
    Seen(String),
    /// Free space of these tables' pages may hold bytes.
    Residue(Vec<String>),
    /// Files of these tables are still those of before.
    Files(Vec<String>),
    /// A standby or slot has not gone past.
    Behind(String),
    /// The log's directory still has old segments.
    Wal(WalWait),
    /// The log cannot be archived, and is kept.
    ArchiveFails,
    /// The log is archived, and the configuration says that nothing is kept.
    ArchiveUndeclared,
    /// Backups may still have it, for so long.
    Backups(Duration),
}

impl Wait {
    /// How long it will take, where that is known.
    pub fn remaining(&self) -> Option<Duration> {
        match self {
            Self::Backups(remaining) => Some(*remaining),
            _ => None,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rights(why) => write!(f, "{why}: run erase with --admin SITE=URL"),
            Self::Move => f.write_str("a move runs here: tables are not rewritten under it"),
            Self::Other => f.write_str("another process works the tables over just now"),
            Self::Seen(who) => write!(f, "{who} may still see the rows"),
            Self::Residue(tables) => write!(
                f,
                "free space in pages of {} may hold bytes until it is overwritten: run erase with --rewrite when writers can wait",
                tables.join(", ")
            ),
            Self::Files(tables) => write!(
                f,
                "indexes or statistics of {} could not be made anew yet",
                tables.join(", ")
            ),
            Self::Behind(who) => write!(f, "{who} has not gone past it"),
            Self::Wal(WalWait::Kept { segments, .. }) => {
                write!(f, "{segments} segments of WAL that may hold the rows are kept")
            }
            Self::Wal(WalWait::Recycled { segments }) => write!(
                f,
                "{segments} segments of WAL are still to be written over old ones (--turn-wal does it now)"
            ),
            Self::ArchiveFails => f.write_str("the server cannot archive its WAL"),
            Self::ArchiveUndeclared => f.write_str(
                "archive_mode is on, and erase.backups_kept says that nothing is kept: say how long archived WAL is",
            ),
            Self::Backups(remaining) => write!(
                f,
                "backups and archived WAL may hold the rows for {} more",
                days(*remaining)
            ),
        }
    }
}

fn days(left: Duration) -> String {
    match left.as_secs() {
        0..=119 => format!("{} s", left.as_secs()),
        secs @ 120..=7199 => format!("{} min", secs / 60),
        secs @ 7200..=172_799 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86_400),
    }
}

/// Carries every open erasure at `source` on as far as it can go now. `hands` may vacuum and look into the log's directory; it
/// may be the mover's own session where that has the rights.
pub async fn carry_on(
    source: &End,
    session: &mut Session,
    hands: &Session,
    bounds: &Bounds,
) -> Result<Vec<Standing>> {
    let doing = "carrying erasures on";
    let open = erasures::list(&**session, &["deleted", "vacuumed"])
        .await
        .at(&source.site, doing)?;
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let rights = scrub::missing_rights(&**hands, &source.schema)
        .await
        .at(&source.site, doing)?;
    let mut standing: Vec<Standing> = Vec::new();
    if let Some(why) = rights {
        let waits = vec![Wait::Rights(why)];
        let waiting = open.into_iter().map(|erasure| Standing {
            erasure,
            waits: waits.clone(),
        });
        return Ok(waiting.collect());
    }
    let (unclean, clean): (Vec<Erasure>, Vec<Erasure>) = open
        .into_iter()
        .partition(|erasure| erasure.state != State::Vacuumed { residue: false });
    standing.extend(clean.into_iter().map(|erasure| Standing {
        erasure,
        waits: Vec::new(),
    }));
    if !unclean.is_empty() {
        standing.extend(scrub_all(source, session, hands, unclean, bounds).await?);
    }
    let mut done = Vec::new();
    for Standing { erasure, waits } in standing {
        done.push(if erasure.state == (State::Vacuumed { residue: false }) {
            purge(source, session, hands, erasure, bounds).await?
        } else {
            Standing { erasure, waits }
        });
    }
    Ok(done)
}

/// From *deleted* to *vacuumed*, all erasures at once: a table is worked over once for all of them.
async fn scrub_all(
    source: &End,
    session: &mut Session,
    hands: &Session,
    open: Vec<Erasure>,
    bounds: &Bounds,
) -> Result<Vec<Standing>> {
    let doing = "working tables over";
    let all_wait = |open: Vec<Erasure>, wait: Wait| {
        let standing = open.into_iter().map(|erasure| Standing {
            erasure,
            waits: vec![wait.clone()],
        });
        Ok(standing.collect())
    };
    if erasures::is_busy(&**session)
        .await
        .at(&source.site, doing)?
    {
        return all_wait(open, Wait::Move);
    }
    // Of the session: it ends with it, whatever happens.
    if !lock(hands, true).await.at(&source.site, doing)? {
        return all_wait(open, Wait::Other);
    }
    let scrubbed = scrub_under_lock(source, session, hands, open, bounds).await;
    lock(hands, false).await.at(&source.site, doing)?;
    scrubbed
}

async fn scrub_under_lock(
    source: &End,
    session: &mut Session,
    hands: &Session,
    open: Vec<Erasure>,
    bounds: &Bounds,
) -> Result<Vec<Standing>> {
    let doing = "working tables over";
    let (mut ready, mut standing) = (Vec::new(), Vec::new());
    let mut looks = LOOKS;
    for erasure in open {
        let xid = erasure.deleted_xid.unwrap_or(i64::MAX - 1);
        match unseen(source, hands, (xid, false), &mut looks).await? {
            Some(who) => standing.push(Standing {
                erasure,
                waits: vec![Wait::Seen(who)],
            }),
            // Whoever wrote for a user at his home while he was deleted has ended by now.
            None => match late(source, session, erasure).await? {
                (erasure, false) => ready.push(erasure),
                (erasure, true) => standing.push(Standing {
                    erasure,
                    waits: vec![Wait::Seen(
                        "whoever wrote for the user meanwhile".to_owned(),
                    )],
                }),
            },
        }
    }
    if ready.is_empty() {
        return Ok(standing);
    }
    let now = scrub::files(&**hands, &source.schema)
        .await
        .at(&source.site, doing)?;
    let mut old = Vec::new();
    for erasure in &mut ready {
        let kept = erasure.files.clone();
        let kept = kept.and_then(|files| serde_json::from_value::<BTreeSet<File>>(files).ok());
        old.push(match kept {
            Some(files) => files,
            None => {
                let files = json!(now);
                erasures::set_files(&**session, &erasure.id, &files)
                    .await
                    .at(&source.site, doing)?;
                erasure.files = Some(files);
                now.clone()
            }
        });
    }
    point("before-vacuum");
    let together: BTreeSet<File> = old.iter().flatten().cloned().collect();
    scrub::clean(&**hands, &source.schema, &together, bounds.rewrite)
        .await
        .at(&source.site, doing)?;
    point("after-clean");
    // ANALYZE has left old rows of its own.
    let analyzed = horizon::now(&**hands).await.at(&source.site, doing)?;
    let seen = unseen(source, hands, (analyzed, true), &mut looks).await?;
    if seen.is_none() {
        scrub::clean_statistics(&**hands)
            .await
            .at(&source.site, doing)?;
    }
    point("after-statistics");
    for (erasure, old) in ready.into_iter().zip(old) {
        let wait = seen.clone().map(Wait::Seen);
        standing.push(judge(source, session, hands, erasure, &old, wait).await?);
    }
    Ok(standing)
}

/// Looks which files are there still, and writes what that comes to.
async fn judge(
    source: &End,
    session: &mut Session,
    hands: &Session,
    mut erasure: Erasure,
    old: &BTreeSet<File>,
    seen: Option<Wait>,
) -> Result<Standing> {
    let doing = "looking what is left of erased rows";
    let left = match planted(Bug::VacuumAlone) {
        true => BTreeSet::new(),
        false => scrub::still_there(&**hands, old)
            .await
            .at(&source.site, doing)?,
    };
    let names = |parts: &[Part]| -> Vec<String> {
        let of = left.iter().filter(|file| parts.contains(&file.part));
        let names: BTreeSet<String> = of.map(|file| file.table.clone()).collect();
        names.into_iter().collect()
    };
    let stale = names(&[Part::Index, Part::Statistics]);
    if let Some(wait) = seen.or((!stale.is_empty()).then_some(Wait::Files(stale))) {
        return Ok(Standing {
            erasure,
            waits: vec![wait],
        });
    }
    let left_in = names(&[Part::Heap, Part::Toast]);
    let residue = !left_in.is_empty();
    if erasure.state == (State::Vacuumed { residue: true }) && residue && erasure.left_in == left_in
    {
        let waits = vec![Wait::Residue(left_in)];
        return Ok(Standing { erasure, waits });
    }
    let tx = transaction(session, source, doing).await?;
    let next = erasures::advance(&tx, &erasure, Step::Clean { residue })
        .await
        .at(&source.site, doing)?;
    let lsn = tx
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(|error| postgres::Error::from_server(doing, error))
        .at(&source.site, doing)?;
    let lsn: String = lsn.get(0);
    let last = horizon::segment(&tx, &lsn).await.at(&source.site, doing)?;
    // Only from when the files are clean on is nothing of the rows written to the log any more.
    let wal = (!residue).then_some(Mark::Waiting { last });
    erasures::set_cleaned(&tx, &erasure.id, &left_in, wal)
        .await
        .at(&source.site, doing)?;
    let mut body = body(source, &erasure, erasure.rows, next.name());
    body["residue"] = json!(left_in);
    body["lsn"] = json!(lsn);
    body["deleted_lsn"] = json!(erasure.deleted_lsn);
    let users = users(&tx, source, &erasure).await?;
    entries::append(&tx, "erased", body, &users)
        .await
        .at(&source.site, doing)?;
    commit(tx, source, doing).await?;
    point("after-vacuumed");
    erasure.state = next;
    erasure.vacuumed_lsn = Some(lsn);
    erasure.wal = wal;
    let waits = match residue {
        true => vec![Wait::Residue(left_in.clone())],
        false => Vec::new(),
    };
    erasure.left_in = left_in;
    Ok(Standing { erasure, waits })
}

/// From *vacuumed* to *purged*.
async fn purge(
    source: &End,
    session: &mut Session,
    hands: &Session,
    mut erasure: Erasure,
    bounds: &Bounds,
) -> Result<Standing> {
    let doing = "looking where erased rows may still be";
    let at = &source.site;
    let lsn = erasure.vacuumed_lsn.clone().unwrap_or_default();
    let mut waits: Vec<Wait> = Vec::new();
    let behind = horizon::behind(&**hands, &lsn).await.at(at, doing)?;
    waits.extend(behind.into_iter().map(Wait::Behind));
    let archive = horizon::archive(&**hands).await.at(at, doing)?;
    if archive.on && archive.failing {
        waits.push(Wait::ArchiveFails);
    }
    let last = horizon::segment(&**hands, &lsn).await.at(at, doing)?;
    let mark = erasure.wal.unwrap_or(Mark::Waiting { last });
    let turn = bounds.turn_wal && waits.is_empty();
    let (mark, wait) = write_over(source, hands, mark, turn).await?;
    if erasure.wal != Some(mark) {
        erasures::set_wal(&**session, &erasure.id, mark)
            .await
            .at(at, doing)?;
        point("after-wal-mark");
        erasure.wal = Some(mark);
        // Since when, by the database's clock.
        if mark == Mark::Overwritten {
            erasure.wal_clear = Some(Duration::ZERO);
        }
    }
    waits.extend(wait.map(Wait::Wal));
    if archive.on && bounds.backups_kept.is_zero() {
        waits.push(Wait::ArchiveUndeclared);
    }
    let since = erasure.wal_clear.unwrap_or_default();
    if let Some(remaining) = bounds
        .backups_kept
        .checked_sub(since)
        .filter(|left| !left.is_zero())
    {
        waits.push(Wait::Backups(remaining));
    }
    if !waits.is_empty() || mark != Mark::Overwritten {
        return Ok(Standing { erasure, waits });
    }
    let tx = transaction(session, source, doing).await?;
    let next = erasures::advance(&tx, &erasure, Step::Purge)
        .await
        .at(at, doing)?;
    let unlinked = erasures::finish(&tx, source.kind(), &erasure, bounds.backups_kept)
        .await
        .at(at, doing)?;
    let mut body = body(source, &erasure, erasure.rows, next.name());
    body["vacuumed_lsn"] = json!(lsn);
    body["backups_kept_s"] = json!(bounds.backups_kept.as_secs());
    body["salts_dropped"] = json!(unlinked.len());
    // Of nobody: whose it was, the salts told that go now.
    entries::append(&tx, "erased", body, &[])
        .await
        .at(at, doing)?;
    entries::forget(&tx, &unlinked).await.at(at, doing)?;
    point("before-purged");
    commit(tx, source, doing).await?;
    point("after-purged");
    erasure.state = next;
    Ok(Standing { erasure, waits })
}

/// Looks into the log's directory; where it may, turns it over until nothing old is left, or nothing goes.
async fn write_over(
    source: &End,
    hands: &Session,
    mut mark: Mark,
    turn: bool,
) -> Result<(Mark, Option<WalWait>)> {
    let doing = "looking into the log's directory";
    let (mut wait, mut vain) = (None, 0);
    for turned in 0..=TURNS {
        let seen = horizon::wal(&**hands).await.at(&source.site, doing)?;
        let (next, waits_for) = wal::look(mark, &seen);
        vain = match (wait, waits_for) {
            (Some(WalWait::Kept { oldest, .. }), Some(WalWait::Kept { oldest: still, .. }))
                if oldest == still =>
            {
                vain + 1
            }
            _ => 0,
        };
        (mark, wait) = (next, waits_for);
        if !turn || wait.is_none() || vain == TURNS_IN_VAIN || turned == TURNS {
            break;
        }
        horizon::turn(&**hands).await.at(&source.site, doing)?;
    }
    Ok((mark, wait))
}

/// Waits a moment for short transactions, no more than `looks`; who still sees what `xid` deleted after that, in `catalogs` too.
async fn unseen(
    source: &End,
    hands: &Session,
    (xid, catalogs): (i64, bool),
    looks: &mut u32,
) -> Result<Option<String>> {
    let doing = "looking who still sees erased rows";
    loop {
        let who = horizon::who_sees(&**hands, xid, catalogs)
            .await
            .at(&source.site, doing)?;
        // A slot does not go away by itself.
        let stays = who
            .as_ref()
            .is_none_or(|who| who.starts_with("replication slot"));
        if stays || *looks == 0 {
            return Ok(who);
        }
        *looks -= 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes what a transaction wrote for a user at his home that began before he was deleted and ended after: nobody who did
/// is left now. Not where he was created anew: that is another life. Returns whether there was something.
async fn late(
    source: &End,
    session: &mut Session,
    mut erasure: Erasure,
) -> Result<(Erasure, bool)> {
    let doing = "looking for rows that came late";
    if erasure.scope != Scope::User || erasure.state != State::Deleted {
        return Ok((erasure, false));
    }
    let tx = transaction(session, source, doing).await?;
    let users = users(&tx, source, &erasure).await?;
    let records = records::lock(&tx, source.kind(), &users)
        .await
        .at(&source.site, doing)?;
    let settled = records.iter().all(|record| {
        let state = record.as_ref().map(|record| &record.state);
        matches!(state, Some(handoff::record::State::Settled { .. }))
    });
    let anew = !settled
        || postgres::users::any(&tx, &source.schema, &users)
            .await
            .at(&source.site, doing)?;
    if anew {
        return Ok((erasure, false));
    }
    replica::assume(&tx).await.at(&source.site, doing)?;
    let rows = postgres::delete::rows(&tx, &source.schema, &users)
        .await
        .at(&source.site, doing)?;
    if rows == 0 {
        return Ok((erasure, false));
    }
    erasures::advance(&tx, &erasure, Step::Delete)
        .await
        .at(&source.site, doing)?;
    erasures::add_rows(&tx, &erasure.id, rows)
        .await
        .at(&source.site, doing)?;
    let mut body = body(source, &erasure, rows, State::Deleted.name());
    body["late"] = json!(true);
    entries::append(&tx, "erased", body, &users)
        .await
        .at(&source.site, doing)?;
    commit(tx, source, doing).await?;
    erasures::deleted_by_now(&**session, &erasure.id)
        .await
        .at(&source.site, doing)?;
    erasure.rows += rows;
    Ok((erasure, true))
}

async fn users(
    tx: &tokio_postgres::Transaction<'_>,
    source: &End,
    erasure: &Erasure,
) -> Result<Vec<model::UserKey>> {
    let users = erasures::users(tx, &erasure.id)
        .await
        .at(&source.site, "reading whose rows an erasure is about")?;
    Ok(users.into_iter().map(|(user, _)| user).collect())
}

/// Takes, or gives back, the right to work tables over here.
async fn lock(hands: &Session, take: bool) -> postgres::Result<bool> {
    let function = match take {
        true => "pg_try_advisory_lock",
        false => "pg_advisory_unlock",
    };
    let row = hands
        .query_one(&format!("SELECT {function}({LOCK_CLASS}, {SCRUBBER})"), &[])
        .await
        .map_err(|error| postgres::Error::from_server("locking", error))?;
    Ok(row.get(0))
}
