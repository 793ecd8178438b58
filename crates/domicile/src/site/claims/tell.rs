//! A site tells the registry all names that its users have, again and again; and the job of which that is a half.

use std::time::Duration;

use model::{ServiceName, SiteName};
use residency::office::{self, Office};

use super::word::{Held, Said, Text, What, Word};
use super::{Claims, Failed, Home, Service};

/// The office of whoever tells and settles: one process of a site at a time.
const OFFICE: &str = "claims";

/// How often it is looked whether the office is free, or still ours.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait after something failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How long to wait before all names are told once more, as long as not all sites have told them often enough: no name can be claimed before.
const SOON: Duration = Duration::from_millis(500);

/// And where the registry was not reached.
const UNREACHED: Duration = Duration::from_secs(2);

/// And when they have.
const REST: Duration = Duration::from_secs(600);

/// How often the registry is asked meanwhile whether it wants them again.
const WANTED: Duration = Duration::from_secs(5);

/// How many names go in a message: a tenth of the largest.
const PAGE: i64 = 1000;

/// How many conflicts of a round are named in the log.
const NAMED: u64 = 20;

/// What came of telling all names once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// All sites have told theirs often enough.
    Filled,
    /// They have not: it is to be done again.
    Wanted,
    /// The registry was not reached.
    Unreached,
}

// === impl Claims ===

impl Claims {
    /// Makes the registry and the homes agree, for ever.
    pub(super) async fn reconcile(&self, name: &ServiceName) {
        let Some(service) = self.services.get(name) else {
            return;
        };
        loop {
            let ended = match &service.home {
                Some(home) => self.in_office(service, home).await,
                None => self.tell(service, None).await,
            };
            if let Err(why) = ended {
                let why = crate::config::scrub(&model::causes(&*why).to_string());
                tracing::warn!(service = %name, why, "claims are not reconciled with the home database");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// As one of any number of processes of this site.
    async fn in_office(&self, service: &Service, home: &Home) -> Result<(), Failed> {
        let session = home.open("gateway claims office").await?;
        home.facts(&session).await?;
        office::keep_alive(&session).await?;
        let office = loop {
            match Office::take(&session, OFFICE).await {
                Ok(office) => break office,
                Err(residency::Error::Office { .. }) => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        };
        tracing::info!(service = %service.name, "reconciling claims");
        let settling = async {
            match service.at == self.here {
                true => self.settle(service, home).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.tell(service, Some(home)) => ended,
            ended = settling => ended,
            ended = lost(&session, &office) => ended,
        }
    }

    /// Tells all names, rests, and does so again.
    async fn tell(&self, service: &Service, home: Option<&Home>) -> Result<(), Failed> {
        loop {
            let mut rounds = Vec::new();
            for kind in service.kinds.columns.keys() {
                rounds.push(self.tell_all(service, home, kind).await?);
            }
            if rounds.iter().all(|round| *round == Round::Filled) {
                self.rest(service).await;
            } else if rounds.contains(&Round::Unreached) {
                tokio::time::sleep(UNREACHED).await;
            } else {
                tokio::time::sleep(SOON).await;
            }
        }
    }

    /// Waits until names are to be told once more: when the time has come, or the registry wants them, as its database went back, or there is a new site.
    async fn rest(&self, service: &Service) {
        let end = tokio::time::Instant::now() + REST;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(WANTED).await;
            for kind in service.kinds.columns.keys() {
                let kind = kind.clone();
                let said = self.ask_registry(service, What::Filled { kind }).await;
                if matches!(said, Said::Ended { filled: false }) {
                    return;
                }
            }
        }
    }

    /// Tells all names of `kind` once. Returns whether all sites have told theirs often enough.
    async fn tell_all(
        &self,
        service: &Service,
        home: Option<&Home>,
        kind: &str,
    ) -> Result<Round, Failed> {
        let begin = What::Begin {
            kind: kind.to_owned(),
        };
        if !matches!(self.ask_registry(service, begin).await, Said::Done) {
            return Ok(Round::Unreached);
        }
        let (mut after, mut conflicts) = (None, 0);
        while let Some(home) = home {
            let Some(page) = home.page(kind, after.as_ref(), PAGE).await? else {
                break;
            };
            let names = page.names.into_iter();
            let tell = What::Tell {
                kind: kind.to_owned(),
                names: names.map(|(user, name)| (user, Text(name))).collect(),
            };
            let Said::Told { conflicts: found } = self.ask_registry(service, tell).await else {
                return Ok(Round::Unreached);
            };
            conflicts += self.still(service, home, kind, found, conflicts).await?;
            after = Some(page.last);
        }
        self.tally.conflicts(&service.name, kind, conflicts);
        let end = What::End {
            kind: kind.to_owned(),
        };
        Ok(match self.ask_registry(service, end).await {
            Said::Ended { filled: true } => Round::Filled,
            Said::Ended { filled: false } => Round::Wanted,
            _ => Round::Unreached,
        })
    }

    /// How many of the conflicts `found` still are some: a user may have given his name up, and another one got it, since the page was read. Names them by
    /// their users alone, and decides nothing.
    async fn still(
        &self,
        service: &Service,
        home: &Home,
        kind: &str,
        found: Vec<(Text, model::UserKey, model::UserKey)>,
        before: u64,
    ) -> Result<u64, Failed> {
        let held = found.iter().map(|(name, user, _)| Held {
            kind: kind.to_owned(),
            user: user.clone(),
            name: *name,
            since_us: None,
        });
        let held: Vec<Held> = held.collect();
        if held.is_empty() {
            return Ok(0);
        }
        let words = home.words(&held).await?;
        let mut conflicts = 0;
        for ((_, user, other), word) in found.iter().zip(words) {
            if word != Word::Holds {
                continue;
            }
            conflicts += 1;
            if before + conflicts <= NAMED {
                let here: &SiteName = &self.here;
                tracing::warn!(service = %service.name, kind, site = %here, %user, %other, "the user has a name here that is the other's in the registry");
            }
        }
        Ok(conflicts)
    }
}

/// Comes back when the office is not ours any more, or nobody can say.
async fn lost(session: &postgres::connect::Session, office: &Office) -> Result<(), Failed> {
    loop {
        tokio::time::sleep(LOOK).await;
        if !office.is_ours(&**session).await? {
            return Err("another process has taken the office".into());
        }
    }
}
