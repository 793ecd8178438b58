//! `check`: looks at everything that a move needs, at every site, and says what to do.

mod gateways;

use std::time::Duration;

use model::{ServiceName, SiteName};
use postgres::preflight::{self, Expectation, Side};
use residency::policy::{self, Refusal};
use tokio_postgres::error::SqlState;

use super::homes::{self, Home};
use super::show;
use crate::alerts;
use crate::cli::Check;
use crate::config::{Alerts, Config, Service, scrub};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::check::{Finding, Level, exit, render};

/// A transaction open for longer than this is named: a move waits for those that were open before it.
const LONG_TRANSACTION: Duration = Duration::from_secs(60);

/// Prints the findings; 1 where one is a blocker, 3 where a database was not reached.
pub async fn run(config: &Config, args: &Check) -> Outcome {
    let only = args
        .site
        .as_deref()
        .map(|site| homes::known_here(config, site))
        .transpose()?;
    homes::say_elsewhere(config)?;
    let mut findings = configured(config);
    findings.extend(gateways::findings(config));
    let mut unreached = false;
    for (name, service) in &config.services {
        unreached |= check_service(config, name, service, only.as_ref(), &mut findings).await?;
    }
    if let Some(only) = &only {
        // What two sites differ in is said of one of them; of the others only that is left.
        findings.retain(|f| f.site.as_ref().is_none_or(|site| site == only.as_str()));
    }
    show(&render(&findings, Form::of_stdout(args.json.json)))?;
    Ok(if unreached {
        Exit::Unreached
    } else {
        exit(&findings)
    })
}

/// What the configuration alone says.
fn configured(config: &Config) -> Vec<Finding> {
    let objects_left_behind = config
        .services
        .iter()
        .filter(|(_, s)| !s.left_behind.is_empty());
    let blockers = objects_left_behind.filter_map(|(name, _)| {
        let error = config.movable(name).err()?;
        Some(Finding {
            level: Level::Blocker,
            site: None,
            what: error.to_string(),
            mend: "take the key out, or wait for a version that moves it".into(),
        })
    });
    let warnings = config.warnings.iter().map(|warning| Finding {
        level: Level::Warning,
        site: None,
        what: warning.clone(),
        mend: String::new(),
    });
    blockers.chain(warnings).collect()
}

/// Whether some database was not reached.
async fn check_service(
    config: &Config,
    name: &ServiceName,
    service: &Service,
    only: Option<&SiteName>,
    findings: &mut Vec<Finding>,
) -> Outcome<bool> {
    let mut unreached = false;
    let mut opened = Vec::new();
    // With one site asked for, the origin is looked at too: it is what that site is compared with.
    let wanted =
        |site: &&SiteName| only.is_none_or(|only| *site == only || **site == service.origin);
    for site in homes::here(service).into_iter().filter(wanted) {
        match Home::open(name, service, site, "check").await {
            Ok(home) => opened.push(home),
            Err(failure) if matches!(failure.exit, Exit::Unreached | Exit::Unfinished) => {
                unreached |= failure.exit == Exit::Unreached;
                findings.push(blocker(site, &failure));
            }
            Err(failure) => return Err(failure),
        }
    }
    for (n, home) in opened.iter().enumerate() {
        for other in &opened[..n] {
            home.refuse_same(name, service, other)?;
        }
    }
    for home in &opened {
        inspect(name, service, &config.alerts, home, findings).await?;
        if home.schema.is_ok() {
            policy(config, name, home, findings).await?;
        }
    }
    compare(name, service, &opened, findings).await?;
    Ok(unreached)
}

fn blocker(site: &SiteName, failure: &Failure) -> Finding {
    let chain: Vec<_> = failure.error.chain().map(ToString::to_string).collect();
    Finding {
        level: Level::Blocker,
        site: Some(site.to_string()),
        what: scrub(&chain.join(": ")),
        mend: failure.mend.clone().unwrap_or_else(|| {
            "start the database, or correct its URL and rights in the configuration".into()
        }),
    }
}

async fn inspect(
    name: &ServiceName,
    service: &Service,
    bounds: &Alerts,
    home: &Home,
    findings: &mut Vec<Finding>,
) -> Outcome<()> {
    let schema = match &home.schema {
        Ok(schema) => schema,
        Err(errors) => {
            findings.extend(errors.iter().map(|error| Finding {
                level: Level::Blocker,
                site: Some(home.site.to_string()),
                what: format!("{name}: {error}"),
                mend: error.mend(),
            }));
            return Ok(());
        }
    };
    let expect = Expectation {
        service: name,
        origin: &service.origin,
        schema,
        catalog: &home.catalog,
        ids: homes::ids(service),
        long_transaction: LONG_TRANSACTION,
    };
    let found = preflight::inspect(&home.session, &home.site, &expect)
        .await
        .or_fail(Exit::Unreached, || {
            format!("{name}: cannot look at the database at {}", home.site)
        })?;
    findings.extend(found.into_iter().map(|finding| taken(name, finding)));
    findings.extend(refused_heads(name, home).await);
    let standbys = postgres::standbys::look(&*home.session).await;
    let standbys = standbys.or_fail(Exit::Unreached, || {
        format!("{name}: cannot look for standbys at {}", home.site)
    })?;
    findings.extend(alerts::standbys(&standbys, bounds).map(|alert| Finding {
        level: Level::Warning,
        site: Some(home.site.to_string()),
        what: format!("{name}: {}", alert.what),
        mend: alert.mend.to_owned(),
    }));
    Ok(())
}

