//! Guesses about catalogs written by hand; Chinook is asked in `tests/inspection`.

use super::*;
use crate::catalog::sample::{points, table};

fn proposed(catalog: &Catalog, name: &str) -> (String, String) {
    let proposal = propose(catalog, "users", None, None).expect("a user table");
    let proposed = &proposal.tables[&TableName::parse(name)];
    (proposed.ownership.to_string(), proposed.why.clone())
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    table(
        &mut catalog,
        "users",
        &[("id", "bigint"), ("locale", "text"), ("region", "text")],
    );
    table(
        &mut catalog,
        "orders",
        &[("id", "bigint"), ("user_id", "bigint")],
    );
    points(&mut catalog, "orders", "user_id", "users");
    catalog
}

#[test]
fn the_likeliest_column_gives_the_market_unless_one_is_given() {
    let guessed = propose(&catalog(), "users", None, None).expect("a user table");
    assert_eq!(guessed.market.as_deref(), Some("region"));
    let given = propose(&catalog(), "users", None, Some("left(locale, 2)")).expect("a user table");
    assert_eq!(given.market.as_deref(), Some("left(locale, 2)"));
}

#[test]
fn a_column_goes_before_a_path_even_if_it_may_be_null() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "lines",
        &[
            ("id", "bigint"),
            ("order_id", "bigint"),
            ("buyer", "bigint?"),
        ],
    );
    points(&mut catalog, "lines", "order_id", "orders");
    points(&mut catalog, "lines", "buyer", "users");
    let (ownership, why) = proposed(&catalog, "lines");
    assert_eq!(ownership, "buyer");
    assert!(why.contains("may be null"), "{why}");
}

#[test]
fn of_two_columns_the_one_that_is_never_null_wins() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "gifts",
        &[("id", "bigint"), ("giver", "bigint"), ("taker", "bigint?")],
    );
    points(&mut catalog, "gifts", "taker", "users");
    points(&mut catalog, "gifts", "giver", "users");
    assert_eq!(proposed(&catalog, "gifts").0, "giver");
}

#[test]
fn a_long_way_that_holds_goes_before_a_short_one_that_may_break() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "lines",
        &[("id", "bigint"), ("order_id", "bigint")],
    );
    points(&mut catalog, "lines", "order_id", "orders");
    table(
        &mut catalog,
        "notes",
        &[
            ("id", "bigint"),
            ("order_id", "bigint?"),
            ("line_id", "bigint"),
        ],
    );
    points(&mut catalog, "notes", "order_id", "orders");
    points(&mut catalog, "notes", "line_id", "lines");
    assert_eq!(proposed(&catalog, "notes").0, "line_id -> lines");
}

#[test]
fn equally_good_ways_are_left_to_a_person_and_so_is_what_hangs_on_nothing() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "trips",
        &[("id", "bigint"), ("user_id", "bigint")],
    );
    points(&mut catalog, "trips", "user_id", "users");
    table(
        &mut catalog,
        "bills",
        &[
            ("id", "bigint"),
            ("order_id", "bigint"),
            ("trip_id", "bigint"),
        ],
    );
    points(&mut catalog, "bills", "order_id", "orders");
    points(&mut catalog, "bills", "trip_id", "trips");
    table(
        &mut catalog,
        "lines",
        &[("id", "bigint"), ("bill_id", "bigint")],
    );
    points(&mut catalog, "lines", "bill_id", "bills");
    let (ownership, why) = proposed(&catalog, "bills");
    assert_eq!(ownership, "?");
    assert!(
        why.contains("\"order_id -> orders\"") && why.contains("\"trip_id -> trips\""),
        "{why}"
    );
    assert_eq!(proposed(&catalog, "lines").0, "bill_id -> bills");

    table(&mut catalog, "tree", &[("id", "bigint"), ("up", "bigint?")]);
    points(&mut catalog, "tree", "up", "tree");
    assert_eq!(proposed(&catalog, "tree").0, "?");
}

#[test]
fn people_whom_users_point_at_are_reference_data() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "employee",
        &[("id", "bigint"), ("boss", "bigint?")],
    );
    points(&mut catalog, "employee", "boss", "employee");
    points(&mut catalog, "users", "country", "employee");
    assert_eq!(proposed(&catalog, "employee").0, "reference");
}

#[test]
fn what_one_row_of_a_user_points_at_is_his() {
    let mut catalog = catalog();
    table(&mut catalog, "address", &[("id", "bigint")]);
    points(&mut catalog, "users", "id", "address");
    let (ownership, why) = proposed(&catalog, "address");
    assert_eq!(ownership, "<- users.id");
    assert!(why.contains("at most"), "{why}");
}

#[test]
fn of_columns_that_may_be_null_the_first_that_is_not_decides() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "deal",
        &[
            ("id", "bigint"),
            ("buyer", "bigint?"),
            ("seller", "bigint?"),
        ],
    );
    points(&mut catalog, "deal", "buyer", "users");
    points(&mut catalog, "deal", "seller", "users");
    assert_eq!(proposed(&catalog, "deal").0, "buyer, else seller");
}

#[test]
fn a_pair_of_type_and_id_is_doubtful_and_shown_how_to_write() {
    let mut catalog = catalog();
    table(
        &mut catalog,
        "remark",
        &[
            ("id", "bigint"),
            ("object_type", "text"),
            ("object_id", "bigint"),
        ],
    );
    let (ownership, why) = proposed(&catalog, "remark");
    assert_eq!(ownership, "?");
    assert!(why.contains("when = \"object_type = '…'\""), "{why}");
}
