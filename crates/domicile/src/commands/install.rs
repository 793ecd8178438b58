//! `install`: puts schema, role, guard and publication into the home databases.

use model::{ServiceName, SiteName};
use postgres::connect::{Session, connect};
use residency::install::{Installation, install, mark_at_origin};

use super::homes::{self, Home};
use super::show;
use crate::cli::{Install, SiteUrl};
use crate::config::{AfterRestart, Config, Secret, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::install::{Prepared, render};

/// Installs at every site of every service, or at one; the origin first, because the others are told up to
/// which key users are its own.
pub async fn run(config: &Config, args: &Install) -> Outcome {
    let only = args
        .site
        .as_deref()
        .map(|site| homes::known_site(config, site))
        .transpose()?;
    for admin in &args.admin {
        homes::known_site(config, &admin.site)?;
    }
    // Everything that can be refused is, at every site, before anything is put in at one.
    let mut opened = Vec::new();
    for (name, service) in &config.services {
        if let Some((table, line)) = service.undecided().next() {
            return Err(Failure::usage(format_args!(
                "{}:{line}: nobody has decided what table {table} of {name} is",
                config.file.display()
            ))
            .mend("replace its \"?\"; the comment beside it says why it was left open"));
        }
        let mut homes: Vec<Home> = Vec::new();
        for site in homes::sites(service) {
            if *site != service.origin && only.as_ref().is_some_and(|only| only != site) {
                continue;
            }
            let home = open(name, service, site, &args.admin).await?;
            home.refuse_standby(name)?;
            home.schema()?;
            for other in &homes {
                home.refuse_same(name, service, other)?;
            }
            homes.push(home);
        }
        opened.push((name, service, homes));
    }
    let mut prepared = Vec::new();
    for (name, service, homes) in opened {
        let mut mark = None;
        for mut home in homes {
            let site = &home.site.clone();
            let schema = home.schema()?.clone();
            if *site == service.origin {
                mark = mark_at_origin(&home.session, &schema)
                    .await
                    .or_fail(Exit::Unreached, || {
                        format!("{name}: cannot read the users' keys at {site}")
                    })?;
            }
            if only.as_ref().is_some_and(|only| only != site) {
                continue;
            }
            let (role, password) = mover(service, site)?;
            let wanted = Installation {
                service: name,
                site,
                origin: &service.origin,
                home: &schema,
                mover: (&role, password.as_ref().map(Secret::expose)),
                policy: &config.policy,
                mark,
                after_restart: match config.sites[site].after_restart {
                    AfterRestart::Open => "open",
                    AfterRestart::Closed => "closed",
                },
            };
            let done = install(&mut home.session, &wanted)
                .await
                .map_err(|error| failure(name, site, error))?;
            prepared.push(Prepared {
                service: name.to_string(),
                site: site.to_string(),
                done,
            });
        }
    }
    show(&render(&prepared, Form::of_stdout(args.json.json)))?;
    Ok(Exit::Done)
}

/// The home database, as the role that `--admin` names for the site, else as the configured one.
pub(super) async fn open(
    name: &ServiceName,
    service: &Service,
    site: &SiteName,
    admin: &[SiteUrl],
) -> Outcome<Home> {
    match admin.iter().find(|admin| admin.site == site.as_str()) {
        None => Home::open(name, service, site, "install").await,
        Some(admin) => {
            // A cluster's administrator may stand for several services: the database is the configured one.
            let session = administrator(service, site, admin.url.expose()).await?;
            Home::read(name, service, site, session).await
        }
    }
}

async fn administrator(service: &Service, site: &SiteName, url: &str) -> Outcome<Session> {
    let session = connect(url, "install").await.map_err(|error| {
        homes::unreached(
            error,
            format!("cannot reach the database at {site} with the URL that --admin names"),
            &format!("--admin {site}=URL"),
        )
    })?;
    let row = session
        .query_one("SELECT current_database()", &[])
        .await
        .or_fail(Exit::Unreached, || {
            format!("cannot look at the database at {site}")
        })?;
    let found: String = row.get(0);
    let configured = database(service, site)?;
    if configured.as_deref().is_some_and(|name| name != found) {
        return Err(Failure::usage(format_args!(
            "--admin leads to database {found} at {site}, the configuration to {}",
            configured.unwrap_or_default()
        ))
        .mend(format!(
            "correct --admin {site}=URL, or {}",
            service.databases[site].place()
        )));
    }
    Ok(session)
}

fn parsed(service: &Service, site: &SiteName) -> Outcome<tokio_postgres::Config> {
    let url = service.databases[site].url()?;
    url.expose()
        .parse()
        .map_err(|_| Failure::usage(format_args!("the database URL of {site} cannot be read")))
}

fn database(service: &Service, site: &SiteName) -> Outcome<Option<String>> {
    Ok(parsed(service, site)?.get_dbname().map(str::to_owned))
}

/// The role that the mover logs in as at `site`, with its password where the URL holds one.
fn mover(service: &Service, site: &SiteName) -> Outcome<(String, Option<Secret>)> {
    let config = parsed(service, site)?;
    let role = config.get_user().ok_or_else(|| {
        Failure::usage(format_args!("the database URL of {site} names no role"))
            .mend("write it as postgres://ROLE@HOST/DATABASE")
    })?;
    let password = config
        .get_password()
        .map(|p| Secret::new(String::from_utf8_lossy(p)));
    Ok((role.to_owned(), password))
}

fn failure(name: &ServiceName, site: &SiteName, error: residency::Error) -> Failure {
    let refused = error
        .sqlstate()
        .is_some_and(|state| state.code() == "42501");
    let exit = match &error {
        residency::Error::Refused(_) => Exit::Usage,
        _ => Exit::Unreached,
    };
    let failure = Failure::new(
        exit,
        anyhow::Error::from(error).context(format!("{name}: cannot install at {site}")),
    );
    if refused {
        return failure.mend(format!(
            "installing needs the tables' owner or an administrator once: add --admin {site}=URL"
        ));
    }
    failure
}
