//! The history of every object, rebuilt from the rows at the start and the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::log::{Change, Entry, Line, Log, Outcome, Stamp, money};
use crate::rows::{RowKey, RowValue};

/// An object: a user's row, or an invoice with its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ObjectKey {
    User(i32),
    Invoice(i32),
}

/// The rows of an object at one time; empty before it was created and after it was deleted.
pub(super) type Rows = BTreeMap<RowKey, RowValue>;

/// An object as it stood, or may have stood, for a while.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) rows: Rows,
    /// The site that acknowledged the operation, or was asked to; `None` for the start.
    pub(super) site: Option<String>,
}

/// What an object went through.
#[derive(Debug)]
pub(super) struct History {
    pub(super) user: i32,
    /// In the order of the log.
    pub(super) versions: Vec<Version>,
    /// Which of the versions it may end in: more than one after an unknown outcome.
    pub(super) ends: BTreeSet<usize>,
}

/// The histories of all objects of a log.
pub(super) struct Histories {
    pub(super) objects: BTreeMap<ObjectKey, History>,
    /// The object to which a row belongs.
    owners: HashMap<RowKey, ObjectKey>,
}

// === impl History ===

impl History {
    fn starting_with(user: i32, rows: Rows) -> History {
        History {
            user,
            versions: vec![Version { rows, site: None }],
            ends: BTreeSet::from([0]),
        }
    }

    fn apply(&mut self, entry: &Entry) {
        let before = std::mem::take(&mut self.ends);
        let first_new = self.versions.len();
        for end in &before {
            let rows = after(&self.versions[*end].rows, entry);
            // Different pasts often have the same future; an overwritten row forgets its doubts.
            if !self.versions[first_new..]
                .iter()
                .any(|new| new.rows == rows)
            {
                self.versions.push(Version {
                    rows,
                    site: Some(entry.site.clone()),
                });
            }
        }
        self.ends = (first_new..self.versions.len()).collect();
        if entry.outcome == Outcome::Unknown {
            self.ends.extend(before);
        }
    }

    /// Every row that the object ever had.
    pub(super) fn keys(&self) -> BTreeSet<RowKey> {
        self.versions
            .iter()
            .flat_map(|version| version.rows.keys().copied())
            .collect()
    }
}

// === impl Histories ===

impl Histories {
    pub(super) fn of(log: &Log) -> Histories {
        let mut objects: BTreeMap<ObjectKey, History> = BTreeMap::new();
        for (object, (user, rows)) in baseline(log) {
            objects.insert(object, History::starting_with(user, rows));
        }
        for entry in &log.entries {
            objects
                .entry(object_of(entry))
                .or_insert_with(|| History::starting_with(entry.user, Rows::new()))
                .apply(entry);
        }
        let mut owners = HashMap::new();
        for (object, history) in &objects {
            for key in history.keys() {
                owners.insert(key, *object);
            }
        }
        Histories { objects, owners }
    }

    /// Every row that ever was.
    pub(super) fn keys(&self) -> Vec<RowKey> {
        self.owners.keys().copied().collect()
    }

    /// The object of a row; `None` where neither the start nor the log has it.
    pub(super) fn object(&self, row: RowKey) -> Option<&History> {
        self.objects.get(self.owners.get(&row)?)
    }
}

/// The objects at the start, each with its user.
fn baseline(log: &Log) -> BTreeMap<ObjectKey, (i32, Rows)> {
    let mut objects: BTreeMap<ObjectKey, (i32, Rows)> = BTreeMap::new();
    let first = |values: &Vec<RowValue>| values.first().cloned();
    // Invoices come before their lines in the order of keys.
    for (key, values) in &log.baseline {
        let Some(value) = first(values) else { continue };
        let (object, user) = match (key, &value) {
            (RowKey::Customer(id), _) => (ObjectKey::User(*id), *id),
            (RowKey::Invoice(id), RowValue::Invoice { customer, .. }) => {
                (ObjectKey::Invoice(*id), *customer)
            }
            (RowKey::Line(_), RowValue::Line { invoice, .. }) => {
                let object = ObjectKey::Invoice(*invoice);
                match objects.get(&object) {
                    Some((user, _)) => (object, *user),
                    None => continue,
                }
            }
            _ => continue,
        };
        let (_, rows) = objects.entry(object).or_insert((user, Rows::new()));
        rows.insert(*key, value);
    }
    objects
}

fn object_of(entry: &Entry) -> ObjectKey {
    match &entry.change {
        Change::CreateUser { .. } | Change::EditUser { .. } => ObjectKey::User(entry.user),
        Change::CreateInvoice { invoice, .. }
        | Change::EditInvoice { invoice, .. }
        | Change::AddLine { invoice, .. }
        | Change::DeleteLine { invoice, .. }
        | Change::DeleteInvoice { invoice } => ObjectKey::Invoice(*invoice),
    }
}

/// The object's rows after an operation on `before`.
fn after(before: &Rows, entry: &Entry) -> Rows {
    let mut rows = before.clone();
    match &entry.change {
        Change::CreateUser { company, .. } | Change::EditUser { company } => {
            let company = Some(company.clone());
            rows.insert(RowKey::Customer(entry.user), RowValue::Customer { company });
        }
        Change::CreateInvoice {
            invoice,
            stamp,
            lines,
        } => {
            put_invoice(&mut rows, entry.user, *invoice, stamp);
            for line in lines {
                put_line(&mut rows, *invoice, line);
            }
        }
        Change::EditInvoice { invoice, stamp } => {
            put_invoice(&mut rows, entry.user, *invoice, stamp);
        }
        Change::AddLine {
            invoice,
            stamp,
            line,
        } => {
            put_invoice(&mut rows, entry.user, *invoice, stamp);
            put_line(&mut rows, *invoice, line);
        }
        Change::DeleteLine {
            invoice,
            stamp,
            line,
        } => {
            put_invoice(&mut rows, entry.user, *invoice, stamp);
            rows.remove(&RowKey::Line(*line));
        }
        Change::DeleteInvoice { .. } => rows.clear(),
    }
    rows
}

fn put_invoice(rows: &mut Rows, customer: i32, invoice: i32, stamp: &Stamp) {
    let value = RowValue::Invoice {
        customer,
        address: Some(stamp.address.clone()),
        total: money(stamp.cents),
    };
    rows.insert(RowKey::Invoice(invoice), value);
}

fn put_line(rows: &mut Rows, invoice: i32, line: &Line) {
    let value = RowValue::Line {
        invoice,
        track: line.track,
        price: money(line.cents),
        quantity: line.quantity,
    };
    rows.insert(RowKey::Line(line.id), value);
}
