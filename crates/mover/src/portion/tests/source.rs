//! The source: what PostgreSQL does with rows, locks, transaction ids and its log, as far as a copy and a stream see it.

use std::collections::BTreeMap;

use bytes::Bytes;
use postgres::lsn::Lsn;
use postgres::pgoutput::{Column, Message, OldTuple, Relation, ReplicaIdentity, Tuple, TupleValue};
use postgres::transaction::{Event, ROW_PREFIX};
use serde_json::json;

use super::GROUPS;

const TABLE: u32 = 100;
/// How many keys there are: few, so that they collide.
const KEYS: u8 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) user: u8,
    pub(super) value: u16,
    /// Stands out of line: the stream leaves it out where it did not change.
    pub(super) big: u16,
}

#[derive(Debug)]
struct Open {
    /// When it began, and when it drew its id, in steps of the model.
    began: u64,
    drew: u64,
    xid: Option<u64>,
    /// Who was enrolled when its snapshot was taken; for READ COMMITTED none.
    old_snapshot: Option<[Option<i64>; 2]>,
    /// Its own view of what it changed.
    changed: BTreeMap<u8, Option<Row>>,
    events: Vec<Event>,
    hands: usize,
    /// Its commit record stands in the log; it is not yet seen to have ended.
    recorded: bool,
}

/// A committed transaction in the log.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) xid: u64,
    pub(super) lsn: u64,
    pub(super) events: Vec<Said>,
}

/// An [`Event`] that can be told again.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Row(Message),
    Owner(Bytes),
}

#[derive(Debug)]
pub(super) struct Source {
    now: u64,
    rows: BTreeMap<u8, Row>,
    open: [Option<Open>; 4],
    next_xid: u64,
    last_ended: u64,
    lsn: u64,
    values: u16,
    /// The attempt under which each group is enrolled, and since when.
    enrolled: [Option<i64>; 2],
    since: [u64; 2],
    pub(super) log: Vec<Logged>,
    /// Committed transactions in which rows went from one user to another.
    pub(super) handovers: usize,
}

/// What a chunk's copy sees.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// As `pg_current_snapshot()` writes it.
    pub(super) snapshot: String,
    pub(super) rows: BTreeMap<u8, Row>,
}

impl Source {
    /// With a row per user; ids begin where the 32-bit circle may close within the test.
    pub(super) fn new(start: u8) -> Self {
        let next_xid = (3_u64 << 32) + u64::from(start % 16) - 8;
        let row = |user| Row {
            user,
            value: 0,
            big: 0,
        };
        Self {
            now: 0,
            rows: (0..4).map(|user| (user, row(user))).collect(),
            open: [None, None, None, None],
            next_xid,
            last_ended: next_xid - 1,
            lsn: 1_000,
            values: 0,
            enrolled: [None, None],
            since: [0, 0],
            log: Vec::new(),
            handovers: 0,
        }
    }

    pub(super) fn begin(&mut self, n: usize, old_snapshot: bool) {
        self.now += 1;
        let enrolled = self.enrolled;
        self.open[n].get_or_insert_with(|| Open {
            began: self.now,
            drew: 0,
            xid: None,
            old_snapshot: old_snapshot.then_some(enrolled),
            changed: BTreeMap::new(),
            events: Vec::new(),
            hands: 0,
            recorded: false,
        });
    }

