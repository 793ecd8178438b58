use super::*;
use proptest::prelude::*;

type OwnedRow = Vec<Option<Vec<u8>>>;

fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn digest(rows: &[OwnedRow]) -> TableDigest {
    digest_of("invoice", &key(), rows)
}

fn digest_of(table: &str, key: &DigestKey, rows: &[OwnedRow]) -> TableDigest {
    let mut hasher = RowHasher::new(key, table);
    let mut digest = TableDigest::default();
    for row in rows {
        digest.add(&hasher.hash(row.iter().map(Option::as_deref)));
    }
    digest
}

fn row(values: &[&str]) -> OwnedRow {
    values
        .iter()
        .map(|value| Some(value.as_bytes().to_vec()))
        .collect()
}

/// Rows with many equal values, so that swaps, moves and duplicates are likely to collide if they can.
fn rows() -> impl Strategy<Value = Vec<OwnedRow>> {
    let field = proptest::option::of(proptest::collection::vec(0_u8..3, 0..4));
    proptest::collection::vec(proptest::collection::vec(field, 3), 1..8)
}

fn sorted(rows: &[OwnedRow]) -> Vec<OwnedRow> {
    let mut rows = rows.to_vec();
    rows.sort();
    rows
}

proptest! {
    #[test]
    fn digests_are_equal_exactly_when_the_multisets_are(a in rows(), b in rows()) {
        prop_assert_eq!(digest(&a) == digest(&b), sorted(&a) == sorted(&b));
    }

    #[test]
    fn the_order_of_rows_does_not_matter(rows in rows().prop_shuffle(), cut: prop::sample::Index) {
        let mut turned = rows.clone();
        turned.rotate_left(cut.index(rows.len()));
        turned.reverse();
        prop_assert_eq!(digest(&rows), digest(&turned));
    }

    #[test]
    fn duplicates_do_not_cancel_out(rows in rows(), extra in rows(), times in 1_usize..5) {
        let mut more = rows.clone();
        for _ in 0..2 * times {
            more.extend(extra.clone());
        }
        prop_assert_ne!(digest(&more).sum, digest(&rows).sum);
    }

    #[test]
    fn two_rows_that_swap_a_value_are_noticed(rows in rows(), a: prop::sample::Index, b: prop::sample::Index, column in 0_usize..3) {
        let (a, b) = (a.index(rows.len()), b.index(rows.len()));
        let mut swapped = rows.clone();
        swapped[a][column] = rows[b][column].clone();
        swapped[b][column] = rows[a][column].clone();
        prop_assert_eq!(digest(&rows) == digest(&swapped), sorted(&rows) == sorted(&swapped));
    }

    #[test]
    fn a_value_that_moves_to_another_column_is_noticed(rows in rows(), at: prop::sample::Index) {
        let mut moved = rows.clone();
        moved[at.index(rows.len())].rotate_left(1);
        prop_assert_eq!(digest(&rows) == digest(&moved), sorted(&rows) == sorted(&moved));
    }

    #[test]
    fn parts_merge_to_the_whole(a in rows(), b in rows()) {
        let mut merged = digest(&a);
        merged.merge(&digest(&b));
        prop_assert_eq!(merged, digest(&[a, b].concat()));
    }

    #[test]
    fn a_removed_row_leaves_no_trace(rows in rows(), at: prop::sample::Index) {
        let mut left = rows.clone();
        let gone = left.remove(at.index(rows.len()));
        let mut removed = digest(&rows);
        let mut hasher = RowHasher::new(&key(), "invoice");
        removed.remove(&hasher.hash(gone.iter().map(Option::as_deref)));
        prop_assert_eq!(removed, digest(&left));
    }

    #[test]
    fn addition_is_that_of_whole_numbers(a: [u64; 4], b: [u64; 4]) {
        let number = |limbs: [u64; 4]| {
            let mut bytes = [0; 32];
            for (chunk, limb) in bytes.chunks_exact_mut(8).zip(limbs) {
                chunk.copy_from_slice(&limb.to_le_bytes());
            }
            Hash256(bytes)
        };
        let mut sum = [0; 4];
        let mut carry = false;
        for (out, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            let (low, over) = a.overflowing_add(b);
            let (low, over_again) = low.overflowing_add(carry.into());
            *out = low;
            carry = over || over_again;
        }
        prop_assert_eq!(number(a).plus(number(b)), number(sum));
        prop_assert_eq!(number(a).plus(number(a).negated()), Hash256::default());
    }

    #[test]
    fn a_digest_survives_json(rows in rows()) {
        let digest = BatchDigest { tables: [("invoice".to_owned(), digest(&rows))].into() };
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<BatchDigest>(&json).unwrap(), digest);
    }
}

