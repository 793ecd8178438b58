//! Under which account PostgreSQL's programs run: they refuse to run as root.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A user and group that the server's programs are started under.
#[derive(Clone, Copy, Debug)]
struct Ids {
    uid: u32,
    gid: u32,
}

/// The account that owns a cluster's files and runs its server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account(Option<Ids>);

impl Account {
    /// Our own account; where that is root, `postgres` if there is such an account, else `nobody`.
    pub(crate) fn choose() -> Result<Account> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account(None));
        }
        for name in ["postgres", "nobody"] {
            if let Some(ids) = look_up(name)? {
                return Ok(Account(Some(ids)));
            }
        }
        bail!(
            "PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody`"
        );
    }

    /// Hands one file or directory (not what is in it) to this account.
    pub(crate) fn give(self, path: &Path) -> Result<()> {
        let Some(Ids { uid, gid }) = self.0 else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).with_context(|| {
            format!(
                "cannot hand {} to the account of the server",
                path.display()
            )
        })
    }

    /// A command that runs `program` under this account, free of the caller's `PG*` variables.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = clean_command(program);
        if let Some(Ids { uid, gid }) = self.0 {
            // The current directory may be closed to that account.
            command.uid(uid).gid(gid).current_dir("/");
        }
        command
    }
}

/// A command without the `PG*` variables, which would steer it to other servers and settings.
pub(crate) fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
    command
}

fn look_up(name: &str) -> Result<Option<Ids>> {
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    Ok(accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Ids { uid, gid })
    }))
}
