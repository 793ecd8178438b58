//! The sites of one service, as they are asked: those whose databases are known here by this process, the others by their daemons.

use std::collections::BTreeSet;

use model::{ServiceName, SiteName, UserKey};
use mover::audit::{Ask, Here, Said, page, say};

use super::super::homes::{self, Home};
use super::super::routes::peers;
use super::super::serve::socket_of;
use super::super::{apply, users};
use crate::config::{Config, Service};
use crate::exit::{Failure, Outcome};
use crate::render::status::NotRead;
use crate::site;

/// All sites of a service; those of this process come first.
pub(super) struct Sites<'a> {
    pub name: &'a ServiceName,
    pub origin: &'a SiteName,
    /// This process has their databases open.
    pub own: Vec<Home>,
    peers: Vec<site::Peer>,
    /// Who did not answer, and is asked no more.
    away: BTreeSet<SiteName>,
    /// The same, for whoever asked.
    pub not_read: Vec<NotRead>,
}

// === impl Sites ===

impl<'a> Sites<'a> {
    /// Opens the databases that are known here.
    pub async fn open(
        config: &'a Config,
        (name, service): (&'a ServiceName, &'a Service),
    ) -> Outcome<Self> {
        homes::refuse_nowhere(config)?;
        let known = match config.is_linked() {
            true => homes::here(service),
            false => homes::sites(service),
        };
        let mut own = Vec::new();
        for site in known {
            own.push(Home::open_installed(name, service, site, "verify").await?);
        }
        let mut sites = Self {
            name,
            origin: &service.origin,
            own,
            peers: Vec::new(),
            away: BTreeSet::new(),
            not_read: Vec::new(),
        };
        sites.link(config, service)?;
        Ok(sites)
    }

    /// The sites that have their databases to themselves.
    fn link(&mut self, config: &Config, service: &Service) -> Outcome<()> {
        if !config.is_linked() {
            return Ok(());
        }
        let has_daemon = |home: &&Home| socket_of(config, &home.site, None).exists();
        let own = self.own.iter().find(has_daemon).or(self.own.first());
        let Some(own) = own.map(|home| home.site.clone()) else {
            eprintln!(
                "warning: not looked at: {}, of which no database is known here",
                self.name
            );
            return Ok(());
        };
        for peer in peers(config, self.name, &own)? {
            if !service.databases.contains_key(&peer) {
                let daemon = site::reach(config, &own)?;
                self.peers.push(site::Peer::new(daemon, peer));
            }
        }
        Ok(())
    }

    /// The keys as the databases write them; `None` where nobody was named.
    ///
    /// # Errors
    /// 2 where one can be nobody's.
    pub fn canonical(&self, only: Option<&[UserKey]>) -> Outcome<Option<Vec<UserKey>>> {
        let (Some(only), Some(home)) = (only, self.own.first()) else {
            return Ok(only.map(<[UserKey]>::to_vec));
        };
        let kind = home.schema()?.users.kind;
        let canonical = |user| {
            let found = users::canonical(kind, user);
            found.ok_or_else(|| super::no_key(user, self.name))
        };
        only.iter().map(canonical).collect::<Outcome<_>>().map(Some)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.own.len() + self.peers.len()
    }

    /// Those at other sites' daemons.
    pub fn peers(&self) -> std::ops::Range<usize> {
        self.own.len()..self.len()
    }

    /// Their names.
    pub fn names(&self) -> Vec<SiteName> {
        (0..self.len()).map(|at| self.site(at).clone()).collect()
    }

    /// The name of one.
    pub fn site(&self, at: usize) -> &SiteName {
        match self.own.get(at) {
            Some(home) => &home.site,
            None => &self.peers[at - self.own.len()].site,
        }
    }

    /// Which one has that name.
    pub fn find(&self, site: &SiteName) -> Option<usize> {
        (0..self.len()).find(|at| self.site(*at) == site)
    }

    /// Asks one of them. `None` where a peer does not answer, now or before: it is noted, and what the others say is compared all the same.
    ///
    /// # Errors
    /// Where a database of this process does not answer.
    pub async fn ask(&mut self, at: usize, ask: Ask) -> Outcome<Option<Said>> {
        match self.own.get_mut(at) {
            Some(home) => {
                let schema = home.schema()?.clone();
                let mut here = Here {
                    service: self.name,
                    site: &home.site,
                    schema: &schema,
                    origin: home.site == *self.origin,
                    session: &mut home.session,
                };
                let said = say(&mut here, None, &ask).await;
                let doing = || format!("{}: cannot verify at {}", self.name, home.site);
                said.map(Some)
                    .map_err(|error| unread(apply::failure(error, doing())))
            }
            None => {
                let peer = &self.peers[at - self.own.len()];
                if self.away.contains(&peer.site) {
                    return Ok(None);
                }
                match peer.ask(self.name, ask).await {
                    Ok(said) => Ok(Some(said)),
                    Err(failure) => {
                        self.away.insert(peer.site.clone());
                        self.not_read.push(NotRead {
                            service: self.name.to_string(),
                            site: peer.site.to_string(),
                            why: format!("{:#}", failure.error),
                        });
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// Nothing was begun that could be gone on with.
fn unread(mut failure: Failure) -> Failure {
    failure.mend = None;
    failure
}

/// `users`, in pieces of which each goes into one question.
pub(super) fn pages(mut users: &[UserKey]) -> impl Iterator<Item = &[UserKey]> {
    std::iter::from_fn(move || {
        if users.is_empty() {
            return None;
        }
        let (first, rest) = users.split_at(page(users));
        users = rest;
        Some(first)
    })
}
