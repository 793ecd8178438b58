use std::collections::HashMap;

use bytes::Bytes;

use super::*;
use crate::pgoutput::{Column, Message, OldTuple, ReplicaIdentity, TupleValue};
use serde_json::{Value, json};

mod spool;
mod stream;

const CUSTOMER: u32 = 100;
const INVOICE: u32 = 200;
const LINE: u32 = 300;
const BYTES_MAX: usize = 1 << 20;

/// A session over three tables of two columns, `id` (the key) and `rest`, fed one transaction at a time.
struct Session(Assembler);

impl Session {
    fn new() -> Self {
        Self::with(HashMap::new(), BYTES_MAX, ReplicaIdentity::Default)
    }

    fn new_large() -> Self {
        Self::with(HashMap::new(), 1 << 26, ReplicaIdentity::Default)
    }

    fn with(
        key_columns: HashMap<u32, Vec<String>>,
        bytes_max: usize,
        identity: ReplicaIdentity,
    ) -> Self {
        let mut assembler = Assembler::new(key_columns, bytes_max);
        for (id, name) in [
            (CUSTOMER, "customer"),
            (INVOICE, "invoice"),
            (LINE, "invoice_line"),
        ] {
            let relation = relation(id, name, identity);
            assembler
                .feed(Event::Row(Message::Relation(relation)))
                .unwrap();
        }
        Self(assembler)
    }

    fn commit(&mut self, events: Vec<Event>) -> Transaction {
        self.try_commit(events).unwrap()
    }

    fn try_commit(&mut self, events: Vec<Event>) -> Result<Transaction, AssembleError> {
        self.0.feed(begin())?;
        for event in events {
            assert_eq!(self.0.feed(event)?, None);
        }
        Ok(self
            .0
            .feed(end())?
            .expect("a commit completes a transaction"))
    }
}

fn relation(id: u32, name: &str, identity: ReplicaIdentity) -> Relation {
    let column = |name: &str, key| Column {
        key: key || identity == ReplicaIdentity::Full,
        name: name.to_owned(),
        type_oid: 25,
        type_modifier: -1,
    };
    let columns = vec![column("id", true), column("rest", false)];
    Relation {
        id,
        schema: "public".to_owned(),
        name: name.to_owned(),
        identity,
        columns,
    }
}

fn begin() -> Event {
    Event::Begin {
        final_lsn: Lsn(50),
        xid: 7,
    }
}

fn end() -> Event {
    Event::Commit {
        lsn: Lsn(50),
        end_lsn: Lsn(60),
    }
}

fn text(value: &str) -> TupleValue {
    TupleValue::Text(Bytes::copy_from_slice(value.as_bytes()))
}

fn row(id: &str, rest: &str) -> Tuple {
    Tuple(vec![text(id), text(rest)])
}

fn key(id: &str) -> Tuple {
    Tuple(vec![text(id), TupleValue::Null])
}

fn insert(table: u32, id: &str) -> Event {
    Event::Row(Message::Insert {
        relation: table,
        new: row(id, "new"),
    })
}

fn update(table: u32, id: &str) -> Event {
    Event::Row(Message::Update {
        relation: table,
        old: None,
        new: row(id, "changed"),
    })
}

fn delete(table: u32, id: &str) -> Event {
    Event::Row(Message::Delete {
        relation: table,
        old: OldTuple::Key(key(id)),
    })
}

fn message(prefix: &str, content: impl Into<Vec<u8>>) -> Event {
    let content = Bytes::from(content.into());
    Event::Message {
        transactional: true,
        prefix: prefix.to_owned(),
        content,
    }
}

fn says(content: Value) -> Event {
    message(ROW_PREFIX, content.to_string())
}

/// The guard says that user `user` of attempt 1 owns the row.
fn owned(table: u32, id: &str, user: &str) -> Event {
    says(json!({"t": table, "k": [id], "u": user, "a": 1}))
}

fn child(table: u32, id: &str, parent: u32, parent_id: &str) -> Event {
    says(json!({"t": table, "k": [id], "u": null, "a": null, "p": [parent, [parent_id]]}))
}

