//! What the registry answers, out of its database; and what a home does.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{SiteName, UserKey};
use residency::claims::{self, Answer, Entry, Finding, Hash, Operation};
use residency::gateways::Stand;

use super::judge::{Step, step};
use super::settle::Since;
use super::word::{Ask, Held, Located, Said, Text, What, Word};
use super::{Claims, Failed, Home, Service};

/// How long an answer may take: a commit may wait for its standbys for ever. Shorter than whoever asks waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// How often a release looks again whose claim was renewed meanwhile.
const TRIES: usize = 3;

/// A request for a name, by its user.
struct Request<'a> {
    operation: Hash,
    kind: &'a str,
    name: Hash,
    user: &'a UserKey,
}

// === impl Claims ===

impl Claims {
    /// Answers `from`, a site. What cannot be done in time because something is not reached says so; it may be done yet, and may be asked again.
    pub(super) async fn answer(&self, from: &SiteName, ask: Ask) -> Said {
        let answered = tokio::time::timeout(PATIENCE, self.answer_in_time(from, ask)).await;
        answered.unwrap_or(Said::Unreached)
    }

    async fn answer_in_time(&self, from: &SiteName, ask: Ask) -> Said {
        let refused = |why: &str| Said::Refused {
            why: why.to_owned(),
        };
        let Some(service) = self.services.get(&ask.service) else {
            return refused("this site knows no claims of the service");
        };
        if ask.key.0 != service.hasher.key() {
            tracing::error!(service = %service.name, peer = %from, "the two sites have different keys for claims: nothing can be claimed");
            return Said::OtherKey;
        }
        if let What::Hold { claims } = ask.what {
            if *from != service.at {
                return refused("the registry of the service is at another site");
            }
            let words = service.words(&claims).await;
            return said_of(service, words.map(|words| Said::Words { words }));
        }
        let Some(home) = service.home.as_ref().filter(|_| service.at == self.here) else {
            return refused("the registry of the service is not here");
        };
        let answered = match &ask.what {
            What::Claim {
                operation,
                kind,
                name,
                user,
            } => {
                let request = Request::new(operation, kind, name, user);
                service.claim(home, from, &request).await
            }
            What::Release {
                operation,
                kind,
                name,
                user,
            } => {
                let request = Request::new(operation, kind, name, user);
                self.release(service, home, &request).await
            }
            What::Locate { name } => service.locate(home, &self.here, name.0).await,
            What::Begin { kind } => service.begin(home, from, kind).await,
            What::Tell { kind, names } => service.tell(home, from, kind, names).await,
            What::End { kind } => service.end(home, from, kind).await,
            What::Filled { kind } => service.filled(home, kind).await,
            What::Hold { .. } => return refused("a home is asked that"),
        };
        said_of(service, answered)
    }

    /// What `site` says of each of `claims`, in their order.
    async fn hold(&self, site: &SiteName, service: &Service, claims: Vec<Held>) -> Vec<Word> {
        let unsure = vec![Word::Unsure; claims.len()];
        let said = match *site == self.here {
            true => {
                let words = service.words(&claims).await;
                said_of(service, words.map(|words| Said::Words { words }))
            }
            false => self.ask_peer(site, service, What::Hold { claims }).await,
        };
        match said {
            Said::Words { words } if words.len() == unsure.len() => words,
            _ => unsure,
        }
    }

