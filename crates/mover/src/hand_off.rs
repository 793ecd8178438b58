//! The source's side of a handoff: fence, offer, digest, and what follows from the target's answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use handoff::decision::Decision;
use handoff::judge::Handoff;
use handoff::record::{Event, Resident, State};
use model::fault::point;
use model::{Attempt, BatchId, Epoch, Market, MoveId, UserKey};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::kept::Keeping;
use postgres::lsn::Lsn;
use postgres::shape::Shape;
use postgres::verify;
use residency::closings::Opening;
use residency::fence;
use residency::fence::Gate;
use residency::journal::{self, Departure};
use residency::records::{self, Change};

use crate::ask::Read;
use crate::catch_up::CatchUp;
use crate::desk::{Desk, commit, transaction};
use crate::durable::make_durable;
use crate::error::{At, Error, Result};
use crate::far::Verdict;
use crate::prepare::Aside;
use crate::rest;
use crate::route::{Offices, Route};
use crate::settle::{clear_named, held, markets, write_down};
use crate::shapes::{Shapes, unchanged};

/// What came of one try to hand a batch off.
#[derive(Debug)]
pub enum Outcome {
    /// The users live at the target.
    Departed {
        /// The batch.
        batch: BatchId,
        /// Rows verified.
        rows: u64,
        /// From the closing of the gateways' door, or the fence's request where there are none, to the target's commit.
        pause: Duration,
        /// The part of it in which the fence waited for open transactions.
        fence: Duration,
    },
    /// The target refused; the users it named stay, the others may go again at once.
    Refused {
        /// The batch.
        batch: BatchId,
        /// Whom it named, and why.
        named: Vec<(UserKey, String)>,
    },
    /// Nothing was closed: come again later.
    NotYet(&'static str),
    /// Nothing was closed: a change could not be applied to these users, for these reasons.
    Spoilt(Aside),
    /// Nothing was closed: the change stream is so far behind that the batch would be closed for too long.
    Behind,
    /// A user's record does not allow the fence: another process changed it.
    Unfit(UserKey, String),
}

/// Why a batch was not closed: a gateway.
const GATEWAY_LATE: &str = "a gateway has not closed its door";
/// Why a batch was not closed: nobody can say how the gateways stand.
const DOOR_UNKNOWN: &str = "the gateways' door cannot be asked";
/// Why a batch was not closed: it has another door now.
const DOOR_OPEN: &str = "a gateway has registered, or opened its door, before the fence";

/// How often an answer is asked for before the batch is left in doubt.
const ASK_ATTEMPTS: u32 = 5;

/// Everything that a handoff works with.
pub struct Hands<'a> {
    /// From where to where.
    pub route: &'a Route,
    /// Our offices.
    pub offices: &'a Offices,
    /// The sessions of transitions.
    pub desk: &'a mut Desk,
    /// A session at the source for the second read.
    pub reader: &'a mut Session,
    /// The task that follows the stream.
    pub catch_up: &'a CatchUp,
    /// The tables as they were when the move began.
    pub shapes: &'a Shapes,
    /// The key of this run's digests.
    pub key: &'a DigestKey,
}

/// A batch on its way: what is found out before it is closed.
struct Going<'a> {
    id: &'a MoveId,
    attempt: Attempt,
    users: &'a [UserKey],
    batch: &'a BatchId,
    gate: Gate,
    markets: Option<BTreeMap<Market, u64>>,
    /// Since when its users wait.
    started: Instant,
}

