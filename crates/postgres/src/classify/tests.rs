//! Declarations against catalogs written by hand; the real ones are asked in `tests/inspection`.

use super::*;
use crate::catalog::sample::{points, table};

fn shop() -> Catalog {
    let mut catalog = Catalog {
        server_version: 150_000,
        ..Catalog::default()
    };
    table(
        &mut catalog,
        "users",
        &[("id", "bigint"), ("mail", "text"), ("land", "text?")],
    );
    table(
        &mut catalog,
        "orders",
        &[("id", "bigint"), ("user_id", "integer?")],
    );
    table(
        &mut catalog,
        "lines",
        &[
            ("id", "bigint"),
            ("order_id", "bigint"),
            ("goods", "bigint"),
        ],
    );
    table(&mut catalog, "goods", &[("id", "bigint"), ("name", "text")]);
    points(&mut catalog, "orders", "user_id", "users");
    points(&mut catalog, "lines", "order_id", "orders");
    points(&mut catalog, "lines", "goods", "goods");
    catalog
}

fn declare(tables: &[(&str, &str)]) -> Declared {
    let parse = |text: &str| Ownership::parse(text).expect("a classification");
    Declared {
        user_table: "users".to_owned(),
        key: "id".to_owned(),
        market: Some("land".to_owned()),
        tables: tables
            .iter()
            .map(|(name, text)| ((*name).to_owned(), parse(text)))
            .collect(),
    }
}

const SHOP: &[(&str, &str)] = &[
    ("orders", "user_id"),
    ("lines", "order_id -> orders"),
    ("goods", "reference"),
];

fn mistakes(catalog: &Catalog, tables: &[(&str, &str)]) -> Vec<ClassifyError> {
    classify(catalog, &declare(tables)).expect_err("mistakes")
}

#[test]
fn a_path_to_the_users_key_is_the_column_itself() {
    let mut tables = SHOP.to_vec();
    tables[0] = ("orders", "user_id -> users");
    let by_path = classify(&shop(), &declare(&tables)).expect("no mistakes");
    let by_column = classify(&shop(), &declare(SHOP)).expect("no mistakes");
    assert_eq!(by_path, by_column);
    assert_eq!(by_path.owned.len(), 3);
    assert_eq!(by_path.users.market.as_deref(), Some("\"land\""));
}

#[test]
fn the_fingerprint_knows_nothing_of_object_ids_and_names_of_constraints() {
    let print = |catalog: &Catalog| {
        classify(catalog, &declare(SHOP))
            .expect("no mistakes")
            .fingerprint
    };
    let one = print(&shop());
    let mut other = shop();
    for table in other.tables.values_mut() {
        table.oid += 77;
        table.owner = "somebody".to_owned();
    }
    other.foreign_keys.reverse();
    other.foreign_keys[0].name = "another".to_owned();
    assert_eq!(one, print(&other));

    let changes: [fn(&mut Catalog); 5] = [
        |c| c.foreign_keys[0].validated = false,
        |c| drop(c.foreign_keys.pop()),
        |c| column(c, "goods", 1).column.sql_type = "name".to_owned(),
        |c| column(c, "orders", 1).column.not_null = true,
        |c| column(c, "users", 2).definition = Some("'CN'".to_owned()),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = shop();
        change(&mut changed);
        assert_ne!(one, print(&changed), "change {n}");
    }
}

fn column<'a>(catalog: &'a mut Catalog, table: &str, place: usize) -> &'a mut TableColumn {
    let table = catalog
        .tables
        .get_mut(&TableName::parse(table))
        .expect("in the sample");
    &mut table.columns[place]
}

#[test]
fn a_circle_is_found_and_nobody_walks_it_for_ever() {
    let mut catalog = shop();
    points(&mut catalog, "orders", "user_id", "lines");
    let found = mistakes(
        &catalog,
        &[("orders", "user_id -> lines"), SHOP[1], SHOP[2]],
    );
    let circles = found
        .iter()
        .filter(|error| matches!(error, ClassifyError::Cycle { .. }));
    assert_eq!(circles.count(), 2, "{found:#?}");
}

#[test]
fn a_way_without_a_foreign_key_leads_to_the_primary_key_or_nowhere() {
    let mut catalog = shop();
    catalog.foreign_keys.remove(1);
    let home = classify(&catalog, &declare(SHOP)).expect("the types fit");
    assert!(!home.owned[2].ways[0].hops[0].enforced);
    column(&mut catalog, "lines", 1).base_type = "date".to_owned();
    assert!(matches!(
        mistakes(&catalog, SHOP)[..],
        [ClassifyError::NoWay { .. }]
    ));
}

#[test]
fn a_user_key_that_cannot_be_one_is_refused() {
    let key = |change: fn(&mut TableColumn)| {
        let mut catalog = shop();
        change(column(&mut catalog, "users", 0));
        mistakes(&catalog, SHOP)
    };
    let unsupported =
        |errors: Vec<ClassifyError>| matches!(errors[..], [ClassifyError::UnsupportedKey { .. }]);
    assert!(unsupported(key(
        |column| column.base_type = "numeric".to_owned()
    )));
    assert!(unsupported(key(
        |column| column.base_type = "character".to_owned()
    )));
    let loose = key(|column| column.loose_collation = true);
    assert!(matches!(loose[..], [ClassifyError::LooseKey { .. }]));
    let nullable = key(|column| column.column.not_null = false);
    assert!(matches!(nullable[..], [ClassifyError::KeyNotUnique { .. }]));
    let differ = key(|column| column.base_type = "uuid".to_owned());
    assert!(matches!(differ[..], [ClassifyError::KeyTypesDiffer { .. }]));
}

#[test]
fn keyless_and_doubly_named_tables_are_refused() {
    let mut catalog = shop();
    catalog
        .tables
        .get_mut(&TableName::parse("lines"))
        .expect("there")
        .key
        .clear();
    let tables = [SHOP, &[("public.goods", "ignore"), ("users", "mail")]].concat();
    let found = mistakes(&catalog, &tables);
    let table = TableName::parse;
    assert_eq!(
        found,
        [
            ClassifyError::NoKey {
                table: table("lines")
            },
            ClassifyError::DeclaredTwice {
                table: table("goods")
            },
            ClassifyError::KeyTypesDiffer {
                table: table("users"),
                column: "mail".into(),
                found: "text".into(),
                wanted: "bigint".into()
            },
        ]
    );
}
