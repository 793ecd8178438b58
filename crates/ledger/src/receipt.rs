//! A receipt of one erasure: what a site states of it, with the entries that it wrote down when it happened.
//!
//! The statement is made from the entries by [`Account::of`], and checked by making it again: nothing stands in it that the
//! entries do not say, but what the erasure waits for, which is of the moment. The digest of what was deleted stands in
//! an entry that was written before the deletion. Where the heads are countersigned, the site cannot take any of it back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bundle::Vouched;
use crate::entry::Entry;
use crate::finding::{Finding, Kind};
use crate::head::Head;
use crate::key::{Pins, SiteKey};
use crate::keyring::{Keyring, Keys, Trust};
use crate::note::Note;
use crate::statement;
use crate::tree::{Hash, verify_inclusion};

/// What the field `format` of a receipt says.
pub const FORMAT: &str = "domicile receipt 1";

/// What the field `format` of a statement says.
pub const STATEMENT: &str = "domicile erasure 1";

/// What a receipt is about.
pub const COVERS: &[&str] = &[
    "rows of the users in the tables that the configuration declares as theirs, in one database at one site",
    "in the state vacuumed: table, TOAST and index files and planner statistics of that database, but for tables under residue",
    "in the state purged: also the server's pg_wal, and standbys and replication slots that it knew when it was looked at",
];

/// What a receipt does not show: part of every one.
pub const LIMITS: &[&str] = &[
    "A log proves what was recorded, not what was done: a site that keeps a copy and says nothing is not found by cryptography.",
    "Backups, archived WAL, snapshots of volumes and delayed or disconnected standbys are erased by expiry alone; their retention \
     is the operator's word (erase.backups_kept). Whoever restores one must run erase again before serving.",
    "A connected standby has replayed the erasure; its own pg_wal directory was not looked into.",
    "Below the files: free blocks of file systems, swap, core dumps and the remanence of disks.",
    "pg_stat_statements, server logs, copies that the application made elsewhere (search indexes, caches, exports) and tables \
     declared as reference or ignore.",
    "In the state deleted, and for tables under residue, dead rows, index pages and free space still have the bytes.",
    "The log after its last countersigned head can be rewritten by whoever holds the site's key.",
    "The forwarding record stays for ever: the user's key, an epoch and a site.",
];

/// A receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`FORMAT`].
    pub format: String,
    /// The public keys with which anything here is signed.
    pub keys: Keys,
    /// A [`Statement`] in canonical JSON on one line, as a note signed by the site.
    pub statement: String,
    /// The signed head of the site's log, with its countersignatures.
    pub head: String,
    /// The entries about the erasure, in the order of the log.
    pub entries: Vec<Shown>,
}

/// An entry that is shown to be in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Its position in the log.
    pub position: u64,
    /// Its canonical text.
    pub entry: String,
    /// The inclusion proof.
    pub path: Vec<Hash>,
    /// The opening of the commitment to the user that the receipt names, if it names one and he is in this entry.
    pub opening: Option<Hash>,
}

/// What a site states of an erasure. A field that is none of these is found: the text is in no other form than the one
/// that is written from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT`].
    pub format: String,
    /// The service.
    pub service: String,
    /// The site, which signs this.
    pub site: String,
    /// The user whom the receipt was made for, if it was made for one.
    pub user: Option<String>,
    /// What the entries say.
    #[serde(flatten)]
    pub account: Account,
    /// What keeps the next state waiting, when this was stated.
    pub waits: Vec<String>,
    /// [`COVERS`].
    pub covers: Vec<String>,
    /// [`LIMITS`].
    pub limits: Vec<String>,
    /// When this was stated, in seconds since 1970, by the clock of who asked.
    pub at: u64,
    /// How many entries of the log there were.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// What the entries of one erasure say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The erasure.
    pub erasure: String,
    /// The batch that left, or `None`: a user at his home.
    pub batch: Option<String>,
    /// Its move.
    pub r#move: Option<String>,
    /// The state that it is in.
    pub state: String,
    /// How many users.
    pub users: u64,
    /// How many rows were deleted.
    pub rows: u64,
    /// How many of them in each table.
    pub tables: BTreeMap<String, u64>,
    /// The keyed digest of what was to be deleted, table by table, read before.
    pub digest: Value,
    /// Whether it is the digest that both sites agreed on when the users left; `None` where that cannot be compared.
    pub agreed: Option<bool>,
    /// Tables whose free space may still hold bytes.
    pub residue: Vec<String>,
    /// How long backups are kept, in seconds, as declared when it was purged.
    pub backups_kept_s: Option<u64>,
    /// When it came to which state.
    pub history: Vec<Moment>,
}

