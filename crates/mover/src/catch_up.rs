//! Follows the source's change stream and sends what it brings to the target, in a task of its own.
//!
//! A transaction is applied for a chunk exactly when it is not visible in the chunk's snapshot and its commit stands
//! above the chunk's position; rows and position are written in one transaction. Changes of a chunk that is still
//! being copied go to its spool. The slot is confirmed only up to what is durable at the target.
//!
//! Nothing waits here for an answer before the next is sent: a fence that comes by is passed on at once, however far away
//! the target is. It writes in the order in which it is sent to, and once a write has failed it takes nothing more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use model::fault::{Bug, planted, point};
use model::{Attempt, BatchId, UserKey};
use postgres::apply;
use postgres::lsn::Lsn;
use postgres::pgoutput::Relation;
use postgres::shape::Shape;
use postgres::snapshot::Snapshot;
use postgres::stream::{ChangeStream, Said};
use postgres::transaction::{Change, Mark, Transaction};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::ask::Ask;
use crate::error::{At, Error, Result};
use crate::far::{Pending, Seat};
use crate::portion::{self, Progress, Work};
use crate::ports::Soon;
use crate::route::{Offices, Route};
use crate::shapes::unchanged;

/// How many bytes of changes are applied in one transaction at the target: bounds its memory and its length.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

/// How many bytes of changes may be under way, sent and not yet durable: bounds memory. At a round trip of 200 ms, 80 MB/s.
const UNDER_WAY: usize = 16 * 1024 * 1024;

/// How many parts of the stream may be under way. What comes meanwhile goes together in the next: many small parts would queue on a
/// long way, with the fence behind them.
const SENT_TOGETHER: usize = 10;

/// The same for a part with a fence in it, which waits for no answer: else a fence that comes after ten small parts waits for a round trip, its
/// users closed. With what says that it was passed this is no more than a line carries side by side.
const SENT_WITH_FENCES: usize = 13;

/// How long the end of the task may take: one transaction at the target.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Handle to the task that follows the stream.
#[derive(Debug)]
pub struct CatchUp {
    commands: mpsc::UnboundedSender<Command>,
    applied: watch::Receiver<Lsn>,
    task: JoinHandle<Result<()>>,
}

#[derive(Debug)]
enum Command {
    /// An attempt is being copied: spool what concerns it.
    Follow { attempt: Attempt, at: Progress },
    /// Its copy is complete: drain the spool, then apply.
    Copied {
        attempt: Attempt,
        snapshot: Snapshot,
        done: oneshot::Sender<()>,
    },
    /// Nothing of this attempt matters any more.
    Forget {
        attempt: Attempt,
        done: oneshot::Sender<()>,
    },
}

// === impl CatchUp ===

impl CatchUp {
    /// Opens the stream and begins to follow it. `survivors` are followed from its first word on: what was changed
    /// while nobody ran comes first. Whatever it says of tables other than in `shape` is refused.
    pub async fn start(
        route: Arc<Route>,
        offices: &Offices,
        slot: &str,
        shape: Shape,
        survivors: HashMap<Attempt, Progress>,
    ) -> Result<Self> {
        let source = &route.source;
        let stream = ChangeStream::open(&source.url, slot, slot, &source.schema)
            .await
            .at(&source.site, "opening the change stream")?;
        let target = offices.seat("catch up").await?;
        let (commands, received) = mpsc::unbounded_channel();
        let (tell, applied) = watch::channel(Lsn(0));
        let follower = Follower {
            route,
            stream,
            shape,
            described: HashMap::new(),
            target,
            chunks: survivors,
            gathered: Gathered::default(),
            under_way: FuturesOrdered::new(),
            under_way_bytes: 0,
            parts: 0,
            applied: tell,
            slot: slot.to_owned(),
            slot_is_late: planted(Bug::EnrolBeforeSlot),
        };
        let task = tokio::spawn(follower.run(received));
        Ok(Self {
            commands,
            applied,
            task,
        })
    }

