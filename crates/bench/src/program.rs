//! The program under test, as an operator runs it: a child process, watched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cost;

/// How often the memory of a running program is looked at; the kernel keeps the peak.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `domicile`, found beside this program.
#[derive(Clone, Debug)]
pub(crate) struct Domicile {
    path: PathBuf,
    folder: PathBuf,
}

/// A command that runs; ended with SIGKILL when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    began: Instant,
}

/// A command that ended well.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The last line that it printed, where that was JSON.
    pub(crate) last: Value,
    /// From start to end.
    pub(crate) wall: Duration,
    /// Peak of its resident memory.
    pub(crate) peak_mib: f64,
}

// === impl Domicile ===

impl Domicile {
    /// The program, to be run in `folder`.
    ///
    /// # Errors
    /// Where it was not built.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let me = std::env::current_exe().context("cannot find this program")?;
        let path = me.with_file_name("domicile");
        if !path.is_file() {
            bail!(
                "{} is missing: run `cargo build --release -p domicile`",
                path.display()
            );
        }
        Ok(Self {
            path,
            folder: folder.to_owned(),
        })
    }

    /// The program itself, for whoever must start it in another way.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts `domicile ARGS`, a daemon, whose log goes to `log`, or nowhere.
    pub(crate) fn serve(&self, args: &[&str], log: Option<File>) -> Result<Running> {
        self.spawn(
            args,
            Stdio::null(),
            log.map_or_else(Stdio::null, Stdio::from),
        )
    }

    /// Starts `domicile ARGS`.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Running> {
        // What it logs, by DOMICILE_LOG, is for whoever looks on.
        self.spawn(args, Stdio::piped(), Stdio::piped())
    }

    fn spawn(&self, args: &[&str], shown: Stdio, logged: Stdio) -> Result<Running> {
        let child = Command::new(&self.path)
            .current_dir(&self.folder)
            .args(args)
            .stdin(Stdio::null())
            .stdout(shown)
            .stderr(logged)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start domicile")?;
        Ok(Running {
            child,
            began: Instant::now(),
        })
    }

    /// Runs `domicile ARGS` to its end.
    ///
    /// # Errors
    /// Where it exits with anything but 0.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<Ran> {
        self.start(args)?
            .end()
            .await
            .with_context(|| format!("domicile {}", args.join(" ")))
    }
}

// === impl Running ===

impl Running {
    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill domicile")
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Result<Ran> {
        let pid = self.child.id().context("domicile has ended")?;
        let stdout = self.child.stdout.take().context("no standard output")?;
        let mut stderr = self.child.stderr.take().context("no standard error")?;
        // Of all events only the last is wanted: memory stays small while it is measured.
        let reading = async {
            let mut last = String::new();
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await? {
                last = line;
            }
            anyhow::Ok(last)
        };
        let complaining = async {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).await?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let watching = async {
            let mut peak: f64 = 0.0;
            let status: ExitStatus = loop {
                peak = cost::peak_mib(pid).unwrap_or(0.0).max(peak);
                let ended = tokio::time::timeout(LOOK_EVERY, self.child.wait()).await;
                if let Ok(status) = ended {
                    break status?;
                }
            };
            anyhow::Ok((status, self.began.elapsed(), peak))
        };
        let (last, complaint, (status, wall, peak_mib)) =
            tokio::try_join!(reading, complaining, watching)?;
        if !status.success() {
            bail!("{status}: {complaint}{last}");
        }
        eprint!("{complaint}");
        Ok(Ran {
            last: serde_json::from_str(&last).unwrap_or(Value::Null),
            wall,
            peak_mib,
        })
    }
}

// === impl Ran ===

impl Ran {
    /// A number of the summary, such as `rows` or `pause_ms.p99`.
    pub(crate) fn number(&self, path: &str) -> f64 {
        let found = path.split('.').fold(&self.last, |value, name| &value[name]);
        found.as_f64().unwrap_or(0.0)
    }
}
