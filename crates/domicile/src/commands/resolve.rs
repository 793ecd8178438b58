//! `resolve`: a batch in doubt by its target's answer, lost users by an operator's word.

use std::collections::BTreeSet;
use std::path::Path;

use handoff::record::Event;
use model::{BatchId, ServiceName, SiteName, UserKey};
use postgres::digest::DigestKey;
use postgres::verify;
use residency::records::{self, Change};
use residency::{door, entries, journal, tidings};
use serde_json::json;

use super::apply::failure;
use super::confirm::confirmed;
use super::homes::{self, Home};
use super::routes::{Ends, compare_service, peers};
use super::running::reach;
use super::{destroyed, ledger, show, users};
use crate::cli;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::guard::{Resolved, render_lost, render_resolved};
use crate::site;

/// Resolves what is named.
pub async fn run(config: &Config, args: &cli::Resolve) -> Outcome {
    match (&args.batch, &args.lost) {
        (Some(batch), _) if args.statement.is_some() => {
            let file = args.statement.as_deref().unwrap_or(Path::new(""));
            destroyed::run(config, &BatchId::from(batch.as_str()), file, args).await
        }
        (Some(batch), _) => in_doubt(config, &BatchId::from(batch.as_str())).await,
        (None, Some(lost)) => lost_users(config, args, lost).await,
        (None, None) => Err(Failure::usage("nothing is named to be resolved")
            .mend("name a batch, or users with --lost")),
    }
}

/// Asks the target of `batch`, and acts on its answer. 2 where no such batch is in doubt.
async fn in_doubt(config: &Config, batch: &BatchId) -> Outcome {
    for place in reach(config, "resolve").await?.places {
        let cannot = || format!("{}: cannot look for batches in doubt", place.service);
        let service = config.service(&place.service)?;
        for target in homes::sites(service) {
            let offered = journal::batches_in(&*place.session, "offered", target)
                .await
                .or_fail(Exit::Unreached, cannot)?;
            if !offered.iter().any(|(offered, ..)| offered == batch) {
                continue;
            }
            if by_daemons(config) {
                return Err(Failure::usage(format_args!(
                    "{batch} is in doubt: the daemon of {} asks {target} by itself",
                    place.site
                ))
                .mend("`GET /status` of the daemons says whether the link stands; docs/restores.md says what to do where \
                       the site is gone for good"));
            }
            let route = Ends::default()
                .route_back(config, &place.service, (&place.site, target))
                .await?;
            let done = mover::resolve::in_doubt(&route).await;
            done.map_err(|error| {
                failure(error, format!("{}: asking about {batch}", place.service))
            })?;
            ledger::seal::after(config).await;
            println!("Batch {batch} is in doubt no more: {target} has answered.");
            return Ok(Exit::Done);
        }
    }
    Err(Failure::usage(format_args!("no batch {batch} is in doubt"))
        .mend("`domicile status` names the batches that are"))
}

/// Whether the sites' daemons hear each other by themselves.
pub(super) fn by_daemons(config: &Config) -> bool {
    // Of several sites none is named: that there are any is enough.
    !matches!(site::of_daemon(config, None), Ok(None))
}

