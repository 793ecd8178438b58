use super::*;
use proptest::prelude::*;

type OwnedRow = Vec<Option<Vec<u8>>>;

fn encode(rows: &[OwnedRow], extension: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend(0_u32.to_be_bytes());
    out.extend(u32::try_from(extension.len()).unwrap().to_be_bytes());
    out.extend(extension);
    for row in rows {
        out.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
        for field in row {
            match field {
                None => out.extend((-1_i32).to_be_bytes()),
                Some(bytes) => {
                    out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    out.extend(bytes);
                }
            }
        }
    }
    out.extend((-1_i16).to_be_bytes());
    out
}

/// Parses `stream` cut at `cuts`.
fn parse(stream: &[u8], cuts: &[usize], columns: usize) -> Result<Vec<OwnedRow>, CopyRowsError> {
    let mut parser = CopyRows::new(columns);
    let mut rows = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        parser.feed(&stream[from..to]);
        while let Some(row) = parser.next_row()? {
            rows.push(
                row.fields()
                    .map(|field| field.map(<[u8]>::to_vec))
                    .collect(),
            );
        }
        from = to;
    }
    parser.finish()?;
    Ok(rows)
}

fn rows() -> impl Strategy<Value = (usize, Vec<OwnedRow>)> {
    (0_usize..5).prop_flat_map(|columns| {
        let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12));
        let row = proptest::collection::vec(field, columns);
        (Just(columns), proptest::collection::vec(row, 0..8))
    })
}

proptest! {
    #[test]
    fn rows_do_not_depend_on_where_the_stream_is_cut(
        (columns, rows) in rows(),
        extension in proptest::collection::vec(any::<u8>(), 0..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let stream = encode(&rows, &extension);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(parse(&stream, &cuts, columns), Ok(rows.clone()));
        let everywhere: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(parse(&stream, &everywhere, columns), Ok(rows));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        body in proptest::collection::vec(any::<u8>(), 0..100),
        at: prop::sample::Index,
        columns in 0_usize..4,
    ) {
        let _ = parse(&body, &[at.index(body.len() + 1)], columns);
        let mut stream = encode(&[], &[]);
        stream.truncate(HEADER_BYTES);
        stream.extend(body);
        let _ = parse(&stream, &[at.index(stream.len())], columns);
    }

    #[test]
    fn a_stream_cut_short_is_refused((columns, rows) in rows(), at: prop::sample::Index) {
        let stream = encode(&rows, &[]);
        let cut = &stream[..at.index(stream.len())];
        prop_assert_eq!(parse(cut, &[], columns), Err(CopyRowsError::Truncated));
    }
}

#[test]
fn bytes_after_the_end_mark_are_refused() {
    let mut stream = encode(&[], &[]);
    stream.push(0);
    let last = stream.len() - 1;
    assert_eq!(parse(&stream, &[], 1), Err(CopyRowsError::Trailing));
    assert_eq!(parse(&stream, &[last], 1), Err(CopyRowsError::Trailing));
}

#[test]
fn a_row_of_another_width_is_refused() {
    let stream = encode(&[vec![None, None]], &[]);
    let error = CopyRowsError::FieldCount {
        expected: 3,
        found: 2,
    };
    assert_eq!(parse(&stream, &[], 3), Err(error));
}

#[test]
fn impossible_lengths_are_refused_before_anything_is_kept() {
    for length in [-2_i32, i32::MIN, i32::MAX] {
        let mut stream = encode(&[], &[]);
        stream.truncate(HEADER_BYTES);
        stream.extend(1_i16.to_be_bytes());
        stream.extend(length.to_be_bytes());
        assert_eq!(
            parse(&stream, &[], 1),
            Err(CopyRowsError::FieldLength { length })
        );
    }
}

#[test]
fn text_copies_and_unknown_formats_are_refused() {
    assert_eq!(parse(b"1\tx\n\\.\n", &[], 2), Err(CopyRowsError::Signature));
    let mut stream = encode(&[], &[]);
    stream[SIGNATURE.len() + 1] = 1;
    let error = CopyRowsError::Header {
        what: "unknown flags",
        value: 1 << 16,
    };
    assert_eq!(parse(&stream, &[], 1), Err(error));
}
