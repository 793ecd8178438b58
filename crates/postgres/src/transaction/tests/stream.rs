use super::*;

#[test]
fn fences_are_marked_and_other_messages_passed_over() {
    let loose = Event::Message {
        transactional: false,
        prefix: ROW_PREFIX.to_owned(),
        content: Bytes::from_static(b"not even JSON"),
    };
    let transaction = Session::new().commit(vec![
        message(BEAT_PREFIX, "now"),
        message("another.program", [0xff]),
        loose,
        message(FENCE_PREFIX, "batch-17"),
    ]);
    assert_eq!(transaction.marks, [Mark::Fence("batch-17".to_owned())]);
    assert!(is_clean(&transaction));
}

#[test]
fn truncated_tables_are_told() {
    let truncate = Event::Row(Message::Truncate {
        relations: vec![INVOICE, LINE],
    });
    assert_eq!(
        Session::new().commit(vec![truncate]).truncated,
        [INVOICE, LINE]
    );
}

#[test]
fn a_large_transaction_of_users_who_stay_passes_in_bounded_memory() {
    let mut session = Session::with(HashMap::new(), 2000, ReplicaIdentity::Default);
    session.0.feed(begin()).unwrap();
    for id in 0..1000 {
        session.0.feed(insert(INVOICE, &id.to_string())).unwrap();
        assert!(session.0.bytes() <= 2000);
    }
    let transaction = session.0.feed(end()).unwrap().unwrap();
    assert!(transaction.changes.is_empty());
    assert!(is_clean(&transaction));
    // And the next one is whole again.
    let next = session.commit(vec![insert(INVOICE, "1"), owned(INVOICE, "1", "ann")]);
    assert_eq!(next.changes.len(), 1);
}

#[test]
fn a_large_transaction_of_moving_users_names_them_for_a_fresh_copy() {
    let mut session = Session::with(HashMap::new(), 2000, ReplicaIdentity::Default);
    let mut events: Vec<Event> = (0..100)
        .map(|id| insert(INVOICE, &id.to_string()))
        .collect();
    events.extend([owned(INVOICE, "7", "bob"), owned(INVOICE, "9", "ann")]);
    let transaction = session.commit(events);
    assert!(transaction.changes.is_empty());
    assert!(transaction.unresolved.is_empty());
    assert_eq!(
        transaction.oversized,
        [("ann".to_owned(), 1), ("bob".to_owned(), 1)]
    );

    let messages = (0..100)
        .map(|id| owned(INVOICE, &id.to_string(), "ann"))
        .collect();
    let error = session.try_commit(messages).unwrap_err();
    assert_eq!(error, AssembleError::TooLarge { bytes_max: 2000 });
}

#[test]
fn a_stream_out_of_order_is_refused() {
    let refused = |events: Vec<Event>| {
        let mut session = Session::new();
        let mut results = events.into_iter().map(|event| session.0.feed(event));
        results.any(|result| matches!(result, Err(AssembleError::OutOfOrder { .. })))
    };
    assert!(refused(vec![end()]));
    assert!(refused(vec![insert(INVOICE, "1")]));
    assert!(refused(vec![begin(), begin()]));
    assert!(refused(vec![
        begin(),
        Event::Commit {
            lsn: Lsn(51),
            end_lsn: Lsn(60)
        }
    ]));
    assert!(refused(vec![message(FENCE_PREFIX, "b")]));
    assert!(refused(vec![owned(INVOICE, "1", "ann")]));
}