async fn lost_users(config: &Config, args: &cli::Resolve, lost: &str) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    let (Some(site), Some(reason)) = (&args.site, &args.reason) else {
        return Err(Failure::usage("--lost wants --site and --reason"));
    };
    let site = homes::known_site(config, site)?;
    let to = args.to.as_deref();
    let to = to.map(|to| homes::known_site(config, to)).transpose()?;
    if to.is_none() && !args.here {
        return Err(Failure::usage("nobody says where they live").mend(
            "--here, with the rows that stand here, or --to SITE, with those that stand there",
        ));
    }
    let name = service(config, args.service.as_deref(), &site)?;
    let configured = config.service(&name)?;
    let others = peers(config, &name, &site)?;
    if let Some(to) = to.as_ref().filter(|to| !others.contains(*to)) {
        return Err(Failure::usage(format_args!(
            "{name} has no other home at {to}"
        )));
    }
    if !by_daemons(config) {
        compare_service(&name, configured).await?;
    }
    let mut home = Home::open_installed(&name, configured, &site, "resolve").await?;
    let cannot = || format!("{name}: cannot resolve lost users at {site}");
    let open = door::is_open(&*home.session).await;
    let again = tidings::again(&*home.session).await;
    if !open.or_fail(Exit::Unreached, cannot)? || again.or_fail(Exit::Unreached, cannot)? {
        return Err(Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("{name}: {site} has not heard all its peers yet: one of them may be these users' home"),
        )
        .mend("let its daemon, or `domicile apply`, compare it first; `domicile guard status` shows how it stands"));
    }
    let found = tidings::lost(&*home.session)
        .await
        .or_fail(Exit::Unreached, cannot)?;
    let mut found: Vec<UserKey> = found.into_iter().map(|(user, _)| user).collect();
    if lost != "all" {
        let wanted: BTreeSet<UserKey> = users::read(lost)?.into_iter().collect();
        if let Some(stray) = wanted.iter().find(|user| !found.contains(user)) {
            return Err(
                Failure::usage(format_args!("{name}: user {stray} is not lost at {site}")).mend(
                    format!("`domicile guard status --site {site}` names who is"),
                ),
            );
        }
        found.retain(|user| wanted.contains(user));
    }
    if found.is_empty() {
        return Err(Failure::usage(format_args!(
            "{name}: nobody is lost at {site}"
        )));
    }
    let counted = counted(&mut home, &found)
        .await
        .or_fail(Exit::Unreached, cannot)?;
    if form != Form::Json {
        show(&render_lost(&counted, site.as_str()))?;
    }
    let question = match &to {
        None => format!("Open them at {site} with these rows?"),
        Some(to) => format!("Give them to {to}, with what rows stand there?"),
    };
    if !confirmed(args.yes, &question)? {
        return Ok(Exit::Done);
    }
    write(&mut home, &found, to.as_ref(), reason)
        .await
        .or_fail(Exit::Unreached, cannot)?;
    // The other site hears of it at once.
    if !by_daemons(config) {
        compare_service(&name, configured).await?;
    }
    let resolved = Resolved {
        service: name.to_string(),
        home: to.as_ref().unwrap_or(&site).to_string(),
        site: site.to_string(),
        users: counted,
        reason: reason.clone(),
    };
    show(&render_resolved(&resolved, form))?;
    Ok(Exit::Done)
}

/// Each with the number of his rows that stand there.
async fn counted(home: &mut Home, users: &[UserKey]) -> anyhow::Result<Vec<(UserKey, u64)>> {
    let schema = home.schema().map_err(|failure| failure.error)?.clone();
    // Its rows are counted by what reads them whole; the key does not matter.
    let key = DigestKey::new([0; 32]);
    let tx = home.session.transaction().await?;
    let each = verify::digest_each(&tx, &schema, users, &key).await?;
    Ok(each
        .into_iter()
        .map(|(user, digest)| (user, digest.rows()))
        .collect())
}

/// All of them, or nobody.
async fn write(
    home: &mut Home,
    users: &[UserKey],
    to: Option<&SiteName>,
    reason: &str,
) -> anyhow::Result<()> {
    let kind = home.schema().map_err(|failure| failure.error)?.users.kind;
    let body = json!({"site": home.site, "home": to.unwrap_or(&home.site), "reason": reason});
    let change = |user: &UserKey| Change {
        user: user.clone(),
        event: match to {
            None => Event::TakeUp,
            Some(to) => Event::Cede { to: to.clone() },
        },
    };
    let changes: Vec<Change> = users.iter().map(change).collect();
    let tx = home.session.transaction().await?;
    records::change(&tx, kind, &changes, None).await?;
    entries::append(&tx, "resolved", body, users).await?;
    tx.commit().await?;
    Ok(())
}

/// The service that is meant.
fn service(config: &Config, named: Option<&str>, site: &SiteName) -> Outcome<ServiceName> {
    if let Some(named) = named {
        let named = ServiceName::from(named);
        config.service(&named)?;
        return Ok(named);
    }
    let here = config.services.iter();
    let mut here = here.filter(|(_, service)| service.databases.contains_key(site));
    match (here.next(), here.next()) {
        (Some((one, _)), None) => Ok(one.clone()),
        (None, _) => Err(Failure::usage(format_args!(
            "no service has a home at {site}"
        ))),
        (Some(_), Some(_)) => Err(Failure::usage(format_args!(
            "several services have a home at {site}"
        ))
        .mend("say which one with --service")),
    }
}
