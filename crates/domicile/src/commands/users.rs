//! `--users FILE|ID,...`: the keys of users.

use std::collections::BTreeSet;
use std::path::Path;

use model::UserKey;

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
        false => text.split(',').map(|key| key.trim().to_owned()).collect(),
    };
    let mut seen = BTreeSet::new();
    let keys: Vec<_> = keys
        .into_iter()
        .filter(|key| !key.is_empty() && seen.insert(key.clone()))
        .map(UserKey::new)
        .collect();
    match keys.is_empty() {
        true => Err(Failure::usage("--users names nobody")),
        false => Ok(keys),
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
    fn nobody_is_wrong_use() {
        assert_eq!(read(" , ").unwrap_err().exit, Exit::Usage);
    }
}
