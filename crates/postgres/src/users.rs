//! Sets of users in SQL.

use model::table::literal;
use model::{KeyKind, UserKey};

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
