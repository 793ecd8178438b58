//! A home database, as claims use it: sessions that are kept, and what its rows say of names.

use std::ops::{Deref, DerefMut};

use model::{ServiceName, SiteName, UserKey};
use postgres::connect::{Session, connect};
use postgres::names::{Name, Names};
use residency::claims::{self, Activity};
use residency::gateways::{self, Facts, Stand};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard, OnceCell, Semaphore, SemaphorePermit};
use tokio_postgres::{IsolationLevel, Transaction};

use super::hash::Hasher;
use super::word::{Held, Word};
use super::{Failed, Kinds};
use crate::config::Database;

/// Sessions of one process with one database: each claim is a commit, and a disk takes some hundred of these a second.
const SESSIONS: usize = 4;

/// The home database of a service at this site.
pub(super) struct Home {
    service: ServiceName,
    site: SiteName,
    database: Database,
    kinds: Kinds,
    hasher: Hasher,
    slots: [Mutex<Option<Session>>; SESSIONS],
    permits: Semaphore,
    facts: OnceCell<Facts>,
}

/// A session, for as long as somebody needs it.
pub(super) struct Borrowed<'a> {
    session: MappedMutexGuard<'a, Session>,
    _permit: SemaphorePermit<'a>,
}

// === impl Home ===

impl Home {
    pub fn new(
        (service, site): (&ServiceName, &SiteName),
        database: &Database,
        kinds: &Kinds,
        hasher: &Hasher,
    ) -> Self {
        Self {
            service: service.clone(),
            site: site.clone(),
            database: database.clone(),
            kinds: kinds.clone(),
            hasher: hasher.clone(),
            slots: Default::default(),
            permits: Semaphore::new(SESSIONS),
            facts: OnceCell::new(),
        }
    }

