//! `--users FILE|ID,...`: the keys of users.

use std::collections::BTreeSet;
use std::path::Path;

use model::{KeyKind, UserKey};

use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Reads the keys: from the file of that name, one a line, if there is one; else the text is the keys,
/// with commas between. Each key once, in the order of the text.
pub fn read(text: &str) -> Outcome<Vec<UserKey>> {
    let path = Path::new(text);
    let keys: Vec<String> = match path.is_file() {
        true => {
            let content = std::fs::read_to_string(path).or_fail(Exit::Usage, || {
                format!("cannot read the users' keys from {text}")
            })?;
            content.lines().map(|line| line.trim().to_owned()).collect()
        }
        // No key of ours, and a path that leads nowhere is a slip of the pen.
        false if text.contains('/') => {
            return Err(
                Failure::usage(format_args!("--users: there is no file {text}"))
                    .mend("name a file with one key a line, or the keys with commas between"),
            );
        }
        false => text.split(',').map(|key| key.trim().to_owned()).collect(),
    };
    let mut seen = BTreeSet::new();
    let keys: Vec<_> = keys
        .into_iter()
        .filter(|key| !key.is_empty() && seen.insert(key.clone()))
        .map(UserKey::new)
        .collect();
    match keys.is_empty() {
        true => Err(Failure::usage(format_args!("--users {text} names nobody"))
            .mend("name a file with one key a line, or the keys with commas between")),
        false => Ok(keys),
    }
}

/// The key as the databases write it, whatever its spelling (`007`, a uuid in capitals); `None`: nobody of such a
/// service can have it.
pub fn canonical(kind: KeyKind, key: &UserKey) -> Option<UserKey> {
    let text = key.as_str();
    if !kind.accepts(text) {
        return None;
    }
    match kind {
        KeyKind::Integer => text
            .parse::<i64>()
            .ok()
            .map(|n| UserKey::new(n.to_string())),
        KeyKind::Uuid => uuid::Uuid::try_parse(&text.replace('-', ""))
            .ok()
            .map(|uuid| UserKey::new(uuid.to_string())),
        KeyKind::Text => Some(key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        read(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn keys_stand_between_commas_or_in_the_lines_of_a_file() {
        assert_eq!(keys("3, 1,3,"), ["3", "1"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        std::fs::write(&file, "5\r\n\n6, with a comma\n5\n").unwrap();
        assert_eq!(keys(file.to_str().unwrap()), ["5", "6, with a comma"]);
    }

    #[test]
    fn a_key_is_read_in_every_spelling() {
        let canonical = |kind, key: &str| canonical(kind, &key.into()).map(|key| key.to_string());
        assert_eq!(canonical(KeyKind::Integer, "+007").as_deref(), Some("7"));
        assert_eq!(canonical(KeyKind::Integer, "seven"), None);
        assert_eq!(canonical(KeyKind::Text, " 7").as_deref(), Some(" 7"));
        let uuid = canonical(KeyKind::Uuid, "6F9619FF8B86D011B42D00C04FC964FF");
        assert_eq!(
            uuid.as_deref(),
            Some("6f9619ff-8b86-d011-b42d-00c04fc964ff")
        );
    }

    #[test]
    fn nobody_is_wrong_use() {
        assert_eq!(read(" , ").unwrap_err().exit, Exit::Usage);
    }
}
