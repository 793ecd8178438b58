//! One move from beginning to end. The steps are in files of their own; this is the order in which they are taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Attempt, Market, MoveId, UserKey};
use postgres::connect::Session;
use postgres::digest::DigestKey;
use postgres::{census, slot};
use residency::journal::{self, Purpose};
use residency::office::Office;
use residency::{barrier, install, records};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;

use crate::catch_up::{AGAIN_HANDS, AGAIN_LARGE, CatchUp};
use crate::copying::{self, copy_chunk};
use crate::error::{At, Error, Result};
use crate::event::{Event, Observer};
use crate::finish::finish_chunk;
use crate::hand_off::{Hands, Outcome};
use crate::prepare::{Aside, Chunk, Desk, prepare};
use crate::put_back;
use crate::recover::{Survivor, recover};
use crate::route::{End, Offices, Route};

/// Who is to move.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Everybody of these markets who lives at the source; the empty market stands for NULL.
    Markets(Vec<Market>),
    /// These users, as far as they live at the source.
    Users(Vec<UserKey>),
}

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

/// What a move did in this run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The move.
    pub r#move: MoveId,
    /// Users who changed home.
    pub moved: u64,
    /// Users who stay, with the reasons.
    pub set_aside: Aside,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// The pause of each user who changed home.
    pub pauses: Vec<Duration>,
    /// Users whom verification kept from moving.
    pub mismatches: u64,
}

/// How many times a user is copied afresh in one run before he is set aside.
const ROUNDS: usize = 3;

/// How many users are listed at once: bounds memory.
const PAGE: u32 = 20_000;

