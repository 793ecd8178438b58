//! The target's side of a handoff: one transaction, whose commit is the change of home.

use std::collections::BTreeMap;
use std::time::Instant;

use handoff::decision::{Decision, Outcome};
use handoff::judge::{Findings, Handoff, Judgement, answer, judge};
use handoff::record::{Event, Resident, State};
use model::fault::{Bug, planted, point};
use model::{Attempt, BatchId, Epoch, UserKey};
use postgres::barred::{Terms, barred};
use postgres::connect::Session;
use postgres::digest::{BatchDigest, DigestKey};
use postgres::kept::{Keeping, Kept};
use postgres::shape::Shape;
use postgres::{foreign_keys, verify};
use residency::records::{self, Change};
use residency::{decisions, entries, inbound};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio_postgres::Transaction;

use super::{Asks, Visit};
use crate::ask::{Answer, Ask, Read};
use crate::desk::{commit, transaction};
use crate::durable::{all_durable, make_durable};
use crate::error::{At, Error, Result};
use crate::far::Asked;
use crate::rest;
use crate::shapes::unchanged;

const DOING: &str = "accepting a batch";

/// What was found, in the transaction that is held open until it is told what the source found.
struct Looked<'a> {
    tx: Transaction<'a>,
    kept: &'a Kept,
    records: Vec<Option<Resident>>,
    standing: Option<Decision>,
    findings: Findings,
    /// Our own digests, of rows and of the other stores; `None` where there was no need to read.
    mine: Option<(BatchDigest, Map<String, Value>)>,
}

/// What follows from what both found.
enum Word {
    /// This decision is committed.
    Decided(Decision),
    /// This one stood already.
    Stood(Decision),
    /// This one is to be inserted, in a transaction of its own.
    Refuse(Decision),
}

/// Where an answer goes.
type To = oneshot::Sender<Result<Answer>>;

/// Makes sure that nothing is in the way of a fence, and prepares what the handoff will ask here. Users to whom a change
/// could not be applied, with the reasons.
pub(super) async fn ready(
    visit: &Visit,
    session: &mut Session,
    attempt: Attempt,
) -> Result<Vec<(UserKey, String)>> {
    let target = visit.target();
    let kept = session.kept();
    if kept.first("rehearsed") {
        rehearse(visit, session, &kept, attempt).await?;
    }
    let session = &*session;
    let asked = Keeping::new(&**session, &kept);
    let (same, stands, reader, spoilt) = tokio::join!(
        visit.look_again(session),
        rest::guarded(target, session),
        verify::Reader::prepare(&**session, &kept, &target.schema),
        inbound::spoilt(&asked, visit.from(), attempt),
    );
    same?;
    stands?;
    reader.at(&target.site, "preparing to verify a batch")?;
    spoilt.at(&target.site, "reading changes that could not be applied")
}

/// Before the first batch of this session: asks all that an acceptance asks, of nobody, and takes it back. So nothing is first met, by
/// the session or by the server, while users are closed.
async fn rehearse(
    visit: &Visit,
    session: &mut Session,
    kept: &Kept,
    attempt: Attempt,
) -> Result<()> {
    let (source, target, service) = (visit.from(), visit.target(), &visit.call.service);
    let doing = "rehearsing an acceptance";
    let nobody = Handoff {
        batch: BatchId::from("rehearsal"),
        from: source.clone(),
        attempt,
        users: Vec::new(),
    };
    let tx = transaction(session, target, doing).await?;
    let looked = look(visit, tx, kept, &nobody, &DigestKey::new([0; 32])).await?;
    let asked = Keeping::new(&looked.tx, kept);
    records::write(&asked, target.kind(), &[], &[], None)
        .await
        .at(&target.site, doing)?;
    let decision = Decision::Accepted;
    decisions::decide(&asked, service, &nobody.batch, source, decision, None)
        .await
        .at(&target.site, doing)?;
    entries::append(&asked, "arrived", json!({}), &[])
        .await
        .at(&target.site, doing)?;
    looked
        .tx
        .rollback()
        .await
        .map_err(|error| postgres::Error::from_server(doing, error))
        .at(&target.site, doing)
}

