//! Who went with a move and can be taken home: the source's journal says who went, the target's records who is there.

use std::collections::BTreeMap;

use ::daemon::View;
use model::{MoveId, ServiceName, SiteName, UserKey};
use mover::drive::{Expected, Wanted};
use mover::route::Stop;
use remote::{Asker, Passengers};
use residency::journal::{self, Purpose};
use residency::{audit, records};

use super::departures::{Departures, Errand, Interrupted, Order, Watch};
use crate::commands::apply::failure;
use crate::commands::erase::no_such_move;
use crate::commands::homes::Home;
use crate::commands::rollback::left_at;
use crate::exit::{Exit, Failure, OrFail, Outcome};

// === impl Departures ===

impl Departures {
    /// What taking back `moves` comes to, service by service: the last first.
    ///
    /// # Errors
    /// 2 where nobody knows one of them, or it is running, or left from here; 3 where a peer that may know it does not say.
    pub(super) async fn going_back(
        &self,
        moves: Vec<MoveId>,
    ) -> Outcome<BTreeMap<ServiceName, Errand>> {
        let mut services: BTreeMap<ServiceName, Vec<(MoveId, SiteName)>> = BTreeMap::new();
        for id in moves.into_iter().rev() {
            let (service, from) = self.came_with(&id).await?;
            services.entry(service).or_default().push((id, from));
        }
        if services.is_empty() {
            return Err(Failure::usage("no move is named"));
        }
        let services = services.into_iter();
        Ok(services
            .map(|(name, moves)| (name, Errand::Back(moves)))
            .collect())
    }

    /// The service and the source of a move to here.
    async fn came_with(&self, id: &MoveId) -> Outcome<(ServiceName, SiteName)> {
        let mut unsaid = None;
        for name in self.desks.keys() {
            let service = self.config.service(name)?;
            let home = Home::open_installed(name, service, &self.site, "move").await?;
            let own = journal::find_move(&*home.session, id).await;
            let own = own.or_fail(Exit::Unreached, || {
                format!("{name}: cannot read the moves from {}", self.site)
            })?;
            if let Some(own) = own {
                return Err(Failure::usage(format_args!(
                    "the move {id} left from {}: those who went with it live elsewhere",
                    self.site
                ))
                .mend(format!("run it at {}: --site {}", own.target, own.target)));
            }
            for peer in self.config.sites.keys().filter(|peer| **peer != self.site) {
                match known(&self.view, name, peer, id).await {
                    Ok(Some((true, _))) => return Ok((name.clone(), peer.clone())),
                    Ok(Some((false, _))) => {
                        return Err(Failure::usage(format_args!(
                            "the move {id} is not at its end"
                        ))
                        .mend("wait for it, or `domicile abort` it where it left from"));
                    }
                    Ok(None) => {}
                    Err(failure) => drop(unsaid.get_or_insert(failure)),
                }
            }
        }
        Err(unsaid.unwrap_or_else(|| no_such_move(id)))
    }

    pub(super) async fn take_back(
        &self,
        name: &ServiceName,
        stop: &Stop,
        moves: &[(MoveId, SiteName)],
        order: &Order,
    ) -> Result<u64, Interrupted> {
        let watch = Watch(Some(order.told.clone()));
        let mut mismatches = 0;
        for (of, to) in moves {
            let users = self.passengers(name, to, of).await?;
            if users.is_empty() {
                continue;
            }
            let purpose = Purpose {
                service: name.clone(),
                source: self.site.clone(),
                target: to.clone(),
                phase: None,
                of: Some(of.clone()),
            };
            let expected = Expected {
                users: users.len() as u64,
                ..Expected::default()
            };
            let wanted = Wanted::Users(users);
            let way = (name, to, stop);
            mismatches += self.carry(way, purpose, wanted, expected, &watch).await?;
        }
        Ok(mismatches)
    }

