use super::*;
use proptest::prelude::*;

fn tuple() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(TupleValue::Null),
        Just(TupleValue::Unchanged),
        proptest::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| TupleValue::Text(bytes.into())),
        proptest::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| TupleValue::Binary(bytes.into())),
    ];
    proptest::collection::vec(value, 0..4).prop_map(Tuple)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let op = prop_oneof![
        tuple().prop_map(|new| Op::Insert { new }),
        (proptest::option::of(tuple()), tuple())
            .prop_map(|(key_old, new)| Op::Update { key_old, new }),
        tuple().prop_map(|key| Op::Delete { key }),
    ];
    let tables = [INVOICE, LINE].map(|id| Arc::new(relation(id, "table", ReplicaIdentity::Index)));
    let change =
        (0..2_usize, op, ".{0,6}", any::<i64>()).prop_map(move |(table, op, user, attempt)| {
            let relation = Arc::clone(&tables[table]);
            Change {
                table: relation.id,
                relation,
                op,
                user,
                attempt,
            }
        });
    proptest::collection::vec(change, 0..8)
}

proptest! {
    #[test]
    fn spooled_changes_are_read_back(changes in changes()) {
        prop_assert_eq!(read_changes(&write_changes(&changes)).unwrap(), changes);
    }

    #[test]
    fn damaged_spool_never_panics(
        changes in changes(),
        at: prop::sample::Index,
        byte: u8,
        noise in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = write_changes(&changes);
        prop_assert!(read_changes(&bytes[..at.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read_changes(&bytes);
        let _ = read_changes(&noise);
    }
}

#[test]
fn a_table_is_described_once_however_many_rows_it_has() {
    let table = Arc::new(relation(
        INVOICE,
        "a_table_with_a_long_name",
        ReplicaIdentity::Full,
    ));
    let one = Change {
        table: INVOICE,
        relation: Arc::clone(&table),
        op: Op::Delete { key: key("1") },
        user: "ann".to_owned(),
        attempt: 1,
    };
    let few = write_changes(std::slice::from_ref(&one)).len();
    let many = write_changes(&vec![one; 101]).len();
    assert!((many - few) / 100 < 20, "{few} {many}");
}
