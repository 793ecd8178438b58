//! `rollback`: moves the users of a move home again. The same mover, the other direction.

use std::collections::BTreeSet;

use handoff::record::{Kept, Resident, State};
use model::{Epoch, MoveId, ServiceName, SiteName, UserKey};
use mover::drive::{Expected, Wanted};
use residency::journal::{self, MoveRow, Purpose};
use residency::{audit, records};

use super::apply::{self, Errand, carry};
use super::erase::{moves, no_such_move};
use super::homes::{self, Home};
use super::ledger;
use super::routes::Ends;
use crate::cli::Rollback;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::progress::Progress;
use crate::site;

/// Takes a move back, or several, as `apply` names them: the last first. 2 where one is still running or unknown.
pub async fn run(config: &Config, args: &Rollback) -> Outcome {
    let asked = moves(&args.r#move);
    if let Some(site) = site::of_daemon(config, args.site.as_deref())? {
        return by_daemon(config, args, asked, &site).await;
    }
    let mut found: Vec<MoveRow> = Vec::new();
    for (name, service) in &config.services {
        for site in homes::sites(service) {
            let home = Home::open_installed(name, service, site, "rollback").await?;
            let rows = journal::moves(&*home.session)
                .await
                .or_fail(Exit::Unreached, || {
                    format!("{name}: cannot read the moves from {site}")
                })?;
            found.extend(rows.into_iter().filter(|row| asked.contains(&row.id)));
        }
    }
    let known: BTreeSet<&MoveId> = found.iter().map(|row| &row.id).collect();
    if let Some(unknown) = asked.iter().find(|id| !known.contains(id)) {
        return Err(no_such_move(unknown));
    }
    if asked.is_empty() {
        return Err(Failure::usage("no move is named"));
    }
    if let Some(running) = found.iter().find(|row| row.state == "running") {
        return Err(
            Failure::usage(format_args!("the move {} is not at its end", running.id)).mend(
                "wait for it, or `domicile abort` it; where nothing runs any more, `domicile apply` brings it to its end",
            ),
        );
    }
    let mut ends = Ends::default();
    let mut errands = Vec::new();
    for row in asked
        .iter()
        .rev()
        .filter_map(|id| found.iter().find(|row| row.id == *id))
    {
        let service = config.service(&row.service)?;
        let (users, begun) = passengers(&row.service, service, row).await?;
        if users.is_empty() && !begun {
            continue;
        }
        errands.push(Errand {
            route: ends
                .route(config, &row.service, (&row.target, &row.source), None)
                .await?,
            purpose: Purpose {
                service: row.service.clone(),
                source: row.target.clone(),
                target: row.source.clone(),
                phase: None,
                of: Some(row.id.clone()),
            },
            expected: Expected {
                users: users.len() as u64,
                ..Expected::default()
            },
            wanted: Wanted::Users(users),
        });
    }
    let outcome = carry(errands, Form::of_stdout(args.json.json)).await;
    ledger::seal::after(config).await;
    outcome
}

/// What the daemon of the site that the users went to does for us.
async fn by_daemon(
    config: &Config,
    args: &Rollback,
    asked: Vec<MoveId>,
    site: &SiteName,
) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    let daemon = site::reach(config, site)?;
    let progress =
        Progress::start(form).or_fail(Exit::Unreached, || "cannot show progress".into())?;
    let ended = daemon.rollback(asked, &progress).await;
    apply::ended(progress, ended, form)
}

/// Who went with the move and has not left its target since, and whether an earlier run has begun to take it back.
async fn passengers(
    name: &ServiceName,
    service: &Service,
    row: &MoveRow,
) -> Outcome<(Vec<UserKey>, bool)> {
    let failed = || format!("{name}: cannot read who went with {}", row.id);
    let source = Home::open_installed(name, service, &row.source, "rollback").await?;
    let target = Home::open_installed(name, service, &row.target, "rollback").await?;
    let kind = source.schema()?.users.kind;
    let begun = journal::moves(&*target.session)
        .await
        .or_fail(Exit::Unreached, failed)?
        .iter()
        .any(|back| back.of.as_ref() == Some(&row.id) && back.state == "running");
    let mut users = Vec::new();
    let batches = audit::departed(&*source.session, kind, Some(&row.id), None)
        .await
        .or_fail(Exit::Unreached, failed)?;
    for departed in batches {
        let batch = audit::batch(&*source.session, &departed.batch)
            .await
            .or_fail(Exit::Unreached, failed)?;
        let went = batch.map(|batch| batch.users).unwrap_or_default();
        let keys: Vec<UserKey> = went.iter().map(|(user, _)| user.clone()).collect();
        let there = records::look(&*target.session, kind, &keys)
            .await
            .or_fail(Exit::Unreached, failed)?;
        let here = records::look(&*source.session, kind, &keys)
            .await
            .or_fail(Exit::Unreached, failed)?;
        for (((user, epoch), there), here) in went.into_iter().zip(there).zip(here) {
            if there.is_some_and(|there| there.state.is_home())
                && here.is_some_and(|here| left_at(&here) == Some(epoch))
            {
                users.push(user);
            }
        }
    }
    Ok((users, begun))
}

/// The epoch at which somebody left who has not come back since: on his way back the record keeps it.
pub(crate) fn left_at(here: &Resident) -> Option<Epoch> {
    match &here.state {
        State::Departed { epoch, .. } => Some(*epoch),
        State::Arriving { kept, .. } | State::Clearing { kept, .. } => {
            kept.as_ref().map(|Kept { epoch, .. }| *epoch)
        }
        _ => None,
    }
}
