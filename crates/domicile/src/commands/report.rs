//! `report`: how long requests took and how many failed, for each market, before and after its users moved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Market, ServiceName};
use residency::{left, traffic};

use super::homes::{self, Home};
use super::show;
use crate::cli;
use crate::config::{Config, Service};
use crate::exit::{Exit, OrFail as _, Outcome};
use crate::render::report::{Report, html, render};
use crate::render::{Form, status::NotRead};
use crate::traffic::course::{Course, Leg};

/// The markets that are counted apart are those of policy; all others are one.
const OTHER: &str = "other";

/// Shows what is known. A site that cannot be read is named, and the rest is shown (3).
pub async fn run(config: &Config, args: &cli::Report) -> Outcome {
    homes::say_elsewhere(config)?;
    let mut report = Report {
        elsewhere: elsewhere(config),
        ..Report::default()
    };
    let named = config.policy.markets();
    for (name, service) in &config.services {
        let opened = open(name, service, &mut report.not_read).await;
        of_service(name, &opened, &named, args.since, &mut report).await;
    }
    if let Some(file) = &args.out {
        std::fs::write(file, html::render(&report))
            .or_fail(Exit::Usage, || format!("cannot write {}", file.display()))?;
    }
    show(&render(&report, Form::of_stdout(args.json.json)))?;
    Ok(report.exit())
}

/// The sites whose databases are not known here.
pub(super) fn elsewhere(config: &Config) -> Vec<String> {
    let sites = config.elsewhere().into_iter();
    sites.map(ToString::to_string).collect()
}

/// The home databases of a service that are reached.
pub(super) async fn open(
    name: &ServiceName,
    service: &Service,
    not_read: &mut Vec<NotRead>,
) -> Vec<Home> {
    let mut opened = Vec::new();
    for site in homes::here(service) {
        match Home::open_installed(name, service, site, "report").await {
            Ok(home) => opened.push(home),
            Err(failure) => not_read.push(NotRead {
                service: name.to_string(),
                site: site.to_string(),
                why: format!("{:#}", failure.error),
            }),
        }
    }
    opened
}

/// Names a site whose history could not be read to its end.
pub(super) fn not_read(name: &ServiceName, home: &Home, error: &residency::Error) -> NotRead {
    use tokio_postgres::error::SqlState;
    let old = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN];
    let why = match error.sqlstate().is_some_and(|state| old.contains(state)) {
        true => "Domicile's tables are of an earlier version there: run `domicile install`".into(),
        false => model::causes(error).to_string(),
    };
    NotRead {
        service: name.to_string(),
        site: home.site.to_string(),
        why,
    }
}

async fn of_service(
    name: &ServiceName,
    homes: &[Home],
    named: &BTreeSet<Market>,
    since: Option<Duration>,
    report: &mut Report,
) {
    let mut legs: BTreeMap<Market, Vec<Leg>> = BTreeMap::new();
    let mut read = Vec::new();
    for home in homes {
        let departures = match left::left(&*home.session).await {
            Ok(departures) => departures,
            Err(error) => {
                report.not_read.push(not_read(name, home, &error));
                continue;
            }
        };
        for left in departures {
            let Some(market) = left.market else {
                report.unsaid += left.users;
                continue;
            };
            // As gateways count.
            let apart = market.as_str().is_empty() || named.contains(&market);
            let market = if apart { market } else { OTHER.into() };
            legs.entry(market).or_default().push(Leg {
                r#move: left.r#move,
                phase: left.phase,
                from: home.site.clone(),
                to: left.target,
                users: left.users,
                first: left.first,
                last: left.last,
            });
        }
        read.push(home);
    }
    let mut courses: BTreeMap<Market, Course> = legs
        .into_iter()
        .map(|(market, legs)| (market, Course::new(legs)))
        .collect();
    for home in read {
        let add = |traffic: traffic::Traffic| {
            let course = courses.entry(traffic.counted.market.clone());
            let course = course.or_insert_with(|| Course::new(Vec::new()));
            course.add(&traffic);
        };
        if let Err(error) = traffic::history(&*home.session, since, add).await {
            report.not_read.push(not_read(name, home, &error));
        }
    }
    for (market, course) in &courses {
        report.add(name, market, course);
    }
}
