//! `apply`: carries the plan out, or goes on where an earlier run stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::plan::Plan as Planned;
use model::{KeyKind, Market, ServiceName, SiteName, UserKey};
use mover::drive::{self, Expected, Wanted};
use mover::route::{End, Route};
use postgres::census;
use residency::journal::{self, Purpose};

use super::confirm::confirmed;
use super::homes::{self, Home};
use super::plan::Measure;
use super::routes::Ends;
use super::{ledger, plan, routes, show, users};
use crate::cli::Apply;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::progress::Progress;
use crate::render::{self, Form};
use crate::site::{self, Ended};

/// One run of the mover: from where to where, for whom.
pub struct Errand {
    /// The ends.
    pub route: Arc<Route>,
    /// What it is for.
    pub purpose: Purpose,
    /// Who is to go.
    pub wanted: Wanted,
    /// What it is expected to carry.
    pub expected: Expected,
}

/// Moves who is to move, and seals the ledgers.
pub async fn run(config: &Config, args: &Apply) -> Outcome {
    if let Some(site) = site::of_daemon(config, args.site.as_deref())? {
        return by_daemon(config, args, &site).await;
    }
    let outcome = unsealed(config, args).await;
    // Where the configuration is in the way, it is in the way of that too.
    if !matches!(&outcome, Err(failure) if failure.exit == Exit::Usage) {
        ledger::seal::after(config).await;
    }
    outcome
}

/// What the site's daemon does for us.
async fn by_daemon(config: &Config, args: &Apply, site: &SiteName) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    let users = args.users.as_deref().map(users::read).transpose()?;
    let daemon = site::reach(config, site)?;
    let planned = daemon.plan(args.phase.as_deref(), Measure::Users).await?;
    if planned.moves.is_empty() || form != Form::Json {
        show(&render::plan::render(&planned, form))?;
    }
    if planned.moves.is_empty() || !confirmed(args.yes, "Move these users?")? {
        return Ok(Exit::Done);
    }
    let progress =
        Progress::start(form).or_fail(Exit::Unreached, || "cannot show progress".into())?;
    let ended = daemon
        .apply(planned.phase.as_deref(), users, &progress)
        .await;
    self::ended(progress, ended, form)
}

/// Sums up what a daemon told.
pub(super) fn ended(progress: Progress, ended: Outcome<Ended>, form: Form) -> Outcome {
    let (tally, elapsed) = progress.finish();
    let mismatches = ended.as_ref().map_or(0, |ended| ended.mismatches);
    let summary = tally.summary(elapsed, true, mismatches);
    show(&render::summary::render(&summary, form))?;
    match ended?.failed {
        Some(failed) => Err(failed.into()),
        None => Ok(render::summary::exit(&summary)),
    }
}

/// As [`run`], and leaves the ledgers to somebody else: the demo's sites have no keys.
pub async fn unsealed(config: &Config, args: &Apply) -> Outcome {
    let form = Form::of_stdout(args.json.json);
    let only = args.users.as_deref().map(users::read).transpose()?;
    routes::compare_all(config).await?;
    let survey = plan::survey(config, Measure::Users).await?;
    let planned = plan::of(config, &survey, args.phase.as_deref())?;
    let mut ends = Ends::default();
    let mut errands = interrupted(config, &mut ends, &planned).await?;
    errands.extend(of_plan(config, &mut ends, &planned, only.as_deref()).await?);
    if errands.is_empty() {
        show(&render::plan::render(&planned, form))?;
        return Ok(Exit::Done);
    }
    if form != Form::Json {
        show(&render::plan::render(&planned, form))?;
    }
    if !confirmed(args.yes, "Move these users?")? {
        return Ok(Exit::Done);
    }
    carry(errands, form).await
}

/// Runs errands one after the other, showing how they go, and sums them up.
pub async fn carry(errands: Vec<Errand>, form: Form) -> Outcome {
    let progress =
        Progress::start(form).or_fail(Exit::Unreached, || "cannot show progress".into())?;
    let mut mismatches = 0;
    let mut failed = None;
    for errand in errands {
        let to = format!(
            "{}: moving users from {} to {}",
            errand.route.service, errand.route.source.site, errand.route.target.site
        );
        match drive::run(
            errand.route,
            errand.purpose,
            errand.wanted,
            errand.expected,
            &progress,
        )
        .await
        {
            Ok(report) => mismatches += report.mismatches,
            Err(error) => {
                failed = Some(failure(error, to));
                break;
            }
        }
    }
    let (tally, elapsed) = progress.finish();
    let summary = tally.summary(elapsed, true, mismatches);
    show(&render::summary::render(&summary, form))?;
    match failed {
        Some(failure) => Err(failure),
        None => Ok(render::summary::exit(&summary)),
    }
}

