use super::*;
use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

/// Writes a message as the server does.
fn encode(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    match message {
        Message::Relation(relation) => {
            out.put_u8(b'R');
            out.put_u32(relation.id);
            put_name(&mut out, &relation.schema);
            put_name(&mut out, &relation.name);
            out.put_u8(match relation.identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            });
            out.put_i16(relation.columns.len().try_into().unwrap());
            for column in &relation.columns {
                out.put_u8(column.key.into());
                put_name(&mut out, &column.name);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            put_tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            put_old(&mut out, old);
        }
        Message::Truncate { relations } => {
            out.put_u8(b'T');
            out.put_u32(relations.len().try_into().unwrap());
            out.put_u8(0);
            for relation in relations {
                out.put_u32(*relation);
            }
        }
        Message::Ignored => {
            out.put_u8(b'O');
            out.put_u64(7);
            put_name(&mut out, "elsewhere");
        }
    }
    out.freeze()
}

fn put_name(out: &mut BytesMut, name: &str) {
    out.put_slice(name.as_bytes());
    out.put_u8(0);
}

fn put_old(out: &mut BytesMut, old: &OldTuple) {
    match old {
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut BytesMut, tag: u8, tuple: &Tuple) {
    out.put_u8(tag);
    out.put_i16(tuple.0.len().try_into().unwrap());
    for value in &tuple.0 {
        match value {
            TupleValue::Null => out.put_u8(b'n'),
            TupleValue::Unchanged => out.put_u8(b'u'),
            TupleValue::Text(bytes) => put_value(out, b't', bytes),
            TupleValue::Binary(bytes) => put_value(out, b'b', bytes),
        }
    }
}

fn put_value(out: &mut BytesMut, tag: u8, bytes: &Bytes) {
    out.put_u8(tag);
    out.put_i32(bytes.len().try_into().unwrap());
    out.put_slice(bytes);
}

fn value(unchanged: bool) -> impl Strategy<Value = TupleValue> {
    let data = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    (0..4, data).prop_map(move |(kind, data)| match kind {
        0 => TupleValue::Null,
        1 if unchanged => TupleValue::Unchanged,
        2 => TupleValue::Binary(data),
        _ => TupleValue::Text(data),
    })
}

fn row(unchanged: bool) -> impl Strategy<Value = Tuple> {
    proptest::collection::vec(value(unchanged), 0..6).prop_map(Tuple)
}

fn old_row() -> impl Strategy<Value = OldTuple> {
    prop_oneof![
        row(true).prop_map(OldTuple::Key),
        row(true).prop_map(OldTuple::Full)
    ]
}

fn described() -> impl Strategy<Value = Relation> {
    let identity = proptest::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column = (any::<bool>(), "[a-zé]{1,9}", any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_oid, type_modifier)| Column {
            key,
            name,
            type_oid,
            type_modifier,
        },
    );
    let columns = proptest::collection::vec(column, 0..6);
    (any::<u32>(), "[a-z]{0,9}", "[a-z]{1,9}", identity, columns).prop_map(
        |(id, schema, name, identity, columns)| Relation {
            id,
            schema,
            name,
            identity,
            columns,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let update = (any::<u32>(), proptest::option::of(old_row()), row(true));
    prop_oneof![
        described().prop_map(Message::Relation),
        (any::<u32>(), row(false)).prop_map(|(relation, new)| Message::Insert { relation, new }),
        update.prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), old_row()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        proptest::collection::vec(any::<u32>(), 0..5)
            .prop_map(|relations| Message::Truncate { relations }),
        Just(Message::Ignored),
    ]
}

proptest! {
    #[test]
    fn what_the_server_writes_is_read_back(message in message()) {
        prop_assert_eq!(decode(encode(&message)), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        tag in proptest::sample::select(b"RIUDTOYBCM".to_vec()),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = decode(Bytes::from(body.clone()));
        let _ = decode([vec![tag], body].concat().into());
    }

    #[test]
    fn a_changed_byte_never_panics(message in message(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encode(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(bytes.into());
    }

    #[test]
    fn a_message_cut_short_is_refused(message in message(), at: prop::sample::Index) {
        let bytes = encode(&message);
        prop_assert!(decode(bytes.slice(..at.index(bytes.len()))).is_err());
    }

    #[test]
    fn a_message_with_something_after_it_is_refused(message in message(), extra in 1_usize..9) {
        let bytes = [encode(&message).to_vec(), vec![0; extra]].concat();
        let refused = matches!(
            decode(bytes.into()),
            Err(DecodeError::Trailing { count, .. }) if count == extra
        );
        prop_assert!(refused);
    }
}

/// What PostgreSQL 15 sent for tables of (id, note, big), (id, note) with replica identity FULL, and one
/// of an enum type.
const RECORDED: [(&str, &str); 9] = [
    (
        "relation 16384 a [id* note big]",
        "52000040007075626c69630061006400030169640000000017ffffffff006e6f74650000000019ffffffff\
         006269670000000019ffffffff",
    ),
    (
        "insert 16384 (9, z, null)",
        "49000040004e000374000000013974000000017a6e",
    ),
    (
        "update 16384 (1, n, unchanged)",
        "55000040004e000374000000013174000000016e75",
    ),
    (
        "update 16384 key (2, null, null) -> (2, n, unchanged)",
        "55000040004b00037400000001326e6e4e000374000000013274000000016e75",
    ),
    (
        "delete 16384 key (2, null, null)",
        "44000040004b00037400000001326e6e",
    ),
    (
        "update 16391 full (1, é) -> (1, b)",
        "55000040074f00027400000001317400000002c3a94e0002740000000131740000000162",
    ),
    (
        "delete 16391 full (1, b)",
        "44000040074f0002740000000131740000000162",
    ),
    ("ignored", "590000400f7075626c6963006d6f6f6400"),
    ("truncate [16384, 16391]", "5400000002000000400000004007"),
];

#[test]
fn what_postgresql_sent_is_read() {
    for (expected, hex) in RECORDED {
        let digits: Vec<char> = hex.chars().collect();
        let byte =
            |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
        assert_eq!(told(decode(bytes.into()).unwrap()), expected);
    }
}

fn told(message: Message) -> String {
    let row = |tuple: Tuple| {
        let values = tuple.0.iter().map(|value| match value {
            TupleValue::Null => "null".to_owned(),
            TupleValue::Unchanged => "unchanged".to_owned(),
            TupleValue::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            TupleValue::Binary(_) => "binary".to_owned(),
        });
        format!("({})", values.collect::<Vec<_>>().join(", "))
    };
    let before = |old| match old {
        OldTuple::Key(tuple) => format!("key {}", row(tuple)),
        OldTuple::Full(tuple) => format!("full {}", row(tuple)),
    };
    match message {
        Message::Relation(relation) => {
            let star = |column: &Column| if column.key { "*" } else { "" };
            let columns = relation
                .columns
                .iter()
                .map(|c| format!("{}{}", c.name, star(c)));
            let columns = columns.collect::<Vec<_>>().join(" ");
            format!("relation {} {} [{columns}]", relation.id, relation.name)
        }
        Message::Insert { relation, new } => format!("insert {relation} {}", row(new)),
        Message::Update {
            relation,
            old: None,
            new,
        } => format!("update {relation} {}", row(new)),
        Message::Update {
            relation,
            old: Some(old),
            new,
        } => {
            format!("update {relation} {} -> {}", before(old), row(new))
        }
        Message::Delete { relation, old } => format!("delete {relation} {}", before(old)),
        Message::Truncate { relations } => format!("truncate {relations:?}"),
        Message::Ignored => "ignored".to_owned(),
    }
}

#[test]
fn an_error_names_what_was_being_read() {
    let cut = decode(Bytes::from_static(b"I\0\0\x40\x01N\0\x01t\0\0\0\x09short")).unwrap_err();
    assert_eq!(cut.to_string(), "the change stream ended inside a value");
    let empty = decode(Bytes::new()).unwrap_err();
    assert_eq!(
        empty.to_string(),
        "the change stream ended inside a message's type"
    );
    let negative = decode(Bytes::from_static(b"I\0\0\x40\x01N\xff\xff")).unwrap_err();
    assert_eq!(
        negative.to_string(),
        "the change stream has -1 where a row's number of values was expected"
    );
}

#[test]
fn debug_output_shows_no_value() {
    let value = TupleValue::Text(Bytes::from_static(b"secret"));
    assert_eq!(format!("{value:?}"), "Text(6 bytes)");
}