    async fn release(
        &self,
        service: &Service,
        home: &Home,
        request: &Request<'_>,
    ) -> Result<Said, Failed> {
        for _ in 0..TRIES {
            let entry = {
                let session = home.session().await?;
                let keys = home.facts(&session).await?.kind;
                let Some(operation) = request.operation(keys) else {
                    return Ok(Said::Refused {
                        why: "this is no key of a user, as PostgreSQL prints them".to_owned(),
                    });
                };
                let before = session.unconfirmed_commits();
                if let Some(answer) = claims::released_before(&**session, &operation).await? {
                    return Ok(match session.unconfirmed_commits() == before {
                        true => service.answered(answer),
                        false => Said::Unreached,
                    });
                }
                claims::locate(&**session, request.name).await?
            };
            // No session is held while the homes are asked: they may need one.
            let own = entry.iter().filter(|entry| entry.user == *request.user);
            let asked: Vec<_> = own.map(|entry| (request.name, entry.clone())).collect();
            let finding = self
                .find(service, &asked, &mut Since::default())
                .await
                .pop();
            let mut session = home.session().await?;
            let keys = home.facts(&session).await?.kind;
            let Some(operation) = request.operation(keys) else {
                continue;
            };
            let before = session.unconfirmed_commits();
            // Of another user's, or of nobody's, nobody was asked.
            let finding = finding.unwrap_or(Finding::Waits);
            if finding == Finding::Unsure {
                return Ok(Said::Unreached);
            }
            let released =
                claims::release(&mut session, &operation, entry.as_ref(), &finding).await?;
            if session.unconfirmed_commits() != before {
                return Ok(Said::Unreached);
            }
            if let Some(answer) = released {
                return Ok(service.answered(answer));
            }
        }
        Ok(Said::Unreached)
    }

    /// What the homes say of each of `claims`, asked as [`step`] says: all that one site is asked about goes together.
    pub(super) async fn find(
        &self,
        service: &Service,
        claims: &[(Hash, Entry)],
        since: &mut Since,
    ) -> Vec<Finding> {
        let mut words: Vec<BTreeMap<SiteName, Word>> = vec![BTreeMap::new(); claims.len()];
        loop {
            let mut asks: BTreeMap<SiteName, Vec<usize>> = BTreeMap::new();
            let mut found = Vec::with_capacity(claims.len());
            for (n, (_, entry)) in claims.iter().enumerate() {
                match step(&entry.site, &service.sites, &words[n]) {
                    Step::Ask(site) => asks.entry(site).or_default().push(n),
                    Step::Found(finding) => found.push(finding),
                }
            }
            if asks.is_empty() {
                return found;
            }
            for (site, asked) in asks {
                let held = asked.iter().map(|n| {
                    let (name, entry) = &claims[*n];
                    Held {
                        kind: entry.kind.clone(),
                        user: entry.user.clone(),
                        name: Text(*name),
                        since_us: since.of(*name, entry.turn, &site),
                    }
                });
                let claims_asked = held.collect();
                let said = self.hold(&site, service, claims_asked).await;
                for (n, word) in asked.into_iter().zip(said) {
                    let (name, entry) = &claims[n];
                    since.heard(*name, entry.turn, &site, &word);
                    words[n].insert(site.clone(), word);
                }
            }
        }
    }
}

fn said_of(service: &Service, answered: Result<Said, Failed>) -> Said {
    answered.unwrap_or_else(|why| {
        let other = why.downcast_ref::<residency::Error>();
        if let Some(residency::Error::Refused(what)) = other
            && what == claims::OTHER
        {
            return Said::Reused;
        }
        let why = crate::config::scrub(&model::causes(&*why).to_string());
        tracing::warn!(service = %service.name, why, "the home database could not be asked about claims");
        Said::Unreached
    })
}

// === impl Service ===

