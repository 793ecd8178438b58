//! The short way out: most rows are of users who merely live here, and most changes leave their owner alone.
//!
//! What a call costs is the statements and expressions that it evaluates, each of them once more in every transaction. So
//! the owner and his state are read in one statement, before any other variable is set; whatever is not plainly
//! *settled* goes the long way, which looks again.

use model::table::{HomeSchema, OwnedTable, quote};

use super::{OPEN, Terms, dependants};

/// The block that returns where the row's owner is settled; empty where that alone does not decide. `same_owner` says that
/// an update leaves the owner alone.
pub(super) fn block(
    home: &HomeSchema,
    table: &OwnedTable,
    terms: &Terms<'_>,
    same_owner: &str,
) -> String {
    let [way] = table.ways.as_slice() else {
        return String::new();
    };
    if !way.is_plain() || !dependants::dependants(home, table).is_empty() {
        return String::new();
    }
    let update = format!("TG_OP = 'UPDATE' AND {same_owner}");
    // A user who is created gets his record.
    let concerned = match table.name == home.users.name {
        true => update,
        false => format!("TG_OP = 'INSERT' OR {update}"),
    };
    // As the assignment to a variable of the key's type would have it.
    let owner = format!("{}::{}", way.owner_of("NEW"), home.users.kind.sql_type());
    let (adopted, users) = match (terms.is_origin(), terms.mark) {
        (true, Some(mark)) => (format!("w.o <= {mark}"), String::new()),
        (true, None) => (
            "u.k IS NOT NULL".to_owned(),
            format!(
                " LEFT JOIN (SELECT u.{} AS k FROM {} AS u) AS u ON u.k = w.o",
                quote(&home.users.key),
                home.users.name.sql()
            ),
        ),
        (false, _) => ("false".to_owned(), String::new()),
    };
    let from = match way.hops.is_empty() {
        true => String::new(),
        false => way.beyond("NEW"),
    };
    let while_open = match terms.closes {
        true => format!(" WHERE {OPEN}"),
        false => String::new(),
    };
    format!(
        "IF {concerned} THEN
        SELECT CASE WHEN d.state IS NULL AND {adopted} THEN 'settled' ELSE d.state END INTO standing
            FROM (SELECT {owner} AS o {from}) AS w
            LEFT JOIN domicile.resident AS d ON d.user_key = w.o{users}{while_open};
        IF standing = 'settled' THEN
            RETURN NULL;
        END IF;
    END IF;"
    )
}
