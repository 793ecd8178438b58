//! Lets users arrive: `arriving` for a new attempt, while the guard stands.

use handoff::record::Event;
use model::fault::point;
use model::{Attempt, UserKey};
use postgres::connect::Session;
use residency::records::{self, Change};
use residency::{entries, inbound};
use serde_json::json;

use super::Visit;
use crate::ask::Answer;
use crate::desk::{commit, transaction};
use crate::error::{At, Result};
use crate::policy;
use crate::rest::{self, Footing};

/// Users whose records do not allow it are answered; everybody else arrives when this returns.
pub(super) async fn begin(
    visit: &Visit,
    session: &mut Session,
    attempt: Attempt,
    slot: &str,
    mut users: Vec<UserKey>,
) -> Result<Answer> {
    let (from, target) = (visit.from(), visit.target());
    let doing = "making ready for an attempt";
    let mut aside = Vec::new();
    let mut footing = Footing::default();
    loop {
        if users.is_empty() {
            let returning = false;
            return Ok(Answer::Begun { aside, returning });
        }
        let tx = transaction(session, target, doing).await?;
        visit.office.hold(&tx).await.at(&target.site, doing)?;
        if !rest::stands(&tx, target).await? {
            drop(tx);
            footing.again(target, session, visit.call.patience).await?;
            continue;
        }
        let before = records::look(&tx, target.kind(), &users)
            .await
            .at(&target.site, doing)?;
        let returning = before.iter().any(Option::is_some);
        let changes: Vec<Change> = users
            .iter()
            .map(|user| Change {
                user: user.clone(),
                event: Event::Begin {
                    from: from.clone(),
                    attempt,
                },
            })
            .collect();
        match records::change(&tx, target.kind(), &changes, None).await {
            Ok(_) => {
                inbound::begin(&tx, from, attempt, slot)
                    .await
                    .at(&target.site, doing)?;
                let way = (&visit.call.service, from, &target.site);
                let mut body =
                    policy::transfer(way, visit.call.phase.as_deref(), target, &tx).await?;
                body.insert("attempt".to_owned(), json!(attempt));
                body.insert("count".to_owned(), json!(users.len()));
                entries::append(&tx, "arriving", body.into(), &[])
                    .await
                    .at(&target.site, doing)?;
                point("before-begin");
                commit(tx, target, doing).await?;
                point("after-begin");
                return Ok(Answer::Begun { aside, returning });
            }
            Err(residency::Error::Illegal {
                user,
                source: illegal,
            }) => {
                users.retain(|other| *other != user);
                aside.push((user, format!("at {}: {illegal}", target.site)));
            }
            Err(error) => return Err(error).at(&target.site, doing),
        }
    }
}
