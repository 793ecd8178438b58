//! The sites of one service, as they are asked for their history: those whose databases are known here by this process, the others by their daemons.

use std::time::Duration;

use model::{ServiceName, SiteName};
use remote::figures::{Ask, Cuts, Said};
use residency::left::{Left, left};
use residency::traffic::{Traffic, history};
use tokio_postgres::error::SqlState;

use super::homes::{self, Home};
use super::routes::peers;
use super::serve::socket_of;
use crate::config::{Config, Service};
use crate::exit::Outcome;
use crate::render::status::NotRead;
use crate::site;

/// A site that is asked.
pub(super) enum Source {
    /// This process has its database open.
    Here(Box<Home>),
    /// Its daemon is asked.
    There(site::Peer),
}

/// Every site of a service that may have a history; what cannot be reached is named in `not_read`.
pub(super) async fn open(
    config: &Config,
    name: &ServiceName,
    service: &Service,
    not_read: &mut Vec<NotRead>,
) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    for at in homes::here(service) {
        match Home::open_installed(name, service, at, "report").await {
            Ok(home) => sources.push(Source::Here(Box::new(home))),
            Err(failure) => not_read.push(NotRead {
                service: name.to_string(),
                site: at.to_string(),
                why: format!("{:#}", failure.error),
            }),
        }
    }
    if !config.is_linked() {
        return Ok(sources);
    }
    let mut own = homes::here(service);
    own.sort_by_key(|at| !socket_of(config, at, None).exists());
    let Some(own) = own.first() else {
        not_read.push(NotRead {
            service: name.to_string(),
            site: "any site".to_owned(),
            why: "no database of the service is known here".to_owned(),
        });
        return Ok(sources);
    };
    for peer in peers(config, name, own)? {
        if !service.databases.contains_key(&peer) {
            let daemon = site::reach(config, own)?;
            sources.push(Source::There(site::Peer::new(daemon, peer)));
        }
    }
    Ok(sources)
}

// === impl Source ===

impl Source {
    pub fn site(&self) -> &SiteName {
        match self {
            Self::Here(home) => &home.site,
            Self::There(peer) => &peer.site,
        }
    }

    /// When users left from there.
    pub async fn left(&self, name: &ServiceName) -> Result<Vec<Left>, NotRead> {
        match self {
            Self::Here(home) => {
                let found = left(&*home.session).await;
                found.map_err(|error| self.not_read(name, why(&error)))
            }
            Self::There(peer) => match peer.figures(name, Ask::Left).await {
                Ok(Said::Left(found)) => Ok(found),
                Ok(Said::Traffic(_)) => Err(self.not_read(name, "it says what was not asked")),
                Err(failure) => Err(self.not_read(name, format!("{:#}", failure.error))),
            },
        }
    }

    /// Gives `each` what came in there; from a daemon summed up between the `cuts`.
    pub async fn traffic(
        &self,
        name: &ServiceName,
        since: Option<Duration>,
        cuts: Cuts,
        mut each: impl FnMut(Traffic),
    ) -> Result<(), NotRead> {
        match self {
            Self::Here(home) => {
                let read = history(&*home.session, since, each).await;
                read.map_err(|error| self.not_read(name, why(&error)))
            }
            Self::There(peer) => match peer.figures(name, Ask::Traffic { since, cuts }).await {
                Ok(Said::Traffic(rows)) => {
                    rows.into_iter().for_each(&mut each);
                    Ok(())
                }
                Ok(Said::Left(_)) => Err(self.not_read(name, "it says what was not asked")),
                Err(failure) => Err(self.not_read(name, format!("{:#}", failure.error))),
            },
        }
    }

    fn not_read(&self, name: &ServiceName, why: impl Into<String>) -> NotRead {
        NotRead {
            service: name.to_string(),
            site: self.site().to_string(),
            why: why.into(),
        }
    }
}

fn why(error: &residency::Error) -> String {
    let old = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN];
    match error.sqlstate().is_some_and(|state| old.contains(state)) {
        true => "Domicile's tables are of an earlier version there: run `domicile install`".into(),
        false => model::causes(error).to_string(),
    }
}