/// Moves that an earlier run left unfinished and that are not in the plan: they are brought to an end.
async fn interrupted(config: &Config, ends: &mut Ends, planned: &Planned) -> Outcome<Vec<Errand>> {
    let mut errands = Vec::new();
    for (name, service) in &config.services {
        for site in homes::sites(service) {
            let home = Home::open(name, service, site, "apply").await?;
            let moves = match journal::moves(&*home.session).await {
                // Not installed: the check of the ends says so, if this site is one.
                Err(error) if error.sqlstate().is_some_and(|s| s.code() == "42P01") => continue,
                moves => moves.or_fail(Exit::Unreached, || {
                    format!("{name}: cannot read the moves from {site}")
                })?,
            };
            for row in moves.into_iter().filter(|row| row.state == "running") {
                let again = planned.moves.iter().any(|m| {
                    m.service == row.service && m.from == row.source && m.to == row.target
                }) && planned.phase == row.phase
                    && row.of.is_none();
                if again {
                    continue;
                }
                let phase = row.phase.as_deref();
                let route = ends
                    .route(config, name, (&row.source, &row.target), phase)
                    .await?;
                errands.push(Errand {
                    route,
                    purpose: Purpose {
                        service: row.service,
                        source: row.source,
                        target: row.target,
                        phase: row.phase,
                        of: row.of,
                    },
                    wanted: Wanted::Users(Vec::new()),
                    expected: Expected::default(),
                });
            }
        }
    }
    Ok(errands)
}

/// The plan's moves, all markets that go the same way together.
async fn of_plan(
    config: &Config,
    ends: &mut Ends,
    planned: &Planned,
    only: Option<&[UserKey]>,
) -> Outcome<Vec<Errand>> {
    let mut ways: BTreeMap<(ServiceName, SiteName, SiteName), (Vec<Market>, Expected)> =
        BTreeMap::new();
    for m in &planned.moves {
        let way = ways
            .entry((m.service.clone(), m.from.clone(), m.to.clone()))
            .or_default();
        way.0.push(m.market.clone());
        way.1.users += m.users;
        way.1.rows += m.rows;
        way.1.bytes += m.bytes;
    }
    let mut left: BTreeSet<UserKey> = only.unwrap_or_default().iter().cloned().collect();
    let mut errands = Vec::new();
    for ((name, from, to), (markets, expected)) in ways {
        let phase = planned.phase.as_deref();
        let route = ends.route(config, &name, (&from, &to), phase).await?;
        let (wanted, expected) = match only {
            None => (Wanted::Markets(markets), expected),
            Some(only) => {
                no_file(&name, route.source.kind(), only)?;
                let among = among(&route.source, only, &markets).await?;
                among.iter().for_each(|user| {
                    left.remove(user);
                });
                if among.is_empty() {
                    continue;
                }
                let expected = Expected {
                    users: among.len() as u64,
                    ..Expected::default()
                };
                (Wanted::Users(among), expected)
            }
        };
        let purpose = Purpose {
            service: name,
            source: from,
            target: to,
            phase: planned.phase.clone(),
            of: None,
        };
        errands.push(Errand {
            route,
            purpose,
            wanted,
            expected,
        });
    }
    if !left.is_empty() {
        let named: Vec<&str> = left.iter().take(10).map(UserKey::as_str).collect();
        return Err(Failure::usage(format_args!(
            "{} of the users named are not to move in this phase: {}",
            left.len(),
            named.join(", ")
        ))
        .mend("`domicile where USER` shows where one lives and why"));
    }
    Ok(errands)
}

/// Refuses keys that no user of the service can have: as a rule the name of a file that is not there.
pub fn no_file(service: &ServiceName, kind: KeyKind, users: &[UserKey]) -> Outcome<()> {
    match users.iter().find(|user| !kind.accepts(user.as_str())) {
        None => Ok(()),
        Some(user) => Err(Failure::usage(format_args!(
            "--users: {user} can be no user's key in {service}, and there is no such file"
        ))
        .mend("name a file with one key a line, or the keys with commas between")),
    }
}

