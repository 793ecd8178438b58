//! `where`: the home of one user, as all sites together know it, and the rule of the policy that speaks of him.

use std::collections::BTreeSet;

use handoff::record::State;
use model::{ServiceName, SiteName, UserKey};
use postgres::census;
use residency::whereabouts::{self, Whereabouts as Said};

use super::homes::{self, Home};
use super::{plan, show, users};
use crate::cli::Where;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::planning::in_force;
use crate::render::Form;
use crate::render::whereabouts::{Whereabouts, render};

/// Asks every site of the service, or of every service. 1 where he lives nowhere, 2 where the key can be nobody's, 3
/// where a site was not reached: what the others say is shown all the same.
pub async fn run(config: &Config, args: &Where) -> Outcome {
    homes::say_elsewhere(config)?;
    let services = services(config, args.service.as_deref())?;
    let user = UserKey::from(args.user.as_str());
    let mut found = Vec::new();
    let mut exit = Exit::Done;
    let mut refused = None;
    for (name, service) in services {
        match of_service(config, name, service, &user).await {
            Ok((whereabouts, unreached)) => {
                exit = match (unreached, &whereabouts.home) {
                    (true, _) => Exit::Unreached,
                    (false, None) if exit == Exit::Done => Exit::Unfinished,
                    (false, _) => exit,
                };
                found.push(whereabouts);
            }
            // A key may be of one service's form and not of another's.
            Err(failure) if failure.exit == Exit::Usage => refused = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    if let Some(failure) = refused.filter(|_| found.is_empty()) {
        return Err(failure);
    }
    show(&render(&found, Form::of_stdout(args.json.json)))?;
    Ok(exit)
}

/// The service of that name, or all of them.
pub(super) fn services<'a>(
    config: &'a Config,
    named: Option<&str>,
) -> Outcome<Vec<(&'a ServiceName, &'a Service)>> {
    let Some(name) = named else {
        return Ok(config.services.iter().collect());
    };
    let name = ServiceName::from(name);
    config.service(&name)?;
    Ok(config.services.get_key_value(&name).into_iter().collect())
}

/// Where he lives in one service, and whether a site could not be asked.
pub(super) async fn of_service(
    config: &Config,
    name: &ServiceName,
    service: &Service,
    asked: &UserKey,
) -> Outcome<(Whereabouts, bool)> {
    let mut user = asked.clone();
    let mut reached = Vec::new();
    let mut unreached = None;
    for site in homes::here(service) {
        match Home::open_installed(name, service, site, "where").await {
            Ok(home) => reached.push(home),
            Err(failure) if failure.exit == Exit::Unreached => {
                unreached = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    if let Some(failure) = unreached.take_if(|_| reached.is_empty()) {
        return Err(failure);
    }
    if let Some(failure) = &unreached {
        eprintln!("{failure}");
    }
    let mut said = Vec::new();
    let mut begun = BTreeSet::new();
    for home in &reached {
        let kind = home.schema()?.users.kind;
        let canonical = users::canonical(kind, asked).ok_or_else(|| no_key(asked, name))?;
        user = canonical;
        let word = whereabouts::ask(&home.session, &home.site, kind, &user)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot ask {} for a user", home.site)
            })?;
        said.push(word);
        begun.extend(plan::recorded(home, name).await?);
    }
    let home = home_of(said);
    let rule = match &home {
        None => "unknown".to_owned(),
        Some((site, ..)) => {
            rule(config, (name, service), &mut reached, site, &user, &begun).await?
        }
    };
    let (site, epoch, state) = match home {
        None => (None, 0, "unknown"),
        Some((site, epoch, state)) => (Some(site.to_string()), epoch, state),
    };
    let whereabouts = Whereabouts {
        user: user.to_string(),
        service: name.to_string(),
        home: site,
        epoch,
        state: state.to_owned(),
        rule,
    };
    Ok((whereabouts, unreached.is_some()))
}

/// A key that no user of the service can have.
pub(super) fn no_key(user: &UserKey, name: &ServiceName) -> Failure {
    Failure::usage(format_args!("{user} can be no user's key in {name}"))
}

/// The home among what the sites say. Where one has offered the user and the other accepted him at the same epoch, the
/// acceptance is the change of home, whichever was asked first.
fn home_of(mut said: Vec<Said>) -> Option<(SiteName, i64, &'static str)> {
    said.sort_by_key(|word| {
        let state = word.resident.as_ref().map(|resident| &resident.state);
        !matches!(state, Some(State::Offered { .. }))
    });
    whereabouts::home(&said).map(|(site, epoch, state)| (site, epoch.0, state))
}

/// The rule that says where he belongs, in the phases of which a move is recorded somewhere.
async fn rule(
    config: &Config,
    (name, service): (&ServiceName, &Service),
    reached: &mut [Home],
    site: &SiteName,
    user: &UserKey,
    begun: &BTreeSet<String>,
) -> Outcome<String> {
    let Some(home) = reached.iter_mut().find(|home| home.site == *site) else {
        return Ok("unknown: his home was not reached".to_owned());
    };
    let schema = home.schema()?.clone();
    let origin = *site == service.origin;
    let asked = std::slice::from_ref(user);
    let mut found = census::users_exist(&mut home.session, &schema, origin, asked)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look up a user at {site}")
        })?;
    let Some(presence) = found.remove(user) else {
        return Ok(format!("none: he has no row in {}", schema.users.name));
    };
    let policy = in_force(&config.policy, |_, phase| begun.contains(phase));
    let last = policy.phases.len().checked_sub(1);
    let (_, rule) = policy.home(name, &presence.market, last, &service.origin);
    Ok(rule.to_string())
}

#[cfg(test)]
mod tests {
    use handoff::record::Resident;
    use model::{Attempt, Epoch};

    use super::*;

    fn says(site: &str, state: State) -> Said {
        Said {
            site: site.into(),
            resident: Some(Resident {
                state,
                seen: Epoch(2),
                attempt_seen: Attempt(1),
            }),
        }
    }

    #[test]
    fn an_accepted_user_lives_at_the_target_though_the_source_has_not_heard_of_it() {
        let offered = || {
            let state = State::Offered {
                epoch: Epoch(2),
                to: "singapore".into(),
                batch: "b".into(),
                attempt: Attempt(1),
            };
            says("beijing", state)
        };
        let settled = || says("singapore", State::Settled { epoch: Epoch(2) });
        for said in [vec![offered(), settled()], vec![settled(), offered()]] {
            assert_eq!(home_of(said), Some(("singapore".into(), 2, "settled")));
        }
        assert_eq!(
            home_of(vec![offered()]),
            Some(("beijing".into(), 2, "offered"))
        );
        assert_eq!(home_of(Vec::new()), None);
    }
}
