//! `erase`: deletes what departed users left at their old sites, once it is due, and a user at his home who asks for it; and
//! carries every erasure on as far as it can go.

mod carry;
mod forget;
mod hold;
mod receipt;

use std::collections::BTreeSet;

use handoff::record::State;
use model::{MoveId, ServiceName, UserKey};
use mover::erase::{Holder, Reached, erase_batch};
use mover::route::End;
use postgres::connect::Session;
use residency::journal::{self, BatchRow};
use residency::{audit, records};

use super::homes::{self, Home};
use super::routes::end;
use super::{apply, ledger, show, users};
use crate::cli::Erase;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::erase::{Erased, Frozen, render};
use crate::site;

/// What is to be erased.
struct Order {
    /// Batches of these moves alone, if any are named.
    moves: Vec<MoveId>,
    /// This user alone.
    user: Option<UserKey>,
    /// At his home as well.
    at_home: bool,
    /// Whether or not it is due.
    now: bool,
}

/// A service with its home databases.
type Opened<'a> = (&'a ServiceName, &'a Service, Vec<Home>);

/// Erases at every site that users left, and a user at his home. 1 where somebody's rows had to stay, 2 where nobody knows the
/// move.
pub async fn run(config: &Config, args: &Erase) -> Outcome {
    homes::say_elsewhere(config)?;
    let at_home = args.user.is_some() && args.r#move.is_none();
    let order = Order {
        moves: args.r#move.as_deref().map(moves).unwrap_or_default(),
        user: args.user.as_deref().map(UserKey::from),
        at_home,
        // Who has a right to be forgotten has it now, wherever he left something.
        now: args.now || at_home,
    };
    for admin in &args.admin {
        homes::known_site(config, &admin.site)?;
    }
    let mut opened = open(config, &order).await?;
    if let Some(user) = &order.user {
        let mut anywhere = false;
        for (_, _, homes) in &opened {
            for home in homes {
                anywhere |= home.schema()?.users.kind.accepts(user.as_str());
            }
        }
        if !anywhere {
            return Err(Failure::usage(format_args!("{user} can be no user's key")));
        }
        if order.at_home && !forget::agreed(&opened, user, args.yes).await? {
            return Ok(Exit::Unfinished);
        }
    }
    let mut erased = Erased::default();
    for (name, service, homes) in &mut opened {
        for source in 0..homes.len() {
            erase_at(config, &order, (name, service), homes, source, &mut erased).await?;
        }
        if let Some(user) = order.user.as_ref().filter(|_| order.at_home) {
            forget::at_home((name, service), homes, user, &mut erased).await?;
        }
        // Once all is erased that was to be, nobody may need the guard any more.
        for home in homes.iter() {
            mover::rest::at(&end(service, home)?).await;
        }
        for home in homes.iter_mut() {
            carry::on(args, (name, service), home, &mut erased).await?;
        }
    }
    match &args.receipt {
        Some(_) => ledger::seal::after_and_countersigned(config).await,
        None => ledger::seal::after(config).await,
    }
    if let Some(folder) = &args.receipt {
        receipt::write(config, &opened, &order, folder, &mut erased).await?;
    }
    show(&render(&erased, Form::of_stdout(args.json.json)))?;
    Ok(erased.exit())
}

/// Opens every home database, and finds the moves that are named.
async fn open<'a>(config: &'a Config, order: &Order) -> Outcome<Vec<Opened<'a>>> {
    let mut opened = Vec::new();
    let mut unknown: BTreeSet<&MoveId> = order.moves.iter().collect();
    for (name, service) in &config.services {
        let mut homes = Vec::new();
        for site in homes::here(service) {
            let home = Home::open_installed(name, service, site, "erase").await?;
            let known = journal::moves(&*home.session)
                .await
                .or_fail(Exit::Unreached, || {
                    format!("{name}: cannot read the moves from {site}")
                })?;
            known.iter().for_each(|row| {
                unknown.remove(&row.id);
            });
            homes.push(home);
        }
        opened.push((name, service, homes));
    }
    match unknown.first() {
        Some(unknown) => Err(no_such_move(unknown)),
        None => Ok(opened),
    }
}

/// The moves that an argument names: one, or several as `apply` names them, with commas between.
pub(super) fn moves(text: &str) -> Vec<MoveId> {
    text.split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map(MoveId::from)
        .collect()
}

/// Nobody knows the move.
pub(crate) fn no_such_move(id: &MoveId) -> Failure {
    Failure::usage(format_args!("there is no move {id}"))
        .mend("`domicile status` names the moves there have been")
}