impl Hands<'_> {
    /// Tries once to hand `users` off, all of them moving under `attempt` and caught up.
    pub async fn hand_off(
        &mut self,
        id: &MoveId,
        attempt: Attempt,
        users: &[UserKey],
    ) -> Result<Outcome> {
        let (route, source) = (self.route, &self.route.source);
        self.rehearse().await?;
        // First of all: it may take as long as a gateway's lease, and what is looked at after it is to be fresh.
        let attended = route.door.attended().await;
        let kept_here = self.desk.source.kept();
        let kept = self.reader.kept();
        let asked = Keeping::new(&*self.desk.source, &kept_here);
        // All before anybody is closed, and all at once: none of these waits for another. What the digests will ask is
        // prepared here too.
        let (near, same, stands, ready, batch, reader, markets) = tokio::join!(
            self.caught_up(),
            self.shapes.look_again_here(route, &self.desk.source),
            rest::guarded(source, &self.desk.source),
            self.desk.target.ready(attempt),
            journal::new_batch(&asked, id),
            verify::Reader::prepare(&**self.reader, &kept, &source.schema),
            markets(&asked, source, users),
        );
        let mut spoilt = ready?;
        spoilt.retain(|(user, _)| users.contains(user));
        if !spoilt.is_empty() {
            return Ok(Outcome::Spoilt(spoilt));
        }
        if !near? {
            return Ok(Outcome::Behind);
        }
        same?;
        stands?;
        let batch = batch.at(&source.site, "numbering a batch")?;
        let reader = reader.at(&source.site, "preparing to verify a batch")?;
        let gate = match attended {
            Ok(false) => Gate::Unattended,
            Ok(true) => Gate::Closed,
            Err(error) => {
                tracing::warn!(%batch, %error, "the gateways' door cannot be asked");
                return Ok(Outcome::NotYet(DOOR_UNKNOWN));
            }
        };
        let going = Going {
            id,
            attempt,
            users,
            batch: &batch,
            gate,
            markets,
            started: Instant::now(),
        };
        if gate == Gate::Unattended {
            return self.pass(&going, &reader).await;
        }
        let closed = route.door.close(&batch, users, route.bounds.pause_max);
        let went = match closed.await {
            Ok(true) => self.pass(&going, &reader).await,
            Ok(false) => Ok(Outcome::NotYet(GATEWAY_LATE)),
            Err(error) => {
                tracing::warn!(%batch, %error, "the gateways' door cannot be closed");
                Ok(Outcome::NotYet(DOOR_UNKNOWN))
            }
        };
        // Every way out leads through here: a door that stays closed keeps its users waiting until its time is over.
        let opening = match &went {
            // Opened already.
            Ok(Outcome::Departed { .. }) => return went,
            Ok(Outcome::NotYet(_) | Outcome::Refused { .. }) => Opening::Here,
            // Fenced, in doubt, or somewhere else: the records know, and may say so only after the next run.
            Ok(Outcome::Unfit(..) | Outcome::Spoilt(_) | Outcome::Behind) | Err(_) => Opening::Look,
        };
        route.door.open(&batch, opening).await;
        went
    }

    /// Raises the fence of a batch whose door is closed, and hands it off.
    async fn pass(&mut self, going: &Going<'_>, reader: &verify::Reader<'_>) -> Result<Outcome> {
        let (route, source) = (self.route, &self.route.source);
        let &Going {
            id,
            attempt,
            users,
            batch,
            gate,
            started,
            ref markets,
        } = going;
        let kept_here = self.desk.source.kept();
        point("before-fence");
        let raised = fence::raise(
            &mut self.desk.source,
            &kept_here,
            &self.offices.departures,
            source.kind(),
            fence::Closed {
                users,
                attempt,
                batch,
                gate,
            },
            route.bounds.fence_patience,
        )
        .await;
        let fenced = match raised {
            Ok(fenced) => fenced,
            Err(residency::Error::FenceTimeout { .. }) => {
                return Ok(Outcome::NotYet(
                    "transactions of the batch's users are open",
                ));
            }
            Err(residency::Error::DoorOpen) => return Ok(Outcome::NotYet(DOOR_OPEN)),
            Err(residency::Error::Illegal {
                user,
                source: illegal,
            }) => return Ok(Outcome::Unfit(user, illegal.to_string())),
            Err(error) => return Err(error).at(&source.site, "raising the fence"),
        };
        point("after-fence");
        tracing::debug!(%batch, after = ?started.elapsed(), "fenced");
        let handoff = Handoff {
            batch: batch.clone(),
            from: source.site.clone(),
            attempt,
            users: epochs(&fenced.residents),
        };
        // The target reads beside the source: once the stream has passed the fence, neither's rows change any more, and
        // neither's reading depends on what the other finds. So the first word goes before ours is read, and the second is
        // the last that has to arrive.
        let looking = self.desk.target.look(handoff.clone(), self.key);
        let offer = offer(route, self.offices, &mut self.desk.source, batch, users);
        let digest = digest(
            route,
            self.reader,
            reader,
            users,
            self.key,
            self.shapes.source(),
        );
        let (looking, offered, digest, manifests) = tokio::join!(
            looking,
            told("offered", started, offer),
            told("read at the source", started, digest),
            route.manifests.digest(&source.site, users),
        );
        offered?;
        looking?;
        let read = Read {
            digest: digest?,
            manifests: manifests?,
        };
        let (rows, stored) = (read.digest.rows(), read.stored());
        let decision = self.answer(&handoff, read).await?;
        let pause = started.elapsed();
        tracing::debug!(%batch, fence = ?fenced.took, ?pause, "handed off");
        let departure = Departure {
            batch,
            r#move: id,
            attempt,
            users: &handoff.users,
            rows,
            digest: Some(&stored),
            pause: Some(pause),
            markets: markets.as_ref(),
        };
        let closed = gate == Gate::Closed;
        let writing = write_down(route, self.offices, self.desk, &departure, &decision);
        match &decision {
            Decision::Accepted if closed => {
                // Beside it, not after it: the decision is durable at the target and never taken back, so from here on the target is home,
                // whatever becomes of what is written here. Until then the records here say *offered*, under which nobody writes, and a gateway that
                // asks them is told to wait; none is told that the users live here.
                let opening = Opening::There {
                    home: route.target.site.clone(),
                    epochs: handoff.users.clone(),
                };
                let (written, ()) = tokio::join!(writing, route.door.open(batch, opening));
                written?;
            }
            Decision::Accepted => writing.await?,
            Decision::Refused { named, .. } => {
                writing.await?;
                if closed {
                    // They write again: nobody waits for what is left to do at the target.
                    route.door.open(batch, Opening::Here).await;
                }
                clear_named(self.desk, named, attempt).await?;
            }
        }
        Ok(match decision {
            Decision::Accepted => Outcome::Departed {
                batch: batch.clone(),
                rows,
                pause,
                fence: fenced.took,
            },
            Decision::Refused { named, .. } => Outcome::Refused {
                batch: batch.clone(),
                named,
            },
        })
    }

    /// Before the first batch of these sessions: does at the source what will be done while users are closed, with nobody.
    async fn rehearse(&mut self) -> Result<()> {
        let source = &self.route.source;
        let kept = self.desk.source.kept();
        if !kept.first("rehearsed") {
            return Ok(());
        }
        let office = &self.offices.departures;
        fence::rehearse(&mut self.desk.source, &kept, office, source.kind())
            .await
            .at(&source.site, "rehearsing a fence")?;
        let kept = self.reader.kept();
        let reader = verify::Reader::prepare(&**self.reader, &kept, &source.schema).await;
        let reader = reader.at(&source.site, "preparing to verify a batch")?;
        let shape = self.shapes.source();
        digest(self.route, self.reader, &reader, &[], self.key, shape)
            .await
            .map(drop)
    }

    /// Whether the stream is so near that a fence will be drained in time.
    async fn caught_up(&self) -> Result<bool> {
        let source = &self.route.source.site;
        let kept = self.desk.source.kept();
        let marked = journal::beat(&Keeping::new(&*self.desk.source, &kept))
            .await
            .at(source, "marking the change stream")?;
        let passed = self.catch_up.passed(Lsn(marked));
        match tokio::time::timeout(self.route.bounds.pause_max, passed).await {
            Ok(passed) => passed.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The target's decision on the offer, durable. Where its answer was lost, it is asked what became of it.
    async fn answer(&mut self, handoff: &Handoff, read: Read) -> Result<Decision> {
        let (batch, users) = (&handoff.batch, users_of(handoff));
        let judged = match self.desk.target.judge(read).await {
            Ok(Verdict::Differs) => {
                let each = self.each(&users).await?;
                self.desk.target.each(each).await
            }
            judged => judged,
        };
        let mut failure = match judged {
            Ok(Verdict::Decided(decision)) => return Ok(decision),
            // Offered: only the target's word reopens the batch.
            Ok(Verdict::Undrained) => match self.desk.target.became(batch, &handoff.users).await {
                Ok(decision) => return Ok(decision),
                Err(failure) => failure,
            },
            Ok(Verdict::Differs) => Error::Disorder {
                site: self.route.target.site.clone(),
            },
            // Nothing was decided: giving the attempts up asks for a refusal.
            Err(changed @ Error::SchemaChanged { .. }) => return Err(changed),
            Err(failure) => failure,
        };
        for attempt in 0..ASK_ATTEMPTS {
            tracing::warn!(%batch, "the target's answer was lost; asking");
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            match self.offices.seat("ask").await {
                Ok(seat) => self.desk.target = seat,
                Err(error) => {
                    failure = error;
                    continue;
                }
            }
            match self.desk.target.became(batch, &handoff.users).await {
                Ok(decision) => return Ok(decision),
                Err(error) => failure = error,
            }
        }
        Err(in_doubt(self.route, batch, failure))
    }

    /// The digest of each of `users`: the whole differs at the target.
    async fn each(&mut self, users: &[UserKey]) -> Result<BTreeMap<UserKey, BatchDigest>> {
        let source = &self.route.source;
        let doing = "finding the rows that differ";
        let tx = transaction(self.reader, source, doing).await?;
        verify::digest_each(&tx, &source.schema, users, self.key)
            .await
            .at(&source.site, doing)
    }
}

fn users_of(handoff: &Handoff) -> Vec<UserKey> {
    let users = handoff.users.iter();
    users.map(|(user, _)| user.clone()).collect()
}

/// The error of a batch whose answer could not be had.
fn in_doubt(route: &Route, batch: &BatchId, source: Error) -> Error {
    Error::InDoubt {
        batch: batch.clone(),
        site: route.target.site.clone(),
        source: Box::new(source),
    }
}

/// Tells the log when in the pause, which began at `started`, a part of it was done.
async fn told<T>(part: &'static str, started: Instant, work: impl Future<Output = T>) -> T {
    let done = work.await;
    tracing::debug!(after = ?started.elapsed(), "{part}");
    done
}

/// The users with the epochs that their fences took.
fn epochs(residents: &[(UserKey, Resident)]) -> Vec<(UserKey, Epoch)> {
    let epoch = |(user, resident): &(UserKey, Resident)| match &resident.state {
        State::Fenced { epoch, .. } => (user.clone(), *epoch),
        other => unreachable!("a fence leaves users fenced, not {}", other.name()),
    };
    residents.iter().map(epoch).collect()
}

/// `fenced -> offered`, durable before anything is sent.
async fn offer(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    batch: &BatchId,
    users: &[UserKey],
) -> Result<()> {
    let source = &route.source;
    let doing = "offering a batch";
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: Event::Offer {
                batch: batch.clone(),
            },
        })
        .collect();
    let kept = session.kept();
    let tx = transaction(session, source, doing).await?;
    let asked = Keeping::new(&tx, &kept);
    let records = held(&asked, source, &offices.departures, users, doing).await?;
    let next = records::steps(&changes, &records).at(&source.site, doing)?;
    records::write(&asked, source.kind(), users, &next, None)
        .await
        .at(&source.site, doing)?;
    point("before-offer");
    commit(tx, source, doing).await?;
    point("after-offer");
    make_durable(session, &source.site).await
}

/// The second read at the source, after the fence.
async fn digest(
    route: &Route,
    session: &mut Session,
    reader: &verify::Reader<'_>,
    users: &[UserKey],
    key: &DigestKey,
    shape: &Shape,
) -> Result<BatchDigest> {
    let source = &route.source;
    let doing = "verifying a batch";
    let kept = session.kept();
    let tx = transaction(session, source, doing).await?;
    // Sent together, and taken in this order. The shape last: once their rows were read, the tables cannot change before
    // the transaction ends.
    let (prepared, digest, now) = tokio::join!(
        biased;
        reader.by_index(&tx),
        reader.digest(&tx, users, key),
        Shape::read(&tx, &kept, &source.schema),
    );
    prepared.at(&source.site, doing)?;
    let digest = digest.at(&source.site, doing)?;
    unchanged(source, shape.changed(&now.at(&source.site, doing)?))?;
    // It wrote nothing: nobody waits for its end.
    drop(tx);
    Ok(digest)
}
