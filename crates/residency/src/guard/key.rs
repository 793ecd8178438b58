//! Keys of rows as the guard's messages have them: each value as the change stream prints it.

use model::table::{OwnedTable, quote};

/// The key's values as an SQL array in JSON.
pub(super) fn array(table: &OwnedTable, row: &str, columns: &[String]) -> String {
    let values = columns.iter().map(|column| {
        let value = format!("{row}.{}", quote(column));
        // format() prints as the stream does. A cast is cheaper, but prints boolean in words and drops the
        // padding of char(n); so it is for types alone where it is known to be the same.
        if sql_type(table, column).is_some_and(casts_as_printed) {
            format!("{value}::text")
        } else {
            format!("CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END")
        }
    });
    format!(
        "jsonb_build_array({})",
        values.collect::<Vec<_>>().join(", ")
    )
}

/// Settings under which these columns print as in the change stream, where the text form of any depends on them.
/// They cost a little at every call, so they are left out for integers, texts and uuids.
pub(super) fn settings(mut printed: impl Iterator<Item = String>) -> &'static str {
    let is_plain = |t: String| {
        casts_as_printed(&t) || t == "boolean" || t == "character" || t.starts_with("character(")
    };
    if printed.all(is_plain) {
        ""
    } else {
        "
    SET \"DateStyle\" = 'ISO, MDY' SET \"TimeZone\" = 'UTC' SET \"IntervalStyle\" = 'postgres'
    SET extra_float_digits = 3 SET bytea_output = 'hex'"
    }
}

pub(super) fn sql_type<'a>(table: &'a OwnedTable, column: &str) -> Option<&'a str> {
    table
        .columns
        .iter()
        .find(|c| c.name == column)
        .map(|c| c.sql_type.as_str())
}

/// Whether a value of this type, cast to text, reads as its output function prints it.
fn casts_as_printed(sql_type: &str) -> bool {
    ["smallint", "integer", "bigint", "uuid", "text", "numeric"].contains(&sql_type)
        || sql_type.starts_with("numeric(")
        || sql_type.starts_with("character varying")
}
