//! `status`: the moves from every site, what is in doubt, who was set aside, the slots, the phases.

use std::collections::BTreeSet;

use model::{MoveId, ServiceName, SiteName, UserKey};
use mover::activity::Activity;
use postgres::slot;
use residency::journal::{self, MoveRow};
use residency::office::Office;
use residency::steering::{self, Told};
use residency::{audit, install, records};

use super::homes::{self, Home};
use super::{plan, show};
use crate::cli;
use crate::config::{Config, Service};
use crate::exit::{Exit, OrFail, Outcome};
use crate::render::Form;
use crate::render::status::slow::Known;
use crate::render::status::{
    Aside, InDoubt, MoveStatus, NotRead, PhaseState, PhaseStatus, Slot, Status, render,
};

/// Shows what is known. A site that cannot be read is named, and the rest is shown (3).
pub async fn run(config: &Config, args: &cli::Status) -> Outcome {
    homes::say_elsewhere(config)?;
    let mut status = Status::default();
    let mut survey = plan::Survey::default();
    let mut slots = Vec::new();
    for (name, service) in &config.services {
        let mut homes = Vec::new();
        for site in homes::here(service) {
            match look(name, service, site, &mut survey).await {
                Ok(home) => homes.push(home),
                Err(failure) => status.not_read.push(NotRead {
                    service: name.to_string(),
                    site: site.to_string(),
                    why: format!("{:#}", failure.error),
                }),
            }
        }
        for seen in &homes {
            slots.extend(slot_of(name, service, seen).await?);
            status.in_doubt.extend(in_doubt(config, name, seen).await?);
            status.add_set_aside(set_aside(name, seen).await?);
        }
        for seen in &homes {
            for row in seen.moves.iter().rev() {
                let left = left(config, &survey, row, &homes).await?;
                status
                    .moves
                    .push(of_move(row, left, seen, slots.as_slice()));
            }
        }
    }
    status.phases = phases(config, &survey)?;
    let status = status.with_slots(slots);
    show(&render(&status, Form::of_stdout(args.json.json)))?;
    Ok(status.exit())
}

/// One home database, with its journal.
struct Seen {
    home: Home,
    /// The latest first; none where Domicile is not installed.
    moves: Vec<MoveRow>,
    /// What is known of those that run.
    told: Vec<Told>,
    /// Whether some process moves users from here.
    office_held: bool,
    installed: bool,
}

async fn look(
    name: &ServiceName,
    service: &Service,
    site: &SiteName,
    survey: &mut plan::Survey,
) -> Outcome<Seen> {
    let mut home = Home::open(name, service, site, "status").await?;
    survey.add(name, service, &mut home).await?;
    let failed = || format!("{name}: cannot read the journal at {site}");
    let installed = audit::installed(&*home.session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let (mut moves, mut told, mut office_held) = (Vec::new(), Vec::new(), false);
    if installed {
        let session = &*home.session;
        // Before the moves: one that ends in between is seen as ended.
        told = steering::running(session)
            .await
            .or_fail(Exit::Unreached, failed)?;
        office_held = Office::holder(session, Office::DEPARTURES)
            .await
            .or_fail(Exit::Unreached, failed)?
            .is_some();
        moves = journal::moves(session)
            .await
            .or_fail(Exit::Unreached, failed)?;
    }
    Ok(Seen {
        home,
        moves,
        told,
        office_held,
        installed,
    })
}

/// What is known of one move.
fn of_move(row: &MoveRow, left: u64, seen: &Seen, slots: &[Slot]) -> MoveStatus {
    let mut status = MoveStatus {
        r#move: row.id.to_string(),
        state: row.state.clone(),
        moved: row.moved.unsigned_abs(),
        left,
        service: row.service.to_string(),
        from: row.source.to_string(),
        to: row.target.to_string(),
        phase: row.phase.clone(),
        ..MoveStatus::default()
    };
    if row.state != "running" {
        return status;
    }
    let told = seen.told.iter().find(|told| told.r#move == row.id);
    let said = told
        .and_then(|told| told.doing.as_ref())
        .map(|doing| (Activity::deserialized(&doing.activity), doing.age));
    let slot = slots.iter().find(|slot| {
        slot.site == seen.home.site.as_str() && slot.name == install::stream_name(&row.service)
    });
    let known = Known {
        wish: told.map(|told| told.orders.wish).unwrap_or_default(),
        said: said.as_ref().map(|(activity, age)| (activity, *age)),
        office_held: seen.office_held,
        wal: slot.map(|slot| (slot.wal_bytes, slot.cap_bytes)),
    };
    status.state = known.state().to_owned();
    status.slow = known.slow();
    if let Some((activity, _)) = &said {
        status.carried = true;
        status.doing = Some(activity.words().to_owned());
        status.bytes_per_second = activity.bytes_per_second;
        status.rate = activity.rate;
        status.lag_bytes = activity.lag_bytes;
    }
    status
}

async fn slot_of(name: &ServiceName, service: &Service, seen: &Seen) -> Outcome<Option<Slot>> {
    let slot = install::stream_name(name);
    let wal_bytes = slot::wal_bytes(&seen.home.session, &slot)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look at the slot at {}", seen.home.site)
        })?;
    Ok(wal_bytes.map(|wal_bytes| Slot {
        name: slot,
        wal_bytes,
        site: seen.home.site.to_string(),
        cap_bytes: service.limits.wal,
    }))
}

