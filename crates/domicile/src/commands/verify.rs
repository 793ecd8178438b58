//! `verify`: compares all users' records and rows at all sites, independently of the moves.
//!
//! Each site says what it knows ([`mover::audit`]), and what they say is held against each other here: in the same words whether this process has their
//! databases open, or asks the daemon of its site, which asks the others'.
//!
//! Rows at a home and the frozen ones at the old site cannot be compared once the application has written at the home:
//! what can be shown then is that the frozen rows are still those that both sides agreed on before the
//! switch. A change of an owned table's columns after a move shows as a mismatch of its frozen rows.

mod frozen;
mod living;
mod sites;

use std::collections::BTreeMap;

use model::{ServiceName, SiteName, UserKey};
use mover::audit::{Ask, Key, Said};
use postgres::preflight::compare_references;

use super::whereabouts::no_key;
use super::{show, users};
use crate::cli::Verify;
use crate::config::{Config, Service};
use crate::exit::Outcome;
use crate::render::Form;
use crate::render::verify::{Mismatch, Verified, render};
use sites::Sites;

/// Compares. 1 where something is not as it should be, 3 where a site was not asked: the rest is compared all the same.
pub async fn run(config: &Config, args: &Verify) -> Outcome {
    let only = args.users.as_deref().map(users::read).transpose()?;
    let asked = args.service.as_deref().map(ServiceName::from);
    if let Some(name) = &asked {
        config.service(name)?;
    }
    let mut verified = Verified::default();
    for (name, service) in &config.services {
        if asked.as_ref().is_none_or(|asked| asked == name) {
            verify(config, (name, service), only.as_deref(), &mut verified).await?;
        }
    }
    show(&render(&verified, Form::of_stdout(args.json.json)))?;
    Ok(verified.exit())
}

async fn verify(
    config: &Config,
    service: (&ServiceName, &Service),
    only: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    let mut sites = Sites::open(config, service).await?;
    let only = sites.canonical(only)?;
    let only = only.as_deref();
    let key = fresh_key();
    living::verify(&mut sites, only, verified).await?;
    for own in 0..sites.own.len() {
        misplaced(&mut sites, own, only, verified).await?;
    }
    frozen::verify(&mut sites, only, &key, verified).await?;
    references(&mut sites, &key, verified).await?;
    verified.not_read.append(&mut sites.not_read);
    Ok(())
}

/// A key of this run alone: what one run's digests tell is nothing to another.
fn fresh_key() -> Key {
    // Two of 122 random bits.
    let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let random: Vec<u8> = random.iter().flat_map(|one| *one.as_bytes()).collect();
    *blake3::hash(&random).as_bytes()
}

/// Rows of people who have no business there: of `users`, or at a site of our own of everybody.
async fn misplaced(
    sites: &mut Sites<'_>,
    at: usize,
    users: Option<&[UserKey]>,
    verified: &mut Verified,
) -> Outcome<()> {
    let asked: Vec<Option<Vec<UserKey>>> = match users {
        Some(users) => sites::pages(users)
            .map(|users| Some(users.to_vec()))
            .collect(),
        None => vec![None],
    };
    for users in asked {
        let Some(Said::Held(held)) = sites.ask(at, Ask::Held(users)).await? else {
            return Ok(());
        };
        for held in held {
            verified.rows += held.rows;
            let table = held.table.to_string();
            let mut wrong = |user: Option<UserKey>, what: String| {
                verified.wrong(Mismatch {
                    user: user.map(|user| user.to_string()),
                    table: Some(table.clone()),
                    ..mismatch(sites.name, sites.site(at), what)
                });
            };
            for (user, rows) in held.misplaced {
                let what =
                    format!("{rows} misplaced rows: he does not live here and left none here");
                wrong(Some(user), what);
            }
            if held.more > 0 {
                wrong(None, format!("misplaced rows of {} more users", held.more));
            }
        }
    }
    Ok(())
}

/// Catalogue data is the same everywhere.
async fn references(sites: &mut Sites<'_>, key: &Key, verified: &mut Verified) -> Outcome<()> {
    let Some(first) = sites.own.first() else {
        return Ok(());
    };
    let tables: Vec<_> = first.schema()?.references.keys().cloned().collect();
    let mut order: Vec<usize> = (0..sites.len()).collect();
    // Whichever of them is asked: the origin's are what the others' are held against.
    order.sort_by_key(|at| (sites.site(*at) != sites.origin, sites.site(*at).clone()));
    let mut expected = None;
    for at in order {
        let mut digests = BTreeMap::new();
        for table in &tables {
            let ask = Ask::Reference(table.clone(), *key);
            if let Some(Said::Reference(Some(digest))) = sites.ask(at, ask).await? {
                digests.insert(table.clone(), digest);
            }
        }
        let site = sites.site(at).clone();
        let Some((first, expected)) = &expected else {
            expected = Some((site, digests));
            continue;
        };
        for found in compare_references((first, expected), (&site, &digests)) {
            verified.wrong(mismatch(sites.name, &site, found.what));
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