/// Those of `users` who live at the route's source and are of `markets`.
pub async fn among(source: &End, users: &[UserKey], markets: &[Market]) -> Outcome<Vec<UserKey>> {
    let failed = || format!("cannot look up the users at {}", source.site);
    let mut session = source
        .session("apply")
        .await
        .or_fail(Exit::Unreached, failed)?;
    let found = census::users_exist(&mut session, &source.schema, false, users)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let wanted = |user: &&UserKey| {
        found
            .get(*user)
            .is_some_and(|presence| presence.here && markets.contains(&presence.market))
    };
    Ok(users.iter().filter(wanted).cloned().collect())
}

/// What stopped a move, with its exit code and what to do.
pub fn failure(error: mover::Error, doing: String) -> Failure {
    use mover::Error;
    let (exit, mend) = match &error {
        Error::Forbidden { source, .. } => (Exit::Usage, source.mend()),
        Error::Residency {
            source: residency::Error::Office { .. },
            ..
        } => (
            Exit::Usage,
            "a move is already running here: wait for it, or stop that process",
        ),
        Error::Residency {
            source: residency::Error::BarrierTimeout { .. },
            ..
        } => (
            Exit::Limit,
            "end the transactions named, and run apply again",
        ),
        Error::Residency {
            source: residency::Error::Held { .. },
            ..
        } => (
            Exit::Limit,
            "nobody is left half-way; end the transactions named, and run apply again",
        ),
        Error::WalCap { .. } => (
            Exit::Limit,
            "nobody is left half-way; raise limits.wal or move in smaller parts, and run apply again",
        ),
        Error::Aborted { .. } => (
            Exit::Unfinished,
            "whoever had moved stays moved, everybody else lives where he did; apply begins a new move",
        ),
        Error::NotOpen { .. } => (
            Exit::Unreached,
            "the site's daemon does it as soon as it reaches the peers; `domicile guard open` does it now",
        ),
        Error::InDoubt { .. } => (
            Exit::Unfinished,
            "bring the target back, and run apply again",
        ),
        Error::Contradiction { .. } => (
            Exit::Unfinished,
            "run `domicile verify`, and ask before anything is changed by hand",
        ),
        Error::Ledger { .. } => (
            Exit::Unfinished,
            "run `domicile ledger verify`, which says what is wrong and where",
        ),
        Error::Unguarded { .. } => (
            Exit::Unfinished,
            "run `domicile install` to attach it again, see who took it off, and run apply again",
        ),
        Error::ReferenceDiffers { .. } => (
            Exit::Unfinished,
            "nobody moved: make the rows that stand at both equal, and run apply again",
        ),
        Error::Behind { .. } => (
            Exit::Limit,
            "everything done is kept: move when fewer writes come in, or give the target more, and run apply again",
        ),
        Error::SchemaChanged { .. } => (
            Exit::Unfinished,
            "nobody was moved over it; bring the schemas of both sites and the configuration into line, run \
             `domicile install`, and run apply again",
        ),
        error
            if error
                .sqlstate()
                .is_some_and(|state| state.code().starts_with("53")) =>
        {
            let state = error.sqlstate().map_or("", |state| state.code());
            (Exit::Limit, exhausted(state))
        }
        Error::Unfollowable { .. } => (
            Exit::Unfinished,
            "nobody is left half-way; see what did that, and run apply again",
        ),
        Error::Residency { .. }
        | Error::Postgres { .. }
        | Error::Connect { .. }
        | Error::Port(_)
        | Error::StreamGone
        | Error::Stopped { .. }
        | Error::Peer { .. }
        | Error::Left { .. }
        | Error::Disorder { .. } => (
            Exit::Unreached,
            "everything done is kept: run apply again to go on",
        ),
    };
    Failure::new(exit, anyhow::Error::from(error).context(doing)).mend(mend)
}

/// What to do where a server has run out of something (SQLSTATE class 53). Nothing is half done then.
fn exhausted(state: &str) -> &'static str {
    match state {
        "53100" => {
            "make room on that server's disk, and run apply again: everything done is kept, and nobody is left half-way"
        }
        "53300" => "end sessions that nobody needs or raise max_connections, and run apply again",
        _ => {
            "give that server more of what it ran out of, and run apply again: everything done is kept"
        }
    }
}
