//! One move from beginning to end. The steps are in files of their own; this is the order in which they are taken.

use std::sync::Arc;
use std::time::Duration;

use model::MoveId;
use postgres::connect::Session;
use postgres::digest::DigestKey;
use postgres::preflight::reference_digest;
use postgres::{census, references, slot};
use residency::journal::{self, MoveRow, Purpose};
use residency::steering::{self, Wish};
use residency::{barrier, entries, install, records};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;

use crate::abort::{self, drop_idle_slot, give_up, take_offices};
use crate::activity::Step;
use crate::ask::Ask;
use crate::bonds;
use crate::both::both;
use crate::catch_up::CatchUp;
pub use crate::copier::Wanted;
use crate::copier::{Copier, Ready};
use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Error, Result};
use crate::event::{Event, Observer};
use crate::lane::Lane;
use crate::policy;
use crate::prepare::Aside;
use crate::put_back;
use crate::recover::{Survivor, recover};
use crate::rest;
use crate::route::{End, Offices, Route};
use crate::shapes::Shapes;
use crate::steer::{Half, Steering};

/// What a move is expected to carry, for whoever watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Users.
    pub users: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a move did in this run. Who was set aside and why, how much was copied and how long users were paused is told
/// to the [`Observer`] as it happens, and kept nowhere here: memory must not grow with the users.
#[derive(Clone, Debug)]
pub struct Report {
    /// The move.
    pub r#move: MoveId,
    /// Users who changed home.
    pub moved: u64,
    /// Users who stay.
    pub set_aside: u64,
    /// Users whom verification kept from moving.
    pub mismatches: u64,
}

/// How often one looks how much WAL is kept back.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long giving up may take before it is left to the next run: a target that stands still does not answer.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(60);

/// How long an error of one half waits for the other to come to a safe point.
const HALF_PATIENCE: Duration = Duration::from_secs(10);

/// How many times a user is copied afresh in one run before he is set aside.
const ROUNDS: usize = 3;

/// Carries `wanted` along `route`, or goes on with what an earlier run left.
///
/// # Errors
/// Everything durable stays consistent whatever the error; the next run goes on. At [`Error::WalCap`],
/// [`Error::Unfollowable`], [`Error::SchemaChanged`], [`Error::Unguarded`] and a timed-out barrier unfinished chunks are
/// given up and the slot is dropped first; at [`Error::Aborted`] the move has ended, too.
pub async fn run(
    route: Arc<Route>,
    purpose: Purpose,
    wanted: Wanted,
    expected: Expected,
    observer: &dyn Observer,
) -> Result<Report> {
    let ended = carry_out(Arc::clone(&route), purpose, wanted, expected, observer).await;
    if ended.as_ref().err().is_none_or(rest::reached) {
        rest::at_both(&route).await;
    }
    ended
}

async fn carry_out(
    route: Arc<Route>,
    purpose: Purpose,
    wanted: Wanted,
    expected: Expected,
    observer: &dyn Observer,
) -> Result<Report> {
    let (source, target) = (&route.source, &route.target);
    let (offices, _held) = take_offices(&route).await?;
    let mut desk = Desk::open(&route, &offices, "mover").await?;
    // Both before anything is written: a refusal, or a table that cannot be had, leaves nothing behind.
    policy::permit(&route, &desk).await?;
    rest::raise(&route, &mut desk).await?;
    bring_references(&route, &mut desk).await?;
    let (row, resumed) = begin(&route, &mut desk, &purpose).await?;
    observer.note(&Event::Started {
        r#move: row.id.clone(),
        service: route.service.clone(),
        from: source.site.clone(),
        to: target.site.clone(),
        users: expected.users,
        rows: expected.rows,
        bytes: expected.bytes,
        resumed,
    });
    let mut report = Report {
        r#move: row.id.clone(),
        moved: 0,
        set_aside: 0,
        mismatches: 0,
    };
    let steering = Steering::start(&route, &row.id, &offices.departures).await?;
    let carried = follow_and_carry(
        (&route, &offices, &steering, observer),
        &mut desk,
        &mut report,
        wanted,
    )
    .await;
    // From here on it does not hear any more.
    drop(steering);
    match carried {
        Ok(()) => {}
        Err(error @ Error::Aborted { .. }) => {
            abort::end(&route, &offices, &mut desk, &row.id).await?;
            observer.note(&Event::Aborted {
                r#move: row.id,
                moved: report.moved,
            });
            return Err(error);
        }
        Err(error) => {
            if ends_the_attempts(&error) {
                drop(desk);
                // Where the other end does not answer, the next run brings it to an end: what stopped this one is what
                // has to be mended.
                match tokio::time::timeout(GIVE_UP_PATIENCE, give_up(&route, &offices)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(also)) => {
                        let also = &also as &dyn std::error::Error;
                        tracing::warn!(error = also, "unfinished chunks are not given up yet");
                    }
                    Err(_) => tracing::warn!("unfinished chunks are not given up yet"),
                }
            }
            return Err(error);
        }
    }
    journal::end_move(&*desk.source, &row.id, "done")
        .await
        .at(&source.site, "ending the move")?;
    drop_idle_slot(source, &desk.source, &install::stream_name(&route.service)).await?;
    observer.note(&Event::Finished {
        r#move: row.id,
        moved: report.moved,
        set_aside: report.set_aside,
    });
    Ok(report)
}

