//! This site's own copy of the policy, put there by `install`: what is asked before users' data leaves here, or is let in.
//!
//! Each end of a move asks its own copy. A peer, or a program with another configuration, cannot have it say otherwise:
//! only who installs may write it, and what was in force before stays to be read.

use model::policy::{Basis, Policy};
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;

use crate::error::Doing;
use crate::{Error, Result};

/// What a site's copy says of one phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The copy's version: [`Policy::version`].
    pub version: String,
    /// Whether the copy has that phase.
    pub known: bool,
    /// What permits the phase's moves, where the phase has such a thing.
    pub basis: Option<Basis>,
    /// Whether the basis' day has come, by this database's clock.
    pub expired: bool,
}

/// Why a site's copy of the policy does not let a move begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No policy is installed here.
    #[error("no policy is installed")]
    None,
    /// Another policy is installed here.
    #[error("the policy installed is of version {here}, that of {other} of version {there}")]
    Version {
        /// This site's.
        here: String,
        /// Whose is another: a site, or the configuration.
        other: String,
        /// That one's.
        there: String,
    },
    /// The copy has no such phase.
    #[error("the policy installed has no phase {phase}")]
    NoPhase {
        /// The phase.
        phase: String,
    },
    /// The phase has no basis.
    #[error("phase {phase} has no basis: nothing says what permits its moves")]
    NoBasis {
        /// The phase.
        phase: String,
    },
    /// The basis holds no more.
    #[error("the basis of phase {phase} ({document}) holds no more since {expires}")]
    Expired {
        /// The phase.
        phase: String,
        /// The basis' document.
        document: String,
        /// Since when.
        expires: String,
    },
}

// === impl Standing ===

impl Standing {
    /// The basis under which a move of `phase` may begin here.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn permit(&self, phase: &str) -> Result<&Basis, Refusal> {
        let phase = phase.to_owned();
        match &self.basis {
            _ if !self.known => Err(Refusal::NoPhase { phase }),
            None => Err(Refusal::NoBasis { phase }),
            Some(basis) if self.expired => Err(Refusal::Expired {
                phase,
                document: basis.document.clone(),
                expires: basis.expires.clone(),
            }),
            Some(basis) => Ok(basis),
        }
    }

    /// Makes sure that another copy is of the same version.
    ///
    /// # Errors
    /// [`Refusal::Version`], with `other` as the other's name.
    pub fn same(&self, other: &str, version: &str) -> Result<(), Refusal> {
        match self.version == version {
            true => Ok(()),
            false => Err(Refusal::Version {
                here: self.version.clone(),
                other: other.to_owned(),
                there: version.to_owned(),
            }),
        }
    }
}

impl Refusal {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::None | Self::Version { .. } | Self::NoPhase { .. } => {
                "agree on one policy, and run `domicile install` at every site with it"
            }
            Self::NoBasis { .. } => {
                "add basis = { code = \"...\", document = \"...\", expires = \"YYYY-MM-DD\" } to the phase, and run \
                 `domicile install` at every site"
            }
            Self::Expired { .. } => {
                "have the basis renewed, write its new document and day into the phase, and run `domicile install` at \
                 every site"
            }
        }
    }
}

/// What the copy in force here says of `phase`; `None` where no policy was installed.
pub async fn standing(session: &impl GenericClient, phase: &str) -> Result<Option<Standing>> {
    let doing = "reading this site's copy of the policy";
    let row = session
        .query_opt(
            "SELECT p.version, f.known IS NOT NULL, f.basis, \
                    coalesce((f.basis ->> 'expires')::date <= (now() AT TIME ZONE 'UTC')::date, false) \
             FROM (SELECT version, body FROM domicile.policy ORDER BY n DESC LIMIT 1) AS p \
             LEFT JOIN LATERAL (SELECT true AS known, nullif(f -> 'basis', 'null') AS basis FROM jsonb_array_elements(p.body -> 'phases') AS f \
                                WHERE f ->> 'name' = $1) AS f ON true",
            &[&phase],
        )
        .await
        .doing(doing)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let basis: Option<serde_json::Value> = row.get(2);
    let basis = basis.map(serde_json::from_value).transpose();
    Ok(Some(Standing {
        version: row.get(0),
        known: row.get(1),
        basis: basis.map_err(|error| {
            Error::Refused(format!("the policy installed here cannot be read: {error}"))
        })?,
        expired: row.get(3),
    }))
}

/// Puts `policy` in force here, unless it is.
pub async fn install(tx: &impl GenericClient, policy: &Policy) -> Result<()> {
    let doing = "installing the policy";
    let unwritten = |error: serde_json::Error| Error::Refused(error.to_string());
    let (version, body) = (
        policy.version().map_err(unwritten)?,
        policy.body().map_err(unwritten)?,
    );
    // With the entry that says so, in one statement.
    tx.execute(
        "WITH new AS ( \
           INSERT INTO domicile.policy (version, body) SELECT $1, $2 \
           WHERE $1 IS DISTINCT FROM (SELECT version FROM domicile.policy ORDER BY n DESC LIMIT 1) \
           RETURNING version, body) \
         INSERT INTO domicile.entry (kind, body) \
         SELECT 'policy', jsonb_build_object('version', version, 'policy', body) FROM new",
        &[&version, &body],
    )
    .await
    .doing(doing)?;
    tx.execute("DELETE FROM domicile.pinned", &[])
        .await
        .doing(doing)?;
    for (market, site) in &policy.pinned {
        tx.execute(
            "INSERT INTO domicile.pinned VALUES ($1, $2)",
            &[&market.as_str(), &site.as_str()],
        )
        .await
        .doing(doing)?;
    }
    Ok(())
}
