//! The source's side of a handoff: fence, offer, digest, and what follows from the target's answer.

use std::time::{Duration, Instant};

use handoff::decision::Decision;
use handoff::judge::Handoff;
use handoff::record::{Event, Resident, State};
use model::fault::point;
use model::{Attempt, BatchId, Epoch, MoveId, UserKey};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::lsn::Lsn;
use postgres::shape::Shape;
use postgres::{plans, verify};
use residency::journal::{self, Departure};
use residency::records::{self, Change};
use residency::{entries, fence};
use serde_json::{Map, Value, json};

use crate::accept::{self, Offer, in_doubt, make_durable};
use crate::catch_up::CatchUp;
use crate::desk::{Desk, commit, transaction};
use crate::error::{At, Error, Result};
use crate::prepare::guarded;
use crate::put_back;
use crate::route::{Offices, Route};
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
        /// From the fence's request to the target's commit.
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
    /// Nothing was closed: the change stream is so far behind that the batch would be closed for too long.
    Behind,
    /// A user's record does not allow the fence: another process changed it.
    Unfit(UserKey, String),
}

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

impl Hands<'_> {
    /// Tries once to hand `users` off, all of them moving under `attempt` and caught up.
    pub async fn hand_off(
        &mut self,
        id: &MoveId,
        attempt: Attempt,
        users: &[UserKey],
    ) -> Result<Outcome> {
        let (route, source) = (self.route, &self.route.source);
        if !self.caught_up().await? {
            return Ok(Outcome::Behind);
        }
        self.shapes.look_again(route, self.desk).await?;
        guarded(route, self.desk).await?;
        let batch = journal::new_batch(&*self.desk.source, id)
            .await
            .at(&source.site, "numbering a batch")?;
        let reached = self.catch_up.fence(&batch)?;
        route.door.close(&batch, users).await?;
        let started = Instant::now();
        point("before-fence");
        let raised = fence::raise(
            &mut self.desk.source,
            &self.offices.departures,
            source.kind(),
            users,
            attempt,
            &batch,
            route.bounds.fence_patience,
        )
        .await;
        let fenced = match raised {
            Ok(fenced) => fenced,
            Err(residency::Error::FenceTimeout { .. }) => {
                route.door.open(&batch, users, &source.site).await;
                return Ok(Outcome::NotYet(
                    "transactions of the batch's users are open",
                ));
            }
            Err(residency::Error::Illegal {
                user,
                source: illegal,
            }) => {
                route.door.open(&batch, users, &source.site).await;
                return Ok(Outcome::Unfit(user, illegal.to_string()));
            }
            Err(error) => return Err(error).at(&source.site, "raising the fence"),
        };
        point("after-fence");
        let users_with_epochs = epochs(&fenced.residents);
        let read = {
            let offer = offer(route, self.offices, &mut self.desk.source, &batch, users);
            let drain = tokio::time::timeout(route.bounds.pause_max, reached);
            let digest = digest(route, self.reader, users, self.key, &self.shapes.source);
            let manifests = route.manifests.digest(&source.site, users);
            let (offered, drained, digest, manifests) =
                tokio::join!(offer, drain, digest, manifests);
            offered?;
            match drained {
                Ok(Ok(())) => Some((digest?, manifests?)),
                Ok(Err(_)) => return Err(Error::StreamGone),
                // Offered: only the target's word reopens the batch.
                Err(_) => None,
            }
        };
        let drained_and_read = started.elapsed();
        let (decision, stored, rows) = match read {
            Some((digest, manifests)) => {
                let rows = digest.rows();
                let offer = Offer {
                    handoff: Handoff {
                        batch: batch.clone(),
                        from: source.site.clone(),
                        attempt,
                        users: users_with_epochs.clone(),
                    },
                    digest,
                    manifests,
                };
                let decision = self.answer(&offer).await?;
                (decision, Some(offer.stored()), rows)
            }
            None => {
                let decision =
                    accept::ask(route, self.offices, &mut self.desk.target, &batch, users)
                        .await
                        .map_err(|error| in_doubt(route, &batch, error))?;
                (decision, None, 0)
            }
        };
        let pause = started.elapsed();
        tracing::debug!(%batch, fence = ?fenced.took, ?drained_and_read, ?pause, "handed off");
        let departure = Departure {
            batch: &batch,
            r#move: id,
            attempt,
            users: &users_with_epochs,
            rows,
            digest: stored.as_ref(),
            pause: Some(pause),
        };
        settle(route, self.offices, self.desk, &departure, &decision).await?;
        Ok(match decision {
            Decision::Accepted => {
                route.door.open(&batch, users, &route.target.site).await;
                Outcome::Departed {
                    batch,
                    rows,
                    pause,
                    fence: fenced.took,
                }
            }
            Decision::Refused { named, .. } => {
                route.door.open(&batch, users, &source.site).await;
                Outcome::Refused { batch, named }
            }
        })
    }

    /// Whether the stream is so near that a fence will be drained in time.
    async fn caught_up(&self) -> Result<bool> {
        let source = &self.route.source.site;
        let marked = journal::beat(&*self.desk.source)
            .await
            .at(source, "marking the change stream")?;
        let passed = self.catch_up.passed(Lsn(marked));
        match tokio::time::timeout(self.route.bounds.pause_max, passed).await {
            Ok(passed) => passed.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The target's word on the offer. Where its transaction failed, it is asked what became of it.
    async fn answer(&mut self, offer: &Offer) -> Result<Decision> {
        let route = self.route;
        let first = accept::accept(
            route,
            self.offices,
            &mut self.desk.target,
            offer,
            self.key,
            &self.shapes.target,
        )
        .await;
        let mut failure = match first {
            Ok(decision) => return Ok(decision),
            // Nothing was decided: giving the attempts up asks for a refusal.
            Err(changed @ Error::SchemaChanged { .. }) => return Err(changed),
            Err(failure) => failure,
        };
        let users: Vec<UserKey> = offer
            .handoff
            .users
            .iter()
            .map(|(user, _)| user.clone())
            .collect();
        for attempt in 0..ASK_ATTEMPTS {
            tracing::warn!(batch = %offer.handoff.batch, "the target's answer was lost; asking");
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            match route.target.session("ask").await {
                Ok(session) => self.desk.target = session,
                Err(error) => {
                    failure = error;
                    continue;
                }
            }
            let asked = accept::ask(
                route,
                self.offices,
                &mut self.desk.target,
                &offer.handoff.batch,
                &users,
            );
            match asked.await {
                Ok(decision) => return Ok(decision),
                Err(error) => failure = error,
            }
        }
        Err(in_doubt(route, &offer.handoff.batch, failure))
    }
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
    let tx = transaction(session, source, doing).await?;
    offices.departures.hold(&tx).await.at(&source.site, doing)?;
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: Event::Offer {
                batch: batch.clone(),
            },
        })
        .collect();
    records::change(&tx, source.kind(), &changes, None)
        .await
        .at(&source.site, doing)?;
    point("before-offer");
    commit(tx, source, doing).await?;
    point("after-offer");
    make_durable(session, source).await
}

