//! A data directory made once and copied for each cluster: `initdb` takes over a second, a copy a
//! tenth of one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::account::Account;
use crate::programs::major_version;

/// A freshly initialised data directory; removed with the last cluster that was made from it, so
/// that a process that ends in good order leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Template {
    dir: TempDir,
}

/// Held while `initdb` runs, so that tests that start together make one template.
static CURRENT: Mutex<Weak<Template>> = Mutex::new(Weak::new());

impl Template {
    /// The template of this process, made now where no cluster holds one.
    pub(crate) fn shared(bindir: &Path, account: Account) -> Result<Arc<Template>> {
        // A poisoned lock means that another test panicked in initdb; the weak reference is sound.
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = current.upgrade() {
            return Ok(template);
        }
        let template = Arc::new(Template::make(bindir, account)?);
        *current = Arc::downgrade(&template);
        Ok(template)
    }

    fn make(bindir: &Path, account: Account) -> Result<Template> {
        let dir = tempfile::Builder::new()
            .prefix("testbed-template-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        account.give(dir.path())?;
        let mut initdb = account.command(&bindir.join("initdb"));
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            // The template may be lost with the machine; clusters sync their own copy as they run.
            "--no-sync",
        ]);
        // PostgreSQL 18 turned checksums on; take them everywhere, they catch a torn copy.
        if major_version(bindir)? < 18 {
            initdb.arg("--data-checksums");
        }
        initdb.arg("-D").arg(data_dir(dir.path()));
        run(&mut initdb, "initdb")?;
        Ok(Template { dir })
    }

    /// Copies the template to the data directory of `cluster_dir`, owners and modes included.
    pub(crate) fn copy_to(&self, cluster_dir: &Path) -> Result<PathBuf> {
        let data = data_dir(cluster_dir);
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(data_dir(self.dir.path())).arg(&data);
        run(&mut copy, "copying the template")?;
        Ok(data)
    }
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
///
/// Where it cannot be started or fails; the error carries what it wrote to standard error.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{what} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
