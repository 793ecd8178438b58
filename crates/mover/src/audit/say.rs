//! A site's answers, from its own database.

use std::collections::BTreeMap;

use handoff::record::{Resident, State};
use model::table::HomeSchema;
use model::{BatchId, KeyKind, ServiceName, SiteName, UserKey};
use postgres::audit::{held, keys_page};
use postgres::census::users_exist;
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::preflight::reference_digest_of;
use postgres::verify;
use residency::journal::{self, BatchRow};
use residency::{audit, decisions, records};
use tokio_postgres::{IsolationLevel, Transaction};

use super::{
    Ask, BATCHES_MAX, Frozen, Key, STRAYS, Said, Stands, USERS_MAX, named as first_of, page,
};
use crate::error::{At, Error, Result};

const DOING: &str = "looking back at users";

/// The database that answers.
#[derive(Debug)]
pub struct Here<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The site.
    pub site: &'a SiteName,
    /// Its classified tables.
    pub schema: &'a HomeSchema,
    /// Whether it is the service's origin.
    pub origin: bool,
    /// A session there.
    pub session: &'a mut Session,
}

/// What this site says to `asker`, or to its own people.
///
/// # Errors
/// Where the database does not answer; [`Error::Disorder`] of a question that is too long, or that a peer may not ask.
pub async fn say(here: &mut Here<'_>, asker: Option<&SiteName>, ask: &Ask) -> Result<Said> {
    if ask.is_too_long() {
        return Err(here.disorder(asker));
    }
    Ok(match ask {
        Ask::Users(after) => Said::Users(here.users(asker, after.as_ref()).await?),
        Ask::Standing(users) => Said::Users(here.standing(asker, users).await?),
        Ask::Records(users) => Said::Records(here.records(asker, users).await?),
        Ask::Held(users) => {
            let users = match (users, asker) {
                (Some(users), Some(asker)) => Some(here.not_its_own(asker, users).await?),
                (None, Some(_)) => return Err(here.disorder(asker)),
                (users, None) => users.clone(),
            };
            let held = held(here.session, here.schema, users.as_deref(), STRAYS).await;
            Said::Held(held.at(here.site, DOING)?)
        }
        Ask::Batches(from, users) => {
            Said::Batches(here.batches(asker, *from, users.as_deref()).await?)
        }
        Ask::Decided(batch) => Said::Decided(here.decided(asker, batch).await?),
        Ask::Frozen(batch, decided) => {
            Said::Frozen(here.frozen(asker, batch, decided.as_ref()).await?)
        }
        Ask::Each(batch, key, from) => {
            let (each, next) = here.each(asker, batch, key, *from).await?;
            Said::Each(each, next)
        }
        Ask::Unchanged(batch, key, users) => here.unchanged(asker, batch, key, users).await?,
        Ask::Reference(table, key) => {
            let digest = reference_digest_of(here.session, here.schema, table, key).await;
            Said::Reference(digest.at(here.site, DOING)?)
        }
    })
}

// === impl Here ===