/// Attends to a handoff: reads what it stands on as soon as the stream has passed its fence, beside the source's own reading,
/// and judges it once that has come. The source has offered the batch, durably, before it sends what it read. Where the
/// source gives it up before, nothing is decided.
pub(super) async fn attend(
    visit: &Visit,
    session: &mut Session,
    handoff: &Handoff,
    key: [u8; 32],
    asks: &mut Asks,
) {
    // Else whoever asked has gone.
    let Some((word, answer)) = judged(visit, session, handoff, key, asks).await else {
        return;
    };
    let said = match word {
        Ok(Word::Decided(decision)) => make_durable(session, &visit.target().site)
            .await
            .map(|()| decision),
        Ok(Word::Stood(decision)) => all_durable(session, &visit.target().site)
            .await
            .map(|()| decision),
        Ok(Word::Refuse(decision)) => {
            refuse(visit, session, Refusing::Named(handoff), decision).await
        }
        Err(error) => Err(error),
    };
    let _ = answer.send(said.map(Answer::Decided));
}

/// What follows, and who waits for it; `None` where nobody does, or the stream did not pass the fence in time.
async fn judged(
    visit: &Visit,
    session: &mut Session,
    handoff: &Handoff,
    key: [u8; 32],
    asks: &mut Asks,
) -> Option<(Result<Word>, To)> {
    // A peer offers what is his alone.
    if handoff.from != *visit.from() {
        asks.close();
        return None;
    }
    let key = DigestKey::new(key);
    let kept = session.kept();
    let began = Instant::now();
    let done =
        |part: &str| tracing::debug!(batch = %handoff.batch, after = ?began.elapsed(), "{part}");
    done("a handoff begins");
    let looked = async {
        let (passed, tx) = tokio::join!(
            visit.has_passed(&handoff.batch, visit.call.pause_max),
            transaction(session, visit.target(), DOING),
        );
        done("the stream has passed the fence");
        match passed {
            true => look(visit, tx?, &kept, handoff, &key).await.map(Some),
            false => Ok(None),
        }
    }
    .await;
    done("read at the target");
    let Asked { ask, answer } = asks.recv().await?;
    done("the source's offer is here");
    let (Ask::Judge(offer), Some(answer)) = (ask, answer) else {
        asks.close();
        return None;
    };
    match looked {
        Ok(Some(looked)) => {
            let judged = looked
                .judge(visit, handoff, &offer, &key, answer, asks)
                .await;
            done("judged");
            judged
        }
        // Offered: only a decision reopens the batch, so the source asks for one.
        Ok(None) => {
            let _ = answer.send(Ok(Answer::Undrained));
            None
        }
        Err(error) => Some((Err(error), answer)),
    }
}

