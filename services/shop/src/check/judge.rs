//! Holds what stands at the sites against the histories. The definitions are in the parent module.

use std::collections::HashMap;

use super::history::{Histories, History, Rows, Version};
use super::{Residence, Verdict};
use crate::log::{Log, Outcome};
use crate::rows::{self, RowKey, RowValue};

/// What was read at each site, in the order given by the caller.
type Found<'a> = [(&'a str, rows::Rows)];

pub(super) struct Judge<'a, R> {
    histories: &'a Histories,
    found: &'a Found<'a>,
    residence: &'a R,
    residences: HashMap<i32, Residence>,
    pub(super) verdict: Verdict,
}

impl<'a, R: Fn(i32) -> Residence> Judge<'a, R> {
    pub(super) fn new(
        histories: &'a Histories,
        found: &'a Found<'a>,
        residence: &'a R,
    ) -> Judge<'a, R> {
        Judge {
            histories,
            found,
            residence,
            residences: HashMap::new(),
            verdict: Verdict::default(),
        }
    }

    fn residence_of(&mut self, user: i32) -> Residence {
        let residence = self.residence;
        self.residences
            .entry(user)
            .or_insert_with(|| residence(user))
            .clone()
    }

    /// Every operation must have been acknowledged at a site where its user lived.
    pub(super) fn acknowledgements(&mut self, log: &Log) {
        self.verdict.acknowledged = log.acknowledged();
        self.verdict.unknown = log.unknown();
        for entry in &log.entries {
            if entry.outcome == Outcome::Acknowledged
                && !self.residence_of(entry.user).includes(&entry.site)
            {
                self.verdict.misplaced += 1;
                let operation = entry.operation;
                let (user, site) = (entry.user, &entry.site);
                self.verdict.detail(|| {
                    format!("misplaced: operation {operation} of user {user} was acknowledged by {site}, where he never lived")
                });
            }
        }
    }

    /// Every object must stand at the home of its user as its history ends.
    pub(super) fn objects(&mut self) {
        let histories = self.histories;
        for history in histories.objects.values() {
            let residence = self.residence_of(history.user);
            let keys = history.keys();
            let here: Rows = keys
                .iter()
                .filter_map(|key| Some((*key, self.first_at(residence.home(), *key)?.clone())))
                .collect();
            let differing = |version: &Version| -> Vec<RowKey> {
                let differs = |key: &&RowKey| version.rows.get(key) != here.get(key);
                keys.iter().filter(differs).copied().collect()
            };
            let closest = history
                .ends
                .iter()
                .map(|end| &history.versions[*end])
                .map(|version| (differing(version), version))
                .min_by_key(|(keys, _)| keys.len());
            let Some((differing, version)) = closest else {
                continue;
            };
            for key in differing {
                self.lost(history, &residence, key, version, here.contains_key(&key));
            }
        }
    }

    fn lost(
        &mut self,
        history: &History,
        residence: &Residence,
        key: RowKey,
        version: &Version,
        stands: bool,
    ) {
        let expected = version.rows.get(&key);
        let what = match (expected, stands) {
            (Some(_), true) => "has another value than acknowledged last",
            (Some(_), false) => "is missing",
            (None, _) => "is back after its deletion, or half of a transaction",
        };
        let (home, user) = (residence.home(), history.user);
        self.verdict.lost += 1;
        self.verdict
            .detail(|| format!("lost: {key:?} of user {user} {what} at his home {home}"));

        let elsewhere = self.found.iter().find(|(site, rows)| {
            let there = rows.get(&key).and_then(|values| values.first());
            *site != home
                && match expected {
                    Some(_) if !stands => there.is_some(),
                    Some(value) => there == Some(value),
                    None => version.site.as_deref() == Some(*site) && there.is_none(),
                }
        });
        if let Some((site, _)) = elsewhere {
            self.verdict.misplaced += 1;
            self.verdict
                .detail(|| format!("misplaced: {key:?} of user {user} is right at {site} only"));
        }
    }

    /// No row may stand where the histories and residences do not put it.
    pub(super) fn strangers(&mut self) {
        let found = self.found;
        for (site, rows) in found {
            for (key, values) in rows {
                if values.len() > 1 {
                    self.verdict.duplicated += values.len() - 1;
                    self.verdict
                        .detail(|| format!("duplicated: {key:?} stands more than once at {site}"));
                }
                let history = self.histories.object(*key);
                let Some(user) = self.owner(*key, values, rows) else {
                    continue;
                };
                let residence = self.residence_of(user);
                if residence.home() == *site {
                    self.at_home(user, *key, history, site);
                } else if residence.includes(site) {
                    self.in_old_copy(*key, values, history, site, &residence, user);
                } else {
                    self.where_he_never_lived(user, *key, site, &residence);
                }
            }
        }
    }

    fn at_home(&mut self, user: i32, key: RowKey, history: Option<&History>, site: &str) {
        // Rows with a history were judged with their object.
        if history.is_none() {
            self.verdict.duplicated += 1;
            self.verdict.detail(|| {
                format!("duplicated: {key:?} of user {user} at {site} was never written")
            });
        }
    }

    fn in_old_copy(
        &mut self,
        key: RowKey,
        values: &[RowValue],
        history: Option<&History>,
        site: &str,
        residence: &Residence,
        user: i32,
    ) {
        let versions = history.map(|history| history.versions.as_slice());
        let mut written = false;
        for version in versions.unwrap_or_default() {
            if version.rows.get(&key) != values.first() {
                continue;
            }
            written = true;
            let at = version.site.as_deref();
            if at.is_none_or(|at| residence.came(at, site)) {
                return;
            }
        }
        if written {
            self.verdict.duplicated += 1;
            self.verdict.detail(|| {
                format!("duplicated: {key:?} of user {user} reached {site} after he had left")
            });
        } else {
            self.verdict.misplaced += 1;
            self.verdict.detail(|| {
                format!("misplaced: {key:?} of user {user} at {site}, which he left, is as nobody wrote it")
            });
        }
    }

    fn where_he_never_lived(&mut self, user: i32, key: RowKey, site: &str, residence: &Residence) {
        let home = residence.home();
        if self.first_at(home, key).is_some() {
            self.verdict.duplicated += 1;
            self.verdict.detail(|| {
                format!("duplicated: {key:?} of user {user} stands at {home} and at {site}, where he never lived")
            });
        } else {
            self.verdict.misplaced += 1;
            self.verdict.detail(|| {
                format!(
                    "misplaced: {key:?} of user {user} stands at {site} alone, where he never lived"
                )
            });
        }
    }

    fn first_at(&self, site: &str, key: RowKey) -> Option<&'a RowValue> {
        let (_, rows) = self.found.iter().find(|(name, _)| *name == site)?;
        rows.get(&key)?.first()
    }

    /// The user to whom a row belongs: as the histories say, else as its site does.
    fn owner(&self, key: RowKey, values: &[RowValue], site_rows: &rows::Rows) -> Option<i32> {
        if let Some(history) = self.histories.object(key) {
            return Some(history.user);
        }
        match (key, values.first()?) {
            (RowKey::Customer(id), _) => Some(id),
            (_, RowValue::Invoice { customer, .. }) => Some(*customer),
            (_, RowValue::Line { invoice, .. }) => {
                let invoice = RowKey::Invoice(*invoice);
                self.owner(invoice, site_rows.get(&invoice)?, site_rows)
            }
            (_, RowValue::Customer { .. }) => None,
        }
    }
}