    /// From now on spools, or goes on applying, what concerns `attempt`.
    pub fn follow(&self, attempt: Attempt, at: Progress) -> Result<()> {
        self.send(Command::Follow { attempt, at })
    }

    /// Says that the copy of `attempt` is durable, and waits until its spool is drained.
    pub async fn copied(&self, attempt: Attempt, snapshot: Snapshot) -> Result<()> {
        let (done, drained) = oneshot::channel();
        self.send(Command::Copied {
            attempt,
            snapshot,
            done,
        })?;
        drained.await.map_err(|_| Error::StreamGone)
    }

    /// Lets go of `attempt`: when this returns, nothing more is written for it.
    pub async fn forget(&self, attempt: Attempt) -> Result<()> {
        let (done, forgotten) = oneshot::channel();
        self.send(Command::Forget { attempt, done })?;
        forgotten.await.map_err(|_| Error::StreamGone)
    }

    /// Waits until everything up to `position` is durable at the target.
    pub async fn passed(&self, position: Lsn) -> Result<()> {
        let mut applied = self.applied.clone();
        applied
            .wait_for(|at| *at >= position)
            .await
            .map(drop)
            .map_err(|_| Error::StreamGone)
    }

    /// Up to where everything is durable at the target; zero until the stream has spoken.
    pub fn applied(&self) -> watch::Receiver<Lsn> {
        self.applied.clone()
    }

    /// Ends the task, orderly, and gives its error if it had one. One that waits for a target that stands still is
    /// ended all the same, so that no WAL is kept back for it.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.commands);
        match tokio::time::timeout(STOP_PATIENCE, &mut self.task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::StreamGone),
            Err(_) => {
                self.task.abort();
                let _ = self.task.await;
                Err(Error::StreamGone)
            }
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::StreamGone)
    }
}

/// What was sent to the target, in its order.
enum Sent {
    /// Everything of the stream up to here, with so many bytes of changes; whether anything went to the target for it.
    Upto(Lsn, usize, bool),
    /// A spool that is to be drained.
    Drain(oneshot::Sender<()>),
    /// Nothing: somebody waits until everything before is answered.
    Nothing(oneshot::Sender<()>),
}

struct Follower {
    route: Arc<Route>,
    stream: ChangeStream,
    /// The tables as they were when the move began.
    shape: Shape,
    /// The stream's own last word on each, held against it.
    described: HashMap<u32, Arc<Relation>>,
    target: Seat,
    /// The attempts followed, each as it stands once all that is under way is done.
    chunks: HashMap<Attempt, Progress>,
    /// What the stream has said and was not sent yet.
    gathered: Gathered,
    under_way: FuturesOrdered<Soon<'static, Result<Sent>>>,
    under_way_bytes: usize,
    /// Parts of the stream under way.
    parts: usize,
    applied: watch::Sender<Lsn>,
    slot: String,
    /// Only with the planted bug: the slot is made once the first chunk is copied.
    slot_is_late: bool,
}

// === impl Follower ===

