//! `ledger`: sealing, exporting and checking what the sites wrote down.

mod collect;
pub(super) mod evidence;
pub mod export;
pub mod seal;
pub mod verify;

use std::path::Path;

use ::ledger::key::{Pin, Pins, SiteKey};

pub(crate) use seal::now;

use crate::cli::{Cli, PinArgs};
use crate::config::{Config, Site};
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// The pins of each site that has any.
pub(super) fn pins(config: &Config) -> Outcome<Pins> {
    let mut pins = Pins::new();
    for (name, site) in &config.sites {
        let of_site = pins_of(name.as_str(), site)?;
        if !of_site.is_empty() {
            pins.insert(name.to_string(), of_site);
        }
    }
    Ok(pins)
}

pub(crate) fn pins_of(name: &str, site: &Site) -> Outcome<Vec<Pin>> {
    site.pins().map_err(|why| {
        Failure::usage(format_args!("site.{name}: {why}"))
            .mend(format!("correct site.{name}.link.pins, or site.{name}.key"))
    })
}

/// The site's private key, where it is configured.
pub(crate) fn key_of(site: &Site) -> Outcome<Option<SiteKey>> {
    let key = site.key.as_ref().map(|key| key.key()).transpose();
    key.map_err(|error| Failure::from(error).mend(KEY))
}

/// What to do about a missing or unusable key.
const KEY: &str =
    "give each site an Ed25519 key: `key = { file = \"NAME.pem\" }`, PKCS#8 PEM, mode 0600";

/// The pins for a file: those of the command line, or, where there are none, the configuration's.
pub(super) fn pins_for_file(cli: &Cli, args: &PinArgs) -> Outcome<Pins> {
    if args.pin.is_empty() {
        return pins(&super::configuration(cli)?);
    }
    let mut pins = Pins::new();
    for (site, pin) in &args.pin {
        pins.entry(site.clone()).or_default().push(*pin);
    }
    Ok(pins)
}

/// Reads a file of JSON.
pub(super) fn read(file: &Path) -> Outcome<serde_json::Value> {
    let cannot = || format!("cannot read {}", file.display());
    let text = std::fs::read_to_string(file).or_fail(Exit::Usage, cannot)?;
    // Its own words could repeat what stands in the file.
    serde_json::from_str(&text).map_err(|_| {
        Failure::usage(format_args!("{} is no JSON", file.display()))
            .mend("name a file that `domicile ledger export` or `domicile prove --out` wrote")
    })
}
