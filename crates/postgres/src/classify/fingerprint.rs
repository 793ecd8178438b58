//! A digest of everything in a schema that two sites must agree upon.

use std::fmt::Write;

use model::table::{Column, HomeSchema, TableName};

use crate::catalog::Catalog;

/// BLAKE3, in hexadecimal, over a canonical text without object ids.
///
/// Columns count in their order: copies and digests take them by place. Constraint names do not
/// count, and neither does who owns what.
pub(super) fn fingerprint(schema: &HomeSchema, catalog: &Catalog) -> String {
    blake3::hash(canonical(schema, catalog).as_bytes())
        .to_hex()
        .to_string()
}

fn canonical(schema: &HomeSchema, catalog: &Catalog) -> String {
    let users = &schema.users;
    let mut text = String::new();
    line(
        &mut text,
        "users",
        &[
            &users.name.sql(),
            &users.key,
            users.kind.sql_type(),
            users.market.as_deref().unwrap_or(""),
        ],
    );
    for table in &schema.owned {
        line(
            &mut text,
            "owned",
            &[&table.name.sql(), &table.key.join("\0")],
        );
        for way in &table.ways {
            for (n, condition) in way.when.iter().enumerate() {
                line(&mut text, "when", &[&condition.sql("t")]);
                let Some(hop) = way.hops.get(n) else {
                    continue;
                };
                let (from, to) = (hop.columns.join("\0"), hop.parent_columns.join("\0"));
                let parent = hop.parent.sql();
                let flags = [flag(hop.enforced), flag(hop.against)];
                line(&mut text, "hop", &[&from, &parent, &to, flags[0], flags[1]]);
            }
            line(&mut text, "way", &[&way.column]);
        }
        columns(&mut text, catalog, &table.name, &table.columns);
    }
    for (name, found) in &schema.references {
        line(&mut text, "reference", &[&name.sql()]);
        columns(&mut text, catalog, name, found);
    }
    let mut keys: Vec<String> = Vec::new();
    for key in &schema.foreign_keys {
        let mut one = String::new();
        line(
            &mut one,
            "foreign key",
            &[
                &key.child.sql(),
                &key.child_columns.join("\0"),
                &key.parent.sql(),
                &key.parent_columns.join("\0"),
                flag(key.match_full),
                flag(key.validated),
            ],
        );
        keys.push(one);
    }
    keys.sort();
    text.extend(keys);
    text
}

fn columns(text: &mut String, catalog: &Catalog, table: &TableName, columns: &[Column]) {
    for column in columns {
        let known = catalog
            .tables
            .get(table)
            .and_then(|table| table.column(&column.name));
        line(
            text,
            "column",
            &[
                &column.name,
                &column.sql_type,
                flag(column.not_null),
                flag(column.identity),
                flag(column.generated),
                known
                    .and_then(|known| known.generation.as_deref())
                    .unwrap_or(""),
                known
                    .and_then(|known| known.definition.as_deref())
                    .unwrap_or(""),
            ],
        );
    }
}

fn flag(set: bool) -> &'static str {
    if set { "yes" } else { "no" }
}

/// Each field with its length, so that no two lists of fields give one text.
fn line(text: &mut String, kind: &str, fields: &[&str]) {
    text.push_str(kind);
    for field in fields {
        write!(text, " {}:{field}", field.len()).expect("writing to a String cannot fail");
    }
    text.push('\n');
}
