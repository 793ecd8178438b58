//! Sets of users in SQL.

use model::table::{HomeSchema, literal, quote};
use model::{KeyKind, Market, UserKey};
use tokio_postgres::GenericClient;

use crate::error::{Doing, Result};

/// The users as an SQL array: for COPY, which takes no parameters. Keys are quoted, whatever they hold.
pub fn array(kind: KeyKind, users: &[UserKey]) -> String {
    let mut inner = String::with_capacity(users.len() * 12 + 2);
    inner.push('{');
    for (n, user) in users.iter().enumerate() {
        if n > 0 {
            inner.push(',');
        }
        inner.push('"');
        inner.push_str(&user.as_str().replace('\\', "\\\\").replace('"', "\\\""));
        inner.push('"');
    }
    inner.push('}');
    format!("{}::{}[]", literal(&inner), kind.sql_type())
}

/// The users as an SQL array given as the first parameter, an array of texts: the same statement for any users.
pub fn parameter(kind: KeyKind) -> String {
    format!("($1::text[]::{}[])", kind.sql_type())
}

/// Whether one of `users` has a user row.
pub async fn any(
    session: &impl GenericClient,
    home: &HomeSchema,
    users: &[UserKey],
) -> Result<bool> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE {} = ANY ({}))",
        home.users.name.sql(),
        quote(&home.users.key),
        array(home.users.kind, users)
    );
    Ok(session
        .query_one(&sql, &[])
        .await
        .doing("looking for user rows")?
        .get(0))
}

/// Those of `users` whose row says that they are of one of `markets`; nobody where the service knows no markets.
pub async fn of_markets(
    session: &impl GenericClient,
    home: &HomeSchema,
    users: &[UserKey],
    markets: &[Market],
) -> Result<Vec<UserKey>> {
    let Some(market) = home.users.market.as_ref().filter(|_| !markets.is_empty()) else {
        return Ok(Vec::new());
    };
    let markets: Vec<&str> = markets.iter().map(Market::as_str).collect();
    let table = quote(&home.users.name.name);
    let sql = format!(
        "SELECT {key}::text FROM {} AS {table} WHERE {key} = ANY ({}) AND ({market})::text = ANY ($1)",
        home.users.name.sql(),
        array(home.users.kind, users),
        key = quote(&home.users.key),
    );
    let rows = session
        .query(&sql, &[&markets])
        .await
        .doing("reading users' markets")?;
    Ok(rows
        .iter()
        .map(|row| UserKey::new(row.get::<_, String>(0)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_quoted_twice() {
        let users = [UserKey::from("a'b"), UserKey::from(r#"c"\d"#)];
        assert_eq!(
            array(KeyKind::Text, &users).trim(),
            r#"E'{"a''b","c\\"\\\\d"}'::text[]"#
        );
    }
}
