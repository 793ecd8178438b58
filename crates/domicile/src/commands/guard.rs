//! `guard status|open|close`: whether a site was compared with its peers since its server started; break-glass.

use std::time::Duration;

use model::SiteName;
use residency::{barrier, door};

use super::homes::Home;
use super::running::{Place, reach};
use super::{homes, resolve, routes, show};
use crate::cli;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::guard::{Guarded, render};

/// How long closing waits for transactions that began before.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows how the sites stand.
pub async fn status(config: &Config, args: &cli::GuardStatus) -> Outcome {
    let site = args.site.as_deref();
    let site = site
        .map(|site| homes::known_site(config, site))
        .transpose()?;
    let reached = reach(config, "guard").await?;
    let mut found = Vec::new();
    for place in &reached.places {
        if site.as_ref().is_none_or(|site| *site == place.site) {
            found.push(look(place).await?);
        }
    }
    show(&render(&found, Form::of_stdout(args.json.json)))?;
    match reached.unreached {
        Some(unreached) => Err(unreached),
        None => Ok(Exit::Done),
    }
}

/// Opens the site, as somebody says that it may be.
pub async fn open(config: &Config, args: &cli::GuardTurn) -> Outcome {
    let mut found = Vec::new();
    for mut place in meant(config, args).await? {
        if !resolve::by_daemons(config) {
            hear_first(config, &place).await;
        }
        let failed = cannot(&place);
        let failed = || failed.clone();
        let tx = place.session.transaction().await;
        let tx = tx.or_fail(Exit::Unreached, failed)?;
        door::open_by_hand(&tx, &args.reason)
            .await
            .or_fail(Exit::Unreached, failed)?;
        tx.commit().await.or_fail(Exit::Unreached, failed)?;
        found.push(look(&place).await?);
    }
    show(&render(&found, Form::of_stdout(args.json.json)))?;
    Ok(Exit::Done)
}

/// Compares the site with its peers where all of them can be reached: better than anybody's word.
async fn hear_first(config: &Config, place: &Place) {
    let compared = async {
        let service = config.service(&place.service)?;
        let home = Home::open_installed(&place.service, service, &place.site, "compare").await?;
        routes::compared(&place.service, service, &home).await
    };
    if let Err(failure) = compared.await {
        eprintln!(
            "warning: opened without having been compared with all peers: {:#}",
            failure.error
        );
    }
}

/// Closes the site. 2 where its guard cannot be closed, 1 where transactions that began before go on.
pub async fn close(config: &Config, args: &cli::GuardTurn) -> Outcome {
    let places = meant(config, args).await?;
    for place in &places {
        if !look(place).await?.closes {
            return Err(Failure::usage(format_args!(
                "{}: the guard at {} is not made to be closed",
                place.service, place.site
            ))
            .mend(format!(
                "set after_restart = \"closed\" for site.{}, and run `domicile install`: it stays open until it is closed",
                place.site
            )));
        }
    }
    let (mut found, mut exit) = (Vec::new(), Exit::Done);
    for mut place in places {
        let failed = cannot(&place);
        let failed = || failed.clone();
        let tx = place.session.transaction().await;
        let tx = tx.or_fail(Exit::Unreached, failed)?;
        door::close(&tx, &args.reason)
            .await
            .or_fail(Exit::Unreached, failed)?;
        tx.commit().await.or_fail(Exit::Unreached, failed)?;
        match barrier::wait(&place.session, 0, PATIENCE).await {
            Err(residency::Error::BarrierTimeout { blockers }) => {
                let (service, blockers) = (&place.service, blockers.join("; "));
                eprintln!(
                    "warning: {service}: closed for whatever begins now; these may still commit what they wrote: {blockers}"
                );
                exit = Exit::Unfinished;
            }
            waited => waited.or_fail(Exit::Unreached, failed)?,
        }
        found.push(look(&place).await?);
    }
    show(&render(&found, Form::of_stdout(args.json.json)))?;
    Ok(exit)
}

async fn meant(config: &Config, args: &cli::GuardTurn) -> Outcome<Vec<Place>> {
    let site: SiteName = homes::known_site(config, &args.site)?;
    if let Some(service) = &args.service {
        config.service(&service.as_str().into())?;
    }
    let of_service = |place: &Place| {
        let service = args.service.as_deref();
        service.is_none_or(|service| service == place.service.as_str())
    };
    let reached = reach(config, "guard").await?;
    let places = reached.places.into_iter();
    let places: Vec<Place> = places
        .filter(|place| place.site == site && of_service(place))
        .collect();
    match (places.is_empty(), reached.unreached) {
        (true, Some(unreached)) => Err(unreached),
        (true, None) => Err(
            Failure::usage(format_args!("Domicile is not installed at {site}"))
                .mend("run `domicile install`"),
        ),
        (false, _) => Ok(places),
    }
}

async fn look(place: &Place) -> Outcome<Guarded> {
    let failed = || cannot(place);
    let door = door::look(&*place.session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let lost = residency::tidings::lost(&*place.session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let (since, why) = door.since.unzip();
    Ok(Guarded {
        service: place.service.to_string(),
        site: place.site.to_string(),
        closes: door.closes,
        open: door.open,
        since,
        why,
        shut: door.shut,
        lost: lost.into_iter().map(|(user, _)| user).collect(),
    })
}

fn cannot(place: &Place) -> String {
    format!(
        "{}: cannot see to the guard at {}",
        place.service, place.site
    )
}
