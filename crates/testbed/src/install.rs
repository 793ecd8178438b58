//! Getting PostgreSQL's server programs, and Python with what an example wants, where they are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::programs::find_bindir;

/// Installs the programs without the cluster that Debian's package would create and start. The
/// settings file that prevents it is taken away again, so that the machine's owner finds Debian's
/// own defaults.
const INSTALL_WITH_APT: &str = r"
set -e
export DEBIAN_FRONTEND=noninteractive
# Another process may be installing: wait for it.
wait='-o DPkg::Lock::Timeout=300'
apt-get update -qq
apt-get install $wait -y -qq --no-install-recommends postgresql-common
settings=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
if [ ! -e $settings ]; then
    mkdir -p /etc/postgresql-common/createcluster.d
    trap 'rm -f $settings' EXIT
    echo 'create_main_cluster = false' > $settings
fi
apt-get install $wait -y -qq --no-install-recommends postgresql
";

/// Held while we look and install, so that tests that start together install once.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The directory of PostgreSQL's server programs, installing them where they are missing.
///
/// Installs Debian's package `postgresql` with apt-get, as root or through `sudo -n`, and says so
/// on standard error; no cluster is created or started by that. Blocks for as long as that takes.
///
/// # Errors
///
/// One line that names the mend, where `PG_BIN` is wrong, or where we may not or cannot install.
pub fn ensure_postgres_installed() -> Result<PathBuf> {
    // It guards nothing in memory that a panic could have broken.
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bindir) = find_bindir() {
        return Ok(bindir);
    }
    if let Some(named) = std::env::var_os("PG_BIN").filter(|value| !value.is_empty()) {
        bail!(
            "PG_BIN={} holds no PostgreSQL server of version 14 or later: correct it or unset it",
            Path::new(&named).display()
        );
    }
    if !Path::new("/usr/bin/apt-get").is_file() {
        bail!(
            "PostgreSQL's server programs (14 or later) are missing: install them, or set PG_BIN to their directory"
        );
    }
    let Some(shell) = shell_of_root() else {
        bail!(
            "PostgreSQL's server programs (14 or later) are missing: run `sudo apt-get install postgresql`, or set PG_BIN to their directory"
        );
    };
    eprintln!(
        "PostgreSQL's server programs are missing: installing Debian's package `postgresql` with apt-get (no cluster is created) ..."
    );
    if let Err(why) = run(shell, INSTALL_WITH_APT) {
        bail!("apt-get could not install `postgresql` ({why}): install it by hand, or set PG_BIN");
    }
    let bindir = find_bindir().context(
        "apt-get installed `postgresql`, but no server of version 14 or later is to be found: set PG_BIN to its directory",
    )?;
    eprintln!("installed PostgreSQL in {}", bindir.display());
    Ok(bindir)
}

/// A Python that has Flask and psycopg 3, installing Debian's packages of them where there is none, as
/// [`ensure_postgres_installed`] does.
///
/// # Errors
///
/// One line that names the mend, where we may not or cannot install.
pub fn ensure_flask_installed() -> Result<PathBuf> {
    const PACKAGES: &str = "python3-flask python3-psycopg";
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(python) = find_flask() {
        return Ok(python);
    }
    let shell = match Path::new("/usr/bin/apt-get").is_file() {
        true => shell_of_root(),
        false => None,
    };
    let Some(shell) = shell else {
        bail!("no Python has Flask and psycopg 3: install them (Debian: {PACKAGES})");
    };
    eprintln!("no Python has Flask and psycopg 3: installing Debian's packages {PACKAGES} ...");
    let script = format!(
        "set -e; export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
         apt-get install -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends {PACKAGES}"
    );
    if let Err(why) = run(shell, &script) {
        bail!("apt-get could not install {PACKAGES} ({why}): install them by hand");
    }
    find_flask().with_context(|| {
        format!("apt-get installed {PACKAGES}, but no Python has Flask and psycopg 3")
    })
}

/// The first Python that has both: the one on the path may be somebody's own, Debian's has Debian's packages.
fn find_flask() -> Option<PathBuf> {
    let pythons = ["python3", "/usr/bin/python3"];
    let found = pythons.into_iter().find(|python| {
        Command::new(python)
            .args(["-c", "import flask, psycopg"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    found.map(PathBuf::from)
}

/// A shell that may install packages.
fn shell_of_root() -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        return Some(Command::new("sh"));
    }
    may_sudo().then(|| {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    })
}

/// Runs a script; its last complaint where it fails.
fn run(mut shell: Command, script: &str) -> Result<()> {
    let output = shell
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().last().unwrap_or("no message"));
    }
    Ok(())
}

fn may_sudo() -> bool {
    Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