impl Here<'_> {
    fn kind(&self) -> KeyKind {
        self.schema.users.kind
    }

    fn disorder(&self, asker: Option<&SiteName>) -> Error {
        let site = asker.unwrap_or(self.site).clone();
        Error::Disorder { site }
    }

    async fn users(
        &self,
        asker: Option<&SiteName>,
        after: Option<&UserKey>,
    ) -> Result<Vec<UserKey>> {
        let limit = u32::try_from(USERS_MAX).unwrap_or(u32::MAX);
        let users = keys_page(self.session, self.schema, asker, after, limit).await;
        let mut users = users.at(self.site, DOING)?;
        users.truncate(page(&users));
        Ok(users)
    }

    async fn standing(
        &mut self,
        asker: Option<&SiteName>,
        users: &[UserKey],
    ) -> Result<Vec<UserKey>> {
        let found = users_exist(self.session, self.schema, self.origin, users).await;
        let mut found: Vec<UserKey> = found.at(self.site, DOING)?.into_keys().collect();
        if let Some(asker) = asker {
            let concerned = audit::concerned(&**self.session, self.kind(), &found, asker).await;
            let concerned = concerned.at(self.site, DOING)?;
            found.retain(|user| concerned.contains(user));
        }
        Ok(found)
    }

    async fn look(&self, users: &[UserKey]) -> Result<Vec<Option<Resident>>> {
        let records = records::look(&**self.session, self.kind(), users).await;
        records.at(self.site, DOING)
    }

    /// A peer is told of whoever concerns it. Of nobody else, but where he lives here and there: that both must know, and a peer that only tries whom this
    /// site has is loud in doing so.
    async fn records(
        &self,
        asker: Option<&SiteName>,
        users: &[(UserKey, bool)],
    ) -> Result<Vec<Option<Stands>>> {
        let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
        let records = self.look(&keys).await?;
        let stands = records
            .iter()
            .map(|record| record.as_ref().map(|record| Stands::from(&record.state)));
        let Some(asker) = asker else {
            return Ok(stands.collect());
        };
        let concerned = audit::concerned(&**self.session, self.kind(), &keys, asker).await;
        let concerned = concerned.at(self.site, DOING)?;
        let mut claimed = 0_u64;
        let told = users.iter().zip(stands).map(|((user, lives), stands)| {
            if concerned.contains(user) {
                return stands;
            }
            let both = stands.filter(|stands| *lives && stands.is_home());
            claimed += u64::from(both.is_some());
            both
        });
        let told = told.collect();
        if claimed > 0 {
            tracing::error!(
                service = %self.service, peer = %asker, users = claimed,
                "the peer has users for its own who live here and never left: two homes, or it tries who lives here"
            );
        }
        Ok(told)
    }

    /// Those of `users` of whose rows a peer may hear: who concern it, and who have no business here.
    async fn not_its_own(&self, asker: &SiteName, users: &[UserKey]) -> Result<Vec<UserKey>> {
        let concerned = audit::concerned(&**self.session, self.kind(), users, asker).await;
        let concerned = concerned.at(self.site, DOING)?;
        let records = self.look(users).await?;
        let told = users.iter().zip(records).filter(|(user, record)| {
            let lives = record.as_ref().is_some_and(|one| one.state.is_home());
            concerned.contains(*user) || !lives
        });
        Ok(told.map(|(user, _)| user.clone()).collect())
    }

    async fn batches(
        &self,
        asker: Option<&SiteName>,
        from: u32,
        users: Option<&[UserKey]>,
    ) -> Result<Vec<(BatchId, SiteName)>> {
        let moves = journal::moves(&**self.session).await.at(self.site, DOING)?;
        let targets: BTreeMap<_, _> = moves.into_iter().map(|row| (row.id, row.target)).collect();
        let left = audit::departed(&**self.session, self.kind(), None, users).await;
        let left = left.at(self.site, DOING)?.into_iter();
        let left = left.filter_map(|one| Some((one.batch, targets.get(&one.r#move)?.clone())));
        let left = left.filter(|(_, target)| asker.is_none_or(|asker| asker == target));
        Ok(left.skip(from as usize).take(BATCHES_MAX).collect())
    }

    async fn decided(
        &self,
        asker: Option<&SiteName>,
        batch: &BatchId,
    ) -> Result<Option<BatchDigest>> {
        if !self.accepted(asker, batch).await? {
            return Ok(None);
        }
        let digest = audit::decided_digest(&**self.session, self.service, batch).await;
        let digest = digest.at(self.site, DOING)?;
        Ok(digest.as_ref().and_then(rows_of))
    }

    /// Whether a batch of the asker's was accepted here; its own people may ask of any.
    async fn accepted(&self, asker: Option<&SiteName>, batch: &BatchId) -> Result<bool> {
        let Some(asker) = asker else { return Ok(true) };
        let accepted = decisions::accepted_from(&**self.session, self.service, batch, asker).await;
        accepted.at(self.site, DOING)
    }

    async fn frozen(
        &mut self,
        asker: Option<&SiteName>,
        batch: &BatchId,
        decided: Option<&BatchDigest>,
    ) -> Result<Frozen> {
        let (site, schema) = (self.site, self.schema);
        let key = audit::digest_key(&**self.session).await.at(site, DOING)?;
        let snapshot = snapshot(self.session, site).await?;
        let Some(batch) = left(&snapshot, (site, self.schema.users.kind), asker, batch).await?
        else {
            return Ok(Frozen::Past);
        };
        let own = batch.digest.as_ref().and_then(rows_of);
        let Some(agreed) = own.as_ref().or(decided) else {
            return Ok(Frozen::Undigested);
        };
        let users = users_of(&batch);
        let found = verify::digest(&snapshot, schema, &users, &DigestKey::new(key)).await;
        let found = found.at(site, DOING)?;
        let differing = agreed.differing_tables(&found).into_iter();
        let (named, more) = first_of(&batch);
        Ok(Frozen::Compared {
            differing: differing.map(str::to_owned).collect(),
            named,
            more,
        })
    }

    async fn each(
        &mut self,
        asker: Option<&SiteName>,
        batch: &BatchId,
        key: &Key,
        from: u32,
    ) -> Result<(Vec<(UserKey, [u8; 32])>, Option<u32>)> {
        let (site, schema) = (self.site, self.schema);
        let snapshot = snapshot(self.session, site).await?;
        let Some(batch) = left(&snapshot, (site, self.schema.users.kind), asker, batch).await?
        else {
            return Ok((Vec::new(), None));
        };
        let users = users_of(&batch);
        let rest = users.get(from as usize..).unwrap_or_default();
        let these = &rest[..page(rest).min(rest.len())];
        let each = verify::digest_each(&snapshot, schema, these, &DigestKey::new(*key)).await;
        let each = each.at(site, DOING)?.into_iter();
        let next = (these.len() < rest.len())
            .then(|| u32::try_from(these.len()).ok()?.checked_add(from))
            .flatten();
        Ok((
            each.map(|(user, digest)| (user, digest.hash())).collect(),
            next,
        ))
    }

    async fn unchanged(
        &mut self,
        asker: Option<&SiteName>,
        batch: &BatchId,
        key: &Key,
        rows: &[(UserKey, [u8; 32])],
    ) -> Result<Said> {
        let (mut unchanged, mut changed) = (0, 0);
        if self.accepted(asker, batch).await? {
            let (site, schema) = (self.site, self.schema);
            let mut users: Vec<UserKey> = rows.iter().map(|(user, _)| user.clone()).collect();
            if let Some(asker) = asker {
                let concerned = audit::concerned(&**self.session, self.kind(), &users, asker).await;
                let concerned = concerned.at(site, DOING)?;
                users.retain(|user| concerned.contains(user));
            }
            let snapshot = snapshot(self.session, site).await?;
            let records = records::look(&snapshot, schema.users.kind, &users).await;
            // Of somebody who has gone on nothing is said.
            let mut records = records.at(site, DOING)?.into_iter();
            users.retain(|_| {
                let record = records.next().flatten();
                record.is_some_and(|record| record.state.is_home())
            });
            let now = verify::digest_each(&snapshot, schema, &users, &DigestKey::new(*key)).await;
            let now = now.at(site, DOING)?;
            let left: BTreeMap<&UserKey, _> =
                rows.iter().map(|(user, hash)| (user, hash)).collect();
            for (user, digest) in &now {
                match left.get(user) == Some(&&digest.hash()) {
                    true => unchanged += 1,
                    false => changed += 1,
                }
            }
        }
        Ok(Said::Compared { unchanged, changed })
    }
}

fn users_of(batch: &BatchRow) -> Vec<UserKey> {
    batch.users.iter().map(|(user, _)| user.clone()).collect()
}

/// The digest of rows in what a journal or a decision keeps.
fn rows_of(digest: &serde_json::Value) -> Option<BatchDigest> {
    serde_json::from_value(digest.get("rows")?.clone()).ok()
}

/// The batch, if it left for the asker and all that its users left still stands there.
async fn left(
    tx: &Transaction<'_>,
    (site, kind): (&SiteName, KeyKind),
    asker: Option<&SiteName>,
    batch: &BatchId,
) -> Result<Option<BatchRow>> {
    let batch = audit::batch(tx, batch).await.at(site, DOING)?;
    let Some(batch) = batch.filter(|one| asker.is_none_or(|asker| one.target == *asker)) else {
        return Ok(None);
    };
    let records = records::look(tx, kind, &users_of(&batch)).await;
    let records = records.at(site, DOING)?;
    let frozen = batch
        .users
        .iter()
        .zip(&records)
        .all(|((_, epoch), record)| {
            matches!(record.as_ref().map(|r| &r.state),
            Some(State::Departed { epoch: at, erased: false, .. }) if at == epoch)
        });
    Ok(frozen.then_some(batch))
}

async fn snapshot<'a>(session: &'a mut Session, site: &SiteName) -> Result<Transaction<'a>> {
    let begun = session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await;
    begun
        .map_err(|error| postgres::Error::from_server(DOING, error))
        .at(site, DOING)
}
