//! What must hold before a move: every finding says what is wrong, where, and what to do.
//!
//! Looks only; changes nothing. [`inspect`] looks at one home database, [`compare`] and [`compare_ids`]
//! hold what several said against each other, [`reference_digest`] what their catalogue data contain.

mod compare;
mod ids;
mod indexes;
mod installation;
mod references;
mod rights;
mod server;
mod tables;

use std::fmt;
use std::time::Duration;

use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::{Catalog, ReadError};

pub use compare::compare;
pub use ids::compare_ids;
pub use references::{ReferenceDigest, compare_references, reference_digest, reference_digest_of};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No move may begin.
    Blocker,
    /// A move may begin; somebody should know.
    Warning,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it weighs.
    pub level: Level,
    /// At which site.
    pub site: SiteName,
    /// What is the case.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// How ids are kept apart between sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// Sequences that give out other numbers at every site.
    Ranges,
    /// Every key holds a uuid.
    Uuid,
    /// The application hands out ids that are unique everywhere.
    Application,
}

/// What a home database is expected to be.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The service's origin.
    pub origin: &'a SiteName,
    /// Its tables as classified here.
    pub schema: &'a HomeSchema,
    /// Its catalog as read here.
    pub catalog: &'a Catalog,
    /// How ids are kept apart.
    pub ids: Ids,
    /// Transactions open for longer are named: a move must wait for them.
    pub long_transaction: Duration,
}

/// One site's tables, for comparisons.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The site.
    pub site: &'a SiteName,
    /// Its tables as classified there.
    pub schema: &'a HomeSchema,
    /// Its catalog as read there.
    pub catalog: &'a Catalog,
}

/// Looks at one home database, as the role that will move users.
///
/// Where Domicile is not installed, that is the finding, and what an installation brings is not missed
/// one by one.
pub async fn inspect(
    client: &Client,
    site: &SiteName,
    expect: &Expectation<'_>,
) -> Result<Vec<Finding>, ReadError> {
    let mut findings = Findings {
        site,
        list: Vec::new(),
    };
    server::look(client, expect, &mut findings).await?;
    tables::look(client, expect, &mut findings).await?;
    indexes::look(client, expect, &mut findings).await?;
    ids::look(expect, &mut findings);
    if installation::look(client, expect, &mut findings).await? {
        rights::look(client, expect, &mut findings).await?;
    }
    findings.list.sort_by_key(|finding| finding.level);
    Ok(findings.list)
}

/// The findings at one site, while they are being collected.
struct Findings<'a> {
    site: &'a SiteName,
    list: Vec<Finding>,
}

// === impl Findings ===

impl Findings<'_> {
    fn blocker(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Blocker, what.into(), mend.into());
    }

    fn warning(&mut self, what: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Warning, what.into(), mend.into());
    }

    fn add(&mut self, level: Level, what: String, mend: String) {
        self.list.push(Finding {
            level,
            site: self.site.clone(),
            what,
            mend,
        });
    }
}

// === impl Finding ===

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Blocker => "blocker",
            Level::Warning => "warning",
        };
        write!(f, "{level} at {}: {}; {}", self.site, self.what, self.mend)
    }
}
