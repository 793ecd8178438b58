//! `resolve BATCH --statement FILE`: takes a batch back from a site that is destroyed for good, by the word of two operators.
//!
//! The first makes the statement and signs it, the second signs it, and whoever has it can then have it carried out: by this process
//! where it reaches all databases, else by the daemon of the site that offered the batch.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use ledger::destroyed::{Doubt, FORMAT, Operators, Signed, Statement, WANTED};
use model::{BatchId, ServiceName, SiteName};
use mover::compare::{Near, Teller};
use mover::reclaim::{Claim, Reclaimed, Why, reclaim};
use postgres::connect::ConnectError;
use residency::reclaim as at_home;
use serde_json::json;

use super::apply::failure;
use super::confirm::confirmed;
use super::homes::{self, Home};
use super::keys::operators_key;
use super::resolve::by_daemons;
use super::routes::{end, peers};
use super::running::{Place, reach};
use super::{ledger as ledgers, show};
use crate::cli;
use crate::config::{Config, Service};
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::destroyed::{Shown, render_reclaimed, render_statement};
use crate::site;

/// What the flags ask for.
pub async fn run(config: &Config, batch: &BatchId, file: &Path, args: &cli::Resolve) -> Outcome {
    wants_operators(config)?;
    let form = Form::of_stdout(args.json.json);
    match (&args.destroyed, &args.key) {
        (Some(destroyed), Some(key)) => {
            let destroyed = homes::known_site(config, destroyed)?;
            let reason = args.reason.as_deref().unwrap_or_default();
            let signed = state(config, batch, &destroyed, reason, key).await?;
            create(file, &signed)?;
            shown(config, &signed, file, form)
        }
        (Some(_), None) => Err(Failure::usage("nobody signs the statement")
            .mend("--key FILE, with the key of an operator")),
        (None, Some(key)) => countersign(config, batch, file, key, args),
        (None, None) => carry_out(config, batch, file, args).await,
    }
}

fn wants_operators(config: &Config) -> Outcome<()> {
    match config.operators.len() >= WANTED {
        true => Ok(()),
        false => Err(Failure::usage(format_args!(
            "that a site is destroyed is stated by {WANTED} operators; the configuration names {}",
            config.operators.len()
        ))
        .mend(
            "each makes a key, `domicile keys new --operator NAME --out FILE`, and its public half goes into [operators] of \
             every site's configuration",
        )),
    }
}

/// The operator whose key stands in `file`, and the key.
fn operator(config: &Config, file: &Path) -> Outcome<(String, ledger::key::SiteKey)> {
    let key = operators_key(file)?;
    let mut known = config.operators.iter();
    match known.find(|(_, public)| **public == key.public()) {
        Some((name, _)) => Ok((name.clone(), key)),
        None => Err(Failure::usage(format_args!(
            "the key in {} is no configured operator's",
            file.display()
        ))
        .mend(format!(
            "its public half is {}; [operators] of the configuration says whose keys count",
            key.public()
        ))),
    }
}

// === the first operator ===

async fn state(
    config: &Config,
    batch: &BatchId,
    destroyed: &SiteName,
    reason: &str,
    key: &Path,
) -> Outcome<Signed> {
    let (name, key) = operator(config, key)?;
    let (place, target) = find(config, batch).await?;
    if target != *destroyed {
        return Err(Failure::usage(format_args!(
            "{batch} was offered to {target}, not to {destroyed}"
        ))
        .mend("`domicile status` names the batches in doubt, and where they went"));
    }
    refuse_reached(config, &place.service, destroyed).await?;
    let cannot = || {
        format!(
            "{}: cannot read what {} knows of {destroyed}",
            place.service, place.site
        )
    };
    let came = at_home::came(&*place.session, destroyed).await;
    let at = at_home::now(&*place.session).await;
    let statement = Statement {
        format: FORMAT.to_owned(),
        service: place.service.to_string(),
        batch: batch.to_string(),
        source: place.site.to_string(),
        destroyed: destroyed.to_string(),
        came: came.or_fail(Exit::Unreached, cannot)?,
        reason: reason.to_owned(),
        at: at.or_fail(Exit::Unreached, cannot)?,
    };
    statement
        .sign(&name, &key)
        .or_fail(Exit::Usage, || "cannot write the statement".to_owned())
}

/// Where `batch` was offered from, and to which site.
async fn find(config: &Config, batch: &BatchId) -> Outcome<(Place, SiteName)> {
    for place in reach(config, "resolve").await?.places {
        let found = at_home::in_doubt(&*place.session, batch).await;
        let found = found.or_fail(Exit::Unreached, || {
            format!("{}: cannot look for batches in doubt", place.service)
        })?;
        if let Some((target, _)) = found {
            return Ok((place, target));
        }
    }
    Err(Failure::usage(format_args!(
        "no batch {batch} is in doubt at the sites reached"
    ))
    .mend("`domicile status` names the batches that are"))
}

