//! What a plan cannot see from one site: whether the targets would take who leaves, and who comes here from peers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::daemon::{Router, View};
use axum::extract::{Json, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use model::{ServiceName, SiteName};
use postgres::preflight::{Finding, Level};
use remote::{Asker, Coming};
use residency::policy::{self, Refusal};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::linked;
use super::route::look;
use crate::commands::apply::failure;
use crate::commands::homes::Home;
use crate::commands::plan::{self, Measure, Survey};
use crate::commands::routes::peers;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::plan::{Arrivals, Between, NotLooked};

/// How long a look at a peer may take.
const WITHIN: Duration = Duration::from_secs(30);

/// What is wanted to know.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// The phase that the plan is for.
    pub phase: Option<String>,
    /// The phase that was asked for; without it each peer says who comes in the first that it has not completed.
    pub asked: Option<String>,
    /// The services, and where users of them are to go.
    pub ways: BTreeSet<(ServiceName, SiteName)>,
}

/// This site's daemon, looking at its peers.
struct Outlook {
    config: Arc<Config>,
    site: SiteName,
    view: View,
}

/// `POST /plan/peers`, answered with a [`Between`].
pub(super) fn routes(config: Arc<Config>, site: SiteName, view: View) -> Router {
    let outlook = Arc::new(Outlook { config, site, view });
    Router::new()
        .route("/plan/peers", post(between))
        .with_state(outlook)
}

async fn between(State(outlook): State<Arc<Outlook>>, Json(wanted): Json<Wanted>) -> Response {
    Json(outlook.between(wanted).await).into_response()
}

// === impl Outlook ===

impl Outlook {
    /// Who does not answer is named, and the others are looked at all the same.
    async fn between(&self, wanted: Wanted) -> Between {
        let mut between = Between::default();
        let phase = wanted.phase.as_deref();
        for (name, to) in &wanted.ways {
            match self.leaving(name, to, phase).await {
                Ok(found) => between.findings.extend(found),
                Err(failure) => between.not(name, to, &failure),
            }
        }
        let here = self.config.services.iter();
        let here = here.filter(|(_, service)| service.databases.contains_key(&self.site));
        for (name, _) in here {
            let from = match peers(&self.config, name, &self.site) {
                Ok(from) => from,
                Err(failure) => {
                    between.not(name, &self.site, &failure);
                    continue;
                }
            };
            for from in from {
                match self.coming(name, &from, wanted.asked.clone()).await {
                    Ok(coming) => between.coming.extend(coming),
                    Err(failure) => between.not(name, &from, &failure),
                }
            }
        }
        between
    }

    /// Everything that would stop a move, as both sites say before it.
    async fn leaving(
        &self,
        name: &ServiceName,
        to: &SiteName,
        phase: Option<&str>,
    ) -> Outcome<Vec<Finding>> {
        // First: it does not wait for a peer that is away, as a look does.
        let refused = match phase {
            Some(phase) => self.refused(name, to, phase).await?,
            None => None,
        };
        let looked = look(&self.config, &self.view, name, (&self.site, to));
        let looked = timeout(WITHIN, looked).await;
        let looked = looked.or_fail(Exit::Unreached, || {
            format!("{name}: {to} was looked at for {} s", WITHIN.as_secs())
        })??;
        let mut found = looked.found;
        found.retain(|finding| finding.level == Level::Blocker);
        found.extend(refused);
        Ok(found)
    }

    /// Why either copy of the policy does not let a move of `phase` begin.
    async fn refused(
        &self,
        name: &ServiceName,
        to: &SiteName,
        phase: &str,
    ) -> Outcome<Option<Finding>> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "plan").await?;
        let (site, why) = match standing(name, &home, phase).await? {
            Err(why) => (&self.site, Some(why)),
            Ok(version) => {
                let asker = Asker::new(linked(&self.view, name, to)?, name.clone());
                let refused = asker.permits(phase, &version).await;
                let refused = refused.map_err(|error| {
                    failure(error, format!("{name}: asking {to} for its policy"))
                })?;
                (to, refused)
            }
        };
        Ok(why.map(|why| Finding {
            level: Level::Blocker,
            site: site.clone(),
            what: why.to_string(),
            mend: why.mend().to_owned(),
        }))
    }

    /// Who comes here from `from`, by its own count.
    async fn coming(
        &self,
        name: &ServiceName,
        from: &SiteName,
        phase: Option<String>,
    ) -> Outcome<Vec<Arrivals>> {
        let asker = Asker::new(linked(&self.view, name, from)?, name.clone());
        let coming = asker.coming(phase).await;
        let coming = coming
            .map_err(|error| failure(error, format!("{name}: asking {from} who comes here")))?;
        let arrivals = coming.into_iter().map(|coming| Arrivals {
            service: name.clone(),
            market: coming.market,
            phase: coming.phase,
            from: from.clone(),
            users: coming.users,
        });
        Ok(arrivals.collect())
    }
}

// === impl Between ===

impl Between {
    fn not(&mut self, service: &ServiceName, site: &SiteName, failure: &Failure) {
        let mut named = self.not_read.iter();
        if named.any(|not| not.service == *service && not.site == *site) {
            return;
        }
        self.not_read.push(NotLooked {
            service: service.clone(),
            site: site.clone(),
            why: crate::config::scrub(&format!("{:#}", failure.error)),
        });
    }
}

/// The version of the copy in force at `home`, where it lets a move of `phase` begin.
async fn standing(
    name: &ServiceName,
    home: &Home,
    phase: &str,
) -> Outcome<Result<String, Refusal>> {
    let standing = policy::standing(&*home.session, phase).await;
    let standing = standing.or_fail(Exit::Unreached, || {
        format!("{name}: cannot read the policy at {}", home.site)
    })?;
    Ok(standing
        .ok_or(Refusal::None)
        .and_then(|standing| standing.permit(phase).map(|_| standing.version.clone())))
}

/// What this site says of a move of `phase` from `peer`, whose copy of the policy is of `version`: why it would not let it in. Writes nothing down, as nothing
/// was begun.
pub(super) async fn permits(
    name: &ServiceName,
    home: &Home,
    peer: &SiteName,
    (phase, version): (&str, &str),
) -> Outcome<Option<Refusal>> {
    let standing = policy::standing(&*home.session, phase).await;
    let standing = standing.or_fail(Exit::Unreached, || {
        format!("{name}: cannot read the policy at {}", home.site)
    })?;
    let permitted = standing.ok_or(Refusal::None).and_then(|standing| {
        standing.same(peer.as_str(), version)?;
        standing.permit(phase).map(drop)
    });
    Ok(permitted.err())
}

/// Who of `name` is to leave `home` for `peer`: by market, and nobody's key.
pub(super) async fn coming(
    config: &Config,
    name: &ServiceName,
    mut home: Home,
    peer: &SiteName,
    phase: Option<&str>,
) -> Outcome<Vec<Coming>> {
    let mut survey = Survey {
        measure: Measure::Users,
        ..Survey::default()
    };
    let service = config.service(name)?;
    survey.add(name, service, &mut home).await?;
    let planned = plan::of(config, &survey, phase)?;
    let phase = planned.phase;
    let moves = planned.moves.into_iter();
    let moves = moves.filter(|planned| planned.service == *name && planned.to == *peer);
    let coming = moves.map(|planned| Coming {
        market: planned.market,
        phase: phase.clone(),
        users: planned.users,
    });
    Ok(coming.collect())
}