async fn in_doubt(config: &Config, name: &ServiceName, seen: &Seen) -> Outcome<Vec<InDoubt>> {
    let mut found = Vec::new();
    if !seen.installed {
        return Ok(found);
    }
    // Also to a site whose database is not known here.
    for to in config.sites.keys().filter(|site| **site != seen.home.site) {
        let batches = journal::batches_in(&*seen.home.session, "offered", to)
            .await
            .or_fail(Exit::Unreached, || {
                format!(
                    "{name}: cannot look for batches in doubt at {}",
                    seen.home.site
                )
            })?;
        found.extend(batches.into_iter().map(|(batch, _, users)| InDoubt {
            batch: batch.to_string(),
            service: name.to_string(),
            from: seen.home.site.to_string(),
            to: to.to_string(),
            users: users.len() as u64,
        }));
    }
    Ok(found)
}

/// Those whom the latest move on each way from here set aside, as long as they live here still.
async fn set_aside(name: &ServiceName, seen: &Seen) -> Outcome<Vec<Aside>> {
    if !seen.installed {
        return Ok(Vec::new());
    }
    let failed = || {
        format!(
            "{name}: cannot read who was set aside at {}",
            seen.home.site
        )
    };
    let mut ways = BTreeSet::new();
    let latest: BTreeSet<&MoveId> = seen
        .moves
        .iter()
        .filter(|row| ways.insert(&row.target))
        .map(|row| &row.id)
        .collect();
    let mut aside = journal::aside(&*seen.home.session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    aside.retain(|(id, ..)| latest.contains(id));
    let users: Vec<UserKey> = aside.iter().map(|(_, user, _)| user.clone()).collect();
    let kind = seen.home.schema()?.users.kind;
    let records = records::look(&*seen.home.session, kind, &users)
        .await
        .or_fail(Exit::Unreached, failed)?;
    Ok(aside
        .into_iter()
        .zip(records)
        .filter(|(_, record)| record.as_ref().is_some_and(|r| r.state.is_home()))
        .map(|((id, user, reason), _)| Aside {
            r#move: id.to_string(),
            user: user.to_string(),
            reason,
        })
        .collect())
}

/// How many users a running move has still to carry: of a phase's move those whom the phase would take the same way, of
/// a way back those of the move taken back who have not left. A move that has ended has none left.
async fn left(
    config: &Config,
    survey: &plan::Survey,
    row: &MoveRow,
    homes: &[Seen],
) -> Outcome<u64> {
    if row.state != "running" {
        return Ok(0);
    }
    if let Some(of) = &row.of {
        let went = homes
            .iter()
            .flat_map(|seen| &seen.moves)
            .find(|m| m.id == *of);
        let went = went.map_or(0, |went| went.moved);
        return Ok((went - row.moved).max(0).unsigned_abs());
    }
    let known = |phase: &&String| config.policy.phase(phase).is_some();
    let Some(phase) = row.phase.as_ref().filter(known) else {
        return Ok(0);
    };
    let planned = plan::of(config, survey, Some(phase))?;
    let same_way = planned
        .moves
        .iter()
        .filter(|m| m.service == row.service && m.from == row.source && m.to == row.target);
    Ok(same_way.map(|m| m.users).sum())
}

fn phases(config: &Config, survey: &plan::Survey) -> Outcome<Vec<PhaseStatus>> {
    let begun = plan::begun(config, survey);
    let mut phases = Vec::new();
    for phase in &config.policy.phases {
        let planned = plan::of(config, survey, Some(&phase.name))?;
        let left = planned.moves.iter().map(|m| m.users).sum();
        let state = match (left, begun.contains(&phase.name)) {
            (0, _) => PhaseState::Done,
            (_, true) => PhaseState::Begun,
            (_, false) => PhaseState::Open,
        };
        phases.push(PhaseStatus {
            name: phase.name.clone(),
            left,
            state,
        });
    }
    Ok(phases)
}