/// The first wait after a fence that did not get in; doubled each time, up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(25);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Carries `wanted` along `route`, or goes on with what an earlier run left.
///
/// # Errors
/// Everything durable stays consistent whatever the error; the next run goes on. At [`Error::WalCap`],
/// [`Error::Unfollowable`] and [`Error::Unguarded`] unfinished chunks are given up and the slot is dropped first.
pub async fn run(
    route: Arc<Route>,
    purpose: Purpose,
    wanted: Wanted,
    expected: Expected,
    observer: &dyn Observer,
) -> Result<Report> {
    let (source, target) = (&route.source, &route.target);
    // The offices last as long as these two sessions.
    let office_source = source.session("office").await?;
    let office_target = target.session("office").await?;
    let offices = Offices {
        departures: Office::take(&office_source, Office::DEPARTURES)
            .await
            .at(&source.site, "taking office")?,
        arrivals: Office::take(&office_target, &Office::arrivals(&source.site))
            .await
            .at(&target.site, "taking office")?,
    };
    let mut desk = Desk {
        source: source.session("mover").await?,
        target: target.session("mover").await?,
    };
    let stream = install::stream_name(&route.service);
    let slot = make_slot(&desk.source, source, &stream).await?;
    let survivors = recover(&route, &offices, &mut desk, &slot).await?;
    let (row, resumed) = journal::begin_move(&*desk.source, &purpose)
        .await
        .at(&source.site, "recording the move")?;
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
    let key = run_key(&desk.source, &source.site).await?;
    let followed = survivors
        .iter()
        .map(|s| (s.attempt, s.progress()))
        .collect();
    let catch_up = CatchUp::start(Arc::clone(&route), offices.clone(), &stream, followed).await?;
    let mut run = Run {
        route: &route,
        offices: &offices,
        catch_up: &catch_up,
        id: &row.id,
        slot: &slot.identity,
        stream: &stream,
        observer,
        key,
        report: Report {
            r#move: row.id.clone(),
            moved: 0,
            set_aside: Vec::new(),
            rows: 0,
            bytes: 0,
            pauses: Vec::new(),
            mismatches: 0,
        },
    };
    let carried = run.carry(&mut desk, survivors, wanted).await;
    let report = run.report;
    let followed = catch_up.stop().await;
    // The follower's error is the cause where both have one.
    let outcome = match (followed, carried) {
        (Err(cause), _) if !matches!(cause, Error::StreamGone) => Err(cause),
        (_, Err(error)) => Err(error),
        (Err(cause), Ok(())) => Err(cause),
        (Ok(()), Ok(())) => Ok(()),
    };
    if let Err(error) = outcome {
        if ends_the_attempts(&error) {
            give_up(&route, &offices, &mut desk, &stream).await?;
        }
        return Err(error);
    }
    journal::end_move(&*desk.source, &row.id, "done")
        .await
        .at(&source.site, "ending the move")?;
    if !journal::any_open_chunk(&*desk.source)
        .await
        .at(&source.site, "ending the move")?
    {
        slot::drop(&desk.source, &stream)
            .await
            .at(&source.site, "dropping the slot")?;
    }
    observer.note(&Event::Finished {
        r#move: row.id.clone(),
        moved: report.moved,
        set_aside: report.set_aside.len() as u64,
    });
    Ok(report)
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
fn ends_the_attempts(error: &Error) -> bool {
    match error {
        Error::WalCap { .. } | Error::Unfollowable { .. } | Error::Unguarded { .. } => true,
        Error::Residency { source, .. } => {
            matches!(source, residency::Error::BarrierTimeout { .. })
        }
        Error::Postgres { .. }
        | Error::Connect { .. }
        | Error::Port(_)
        | Error::Behind { .. }
        | Error::StreamGone
        | Error::InDoubt { .. }
        | Error::Contradiction { .. } => false,
    }
}

/// A limit was reached: everything unfinished is given up, and no WAL is kept back any more.
async fn give_up(route: &Route, offices: &Offices, desk: &mut Desk, stream: &str) -> Result<()> {
    let source = &route.source.site;
    let nothing = slot::Slot {
        name: stream.to_owned(),
        identity: String::new(),
        fresh: false,
    };
    recover(route, offices, desk, &nothing).await?;
    if !journal::any_open_chunk(&*desk.source)
        .await
        .at(source, "giving the move up")?
    {
        slot::drop(&desk.source, stream)
            .await
            .at(source, "dropping the slot")?;
    }
    Ok(())
}

/// The key of digests: the source's own, so that the frozen rows can be compared with them later.
async fn run_key(source: &Session, site: &model::SiteName) -> Result<DigestKey> {
    let key = residency::audit::digest_key(&**source)
        .await
        .at(site, "reading the key of digests")?;
    Ok(DigestKey::new(key))
}

/// A chunk that is copied and streams.
struct Ready {
    id: MoveId,
    attempt: Attempt,
    users: Vec<(UserKey, u64)>,
}

struct Run<'a> {
    route: &'a Route,
    offices: &'a Offices,
    catch_up: &'a CatchUp,
    id: &'a MoveId,
    slot: &'a str,
    stream: &'a str,
    observer: &'a dyn Observer,
    key: DigestKey,
    report: Report,
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
        let mut reader = self.route.source.session("verify").await?;
        for survivor in survivors {
            let ready = self.revive(desk, survivor).await?;
            again.extend(self.hand_over(desk, &mut reader, ready).await?);
        }
        let mut wanted = wanted;
        for round in 1..=ROUNDS {
            let more = self.round(desk, &mut reader, &wanted).await?;
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
        reader: &mut Session,
        wanted: &Wanted,
    ) -> Result<Aside> {
        // One group ahead: the copy of the next goes on while this one is handed off.
        let (send, mut ready) = mpsc::channel(1);
        let (aside, mut refused) = mpsc::unbounded_channel();
        let copier = Copier {
            route: self.route,
            offices: self.offices,
            catch_up: self.catch_up,
            id: self.id,
            slot: self.slot,
            stream: self.stream,
            observer: self.observer,
        };
        let copying = copier.run(wanted, send, aside);
        let handing = async {
            let mut again = Vec::new();
            while let Some((chunk, copied)) = ready.recv().await {
                let chunk: Ready = chunk;
                let copied: postgres::copy::Copied = copied;
                self.report.rows += copied.rows;
                self.report.bytes += copied.bytes;
                again.extend(self.hand_over(desk, reader, chunk).await?);
            }
            Ok::<_, Error>(again)
        };
        let ((), again) = tokio::try_join!(copying, handing)?;
        while let Ok((user, reason)) = refused.try_recv() {
            self.set_aside(&desk.source, user, reason).await?;
        }
        Ok(again)
    }

    /// Goes on with a chunk of an earlier run.
    async fn revive(&mut self, desk: &mut Desk, survivor: Survivor) -> Result<Ready> {
        let (source, target) = (&self.route.source, &self.route.target);
        if survivor.progress().snapshot.is_none() {
            self.catch_up
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
        Ok(Ready {
            id: survivor.r#move,
            attempt: survivor.attempt,
            users,
        })
    }

    /// Hands a chunk off, batch by batch. Returns the users who need a fresh copy.
    async fn hand_over(
        &mut self,
        desk: &mut Desk,
        reader: &mut Session,
        chunk: Ready,
    ) -> Result<Aside> {
        let mut again = Vec::new();
        let mut queue = Queue::of(batches(&chunk.users, self.route));
        let mut behind_since = None;
        while let Some(Waiting { users, tries }) = queue.next().await {
            let batch = self.without_spoilt(desk, &chunk, users, &mut again).await?;
            if batch.is_empty() {
                continue;
            }
            let mut hands = Hands {
                route: self.route,
                offices: self.offices,
                desk,
                reader,
                catch_up: self.catch_up,
                key: &self.key,
            };
            let outcome = hands.hand_off(&chunk.id, chunk.attempt, &batch).await?;
            if !matches!(outcome, Outcome::Behind) {
                behind_since = None;
            }
            match outcome {
                Outcome::Departed {
                    batch: id,
                    rows,
                    pause,
                    fence,
                } => {
                    self.report.moved += batch.len() as u64;
                    self.report
                        .pauses
                        .extend(std::iter::repeat_n(pause, batch.len()));
                    let users = batch.len() as u64;
                    self.observer.note(&Event::HandedOff {
                        batch: id,
                        users,
                        rows,
                        pause,
                        fence,
                    });
                }
                Outcome::Refused { batch: id, named } => {
                    let rest: Vec<UserKey> = batch
                        .into_iter()
                        .filter(|user| !named.iter().any(|(n, _)| n == user))
                        .collect();
                    let reason = named.first().map_or(STREAM_LATE, |(_, reason)| reason);
                    self.observer.note(&Event::Retried {
                        batch: id,
                        reason: reason.to_owned(),
                    });
                    if named.is_empty() {
                        self.later(desk, &chunk, rest, tries + 1, STREAM_LATE, &mut queue)
                            .await?;
                    } else {
                        queue.at_once(rest);
                    }
                    for (user, reason) in named {
                        if reason.starts_with("verification") {
                            self.report.mismatches += 1;
                        }
                        self.aside_or_again(desk, user, reason, &mut again).await?;
                    }
                }
                Outcome::NotYet(reason) => {
                    self.later(desk, &chunk, batch, tries + 1, reason, &mut queue)
                        .await?;
                }
                Outcome::Behind => {
                    // No user's fault: everybody waits, within a bound.
                    let since = *behind_since.get_or_insert_with(Instant::now);
                    let patience = self.route.bounds.behind_patience;
                    if since.elapsed() > patience {
                        return Err(Error::Behind {
                            site: self.route.source.site.clone(),
                            seconds: patience.as_secs(),
                        });
                    }
                    queue.at_once(batch);
                }
                Outcome::Unfit(user, reason) => {
                    let rest: Vec<UserKey> =
                        batch.into_iter().filter(|other| *other != user).collect();
                    queue.at_once(rest);
                    put_back::take_out(
                        self.route,
                        self.offices,
                        desk,
                        std::slice::from_ref(&user),
                        chunk.attempt,
                    )
                    .await?;
                    self.set_aside(&desk.source, user, reason).await?;
                }
            }
            self.check_wal(desk).await?;
        }
        self.catch_up.forget(chunk.attempt).await?;
        finish_chunk(self.route, self.offices, desk, chunk.attempt).await?;
        Ok(again)
    }

    /// Takes out of `batch` those to whom a change could not be applied.
    async fn without_spoilt(
        &mut self,
        desk: &mut Desk,
        chunk: &Ready,
        batch: Vec<UserKey>,
        again: &mut Aside,
    ) -> Result<Vec<UserKey>> {
        let (source, target) = (&self.route.source.site, &self.route.target.site);
        let spoilt = residency::inbound::spoilt(&*desk.target, source, chunk.attempt)
            .await
            .at(target, "reading changes that could not be applied")?;
        let spoilt: Aside = spoilt
            .into_iter()
            .filter(|(user, _)| batch.contains(user))
            .collect();
        if spoilt.is_empty() {
            return Ok(batch);
        }
        let out: Vec<UserKey> = spoilt.iter().map(|(user, _)| user.clone()).collect();
        put_back::take_out(self.route, self.offices, desk, &out, chunk.attempt).await?;
        for (user, reason) in spoilt {
            self.aside_or_again(desk, user, reason, again).await?;
        }
        Ok(batch
            .into_iter()
            .filter(|user| !out.contains(user))
            .collect())
    }

    /// A batch that could not be closed goes again after a pause, behind the others; after many tries its users go one
    /// by one, so that one of them does not keep the others; a single one is set aside.
    async fn later(
        &mut self,
        desk: &mut Desk,
        chunk: &Ready,
        batch: Vec<UserKey>,
        tries: u32,
        reason: &'static str,
        queue: &mut Queue,
    ) -> Result<()> {
        if tries < self.route.bounds.fence_attempts {
            queue.later(batch, tries);
        } else if batch.len() > 1 {
            for user in batch.into_iter().rev() {
                queue.at_once(vec![user]);
            }
        } else {
            put_back::take_out(self.route, self.offices, desk, &batch, chunk.attempt).await?;
            for user in batch {
                self.set_aside(&desk.source, user, reason.to_owned())
                    .await?;
            }
        }
        Ok(())
    }

    async fn aside_or_again(
        &mut self,
        desk: &Desk,
        user: UserKey,
        reason: String,
        again: &mut Aside,
    ) -> Result<()> {
        if reason == AGAIN_HANDS || reason == AGAIN_LARGE {
            again.push((user, reason));
            return Ok(());
        }
        self.set_aside(&desk.source, user, reason).await
    }

    async fn set_aside(&mut self, session: &Session, user: UserKey, reason: String) -> Result<()> {
        let source = &self.route.source;
        journal::set_aside(&**session, source.kind(), self.id, &user, &reason)
            .await
            .at(&source.site, "setting a user aside")?;
        self.observer.note(&Event::SetAside {
            user: user.clone(),
            reason: reason.clone(),
        });
        self.report.set_aside.push((user, reason));
        Ok(())
    }

    async fn check_wal(&self, desk: &Desk) -> Result<()> {
        check_wal(self.route, self.stream, &desk.source).await
    }
}

/// Why a batch that was closed had to be opened again.
const STREAM_LATE: &str = "the change stream did not reach the fence in time";

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

/// Batches of a chunk that are still to go.
struct Queue {
    ready: VecDeque<Waiting>,
    /// Batches that must wait, with the time from which they may go.
    waiting: Vec<(Instant, Waiting)>,
}

/// A batch and how often it could not be closed.
struct Waiting {
    users: Vec<UserKey>,
    tries: u32,
}

// === impl Queue ===

impl Queue {
    fn of(batches: VecDeque<Vec<UserKey>>) -> Self {
        let ready = batches
            .into_iter()
            .map(|users| Waiting { users, tries: 0 })
            .collect();
        Self {
            ready,
            waiting: Vec::new(),
        }
    }

    fn at_once(&mut self, users: Vec<UserKey>) {
        self.ready.push_front(Waiting { users, tries: 0 });
    }

    fn later(&mut self, users: Vec<UserKey>, tries: u32) {
        let pause = (BACK_OFF * 2_u32.saturating_pow(tries.min(10))).min(BACK_OFF_MAX);
        self.waiting
            .push((Instant::now() + pause, Waiting { users, tries }));
    }

    /// The next batch that may go: one whose pause is over, else one that is ready, else the first whose pause ends.
    async fn next(&mut self) -> Option<Waiting> {
        let first = (0..self.waiting.len()).min_by_key(|n| self.waiting[*n].0);
        match first {
            Some(n) if self.ready.is_empty() || self.waiting[n].0 <= Instant::now() => {
                let (due, waiting) = self.waiting.swap_remove(n);
                tokio::time::sleep_until(due.into()).await;
                Some(waiting)
            }
            _ => self.ready.pop_front(),
        }
    }
}

/// The users of a chunk in batches: bounded by users and by rows, a bigger user alone.
fn batches(users: &[(UserKey, u64)], route: &Route) -> VecDeque<Vec<UserKey>> {
    let (users_max, rows_max) = (route.bounds.batch_users.max(1), route.bounds.batch_rows);
    grouped(users, users_max, rows_max)
        .into_iter()
        .map(|group| group.into_iter().map(|(user, _)| user).collect())
        .collect()
}

/// Neighbours in groups of at most `users_max` users and `rows_max` rows; a bigger user alone.
fn grouped(users: &[(UserKey, u64)], users_max: usize, rows_max: u64) -> Vec<Vec<(UserKey, u64)>> {
    let mut groups: Vec<Vec<(UserKey, u64)>> = Vec::new();
    let mut rows_in_last = 0;
    for (user, rows) in users {
        match groups.last_mut() {
            Some(last) if last.len() < users_max && rows_in_last + rows <= rows_max => {
                last.push((user.clone(), *rows));
                rows_in_last += rows;
            }
            _ => {
                groups.push(vec![(user.clone(), *rows)]);
                rows_in_last = *rows;
            }
        }
    }
    groups
}

/// Copies, with sessions of its own.
struct Copier<'a> {
    route: &'a Route,
    offices: &'a Offices,
    catch_up: &'a CatchUp,
    id: &'a MoveId,
    slot: &'a str,
    stream: &'a str,
    observer: &'a dyn Observer,
}

