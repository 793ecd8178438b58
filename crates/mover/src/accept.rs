//! The target's side of a handoff: one transaction, whose commit is the change of home.

use handoff::decision::{Decision, Outcome};
use handoff::judge::{Findings, Handoff, Judgement, answer, judge};
use handoff::record::{Event, Resident, State};
use model::fault::{Bug, planted, point};
use model::{BatchId, UserKey};
use postgres::barred::{Terms, barred};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::kept::{Keeping, Kept};
use postgres::shape::Shape;
use postgres::{foreign_keys, verify};
use residency::records::{self, Change};
use residency::{decisions, entries, inbound};
use serde_json::{Map, Value, json};
use tokio_postgres::Transaction;

use crate::desk::{commit, transaction};
use crate::error::{At, Error, Result};
use crate::route::{Offices, Route};
use crate::shapes::unchanged;

/// What the source says of a batch.
#[derive(Debug)]
pub struct Offer {
    /// The batch.
    pub handoff: Handoff,
    /// The source's digest, read after the fence.
    pub digest: BatchDigest,
    /// The digests of the other stores, read after the fence.
    pub manifests: Map<String, Value>,
}

impl Offer {
    /// The digest as it is stored with the decision.
    pub fn stored(&self) -> Value {
        let mut stored = self.manifests.clone();
        stored.insert("rows".to_owned(), json!(self.digest));
        Value::Object(stored)
    }
}

/// What the target found, in the transaction that it holds open until it is told what the source found.
pub struct Looked<'a> {
    tx: Transaction<'a>,
    kept: &'a Kept,
    records: Vec<Option<Resident>>,
    standing: Option<Decision>,
    findings: Findings,
    /// The target's own digests, of rows and of the other stores; `None` where there was no need to read.
    mine: Option<(BatchDigest, Map<String, Value>)>,
}

/// What follows from what both found.
#[derive(Debug)]
pub enum Word {
    /// This decision stands, committed.
    Stands(Decision),
    /// This one is to be inserted, in a transaction of its own.
    Refuse(Decision),
}

/// Reads in `tx`, at the target, what a handoff stands on, and locks it. To be called when the stream has passed the batch's fence:
/// from then on the batch's rows change no more, so that nothing has to be known of the source's own read, nor of the
/// offer, before [`Looked::judge`].
///
/// # Errors
/// [`Error::SchemaChanged`] where the tables are not what `shape` says.
pub async fn look<'a>(
    route: &Route,
    offices: &Offices,
    tx: Transaction<'a>,
    kept: &'a Kept,
    handoff: &Handoff,
    key: &DigestKey,
    shape: &Shape,
) -> Result<Looked<'a>> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "accepting a batch";
    let users: Vec<UserKey> = users_of(handoff);
    // Kept since before the fence: this sends nothing.
    let reader = verify::Reader::prepare(&tx, kept, &target.schema);
    let reader = reader.await.at(&target.site, doing)?;
    let asked = Keeping::new(&tx, kept);
    // Sent together; the server takes them in this order, so the records are locked before anything is read of them.
    let (office, prepared, records, standing, chunk, spoilt) = tokio::join!(
        biased;
        offices.arrivals.hold(&asked),
        reader.by_index(&tx),
        records::lock(&asked, target.kind(), &users),
        decisions::standing(&asked, &route.service, &handoff.batch),
        inbound::find(&asked, source, handoff.attempt),
        inbound::spoilt(&asked, source, handoff.attempt),
    );
    office.at(&target.site, doing)?;
    prepared.at(&target.site, doing)?;
    let records = records.at(&target.site, doing)?;
    let standing = standing.at(&target.site, doing)?;
    let chunk = chunk.at(&target.site, doing)?;
    let spoilt = spoilt
        .at(&target.site, doing)?
        .into_iter()
        .filter(|(user, _)| users.contains(user));
    let mut findings = Findings {
        complete: chunk.is_some_and(|chunk| chunk.state == "streaming"),
        against: spoilt.collect(),
    };
    let mut mine = None;
    if findings.complete && findings.against.is_empty() && standing.is_none() {
        let terms = match route.phase {
            Some(_) => Terms::Phase,
            None => Terms::Return,
        };
        let (digest, dangling, barred, now, manifests) = tokio::join!(
            biased;
            reader.digest(&tx, &users, key),
            foreign_keys::check(&tx, kept, &target.schema, &users),
            barred(&tx, kept, &target.schema, &users, (&route.service, &target.site), terms),
            // After the digest: once their rows were read, the tables cannot change before the transaction ends.
            Shape::read(&tx, kept, &target.schema),
            route.manifests.digest(&target.site, &users),
        );
        unchanged(target, shape.changed(&now.at(&target.site, doing)?))?;
        mine = Some((digest.at(&target.site, doing)?, manifests?));
        let dangling = dangling.at(&target.site, doing)?;
        let barred = barred.at(&target.site, doing)?.into_iter();
        findings
            .against
            .extend(barred.map(|(user, why)| (user, why.to_string())));
        let reason = |d: foreign_keys::Dangling| {
            (
                d.user,
                format!("{} does not hold at {}", d.constraint, target.site),
            )
        };
        findings.against.extend(dangling.into_iter().map(reason));
    }
    Ok(Looked {
        tx,
        kept,
        records,
        standing,
        findings,
        mine,
    })
}

