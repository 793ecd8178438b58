//! Who the users are, and where policy wants them: the programme that the demo carries out.

use std::fmt::Write as _;

use crate::exit::{Failure, Outcome};

/// How many users the shop has, where nobody says otherwise: enough for every phase to move more than
/// 2,000.
const USERS: u32 = 5_000;
/// Fewer, and some market may have no user.
const USERS_MIN: u32 = 200;
/// More, and the check of every single row no longer takes seconds.
const USERS_MAX: u32 = 200_000;
/// The variable that says otherwise.
const USERS_VARIABLE: &str = "DOMICILE_DEMO_USERS";

/// A place of the demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    country: &'static str,
    provider: &'static str,
}

/// The sites, the origin first.
pub(super) const PLACES: [Place; 5] = [
    place("beijing", "CN", "own"),
    place("singapore", "SG", "first-cloud"),
    place("california", "US", "first-cloud"),
    place("sao-paulo", "BR", "second-cloud"),
    place("mumbai", "IN", "second-cloud"),
];

/// Where all users live at the start.
pub(super) const ORIGIN: &str = PLACES[0].name;

/// The markets, with their share of the users in percent: India and Brazil together have nearly half,
/// since they alone move in the last phase.
pub(super) const MARKETS: [(&str, u32); 16] = [
    ("CN", 32),
    ("IN", 24),
    ("BR", 20),
    ("HK", 3),
    ("ID", 3),
    ("MY", 2),
    ("SG", 2),
    ("PH", 2),
    ("TW", 3),
    ("US", 3),
    ("CA", 1),
    ("MX", 1),
    ("GB", 1),
    ("DE", 1),
    ("FR", 1),
    ("ES", 1),
];

/// Everything but the database URLs, which are known when the sites have started.
const POLICY: &str = r#"
[service.shop.tables]
invoice        = "customer_id"
invoice_line   = "invoice_id -> invoice"
album          = "reference"
artist         = "reference"
employee       = "reference"
genre          = "reference"
media_type     = "reference"
playlist       = "reference"
playlist_track = "reference"
track          = "reference"

[policy]
pinned = { CN = "beijing" }

[[phase]]
name    = "e-commerce"
service = ["shop"]
home    = { US = "california", CA = "california", MX = "california", "*" = "singapore" }
basis   = { code = "contract", document = "demo 1", expires = "2999-01-01" }

[[phase]]
name    = "local sites"
service = ["shop"]
home    = { IN = "mumbai", BR = "sao-paulo" }
basis   = { code = "local-law", document = "demo 2", expires = "2999-01-01" }
"#;

const fn place(name: &'static str, country: &'static str, provider: &'static str) -> Place {
    Place {
        name,
        country,
        provider,
    }
}

/// How many users the shop is to have.
///
/// # Errors
/// Wrong use, where `DOMICILE_DEMO_USERS` is no number or out of bounds.
pub fn users_wanted() -> Outcome<u32> {
    let Some(text) = std::env::var_os(USERS_VARIABLE) else {
        return Ok(USERS);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    match number {
        Some(users @ USERS_MIN..=USERS_MAX) => Ok(users),
        _ => Err(Failure::usage(format_args!(
            "{USERS_VARIABLE} must be a number from {USERS_MIN} to {USERS_MAX}"
        ))),
    }
}

/// The configuration file. `urls` are the databases of [`PLACES`], in that order.
pub(super) fn configuration(urls: &[String]) -> String {
    let mut text = String::from("# Written by `domicile demo`.\n");
    for place in &PLACES {
        let Place {
            name,
            country,
            provider,
        } = place;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[site.{name}]\ncountry  = \"{country}\"\nprovider = \"{provider}\"\n"
        );
    }
    let _ = write!(
        text,
        "\n[service.shop]\norigin = \"{ORIGIN}\"\nids    = \"application\"\n\
         user   = {{ table = \"customer\", key = \"customer_id\", market = \"country\" }}\n"
    );
    for (place, url) in PLACES.iter().zip(urls) {
        let _ = writeln!(text, "database.{} = \"{url}\"", place.name);
    }
    text + POLICY
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_configuration_can_be_read_and_moves_everybody_but_cn() {
        let urls = PLACES.map(|place| format!("postgres://domicile@127.0.0.1/{}", place.name));
        let config = Config::parse(&configuration(&urls), Path::new("domicile.toml")).unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
        let service = "shop".into();
        let origin = ORIGIN.into();
        let home = |market: &str, phase| {
            let (site, _) = config
                .policy
                .home(&service, &market.into(), Some(phase), &origin);
            site.to_string()
        };
        for (market, _) in MARKETS {
            assert_eq!(home(market, 0) == ORIGIN, market == "CN", "{market}");
        }
        assert_eq!(home("IN", 0), "singapore");
        assert_eq!(home("IN", 1), "mumbai");
        assert_eq!(home("BR", 1), "sao-paulo");
        assert_eq!(home("US", 1), "california");
        assert_eq!(home("CN", 1), "beijing");
    }

    #[test]
    fn every_phase_has_more_than_2000_users_to_move() {
        let share = |of: &dyn Fn(&str) -> bool| -> u32 {
            MARKETS.iter().filter(|(m, _)| of(m)).map(|(_, s)| s).sum()
        };
        assert_eq!(share(&|_| true), 100);
        assert!(USERS * share(&|market| market != "CN") / 100 >= 2_200);
        assert!(USERS * share(&|market| ["IN", "BR"].contains(&market)) / 100 >= 2_200);
    }
}