/// Refuses a site whose database says anything: then its answer is to be had.
async fn refuse_reached(config: &Config, name: &ServiceName, site: &SiteName) -> Outcome<()> {
    if by_daemons(config) {
        // Its daemon alone can say it.
        return Ok(());
    }
    let service = config.service(name)?;
    let Some(database) = service.databases.get(site) else {
        return Ok(());
    };
    let url = database.url()?;
    let said = match postgres::connect::connect(url.expose(), "resolve").await {
        Ok(_) | Err(ConnectError::TooOld { .. } | ConnectError::Settings { .. }) => true,
        Err(ConnectError::Malformed) => {
            return Err(Failure::usage(format_args!(
                "{name}: {} is no URL: nobody can say whether {site} answers",
                database.place()
            )));
        }
        Err(error) => error.sqlstate().is_some(),
    };
    match said {
        false => Ok(()),
        true => Err(Failure::usage(format_args!(
            "{name}: {site} answers, so it is not destroyed"
        ))
        .mend("`domicile resolve BATCH` asks it what became of the batch")),
    }
}

// === the second operator ===

fn countersign(
    config: &Config,
    batch: &BatchId,
    file: &Path,
    key: &Path,
    args: &cli::Resolve,
) -> Outcome {
    let (name, key) = operator(config, key)?;
    let mut signed = read(file, batch)?;
    let signers = signed
        .signers(&config.operators)
        .map_err(|doubt| doubtful(&doubt, file))?;
    if signers.contains(&name) {
        return Err(
            Failure::usage(format_args!("{name} has signed {} already", file.display()))
                .mend("another operator signs it, with his own key"),
        );
    }
    let form = Form::of_stdout(args.json.json);
    before_asking(&signed, &signers, file, form)?;
    let question = format!(
        "Sign, as {name}, that {} is destroyed for good?",
        signed.statement().destroyed
    );
    if !confirmed(args.yes, &question)? {
        return Ok(Exit::Done);
    }
    signed.add(&name, &key);
    replace(file, &signed)?;
    shown(config, &signed, file, form)
}

// === whoever has it carried out ===

async fn carry_out(config: &Config, batch: &BatchId, file: &Path, args: &cli::Resolve) -> Outcome {
    let signed = read(file, batch)?;
    let signers = signed
        .enough(&config.operators)
        .map_err(|doubt| doubtful(&doubt, file))?;
    let form = Form::of_stdout(args.json.json);
    before_asking(&signed, &signers, file, form)?;
    let statement = signed.statement();
    let question = format!(
        "Open the users of {batch} at {} again? If {} lives, they may be written at two sites",
        statement.source, statement.destroyed
    );
    if !confirmed(args.yes, &question)? {
        return Ok(Exit::Done);
    }
    let reclaimed = match by_daemons(config) {
        true => {
            let source = SiteName::from(statement.source.as_str());
            let daemon = site::reach(config, &source)?;
            daemon.reclaim(&signed.to_string()).await?
        }
        false => by_this_process(config, &signed).await?,
    };
    show(&render_reclaimed(statement, &reclaimed, form))?;
    Ok(Exit::Done)
}

async fn by_this_process(config: &Config, signed: &Signed) -> Outcome<Reclaimed> {
    let claimed = Claimed::verify(config, signed)?;
    let (name, source) = (&claimed.service, &claimed.source);
    refuse_reached(config, name, &claimed.claim.destroyed).await?;
    let service = config.service(name)?;
    let home = Home::open_installed(name, service, source, "reclaim").await?;
    let mut tellers: Vec<Arc<dyn Teller>> = Vec::new();
    for peer in claimed.others(config)? {
        tellers.push(near(name, service, &peer).await?);
    }
    let reclaimed = claimed.carry_out(&end(service, &home)?, &tellers).await?;
    ledgers::seal::after(config).await;
    Ok(reclaimed)
}

async fn near(name: &ServiceName, service: &Service, peer: &SiteName) -> Outcome<Arc<dyn Teller>> {
    let home = Home::open_installed(name, service, peer, "reclaim")
        .await
        .map_err(|failure| {
            failure.mend(format!(
                "every other site has to be heard, as the destroyed one may have handed users on: bring {peer} back"
            ))
        })?;
    Ok(Arc::new(Near::new(peer.clone(), home.session)))
}

/// What a statement whose signatures hold asks for.
pub struct Claimed {
    /// The service.
    pub service: ServiceName,
    /// The site that takes the batch back.
    pub source: SiteName,
    /// What it takes back.
    pub claim: Claim,
}

// === impl Claimed ===

impl Claimed {
    /// Of a statement that enough of the operators of `config` have signed.
    pub fn verify(config: &Config, signed: &Signed) -> Outcome<Self> {
        wants_operators(config)?;
        let signers = signed.enough(&config.operators);
        let signers = signers.map_err(|doubt| doubtful(&doubt, Path::new("the statement")))?;
        let statement = signed.statement();
        let service = ServiceName::from(statement.service.as_str());
        config.service(&service)?;
        let source = homes::known_site(config, &statement.source)?;
        let destroyed = homes::known_site(config, &statement.destroyed)?;
        if source == destroyed {
            return Err(Failure::usage("a site takes nothing back from itself"));
        }
        Ok(Self {
            claim: Claim {
                batch: BatchId::from(statement.batch.as_str()),
                destroyed,
                at: statement.at.clone(),
                came: statement.came,
                body: json!({
                    "service": service,
                    "site": source,
                    "reason": statement.reason,
                    "statement": signed.digest(),
                    "operators": pins(&config.operators, &signers),
                }),
            },
            service,
            source,
        })
    }