impl Looked<'_> {
    /// Holds what the source says against it, and commits the acceptance, if that is what follows. The source has offered
    /// the batch, durably, before this is called.
    ///
    /// # Errors
    /// Any error leaves the outcome open: [`ask`] finds it.
    pub async fn judge(mut self, route: &Route, offer: &Offer, key: &DigestKey) -> Result<Word> {
        let (source, target) = (&route.source.site, &route.target);
        let doing = "accepting a batch";
        let tx = self.tx;
        let asked = Keeping::new(&tx, self.kept);
        if let Some((rows, manifests)) = &self.mine {
            let unverified = planted(Bug::AcceptUnverified) || planted(Bug::LoseRow);
            if (*rows != offer.digest || *manifests != offer.manifests) && !unverified {
                let users = users_of(&offer.handoff);
                let named = differing(route, &tx, offer, &users, key, rows).await?;
                self.findings.against.extend(named);
            }
        }
        let judgement = judge(
            &offer.handoff,
            &self.records,
            self.standing.as_ref(),
            &self.findings,
        );
        match judgement {
            Judgement::Repeat(standing) => Ok(Word::Stands(standing)),
            Judgement::Accept(accepted) => {
                let (users, next): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
                let stored = offer.stored();
                let body = json!({
                    "service": route.service, "batch": offer.handoff.batch, "from": source, "to": target.site,
                    "rows": offer.digest.rows(), "digest": stored,
                });
                let (written, outcome, entered) = tokio::join!(
                    biased;
                    records::write(&asked, target.kind(), &users, &next, None),
                    decisions::decide(
                        &asked,
                        &route.service,
                        &offer.handoff.batch,
                        source,
                        Decision::Accepted,
                        Some(&stored),
                    ),
                    entries::append(&asked, "arrived", body, &users),
                );
                written.at(&target.site, doing)?;
                entered.at(&target.site, doing)?;
                if let Outcome::Standing(standing) = outcome.at(&target.site, doing)? {
                    return Ok(Word::Stands(standing));
                }
                point("before-accept");
                commit(tx, target, doing).await?;
                point("after-accept");
                Ok(Word::Stands(Decision::Accepted))
            }
            Judgement::Refuse(decision) => {
                tx.rollback()
                    .await
                    .map_err(|e| postgres::Error::from_server(doing, e))
                    .at(&target.site, doing)?;
                Ok(Word::Refuse(decision))
            }
        }
    }
}

/// Makes `word` the target's answer: durable when this returns.
///
/// # Errors
/// Any error leaves the outcome open: [`ask`] finds it.
pub async fn answer_with(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    offer: &Offer,
    word: Word,
) -> Result<Decision> {
    match word {
        Word::Stands(decision) => {
            make_durable(session, &route.target).await?;
            Ok(decision)
        }
        Word::Refuse(decision) => {
            let users = users_of(&offer.handoff);
            let batch = &offer.handoff.batch;
            refuse(
                route,
                offices,
                session,
                batch,
                &users,
                Some(offer),
                decision,
            )
            .await
        }
    }
}

pub(crate) fn users_of(handoff: &Handoff) -> Vec<UserKey> {
    let users = handoff.users.iter();
    users.map(|(user, _)| user.clone()).collect()
}