/// Reads in `tx` what a handoff stands on, and locks it. To be called when the stream has passed the batch's fence: from
/// then on the batch's rows change no more, so that nothing has to be known of the source's own read, nor of the offer,
/// before [`Looked::judge`].
///
/// # Errors
/// [`SchemaChanged`](crate::Error::SchemaChanged) where the tables are not what they were.
async fn look<'a>(
    visit: &Visit,
    tx: Transaction<'a>,
    kept: &'a Kept,
    handoff: &Handoff,
    key: &DigestKey,
) -> Result<Looked<'a>> {
    let (source, target, tables) = (visit.from(), visit.target(), visit.watched()?);
    let users: Vec<UserKey> = users_of(handoff);
    // Kept since before the fence: this sends nothing.
    let reader = verify::Reader::prepare(&tx, kept, &target.schema);
    let reader = reader.await.at(&target.site, DOING)?;
    let asked = Keeping::new(&tx, kept);
    // Sent together; the server takes them in this order, so the records are locked before anything is read of them.
    let (office, prepared, records, standing, chunk, spoilt) = tokio::join!(
        biased;
        visit.office.hold(&asked),
        reader.by_index(&tx),
        records::lock(&asked, target.kind(), &users),
        decisions::standing(&asked, &visit.call.service, &handoff.batch),
        inbound::find(&asked, source, handoff.attempt),
        inbound::spoilt(&asked, source, handoff.attempt),
    );
    office.at(&target.site, DOING)?;
    prepared.at(&target.site, DOING)?;
    let records = records.at(&target.site, DOING)?;
    let standing = standing.at(&target.site, DOING)?;
    let chunk = chunk.at(&target.site, DOING)?;
    let spoilt = spoilt
        .at(&target.site, DOING)?
        .into_iter()
        .filter(|(user, _)| users.contains(user));
    let mut findings = Findings {
        complete: chunk.is_some_and(|chunk| chunk.state == "streaming"),
        against: spoilt.collect(),
    };
    let mut mine = None;
    if findings.complete && findings.against.is_empty() && standing.is_none() {
        let terms = match visit.call.phase {
            Some(_) => Terms::Phase,
            None => Terms::Return,
        };
        let service = &visit.call.service;
        let (digest, dangling, barred, now, manifests) = tokio::join!(
            biased;
            reader.digest(&tx, &users, key),
            foreign_keys::check(&tx, kept, &target.schema, &users),
            barred(&tx, kept, &target.schema, &users, (service, &target.site), terms),
            // After the digest: once their rows were read, the tables cannot change before the transaction ends.
            Shape::read(&tx, kept, &target.schema),
            visit.host.manifests.digest(&target.site, &users),
        );
        unchanged(target, tables.shape.changed(&now.at(&target.site, DOING)?))?;
        mine = Some((digest.at(&target.site, DOING)?, manifests?));
        let dangling = dangling.at(&target.site, DOING)?;
        let barred = barred.at(&target.site, DOING)?.into_iter();
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
    /// Holds what the source says against it, and commits the acceptance, if that is what follows. `None` where the source has
    /// gone in between.
    ///
    /// Any error leaves the outcome open: [`became`] finds it.
    async fn judge(
        mut self,
        visit: &Visit,
        handoff: &Handoff,
        offer: &Read,
        key: &DigestKey,
        mut answer: To,
        asks: &mut Asks,
    ) -> Option<(Result<Word>, To)> {
        if let Some((rows, manifests)) = &self.mine {
            let unverified = planted(Bug::AcceptUnverified) || planted(Bug::LoseRow);
            if (*rows != offer.digest || *manifests != offer.manifests) && !unverified {
                answer.send(Ok(Answer::Differs)).ok()?;
                let Asked { ask, answer: to } = asks.recv().await?;
                let (Ask::Each(there), Some(to)) = (ask, to) else {
                    asks.close();
                    return None;
                };
                answer = to;
                match self.differing(visit, handoff, offer, key, &there).await {
                    Ok(named) => self.findings.against.extend(named),
                    Err(error) => return Some((Err(error), answer)),
                }
            }
        }
        Some((self.conclude(visit, handoff, offer).await, answer))
    }

    /// Users whose rows differ from the source's, by a digest of each.
    async fn differing(
        &self,
        visit: &Visit,
        handoff: &Handoff,
        offer: &Read,
        key: &DigestKey,
        there: &BTreeMap<UserKey, BatchDigest>,
    ) -> Result<Vec<(UserKey, String)>> {
        let target = visit.target();
        let users = users_of(handoff);
        let here = verify::digest_each(&self.tx, &target.schema, &users, key)
            .await
            .at(&target.site, "finding the rows that differ")?;
        let nothing = BatchDigest::default();
        let mut named = Vec::new();
        for user in &users {
            let tables = here[user].differing_tables(there.get(user).unwrap_or(&nothing));
            if !tables.is_empty() {
                named.push((
                    user.clone(),
                    format!("verification: rows of {} differ", tables.join(", ")),
                ));
            }
        }
        if named.is_empty() {
            // The whole differs and no part does: nobody of the batch may go.
            let mine = self.mine.as_ref().map(|(rows, _)| rows);
            let tables = mine.unwrap_or(&nothing).differing_tables(&offer.digest);
            let reason = format!("verification: the batch differs ({})", tables.join(", "));
            named.extend(users.into_iter().map(|user| (user, reason.clone())));
        }
        Ok(named)
    }

    async fn conclude(self, visit: &Visit, handoff: &Handoff, offer: &Read) -> Result<Word> {
        let (source, target, service) = (visit.from(), visit.target(), &visit.call.service);
        let tx = self.tx;
        let asked = Keeping::new(&tx, self.kept);
        let judgement = judge(
            handoff,
            &self.records,
            self.standing.as_ref(),
            &self.findings,
        );
        match judgement {
            Judgement::Repeat(standing) => Ok(Word::Stood(standing)),
            Judgement::Accept(accepted) => {
                let (users, next): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
                let stored = offer.stored();
                let body = json!({
                    "service": service, "batch": handoff.batch, "from": source, "to": target.site,
                    "rows": offer.digest.rows(), "digest": stored,
                });
                let (written, outcome, entered) = tokio::join!(
                    biased;
                    records::write(&asked, target.kind(), &users, &next, None),
                    decisions::decide(
                        &asked,
                        service,
                        &handoff.batch,
                        source,
                        Decision::Accepted,
                        Some(&stored),
                    ),
                    entries::append(&asked, "arrived", body, &users),
                );
                written.at(&target.site, DOING)?;
                entered.at(&target.site, DOING)?;
                if let Outcome::Standing(standing) = outcome.at(&target.site, DOING)? {
                    return Ok(Word::Stood(standing));
                }
                point("before-accept");
                commit(tx, target, DOING).await?;
                point("after-accept");
                Ok(Word::Decided(Decision::Accepted))
            }
            Judgement::Refuse(decision) => {
                tx.rollback()
                    .await
                    .map_err(|e| postgres::Error::from_server(DOING, e))
                    .at(&target.site, DOING)?;
                Ok(Word::Refuse(decision))
            }
        }
    }
}

