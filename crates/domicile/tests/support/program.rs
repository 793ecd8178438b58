//! The program as people run it: a child process, with what a test plants in its environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

/// Longer than any command takes here: a program that hangs fails the test, and is ended.
const LONGEST: Duration = Duration::from_secs(150);

/// A link to the program as it was when the tests began: a build that runs beside them, perhaps with other
/// features, puts another one in its place.
fn linked() -> &'static Path {
    static LINKED: OnceLock<PathBuf> = OnceLock::new();
    LINKED.get_or_init(|| {
        let name = concat!("domicile-", env!("CARGO_CRATE_NAME"));
        let link = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // The one of an earlier run, if there is one.
        let _ = std::fs::remove_file(&link);
        // Another build of the program can be put to the test, as an installed one.
        if let Some(program) = std::env::var_os("DOMICILE_PROGRAM") {
            return PathBuf::from(program);
        }
        std::fs::hard_link(env!("CARGO_BIN_EXE_domicile"), &link)
            .expect("the target directory takes links");
        link
    })
}

/// A command line.
#[derive(Debug)]
pub struct Program(Command);

/// A command that runs; ended with SIGKILL when dropped.
#[derive(Debug)]
pub struct Running(Child);

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

// === impl Program ===

impl Program {
    /// `domicile ARGS`, run in `folder`.
    pub fn new(folder: &Path, args: &[&str]) -> Program {
        Program::of(Command::new(linked()), folder).args(args)
    }

    fn of(mut command: Command, folder: &Path) -> Program {
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Program(command)
    }

    fn args(mut self, args: &[&str]) -> Program {
        self.0.args(args);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Program {
        self.0.arg(arg);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Program {
        self.0.env(name, value);
        self
    }

    /// Has it complain into a file: what nobody reads meanwhile would fill a pipe.
    pub fn complain_to(mut self, file: &Path) -> Result<Program> {
        self.0.stderr(std::fs::File::create(file)?);
        Ok(self)
    }

    /// The same in a network namespace of that name.
    pub fn within(self, namespace: &str) -> Program {
        let inner = self.0.as_std();
        let folder = inner.get_current_dir().unwrap_or(Path::new("."));
        let mut outer = Program::of(Command::new("ip"), folder);
        outer.0.args(["netns", "exec", namespace]);
        outer.0.arg(inner.get_program()).args(inner.get_args());
        let variables = inner.get_envs();
        outer
            .0
            .envs(variables.filter_map(|(name, value)| Some((name, value?))));
        outer
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Running> {
        Ok(Running(self.0.spawn().context("cannot start domicile")?))
    }

    /// Runs it to its end.
    pub async fn run(self) -> Result<Ran> {
        self.start()?.end().await
    }
}

// === impl Running ===

impl Running {
    /// Waits for its end.
    pub async fn end(self) -> Result<Ran> {
        let output = tokio::time::timeout(LONGEST, self.0.wait_with_output())
            .await
            .context("domicile does not end")??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(mut self) -> Result<()> {
        self.0.kill().await.context("cannot kill domicile")
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot look at domicile")
    }
}

// === impl Ran ===

impl Ran {
    /// Itself, where it ended with `code`.
    pub fn expect(self, code: i32) -> Result<Ran> {
        ensure!(self.code == Some(code), "{code} was expected: {self}");
        Ok(self)
    }

    /// The last line of `apply --json`.
    pub fn summary(&self) -> Result<Value> {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("no summary: {self}"))
    }

    /// The users whom the summary says to be set aside, each with the reason.
    pub fn set_aside(&self) -> Result<Vec<(String, String)>> {
        let summary = self.summary()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let aside = summary["set_aside"].as_array().into_iter().flatten();
        Ok(aside
            .map(|one| (text(&one["user"]), text(&one["reason"])))
            .collect())
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit code {:?}\nstdout: {}\nstderr: {}",
            self.code, self.stdout, self.stderr
        )
    }
}