/// Records the move, with what permits it, or finds the one that goes on.
async fn begin(route: &Route, desk: &mut Desk, purpose: &Purpose) -> Result<(MoveRow, bool)> {
    let source = &route.source;
    let doing = "recording the move";
    let tx = transaction(&mut desk.source, source, doing).await?;
    let (row, resumed) = journal::begin_move(&tx, purpose)
        .await
        .at(&source.site, doing)?;
    if !resumed {
        let phase = route.phase.as_deref();
        let mut body = policy::transfer(route.way(), phase, source, &tx).await?;
        body.insert("move".to_owned(), json!(row.id));
        body.insert("of".to_owned(), json!(row.of));
        entries::append(&tx, "move_begun", body.into(), &[])
            .await
            .at(&source.site, doing)?;
    }
    commit(tx, source, doing).await?;
    Ok((row, resumed))
}

/// What is between the move's beginning and its end: puts in order what an earlier run left, follows the stream, and carries
/// the users.
async fn follow_and_carry(
    (route, offices, steering, observer): (&Arc<Route>, &Offices, &Steering, &dyn Observer),
    desk: &mut Desk,
    report: &mut Report,
    wanted: Wanted,
) -> Result<()> {
    let source = &route.source;
    let stream = install::stream_name(&route.service);
    steering.unless_aborted()?;
    steering.at(Half::Handing, Step::MakingSlot);
    let slot = make_slot(&desk.source, source, &stream).await?;
    steering.barrier(None);
    steering.at(Half::Handing, Step::Recovering);
    let survivors = recover(route, offices, desk, &slot).await?;
    let survivors = without_those_held(route, offices, desk, &report.r#move, survivors).await?;
    let shapes = Shapes::read(route, desk).await?;
    let key = run_key(&desk.source, &source.site).await?;
    let followed = survivors
        .iter()
        .map(|s| (s.attempt, s.progress()))
        .collect();
    let catch_up = CatchUp::start(
        Arc::clone(route),
        offices,
        &stream,
        shapes.source().clone(),
        followed,
    )
    .await?;
    steering.follow(catch_up.applied());
    steering.at(Half::Handing, Step::Idle);
    let id = report.r#move.clone();
    let mut run = Run {
        way: Way {
            route,
            offices,
            catch_up: &catch_up,
            shapes: &shapes,
            steering,
            id: &id,
            slot: &slot.identity,
            observer,
        },
        key,
        report,
    };
    // A target that stands still lets nothing else of us go on: the cap has a watch of its own.
    let carried = tokio::select! {
        carried = run.carry(desk, survivors, wanted) => carried,
        over = over_the_cap(route, &stream) => Err(over),
    };
    let followed = catch_up.stop().await;
    // The follower's error is the cause where both have one.
    let outcome = match (followed, carried) {
        (_, Err(told @ (Error::Aborted { .. } | Error::Stopped { .. }))) => return Err(told),
        (Err(cause), _) if !matches!(cause, Error::StreamGone) => Err(cause),
        (_, Err(error)) => Err(error),
        (Err(cause), Ok(())) => Err(cause),
        (Ok(()), Ok(())) => Ok(()),
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => Err(shapes.cause(route, offices, error).await),
    }
}

/// Copies the reference rows that the target lacks, where that is asked for, and makes sure that they are equal then.
async fn bring_references(route: &Route, desk: &mut Desk) -> Result<()> {
    let (source, target) = (&route.source, &route.target);
    if source.schema.references_copied.is_empty() {
        return Ok(());
    }
    let doing = "copying reference tables";
    send_references(source, desk).await?;
    let here = reference_digest(&desk.source, &source.schema)
        .await
        .at(&source.site, doing)?;
    let there = desk.target.reference_digests().await?;
    let differs = |name: &&model::table::TableName| here.get(*name) != there.get(*name);
    match source.schema.references_copied.iter().find(differs) {
        Some(table) => Err(Error::ReferenceDiffers {
            site: target.site.clone(),
            table: table.clone(),
        }),
        None => Ok(()),
    }
}

async fn send_references(source: &End, desk: &Desk) -> Result<()> {
    let (pieces, mut next) = mpsc::channel(1);
    let reading = async {
        let read = references::read(&desk.source, &source.schema, &pieces).await;
        drop(pieces);
        read.at(&source.site, "copying reference tables")
    };
    let sending = async {
        while let Some(piece) = next.recv().await {
            desk.target.tell(Ask::References(piece)).await?;
        }
        desk.target.referred().await
    };
    tokio::try_join!(reading, sending).map(drop)
}

/// Gives up the chunks of other moves that are not to go on: those moves begin them anew when they may.
async fn without_those_held(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    id: &MoveId,
    survivors: Vec<Survivor>,
) -> Result<Vec<Survivor>> {
    let mut kept = Vec::new();
    for survivor in survivors {
        let orders = steering::orders(&*desk.source, &survivor.r#move)
            .await
            .at(&route.source.site, "reading what is wished of a move")?;
        if survivor.r#move == *id || orders.wish == Wish::Go {
            kept.push(survivor);
        } else {
            put_back::cancel(route, offices, desk, survivor.attempt).await?;
        }
    }
    Ok(kept)
}

/// Finds the slot or makes it. Where open transactions do not let it be made in time, they are named.
async fn make_slot(session: &Session, source: &End, stream: &str) -> Result<slot::Slot> {
    let made = slot::ensure(session, stream).await;
    let waited = |error: &postgres::Error| error.sqlstate() == Some(&SqlState::QUERY_CANCELED);
    if made.as_ref().is_err_and(waited) {
        // One look at who is in the way.
        barrier::wait(session, 0, Duration::ZERO)
            .await
            .at(&source.site, "making the slot")?;
        let blockers = vec!["a transaction in another database of the same server".to_owned()];
        return Err(residency::Error::BarrierTimeout { blockers })
            .at(&source.site, "making the slot");
    }
    made.at(&source.site, "making the slot")
}

/// Whether nothing unfinished may be kept after `error`: a limit was reached, or changes may have been missed.
pub(crate) fn ends_the_attempts(error: &Error) -> bool {
    match error {
        Error::WalCap { .. }
        | Error::Unfollowable { .. }
        | Error::SchemaChanged { .. }
        | Error::Forbidden { .. }
        | Error::Unguarded { .. } => true,
        Error::Peer { ends, .. } => *ends,
        Error::Residency { source, .. } => {
            matches!(
                source,
                residency::Error::BarrierTimeout { .. } | residency::Error::Held { .. }
            )
        }
        Error::Postgres { .. }
        | Error::Connect { .. }
        | Error::Port(_)
        | Error::Behind { .. }
        | Error::ReferenceDiffers { .. }
        | Error::StreamGone
        | Error::Stopped { .. }
        | Error::Left { .. }
        | Error::NotOpen { .. }
        | Error::Disorder { .. }
        | Error::Aborted { .. }
        | Error::InDoubt { .. }
        | Error::Ledger { .. }
        | Error::Contradiction { .. } => false,
    }
}

/// Returns when the slot keeps back more WAL than it may, with the error that says so.
async fn over_the_cap(route: &Route, stream: &str) -> Error {
    let mut session = None;
    loop {
        if session.is_none() {
            session = route.source.session("watch").await.ok();
        }
        if let Some(open) = &session {
            match check_wal(route, stream, open).await {
                Ok(()) => {}
                Err(over @ Error::WalCap { .. }) => return over,
                // Whoever works with the source says so, too.
                Err(_) => session = None,
            }
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Whether the source keeps back more WAL for us than it may.
async fn check_wal(route: &Route, stream: &str, session: &Session) -> Result<()> {
    let Some(cap) = route.bounds.wal_max else {
        return Ok(());
    };
    let source = &route.source.site;
    match slot::wal_bytes(session, stream)
        .await
        .at(source, "looking at the slot")?
    {
        Some(bytes) if bytes > cap => Err(Error::WalCap {
            site: source.clone(),
            bytes,
            cap,
        }),
        _ => Ok(()),
    }
}

/// The key of digests: the source's own, so that the frozen rows can be compared with them later.
async fn run_key(source: &Session, site: &model::SiteName) -> Result<DigestKey> {
    let key = residency::audit::digest_key(&**source)
        .await
        .at(site, "reading the key of digests")?;
    Ok(DigestKey::new(key))
}

/// What the two halves of a move share, the copying and the handing over.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) route: &'a Route,
    pub(crate) offices: &'a Offices,
    pub(crate) catch_up: &'a CatchUp,
    pub(crate) shapes: &'a Shapes,
    pub(crate) steering: &'a Steering,
    pub(crate) id: &'a MoveId,
    pub(crate) slot: &'a str,
    pub(crate) observer: &'a dyn Observer,
}

pub(crate) struct Run<'a> {
    pub(crate) way: Way<'a>,
    pub(crate) key: DigestKey,
    pub(crate) report: &'a mut Report,
}

// === impl Way ===

impl Way<'_> {
    /// Asks for leave to take a step: see [`Steering::leave`].
    pub(crate) async fn leave(&self, half: Half, step: Step) -> Result<bool> {
        self.steering.leave(half, step, self.observer).await
    }
}

// === impl Run ===

impl Run<'_> {
    async fn carry(
        &mut self,
        desk: &mut Desk,
        survivors: Vec<Survivor>,
        wanted: Wanted,
    ) -> Result<()> {
        let mut again = Vec::new();
        let mut lanes = Lane::open_all(self.way.route, self.way.offices).await?;
        for survivor in survivors {
            self.way.leave(Half::Handing, Step::CatchingUp).await?;
            let ready = self.revive(desk, survivor).await?;
            again.extend(self.hand_over(desk, &mut lanes, ready).await?);
        }
        let mut wanted = wanted;
        for round in 1..=ROUNDS {
            let more = self.round(desk, &mut lanes, &wanted).await?;
            again.extend(more);
            if again.is_empty() {
                return Ok(());
            }
            if round < ROUNDS {
                wanted = Wanted::Users(again.drain(..).map(|(user, _)| user).collect());
            }
        }
        for (user, reason) in again {
            self.set_aside(&desk.source, user, reason).await?;
        }
        Ok(())
    }

    /// Copies everybody wanted, chunk by chunk, and hands off what is copied at the same time.
    async fn round(
        &mut self,
        desk: &mut Desk,
        lanes: &mut Vec<Lane>,
        wanted: &Wanted,
    ) -> Result<Aside> {
        // One group ahead: the copy of the next goes on while this one is handed off.
        let (send, ready) = mpsc::channel(1);
        let (aside, mut refused) = mpsc::unbounded_channel();
        let copier = Copier { way: self.way };
        let steering = self.way.steering;
        let stop = || steering.stop();
        let copying = copier.run(wanted, send, aside);
        let handing = async {
            let mut ready = ready;
            let mut again = Vec::new();
            while let Some(chunk) = ready.recv().await {
                match self.hand_over(desk, lanes, chunk).await {
                    // The copier hears it too, and ends what it has begun: nothing of it may still be on its way to a
                    // database when the move is put back.
                    Err(Error::Aborted { .. } | Error::Stopped { .. }) => break,
                    handed => again.extend(handed?),
                }
            }
            Ok::<_, Error>(again)
        };
        let ((), again) = both(copying, handing, stop, HALF_PATIENCE).await?;
        self.way.steering.unless_aborted()?;
        while let Ok((user, reason)) = refused.try_recv() {
            self.set_aside(&desk.source, user, reason).await?;
        }
        Ok(again)
    }

    /// Goes on with a chunk of an earlier run.
    async fn revive(&mut self, desk: &mut Desk, survivor: Survivor) -> Result<Ready> {
        let (source, target) = (&self.way.route.source, &self.way.route.target);
        if survivor.progress().snapshot.is_none() {
            self.way
                .catch_up
                .copied(survivor.attempt, survivor.snapshot.clone())
                .await?;
        }
        let doing = "reading who is moving";
        let keys = records::of_attempt(&*desk.source, survivor.attempt, &["moving"], &target.site)
            .await
            .at(&source.site, doing)?;
        let users = census::users_listed(&mut desk.source, &source.schema, &keys)
            .await
            .at(&source.site, doing)?;
        let bonds = bonds::among(self.way.route, desk, &users).await?;
        Ok(Ready {
            id: survivor.r#move,
            attempt: survivor.attempt,
            users,
            bonds,
        })
    }
}