    /// The sites that have to be heard.
    pub fn others(&self, config: &Config) -> Outcome<Vec<SiteName>> {
        let mut others = peers(config, &self.service, &self.source)?;
        others.remove(&self.claim.destroyed);
        Ok(others.into_iter().collect())
    }

    /// Takes the batch back at `here`.
    pub async fn carry_out(
        &self,
        here: &mover::route::End,
        tellers: &[Arc<dyn Teller>],
    ) -> Outcome<Reclaimed> {
        let doing = || format!("{}: taking {} back", self.service, self.claim.batch);
        match reclaim(here, &self.claim, tellers).await {
            Ok(Ok(reclaimed)) => Ok(reclaimed),
            Ok(Err(why)) => Err(refused(&self.service, &self.source, why)),
            Err(error) => Err(failure(error, doing())),
        }
    }
}

/// The pins of those who signed: no names, for the ledger.
fn pins(operators: &Operators, signers: &BTreeSet<String>) -> Vec<String> {
    let keys = signers.iter().filter_map(|name| operators.get(name));
    keys.map(|key| key.pin().to_string()).collect()
}

fn refused(service: &ServiceName, site: &SiteName, why: Why) -> Failure {
    let (exit, mend) = match &why {
        Why::NotInDoubt(_) | Why::Elsewhere(_) => (
            Exit::Usage,
            "`domicile status` names the batches in doubt".to_owned(),
        ),
        Why::Old | Why::Reopened => (
            Exit::Usage,
            "make the statement anew, with --destroyed and --key".to_owned(),
        ),
        Why::Came(gone) => (
            Exit::Usage,
            format!(
                "it is not destroyed: let {gone} answer for the batch; where it is gone again, make the statement anew"
            ),
        ),
        Why::Closed | Why::WentBack => (
            Exit::Unreached,
            format!("`domicile guard status --site {site}` shows how it stands"),
        ),
        Why::Unready(peer) => (
            Exit::Unreached,
            format!(
                "every other site has to be heard: `domicile guard status --site {peer}` shows how it stands"
            ),
        ),
    };
    Failure::new(exit, anyhow::anyhow!("{service} at {site}: {why}")).mend(mend)
}

// === files ===

fn read(file: &Path, batch: &BatchId) -> Outcome<Signed> {
    let text = fs::read_to_string(file)
        .or_fail(Exit::Usage, || format!("cannot read {}", file.display()))?;
    let signed = Signed::parse(&text).map_err(|_| {
        Failure::usage(format_args!("{} holds no statement", file.display()))
            .mend("the first operator makes it, with --destroyed, --reason and --key")
    })?;
    match signed.statement().batch == batch.as_str() {
        true => Ok(signed),
        false => Err(Failure::usage(format_args!(
            "{} is about another batch: {}",
            file.display(),
            signed.statement().batch
        ))
        .mend("name that one, or the file that was made for this one")),
    }
}

fn doubtful(doubt: &Doubt, file: &Path) -> Failure {
    let mend = match doubt {
        Doubt::TooFew(_) => "another operator signs it: --statement FILE --key HIS.key",
        Doubt::Stranger(_) => "make the statement anew; [operators] says whose keys count",
        Doubt::Changed(_) => "make the statement anew",
    };
    Failure::usage(format_args!("{}: {doubt}", file.display())).mend(mend)
}

fn create(file: &Path, signed: &Signed) -> Outcome<()> {
    let failed = || format!("cannot write {}", file.display());
    let mut made = fs::File::create_new(file).or_fail(Exit::Usage, failed)?;
    made.write_all(signed.to_string().as_bytes())
        .and_then(|()| made.sync_all())
        .or_fail(Exit::Usage, failed)
}

/// In one step: what one operator signed is not lost where this is cut short.
fn replace(file: &Path, signed: &Signed) -> Outcome<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    create(new, signed)?;
    fs::rename(new, file).or_fail(Exit::Usage, || format!("cannot write {}", file.display()))
}

/// What is about to be asked about: for people.
fn before_asking(
    signed: &Signed,
    signers: &BTreeSet<String>,
    file: &Path,
    form: Form,
) -> Outcome<()> {
    match form {
        Form::Json => Ok(()),
        _ => show(&render_statement(
            &Shown::of(signed, signers, file),
            Form::Plain,
        )),
    }
}

fn shown(config: &Config, signed: &Signed, file: &Path, form: Form) -> Outcome {
    let signers = signed.signers(&config.operators);
    let signers = signers.map_err(|doubt| doubtful(&doubt, file))?;
    show(&render_statement(&Shown::of(signed, &signers, file), form))?;
    Ok(Exit::Done)
}