#[test]
fn rows_that_do_not_fit_their_table_are_refused() {
    let error = Session::new()
        .try_commit(vec![insert(999, "1")])
        .unwrap_err();
    assert_eq!(error, AssembleError::UnknownRelation { table: 999 });

    let narrow = Message::Insert {
        relation: LINE,
        new: Tuple(vec![text("1")]),
    };
    let error = Session::new()
        .try_commit(vec![Event::Row(narrow)])
        .unwrap_err();
    assert_eq!(
        error,
        AssembleError::RowWidth {
            table: LINE,
            expected: 2,
            found: 1
        }
    );

    let keyless = OldTuple::Key(Tuple(vec![TupleValue::Null, TupleValue::Null]));
    let keyless = Event::Row(Message::Delete {
        relation: LINE,
        old: keyless,
    });
    let error = Session::new().try_commit(vec![keyless]).unwrap_err();
    assert_eq!(error, AssembleError::RowKey { table: LINE });

    let keys = HashMap::from([(LINE, vec!["number".to_owned()])]);
    let described = Message::Relation(relation(LINE, "invoice_line", ReplicaIdentity::Default));
    let error = Assembler::new(keys, BYTES_MAX)
        .feed(Event::Row(described))
        .unwrap_err();
    assert_eq!(
        error,
        AssembleError::KeyColumn {
            table: LINE,
            column: "number".to_owned()
        }
    );
}

#[test]
fn malformed_messages_are_refused_without_showing_them() {
    for content in [
        "",
        "{}",
        "[]",
        r#"{"t":1,"k":["secret"],"u":7}"#,
        r#"{"t":-1,"k":[]}"#,
    ] {
        let error = Session::new()
            .try_commit(vec![message(ROW_PREFIX, content)])
            .unwrap_err();
        assert!(
            matches!(
                error,
                AssembleError::Malformed {
                    prefix: ROW_PREFIX,
                    ..
                }
            ),
            "{content}"
        );
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
    let error = Session::new()
        .try_commit(vec![message(FENCE_PREFIX, [0xff])])
        .unwrap_err();
    assert_eq!(
        error,
        AssembleError::Malformed {
            prefix: FENCE_PREFIX,
            at: 0
        }
    );
}

mod where_messages_stand {
    use super::*;
    use proptest::prelude::*;

    /// One row change with what the guard says of it: owners go by key, line n hangs on invoice n.
    fn step() -> impl Strategy<Value = (Event, Option<Event>)> {
        (0..3, prop::bool::ANY, 0..6_usize).prop_map(|(what, line, id)| {
            let table = if line { LINE } else { INVOICE };
            let name = id.to_string();
            let row = match what {
                0 => insert(table, &name),
                1 => update(table, &name),
                _ => delete(table, &name),
            };
            let user = ["ann", "bob", "settled"][id % 3];
            let said = match (user, line) {
                ("settled", false) => None,
                (_, true) => Some(child(LINE, &name, INVOICE, &name)),
                (_, false) => Some(owned(INVOICE, &name, user)),
            };
            (row, said)
        })
    }

    proptest! {
        #[test]
        fn does_not_matter(
            steps in proptest::collection::vec(step(), 0..12),
            places in proptest::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            // Every invoice is in the transaction, so that every line finds its owner.
            let invoices = (0..6_usize).map(|id| {
                let name = id.to_string();
                let user = ["ann", "bob", "settled"][id % 3];
                let said = (user != "settled").then(|| owned(INVOICE, &name, user));
                (insert(INVOICE, &name), said)
            });
            let (rows, said): (Vec<Event>, Vec<Option<Event>>) = invoices.chain(steps).unzip();
            let mut expected = Vec::new();
            for event in &rows {
                let Event::Row(
                    Message::Insert { new: Tuple(values), .. }
                    | Message::Update { new: Tuple(values), .. }
                    | Message::Delete { old: OldTuple::Key(Tuple(values)), .. },
                ) = event else { unreachable!("only rows of these kinds are made") };
                let id = usize::from(values[0].data().unwrap()[0] - b'0');
                if id % 3 < 2 {
                    expected.push((id.to_string(), ["ann", "bob"][id % 3]));
                }
            }
            let mut events = rows;
            for (said, place) in said.into_iter().flatten().zip(&places) {
                events.insert(place.index(events.len() + 1), said);
            }
            let transaction = Session::new().commit(events);
            prop_assert!(is_clean(&transaction));
            let got = told(&transaction).into_iter().map(|(_, _, id, user)| (id, user));
            prop_assert_eq!(got.collect::<Vec<_>>(), expected);
        }
    }
}
