//! `plan`: counts who lives where and shows who would move.

use std::collections::{BTreeMap, BTreeSet};

use model::plan::Plan as Planned;
use model::{ServiceName, SiteName};
use postgres::census::{census, census_of_users};
use residency::journal;
use tokio_postgres::error::SqlState;

use super::homes::{self, Home};
use super::show;
use crate::cli::Plan;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::planning::{Count, Situation, begun_by_census, plan_from};
use crate::render::{self, Form};
use crate::site;

/// Prints the plan. Changes nothing. Where some sites' databases are not known here, what leaves one site, by its daemon: 3 where a peer does not answer,
/// 1 where something would stop `apply`.
pub async fn run(config: &Config, args: &Plan) -> Outcome {
    if args.suggest {
        return super::suggest::run(config, args).await;
    }
    let by_itself = config.elsewhere().is_empty() && args.site.is_none();
    if !by_itself && let Some(site) = site::of_daemon(config, args.site.as_deref())? {
        return by_daemon(config, args, &site).await;
    }
    let survey = survey(config, Measure::Rows).await?;
    let plan = of(config, &survey, args.phase.as_deref())?;
    show(&render::plan::render(
        &plan,
        Form::of_stdout(args.json.json),
    ))?;
    Ok(Exit::Done)
}

/// What the daemon of one site counts there, and what its peers say to it.
async fn by_daemon(config: &Config, args: &Plan, site: &SiteName) -> Outcome {
    let daemon = site::reach(config, site)?;
    let phase = args.phase.as_deref();
    let planned = daemon.plan(phase, Measure::Rows).await?;
    let between = daemon.between(&planned, phase).await?;
    show(&render::plan::render_between(
        &planned,
        &between,
        Form::of_stdout(args.json.json),
    ))?;
    Ok(between.exit())
}

/// How much is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Users; what they have is estimated from the tables' statistics.
    #[default]
    Users,
    /// Every row of every user.
    Rows,
}

/// What the home databases say.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Who lives where.
    pub census: Vec<Count>,
    /// The phases of which a move is recorded somewhere.
    pub recorded: BTreeSet<String>,
    /// How much was counted.
    pub measure: Measure,
}

/// The plan for the phase of that name, or for the first that is not complete. Phases whose users are found
/// where only they put them count as begun, as do those that are recorded.
pub fn of(config: &Config, survey: &Survey, phase: Option<&str>) -> Outcome<Planned> {
    let census = &survey.census;
    let number = phase.map(|name| number(config, name)).transpose()?;
    let origins = origins(config);
    let begun = begun(config, survey);
    let situation = Situation {
        census,
        policy: &config.policy,
        origins: &origins,
        begun: &begun,
    };
    let mut plan = plan_from(&situation, number);
    plan.estimated = survey.measure == Measure::Users;
    Ok(plan)
}

/// The phases that have begun: recorded so, or seen by where users live.
pub(super) fn begun(config: &Config, survey: &Survey) -> BTreeSet<String> {
    let mut begun = begun_by_census(&survey.census, &config.policy, &origins(config));
    begun.extend(survey.recorded.iter().cloned());
    begun
}

fn origins(config: &Config) -> BTreeMap<ServiceName, SiteName> {
    let services = config.services.iter();
    services
        .map(|(name, service)| (name.clone(), service.origin.clone()))
        .collect()
}

pub(super) fn number(config: &Config, name: &str) -> Outcome<usize> {
    config.policy.phase(name).ok_or_else(|| {
        let names: Vec<_> = config
            .policy
            .phases
            .iter()
            .map(|phase| phase.name.as_str())
            .collect();
        Failure::usage(format_args!(
            "there is no phase {name:?}; there are: {}",
            names.join(", ")
        ))
    })
}

/// Asks every home database of every service, one after the other.
pub async fn survey(config: &Config, measure: Measure) -> Outcome<Survey> {
    let mut survey = Survey {
        measure,
        ..Survey::default()
    };
    for (name, service) in &config.services {
        let mut opened: Vec<Home> = Vec::new();
        for site in homes::sites(service) {
            let mut home = Home::open(name, service, site, "plan").await?;
            for other in &opened {
                home.refuse_same(name, service, other)?;
            }
            survey.add(name, service, &mut home).await?;
            opened.push(home);
        }
    }
    Ok(survey)
}

/// Asks the home databases at `site`.
pub async fn survey_at(config: &Config, site: &SiteName, measure: Measure) -> Outcome<Survey> {
    let mut survey = Survey {
        measure,
        ..Survey::default()
    };
    for (name, service) in &config.services {
        if service.databases.contains_key(site) {
            let mut home = Home::open(name, service, site, "plan").await?;
            survey.add(name, service, &mut home).await?;
        }
    }
    Ok(survey)
}

impl Survey {
    /// Asks one home database.
    pub(crate) async fn add(
        &mut self,
        name: &ServiceName,
        service: &Service,
        home: &mut Home,
    ) -> Outcome<()> {
        home.refuse_another(name, service).await?;
        let schema = home.schema()?.clone();
        let site = home.site.clone();
        let origin = site == service.origin;
        let found = match self.measure {
            Measure::Users => census_of_users(&mut home.session, &schema, origin).await,
            Measure::Rows => census(&mut home.session, &schema, origin).await,
        };
        let found = found.or_fail(Exit::Unreached, || {
            format!("{name}: cannot count the users at {site}")
        })?;
        self.census.extend(found.into_iter().map(|census| Count {
            service: name.clone(),
            site: site.clone(),
            market: census.market,
            users: census.users,
            rows: census.rows,
            bytes: census.bytes,
        }));
        self.recorded.extend(recorded(home, name).await?);
        Ok(())
    }
}

/// The phases that moves from this site were for. A way back begins no phase, and neither does a move that
/// was given up before it moved anybody. None where Domicile is not installed.
pub(super) async fn recorded(home: &Home, name: &ServiceName) -> Outcome<Vec<String>> {
    let moves = match journal::moves(&*home.session).await {
        Err(error) if error.sqlstate() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(Vec::new()),
        moves => moves.or_fail(Exit::Unreached, || {
            format!("{name}: cannot read the moves from {}", home.site)
        })?,
    };
    let begun = moves
        .into_iter()
        .filter(|m| m.of.is_none() && (m.state != "aborted" || m.moved > 0));
    Ok(begun.filter_map(|m| m.phase).collect())
}
