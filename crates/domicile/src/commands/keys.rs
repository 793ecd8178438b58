//! `keys`: the site's own key, and the next one while it changes.
//!
//! Beside the key file `FILE` stands `FILE.next` from `rotate` until `rotate --activate`, and `FILE.previous` after that.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ledger::key::SiteKey;
use link::{Identity, IdentityError, NewKey};
use model::SiteName;

use super::homes::known_site;
use crate::cli::{KeysNew, KeysRotate, KeysShow};
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::Form;
use crate::render::keys::{Done, Keys, OperatorKey, render, render_operator};

/// Makes a site's key. Reads the configuration only where no file is given.
pub fn new(config: impl FnOnce() -> Outcome<Config>, args: &KeysNew) -> Outcome {
    if let (Some(operator), Some(file)) = (&args.operator, &args.out) {
        return of_operator(operator, file, args.json.json);
    }
    let site = args.site.as_deref().unwrap_or_default();
    let file = match &args.out {
        Some(file) => file.clone(),
        None => key_file(&config()?, site)?.1,
    };
    let identity = make(&file).map_err(|failure| match file.exists() {
        true => failure.mend(format!(
            "a key is never written over: `domicile keys rotate --site {}` makes the next one",
            site
        )),
        false => failure,
    })?;
    let keys = Keys::new(site, shown(&file), identity.pin().to_string(), None);
    print(&keys, Done::Made, args.json.json)
}

/// Makes an operator's key.
fn of_operator(name: &str, file: &Path, json: bool) -> Outcome {
    make(file)?;
    let made = OperatorKey {
        operator: name.to_owned(),
        file: shown(file),
        key: operators_key(file)?.public().to_string(),
    };
    super::show(&render_operator(&made, Form::of_stdout(json)))?;
    Ok(Exit::Done)
}

/// The key of an operator, in `file`.
pub(super) fn operators_key(file: &Path) -> Outcome<SiteKey> {
    let text = link::key_text(file).map_err(|why| Failure::new(Exit::Usage, why))?;
    SiteKey::from_pem(&text).or_fail(Exit::Usage, || {
        format!("cannot read a key in {}", file.display())
    })
}

/// Shows the pins of a site's keys.
pub fn show(config: &Config, args: &KeysShow) -> Outcome {
    let (site, file) = key_file(config, &args.site)?;
    let keys = both(&site, &file)?;
    print(&keys, Done::Nothing, args.json.json)
}

/// Makes the next key, or puts it in the present one's place. Either can be run again after an interruption.
pub fn rotate(config: &Config, args: &KeysRotate) -> Outcome {
    let (site, file) = key_file(config, &args.site)?;
    load(&file)?;
    let next = beside(&file, "next");
    let done = match args.activate {
        false => {
            if !next.exists() {
                make(&next)?;
            }
            Done::Prepared
        }
        true => {
            activate(&file, &next, &site)?;
            Done::Activated
        }
    };
    print(&both(&site, &file)?, done, args.json.json)
}

/// The present key is kept under another name first, then replaced in one step: at no moment is there none.
fn activate(file: &Path, next: &Path, site: &SiteName) -> Outcome<()> {
    if !next.exists() {
        return Err(Failure::usage(format_args!("there is no next key of {site} to activate"))
            .mend(format!("`domicile keys rotate --site {site}` makes one; its pin must reach every peer first")));
    }
    // A file that the daemon would refuse must not become the one that it reads.
    load(next)?;
    let previous = beside(file, "previous");
    let replaced = remove(&previous)
        .and_then(|()| fs::hard_link(file, &previous))
        .and_then(|()| fs::rename(next, file))
        .and_then(|()| sync_folder(file));
    replaced.or_fail(Exit::Usage, || {
        format!(
            "cannot put {} in the place of {}",
            next.display(),
            file.display()
        )
    })
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The site, and where the configuration says that its key stands.
fn key_file(config: &Config, site: &str) -> Outcome<(SiteName, PathBuf)> {
    let site = known_site(config, site)?;
    let file = config.sites.get(&site).and_then(|site| site.key.as_ref());
    match file {
        Some(file) => Ok((site, file.place())),
        None => Err(Failure::usage(format_args!(
            "the configuration names no key file of {site}"
        ))
        .mend(format!(
            "under [site.{site}]: key = {{ file = \"{site}.key\" }}"
        ))),
    }
}

fn both(site: &SiteName, file: &Path) -> Outcome<Keys> {
    let next = beside(file, "next");
    let next = match next.exists() {
        true => Some(load(&next)?.pin().to_string()),
        false => None,
    };
    let pin = load(file)?.pin().to_string();
    Ok(Keys::new(site.as_str(), shown(file), pin, next))
}

fn make(file: &Path) -> Outcome<Identity> {
    let made = NewKey::draw().and_then(|key| key.write(file));
    let identity = made.map_err(|why| Failure::new(Exit::Usage, why))?;
    sync_folder(file).or_fail(Exit::Usage, || format!("cannot keep {}", file.display()))?;
    Ok(identity)
}

fn load(file: &Path) -> Outcome<Identity> {
    Identity::load(file).map_err(|why| {
        let missing = matches!(&why, IdentityError::Unreadable { source, .. } if source.kind() == ErrorKind::NotFound);
        let failure = Failure::new(Exit::Usage, why);
        match missing {
            true => failure.mend("`domicile keys new` makes it; a site's key stands on its own machines alone"),
            false => failure,
        }
    })
}

/// `FILE.which`.
fn beside(file: &Path, which: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(which);
    PathBuf::from(name)
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

fn print(keys: &Keys, done: Done, json: bool) -> Outcome {
    super::show(&render(keys, done, Form::of_stdout(json)))?;
    Ok(Exit::Done)
}