impl Follower {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> Result<()> {
        loop {
            let waiting = self.under_way_bytes + self.gathered.bytes;
            let room = waiting < UNDER_WAY && self.gathered.bytes < FLUSH_BYTES;
            tokio::select! {
                // Commands first: whom to follow must be known before what is said of them.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return self.end().await,
                },
                Some(done) = self.under_way.next() => self.done(done?),
                said = self.stream.next(), if room && !self.slot_is_late => {
                    let said = said.at(&self.route.source.site, "reading the change stream")?;
                    self.gather(said)?;
                    // Whoever is told to be followed meanwhile was enrolled after this was read.
                    while let Ok(command) = commands.try_recv() {
                        self.obey(command).await?;
                    }
                }
            }
            let most = match self.gathered.fenced() {
                true => SENT_WITH_FENCES,
                false => SENT_TOGETHER,
            };
            if self.gathered.upto.is_some() && self.parts < most {
                self.flush().await?;
            }
        }
    }

    /// Waits for what is under way, and lets go of the stream.
    async fn end(mut self) -> Result<()> {
        while let Some(done) = self.under_way.next().await {
            self.done(done?);
        }
        self.stream.close().await;
        Ok(())
    }

    async fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Follow { attempt, at } => {
                self.chunks.insert(attempt, at);
            }
            Command::Copied {
                attempt,
                snapshot,
                done,
            } => {
                if std::mem::take(&mut self.slot_is_late) {
                    self.make_slot_late().await?;
                }
                let drained = self.target.drain(attempt, snapshot.clone()).await?;
                self.expect(drained, Sent::Drain(done));
                // What is sent from now on comes after that.
                if let Some(at) = self.chunks.get_mut(&attempt) {
                    at.snapshot = Some(snapshot);
                }
            }
            Command::Forget { attempt, done } => {
                self.chunks.remove(&attempt);
                let nothing = std::future::ready(Ok(Sent::Nothing(done)));
                self.under_way.push_back(Box::pin(nothing));
            }
        }
        Ok(())
    }

    fn expect(&mut self, answer: Pending, sent: Sent) {
        let expected = answer.map(|answer| answer.map(|_| sent));
        self.under_way.push_back(Box::pin(expected));
    }

    /// Draws the conclusions from what is done at the target.
    fn done(&mut self, sent: Sent) {
        match sent {
            Sent::Upto(upto, bytes, carried) => {
                self.under_way_bytes -= bytes;
                self.parts -= usize::from(carried);
                self.stream.confirm(upto);
                self.applied.send_modify(|at| *at = (*at).max(upto));
            }
            Sent::Drain(done) | Sent::Nothing(done) => {
                let _ = done.send(());
            }
        }
    }

    /// The planted bug: a slot that begins after the copy's snapshot, under the old identity.
    async fn make_slot_late(&mut self) -> Result<()> {
        let source = &self.route.source;
        let doing = "making the slot too late";
        let session = source.session("mover").await?;
        let step = |sql: &'static str| {
            let (session, slot) = (&session, &self.slot);
            async move {
                let made = session.query(sql, &[slot]).await.map_err(postgres_error);
                made.map(|rows| rows.len()).at(&source.site, doing)
            }
        };
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                   WHERE slot_name = $1 AND active";
        while step(end).await? > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        step("SELECT pg_drop_replication_slot($1)").await?;
        step("SELECT pg_create_logical_replication_slot($1, 'pgoutput')").await?;
        self.stream = ChangeStream::open(&source.url, &self.slot, &self.slot, &source.schema)
            .await
            .at(&source.site, doing)?;
        Ok(())
    }

    /// Takes what the stream has ready, up to a bound: applied together.
    fn gather(&mut self, first: Said) -> Result<()> {
        self.gathered.add(first);
        while self.gathered.bytes < FLUSH_BYTES {
            // Outside the task's budget: at its end what is there would look as if it were not, and every hundred
            // words of the stream would cost a transaction of their own.
            let Some(said) = tokio::task::unconstrained(self.stream.next()).now_or_never() else {
                break;
            };
            let said = said.at(&self.route.source.site, "reading the change stream")?;
            self.gathered.add(said);
        }
        Ok(())
    }

    /// Sends what was gathered.
    async fn flush(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        for transaction in &gathered.transactions {
            self.refuse_unfollowable(transaction)?;
            self.refuse_other_columns(transaction)?;
        }
        if planted(Bug::AckBeforeApply)
            && let Some(upto) = gathered.upto
        {
            self.stream.confirm(upto);
            if gathered.transactions.iter().any(|t| !t.changes.is_empty()) {
                // A test holds this thread at the point: let the task that sends the word leave it first.
                tokio::task::yield_now().await;
                point("ack-before-apply");
            }
        }
        let work = self.bounded(portion::sort(&self.chunks, &gathered.transactions));
        for work in &work {
            if let Some(at) = self.chunks.get_mut(&work.attempt) {
                at.position = work.upto();
            }
        }
        let Some(upto) = gathered.upto else {
            return Ok(());
        };
        let carried = !work.is_empty();
        let upto = Sent::Upto(upto, gathered.bytes, carried);
        self.under_way_bytes += gathered.bytes;
        self.parts += usize::from(carried);
        if !carried {
            // Durable when all before it is.
            self.under_way
                .push_back(Box::pin(std::future::ready(Ok(upto))));
        } else {
            let written = self.target.write(work).await?;
            self.expect(written, upto);
        }
        for mark in gathered.transactions.iter().flat_map(|t| &t.marks) {
            let Mark::Fence(batch) = mark;
            let passed = Ask::Passed(BatchId::from(batch.as_str()));
            self.target.tell(passed).await?;
        }
        Ok(())
    }

    fn refuse_unfollowable(&self, transaction: &Transaction) -> Result<()> {
        let name = |oid: &u32| {
            let table = self.route.source.schema.owned_by_oid(*oid);
            table.map_or_else(|| format!("table {oid}"), |table| table.name.to_string())
        };
        let what = if let Some(oid) = transaction.truncated.first() {
            format!("a TRUNCATE of {}", name(oid))
        } else if let Some(unresolved) = transaction.unresolved.first() {
            format!(
                "a change of {} whose owner nothing tells",
                name(&unresolved.table)
            )
        } else {
            return Ok(());
        };
        Err(Error::Unfollowable {
            site: self.route.source.site.clone(),
            what,
        })
    }

    /// Rows are applied by the columns' names and places: they must be those that were read.
    fn refuse_other_columns(&mut self, transaction: &Transaction) -> Result<()> {
        for change in &transaction.changes {
            let held = self.described.get(&change.table);
            if held.is_some_and(|held| Arc::ptr_eq(held, &change.relation)) {
                continue;
            }
            unchanged(&self.route.source, self.shape.contradicts(&change.relation))?;
            self.described
                .insert(change.table, Arc::clone(&change.relation));
        }
        Ok(())
    }

    /// Takes the changes whose rows are over the limit out of `work`: their users are sent back.
    fn bounded(&self, mut work: Vec<Work>) -> Vec<Work> {
        for portion in work.iter_mut().flat_map(|work| &mut work.portions) {
            let spoil = &mut portion.spoil;
            portion
                .changes
                .retain(|change| match self.too_large(change) {
                    None => true,
                    Some(reason) => {
                        spoil.push((UserKey::from(change.user.as_str()), reason));
                        false
                    }
                });
        }
        work
    }

    /// Why `change` is not carried, if its row is over the limit.
    fn too_large(&self, change: &Change) -> Option<String> {
        let (bytes, limit) = (change.bytes() as u64, self.route.bounds.row_max);
        let table = self.route.source.schema.owned_by_oid(change.table)?;
        (bytes > limit).then(|| {
            apply::reason(&postgres::Error::RowTooLarge {
                table: table.name.clone(),
                bytes,
                limit,
            })
        })
    }
}

fn postgres_error(error: tokio_postgres::Error) -> postgres::Error {
    postgres::Error::from_server("applying changes", error)
}

#[derive(Debug, Default)]
struct Gathered {
    transactions: Vec<Transaction>,
    upto: Option<Lsn>,
    bytes: usize,
}

impl Gathered {
    /// Whether users are closed until this has come.
    fn fenced(&self) -> bool {
        self.transactions.iter().any(|one| !one.marks.is_empty())
    }

    fn add(&mut self, said: Said) {
        match said {
            Said::Committed(transaction) => {
                self.bytes += transaction.bytes();
                self.upto = Some(transaction.end_lsn);
                self.transactions.push(transaction);
            }
            Said::Idle(at) => self.upto = Some(self.upto.map_or(at, |upto| upto.max(at))),
        }
    }
}
