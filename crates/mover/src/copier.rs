//! Copies the wanted users, chunk by chunk, ahead of the hand-offs.

use std::collections::{HashSet, VecDeque};

use model::{Attempt, Market, MoveId, UserKey};
use postgres::census;
use postgres::connect::Session;
use postgres::copy::Copied;
use postgres::pace::Pace;
use postgres::snapshot::Snapshot;
use residency::journal;
use tokio::sync::mpsc;

use crate::activity::Step;
use crate::bonds::{Bonds, bind};
use crate::copying::{Outcome, copy_chunk};
use crate::desk::Desk;
use crate::drive::Way;
use crate::error::{At, Error, Result};
use crate::event::Event;
use crate::far::Seat;
use crate::prepare::{Chunk, prepare};
use crate::put_back;
use crate::queue::{grouped, halves};
use crate::route::{Offices, Route};
use crate::steer::Half;

/// Who is to move.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Everybody of these markets who lives at the source; the empty market stands for NULL.
    Markets(Vec<Market>),
    /// These users, as far as they live at the source.
    Users(Vec<UserKey>),
}

/// A chunk that is copied and streams.
pub(crate) struct Ready {
    pub(crate) id: MoveId,
    pub(crate) attempt: Attempt,
    pub(crate) users: Vec<(UserKey, u64)>,
    /// Who of them cannot part.
    pub(crate) bonds: Bonds,
}

/// How many users are listed at once: bounds memory.
const PAGE: u32 = 50_000;

/// The sessions that rows stream through.
struct Streams {
    reading: Session,
    writing: Seat,
}

// === impl Streams ===

impl Streams {
    async fn open(route: &Route, offices: &Offices) -> Result<Self> {
        Ok(Self {
            reading: route.source.session("copy").await?,
            writing: offices.seat("copy").await?,
        })
    }
}

/// Copies, with sessions of its own.
pub(crate) struct Copier<'a> {
    pub(crate) way: Way<'a>,
}

// === impl Copier ===

