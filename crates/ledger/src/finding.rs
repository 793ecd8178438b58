//! What a check found.

use serde::Serialize;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A text that is none of ours, or not in its one form.
    Format,
    /// A key that no pin of its site's names.
    Key,
    /// A signature that does not verify, is missing, or is nobody's.
    Signature,
    /// An entry is not what was logged, or is gone.
    Entry,
    /// The entries do not make up a root that the site signed.
    Root,
    /// The log is shorter than one that was signed.
    Truncated,
    /// The site showed two histories: two signed heads that no log joins.
    Equivocation,
    /// A witness does not know what it countersigned.
    Witness,
    /// A proof does not show what it states.
    Statement,
}

/// One finding: what, and where. Names no user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// The service; empty where it is about none.
    pub service: String,
    /// The site whose ledger or key it is about.
    pub site: String,
    /// In a sentence.
    pub what: String,
}

impl Finding {
    /// A finding about the log of `service` at `site`.
    pub fn new(kind: Kind, (service, site): (&str, &str), what: impl Into<String>) -> Self {
        Self {
            kind,
            service: service.to_owned(),
            site: site.to_owned(),
            what: what.into(),
        }
    }
}