/// Holds the site's own copy of the policy against the configuration, and looks whether each phase has what permits its moves.
async fn policy(
    config: &Config,
    name: &ServiceName,
    home: &Home,
    findings: &mut Vec<Finding>,
) -> Outcome<()> {
    let failed = || format!("{name}: cannot read the policy at {}", home.site);
    let version = config.policy.version().or_fail(Exit::Usage, failed)?;
    let mut found = Vec::new();
    for phase in config
        .policy
        .phases
        .iter()
        .filter(|phase| phase.services.contains(name))
    {
        let standing = match policy::standing(&*home.session, &phase.name).await {
            // Not installed, or by an older version: that is said already.
            Err(error) if error.sqlstate() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(()),
            standing => standing.or_fail(Exit::Unreached, failed)?,
        };
        let refusal = match standing {
            None => Some(Refusal::None),
            Some(standing) => standing
                .same("the configuration", &version)
                .and_then(|()| standing.permit(&phase.name).map(drop))
                .err(),
        };
        // Another policy is one thing to mend, however many phases it has.
        found.extend(refusal.filter(|refusal| !found.contains(refusal)));
    }
    findings.extend(found.into_iter().map(|refusal| Finding {
        // What is carried out already may go without.
        level: Level::Warning,
        site: Some(home.site.to_string()),
        what: format!("{name}: {refusal}"),
        mend: refusal.mend().to_owned(),
    }));
    Ok(())
}

/// The ledgers that this site refused to countersign. Nothing, where its tables are older than ledgers, or are not ours to
/// read: that is said elsewhere.
async fn refused_heads(name: &ServiceName, home: &Home) -> Vec<Finding> {
    let refused = residency::witness::refused(&*home.session)
        .await
        .unwrap_or_default();
    let finding = |refused: residency::witness::Refused| Finding {
        level: Level::Blocker,
        site: Some(home.site.to_string()),
        what: format!(
            "{name}: equivocation: the ledger of {} was refused: {}",
            refused.of, refused.reason
        ),
        mend: format!(
            "`domicile ledger verify` says what differs, `domicile ledger export` keeps the evidence; find out who \
             changed what {} wrote down",
            refused.of
        ),
    };
    refused.into_iter().map(finding).collect()
}

/// Holds every site against the origin, and all against each other where ids are concerned.
async fn compare(
    name: &ServiceName,
    service: &Service,
    opened: &[Home],
    findings: &mut Vec<Finding>,
) -> Outcome<()> {
    let mut sides = Vec::new();
    let mut digests = Vec::new();
    for home in opened {
        let Ok(schema) = &home.schema else { continue };
        let digest = match preflight::reference_digest(&home.session, schema).await {
            Ok(digest) => digest,
            // Before `install`, as a rule: the rest is still worth knowing.
            Err(error) if error.source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                findings.push(Finding {
                    level: Level::Blocker,
                    site: Some(home.site.to_string()),
                    what: format!(
                        "{name}: the role may not read {}, so it was not compared",
                        error.what
                    ),
                    mend: "run `domicile install`, which grants what is needed".into(),
                });
                continue;
            }
            Err(error) => {
                return Err(error).or_fail(Exit::Unreached, || {
                    format!("{name}: cannot read the reference tables at {}", home.site)
                });
            }
        };
        sides.push(Side {
            site: &home.site,
            schema,
            catalog: &home.catalog,
        });
        digests.push(digest);
    }
    let mut found = preflight::compare_ids(&sides, homes::ids(service));
    if let (Some(first), Some(digest)) = (sides.first(), digests.first()) {
        for (side, other) in sides.iter().zip(&digests).skip(1) {
            found.extend(preflight::compare(first, side));
            found.extend(preflight::compare_references(
                (first.site, digest),
                (side.site, other),
            ));
        }
    }
    findings.extend(found.into_iter().map(|finding| taken(name, finding)));
    Ok(())
}

/// A finding of the room below, with the service's name.
fn taken(name: &ServiceName, finding: preflight::Finding) -> Finding {
    Finding {
        level: match finding.level {
            preflight::Level::Blocker => Level::Blocker,
            preflight::Level::Warning => Level::Warning,
        },
        site: Some(finding.site.to_string()),
        what: format!("{name}: {}", finding.what),
        mend: finding.mend,
    }
}