    /// One INSERT, UPDATE or DELETE, if it can be made and nobody else holds the row.
    pub(super) fn write(&mut self, n: usize, which: u8, how: u8) {
        self.begin(n, false);
        let key = which % KEYS;
        let new_key = (which / KEYS) % KEYS;
        let user = (how / 8) % 4;
        if self.is_locked(n, key) {
            return;
        }
        let Some(open) = self.open[n].as_ref().filter(|open| !open.recorded) else {
            return;
        };
        let look = |key: u8| match open.changed.get(&key) {
            Some(own) => own.clone(),
            None => self.rows.get(&key).cloned(),
        };
        let old = look(key);
        self.values += 1;
        let value = self.values;
        let (new, to) = match (&old, how % 8) {
            (None, _) => (
                Some(Row {
                    user,
                    value,
                    big: value,
                }),
                key,
            ),
            (Some(_), 0 | 1) => (None, key),
            (Some(row), 2..=4) => (
                Some(Row {
                    value,
                    ..row.clone()
                }),
                key,
            ),
            (Some(row), 5) => (
                Some(Row {
                    big: value,
                    ..row.clone()
                }),
                key,
            ),
            (Some(row), 6) => {
                if new_key == key || self.is_locked(n, new_key) || look(new_key).is_some() {
                    return;
                }
                (Some(row.clone()), new_key)
            }
            // Seldom: it sends both users back, and then there is little left to compare.
            (Some(row), _) if how < 16 => (
                Some(Row {
                    user,
                    ..row.clone()
                }),
                key,
            ),
            (Some(row), _) => (
                Some(Row {
                    value,
                    ..row.clone()
                }),
                key,
            ),
        };
        let enrolled = open.old_snapshot.unwrap_or(self.enrolled);
        let attempt = |row: &Row| {
            let group = GROUPS.iter().position(|users| users.contains(&row.user));
            group.and_then(|group| enrolled[group])
        };
        let mut events = vec![Event::Row(row_message(key, old.as_ref(), to, new.as_ref()))];
        if let Some(said) = guard_says((key, old.as_ref()), (to, new.as_ref()), attempt) {
            events.push(Event::Message {
                transactional: true,
                prefix: ROW_PREFIX.to_owned(),
                content: said,
            });
        }
        // Or by the key: one user's row leaves it and another's takes it.
        let before = |key: u8| self.rows.get(&key).map(|row| row.user);
        let hands = new.as_ref().is_some_and(|new| {
            let other = |user: Option<u8>| user.is_some_and(|user| user != new.user);
            other(old.as_ref().map(|old| old.user))
                || other(before(to))
                || (old.is_none() || key != to) && open.changed.contains_key(&to)
        });
        let (now, next_xid) = (self.now, self.next_xid);
        let Some(open) = self.open[n].as_mut() else {
            return;
        };
        if open.xid.is_none() {
            open.xid = Some(next_xid);
            open.drew = now;
            self.next_xid += 1;
        }
        open.changed.insert(key, None);
        open.changed.insert(to, new);
        open.events.extend(events);
        open.hands += usize::from(hands);
    }

    /// Writes the commit record; the transaction stays where snapshots see it running.
    pub(super) fn record_commit(&mut self, n: usize) {
        self.now += 1;
        let Some(open) = self.open[n].as_mut().filter(|open| !open.recorded) else {
            return;
        };
        open.recorded = true;
        let events = std::mem::take(&mut open.events);
        let Some(xid) = open.xid else {
            return;
        };
        self.handovers += open.hands;
        self.lsn += 8;
        let events = events.into_iter().filter_map(|event| match event {
            Event::Row(message) => Some(Said::Row(message)),
            Event::Message { content, .. } => Some(Said::Owner(content)),
            Event::Begin { .. } | Event::Commit { .. } => None,
        });
        self.log.push(Logged {
            xid,
            lsn: self.lsn,
            events: events.collect(),
        });
    }

    /// The commit is over: from now on snapshots see it, and others get its locks.
    pub(super) fn end(&mut self, n: usize) {
        self.record_commit(n);
        let Some(open) = self.open[n].take() else {
            return;
        };
        for (key, row) in open.changed {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        self.last_ended = self.last_ended.max(open.xid.unwrap_or(0));
    }

    pub(super) fn abort(&mut self, n: usize) {
        self.now += 1;
        if self.open[n].as_ref().is_some_and(|open| !open.recorded)
            && let Some(open) = self.open[n].take()
        {
            self.last_ended = self.last_ended.max(open.xid.unwrap_or(0));
        }
    }

    /// Everybody commits.
    pub(super) fn finish(&mut self) {
        for n in 0..self.open.len() {
            self.end(n);
        }
    }

    pub(super) fn enrol(&mut self, group: usize, attempt: Option<i64>) {
        self.now += 1;
        self.enrolled[group] = attempt;
        self.since[group] = self.now;
    }

    /// Whether a writer is left who may have seen the users of `group` as settled.
    pub(super) fn has_older_writers(&self, group: usize) -> bool {
        let since = self.since[group];
        self.open.iter().flatten().any(|open| {
            (open.xid.is_some() && open.drew < since)
                || (open.old_snapshot.is_some() && open.began < since)
        })
    }

    pub(super) fn view(&self) -> View {
        let xmax = self.last_ended + 1;
        let mut running: Vec<u64> = self
            .open
            .iter()
            .flatten()
            .filter_map(|open| open.xid)
            .collect();
        running.retain(|xid| *xid < xmax);
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(xmax);
        let running: Vec<String> = running.iter().map(u64::to_string).collect();
        View {
            snapshot: format!("{xmin}:{xmax}:{}", running.join(",")),
            rows: self.rows.clone(),
        }
    }

    pub(super) fn rows_of(&self, user: u8) -> BTreeMap<u8, Row> {
        let own = self.rows.iter().filter(|(_, row)| row.user == user);
        own.map(|(key, row)| (*key, row.clone())).collect()
    }

    fn is_locked(&self, n: usize, key: u8) -> bool {
        let others = self
            .open
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != n);
        others
            .filter_map(|(_, open)| open.as_ref())
            .any(|open| open.changed.contains_key(&key))
    }
}

