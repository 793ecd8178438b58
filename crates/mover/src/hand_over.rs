//! Hands a copied chunk off, batch by batch, and says who needs a fresh copy.

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use model::UserKey;
use postgres::connect::Session;
use residency::journal;

use crate::activity::Step;
use crate::copier::Ready;
use crate::desk::Desk;
use crate::drive::{Run, Way};
use crate::error::{At, Error, Result};
use crate::event::Event;
use crate::finish::finish_chunk;
use crate::hand_off::Outcome;
use crate::lane::Lane;
use crate::portion::{AGAIN_HANDS, AGAIN_LARGE};
use crate::prepare::Aside;
use crate::put_back;
use crate::queue::{Queue, Waiting, batches};
use crate::steer::Half;

/// Why a batch that was closed had to be opened again.
const STREAM_LATE: &str = "the change stream did not reach the fence in time";

/// A chunk on its way.
struct Passage {
    queue: Queue,
    /// Who needs a fresh copy.
    again: Aside,
    /// Since when the target is too far behind for anything to be closed.
    behind_since: Option<Instant>,
}

/// `users` without those who are `out`.
fn without(users: Vec<UserKey>, out: &[UserKey]) -> Vec<UserKey> {
    let kept = users.into_iter().filter(|user| !out.contains(user));
    kept.collect()
}

