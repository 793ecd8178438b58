use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::pgoutput::{Column, Relation, ReplicaIdentity};

/// A history of rows that a database would allow: an INSERT of what is not there, anything else of what is.
fn history(wishes: &[(u8, u8, u8)]) -> Vec<Change> {
    let column = |name: &str, key| Column {
        key,
        name: name.to_owned(),
        type_oid: 23,
        type_modifier: -1,
    };
    let relation = Arc::new(Relation {
        id: 1,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![column("k", true), column("v", false)],
    });
    let text = |n: usize| TupleValue::Text(n.to_string().into_bytes().into());
    let mut there = BTreeMap::new();
    let mut changes = Vec::new();
    for (n, (key, kind, other)) in wishes.iter().enumerate() {
        let row = |key: u8| Tuple(vec![text(key.into()), text(n)]);
        let key_alone = Tuple(vec![text((*key).into()), TupleValue::Null]);
        let op = match (there.contains_key(key), kind % 4) {
            (false, _) => {
                there.insert(*key, n);
                Op::Insert { new: row(*key) }
            }
            (true, 0) => {
                there.remove(key);
                Op::Delete { key: key_alone }
            }
            (true, 1) if !there.contains_key(other) => {
                there.remove(key);
                there.insert(*other, n);
                let key_old = Some(key_alone);
                Op::Update {
                    key_old,
                    new: row(*other),
                }
            }
            (true, _) => Op::Update {
                key_old: None,
                new: row(*key),
            },
        };
        changes.push(Change {
            table: 1,
            relation: Arc::clone(&relation),
            op,
            user: "u".into(),
            attempt: 1,
        });
    }
    changes
}

type Row = (Vec<u8>, Vec<u8>);

fn row(tuple: &Tuple) -> Row {
    let bytes = |n: usize| tuple.0[n].data().unwrap_or_default().to_vec();
    (bytes(0), bytes(1))
}

/// What stands after `changes`; panics where a strict apply would fail.
fn outcome<'a>(changes: impl IntoIterator<Item = &'a Change>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for change in changes {
        match &change.op {
            Op::Insert { new } => {
                let (key, value) = row(new);
                assert!(rows.insert(key, value).is_none());
            }
            Op::Update { key_old, new } => {
                let (key, value) = row(new);
                let old = key_old.as_ref().map_or(key.clone(), |old| row(old).0);
                assert!(rows.remove(&old).is_some());
                assert!(rows.insert(key, value).is_none());
            }
            Op::Delete { key } => assert!(rows.remove(&row(key).0).is_some()),
        }
    }
    rows
}

proptest! {
    #[test]
    fn statements_come_to_what_the_stream_says(wishes in proptest::collection::vec((0..6_u8, any::<u8>(), 0..6_u8), 0..60)) {
        let changes = history(&wishes);
        let all: Vec<&Change> = changes.iter().collect();
        let runs = runs(&all);
        prop_assert!(runs.iter().map(Vec::len).sum::<usize>() <= changes.len());
        prop_assert_eq!(outcome(runs.iter().flatten().copied()), outcome(&changes));
        for run in &runs {
            let keys: HashSet<_> = run.iter().map(|change| key_of(change)).collect();
            prop_assert_eq!(keys.len(), run.len());
        }
    }
}

#[test]
fn changes_of_different_rows_take_one_statement_for_each_kind() {
    // Ten rows come; five of them are changed, between others that go.
    let mut wishes: Vec<(u8, u8, u8)> = (0..10).map(|key| (key, 0, 0)).collect();
    wishes.extend((0..10).map(|key| (key, if key % 2 == 0 { 2 } else { 0 }, 0)));
    let changes = history(&wishes);
    let all: Vec<&Change> = changes.iter().collect();
    let lengths: Vec<usize> = runs(&all).iter().map(Vec::len).collect();
    assert_eq!(lengths, [10, 5, 5]);
}

#[test]
fn a_row_that_is_updated_again_and_again_is_updated_once() {
    let mut wishes = vec![(1, 0, 0), (2, 0, 0)];
    wishes.extend((0..50).map(|n| (1 + n % 2, 2, 0)));
    let changes = history(&wishes);
    let all: Vec<&Change> = changes.iter().collect();
    let runs = runs(&all);
    let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
    assert_eq!(lengths, [2, 2]);
    assert_eq!(outcome(runs.iter().flatten().copied()), outcome(&changes));
}