/// Users whose rows differ from the source's, by a digest of each.
async fn differing(
    route: &Route,
    tx: &Transaction<'_>,
    offer: &Offer,
    users: &[UserKey],
    key: &DigestKey,
    mine: &BatchDigest,
) -> Result<Vec<(UserKey, String)>> {
    let (source, target) = (&route.source, &route.target);
    let doing = "finding the rows that differ";
    let here = verify::digest_each(tx, &target.schema, users, key)
        .await
        .at(&target.site, doing)?;
    let mut session = source.session("verify").await?;
    let there_tx = transaction(&mut session, source, doing).await?;
    let there = verify::digest_each(&there_tx, &source.schema, users, key)
        .await
        .at(&source.site, doing)?;
    let mut named = Vec::new();
    for user in users {
        let tables = here[user].differing_tables(&there[user]);
        if !tables.is_empty() {
            named.push((
                user.clone(),
                format!("verification: rows of {} differ", tables.join(", ")),
            ));
        }
    }
    if named.is_empty() {
        // The whole differs and no part does: nobody of the batch may go.
        let tables = mine.differing_tables(&offer.digest).join(", ");
        let reason = format!("verification: the batch differs ({tables})");
        named.extend(users.iter().map(|user| (user.clone(), reason.clone())));
    }
    Ok(named)
}

/// Inserts a refusal, unless a decision stands; named users go to `clearing` in the same transaction.
async fn refuse(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    batch: &BatchId,
    users: &[UserKey],
    offer: Option<&Offer>,
    wish: Decision,
) -> Result<Decision> {
    let (source, target) = (&route.source.site, &route.target);
    let doing = "refusing a batch";
    let tx = transaction(session, target, doing).await?;
    offices.arrivals.hold(&tx).await.at(&target.site, doing)?;
    let records = records::lock(&tx, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let outcome = decisions::decide(&tx, &route.service, batch, source, wish, None)
        .await
        .at(&target.site, doing)?;
    if let (Outcome::Decided(Decision::Refused { named, .. }), Some(offer)) = (&outcome, offer) {
        let mut changes = Vec::new();
        for ((user, epoch), record) in offer.handoff.users.iter().zip(&records) {
            let arrives = matches!(record.as_ref().map(|r| &r.state),
                Some(State::Arriving { attempt, .. }) if *attempt == offer.handoff.attempt);
            if arrives && named.iter().any(|(name, _)| name == user) {
                let event = Event::Clear {
                    attempt: offer.handoff.attempt,
                    epoch: Some(*epoch),
                };
                changes.push(Change {
                    user: user.clone(),
                    event,
                });
            }
        }
        records::change(&tx, target.kind(), &changes, None)
            .await
            .at(&target.site, doing)?;
        let body =
            json!({"service": route.service, "batch": batch, "from": source, "to": target.site});
        entries::append(&tx, "refused", body, users)
            .await
            .at(&target.site, doing)?;
    }
    let word = outcome.word().clone();
    point("before-refuse");
    commit(tx, target, doing).await?;
    point("after-refuse");
    make_durable(session, target).await?;
    Ok(word)
}

/// Asks what became of a batch: the standing decision, or a refusal that is inserted as the answer.
pub async fn ask(
    route: &Route,
    offices: &Offices,
    session: &mut Session,
    batch: &BatchId,
    users: &[UserKey],
) -> Result<Decision> {
    let target = &route.target;
    let doing = "asking about a batch";
    let standing = decisions::standing(&**session, &route.service, batch)
        .await
        .at(&target.site, doing)?;
    let records = records::look(&**session, target.kind(), users)
        .await
        .at(&target.site, doing)?;
    let wish = answer(standing.as_ref(), &records);
    if standing.is_some() || planted(Bug::AnswerFromState) && wish == Decision::Accepted {
        return Ok(wish);
    }
    refuse(route, offices, session, batch, users, None, wish).await
}

/// A COMMIT whose wait for a standby was cancelled reports success with a warning: then another one is waited for,
/// whose success says that the first is on the standbys too.
pub(crate) async fn make_durable(session: &Session, end: &crate::route::End) -> Result<()> {
    let mut before = session.unconfirmed_commits();
    if before == 0 {
        return Ok(());
    }
    let doing = "waiting until a commit is on the standbys";
    loop {
        residency::journal::beat(&**session)
            .await
            .at(&end.site, doing)?;
        let now = session.unconfirmed_commits();
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

/// The error of a batch whose answer could not be had.
pub(crate) fn in_doubt(route: &Route, batch: &BatchId, source: Error) -> Error {
    Error::InDoubt {
        batch: batch.clone(),
        site: route.target.site.clone(),
        source: Box::new(source),
    }
}
