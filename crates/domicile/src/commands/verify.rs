//! `verify`: compares all users' records and rows at all sites, independently of the moves.
//!
//! Rows at a home and the frozen ones at the old site cannot be compared once the application has written at the home:
//! what can be shown then is that the frozen rows are still those that both sides agreed on before the
//! switch. A change of an owned table's columns after a move shows as a mismatch of its frozen rows.

mod frozen;
mod living;

use model::{ServiceName, SiteName, UserKey};
use postgres::audit;
use postgres::preflight::{compare_references, reference_digest};

use super::homes::{self, Home};
use super::whereabouts::no_key;
use super::{show, users};
use crate::cli::Verify;
use crate::config::{Config, Service};
use crate::exit::{Exit, OrFail, Outcome};
use crate::render::Form;
use crate::render::verify::{Mismatch, Verified, render};

/// Users looked at together: bounds memory.
const PAGE: u32 = 2_000;

/// Owners of misplaced rows who are named, for each table of a site.
const STRAYS: u32 = 20;

/// Compares. 1 where something is not as it should be.
pub async fn run(config: &Config, args: &Verify) -> Outcome {
    let only = args.users.as_deref().map(users::read).transpose()?;
    let asked = args.service.as_deref().map(ServiceName::from);
    if let Some(name) = &asked {
        config.service(name)?;
    }
    homes::refuse_elsewhere(config, "verify compares the databases of all sites")?;
    let mut verified = Verified::default();
    for (name, service) in &config.services {
        if asked.as_ref().is_none_or(|asked| asked == name) {
            verify(name, service, only.as_deref(), &mut verified).await?;
        }
    }
    show(&render(&verified, Form::of_stdout(args.json.json)))?;
    Ok(verified.exit())
}

async fn verify(
    name: &ServiceName,
    service: &Service,
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    let mut homes = Vec::new();
    for site in homes::sites(service) {
        homes.push(Home::open_installed(name, service, site, "verify").await?);
    }
    let kind = homes[0].schema()?.users.kind;
    let canonical = |user| users::canonical(kind, user).ok_or_else(|| no_key(user, name));
    let only = only
        .map(|only| only.iter().map(canonical).collect::<Outcome<Vec<_>>>())
        .transpose()?;
    let only = only.as_deref();
    living::verify(name, service, &mut homes, only, verified).await?;
    for home in &homes {
        misplaced(name, home, only, verified).await?;
    }
    frozen::verify(name, &mut homes, only, verified).await?;
    references(name, &homes, verified).await
}

/// Rows of people who have no business there.
async fn misplaced(
    name: &ServiceName,
    home: &Home,
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    let held = audit::held(&home.session, home.schema()?, only, STRAYS)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look for misplaced rows at {}", home.site)
        })?;
    for held in held {
        verified.rows += held.rows;
        let table = held.table.to_string();
        let mut wrong = |user: Option<UserKey>, what: String| {
            verified.wrong(Mismatch {
                user: user.map(|user| user.to_string()),
                table: Some(table.clone()),
                ..mismatch(name, &home.site, what)
            });
        };
        for (user, rows) in held.misplaced {
            let what = format!("{rows} misplaced rows: he does not live here and left none here");
            wrong(Some(user), what);
        }
        if held.more > 0 {
            wrong(None, format!("misplaced rows of {} more users", held.more));
        }
    }
    Ok(())
}

/// Catalogue data is the same everywhere.
async fn references(name: &ServiceName, homes: &[Home], verified: &mut Verified) -> Outcome<()> {
    let mut first = None;
    for home in homes {
        let digests = reference_digest(&home.session, home.schema()?)
            .await
            .or_fail(Exit::Unreached, || {
                format!("{name}: cannot read the reference tables at {}", home.site)
            })?;
        match &first {
            None => first = Some((&home.site, digests)),
            Some((site, expected)) => {
                for found in compare_references((*site, expected), (&home.site, &digests)) {
                    verified.wrong(mismatch(name, &home.site, found.what));
                }
            }
        }
    }
    Ok(())
}

fn mismatch(name: &ServiceName, site: &SiteName, what: impl Into<String>) -> Mismatch {
    Mismatch {
        service: name.to_string(),
        site: site.to_string(),
        user: None,
        table: None,
        what: what.into(),
    }
}
