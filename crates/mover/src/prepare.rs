//! Begins attempts: makes the target ready, enrols at the source, and waits at the barrier.

use std::collections::HashSet;
use std::time::Instant;

use handoff::record::Event;
use model::fault::point;
use model::{Attempt, UserKey};
use postgres::lsn::Lsn;
use residency::journal::{self, ChunkRow};
use residency::records::{self, Change};
use residency::{barrier, guard};

use crate::desk::{Desk, commit, transaction};
use crate::drive::Way;
use crate::error::{At, Error, Result};
use crate::event;
use crate::policy;
use crate::portion::Progress;
use crate::put_back;
use crate::rest::{self, Footing};
use crate::route::{Offices, Route};

/// Users copied together under one snapshot.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The copying attempt.
    pub attempt: Attempt,
    /// The users, each with the number of his rows when he was counted, in key order.
    pub users: Vec<(UserKey, u64)>,
    /// Whether the target may hold rows of theirs: a return journey, or an earlier attempt.
    pub returning: bool,
}

impl Chunk {
    /// The users' keys.
    pub fn keys(&self) -> Vec<UserKey> {
        self.users.iter().map(|(user, _)| user.clone()).collect()
    }
}

/// Users who cannot take part, with the reason.
pub type Aside = Vec<(UserKey, String)>;

/// Begins and enrols each of `groups`, then waits once at the barrier for all of them.
pub(crate) async fn prepare(
    way: Way<'_>,
    desk: &mut Desk,
    groups: Vec<Vec<(UserKey, u64)>>,
) -> Result<(Vec<Chunk>, Aside)> {
    let Way {
        route,
        offices,
        catch_up,
        slot,
        steering,
        ..
    } = way;
    let mut chunks = Vec::new();
    let mut aside = Vec::new();
    let mut enrolment = 0;
    policy::permit(route, desk).await?;
    rest::raise(route, desk).await?;
    point("after-raise");
    for group in groups {
        let group = policy::without_barred(route, desk, group, &mut aside).await?;
        let floor = desk.target.highest_attempt().await?;
        let attempt = journal::new_attempt(&*desk.source, floor)
            .await
            .at(&route.source.site, "numbering an attempt")?;
        let begun = begin(desk, attempt, slot, group, &mut aside).await?;
        let Some((users, returning)) = begun else {
            continue;
        };
        let known: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
        // Before anybody can be enrolled: from his first change on it is spooled.
        catch_up.follow(
            attempt,
            Progress {
                snapshot: None,
                position: Lsn(0),
            },
        )?;
        point("before-enrol");
        let row = ChunkRow {
            attempt,
            r#move: way.id.clone(),
            target: route.target.site.clone(),
            slot: slot.to_owned(),
            state: "enrolled".to_owned(),
        };
        let (xid, enrolled) = enrol(route, offices, desk, &row, users, &mut aside).await?;
        point("after-enrol");
        let kept: HashSet<&UserKey> = enrolled.iter().map(|(user, _)| user).collect();
        let left = known.into_iter().filter(|user| !kept.contains(user));
        let left: Vec<UserKey> = left.collect();
        put_back::clear(desk, left, attempt).await?;
        enrolment = enrolment.max(xid);
        chunks.push(Chunk {
            attempt,
            users: enrolled,
            returning,
        });
    }
    if !chunks.is_empty() {
        let started = Instant::now();
        let waiting = barrier::wait_telling(
            &desk.source,
            enrolment,
            route.bounds.barrier_patience,
            |who| steering.barrier(Some(who)),
        );
        let waited = steering.or_abort(waiting).await?;
        steering.barrier(None);
        waited.at(
            &route.source.site,
            "waiting for transactions older than the enrolment",
        )?;
        way.observer.note(&event::Event::Barrier {
            milliseconds: started.elapsed().as_millis() as u64,
        });
    }
    Ok((chunks, aside))
}

/// Users, each with the number of his rows when he was counted.
pub(crate) type Counted = Vec<(UserKey, u64)>;

/// `arriving` at the target. Users whose records there do not allow it are put into `aside`; `None` if none is left.
async fn begin(
    desk: &Desk,
    attempt: Attempt,
    slot: &str,
    mut users: Counted,
    aside: &mut Aside,
) -> Result<Option<(Counted, bool)>> {
    if users.is_empty() {
        return Ok(None);
    }
    let keys = users.iter().map(|(user, _)| user.clone()).collect();
    let (refused, returning) = desk.target.begin(attempt, slot, keys).await?;
    let out: HashSet<&UserKey> = refused.iter().map(|(user, _)| user).collect();
    users.retain(|(user, _)| !out.contains(user));
    aside.extend(refused);
    Ok((!users.is_empty()).then_some((users, returning)))
}

/// How many records one statement writes at enrolment: bounds its memory.
const ENROLLED_TOGETHER: usize = 10_000;

/// `moving` at the source. Gives the enrolment's transaction id and who was enrolled; the others go to `aside`, and the
/// target's records of them are put back by the attempt's end.
async fn enrol(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    row: &ChunkRow,
    mut users: Counted,
    aside: &mut Aside,
) -> Result<(i64, Counted)> {
    let source = &route.source;
    let doing = "enrolling users";
    let mut footing = Footing::default();
    loop {
        let tx = transaction(&mut desk.source, source, doing).await?;
        offices.departures.hold(&tx).await.at(&source.site, doing)?;
        if !rest::stands(&tx, source).await? {
            drop(tx);
            let patience = route.bounds.barrier_patience;
            footing.again(source, &mut desk.source, patience).await?;
            continue;
        }
        let mut refused = None;
        let mut places = 0..;
        for part in users.chunks(ENROLLED_TOGETHER) {
            let changes: Vec<Change> = part
                .iter()
                .map(|(user, _)| Change {
                    user: user.clone(),
                    event: Event::Enrol {
                        to: route.target.site.clone(),
                        attempt: row.attempt,
                    },
                })
                .collect();
            // Neighbours share a stripe: a fence of a batch then takes one lock, not sixty-four.
            let stripes = places.by_ref().take(part.len()).map(|place: usize| {
                let neighbours = place / route.bounds.batch_users.max(1);
                guard::stripe(row.attempt.0 as usize * 127 + neighbours, 1)
            });
            let stripes: Vec<i32> = stripes.collect();
            match records::change(&tx, source.kind(), &changes, Some(&stripes)).await {
                Ok(_) => {}
                Err(residency::Error::Illegal {
                    user,
                    source: illegal,
                }) => {
                    refused = Some((user, illegal.to_string()));
                    break;
                }
                Err(error) => return Err(error).at(&source.site, doing),
            }
        }
        if let Some((user, reason)) = refused {
            users.retain(|(other, _)| *other != user);
            aside.push((user, format!("at {}: {reason}", source.site)));
            continue;
        }
        journal::add_chunk(&tx, row, users.len())
            .await
            .at(&source.site, doing)?;
        let xid = journal::current_xid(&tx).await.at(&source.site, doing)?;
        commit(tx, source, doing).await?;
        return Ok((xid, users));
    }
}

/// The error of a record that another process changed under us.
pub(crate) fn contradiction(route: &Route, user: &UserKey, what: impl Into<String>) -> Error {
    Error::Contradiction {
        user: user.clone(),
        source_site: route.source.site.clone(),
        target_site: route.target.site.clone(),
        what: what.into(),
    }
}
