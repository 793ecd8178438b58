//! `uninstall`: takes out what `install` put in, where nobody would reopen by it.

use model::{ServiceName, SiteName};
use residency::{audit, install};

use super::homes::{self, Home};
use super::show;
use crate::cli::Uninstall;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::install::{Prepared, render};

/// What to do before Domicile may go.
const MEND: &str = "bring the users home with `domicile rollback MOVE`, erase what they left with `domicile erase --now`, \
and uninstall again";

/// Uninstalls at every site of every service, or at one: at all of them or, where one is in the way, at none.
pub async fn run(config: &Config, args: &Uninstall) -> Outcome {
    let only = args
        .site
        .as_deref()
        .map(|site| homes::known_site(config, site))
        .transpose()?;
    homes::refuse_elsewhere(
        config,
        "uninstall looks at all sites whether users are known to live where it takes the records",
    )?;
    for admin in &args.admin {
        homes::known_site(config, &admin.site)?;
    }
    let mut leaving = Vec::new();
    for (name, service) in &config.services {
        for site in homes::sites(service) {
            if only.as_ref().is_none_or(|only| only == site) {
                let home = super::install::open(name, service, site, &args.admin).await?;
                refuse_reopening(name, &home).await?;
                leaving.push((name, home));
            }
        }
        if let Some(site) = only.as_ref().filter(|s| service.databases.contains_key(*s)) {
            refuse_last_word(name, service, site).await?;
        }
    }
    let mut prepared = Vec::new();
    for (name, mut home) in leaving {
        let schema = home.schema()?.clone();
        let done = install::uninstall(&mut home.session, name, &schema)
            .await
            .map_err(|error| failure(name, &home.site, error))?;
        prepared.push(Prepared {
            service: name.to_string(),
            site: home.site.to_string(),
            done,
        });
    }
    show(&render(&prepared, Form::of_stdout(args.json.json)))?;
    Ok(Exit::Done)
}

/// Looked at before anything is taken out anywhere, and again, under lock, where it is.
async fn refuse_reopening(name: &ServiceName, home: &Home) -> Outcome<()> {
    let failed = || format!("{name}: cannot look at the records at {}", home.site);
    if !audit::installed(&*home.session)
        .await
        .or_fail(Exit::Unreached, failed)?
    {
        return Ok(());
    }
    let reopening = audit::reopening(&*home.session)
        .await
        .or_fail(Exit::Unreached, failed)?;
    if reopening.is_empty() {
        return Ok(());
    }
    let counts: Vec<String> = reopening
        .iter()
        .map(|(state, users)| format!("{users} {state}"))
        .collect();
    Err(Failure::usage(format_args!(
        "{name}: at {} users who do not simply live there would be open to writes again: {}",
        home.site,
        counts.join(", ")
    ))
    .mend(MEND))
}

/// A site that goes alone takes its records along: nobody may live there by another site's word.
async fn refuse_last_word(name: &ServiceName, service: &Service, site: &SiteName) -> Outcome<()> {
    for other in homes::sites(service) {
        if other == site {
            continue;
        }
        let home = Home::open(name, service, other, "uninstall").await?;
        let failed = || format!("{name}: cannot look at the records at {other}");
        if !audit::installed(&*home.session)
            .await
            .or_fail(Exit::Unreached, failed)?
        {
            continue;
        }
        let users = audit::pointing_at(&*home.session, site)
            .await
            .or_fail(Exit::Unreached, failed)?;
        if users > 0 {
            return Err(Failure::usage(format_args!(
                "{name}: {other} knows {users} users to be at {site} or on their way; only the records there say so too"
            ))
            .mend(MEND));
        }
    }
    Ok(())
}

fn failure(name: &ServiceName, site: &SiteName, error: residency::Error) -> Failure {
    let exit = match &error {
        residency::Error::Refused(_) => Exit::Usage,
        _ => Exit::Unreached,
    };
    let rights = error
        .sqlstate()
        .is_some_and(|state| state.code() == "42501");
    let mend = match (exit, rights) {
        (Exit::Usage, _) => MEND.to_owned(),
        (_, true) => format!(
            "uninstalling needs the tables' owner or an administrator: add --admin {site}=URL"
        ),
        (_, false) => "see what the database says, and uninstall again".to_owned(),
    };
    Failure::new(
        exit,
        anyhow::Error::from(error).context(format!("{name}: cannot uninstall at {site}")),
    )
    .mend(mend)
}