// === impl Copier ===

impl Copier<'_> {
    async fn run(
        &self,
        wanted: &Wanted,
        ready: mpsc::Sender<(Ready, postgres::copy::Copied)>,
        aside: mpsc::UnboundedSender<(UserKey, String)>,
    ) -> Result<()> {
        let (source, target) = (&self.route.source, &self.route.target);
        let mut desk = Desk {
            source: source.session("copier").await?,
            target: target.session("copier").await?,
        };
        let mut reading = source.session("copy").await?;
        let mut writing = target.session("copy").await?;
        let bounds = &self.route.bounds;
        let mut pages = Pages::of(wanted);
        while let Some(users) = pages.next(&mut desk.source, self.route).await? {
            let mut groups: VecDeque<_> =
                grouped(&users, bounds.chunk_users, bounds.chunk_rows).into();
            while !groups.is_empty() {
                check_wal(self.route, self.stream, &desk.source).await?;
                let together: Vec<_> = groups
                    .drain(..groups.len().min(bounds.chunks_together))
                    .collect();
                let (chunks, unfit) = prepare(
                    self.route,
                    self.offices,
                    &mut desk,
                    self.catch_up,
                    (self.id, self.slot),
                    together,
                    self.observer,
                )
                .await?;
                for refused in unfit {
                    let _ = aside.send(refused);
                }
                for chunk in chunks {
                    let outcome = copy_chunk(
                        self.route,
                        self.offices,
                        (&mut reading, &mut writing),
                        &chunk,
                    )
                    .await?;
                    match outcome {
                        copying::Outcome::Copied { snapshot, copied } => {
                            self.copied(&desk, &chunk, snapshot, copied).await?;
                            let next = Ready {
                                id: self.id.clone(),
                                attempt: chunk.attempt,
                                users: chunk.users,
                            };
                            if ready.send((next, copied)).await.is_err() {
                                return Ok(());
                            }
                        }
                        copying::Outcome::Unfit(reason) => {
                            // A failed COPY leaves its streams unread: begin afresh.
                            reading = source.session("copy").await?;
                            writing = target.session("copy").await?;
                            self.give_up(&mut desk, &chunk).await?;
                            match halves(chunk.users) {
                                Ok(halves) => groups.extend(halves),
                                Err(user) => {
                                    let _ = aside.send((user, reason));
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn copied(
        &self,
        desk: &Desk,
        chunk: &Chunk,
        snapshot: postgres::snapshot::Snapshot,
        copied: postgres::copy::Copied,
    ) -> Result<()> {
        self.catch_up.copied(chunk.attempt, snapshot).await?;
        journal::count_copied(&*desk.source, self.id, copied.rows, copied.bytes)
            .await
            .at(&self.route.source.site, "counting copied rows")?;
        self.observer.note(&Event::Copied {
            users: chunk.users.len() as u64,
            rows: copied.rows,
            bytes: copied.bytes,
        });
        Ok(())
    }

    async fn give_up(&self, desk: &mut Desk, chunk: &Chunk) -> Result<()> {
        // First: what is spooled once the spool was emptied would stay for ever.
        self.catch_up.forget(chunk.attempt).await?;
        put_back::cancel(self.route, self.offices, desk, chunk.attempt).await
    }
}

/// Two halves of a chunk that does not fit, to find the user at fault; that user, if he is alone.
fn halves(mut users: Vec<(UserKey, u64)>) -> Result<[Vec<(UserKey, u64)>; 2], UserKey> {
    match users.len() {
        1 => Err(users.remove(0).0),
        n => {
            let second = users.split_off(n / 2);
            Ok([users, second])
        }
    }
}

/// The wanted users, a page at a time.
struct Pages<'a> {
    wanted: &'a Wanted,
    after: Option<UserKey>,
    at: usize,
}

// === impl Pages ===

impl<'a> Pages<'a> {
    fn of(wanted: &'a Wanted) -> Self {
        Self {
            wanted,
            after: None,
            at: 0,
        }
    }

    async fn next(
        &mut self,
        session: &mut Session,
        route: &Route,
    ) -> Result<Option<Vec<(UserKey, u64)>>> {
        let (source, doing) = (&route.source, "listing the users to move");
        let page = match self.wanted {
            Wanted::Markets(markets) => census::users_page(
                session,
                &source.schema,
                false,
                markets,
                self.after.as_ref(),
                PAGE,
            )
            .await
            .at(&source.site, doing)?,
            Wanted::Users(users) => {
                let part = &users[self.at..users.len().min(self.at + PAGE as usize)];
                self.at += part.len();
                census::users_listed(session, &source.schema, part)
                    .await
                    .at(&source.site, doing)?
            }
        };
        self.after = page.last().map(|(user, _)| user.clone());
        Ok((!page.is_empty()).then_some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(rows: &[u64]) -> Vec<(UserKey, u64)> {
        rows.iter()
            .enumerate()
            .map(|(n, rows)| (UserKey::new(n.to_string()), *rows))
            .collect()
    }

    #[test]
    fn a_group_is_bounded_by_users_and_by_rows_and_a_big_user_goes_alone() {
        let sizes = |rows: &[u64]| -> Vec<usize> {
            grouped(&users(rows), 3, 100).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[1, 1, 1, 1]), [3, 1]);
        assert_eq!(sizes(&[60, 60, 10]), [1, 2]);
        assert_eq!(sizes(&[500, 1, 500]), [1, 1, 1]);
        assert_eq!(sizes(&[]), [0; 0]);
    }

    #[test]
    fn halving_ends_at_the_user_at_fault() {
        assert_eq!(halves(users(&[7])).unwrap_err(), UserKey::from("0"));
        let [first, second] = halves(users(&[1, 2, 3])).unwrap();
        assert_eq!((first.len(), second.len()), (1, 2));
    }
}
