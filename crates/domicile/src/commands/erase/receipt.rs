//! Receipts: one file for each erasure, made from the sealed ledger.

use std::io::Write as _;
use std::path::Path;

use ::ledger::key::SiteKey;
use ::ledger::keyring::Keys;
use ::ledger::receipt::{Account, COVERS, FORMAT, LIMITS, Receipt, STATEMENT, Shown, Statement};
use model::{MoveId, UserKey};
use residency::erasures::{self, Scope};
use residency::{entries, erasures::Erasure};

use super::super::homes::Home;
use super::super::ledger::evidence::{included, last_head};
use super::super::running::steer_failed;
use super::super::{ledger, users};
use super::{Opened, Order};
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::erase::Erased;

/// Writes the receipts of all erasures that the order speaks of into `folder`, which is made where it is missing. What has
/// no receipt is said in a warning.
pub(super) async fn write(
    config: &Config,
    opened: &[Opened<'_>],
    order: &Order,
    folder: &Path,
    erased: &mut Erased,
) -> Outcome<()> {
    std::fs::create_dir_all(folder)
        .or_fail(Exit::Usage, || format!("cannot make {}", folder.display()))?;
    let mut written = 0;
    for (name, _, homes) in opened {
        for home in homes {
            let doing = format!("{name}: cannot read the erasures of {}", home.site);
            let failed = |error| steer_failed(error, doing.clone());
            let session = &*home.session;
            let kind = home.schema()?.users.kind;
            let user = match &order.user {
                None => None,
                Some(user) => match users::canonical(kind, user) {
                    None => continue,
                    user => user,
                },
            };
            let of_user = match &user {
                None => None,
                Some(user) => Some(
                    erasures::of_user(session, kind, user)
                        .await
                        .map_err(failed)?,
                ),
            };
            let all = ["deleted", "vacuumed", "purged"];
            for erasure in erasures::list(session, &all).await.map_err(failed)? {
                let named = of_user.as_ref().is_none_or(|of| of.contains(&erasure.id));
                if !named || !is_of(&erasure, &order.moves) {
                    continue;
                }
                let key = config
                    .sites
                    .get(&home.site)
                    .map(ledger::key_of)
                    .transpose()?
                    .flatten();
                let waits = erased.erasures.iter().find(|one| one.erasure == erasure.id);
                let waits = waits.map(|one| one.waits.clone()).unwrap_or_default();
                let made = match &key {
                    Some(key) => {
                        make((name.as_str(), home), key, &erasure, user.as_ref(), waits).await?
                    }
                    None => None,
                };
                let Some(receipt) = made else {
                    eprintln!(
                        "warning: there is no receipt of {}: the ledger of {} is not sealed\nmend: give the site a key, and run `domicile ledger seal`",
                        erasure.id, home.site
                    );
                    continue;
                };
                put(folder, &format!("{name}-{}.json", erasure.id), &receipt)?;
                written += 1;
            }
        }
    }
    erased.receipt = Some(folder.display().to_string());
    erased.receipts = written;
    Ok(())
}

fn is_of(erasure: &Erasure, moves: &[MoveId]) -> bool {
    match &erasure.scope {
        _ if moves.is_empty() => true,
        Scope::Batch { r#move, .. } => moves.contains(r#move),
        Scope::User => false,
    }
}

/// `None` where not all of its entries are sealed yet.
async fn make(
    (service, home): (&str, &Home),
    key: &SiteKey,
    erasure: &Erasure,
    user: Option<&UserKey>,
    waits: Vec<String>,
) -> Outcome<Option<Receipt>> {
    let session = &*home.session;
    let site = home.site.as_str();
    let failed = |error| {
        steer_failed(
            error,
            format!("{service}: cannot read the ledger of {site}"),
        )
    };
    let Some(head) = last_head(session, site).await.map_err(failed)? else {
        return Ok(None);
    };
    let openings = match user {
        None => Vec::new(),
        Some(user) => entries::about(session, user, head.size)
            .await
            .map_err(failed)?,
    };
    let (mut shown, mut read) = (Vec::new(), Vec::new());
    for position in entries::of_erasure(session, &erasure.id, head.size)
        .await
        .map_err(failed)?
    {
        let found = included(session, position, head.size)
            .await
            .map_err(failed)?;
        let opening = openings.iter().find(|opened| opened.position == position);
        shown.push(Shown {
            position,
            entry: found.text,
            path: found.path,
            opening: opening.map(|opened| opened.opening),
        });
        read.extend(found.entry);
    }
    let Some(account) = Account::of(&read).filter(|account| account.state == erasure.state.name())
    else {
        return Ok(None);
    };
    let mut keys = Keys::new();
    let signers = head
        .keys
        .into_iter()
        .chain([(site.to_owned(), key.public())]);
    for (site, key) in signers {
        let known = keys.entry(site).or_default();
        if !known.contains(&key) {
            known.push(key);
        }
    }
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let statement = Statement {
        format: STATEMENT.to_owned(),
        service: service.to_owned(),
        site: site.to_owned(),
        user: user
            .filter(|_| shown.iter().any(|one| one.opening.is_some()))
            .map(ToString::to_string),
        account,
        waits,
        covers: texts(COVERS),
        limits: texts(LIMITS),
        at: ledger::seal::now(),
        size: head.size,
        root: head.root,
    };
    let statement = statement
        .sign(key)
        .or_fail(Exit::Unreached, || "cannot write the statement".to_owned())?;
    Ok(Some(Receipt {
        format: FORMAT.to_owned(),
        keys,
        statement,
        head: head.note,
        entries: shown,
    }))
}

/// Writes a file in one piece: beside where it will stand, then in its place.
fn put(folder: &Path, name: &str, receipt: &Receipt) -> Outcome<()> {
    let path = folder.join(name);
    let unwritten = || format!("cannot write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).or_fail(Exit::Usage, unwritten)?;
    file.write_all(crate::render::json(receipt).as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .or_fail(Exit::Usage, unwritten)?;
    file.persist(&path).map(drop).map_err(|error| {
        Failure::new(
            Exit::Usage,
            anyhow::Error::from(error.error).context(unwritten()),
        )
    })
}