/// (table, what, key, user) of every change.
fn told(transaction: &Transaction) -> Vec<(u32, &'static str, String, &str)> {
    let id = |tuple: &Tuple| String::from_utf8(tuple.0[0].data().unwrap().to_vec()).unwrap();
    let changes = transaction.changes.iter().map(|change| {
        let (what, id) = match &change.op {
            Op::Insert { new } => ("insert", id(new)),
            Op::Update { new, .. } => ("update", id(new)),
            Op::Delete { key } => ("delete", id(key)),
        };
        assert_eq!(change.table, change.relation.id);
        (change.table, what, id, change.user.as_str())
    });
    changes.collect()
}

fn is_clean(transaction: &Transaction) -> bool {
    transaction.departures.is_empty()
        && transaction.unresolved.is_empty()
        && transaction.oversized.is_empty()
}

fn enrolled(user: &str, attempt: i64) -> Option<Enrolled> {
    Some((user.to_owned(), attempt))
}

#[test]
fn rows_pair_with_messages_that_come_later_and_in_another_order() {
    let transaction = Session::new().commit(vec![
        insert(INVOICE, "1"),
        insert(INVOICE, "2"),
        owned(INVOICE, "2", "ann"),
        owned(INVOICE, "1", "ann"),
        update(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
    ]);
    let expected = [
        (INVOICE, "insert", "1".to_owned(), "ann"),
        (INVOICE, "insert", "2".to_owned(), "ann"),
        (INVOICE, "update", "1".to_owned(), "ann"),
    ];
    assert_eq!(told(&transaction), expected);
    assert!(is_clean(&transaction));
    assert_eq!((transaction.xid, transaction.commit_lsn), (7, Lsn(50)));
    assert_eq!(transaction.end_lsn, Lsn(60));
    assert_eq!(transaction.changes[0].attempt, 1);
    assert!(transaction.bytes() > 0);
}

#[test]
fn changes_of_users_who_stay_are_dropped() {
    let settled = says(json!({"t": INVOICE, "k": ["3"], "u": "carl", "a": null}));
    let nobody = says(json!({"t": INVOICE, "k": ["4"], "u": null}));
    let transaction = Session::new().commit(vec![
        insert(INVOICE, "1"),
        insert(INVOICE, "2"),
        insert(INVOICE, "3"),
        insert(INVOICE, "4"),
        owned(INVOICE, "2", "ann"),
        settled,
        nobody,
    ]);
    assert_eq!(
        told(&transaction),
        [(INVOICE, "insert", "2".to_owned(), "ann")]
    );
    assert!(is_clean(&transaction));
    assert!(
        Session::new()
            .commit(vec![insert(INVOICE, "1")])
            .changes
            .is_empty()
    );
}

#[test]
fn two_users_in_one_transaction_keep_their_own_rows() {
    let transaction = Session::new().commit(vec![
        insert(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
        insert(INVOICE, "2"),
        says(json!({"t": INVOICE, "k": ["2"], "u": "bob", "a": 9})),
    ]);
    let expected = [
        (INVOICE, "insert", "1".to_owned(), "ann"),
        (INVOICE, "insert", "2".to_owned(), "bob"),
    ];
    assert_eq!(told(&transaction), expected);
    assert_eq!(transaction.changes[1].attempt, 9);
}

#[test]
fn a_cascade_takes_the_owner_from_the_parents_own_message() {
    // The customer goes, his invoice with him, its lines with it: each sees its parent gone.
    let transaction = Session::new().commit(vec![
        delete(CUSTOMER, "5"),
        delete(INVOICE, "1"),
        delete(LINE, "11"),
        child(LINE, "11", INVOICE, "1"),
        child(INVOICE, "1", CUSTOMER, "5"),
        owned(CUSTOMER, "5", "ann"),
    ]);
    let expected = [
        (CUSTOMER, "delete", "5".to_owned(), "ann"),
        (INVOICE, "delete", "1".to_owned(), "ann"),
        (LINE, "delete", "11".to_owned(), "ann"),
    ];
    assert_eq!(told(&transaction), expected);
    assert!(is_clean(&transaction));
}

#[test]
fn a_child_that_came_before_its_parent_finds_its_owner() {
    let transaction = Session::new().commit(vec![
        insert(LINE, "11"),
        child(LINE, "11", INVOICE, "1"),
        insert(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
    ]);
    let expected = [
        (LINE, "insert", "11".to_owned(), "ann"),
        (INVOICE, "insert", "1".to_owned(), "ann"),
    ];
    assert_eq!(told(&transaction), expected);
    assert!(is_clean(&transaction));
}

#[test]
fn a_cascade_of_a_user_who_stays_concerns_nobody() {
    // The guard says nothing of a settled user's own row; the child could not see that.
    let transaction = Session::new().commit(vec![
        delete(INVOICE, "1"),
        delete(LINE, "11"),
        child(LINE, "11", INVOICE, "1"),
    ]);
    assert!(transaction.changes.is_empty());
    assert!(is_clean(&transaction));
}

#[test]
fn a_parent_that_nobody_names_is_reported() {
    let transaction =
        Session::new().commit(vec![insert(LINE, "11"), child(LINE, "11", INVOICE, "1")]);
    let expected = Unresolved {
        table: LINE,
        missing: Missing::Owner,
    };
    assert_eq!(transaction.unresolved, [expected]);
    assert!(transaction.changes.is_empty());
}

#[test]
fn parents_in_a_circle_are_reported() {
    let transaction = Session::new().commit(vec![
        insert(LINE, "1"),
        insert(LINE, "2"),
        child(LINE, "1", LINE, "2"),
        child(LINE, "2", LINE, "1"),
    ]);
    assert_eq!(
        transaction.unresolved,
        [Unresolved {
            table: LINE,
            missing: Missing::Owner
        }]
    );
}

#[test]
fn an_endless_chain_of_parents_is_reported_not_followed() {
    let mut events: Vec<Event> = (0..10_000)
        .map(|n| child(LINE, &format!("{n:05}"), LINE, &format!("{:05}", n + 1)))
        .collect();
    events.push(owned(LINE, "10000", "ann"));
    let transaction = Session::new_large().commit(events);
    assert!(transaction.unresolved.contains(&Unresolved {
        table: LINE,
        missing: Missing::Owner
    }));
}

#[test]
fn a_message_whose_row_is_not_in_the_stream_is_reported() {
    let transaction =
        Session::new().commit(vec![insert(INVOICE, "1"), owned(INVOICE, "01", "ann")]);
    assert_eq!(
        transaction.unresolved,
        [Unresolved {
            table: INVOICE,
            missing: Missing::Row
        }]
    );
}

#[test]
fn an_update_of_the_key_pairs_by_the_new_key_and_tells_the_old() {
    let old = Some(OldTuple::Key(key("1")));
    let transaction = Session::new().commit(vec![
        Event::Row(Message::Update {
            relation: INVOICE,
            old,
            new: row("2", "x"),
        }),
        says(json!({"t": INVOICE, "k": ["2"], "o": ["1"], "u": "ann", "a": 1})),
        // A child that still names its parent by the old key.
        delete(LINE, "11"),
        child(LINE, "11", INVOICE, "1"),
    ]);
    let key_old = Some(key("1"));
    assert_eq!(
        transaction.changes[0].op,
        Op::Update {
            key_old,
            new: row("2", "x")
        }
    );
    assert_eq!(
        told(&transaction)[1],
        (LINE, "delete", "11".to_owned(), "ann")
    );
    assert!(is_clean(&transaction));
}

#[test]
fn a_row_that_changes_hands_sends_both_users_back() {
    let transaction = Session::new().commit(vec![
        update(INVOICE, "1"),
        says(json!({"t": INVOICE, "k": ["1"], "u": "bob", "a": 9, "was": {"u": "ann", "a": 1}})),
        insert(INVOICE, "2"),
        owned(INVOICE, "2", "ann"),
        insert(INVOICE, "3"),
        owned(INVOICE, "3", "cleo"),
    ]);
    let expected = OwnerChange {
        table: INVOICE,
        user_before: enrolled("ann", 1),
        user_after: enrolled("bob", 9),
    };
    assert_eq!(transaction.departures, [expected]);
    // Cleo has nothing to do with it.
    assert_eq!(
        told(&transaction),
        [(INVOICE, "insert", "3".to_owned(), "cleo")]
    );
}

#[test]
fn a_row_that_leaves_or_joins_a_moving_user_sends_him_back() {
    let leaves =
        says(json!({"t": INVOICE, "k": ["1"], "u": "bob", "a": null, "was": {"u": "ann", "a": 1}}));
    let joins =
        says(json!({"t": LINE, "k": ["2"], "u": "cleo", "a": 1, "was": {"u": null, "a": null}}));
    let transaction =
        Session::new().commit(vec![update(INVOICE, "1"), leaves, update(LINE, "2"), joins]);
    let left = OwnerChange {
        table: INVOICE,
        user_before: enrolled("ann", 1),
        user_after: None,
    };
    let joined = OwnerChange {
        table: LINE,
        user_before: None,
        user_after: enrolled("cleo", 1),
    };
    assert_eq!(transaction.departures, [left, joined]);
    assert!(transaction.changes.is_empty());
}

#[test]
fn two_users_named_for_one_key_are_an_owner_change() {
    let transaction = Session::new().commit(vec![
        delete(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
        insert(INVOICE, "1"),
        owned(INVOICE, "1", "bob"),
    ]);
    let expected = OwnerChange {
        table: INVOICE,
        user_before: enrolled("ann", 1),
        user_after: enrolled("bob", 1),
    };
    assert_eq!(transaction.departures, [expected]);
    assert!(transaction.changes.is_empty());
}

#[test]
fn a_key_that_goes_over_from_or_to_a_user_who_stays_sends_the_other_back() {
    // The guard says nothing of a settled user's own row.
    for named_first in [true, false] {
        let said = owned(INVOICE, "1", "ann");
        let mut events = vec![delete(INVOICE, "1"), insert(INVOICE, "1")];
        events.insert(if named_first { 1 } else { 2 }, said);
        events.extend([insert(INVOICE, "2"), owned(INVOICE, "2", "bob")]);
        let transaction = Session::new().commit(events);
        let expected = OwnerChange {
            table: INVOICE,
            user_before: enrolled("ann", 1),
            user_after: None,
        };
        assert_eq!(transaction.departures, [expected]);
        // Nothing of what stood under that key is anybody's who moves.
        assert_eq!(
            told(&transaction),
            [(INVOICE, "insert", "2".to_owned(), "bob")]
        );
    }
    // His own row, deleted and there again, stays his.
    let transaction = Session::new().commit(vec![
        delete(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
        insert(INVOICE, "1"),
        owned(INVOICE, "1", "ann"),
    ]);
    assert!(is_clean(&transaction));
    assert_eq!(transaction.changes.len(), 2);
}

#[test]
fn under_replica_identity_full_the_callers_key_columns_count() {
    let keys = [CUSTOMER, INVOICE, LINE].map(|table| (table, vec!["id".to_owned()]));
    let mut session = Session::with(keys.into(), BYTES_MAX, ReplicaIdentity::Full);
    let full = |id, rest| OldTuple::Full(row(id, rest));
    let old = Some(full("1", "before"));
    let transaction = session.commit(vec![
        Event::Row(Message::Update {
            relation: INVOICE,
            old,
            new: row("1", "after"),
        }),
        owned(INVOICE, "1", "ann"),
        Event::Row(Message::Delete {
            relation: INVOICE,
            old: full("2", "gone"),
        }),
        owned(INVOICE, "2", "ann"),
    ]);
    let update = Op::Update {
        key_old: None,
        new: row("1", "after"),
    };
    assert_eq!(transaction.changes[0].op, update);
    assert_eq!(transaction.changes[1].op, Op::Delete { key: key("2") });
    assert_eq!(transaction.changes[0].relation.key_positions(), [0]);
}

#[test]
fn a_key_value_out_of_line_is_taken_from_the_old_row() {
    let new = Tuple(vec![TupleValue::Unchanged, text("x")]);
    let old = Some(OldTuple::Key(key("long")));
    let transaction = Session::new().commit(vec![
        Event::Row(Message::Update {
            relation: INVOICE,
            old,
            new: new.clone(),
        }),
        owned(INVOICE, "long", "ann"),
    ]);
    let expected = Op::Update {
        key_old: None,
        new: row("long", "x"),
    };
    assert_eq!(transaction.changes[0].op, expected);
    let without = Event::Row(Message::Update {
        relation: INVOICE,
        old: None,
        new,
    });
    let error = Session::new().try_commit(vec![without]).unwrap_err();
    assert_eq!(error, AssembleError::RowKey { table: INVOICE });
}