/// Erases at the site `homes[at]`.
async fn erase_at(
    config: &Config,
    order: &Order,
    (name, service): (&ServiceName, &Service),
    homes: &mut [Home],
    at: usize,
    erased: &mut Erased,
) -> Outcome<()> {
    let source = end(service, &homes[at])?;
    let site = source.site.clone();
    let kind = source.kind();
    let only = match &order.user {
        None => None,
        Some(user) => match users::canonical(kind, user) {
            Some(user) => Some([user]),
            // A key may be of one service's form and not of another's.
            None => return Ok(()),
        },
    };
    let only = only.as_ref().map(|only| only.as_slice());
    let failed = || format!("{name}: cannot read what left from {site}");
    let left = audit::departed(&*homes[at].session, kind, None, only)
        .await
        .or_fail(Exit::Unreached, failed)?;
    for departed in left {
        if !order.moves.is_empty() && !order.moves.contains(&departed.r#move) {
            continue;
        }
        let Some(batch) = audit::batch(&*homes[at].session, &departed.batch)
            .await
            .or_fail(Exit::Unreached, failed)?
        else {
            continue;
        };
        let due = order.now || departed.age >= service.erase.after;
        let frozen = frozen(&homes[at].session, &source, &batch, only)
            .await
            .or_fail(Exit::Unreached, failed)?;
        if !due {
            erased.waiting += frozen.len() as u64;
            continue;
        }
        let held = hold::among((name, service), &homes[at], &frozen).await?;
        let is_held = |user: &UserKey| held.iter().any(|held| held.user == user.as_str());
        let free: Vec<UserKey> = frozen.into_iter().filter(|user| !is_held(user)).collect();
        let nobody_held = held.is_empty();
        erased.held.extend(held);
        if free.is_empty() {
            continue;
        }
        // Where nobody is held, the batch as a whole: what was agreed on is about all of it.
        let free = match nobody_held {
            true => only,
            false => Some(free.as_slice()),
        };
        let done = erase_one(config, name, &source, homes, at, &batch, free).await?;
        erased.users += done.users;
        erased.rows += done.rows;
        erased
            .frozen
            .extend(done.kept.into_iter().map(|(user, reason)| Frozen {
                user: user.to_string(),
                site: site.to_string(),
                reason,
            }));
    }
    Ok(())
}

async fn erase_one(
    config: &Config,
    name: &ServiceName,
    source: &End,
    homes: &mut [Home],
    at: usize,
    batch: &BatchRow,
    only: Option<&[UserKey]>,
) -> Outcome<mover::erase::Erased> {
    let target = homes.iter().position(|home| home.site == batch.target);
    let by_daemon;
    let reached;
    let (session, target): (&mut Session, &dyn Holder) = match target {
        Some(target) if target != at => {
            let [old, new] = homes
                .get_disjoint_mut([at, target])
                .expect("two different homes");
            reached = Reached {
                site: &new.site,
                session: &new.session,
            };
            (&mut old.session, &reached)
        }
        None if config.elsewhere().contains(&&batch.target) => {
            let daemon = site::reach(config, &source.site)?;
            by_daemon = site::ByDaemon::new(daemon, batch.target.clone());
            (&mut homes[at].session, &by_daemon)
        }
        _ => {
            return Err(Failure::usage(format_args!(
                "{name}: batch {} went to {}, which the configuration does not have any more",
                batch.batch, batch.target
            )));
        }
    };
    erase_batch(name, source, session, target, batch, only)
        .await
        .map_err(|error| {
            let doing = format!("{name}: erasing at {}", source.site);
            let mut failure = apply::failure(error, doing);
            failure.mend = Some("what was erased stays so: run erase again to go on".to_owned());
            failure
        })
}

/// Those of the batch who still have their old rows here.
async fn frozen(
    session: &Session,
    source: &End,
    batch: &BatchRow,
    only: Option<&[UserKey]>,
) -> residency::Result<Vec<UserKey>> {
    let mut users = batch.users.clone();
    users.retain(|(user, _)| only.is_none_or(|only| only.contains(user)));
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let records = records::look(&**session, source.kind(), &keys).await?;
    let there = users
        .into_iter()
        .zip(&records)
        .filter(|((_, epoch), record)| {
            matches!(record.as_ref().map(|r| &r.state),
            Some(State::Departed { epoch: at, erased: false, .. }) if at == epoch)
        });
    Ok(there.map(|((user, _), _)| user).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_moves_are_named_with_commas_between() {
        assert_eq!(moves("a-1, b-2,"), ["a-1".into(), "b-2".into()]);
        assert_eq!(moves("a-1"), [MoveId::from("a-1")]);
    }
}
