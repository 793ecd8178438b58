//! Compares all sites with the writers' log: what was lost, duplicated, misplaced?
//!
//! Run it when the workload is stopped and no user is between two sites. The caller says, for every
//! user of the log, at which sites he lived in turn ([`Residence`]); that must come from elsewhere
//! than from the rows.
//!
//! An *object* is a user's row, or an invoice with its lines. The log gives each object's history;
//! operations with an unknown outcome leave it with two possible ends. Rows count one by one:
//!
//! - **lost**: at the user's home the object is not as any possible end of its history says. Each
//!   row that is missing there, or holds other values than acknowledged last (an old value is a
//!   lost update), or is back after an acknowledged deletion, or is there without the rest of its
//!   transaction, counts one.
//! - **misplaced**: a lost row that another site has as acknowledged (a write that only a site that
//!   is not home took; a deletion that only such a site carried out); a row at a site where the
//!   user never lived and that his home does not have; a row of an old copy that nobody wrote; an
//!   operation acknowledged by a site where the user never lived.
//! - **duplicated**: a key that stands twice at one site; a row at the home that nobody wrote; a
//!   row at a site where the user never lived that his home has too; a row of an old copy that was
//!   written elsewhere only after the user had left (both copies are alive).
//!
//! An **old copy** is what a former home may keep until it is erased: every row of it must be as it
//! was at some time while the user lived there. Missing rows are no fault: erasure takes them.

mod history;
mod judge;

use anyhow::Result;

use self::history::Histories;
use self::judge::Judge;
use crate::log::Log;
use crate::rows;
use crate::site::Site;

/// More findings than a person reads.
const DETAILS_MAX: usize = 100;

/// The sites at which a user lived, in order; the last one is his home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residence {
    sites: Vec<String>,
}

/// What the comparison found. All counts but `acknowledged` must be 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged operations in the log.
    pub acknowledged: usize,
    /// Operations with an unknown outcome; no fault.
    pub unknown: usize,
    /// Rows lost; see the module's definitions.
    pub lost: usize,
    /// Rows duplicated.
    pub duplicated: usize,
    /// Rows misplaced, and operations acknowledged at the wrong site.
    pub misplaced: usize,
    /// The first hundred findings, and the log's anomalies: keys and sites, no values.
    pub details: Vec<String>,
}

// === impl Residence ===

impl Residence {
    /// He lives at `home` and never lived elsewhere.
    pub fn at(home: impl Into<String>) -> Residence {
        Residence {
            sites: vec![home.into()],
        }
    }

    /// Then he moved to `home`; the copy at the site before may still be there.
    #[must_use]
    pub fn then(mut self, home: impl Into<String>) -> Residence {
        self.sites.push(home.into());
        self
    }

    /// Where he lives.
    pub fn home(&self) -> &str {
        self.sites.last().map_or("", String::as_str)
    }

    /// Whether he ever lived at `site`.
    fn includes(&self, site: &str) -> bool {
        self.sites.iter().any(|lived| lived == site)
    }

    /// Whether he came from `earlier` to `later`, or stayed.
    fn came(&self, earlier: &str, later: &str) -> bool {
        let first = self.sites.iter().position(|site| site == earlier);
        let last = self.sites.iter().rposition(|site| site == later);
        matches!((first, last), (Some(first), Some(last)) if first <= last)
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether nothing was lost, duplicated or misplaced.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.misplaced == 0
    }

    fn detail(&mut self, text: impl FnOnce() -> String) {
        if self.details.len() < DETAILS_MAX {
            self.details.push(text());
        }
    }
}

/// Reads all sites and compares them with the log. `residence` says where a user lived.
///
/// Needs a database role that may read the shop's tables at every site.
///
/// # Errors
///
/// Where a site cannot be read.
pub async fn check(
    sites: &[Site],
    log: &Log,
    residence: impl Fn(i32) -> Residence,
) -> Result<Verdict> {
    let histories = Histories::of(log);
    let known = histories.keys();
    let mut found = Vec::with_capacity(sites.len());
    for site in sites {
        let rows = rows::read(site, log.users(), &known).await?;
        found.push((site.name.as_str(), rows));
    }
    let mut judge = Judge::new(&histories, &found, &residence);
    for anomaly in &log.anomalies {
        judge
            .verdict
            .detail(|| format!("the workload met: {anomaly}"));
    }
    judge.acknowledgements(log);
    judge.objects();
    judge.strangers();
    Ok(judge.verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residence_knows_the_order() {
        let residence = Residence::at("a").then("b").then("a").then("c");
        assert_eq!(residence.home(), "c");
        assert!(residence.came("a", "b") && residence.came("b", "a") && residence.came("b", "b"));
        assert!(!residence.came("c", "a"));
        assert!(!residence.includes("d"));
    }
}
