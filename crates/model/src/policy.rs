//! Policy: market -> home, per service and phase.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Market, ServiceName, SiteName};

/// What permits users' data to go where a phase sends them: the record that every move of the phase carries.
///
/// Domicile does not judge it. It refuses a move without one, or with one whose day has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The legal basis, in the words or code of whoever answers for it: `"PIPL-38-standard-contract"`.
    pub code: String,
    /// The document that says so: its number or address.
    pub document: String,
    /// The first day (UTC, `YYYY-MM-DD`) on which it holds no more.
    pub expires: String,
    /// What the data is moved for, where that is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The classes of data that it covers, where they are said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
}

/// A named step of a programme.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Its name, unique.
    pub name: String,
    /// The services that it concerns.
    pub services: Vec<ServiceName>,
    /// Market -> home.
    pub home: BTreeMap<Market, SiteName>,
    /// The home of every market that neither `home` nor a pin names (`"*"`).
    pub others: Option<SiteName>,
    /// What permits its moves; without it there are none.
    pub basis: Option<Basis>,
}

/// Where the users of each market belong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Markets that may never leave, or be written elsewhere, in any service and phase.
    pub pinned: BTreeMap<Market, SiteName>,
    /// The phases in their order; a later one overrides an earlier one.
    pub phases: Vec<Phase>,
}

/// Why a user belongs where he belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The market is pinned.
    Pinned,
    /// A phase names the market.
    Phase(String),
    /// A phase's `"*"` covers the market.
    Others(String),
    /// No phase so far speaks of the market: the origin.
    Origin,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::Phase(name) => write!(f, "phase {name}"),
            Self::Others(name) => write!(f, "phase {name}, every other market"),
            Self::Origin => f.write_str("origin"),
        }
    }
}

impl Policy {
    /// The home of `market` in `service` once the phases up to and including number `phase` hold
    /// (`None`: before the first), and the rule that says so.
    ///
    /// A later phase overrides an earlier one market by market; within a phase a named market goes
    /// before `"*"`. A `"*"` of a later phase does override a named market of an earlier one.
    pub fn home(
        &self,
        service: &ServiceName,
        market: &Market,
        phase: Option<usize>,
        origin: &SiteName,
    ) -> (SiteName, Rule) {
        if let Some(site) = self.pinned.get(market) {
            return (site.clone(), Rule::Pinned);
        }
        let upto = phase.map_or(0, |n| n + 1).min(self.phases.len());
        let spoken = self.phases[..upto]
            .iter()
            .rev()
            .filter(|p| p.services.contains(service));
        for phase in spoken {
            if let Some(site) = phase.home.get(market) {
                return (site.clone(), Rule::Phase(phase.name.clone()));
            }
            if let Some(site) = &phase.others {
                return (site.clone(), Rule::Others(phase.name.clone()));
            }
        }
        (origin.clone(), Rule::Origin)
    }

    /// The policy as it is stored at each site.
    ///
    /// # Errors
    /// None that can be met: names and strings become JSON.
    pub fn body(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }

    /// What tells one policy from another: the first 128 bits of the BLAKE3 hash of its JSON (object members in the
    /// order of their names), in hexadecimal. Sites whose policies differ in anything have different versions.
    ///
    /// # Errors
    /// As [`Policy::body`].
    pub fn version(&self) -> serde_json::Result<String> {
        let hash = blake3::hash(self.body()?.to_string().as_bytes());
        Ok(hash.to_hex()[..32].to_owned())
    }

    /// The markets that it names.
    pub fn markets(&self) -> BTreeSet<Market> {
        let named = self.phases.iter().flat_map(|phase| phase.home.keys());
        named.chain(self.pinned.keys()).cloned().collect()
    }

    /// Whether a user of `market` may be written at `site`: a pinned market at its pin alone.
    pub fn permits(&self, market: &Market, site: &SiteName) -> bool {
        self.pinned.get(market).is_none_or(|pin| pin == site)
    }

    /// The number of the phase called `name`.
    pub fn phase(&self, name: &str) -> Option<usize> {
        self.phases.iter().position(|phase| phase.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let shop = || vec![ServiceName::from("shop")];
        Policy {
            pinned: BTreeMap::from([("CN".into(), "beijing".into())]),
            phases: vec![
                Phase {
                    name: "e-commerce".into(),
                    services: shop(),
                    home: BTreeMap::from([
                        ("IN".into(), "singapore".into()),
                        ("US".into(), "california".into()),
                    ]),
                    others: Some("singapore".into()),
                    basis: None,
                },
                Phase {
                    name: "local sites".into(),
                    services: shop(),
                    home: BTreeMap::from([("IN".into(), "mumbai".into())]),
                    others: None,
                    basis: None,
                },
            ],
        }
    }

    fn home(market: &str, phase: Option<usize>) -> (String, Rule) {
        let (site, rule) = policy().home(&"shop".into(), &market.into(), phase, &"beijing".into());
        (site.to_string(), rule)
    }

    #[test]
    fn a_pinned_market_stays_whatever_the_phase_says() {
        assert_eq!(home("CN", Some(1)), ("beijing".into(), Rule::Pinned));
    }

    #[test]
    fn a_later_phase_overrides_an_earlier_one_and_leaves_the_rest() {
        assert_eq!(home("IN", None).0, "beijing");
        assert_eq!(home("IN", Some(0)).0, "singapore");
        assert_eq!(home("IN", Some(1)).0, "mumbai");
        assert_eq!(home("US", Some(1)).0, "california");
        assert_eq!(
            home("DE", Some(1)),
            ("singapore".into(), Rule::Others("e-commerce".into()))
        );
    }

    #[test]
    fn a_service_that_no_phase_names_stays_at_its_origin() {
        let (site, rule) = policy().home(&"cloud".into(), &"IN".into(), Some(1), &"beijing".into());
        assert_eq!((site.as_str(), rule), ("beijing", Rule::Origin));
    }
}