impl Service {
    fn answered(&self, answer: Answer) -> Said {
        Said::Answer {
            answer,
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn claim(
        &self,
        home: &Home,
        from: &SiteName,
        request: &Request<'_>,
    ) -> Result<Said, Failed> {
        if !self.kinds.columns.contains_key(request.kind) {
            return Ok(Said::Refused {
                why: "the registry's configuration has no such kind of name".to_owned(),
            });
        }
        let mut session = home.session().await?;
        let keys = home.facts(&session).await?.kind;
        let Some(operation) = request.operation(keys) else {
            return Ok(Said::Refused {
                why: "this is no key of a user, as PostgreSQL prints them".to_owned(),
            });
        };
        if !claims::is_filled(&**session, request.kind, &self.sites).await? {
            return Ok(Said::Filling);
        }
        let before = session.unconfirmed_commits();
        let answer = claims::claim(&mut session, &operation, from, self.lease).await?;
        // A commit that returned without its standbys' word may be lost with them: nothing is said then, and asked again it is a commit again.
        Ok(match session.unconfirmed_commits() == before {
            true => self.answered(answer),
            false => Said::Unreached,
        })
    }

    async fn locate(&self, home: &Home, here: &SiteName, name: Hash) -> Result<Said, Failed> {
        let entry = {
            let session = home.session().await?;
            claims::locate(&**session, name).await?
        };
        let Some(entry) = entry else {
            return Ok(Said::Located { located: None });
        };
        // The records know of a move at once; the entry when the new home tells its names.
        let (site, epoch) = match home.look(&entry.user).await? {
            Stand::Here { epoch } | Stand::Closed { epoch, .. } => (here.clone(), epoch.0),
            Stand::Elsewhere { home, epoch } => (home, epoch.0),
            Stand::Arriving { from, epoch } => (from, epoch.0),
            Stand::Lost { .. } | Stand::Unknown { .. } => (entry.site, 0),
        };
        Ok(Said::Located {
            located: Some(Located {
                user: entry.user,
                site,
                epoch,
                held: entry.held,
            }),
        })
    }

    async fn begin(&self, home: &Home, from: &SiteName, kind: &str) -> Result<Said, Failed> {
        claims::begins(&**home.session().await?, from, kind).await?;
        Ok(Said::Done)
    }

    async fn tell(
        &self,
        home: &Home,
        from: &SiteName,
        kind: &str,
        names: &[(UserKey, Text)],
    ) -> Result<Said, Failed> {
        let session = home.session().await?;
        let keys = home.facts(&session).await?.kind;
        let names: Vec<(UserKey, Hash)> = names
            .iter()
            .filter(|(user, _)| keys.accepts(user.as_str()))
            .map(|(user, name)| (user.clone(), name.0))
            .collect();
        let turned = claims::tell(&**session, keys, from, kind, &names).await?;
        let conflicts = turned.conflicts.into_iter();
        Ok(Said::Told {
            conflicts: conflicts
                .map(|(name, user, other)| (Text(name), user, other))
                .collect(),
        })
    }

    async fn end(&self, home: &Home, from: &SiteName, kind: &str) -> Result<Said, Failed> {
        let session = home.session().await?;
        claims::ends(&**session, from, kind).await?;
        drop(session);
        self.filled(home, kind).await
    }

    async fn filled(&self, home: &Home, kind: &str) -> Result<Said, Failed> {
        let session = home.session().await?;
        let filled = claims::is_filled(&**session, kind, &self.sites).await?;
        Ok(Said::Ended { filled })
    }

    /// What this site says of each of `claims`.
    async fn words(&self, claims: &[Held]) -> Result<Vec<Word>, Failed> {
        match &self.home {
            Some(home) => home.words(claims).await,
            // Nobody lives at a site without a database of the service.
            None => Ok(vec![Word::Unknown { since_us: None }; claims.len()]),
        }
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    fn new(operation: &Text, kind: &'a str, name: &Text, user: &'a UserKey) -> Self {
        Self {
            operation: operation.0,
            kind,
            name: name.0,
            user,
        }
    }

    /// `None` where the user's key is none of the service's, as PostgreSQL prints them.
    fn operation(&self, keys: model::KeyKind) -> Option<Operation<'_>> {
        let canonical = keys.canonical(self.user.as_str());
        (canonical.as_ref() == Some(self.user)).then_some(Operation {
            id: self.operation,
            user: self.user,
            keys,
            kind: self.kind,
            name: self.name,
        })
    }
}
