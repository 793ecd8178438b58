//! The moves that run, found at the sites that they leave from. For steering a session is enough: it must work when a
//! schema cannot be read or a site is out of reach.

use model::{MoveId, ServiceName, SiteName};
use postgres::connect::{Session, connect};
use residency::audit;
use residency::journal::{self, MoveRow};

use super::erase::no_such_move;
use super::homes;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// A home database where Domicile is installed.
pub(super) struct Place {
    pub(super) service: ServiceName,
    pub(super) site: SiteName,
    pub(super) session: Session,
}

/// The places that were reached, and the first reason why one was not.
pub(super) struct Reached {
    pub(super) places: Vec<Place>,
    pub(super) unreached: Option<Failure>,
}

/// Opens a session at every home database; one that cannot be reached is named on standard error.
pub(super) async fn reach(config: &Config, purpose: &str) -> Outcome<Reached> {
    let mut reached = Reached {
        places: Vec::new(),
        unreached: None,
    };
    for (name, service) in &config.services {
        for site in homes::here(service) {
            match open(name, service, site, purpose).await {
                Ok(place) => reached.places.extend(place),
                Err(failure) if failure.exit == Exit::Unreached => {
                    eprintln!("warning: {:#}", failure.error);
                    reached.unreached.get_or_insert(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(reached)
}

async fn open(
    name: &ServiceName,
    service: &Service,
    site: &SiteName,
    purpose: &str,
) -> Outcome<Option<Place>> {
    let url = service.databases[site].url()?;
    let failed = || format!("{name}: cannot reach its database at {site}");
    let session = connect(url.expose(), purpose)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let installed = audit::installed(&*session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    Ok(installed.then(|| Place {
        service: name.clone(),
        site: site.clone(),
        session,
    }))
}

// === impl Reached ===

impl Reached {
    /// The move `id`, where it left from.
    ///
    /// # Errors
    /// 2 where nobody knows it; 3 where that cannot be said, as a site was not reached.
    pub(super) async fn find(self, id: &MoveId) -> Outcome<(Place, MoveRow)> {
        for place in self.places {
            if let Some(row) = place.look_up(id).await? {
                return Ok((place, row));
            }
        }
        Err(self.unreached.unwrap_or_else(|| no_such_move(id)))
    }

    /// The moves that run, or the one that is named, each with the index of its place.
    ///
    /// # Errors
    /// As [`find`](Self::find); 2 too where none runs, or the one that is named has ended.
    pub(super) async fn running(&mut self, only: Option<&str>) -> Outcome<Vec<(usize, MoveRow)>> {
        let mut found = Vec::new();
        for (n, place) in self.places.iter().enumerate() {
            match only {
                Some(only) => found.extend(
                    place
                        .look_up(&MoveId::from(only))
                        .await?
                        .map(|row| (n, row)),
                ),
                None => {
                    let rows = journal::moves(&*place.session)
                        .await
                        .or_fail(Exit::Unreached, || place.cannot_read())?;
                    let running = rows.into_iter().filter(|row| row.state == "running");
                    found.extend(running.map(|row| (n, row)));
                }
            }
        }
        if let Some((_, ended)) = found.iter().find(|(_, row)| row.state != "running") {
            return Err(ended_already(ended));
        }
        if found.is_empty() {
            return Err(match (self.unreached.take(), only) {
                (Some(unreached), _) => unreached,
                (None, Some(only)) => no_such_move(&MoveId::from(only)),
                (None, None) => Failure::usage("no move runs").mend(
                    "`domicile apply` begins one, `domicile status` shows those there have been",
                ),
            });
        }
        Ok(found)
    }
}

// === impl Place ===

impl Place {
    pub(super) async fn look_up(&self, id: &MoveId) -> Outcome<Option<MoveRow>> {
        journal::find_move(&*self.session, id)
            .await
            .or_fail(Exit::Unreached, || self.cannot_read())
    }

    fn cannot_read(&self) -> String {
        format!("{}: cannot read the moves from {}", self.service, self.site)
    }
}

/// A move that has ended cannot be steered.
pub(super) fn ended_already(row: &MoveRow) -> Failure {
    Failure::usage(format_args!(
        "the move {} has ended: it is {}",
        row.id, row.state
    ))
    .mend("`domicile rollback MOVE` takes home whom it moved")
}

/// An error of a statement that needs this version's tables.
pub(super) fn steer_failed(error: residency::Error, doing: String) -> Failure {
    let old = error
        .sqlstate()
        .is_some_and(|state| state.code() == "42P01");
    let failure = Failure::new(Exit::Unreached, anyhow::Error::from(error).context(doing));
    match old {
        true => failure
            .mend("Domicile's tables there are of an earlier version: run `domicile install`"),
        false => failure,
    }
}