    /// A session, of which there are few: waits until one is free.
    pub async fn session(&self) -> Result<Borrowed<'_>, Failed> {
        let permit = self.permits.acquire().await?;
        // There are as many slots as permits: one is free.
        let mut free = self.slots.iter().filter_map(|slot| slot.try_lock().ok());
        let mut slot = free.next().ok_or("no session is free")?;
        if slot.as_ref().is_none_or(|session| session.is_closed()) {
            *slot = Some(self.open("gateway claims").await?);
        }
        let session = MutexGuard::try_map(slot, Option::as_mut).map_err(|_| "no session")?;
        Ok(Borrowed {
            session,
            _permit: permit,
        })
    }

    /// A session of one's own.
    pub async fn open(&self, purpose: &str) -> Result<Session, Failed> {
        let url = self.database.url()?;
        Ok(connect(url.expose(), purpose).await?)
    }

    /// What this database is. Another site's would answer for its own users.
    pub async fn facts(&self, session: &Session) -> Result<&Facts, Failed> {
        let read = || async {
            let facts = gateways::facts(&**session).await?;
            let ours = facts.site == self.site && facts.service == self.service.as_str();
            match ours {
                true => Ok(facts),
                false => Err(Failed::from(format!(
                    "the database is installed for {} at {}: correct its URL",
                    facts.service, facts.site
                ))),
            }
        };
        self.facts.get_or_try_init(read).await
    }

    /// What its records and rows say of each of `claims`. Who still writes is looked at first, then all the rest in one snapshot: what those
    /// wrote who have ended is seen in it, and who lives here in it holds what it shows and nothing else.
    pub async fn words(&self, asked: &[Held]) -> Result<Vec<Word>, Failed> {
        let mut session = self.session().await?;
        let keys = self.facts(&session).await?.kind;
        let activity = claims::activity(&**session).await?;
        let tx = snapshot(&mut session).await?;
        let users: Vec<UserKey> = asked.iter().map(|held| held.user.clone()).collect();
        let stands = gateways::look(&tx, keys, &users).await?;
        let mut names = Vec::new();
        for (kind, column) in &self.kinds.columns {
            let of_kind = asked.iter().filter(|held| held.kind == *kind);
            let valid = of_kind.filter(|held| keys.accepts(held.user.as_str()));
            let users: Vec<UserKey> = valid.map(|held| held.user.clone()).collect();
            if !users.is_empty() {
                let rows = self.names(column, keys).of(&tx, &users).await?;
                names.extend(
                    rows.into_iter()
                        .map(|(user, name)| (user, self.hash(kind, &name))),
                );
            }
        }
        tx.commit().await?;
        let word = |(held, (_, stand)): (&Held, &(UserKey, Stand))| {
            if !self.kinds.columns.contains_key(&held.kind) {
                return Word::Unsure;
            }
            let holds = names
                .iter()
                .any(|(user, name)| *user == held.user && *name == held.name.0);
            said(stand, holds, activity, held.since_us)
        };
        Ok(asked.iter().zip(&stands).map(word).collect())
    }

    /// The next names of `kind` after the user `after`, of all users who live here, and the last user of the page; `None` after the last page.
    pub async fn page(
        &self,
        kind: &str,
        after: Option<&UserKey>,
        most: i64,
    ) -> Result<Option<Page>, Failed> {
        let Some(column) = self.kinds.columns.get(kind) else {
            return Ok(None);
        };
        let mut session = self.session().await?;
        let keys = self.facts(&session).await?.kind;
        let tx = snapshot(&mut session).await?;
        let rows = self.names(column, keys).page(&tx, after, most).await?;
        let Some((last, _)) = rows.last() else {
            return Ok(None);
        };
        let last = last.clone();
        let users: Vec<UserKey> = rows.iter().map(|(user, _)| user.clone()).collect();
        let stands = gateways::look(&tx, keys, &users).await?;
        tx.commit().await?;
        let living = rows.into_iter().zip(stands).filter(|(_, (_, stand))| {
            // Whoever is fenced lives here until his target has accepted.
            matches!(stand, Stand::Here { .. } | Stand::Closed { .. })
        });
        let names = living.map(|((user, name), _)| {
            let name = self.hash(kind, &name);
            (user, name)
        });
        Ok(Some(Page {
            names: names.collect(),
            last,
        }))
    }

    /// How `user` stands with this site.
    pub async fn look(&self, user: &UserKey) -> Result<Stand, Failed> {
        let session = self.session().await?;
        let keys = self.facts(&session).await?.kind;
        let mut stands = gateways::look(&**session, keys, std::slice::from_ref(user)).await?;
        let stand = stands.pop().map(|(_, stand)| stand);
        stand.ok_or_else(|| "nothing was said of a user".into())
    }

    fn hash(&self, kind: &str, name: &Name) -> claims::Hash {
        self.hasher.name(self.service.as_str(), kind, name.expose())
    }

    fn names(&self, column: &str, kind: model::KeyKind) -> Names {
        Names {
            table: self.kinds.table.clone(),
            key: self.kinds.key.clone(),
            column: column.to_owned(),
            kind,
        }
    }
}

/// Names of users who live here.
pub(super) struct Page {
    pub names: Vec<(UserKey, claims::Hash)>,
    pub last: UserKey,
}

async fn snapshot(session: &mut Session) -> Result<Transaction<'_>, tokio_postgres::Error> {
    session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
}

/// What a home says of a user who stands with it so, and who holds the name or not.
fn said(stand: &Stand, holds: bool, activity: Activity, since_us: Option<i64>) -> Word {
    let since = since_us.unwrap_or(activity.now_us);
    let since_us = (!activity.is_quiet_since(since)).then_some(since);
    match stand {
        Stand::Here { .. } if holds => Word::Holds,
        Stand::Here { .. } => Word::Lacks { since_us },
        Stand::Elsewhere { home: site, .. } | Stand::Arriving { from: site, .. } => {
            Word::Elsewhere { site: site.clone() }
        }
        Stand::Unknown { .. } => Word::Unknown { since_us },
        Stand::Closed { .. } | Stand::Lost { .. } => Word::Unsure,
    }
}

// === impl Borrowed ===

impl Deref for Borrowed<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