/// The second read at the source, after the fence.
async fn digest(
    route: &Route,
    session: &mut Session,
    users: &[UserKey],
    key: &DigestKey,
    shape: &Shape,
) -> Result<BatchDigest> {
    let source = &route.source;
    let doing = "verifying a batch";
    let tx = transaction(session, source, doing).await?;
    plans::by_index(&tx, &source.schema)
        .await
        .at(&source.site, doing)?;
    // The shape second: once their rows were read, the tables cannot change before the transaction ends.
    let (digest, now) = tokio::join!(
        biased;
        verify::digest(&tx, &source.schema, users, key),
        Shape::read(&tx, &source.schema),
    );
    let digest = digest.at(&source.site, doing)?;
    unchanged(source, shape.changed(&now.at(&source.site, doing)?))?;
    commit(tx, source, doing).await?;
    Ok(digest)
}

/// Writes at the source what the target said: all users of the batch in one transaction. Users whom a refusal names are
/// then cleaned up at the target.
pub async fn settle(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    departure: &Departure<'_>,
    decision: &Decision,
) -> Result<()> {
    let source = &route.source;
    let doing = "writing down the target's answer";
    let users: Vec<UserKey> = departure
        .users
        .iter()
        .map(|(user, _)| user.clone())
        .collect();
    let tx = transaction(&mut desk.source, source, doing).await?;
    offices.departures.hold(&tx).await.at(&source.site, doing)?;
    let event = |user: &UserKey| match decision {
        Decision::Accepted => Event::Accepted {
            batch: departure.batch.clone(),
        },
        Decision::Refused { named, highest } => Event::Refused {
            batch: departure.batch.clone(),
            named: named.iter().any(|(name, _)| name == user),
            highest: *highest,
        },
    };
    let changes: Vec<Change> = users
        .iter()
        .map(|user| Change {
            user: user.clone(),
            event: event(user),
        })
        .collect();
    records::change(&tx, source.kind(), &changes, None)
        .await
        .at(&source.site, doing)?;
    if *decision == Decision::Accepted {
        journal::depart(&tx, source.kind(), departure)
            .await
            .at(&source.site, doing)?;
        let mut body: Map<String, Value> = Map::new();
        body.insert("service".into(), json!(route.service));
        body.insert("batch".into(), json!(departure.batch));
        body.insert("from".into(), json!(source.site));
        body.insert("to".into(), json!(route.target.site));
        body.insert("rows".into(), json!(departure.rows));
        entries::append(&tx, "departed", Value::Object(body), &users)
            .await
            .at(&source.site, doing)?;
    }
    point("before-departed");
    commit(tx, source, doing).await?;
    point("after-departed");
    if let Decision::Refused { named, .. } = decision {
        let named: Vec<UserKey> = named.iter().map(|(user, _)| user.clone()).collect();
        put_back::clear(route, offices, desk, &named, departure.attempt).await?;
    }
    Ok(())
}