    /// Who came from `source` with the move `of`, has not gone back there and lives here.
    pub(super) async fn passengers(
        &self,
        name: &ServiceName,
        source: &SiteName,
        of: &MoveId,
    ) -> Outcome<Vec<UserKey>> {
        let Some((_, users)) = known(&self.view, name, source, of).await? else {
            return Err(no_such_move(of));
        };
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "move").await?;
        living(name, &home, users).await
    }
}

/// Bytes of keys in one answer, with what stands around each: well below what the link takes.
const ANSWER_MAX: usize = 256 << 10;

/// Users who are looked up together.
const PAGE: usize = 2_000;

/// What the site `source` knows of its move `of` to this site: whether it is at its end, and who has not come back.
///
/// # Errors
/// 3 where it does not say.
pub(super) async fn known(
    view: &View,
    service: &ServiceName,
    source: &SiteName,
    of: &MoveId,
) -> Outcome<Option<(bool, Vec<UserKey>)>> {
    let Some(peer) = view.peer(source) else {
        return Err(Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("{service}: this daemon has no link to {source}"),
        )
        .mend("ask the daemon that leads: `GET /status` of each says which"));
    };
    let asked = Asker::new(peer, service.clone()).passengers(of).await;
    asked.map_err(|error| {
        failure(
            error,
            format!("{service}: asking {source} who went with {of}"),
        )
    })
}

/// Those of `users` whose home this is.
pub(super) async fn living(
    service: &ServiceName,
    home: &Home,
    users: Vec<UserKey>,
) -> Outcome<Vec<UserKey>> {
    let kind = home.schema()?.users.kind;
    let mut living = Vec::new();
    for page in users.chunks(PAGE) {
        let records = records::look(&*home.session, kind, page).await;
        let records = records.or_fail(Exit::Unreached, || {
            format!("{service}: cannot read the records at {}", home.site)
        })?;
        let there = page.iter().zip(records);
        let there =
            there.filter(|(_, record)| record.as_ref().is_some_and(|one| one.state.is_home()));
        living.extend(there.map(|(user, _)| user.clone()));
    }
    Ok(living)
}

/// What this site tells `asker` of the passengers of `of`, from `from` on.
pub(super) async fn told(
    service: &ServiceName,
    home: &Home,
    asker: &SiteName,
    of: &MoveId,
    from: (u32, u32),
) -> Outcome<Option<Passengers>> {
    let failed = || format!("{service}: cannot read who went with {of}");
    let session = &*home.session;
    let row = journal::find_move(session, of).await;
    let Some(row) = row.or_fail(Exit::Unreached, failed)? else {
        return Ok(None);
    };
    // Of those who went elsewhere the asker hears nothing.
    if row.target != *asker || row.service != *service {
        return Ok(None);
    }
    let kind = home.schema()?.users.kind;
    let mut told = Passengers {
        ended: row.state != "running",
        ..Passengers::default()
    };
    let batches = audit::departed(session, kind, Some(of), None).await;
    let batches = batches.or_fail(Exit::Unreached, failed)?;
    let (first, mut skip) = (from.0 as usize, from.1 as usize);
    let mut bytes = 0;
    for (n, departed) in batches.iter().enumerate().skip(first) {
        let batch = audit::batch(session, &departed.batch).await;
        let batch = batch.or_fail(Exit::Unreached, failed)?;
        let went = batch.map(|batch| batch.users).unwrap_or_default();
        let keys: Vec<UserKey> = went.iter().map(|(user, _)| user.clone()).collect();
        let records = records::look(session, kind, &keys).await;
        let records = records.or_fail(Exit::Unreached, failed)?;
        let passengers = went.into_iter().zip(records).enumerate();
        for (at, ((user, epoch), record)) in passengers.skip(std::mem::take(&mut skip)) {
            if bytes > ANSWER_MAX {
                told.next = u32::try_from(n).ok().zip(u32::try_from(at).ok());
                return Ok(Some(told));
            }
            if record.is_some_and(|record| left_at(&record) == Some(epoch)) {
                bytes += user.as_str().len() + 8;
                told.users.push(user);
            }
        }
    }
    Ok(Some(told))
}
