//! `plan --suggest`: for each market of policy the permitted home where it would be served faster, as far as that was measured.

use std::collections::BTreeSet;
use std::time::Duration;

use model::policy::Policy;
use model::{Market, ServiceName, SiteName};
use remote::figures::Cuts;

use super::figures::{self, Source};
use super::{homes, plan, show};
use crate::cli::Plan;
use crate::config::{Config, Service};
use crate::exit::{Failure, Outcome};
use crate::planning::in_force;
use crate::render::Form;
use crate::render::suggest::{Suggested, Suggestions, render};
use crate::traffic::suggest::Flows;

/// Requests of so long are looked at: as many as there may be, but of the sites and applications of today.
const LOOKED_AT: Duration = Duration::from_secs(30 * 86_400);

/// Prints suggestions. Changes nothing; 3 where a site was not read.
pub async fn run(config: &Config, args: &Plan) -> Outcome {
    homes::refuse_nowhere(config)?;
    let phase = args.phase.as_deref();
    let phase = phase.map(|name| plan::number(config, name)).transpose()?;
    let mut found = Suggestions::new(LOOKED_AT);
    let mut begun = BTreeSet::new();
    let mut counted = Vec::new();
    for (name, service) in &config.services {
        let sources = figures::open(config, name, service, &mut found.not_read).await?;
        for source in &sources {
            begun.extend(begun_at(name, source, &mut found).await?);
        }
        let flows = flows(name, &sources, &mut found).await;
        counted.push((name, service, flows));
    }
    if counted.iter().all(|(.., flows)| flows.is_empty()) {
        return Err(nothing(&found));
    }
    let holds = |n: usize, name: &str| phase.is_some_and(|upto| n <= upto) || begun.contains(name);
    let present = in_force(&config.policy, holds);
    for (name, service, flows) in &counted {
        for market in &config.policy.markets() {
            let home = last_home(&present, name, service, market);
            let planned = last_home(&config.policy, name, service, market);
            let permitted = permitted(config, service, market);
            found.markets.push(Suggested {
                service: (*name).clone(),
                suggestion: flows.suggest(market, &home, &permitted),
                planned,
            });
        }
    }
    let names = config.policy.phases.iter().map(|phase| phase.name.as_str());
    found.write_toml(&names.collect());
    show(&render(&found, Form::of_stdout(args.json.json)))?;
    Ok(found.exit())
}

/// The phases of which a move has begun there; of a site that is asked, those in which somebody left.
async fn begun_at(
    name: &ServiceName,
    source: &Source,
    found: &mut Suggestions,
) -> Outcome<Vec<String>> {
    if let Source::Here(home) = source {
        return plan::recorded(home, name).await;
    }
    match source.left(name).await {
        Ok(left) => Ok(left.into_iter().filter_map(|left| left.phase).collect()),
        Err(not) => {
            found.not_read.push(not);
            Ok(Vec::new())
        }
    }
}

/// What came in at every site that is reached.
async fn flows(name: &ServiceName, sources: &[Source], found: &mut Suggestions) -> Flows {
    let mut flows = Flows::default();
    for source in sources {
        let add = |traffic| flows.add(source.site(), &traffic);
        let (since, cuts) = (Some(LOOKED_AT), Cuts::new());
        if let Err(not) = source.traffic(name, since, cuts, add).await
            && !found.not_read.contains(&not)
        {
            found.not_read.push(not);
        }
    }
    flows
}

/// The home of `market` once all phases of `policy` hold.
fn last_home(policy: &Policy, name: &ServiceName, service: &Service, market: &Market) -> SiteName {
    let last = policy.phases.len().checked_sub(1);
    policy.home(name, market, last, &service.origin).0
}

/// Where users of `market` may be written: a pinned market at its pin, any other wherever the service has a database, or may have one that is
/// not known here.
fn permitted(config: &Config, service: &Service, market: &Market) -> Vec<SiteName> {
    let elsewhere = config.elsewhere();
    let sites = config.sites.keys();
    let has = |site: &&SiteName| service.databases.contains_key(*site) || elsewhere.contains(site);
    let permits = |site: &&SiteName| config.policy.permits(market, site);
    sites.filter(has).filter(permits).cloned().collect()
}

fn nothing(found: &Suggestions) -> Failure {
    if let Some(not) = found.not_read.first() {
        return Failure::new(
            found.exit(),
            anyhow::anyhow!(
                "no history of requests was read: {} at {}: {}",
                not.service,
                not.site,
                not.why
            ),
        );
    }
    Failure::usage("no request is in the history of the home databases that are known here").mend(
        "let requests come through gateways first (docs/gateway.md): they write what they counted once a minute and when they end",
    )
}
