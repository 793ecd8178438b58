//! `report`: how long requests took and how many failed, for each market, before and after its users moved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Market, ServiceName};
use remote::figures::Cuts;
use residency::traffic::Traffic;

use super::figures::{self, Source};
use super::{homes, show};
use crate::cli;
use crate::config::Config;
use crate::exit::{Exit, OrFail as _, Outcome};
use crate::render::Form;
use crate::render::report::{Report, html, render};
use crate::traffic::course::{Course, Leg};

/// The markets that are counted apart are those of policy; all others are one.
const OTHER: &str = "other";

/// Shows what is known. A site that cannot be read is named, and the rest is shown (3).
pub async fn run(config: &Config, args: &cli::Report) -> Outcome {
    homes::refuse_nowhere(config)?;
    let mut report = Report::default();
    let named = config.policy.markets();
    for (name, service) in &config.services {
        let sources = figures::open(config, name, service, &mut report.not_read).await?;
        of_service(name, &sources, &named, args.since, &mut report).await;
    }
    if let Some(file) = &args.out {
        std::fs::write(file, html::render(&report))
            .or_fail(Exit::Usage, || format!("cannot write {}", file.display()))?;
    }
    show(&render(&report, Form::of_stdout(args.json.json)))?;
    Ok(report.exit())
}

async fn of_service(
    name: &ServiceName,
    sources: &[Source],
    named: &BTreeSet<Market>,
    since: Option<Duration>,
    report: &mut Report,
) {
    let mut legs: BTreeMap<Market, Vec<Leg>> = BTreeMap::new();
    let mut read = Vec::new();
    for source in sources {
        let departures = match source.left(name).await {
            Ok(departures) => departures,
            Err(not) => {
                report.not_read.push(not);
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
                from: source.site().clone(),
                to: left.target,
                users: left.users,
                first: left.first,
                last: left.last,
            });
        }
        read.push(source);
    }
    let mut courses: BTreeMap<Market, Course> = legs
        .into_iter()
        .map(|(market, legs)| (market, Course::new(legs)))
        .collect();
    let moved = courses.iter();
    let cuts: Cuts = moved
        .map(|(market, course)| (market.clone(), course.times().to_vec()))
        .collect();
    for source in read {
        let add = |traffic: Traffic| {
            let course = courses.entry(traffic.counted.market.clone());
            let course = course.or_insert_with(|| Course::new(Vec::new()));
            course.add(&traffic);
        };
        if let Err(not) = source.traffic(name, since, cuts.clone(), add).await {
            report.not_read.push(not);
        }
    }
    for (market, course) in &courses {
        report.add(name, market, course);
    }
}