impl Copier<'_> {
    /// Ends quietly where the move is aborted: the hand-offs end at a safe point of their own.
    pub(crate) async fn run(
        &self,
        wanted: &Wanted,
        ready: mpsc::Sender<Ready>,
        aside: mpsc::UnboundedSender<(UserKey, String)>,
    ) -> Result<()> {
        let copied = self.copy_all(wanted, ready, aside).await;
        self.way.steering.at(Half::Copying, Step::Idle);
        match copied {
            Err(Error::Aborted { .. } | Error::Stopped { .. }) => Ok(()),
            copied => copied,
        }
    }

    async fn copy_all(
        &self,
        wanted: &Wanted,
        ready: mpsc::Sender<Ready>,
        aside: mpsc::UnboundedSender<(UserKey, String)>,
    ) -> Result<()> {
        let (route, offices) = (self.way.route, self.way.offices);
        let mut desk = Desk::open(route, offices, "copier").await?;
        let mut streams = Streams::open(route, offices).await?;
        let bounds = &self.way.route.bounds;
        let mut pace = self.way.steering.pace();
        let mut pages = Pages::of(wanted);
        let mut fetched = HashSet::new();
        while let Some(users) = pages.next(&mut desk.source, self.way.route).await? {
            let bound = bind(self.way.route, &mut desk, wanted, users, &mut fetched).await?;
            for refused in bound.aside {
                let _ = aside.send(refused);
            }
            let mut groups: VecDeque<_> = grouped(
                &bound.users,
                &bound.bonds,
                bounds.chunk_users,
                bounds.chunk_rows,
            )
            .into();
            while !groups.is_empty() {
                self.way.leave(Half::Copying, Step::Enrolling).await?;
                self.way.shapes.look_again(self.way.route, &desk).await?;
                let together: Vec<_> = groups
                    .drain(..groups.len().min(bounds.chunks_together))
                    .collect();
                let (chunks, unfit) = prepare(self.way, &mut desk, together).await?;
                for refused in unfit {
                    let _ = aside.send(refused);
                }
                for chunk in chunks {
                    let copied = self.copy(&mut streams, &chunk, &mut pace).await?;
                    match copied {
                        Ok((snapshot, copied)) => {
                            self.way.steering.at(Half::Copying, Step::CatchingUp);
                            self.copied(&desk, &chunk, snapshot, copied).await?;
                            self.way.steering.at(Half::Copying, Step::Idle);
                            let next = Ready {
                                id: self.way.id.clone(),
                                attempt: chunk.attempt,
                                bonds: of_chunk(&bound.bonds, &chunk),
                                users: chunk.users,
                            };
                            if ready.send(next).await.is_err() {
                                return Ok(());
                            }
                        }
                        Err(reason) => {
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

    /// Copies a chunk, from its beginning each time that somebody stops it; the reason, where some user's rows do not fit.
    async fn copy(
        &self,
        streams: &mut Streams,
        chunk: &Chunk,
        pace: &mut Pace,
    ) -> Result<Result<(Snapshot, Copied), String>> {
        let Way { route, offices, .. } = self.way;
        loop {
            self.way.leave(Half::Copying, Step::Copying).await?;
            let ends = (&mut streams.reading, &streams.writing);
            let outcome = copy_chunk(route, ends, chunk, pace).await?;
            let outcome = match outcome {
                Outcome::Copied { snapshot, copied } => return Ok(Ok((snapshot, copied))),
                broken_off => broken_off,
            };
            // What was broken off leaves its streams unread: begin afresh.
            *streams = Streams::open(route, offices).await?;
            if let Outcome::Unfit(reason) = outcome {
                return Ok(Err(reason));
            }
        }
    }

    async fn copied(
        &self,
        desk: &Desk,
        chunk: &Chunk,
        snapshot: Snapshot,
        copied: Copied,
    ) -> Result<()> {
        self.way.catch_up.copied(chunk.attempt, snapshot).await?;
        journal::count_copied(&*desk.source, self.way.id, copied.rows, copied.bytes)
            .await
            .at(&self.way.route.source.site, "counting copied rows")?;
        self.way.observer.note(&Event::Copied {
            users: chunk.users.len() as u64,
            rows: copied.rows,
            bytes: copied.bytes,
        });
        Ok(())
    }

    async fn give_up(&self, desk: &mut Desk, chunk: &Chunk) -> Result<()> {
        // First: what is spooled once the spool was emptied would stay for ever.
        self.way.catch_up.forget(chunk.attempt).await?;
        put_back::cancel(self.way.route, self.way.offices, desk, chunk.attempt).await
    }
}

/// The companies of one chunk's users.
fn of_chunk(bonds: &Bonds, chunk: &Chunk) -> Bonds {
    let users = chunk.users.iter();
    users
        .filter_map(|(user, _)| bonds.get_key_value(user))
        .map(|(user, company)| (user.clone(), *company))
        .collect()
}

/// The wanted users, a page at a time.
struct Pages<'a> {
    wanted: &'a Wanted,
    after: Option<UserKey>,
    at: usize,
    /// Everybody is listed.
    listed: bool,
}

// === impl Pages ===

impl<'a> Pages<'a> {
    fn of(wanted: &'a Wanted) -> Self {
        Self {
            wanted,
            after: None,
            at: 0,
            listed: false,
        }
    }

    async fn next(
        &mut self,
        session: &mut Session,
        route: &Route,
    ) -> Result<Option<Vec<(UserKey, u64)>>> {
        let (source, doing) = (&route.source, "listing the users to move");
        if self.listed {
            return Ok(None);
        }
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
            // A part of which nobody lives here says nothing of the parts after it.
            Wanted::Users(users) => loop {
                let part = &users[self.at..users.len().min(self.at + PAGE as usize)];
                self.at += part.len();
                let page = census::users_listed(session, &source.schema, part)
                    .await
                    .at(&source.site, doing)?;
                if !page.is_empty() || self.at == users.len() {
                    break page;
                }
            },
        };
        // A page that is not full is the last: whoever is born from now on goes with the next run, or this one would chase
        // newcomers without end.
        self.listed = matches!(self.wanted, Wanted::Markets(_)) && page.len() < PAGE as usize;
        self.after = page.last().map(|(user, _)| user.clone());
        Ok((!page.is_empty()).then_some(page))
    }
}