fn users_of(handoff: &Handoff) -> Vec<UserKey> {
    let users = handoff.users.iter();
    users.map(|(user, _)| user.clone()).collect()
}

/// What is refused.
enum Refusing<'a> {
    /// A handoff: whom the refusal names is cleared.
    Named(&'a Handoff),
    /// A batch of which the source asks what became.
    Asked(&'a BatchId, &'a [UserKey]),
}

/// Inserts a refusal, unless a decision stands; named users go to `clearing` in the same transaction.
async fn refuse(
    visit: &Visit,
    session: &mut Session,
    what: Refusing<'_>,
    wish: Decision,
) -> Result<Decision> {
    let (source, target, service) = (visit.from(), visit.target(), &visit.call.service);
    let doing = "refusing a batch";
    let (batch, users) = match &what {
        Refusing::Named(handoff) => (&handoff.batch, users_of(handoff)),
        Refusing::Asked(batch, users) => (*batch, users.to_vec()),
    };
    let tx = transaction(session, target, doing).await?;
    visit.office.hold(&tx).await.at(&target.site, doing)?;
    let records = records::lock(&tx, target.kind(), &users)
        .await
        .at(&target.site, doing)?;
    let outcome = decisions::decide(&tx, service, batch, source, wish, None)
        .await
        .at(&target.site, doing)?;
    if let (Outcome::Decided(Decision::Refused { named, .. }), Refusing::Named(handoff)) =
        (&outcome, &what)
    {
        let mut changes = Vec::new();
        for ((user, epoch), record) in handoff.users.iter().zip(&records) {
            let arrives = matches!(record.as_ref().map(|r| &r.state),
                Some(State::Arriving { attempt, .. }) if *attempt == handoff.attempt);
            if arrives && named.iter().any(|(name, _)| name == user) {
                let event = Event::Clear {
                    attempt: handoff.attempt,
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
        let body = json!({"service": service, "batch": batch, "from": source, "to": target.site});
        entries::append(&tx, "refused", body, &users)
            .await
            .at(&target.site, doing)?;
    }
    let word = outcome.word().clone();
    point("before-refuse");
    commit(tx, target, doing).await?;
    point("after-refuse");
    make_durable(session, &target.site).await?;
    Ok(word)
}

/// Whoever is lost here is the source's, as it still holds him: this database went back to before it accepted him, if it ever did.
/// Not whom a peer names at a later epoch than the one under which he is offered.
async fn give_back_lost(
    visit: &Visit,
    session: &mut Session,
    users: &[(UserKey, Epoch)],
) -> Result<()> {
    let (from, target) = (visit.from(), visit.target());
    let doing = "giving lost users back";
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let records = records::look(&**session, target.kind(), &keys)
        .await
        .at(&target.site, doing)?;
    let lost = |((user, offered), record): (&(UserKey, Epoch), &Option<Resident>)| match &record
        .as_ref()?
        .state
    {
        State::Lost { epoch } if epoch <= offered => Some(Change {
            user: user.clone(),
            event: Event::Overtaken {
                to: from.clone(),
                epoch: *epoch,
            },
        }),
        _ => None,
    };
    let changes: Vec<Change> = users.iter().zip(&records).filter_map(lost).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let tx = transaction(session, target, doing).await?;
    visit.office.hold(&tx).await.at(&target.site, doing)?;
    records::change(&tx, target.kind(), &changes, None)
        .await
        .at(&target.site, doing)?;
    let users: Vec<UserKey> = changes.into_iter().map(|change| change.user).collect();
    let body = json!({"site": target.site, "home": from, "reason": "offered by the source, which holds them still"});
    entries::append(&tx, "resolved", body, &users)
        .await
        .at(&target.site, doing)?;
    commit(tx, target, doing).await
}

/// What became of a batch: the standing decision, or a refusal that is inserted as the answer.
pub(super) async fn became(
    visit: &Visit,
    session: &mut Session,
    batch: &BatchId,
    users: &[(UserKey, Epoch)],
) -> Result<Decision> {
    let target = visit.target();
    let doing = "asking about a batch";
    let keys: Vec<UserKey> = users.iter().map(|(user, _)| user.clone()).collect();
    let standing = decisions::standing(&**session, &visit.call.service, batch)
        .await
        .at(&target.site, doing)?;
    if standing.is_none() {
        give_back_lost(visit, session, users).await?;
    }
    let records = records::look(&**session, target.kind(), &keys)
        .await
        .at(&target.site, doing)?;
    // Read again: an acceptance may have come between.
    let standing = match standing {
        None => decisions::standing(&**session, &visit.call.service, batch)
            .await
            .at(&target.site, doing)?,
        standing => standing,
    };
    // Taken up here, and perhaps gone on since: nothing else is later than an offer on which nothing was decided.
    let went_on = |((_, offered), record): (&(UserKey, Epoch), &Option<Resident>)| {
        let record = record.as_ref();
        record.is_some_and(|record| record.state.is_home() || record.seen > *offered)
    };
    if standing.is_none()
        && !planted(Bug::AnswerFromState)
        && let Some(n) = users.iter().zip(&records).position(went_on)
    {
        return Err(Error::Contradiction {
            user: keys[n].clone(),
            source_site: visit.from().clone(),
            target_site: target.site.clone(),
            what: "he was taken up at the target, which went back in time; the source has not heard of it yet"
                .to_owned(),
        });
    }
    let wish = answer(standing.as_ref(), &records);
    if standing.is_some() || planted(Bug::AnswerFromState) && wish == Decision::Accepted {
        all_durable(session, &target.site).await?;
        return Ok(wish);
    }
    refuse(visit, session, Refusing::Asked(batch, &keys), wish).await
}
