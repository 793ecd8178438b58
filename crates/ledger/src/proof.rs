//! What the ledgers say of one user: where his data is, since when, by which rule, so that anyone can check it offline.
//!
//! The site that he lives at states it and signs the statement; the entries of all sites in which he went from home to home come
//! with it, each with its inclusion proof in a signed head and with the opening of his commitment in it. The statement names the
//! heads and how many entries each log has of him, so that none can be left out or exchanged.
//!
//! Where every site opens its own database alone, the site that he left can state that he left, when and for where; that he lives there
//! is then for that site to prove.
//!
//! What cannot be shown by proofs is that a log has *no* entry of somebody: for that the site's signed word stands. It can be
//! held against it later.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bundle::Vouched;
use crate::entry::Entry;
use crate::finding::{Finding, Kind};
use crate::head::Head;
use crate::key::{Pins, SiteKey};
use crate::keyring::{Keyring, Keys, Trust};
use crate::note::Note;
use crate::statement;
use crate::tree::{Hash, verify_inclusion};

/// What the field `format` of a proof says.
pub const FORMAT: &str = "domicile proof 1";

/// What the field `format` of a statement says.
pub const STATEMENT: &str = "domicile statement 1";

/// What one user's home states, with the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`FORMAT`].
    pub format: String,
    /// The public keys with which anything here is signed.
    pub keys: Keys,
    /// A [`Statement`] in canonical JSON on one line, as a note signed by the site that states it.
    pub statement: String,
    /// The evidence, a log for each site.
    pub logs: Vec<Evidence>,
}

/// What a site states of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`STATEMENT`].
    pub format: String,
    /// The user's key.
    pub user: String,
    /// The service.
    pub service: String,
    /// His home, which signs this unless [`by`](Self::by) does.
    pub home: String,
    /// The site that he left for there, where that states and signs it: it shows that he went, and not that he has not gone on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// His epoch there.
    pub epoch: i64,
    /// The state of his record there.
    pub state: String,
    /// The rule of the policy by which he lives there.
    pub rule: String,
    /// Since when he has: the time of the last entry with which he arrived, or by which he left; `None`: he has been there since
    /// before any.
    pub since: Option<String>,
    /// When this was stated, in seconds since 1970, by the clock of who asked.
    pub at: u64,
    /// The logs that were looked through.
    pub logs: Vec<Looked>,
}

/// A log that was looked through for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Looked {
    /// The site.
    pub site: String,
    /// How many entries of the log there were.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// How many of them are about the user.
    pub entries: u64,
}

/// What one log has of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The site.
    pub site: String,
    /// The signed head of the log, with its countersignatures.
    pub head: String,
    /// The entries about him.
    pub entries: Vec<Opening>,
}

/// An entry with which he is shown to be in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Its position in the log.
    pub position: u64,
    /// Its canonical text.
    pub entry: String,
    /// The inclusion proof.
    pub path: Vec<Hash>,
    /// The opening of his commitment in this entry: it opens no other.
    pub opening: Hash,
}

/// What was found out about a proof.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What is stated, where it could be read.
    pub statement: Option<Statement>,
    /// Who countersigned each log's head.
    pub witnessed: Vec<HeadReport>,
    /// What is wrong; nothing where all is well.
    pub findings: Vec<Finding>,
}

/// Who vouches for one log's head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadReport {
    /// The site of the log.
    pub site: String,
    /// Who countersigned it.
    pub by: Vec<Vouched>,
}

/// When an entry says that a user came to `home`: the last of them.
pub fn since<'a>(home: &str, entries: impl IntoIterator<Item = &'a Entry>) -> Option<String> {
    entries
        .into_iter()
        .filter(|entry| entry.kind == "arrived" && entry.said("to") == Some(home))
        .map(|entry| entry.at.clone())
        .max()
}

/// When entries of the log of `by` say that a user left it for `home`, if nothing later says that he came back or went elsewhere.
pub fn left<'a>(
    by: &str,
    home: &str,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Option<String> {
    let came = |entry: &Entry| entry.kind == "arrived" && entry.said("to") == Some(by);
    let went = |entry: &Entry| entry.kind == "departed" && entry.said("from") == Some(by);
    let entries = entries.into_iter();
    let last = entries
        .filter(|entry| came(entry) || went(entry))
        .max_by(|a, b| a.at.cmp(&b.at))?;
    (went(last) && last.said("to") == Some(home)).then(|| last.at.clone())
}

// === impl Statement ===

impl Statement {
    /// The site that states it.
    pub fn stated_by(&self) -> &str {
        self.by.as_deref().unwrap_or(&self.home)
    }

    /// Signs it as the site that states it.
    pub fn sign(&self, key: &SiteKey) -> Result<String, serde_json::Error> {
        statement::sign(self, self.stated_by(), key)
    }

    /// Reads one that is written in its one form.
    fn parse(text: &str) -> Option<Self> {
        statement::parse(text).filter(|read: &Self| read.format == STATEMENT)
    }
}

// === impl Proof ===

