//! Where PostgreSQL's server programs are.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Oldest major version that we work with.
pub(crate) const OLDEST_VERSION: u32 = 14;

/// The directory of PostgreSQL's server programs, or `None` where they are not installed.
///
/// Looked for in this order: the variable `PG_BIN`, `pg_config --bindir`, the highest version below
/// `/usr/lib/postgresql` and `/usr/pgsql-*`, `PATH`. A directory counts where it holds `initdb` and
/// `postgres` of version 14 or later. A `PG_BIN` that is set and holds no server is `None`: nothing
/// else is tried, so that a wrong setting is not passed over in silence.
pub fn find_bindir() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PG_BIN").filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(named)).filter(|dir| is_server(dir));
    }
    from_pg_config()
        .into_iter()
        .chain(from_packages())
        .chain(from_path())
        .find(|dir| is_server(dir))
}

/// The program `name` beside the server's, or else the one on `PATH`.
pub(crate) fn client_program(bindir: &Path, name: &str) -> PathBuf {
    let beside = bindir.join(name);
    if beside.is_file() {
        beside
    } else {
        PathBuf::from(name)
    }
}

/// Major version of the server in `bindir`.
pub(crate) fn major_version(bindir: &Path) -> Result<u32> {
    let output = Command::new(bindir.join("postgres"))
        .arg("--version")
        .output()
        .context("cannot run `postgres --version`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "postgres (PostgreSQL) 15.18 (Debian ...)", "postgres (PostgreSQL) 18beta1"
    let major = text
        .split_whitespace()
        .nth(2)
        .map(|word| word.trim_end_matches(|c: char| !c.is_ascii_digit()))
        .and_then(|word| word.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok());
    match major {
        Some(major) => Ok(major),
        None => bail!("`postgres --version` printed no version"),
    }
}

fn is_server(dir: &Path) -> bool {
    dir.join("initdb").is_file()
        && dir.join("postgres").is_file()
        && major_version(dir).is_ok_and(|major| major >= OLDEST_VERSION)
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim())).filter(|dir| dir.is_absolute())
}

/// Debian's and Red Hat's directories, highest version first.
fn from_packages() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (root, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let version = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .and_then(|digits| digits.parse().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

/// The directories on `PATH`, with links followed: the server's other programs stand beside the
/// real `initdb`, not beside a link to it.
fn from_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(AsRef::<OsStr>::as_ref(&path))
        .filter_map(|dir| fs::canonicalize(dir.join("initdb")).ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_path_buf))
        .collect()
}
