//! Begins attempts: makes the target ready, enrols at the source, and waits at the barrier.

use std::collections::HashSet;
use std::time::Instant;

use handoff::record::Event;
use model::fault::point;
use model::{Attempt, UserKey};
use postgres::lsn::Lsn;
use residency::journal::{self, ChunkRow};
use residency::records::{self, Change};
use residency::{barrier, entries, guard, inbound, watch};
use serde_json::json;

use crate::desk::{Desk, commit, transaction};
use crate::drive::Way;
use crate::error::{At, Error, Result};
use crate::event;
use crate::policy;
use crate::portion::Progress;
use crate::put_back;
use crate::rest;
use crate::route::{End, Offices, Route};

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

/// How often an enrolment or a beginning is begun anew because the guard was taken off, or a table changed, just then.
const FOOTINGS: u32 = 20;

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
        let floor = inbound::highest_attempt(&*desk.target)
            .await
            .at(&route.target.site, "numbering an attempt")?;
        let attempt = journal::new_attempt(&*desk.source, floor)
            .await
            .at(&route.source.site, "numbering an attempt")?;
        let begun = begin(route, offices, desk, attempt, slot, group, &mut aside).await?;
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
        put_back::clear(route, offices, desk, &left, attempt).await?;
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
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    attempt: Attempt,
    slot: &str,
    mut users: Counted,
    aside: &mut Aside,
) -> Result<Option<(Counted, bool)>> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "making ready for an attempt";
    let mut footings = 0;
    loop {
        if users.is_empty() {
            return Ok(None);
        }
        let tx = transaction(&mut desk.target, target, doing).await?;
        offices.arrivals.hold(&tx).await.at(&target.site, doing)?;
        if !stands(&tx, target).await? {
            drop(tx);
            again(route, desk, &mut footings).await?;
            continue;
        }
        let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
        let before = records::look(&tx, target.kind(), &keys)
            .await
            .at(&target.site, doing)?;
        let returning = before.iter().any(Option::is_some);
        let changes: Vec<Change> = keys
            .into_iter()
            .map(|user| Change {
                user,
                event: Event::Begin {
                    from: source.clone(),
                    attempt,
                },
            })
            .collect();
        match records::change(&tx, target.kind(), &changes, None).await {
            Ok(_) => {
                inbound::begin(&tx, source, attempt, slot)
                    .await
                    .at(&target.site, doing)?;
                let mut body = policy::transfer(route, target, &tx).await?;
                body.insert("attempt".to_owned(), json!(attempt));
                body.insert("count".to_owned(), json!(users.len()));
                entries::append(&tx, "arriving", body.into(), &[])
                    .await
                    .at(&target.site, doing)?;
                point("before-begin");
                commit(tx, target, doing).await?;
                point("after-begin");
                return Ok(Some((users, returning)));
            }
            Err(residency::Error::Illegal {
                user,
                source: illegal,
            }) => {
                users.retain(|(other, _)| *other != user);
                aside.push((user, format!("at {}: {illegal}", target.site)));
            }
            Err(error) => return Err(error).at(&target.site, doing),
        }
    }
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
    let mut footings = 0;
    loop {
        let tx = transaction(&mut desk.source, source, doing).await?;
        offices.departures.hold(&tx).await.at(&source.site, doing)?;
        if !stands(&tx, source).await? {
            drop(tx);
            again(route, desk, &mut footings).await?;
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

/// Whether the guard stands at `end`, and stays until `tx` ends: [`residency::rest::stands`].
async fn stands(tx: &tokio_postgres::Transaction<'_>, end: &End) -> Result<bool> {
    residency::rest::stands(tx, &end.schema)
        .await
        .at(&end.site, "looking whether the guard stands and stays")
}

/// Another move's end took the guard off in between, or somebody changes a table: puts it on again, within a bound.
async fn again(route: &Route, desk: &mut Desk, footings: &mut u32) -> Result<()> {
    *footings += 1;
    if *footings > FOOTINGS {
        let tables = vec!["some table, which others lock or change all the time".to_owned()];
        let site = route.source.site.clone();
        return Err(Error::Unguarded { site, tables });
    }
    rest::raise(route, desk).await
}

/// Makes sure that the guard stands on every table at both ends: whoever took it off closes moves.
pub(crate) async fn guarded(route: &Route, desk: &Desk) -> Result<()> {
    let (source, target) = (&route.source, &route.target);
    let (here, there) = tokio::join!(
        watch::unguarded(&*desk.source, &source.schema),
        watch::unguarded(&*desk.target, &target.schema),
    );
    for (end, tables) in [(source, here), (target, there)] {
        let tables = tables.at(&end.site, "looking whether the guard stands")?;
        if !tables.is_empty() {
            return Err(Error::Unguarded {
                site: end.site.clone(),
                tables,
            });
        }
    }
    Ok(())
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