#[test]
fn ten_thousand_ways_to_damage_a_table_are_all_noticed() {
    // Distinct rows, so that every mutation below truly changes the multiset.
    let rows: Vec<OwnedRow> = (0..10_u32)
        .map(|n| {
            vec![
                Some(n.to_be_bytes().to_vec()),
                Some(vec![n as u8; 25]),
                None,
            ]
        })
        .collect();
    let whole = digest(&rows);
    let mut noticed = 0;
    for case in 0..10_000_usize {
        let mut damaged = rows.clone();
        let (at, turn) = (case / 5 % 10, case / 50);
        match case % 5 {
            0 => {
                let bit = turn % 200;
                damaged[at][1].as_mut().unwrap()[bit / 8] ^= 1 << (bit % 8);
            }
            1 => drop(damaged.remove(at)),
            2 => damaged.push(rows[at].clone()),
            3 => {
                let other = (at + 1 + turn % 9) % 10;
                damaged[at][1] = rows[other][1].clone();
                damaged[other][1] = rows[at][1].clone();
            }
            _ => {
                let owner = u32::try_from(1000 + turn).unwrap();
                damaged[at][0] = Some(owner.to_be_bytes().to_vec());
            }
        }
        noticed += usize::from(digest(&damaged) != whole);
    }
    assert_eq!(noticed, 10_000);
}

#[test]
fn null_is_not_the_empty_value() {
    assert_ne!(digest(&[vec![None]]), digest(&[vec![Some(Vec::new())]]));
}

#[test]
fn bytes_do_not_flow_from_one_column_into_the_next() {
    assert_ne!(digest(&[row(&["ab", "c"])]), digest(&[row(&["a", "bc"])]));
    assert_ne!(digest(&[row(&["a"])]), digest(&[row(&["a", ""])]));
}

#[test]
fn a_row_counts_for_its_own_table_and_key_only() {
    let rows = [row(&["1"])];
    assert_ne!(digest_of("a", &key(), &rows), digest_of("b", &key(), &rows));
    let other_key = DigestKey::new([8; 32]);
    assert_ne!(
        digest_of("a", &key(), &rows),
        digest_of("a", &other_key, &rows)
    );
}

#[test]
fn the_differing_tables_are_named() {
    let batch = |tables: &[(&str, &[&str])]| BatchDigest {
        tables: tables
            .iter()
            .map(|(name, values)| ((*name).to_owned(), digest(&[row(values)])))
            .collect(),
    };
    let source = batch(&[("a", &["1"]), ("b", &["2"]), ("c", &["3"])]);
    let target = batch(&[("a", &["1"]), ("b", &["9"]), ("d", &["4"])]);
    assert_eq!(source.differing_tables(&target), ["b", "c", "d"]);
    assert_eq!(source.differing_tables(&source), [""; 0]);
    assert_eq!(source.rows(), 3);
}

#[test]
fn the_key_is_not_shown() {
    assert_eq!(format!("{:?}", key()), "DigestKey(…)");
    assert_eq!(
        format!("{:?}", RowHasher::new(&key(), "invoice")),
        "RowHasher(…)"
    );
}

#[test]
#[cfg(feature = "planted-faults")]
fn xor_would_let_duplicates_cancel_out() {
    fault::plant(Some(Bug::DigestXor));
    // One row doubled, another lost its double: the counts agree, the contents do not.
    let a = digest(&[row(&["1"]), row(&["1"]), row(&["3"])]);
    let b = digest(&[row(&["2"]), row(&["2"]), row(&["3"])]);
    fault::plant(None);
    assert_eq!(a, b, "the planted bug is blind to this");
    let a = digest(&[row(&["1"]), row(&["1"]), row(&["3"])]);
    let b = digest(&[row(&["2"]), row(&["2"]), row(&["3"])]);
    assert_ne!(a, b);
}