/// An erasure came to a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// The state.
    pub state: String,
    /// When, by the clock of the site's database.
    pub at: String,
    /// The position of the database's log, where it matters.
    pub lsn: Option<String>,
}

/// What was found out about a receipt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What is stated, where it could be read.
    pub statement: Option<Statement>,
    /// Who countersigned the head.
    pub witnessed: Vec<Vouched>,
    /// What is wrong; nothing where all is well.
    pub findings: Vec<Finding>,
}

// === impl Account ===

impl Account {
    /// What `entries`, all about one erasure and in the order of the log, say of it. `None` where they do not make sense.
    pub fn of(entries: &[Entry]) -> Option<Self> {
        let begun = entries.iter().rev().find(|entry| entry.kind == "erasing")?;
        let erasure = begun.said("erasure")?.to_owned();
        if entries
            .iter()
            .any(|entry| entry.said("erasure") != Some(&erasure))
        {
            return None;
        }
        let digest = begun.body.get("digest")?.clone();
        let mut tables = BTreeMap::new();
        for (table, of) in digest.get("tables")?.as_object()? {
            tables.insert(table.clone(), of.get("rows")?.as_u64()?);
        }
        let number = |entry: &Entry, field: &str| entry.body.get(field).and_then(Value::as_u64);
        let state = |entry: &Entry| entry.said("state").map(ToOwned::to_owned);
        let deleted = entries
            .iter()
            .filter(|entry| entry.said("state") == Some("deleted"));
        let rows = deleted
            .map(|entry| number(entry, "rows").unwrap_or(0))
            .sum();
        let text = |field: &str| begun.said(field).map(ToOwned::to_owned);
        let mut account = Self {
            erasure,
            batch: text("batch"),
            r#move: text("move"),
            state: state(entries.last()?)?,
            users: begun.body.get("users")?.as_array()?.len() as u64,
            rows,
            tables,
            digest,
            agreed: begun.body.get("agreed").and_then(Value::as_bool),
            residue: Vec::new(),
            backups_kept_s: None,
            history: Vec::new(),
        };
        for entry in entries {
            let moment = Moment {
                state: state(entry)?,
                at: entry.at.clone(),
                lsn: entry.said("lsn").map(ToOwned::to_owned),
            };
            if moment.state == "vacuumed" {
                let residue = entry.body.get("residue")?.as_array()?;
                let residue = residue
                    .iter()
                    .map(|table| table.as_str().map(ToOwned::to_owned));
                account.residue = residue.collect::<Option<_>>()?;
                // Where the deletion stands is known once it is committed: it is said with the next state.
                let deleted = entry.said("deleted_lsn").map(ToOwned::to_owned);
                let mut before = account.history.iter_mut().rev();
                if let Some(before) = before.find(|moment| moment.state == "deleted") {
                    before.lsn = deleted.or(before.lsn.take());
                }
            }
            account.backups_kept_s = number(entry, "backups_kept_s").or(account.backups_kept_s);
            account.history.push(moment);
        }
        Some(account)
    }
}

// === impl Statement ===

impl Statement {
    /// Signs it as its site.
    pub fn sign(&self, key: &SiteKey) -> Result<String, serde_json::Error> {
        statement::sign(self, &self.site, key)
    }

