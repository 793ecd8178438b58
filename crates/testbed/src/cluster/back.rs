//! A cluster goes back in time: a backup is restored, a standby is promoted.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Cluster, Inner, fresh_dir, run, settings};

/// A base backup of a cluster, gone with this.
#[derive(Debug)]
pub struct Backup(TempDir);

// === impl Cluster ===

impl Cluster {
    /// Makes a base backup with `pg_basebackup`, while the server serves.
    ///
    /// # Errors
    ///
    /// `pg_basebackup`'s own message.
    pub async fn backup(&self) -> Result<Backup> {
        self.blocking(Inner::make_backup).await
    }

    /// Ends the server as a crash would, puts `backup` in the place of its data, and starts it: it is as old as the backup.
    ///
    /// # Errors
    ///
    /// Where the data cannot be replaced or the server does not come up.
    pub async fn restore(&self, backup: &Backup) -> Result<()> {
        let from = backup.0.path().join("data");
        self.blocking(move |inner| {
            inner.stop_immediate()?;
            inner.replace_data(&from)?;
            inner.start_again()
        })
        .await
    }

    /// Kills the server, promotes `standby` in its place, on its port, and returns when it takes writes: it is as old as what had
    /// come to the standby.
    ///
    /// # Errors
    ///
    /// Where the data cannot be taken or the server does not come up.
    pub async fn fail_over(&self, standby: Cluster) -> Result<()> {
        let from = standby.data().to_owned();
        standby.stop_immediate().await?;
        self.kill9().await?;
        self.blocking(move |inner| {
            inner.replace_data(&from)?;
            inner.start_again()
        })
        .await?;
        self.psql("postgres", "SELECT pg_promote()").await?;
        drop(standby);
        Ok(())
    }
}

// === impl Inner ===

impl Inner {
    fn make_backup(&self) -> Result<Backup> {
        let dir = fresh_dir(&format!("{}-backup", self.options.name), self.account)?;
        let mut backup = self.account.command(&self.bindir.join("pg_basebackup"));
        backup
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .args(["-U", "postgres", "-h", "127.0.0.1", "-p"])
            .arg(self.port.to_string())
            .arg("-D")
            .arg(dir.path().join("data"));
        run(&mut backup, "pg_basebackup")?;
        Ok(Backup(dir))
    }

    fn replace_data(&self, from: &Path) -> Result<()> {
        fs::remove_dir_all(&self.data).context("cannot remove the old data")?;
        // With owner and modes.
        let mut copy = Command::new("cp");
        run(copy.arg("-a").arg(from).arg(&self.data), "cp")?;
        // The last word is ours: the port may be another's.
        let conf = self.data.join("postgresql.conf");
        let original = fs::read_to_string(&conf).context("cannot read postgresql.conf")?;
        let settings = original + &settings(&self.options, self.port, self.dir());
        fs::write(&conf, settings).context("cannot write postgresql.conf")
    }
}