/// How the stream describes the table.
pub(super) fn relation() -> Relation {
    let column = |name: &str| Column {
        key: name == "id",
        name: name.to_owned(),
        type_oid: 25,
        type_modifier: -1,
    };
    Relation {
        id: TABLE,
        schema: "public".to_owned(),
        name: "item".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: ["id", "owner", "value", "big"].map(column).to_vec(),
    }
}

/// Begin and commit around what a transaction said.
pub(super) fn events(logged: &Logged) -> Vec<Event> {
    let lsn = Lsn(logged.lsn);
    // The stream has the lower half.
    let xid = (logged.xid & u64::from(u32::MAX)) as u32;
    let begin = Event::Begin {
        final_lsn: lsn,
        xid,
    };
    let said = logged.events.iter().map(|said| match said {
        Said::Row(message) => Event::Row(message.clone()),
        Said::Owner(content) => Event::Message {
            transactional: true,
            prefix: ROW_PREFIX.to_owned(),
            content: content.clone(),
        },
    });
    let commit = Event::Commit {
        lsn,
        end_lsn: Lsn(logged.lsn + 4),
    };
    std::iter::once(begin).chain(said).chain([commit]).collect()
}

fn text(value: u16) -> TupleValue {
    TupleValue::Text(Bytes::from(value.to_string()))
}

fn tuple(key: u8, row: &Row) -> Tuple {
    let values = [u16::from(key), u16::from(row.user), row.value, row.big];
    Tuple(values.map(text).to_vec())
}

fn key_tuple(key: u8) -> Tuple {
    let null = TupleValue::Null;
    Tuple(vec![text(key.into()), null.clone(), null.clone(), null])
}

fn row_message(key: u8, old: Option<&Row>, to: u8, new: Option<&Row>) -> Message {
    match (old, new) {
        (_, None) => Message::Delete {
            relation: TABLE,
            old: OldTuple::Key(key_tuple(key)),
        },
        (None, Some(new)) => Message::Insert {
            relation: TABLE,
            new: tuple(to, new),
        },
        (Some(old), Some(new)) => {
            let mut after = tuple(to, new);
            if old.big == new.big {
                after.0[3] = TupleValue::Unchanged;
            }
            Message::Update {
                relation: TABLE,
                old: (key != to).then(|| OldTuple::Key(key_tuple(key))),
                new: after,
            }
        }
    }
}

/// What the guard writes beside a change, if it concerns anybody who moves.
fn guard_says(
    (key, old): (u8, Option<&Row>),
    (to, new): (u8, Option<&Row>),
    attempt: impl Fn(&Row) -> Option<i64>,
) -> Option<Bytes> {
    let (was, is) = (old.and_then(&attempt), new.and_then(&attempt));
    if was.is_none() && is.is_none() {
        return None;
    }
    let user = |row: &Row| row.user.to_string();
    let said = match (old, new) {
        (Some(old), None) => json!({"t": TABLE, "k": [key.to_string()], "u": user(old), "a": was}),
        (_, Some(new)) => {
            let mut said = json!({"t": TABLE, "k": [to.to_string()], "u": user(new), "a": is});
            if let Some(old) = old {
                if key != to {
                    said["o"] = json!([key.to_string()]);
                }
                if old.user != new.user {
                    said["was"] = json!({"u": user(old), "a": was});
                }
            }
            said
        }
        (None, None) => return None,
    };
    Some(Bytes::from(said.to_string()))
}