    /// Reads one that is written in its one form.
    fn parse(text: &str) -> Option<Self> {
        statement::parse(text).filter(|read: &Self| read.format == STATEMENT)
    }
}

// === impl Receipt ===

impl Receipt {
    /// Checks everything in it against `pins`.
    pub fn check(&self, pins: &Pins) -> Report {
        let ring = Keyring::new(&self.keys, pins);
        let mut report = Report {
            statement: None,
            witnessed: Vec::new(),
            findings: ring.findings(),
        };
        let note = Note::parse(&self.statement).ok();
        let stated = note
            .as_ref()
            .and_then(|note| Some((note, Statement::parse(note.text())?)));
        let Some((note, statement)) = stated.filter(|_| self.format == FORMAT) else {
            let what = "it is not in the form of a receipt";
            report
                .findings
                .push(Finding::new(Kind::Format, ("", ""), what));
            return report;
        };
        let about = (statement.service.as_str(), statement.site.as_str());
        let mut find = |kind, what: &str| report.findings.push(Finding::new(kind, about, what));
        if ring.statement(note, &statement.site) != Some(Trust::Pinned) {
            find(
                Kind::Signature,
                "no pinned key of the site signed the statement",
            );
        }
        match ring.open(&self.head, about) {
            Err(_) => find(Kind::Format, "the head is not in the form of one"),
            Ok(opened) => {
                for fault in &opened.faults {
                    find(Kind::Signature, &format!("the head: {fault}"));
                }
                if opened.signed != Some(Trust::Pinned) {
                    find(Kind::Signature, "no pinned key of the site signed the head");
                }
                let Head { size, root, .. } = opened.head;
                if (size, root) != (statement.size, statement.root) {
                    find(
                        Kind::Statement,
                        "the head is not the one that the statement names",
                    );
                }
                let others = opened.witnesses.into_iter();
                let others = others.filter(|(by, _)| by.as_str() != about.1);
                report.witnessed = others.map(|(site, time)| Vouched { site, time }).collect();
            }
        }
        let entries = self.entries(&statement, &mut find);
        if Account::of(&entries).as_ref() != Some(&statement.account) {
            find(Kind::Statement, "the entries do not say what is stated");
        }
        if entries
            .iter()
            .any(|entry| entry.said("site") != Some(about.1))
        {
            find(Kind::Statement, "an entry is about another site");
        }
        if statement.covers != COVERS || statement.limits != LIMITS {
            find(
                Kind::Statement,
                "what it covers, and its limits, are not those of a receipt",
            );
        }
        report.findings.sort();
        report.findings.dedup();
        report.statement = Some(statement);
        report
    }

    /// The entries that are shown to be in the log.
    fn entries(&self, statement: &Statement, find: &mut impl FnMut(Kind, &str)) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (mut positions, mut named) = (BTreeSet::new(), 0);
        for shown in &self.entries {
            let position = shown.position;
            let head = (statement.size, &statement.root);
            if verify_inclusion(shown.entry.as_bytes(), position, head, &shown.path).is_err() {
                find(
                    Kind::Root,
                    &format!("the entry at position {position} is not in the log"),
                );
                continue;
            }
            let rising = positions.insert(position) && positions.last() == Some(&position);
            match Entry::parse(&shown.entry) {
                Ok(entry) if rising && ["erasing", "erased"].contains(&entry.kind.as_str()) => {
                    match (&statement.user, &shown.opening) {
                        (Some(user), Some(opening)) if entry.names(user, opening) => named += 1,
                        (_, None) => {}
                        _ => find(
                            Kind::Statement,
                            &format!(
                                "the entry at position {position} is not shown to be about the user"
                            ),
                        ),
                    }
                    entries.push(entry);
                }
                _ => find(
                    Kind::Entry,
                    &format!(
                        "the entry at position {position} is none about an erasure, or out of order"
                    ),
                ),
            }
        }
        if statement.user.is_some() && named == 0 {
            find(Kind::Statement, "no entry is shown to be about the user");
        }
        entries
    }
}