impl Run<'_> {
    /// Hands a chunk off, batch by batch, a few side by side. Returns the users who need a fresh copy.
    ///
    /// # Errors
    /// The first error; what is under way then is brought to its end before this returns.
    pub(crate) async fn hand_over(
        &mut self,
        desk: &mut Desk,
        lanes: &mut Vec<Lane>,
        chunk: Ready,
    ) -> Result<Aside> {
        let (way, key) = (self.way, self.key.clone());
        let mut passage = Passage {
            queue: Queue::of(batches(&chunk.users, &chunk.bonds, way.route)),
            again: Vec::new(),
            behind_since: None,
        };
        let mut under_way = FuturesUnordered::new();
        let mut failure = None;
        loop {
            while failure.is_none() && !lanes.is_empty() {
                let batch = match self.next(&mut passage, under_way.is_empty()).await {
                    Ok(Some(batch)) => batch,
                    Ok(None) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
                under_way.extend(lanes.pop().map(|lane| lane.carry(way, &key, &chunk, batch)));
            }
            let Some((lane, batch, went)) = under_way.next().await else {
                break;
            };
            lanes.push(lane);
            let followed = match went {
                Ok(outcome) => {
                    self.follow(desk, &chunk, batch, outcome, &mut passage)
                        .await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                failure.get_or_insert(error);
            }
        }
        drop(under_way);
        if let Some(failure) = failure {
            return Err(failure);
        }
        way.catch_up.forget(chunk.attempt).await?;
        finish_chunk(way.route, way.offices, desk, chunk.attempt).await?;
        way.steering.at(Half::Handing, Step::Idle);
        Ok(passage.again)
    }

    /// The next batch that may go. As long as others are under way, their users closed, this waits for nothing.
    async fn next(&self, passage: &mut Passage, alone: bool) -> Result<Option<Waiting>> {
        if !alone {
            let goes_on = self.way.steering.goes_on();
            return Ok(if goes_on { passage.queue.due() } else { None });
        }
        let Some(batch) = passage.queue.next().await else {
            return Ok(None);
        };
        if self.way.leave(Half::Handing, Step::HandingOff).await? {
            passage.behind_since = None;
        }
        Ok(Some(batch))
    }

    /// Draws the conclusions from what became of a batch.
    async fn follow(
        &mut self,
        desk: &mut Desk,
        chunk: &Ready,
        batch: Waiting,
        outcome: Outcome,
        passage: &mut Passage,
    ) -> Result<()> {
        let Waiting { users, tries } = batch;
        if !matches!(outcome, Outcome::Behind | Outcome::Spoilt(_)) {
            passage.behind_since = None;
            self.way.steering.behind(None);
        }
        match &outcome {
            Outcome::NotYet(_) => {
                let kind = self.way.route.source.kind();
                let missed = self.way.steering.fence_missed(&desk.source, kind, &users);
                missed.await;
            }
            Outcome::Departed { .. } | Outcome::Refused { .. } => {
                self.way.steering.fence_over();
            }
            Outcome::Behind | Outcome::Unfit(..) | Outcome::Spoilt(_) => {}
        }
        match outcome {
            Outcome::Departed {
                batch,
                rows,
                pause,
                fence,
            } => {
                let users = users.len() as u64;
                self.report.moved += users;
                self.way.observer.note(&Event::HandedOff {
                    batch,
                    users,
                    rows,
                    pause,
                    fence,
                });
            }
            Outcome::Refused { batch, named } => {
                let out: Vec<UserKey> = named.iter().map(|(user, _)| user.clone()).collect();
                let rest = without(users, &out);
                let reason = named.first().map_or(STREAM_LATE, |(_, reason)| reason);
                self.way.observer.note(&Event::Retried {
                    batch,
                    reason: reason.to_owned(),
                });
                if named.is_empty() {
                    self.later(desk, chunk, rest, tries + 1, STREAM_LATE, passage)
                        .await?;
                } else {
                    passage.queue.at_once(rest);
                }
                for (user, reason) in named {
                    if reason.starts_with("verification") {
                        self.report.mismatches += 1;
                    }
                    self.aside_or_again(desk, user, reason, passage).await?;
                }
            }
            Outcome::NotYet(reason) => {
                self.later(desk, chunk, users, tries + 1, reason, passage)
                    .await?;
            }
            Outcome::Behind => {
                // No user's fault: everybody waits, within a bound.
                let since = *passage.behind_since.get_or_insert_with(Instant::now);
                self.way.steering.behind(Some(since));
                let patience = self.way.route.bounds.behind_patience;
                if since.elapsed() > patience {
                    return Err(Error::Behind {
                        site: self.way.route.source.site.clone(),
                        seconds: patience.as_secs(),
                    });
                }
                passage.queue.at_once(users);
            }
            Outcome::Spoilt(spoilt) => {
                let out: Vec<UserKey> = spoilt.iter().map(|(user, _)| user.clone()).collect();
                self.take_out(desk, &out, chunk).await?;
                for (user, reason) in spoilt {
                    self.aside_or_again(desk, user, reason, passage).await?;
                }
                passage.queue.at_once(without(users, &out));
            }
            Outcome::Unfit(user, reason) => {
                let out = [user];
                passage.queue.at_once(without(users, &out));
                self.take_out(desk, &out, chunk).await?;
                let [user] = out;
                self.set_aside(&desk.source, user, reason).await?;
            }
        }
        Ok(())
    }

    async fn take_out(&self, desk: &mut Desk, users: &[UserKey], chunk: &Ready) -> Result<()> {
        let Way { route, offices, .. } = self.way;
        put_back::take_out(route, offices, desk, users, chunk.attempt).await
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
        passage: &mut Passage,
    ) -> Result<()> {
        if tries < self.way.route.bounds.fence_attempts {
            passage.queue.later(batch, tries);
        } else if batch.len() > 1 {
            for user in batch.into_iter().rev() {
                passage.queue.at_once(vec![user]);
            }
        } else {
            self.take_out(desk, &batch, chunk).await?;
            self.way.steering.fence_over();
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
        passage: &mut Passage,
    ) -> Result<()> {
        if reason == AGAIN_HANDS || reason == AGAIN_LARGE {
            passage.again.push((user, reason));
            return Ok(());
        }
        self.set_aside(&desk.source, user, reason).await
    }

    pub(crate) async fn set_aside(
        &mut self,
        session: &Session,
        user: UserKey,
        reason: String,
    ) -> Result<()> {
        let source = &self.way.route.source;
        journal::set_aside(&**session, source.kind(), self.way.id, &user, &reason)
            .await
            .at(&source.site, "setting a user aside")?;
        self.way.observer.note(&Event::SetAside { user, reason });
        self.report.set_aside += 1;
        Ok(())
    }
}
