//! Takes a batch in doubt back from a target that is destroyed for good, by two operators' word.
//!
//! The target may have accepted the batch, and handed its users on to another site, where an acceptance may be under way still. So every other
//! site first ends what comes from the target, is told of the round in which the users are taken back, and is then heard: whoever lives there
//! is `departed` here by that. Only who is offered still is taken back, under an epoch that the target must read before it is opened, should it come back.

use std::sync::Arc;
use std::time::Duration;

use handoff::record::Event;
use model::{BatchId, SiteName, UserKey};
use residency::reclaim::{self, Standing};
use residency::records::{self, Change};
use residency::{entries, tidings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::compare::{Teller, again, hear_out};
use crate::desk::{commit, transaction};
use crate::durable::make_durable;
use crate::error::{At, Result};
use crate::route::End;

/// How long a statement counts.
pub const LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be taken back, by a statement whose signatures were verified.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The batch.
    pub batch: BatchId,
    /// The site that is destroyed.
    pub destroyed: SiteName,
    /// When that was stated, by the clock of the database here.
    pub at: String,
    /// How often the destroyed site had come here then.
    pub came: i64,
    /// What else the ledger is told of it.
    pub body: Value,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimed {
    /// Users who live here again.
    pub users: u64,
    /// Users of the batch who live elsewhere, as another site said: the target had handed them on.
    pub elsewhere: u64,
}

/// Why nothing was taken back. Nobody's home has changed by it but by what other sites told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// No such batch is offered.
    #[error("no batch {0} is in doubt here")]
    NotInDoubt(BatchId),
    /// It was offered to another site.
    #[error("the batch was offered to {0}")]
    Elsewhere(SiteName),
    /// This site has not heard its peers.
    #[error("the site is not open: it has not heard its peers since its server started")]
    Closed,
    /// It was opened since.
    #[error("the site was opened after this was stated: it may have gone back in time")]
    Reopened,
    /// The statement is too old.
    #[error("it was stated more than {} hours ago, or at a time to come", LASTS.as_secs() / 3600)]
    Old,
    /// The target is not gone.
    #[error("{0} has come here after it was stated that it is destroyed")]
    Came(SiteName),
    /// Another site cannot say what it has.
    #[error("{0} has not heard its own peers since its server started")]
    Unready(SiteName),
    /// Somebody is lost here.
    #[error(
        "it was just found that this database went back in time: its peers are to be heard again"
    )]
    WentBack,
}

/// Takes `claim` back at `here`. `peers` are all other sites of the service but the destroyed one.
///
/// # Errors
/// Where a peer does not answer, or a database; nothing is taken back then. [`Why`] where it may not be.
pub async fn reclaim(
    here: &End,
    claim: &Claim,
    peers: &[Arc<dyn Teller>],
) -> Result<std::result::Result<Reclaimed, Why>> {
    let doing = "taking a batch back";
    let mut session = here.session("reclaim").await?;
    let before = match look(here, &session, claim).await? {
        Ok(users) => users.len() as u64,
        Err(why) => return Ok(Err(why)),
    };
    // Above every round that anybody knows, and known to everybody before it is used.
    let mut last = reclaim::raise(&*session, 0).await.at(&here.site, doing)?;
    for peer in peers {
        last = last.max(peer.bar(&claim.destroyed, 0).await?);
    }
    let round = last + 1;
    reclaim::raise(&*session, round)
        .await
        .at(&here.site, doing)?;
    for peer in peers {
        peer.bar(&claim.destroyed, round).await?;
        let heard = hear_out(here, &mut session, &**peer).await?;
        if !heard.ready {
            return Ok(Err(Why::Unready(peer.site().clone())));
        }
    }
    if again(here, &session).await? {
        return Ok(Err(Why::WentBack));
    }
    // As it stands now: a long wait may have been between.
    let users = match look(here, &session, claim).await? {
        Ok(users) => users,
        // All of them had been handed on.
        Err(Why::NotInDoubt(_)) => Vec::new(),
        Err(why) => return Ok(Err(why)),
    };
    let reclaimed = Reclaimed {
        users: users.len() as u64,
        elsewhere: before.saturating_sub(users.len() as u64),
    };
    if users.is_empty() {
        return Ok(Ok(reclaimed));
    }
    let tx = transaction(&mut session, here, doing).await?;
    let away = reclaim::stays_away(&tx, &claim.destroyed, claim.came).await;
    if !away.at(&here.site, doing)? {
        return Ok(Err(Why::Came(claim.destroyed.clone())));
    }
    let change = |user: &UserKey| Change {
        user: user.clone(),
        event: Event::Reclaim {
            batch: claim.batch.clone(),
            round,
        },
    };
    let changes: Vec<Change> = users.iter().map(change).collect();
    records::change(&tx, here.kind(), &changes, None)
        .await
        .at(&here.site, doing)?;
    let body = body(claim, &reclaimed);
    entries::append(&tx, "reclaimed", body, &users)
        .await
        .at(&here.site, doing)?;
    commit(tx, here, doing).await?;
    make_durable(&session, &here.site).await?;
    Ok(Ok(reclaimed))
}

/// The users of the batch, where it may be taken back as far as this site can say.
async fn look(
    here: &End,
    session: &postgres::connect::Session,
    claim: &Claim,
) -> Result<std::result::Result<Vec<UserKey>, Why>> {
    let doing = "looking whether a batch may be taken back";
    let standing = reclaim::standing(&**session, &claim.at, LASTS)
        .await
        .at(&here.site, doing)?;
    match standing {
        Standing::Good => {}
        Standing::Closed => return Ok(Err(Why::Closed)),
        Standing::Reopened => return Ok(Err(Why::Reopened)),
        Standing::Old => return Ok(Err(Why::Old)),
    }
    if tidings::again(&**session).await.at(&here.site, doing)? {
        return Ok(Err(Why::WentBack));
    }
    let came = reclaim::came(&**session, &claim.destroyed).await;
    if came.at(&here.site, doing)? != claim.came {
        return Ok(Err(Why::Came(claim.destroyed.clone())));
    }
    let found = reclaim::in_doubt(&**session, &claim.batch)
        .await
        .at(&here.site, doing)?;
    Ok(match found {
        None => Err(Why::NotInDoubt(claim.batch.clone())),
        Some((target, _)) if target != claim.destroyed => Err(Why::Elsewhere(target)),
        Some((_, users)) => Ok(users),
    })
}

fn body(claim: &Claim, reclaimed: &Reclaimed) -> Value {
    let mut body = claim.body.clone();
    body["batch"] = json!(claim.batch);
    body["destroyed"] = json!(claim.destroyed);
    body["count"] = json!(reclaimed.users);
    body["elsewhere"] = json!(reclaimed.elsewhere);
    body
}
