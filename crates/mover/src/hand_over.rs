//! Hands a copied chunk off, batch by batch, and says who needs a fresh copy.

use std::time::Instant;

use model::UserKey;
use postgres::connect::Session;
use residency::journal;

use crate::activity::Step;
use crate::copier::Ready;
use crate::desk::Desk;
use crate::drive::Run;
use crate::error::{At, Error, Result};
use crate::event::Event;
use crate::finish::finish_chunk;
use crate::hand_off::{Hands, Outcome};
use crate::portion::{AGAIN_HANDS, AGAIN_LARGE};
use crate::prepare::Aside;
use crate::put_back;
use crate::queue::{Queue, Waiting, batches};
use crate::steer::Half;

/// Why a batch that was closed had to be opened again.
const STREAM_LATE: &str = "the change stream did not reach the fence in time";

impl Run<'_> {
    /// Hands a chunk off, batch by batch. Returns the users who need a fresh copy.
    pub(crate) async fn hand_over(
        &mut self,
        desk: &mut Desk,
        reader: &mut Session,
        chunk: Ready,
    ) -> Result<Aside> {
        let mut again = Vec::new();
        let mut queue = Queue::of(batches(&chunk.users, &chunk.bonds, self.way.route));
        let mut behind_since = None;
        while let Some(Waiting { users, tries }) = queue.next().await {
            if self.way.leave(Half::Handing, Step::HandingOff).await? {
                behind_since = None;
            }
            let batch = self.without_spoilt(desk, &chunk, users, &mut again).await?;
            if batch.is_empty() {
                continue;
            }
            let mut hands = Hands {
                route: self.way.route,
                offices: self.way.offices,
                desk,
                reader,
                catch_up: self.way.catch_up,
                shapes: self.way.shapes,
                key: &self.key,
            };
            let outcome = hands.hand_off(&chunk.id, chunk.attempt, &batch).await?;
            if !matches!(outcome, Outcome::Behind) {
                behind_since = None;
                self.way.steering.behind(None);
            }
            match &outcome {
                Outcome::NotYet(_) => {
                    let kind = self.way.route.source.kind();
                    let missed = self.way.steering.fence_missed(&desk.source, kind, &batch);
                    missed.await;
                }
                Outcome::Departed { .. } | Outcome::Refused { .. } => {
                    self.way.steering.fence_over();
                }
                Outcome::Behind | Outcome::Unfit(..) => {}
            }
            match outcome {
                Outcome::Departed {
                    batch: id,
                    rows,
                    pause,
                    fence,
                } => {
                    self.report.moved += batch.len() as u64;
                    let users = batch.len() as u64;
                    self.way.observer.note(&Event::HandedOff {
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
                    self.way.observer.note(&Event::Retried {
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
                    self.way.steering.behind(Some(since));
                    let patience = self.way.route.bounds.behind_patience;
                    if since.elapsed() > patience {
                        return Err(Error::Behind {
                            site: self.way.route.source.site.clone(),
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
                        self.way.route,
                        self.way.offices,
                        desk,
                        std::slice::from_ref(&user),
                        chunk.attempt,
                    )
                    .await?;
                    self.set_aside(&desk.source, user, reason).await?;
                }
            }
        }
        self.way.catch_up.forget(chunk.attempt).await?;
        finish_chunk(self.way.route, self.way.offices, desk, chunk.attempt).await?;
        self.way.steering.at(Half::Handing, Step::Idle);
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
        let (source, target) = (&self.way.route.source.site, &self.way.route.target.site);
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
        put_back::take_out(self.way.route, self.way.offices, desk, &out, chunk.attempt).await?;
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
        if tries < self.way.route.bounds.fence_attempts {
            queue.later(batch, tries);
        } else if batch.len() > 1 {
            for user in batch.into_iter().rev() {
                queue.at_once(vec![user]);
            }
        } else {
            put_back::take_out(
                self.way.route,
                self.way.offices,
                desk,
                &batch,
                chunk.attempt,
            )
            .await?;
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
        again: &mut Aside,
    ) -> Result<()> {
        if reason == AGAIN_HANDS || reason == AGAIN_LARGE {
            again.push((user, reason));
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