impl Proof {
    /// Checks everything in it against `pins`.
    pub fn check(&self, pins: &Pins) -> Report {
        let ring = Keyring::new(&self.keys, pins);
        let mut report = Report {
            statement: None,
            witnessed: Vec::new(),
            findings: ring.findings(),
        };
        if self.format != FORMAT {
            let what = format!("the format is {:?}, not {FORMAT:?}", self.format);
            report
                .findings
                .push(Finding::new(Kind::Format, ("", ""), what));
        }
        let note = Note::parse(&self.statement).ok();
        let stated = note
            .as_ref()
            .and_then(|note| Some((note, Statement::parse(note.text())?)));
        let Some((note, statement)) = stated else {
            let what = "the statement is not in the form of one";
            report
                .findings
                .push(Finding::new(Kind::Format, ("", ""), what));
            return report;
        };
        let stated_by = statement.stated_by();
        let about = (statement.service.as_str(), stated_by);
        if ring.statement(note, stated_by) != Some(Trust::Pinned) {
            let what = match statement.by {
                None => "no pinned key of his home signed the statement",
                Some(_) => "no pinned key of the site that states it signed the statement",
            };
            report
                .findings
                .push(Finding::new(Kind::Signature, about, what));
        }
        self.logs_are_those_of(&statement, &mut report.findings);
        let mut shown = Vec::new();
        for evidence in &self.logs {
            let (entries, witnesses) = evidence.check(&statement, &ring, &mut report.findings);
            report.witnessed.push(HeadReport {
                site: evidence.site.clone(),
                by: witnesses,
            });
            if evidence.site == stated_by {
                shown = entries;
            }
        }
        let wrong = match &statement.by {
            None if since(&statement.home, &shown) != statement.since => {
                Some("his home's log does not show since when he lives there")
            }
            Some(by) => {
                let left = left(by, &statement.home, &shown);
                let shows = left.is_some() && left == statement.since && *by != statement.home;
                (!shows).then_some("the log of the site that states it does not show that he left it then for there")
            }
            None => None,
        };
        if let Some(what) = wrong {
            report
                .findings
                .push(Finding::new(Kind::Statement, about, what));
        }
        report.findings.sort();
        report.findings.dedup();
        report.statement = Some(statement);
        report
    }

    fn logs_are_those_of(&self, statement: &Statement, findings: &mut Vec<Finding>) {
        let about = (statement.service.as_str(), statement.stated_by());
        let stated: BTreeSet<&str> = statement.logs.iter().map(|log| log.site.as_str()).collect();
        let shown: BTreeSet<&str> = self.logs.iter().map(|log| log.site.as_str()).collect();
        let once = stated.len() == statement.logs.len() && shown.len() == self.logs.len();
        if stated != shown || !once || !stated.contains(statement.stated_by()) {
            let what = "the logs are not those that the statement names";
            findings.push(Finding::new(Kind::Statement, about, what));
        }
    }
}

impl Evidence {
    /// The entries that hold, and who countersigned the head.
    fn check(
        &self,
        statement: &Statement,
        ring: &Keyring<'_>,
        findings: &mut Vec<Finding>,
    ) -> (Vec<Entry>, Vec<Vouched>) {
        let about = (statement.service.as_str(), self.site.as_str());
        let mut find = |kind, what: String| findings.push(Finding::new(kind, about, what));
        let Ok(opened) = ring.open(&self.head, about) else {
            find(
                Kind::Format,
                "the head is not in the form of one".to_owned(),
            );
            return (Vec::new(), Vec::new());
        };
        for fault in &opened.faults {
            find(Kind::Signature, format!("the head: {fault}"));
        }
        if opened.signed != Some(Trust::Pinned) {
            find(
                Kind::Signature,
                "no pinned key of its site signed the head".to_owned(),
            );
        }
        let Head { size, root, .. } = &opened.head;
        let looked = Looked {
            site: self.site.clone(),
            size: *size,
            root: *root,
            entries: self.entries.len() as u64,
        };
        if !statement.logs.contains(&looked) {
            find(
                Kind::Statement,
                "head and number of entries are not those that the statement names".to_owned(),
            );
        }
        let mut entries = Vec::new();
        let mut positions = BTreeSet::new();
        for opening in &self.entries {
            let Opening {
                position,
                entry: text,
                path,
                opening: key,
            } = opening;
            let leaf = text.as_bytes();
            if verify_inclusion(leaf, *position, (*size, root), path).is_err() {
                find(
                    Kind::Root,
                    format!("the entry at position {position} is not in the log"),
                );
                continue;
            }
            match Entry::parse(text) {
                Ok(entry) if entry.names(&statement.user, key) && positions.insert(*position) => {
                    entries.push(entry);
                }
                Ok(_) => find(
                    Kind::Statement,
                    format!("the entry at position {position} is not shown to be about him"),
                ),
                Err(why) => find(
                    Kind::Entry,
                    format!("the entry at position {position} is not in the form of one: {why}"),
                ),
            }
        }
        let others = opened
            .witnesses
            .into_iter()
            .filter(|(by, _)| *by != self.site);
        let by = others.map(|(site, time)| Vouched { site, time });
        (entries, by.collect())
    }
}
