//! Follows the source's change stream and applies it at the target, in a task of its own.
//!
//! A transaction is applied for a chunk exactly when it is not visible in the chunk's snapshot and its commit stands
//! above the chunk's position; rows and position are written in one transaction. Changes of a chunk that is still
//! being copied go to its spool. The slot is confirmed only up to what is durable at the target.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use model::fault::{Bug, planted, point};
use model::{Attempt, BatchId, UserKey};
use postgres::apply;
use postgres::connect::Session;
use postgres::kept::{Keeping, Kept};
use postgres::lsn::Lsn;
use postgres::pgoutput::Relation;
use postgres::replica;
use postgres::shape::Shape;
use postgres::snapshot::Snapshot;
use postgres::stream::{ChangeStream, Said};
use postgres::transaction::{Change, Mark, Transaction, read_changes, write_changes};
use residency::inbound::{self, Spooled};
use residency::records;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::portion::{self, Progress, Work};
use crate::route::{Offices, Route};
use crate::shapes::unchanged;

/// How many bytes of changes are applied in one transaction at the target: bounds its memory and its length.
const FLUSH_BYTES: usize = 4 * 1024 * 1024;

/// How long the end of the task may take: one transaction at the target.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How many spooled transactions are drained at once: bounds memory.
const DRAIN: i64 = 1_000;

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
    /// Tell when the stream has passed this batch's fence and everything before it is durable.
    Fence {
        batch: BatchId,
        reached: oneshot::Sender<()>,
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
        offices: Offices,
        slot: &str,
        shape: Shape,
        survivors: HashMap<Attempt, Progress>,
    ) -> Result<Self> {
        let source = &route.source;
        let stream = ChangeStream::open(&source.url, slot, slot, &source.schema)
            .await
            .at(&source.site, "opening the change stream")?;
        let session = route.target.session("catch up").await?;
        let (commands, received) = mpsc::unbounded_channel();
        let (tell, applied) = watch::channel(Lsn(0));
        let follower = Follower {
            route,
            offices,
            stream,
            shape,
            described: HashMap::new(),
            session,
            chunks: survivors,
            fences: HashMap::new(),
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

    /// A signal for the fence of `batch`; ask before raising it.
    pub fn fence(&self, batch: &BatchId) -> Result<oneshot::Receiver<()>> {
        let (reached, signal) = oneshot::channel();
        self.send(Command::Fence {
            batch: batch.clone(),
            reached,
        })?;
        Ok(signal)
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

struct Follower {
    route: Arc<Route>,
    offices: Offices,
    stream: ChangeStream,
    /// The tables as they were when the move began.
    shape: Shape,
    /// The stream's own last word on each, held against it.
    described: HashMap<u32, Arc<Relation>>,
    session: Session,
    chunks: HashMap<Attempt, Progress>,
    fences: HashMap<BatchId, oneshot::Sender<()>>,
    applied: watch::Sender<Lsn>,
    slot: String,
    /// Only with the planted bug: the slot is made once the first chunk is copied.
    slot_is_late: bool,
}

// === impl Follower ===

impl Follower {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> Result<()> {
        loop {
            tokio::select! {
                // Commands first: whom to follow must be known before what is said of them.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => {
                        self.stream.close().await;
                        return Ok(());
                    }
                },
                said = self.stream.next(), if !self.slot_is_late => {
                    let said = said.at(&self.route.source.site, "reading the change stream")?;
                    let gathered = self.gather(said)?;
                    // Whoever is told to be followed meanwhile was enrolled after this was read.
                    while let Ok(command) = commands.try_recv() {
                        self.obey(command).await?;
                    }
                    self.flush(gathered).await?;
                }
            }
        }
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
                self.drain(attempt, snapshot).await?;
                let _ = done.send(());
            }
            Command::Fence { batch, reached } => {
                self.fences.retain(|_, waiting| !waiting.is_closed());
                self.fences.insert(batch, reached);
            }
            Command::Forget { attempt, done } => {
                self.chunks.remove(&attempt);
                let _ = done.send(());
            }
        }
        Ok(())
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

    /// What the stream has ready, up to a bound: applied together.
    fn gather(&mut self, first: Said) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        gathered.add(first);
        while gathered.bytes < FLUSH_BYTES {
            // Outside the task's budget: at its end what is there would look as if it were not, and every hundred
            // words of the stream would cost a transaction of their own.
            let Some(said) = tokio::task::unconstrained(self.stream.next()).now_or_never() else {
                break;
            };
            gathered.add(said.at(&self.route.source.site, "reading the change stream")?);
        }
        Ok(gathered)
    }

    async fn flush(&mut self, gathered: Gathered) -> Result<()> {
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
        if !work.is_empty() {
            point("before-apply");
            self.write(work).await?;
            point("after-apply");
        }
        if let Some(upto) = gathered.upto {
            self.stream.confirm(upto);
            self.applied.send_modify(|at| *at = (*at).max(upto));
        }
        for mark in gathered.transactions.iter().flat_map(|t| &t.marks) {
            let Mark::Fence(batch) = mark;
            if let Some(reached) = self.fences.remove(&BatchId::from(batch.as_str())) {
                let _ = reached.send(());
            }
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

    /// Rows, spool and positions of all attempts concerned, in one transaction.
    async fn write(&mut self, work: Vec<Work>) -> Result<()> {
        let route = Arc::clone(&self.route);
        let (source, target) = (&route.source.site, &route.target);
        let doing = "applying changes";
        let kept = self.session.kept();
        let mut tx = transaction(&mut self.session, target, doing).await?;
        let asked = Keeping::new(&tx, &kept);
        // Sent together; the server takes them in this order.
        let moved = try_join_all(work.iter().map(async |work| {
            let upto = work.upto();
            Ok::<_, residency::Error>(
                planted(Bug::PositionApart)
                    || inbound::advance(&asked, source, work.attempt, work.from.0, upto.0).await?,
            )
        }));
        let (held, assumed, moved) = tokio::join!(
            biased;
            self.offices.arrivals.hold(&asked),
            replica::assume(&tx),
            moved,
        );
        held.at(&target.site, doing)?;
        assumed.at(&target.site, doing)?;
        if moved.at(&target.site, doing)?.contains(&false) {
            // Somebody else wrote for this attempt: our office is lost, whatever its row says.
            return Err(Error::StreamGone);
        }
        for work in &work {
            for portion in &work.portions {
                for (user, reason) in &portion.spoil {
                    inbound::spoil(&tx, target.kind(), source, work.attempt, user, reason)
                        .await
                        .at(&target.site, doing)?;
                }
            }
            if self.chunks[&work.attempt].snapshot.is_none() {
                let portions = work.portions.iter().filter(|p| !p.changes.is_empty());
                let spooled: Vec<Spooled> = portions
                    .map(|portion| Spooled {
                        xid: portion.xid,
                        commit_lsn: portion.commit_lsn.0,
                        changes: write_changes(&portion.changes),
                    })
                    .collect();
                inbound::spool(&tx, source, work.attempt, &spooled)
                    .await
                    .at(&target.site, doing)?;
            } else {
                let changes: Vec<Change> = work
                    .portions
                    .iter()
                    .flat_map(|p| p.changes.iter().cloned())
                    .collect();
                apply_changes(&mut tx, &kept, &route, work.attempt, changes).await?;
            }
        }
        commit(tx, target, doing).await?;
        if planted(Bug::PositionApart) {
            point("position-apart");
            for work in &work {
                let upto = work.upto();
                inbound::advance(&*self.session, source, work.attempt, work.from.0, upto.0)
                    .await
                    .at(&target.site, doing)?;
            }
        }
        for work in work {
            if let (Some(at), Some(last)) =
                (self.chunks.get_mut(&work.attempt), work.portions.last())
            {
                at.position = last.commit_lsn;
            }
        }
        Ok(())
    }

    /// Applies what was spooled while the chunk was copied; from then on it streams.
    async fn drain(&mut self, attempt: Attempt, snapshot: Snapshot) -> Result<()> {
        let route = Arc::clone(&self.route);
        let (source, target) = (&route.source.site, &route.target);
        let doing = "draining the spool";
        let kept = self.session.kept();
        loop {
            let mut tx = transaction(&mut self.session, target, doing).await?;
            self.offices
                .arrivals
                .hold(&tx)
                .await
                .at(&target.site, doing)?;
            replica::assume(&tx).await.at(&target.site, doing)?;
            let spooled = inbound::take_spooled(&tx, source, attempt, DRAIN)
                .await
                .at(&target.site, doing)?;
            let last = spooled.len() < DRAIN as usize;
            let mut changes = Vec::new();
            for transaction in spooled {
                if portion::came_after(&snapshot, transaction.xid) {
                    let read = read_changes(&transaction.changes).map_err(postgres::Error::from);
                    changes.extend(read.at(&target.site, doing)?);
                }
            }
            apply_changes(&mut tx, &kept, &route, attempt, changes).await?;
            if last {
                inbound::set_state(&tx, source, attempt, "streaming")
                    .await
                    .at(&target.site, doing)?;
            }
            point("before-drained");
            commit(tx, target, doing).await?;
            point("after-drained");
            if last {
                break;
            }
        }
        if let Some(at) = self.chunks.get_mut(&attempt) {
            at.snapshot = Some(snapshot);
        }
        Ok(())
    }
}

/// Applies `changes` for those of their users who are still arriving under `attempt`; users to whom one cannot be
/// applied are recorded as spoilt.
async fn apply_changes(
    tx: &mut tokio_postgres::Transaction<'_>,
    kept: &Kept,
    route: &Route,
    attempt: Attempt,
    changes: Vec<Change>,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let (source, target) = (&route.source.site, &route.target);
    let doing = "applying changes";
    let mut users: Vec<UserKey> = changes
        .iter()
        .map(|c| UserKey::from(c.user.as_str()))
        .collect();
    users.sort();
    users.dedup();
    let asked = Keeping::new(&*tx, kept);
    let (held, spoilt) = tokio::join!(
        biased;
        records::hold_those(&asked, target.kind(), &users, "arriving", attempt),
        inbound::spoilt(&asked, source, attempt),
    );
    let held: HashSet<UserKey> = held.at(&target.site, doing)?.into_iter().collect();
    let mut out: HashSet<UserKey> = users
        .into_iter()
        .filter(|user| !held.contains(user))
        .collect();
    out.extend(
        spoilt
            .at(&target.site, doing)?
            .into_iter()
            .map(|(user, _)| user),
    );
    let newly = apply::apply(tx, kept, &target.schema, &changes, &out)
        .await
        .at(&target.site, doing)?;
    for spoilt in newly {
        inbound::spoil(
            tx,
            target.kind(),
            source,
            attempt,
            &spoilt.user,
            &spoilt.reason,
        )
        .await
        .at(&target.site, doing)?;
    }
    Ok(())
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
