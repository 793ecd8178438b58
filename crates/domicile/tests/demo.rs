//! The demo as anybody runs it: the whole story, what it leaves behind, and whether it finds a loss.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// Every demo runs five clusters and more than thirty writers: one at a time.
static STAGE: Mutex<()> = Mutex::new(());

/// A folder for everything that one demo leaves lying about.
struct Demo {
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    fn new() -> Result<Demo> {
        let turn = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir()?;
        let demo = Demo {
            folder,
            _turn: turn,
        };
        std::fs::create_dir(demo.tmp())?;
        // Where PostgreSQL runs under another account, that account must get in.
        open_to_all(demo.folder.path())?;
        open_to_all(&demo.tmp())?;
        Ok(demo)
    }

    /// The demo's `TMPDIR`.
    fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn json_file(&self) -> PathBuf {
        self.folder.path().join("result.json")
    }

    fn command(&self, users: Option<u32>, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
        command
            .arg("demo")
            .arg("--json")
            .arg(self.json_file())
            .current_dir(self.folder.path())
            .env("TMPDIR", self.tmp())
            .env_remove("DOMICILE_DEMO_USERS")
            .envs(environment.iter().copied());
        if let Some(users) = users {
            command.env("DOMICILE_DEMO_USERS", users.to_string());
        }
        command
    }

    fn result(&self) -> Result<Value> {
        let text = std::fs::read_to_string(self.json_file()).context("no result was written")?;
        serde_json::from_str(&text).context("the result is no JSON")
    }

    /// No file and no process of the demo is there any more.
    fn assert_nothing_is_left(&self) -> Result<()> {
        let left: Vec<_> = std::fs::read_dir(self.tmp())?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "folders are left: {left:?}");
        let processes = processes_that_name(&self.tmp())?;
        ensure!(processes.is_empty(), "processes are left: {processes:?}");
        Ok(())
    }
}

fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, permissions).context("cannot open the folder")
}

/// Processes on whose command line `path` stands, as the data directories of servers do.
fn processes_that_name(path: &Path) -> Result<Vec<String>> {
    let path = path.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // One that ends meanwhile is none.
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&path) {
            found.push(line);
        }
    }
    Ok(found)
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn number(phase: &Value, name: &str) -> Result<u64> {
    phase[name]
        .as_u64()
        .with_context(|| format!("no number {name} in {phase}"))
}

fn phases(result: &Value) -> Result<&Vec<Value>> {
    result["phases"].as_array().context("no phases")
}

#[test]
fn two_thousand_users_a_phase_move_under_writers_and_nothing_is_lost() -> Result<()> {
    let demo = Demo::new()?;
    let output = demo.command(None, &[]).output()?;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let result = demo.result()?;
    let phases = phases(&result)?;
    let names: Vec<&Value> = phases.iter().map(|phase| &phase["name"]).collect();
    assert_eq!(names, ["e-commerce", "local sites"]);
    for phase in phases {
        assert_eq!(phase["service"], serde_json::json!(["shop"]));
        assert!(number(phase, "moved")? >= 2_000, "{phase}");
        for wrong in ["writes_lost", "writes_duplicated", "writes_misplaced"] {
            assert_eq!(number(phase, wrong)?, 0, "{said}");
        }
        let seconds = phase["seconds"].as_f64().context("no seconds")?;
        let rate = number(phase, "writes_acknowledged")? as f64 / seconds;
        assert!(rate >= 200.0, "{rate} writes a second: {phase}");
        let pause = |name: &str| phase["pause_ms"][name].as_f64();
        let all = ["p50", "p95", "p99", "max"].map(pause);
        assert!(all[0] > Some(0.0) && all.is_sorted(), "{phase}");
    }
    assert!(number(&result["pinned"]["CN"], "users")? >= 1_000);
    assert_eq!(number(&result["pinned"]["CN"], "moved")?, 0);
    assert!(said.contains("Users of CN moved: 0 of "), "{said}");
    demo.assert_nothing_is_left()
}

#[test]
fn a_demo_that_is_told_to_stop_leaves_nothing_behind() -> Result<()> {
    for signal in ["INT", "TERM"] {
        let demo = Demo::new()?;
        let mut running = demo
            .command(Some(600), &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stopped = stop_while_it_moves(&mut running, signal);
        if stopped.is_err() {
            running.kill()?;
        }
        let status = running.wait()?;
        stopped?;
        assert_eq!(status.code(), Some(1));
        demo.assert_nothing_is_left()?;
    }
    Ok(())
}

fn stop_while_it_moves(running: &mut Child, signal: &str) -> Result<()> {
    let output = running.stdout.take().context("no output")?;
    let mut lines = BufReader::new(output).lines();
    let moves = |line: &std::io::Result<String>| {
        line.as_ref()
            .is_ok_and(|line| line.starts_with("move ") && line.contains(" begins: "))
    };
    ensure!(lines.any(|line| moves(&line)), "no move began");
    let sent = Command::new("kill")
        .args(["-s", signal, &running.id().to_string()])
        .status()?;
    ensure!(sent.success(), "cannot send the signal");
    // To the end, so that nobody waits for us to read.
    lines.for_each(drop);
    Ok(())
}

#[test]
fn a_kept_demo_can_be_looked_at_and_removed() -> Result<()> {
    let demo = Demo::new()?;
    let output = demo.command(Some(600), &[]).arg("--keep").output()?;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = |what: &str| said.lines().find(|line| line.contains(what));
    let plan = line(" plan").with_context(|| said.clone())?;
    let look = Command::new("sh").args(["-c", plan]).output()?;
    assert_eq!(look.status.code(), Some(0), "{}", words(&look));
    assert!(words(&look).contains("mumbai"), "{}", words(&look));
    let stop = line("/stop").with_context(|| said.clone())?;
    let stopped = Command::new("sh").args(["-c", stop]).output()?;
    assert!(stopped.status.success(), "{}", words(&stopped));
    demo.assert_nothing_is_left()
}

#[test]
fn wrong_use_is_found_before_anything_is_started() -> Result<()> {
    let demo = Demo::new()?;
    let many = demo
        .command(None, &[("DOMICILE_DEMO_USERS", "many")])
        .output()?;
    assert_eq!(many.status.code(), Some(2), "{}", words(&many));
    let nowhere = Command::new(env!("CARGO_BIN_EXE_domicile"))
        .args(["demo", "--json", "/nowhere/result.json"])
        .env("TMPDIR", demo.tmp())
        .output()?;
    assert_eq!(nowhere.status.code(), Some(2), "{}", words(&nowhere));
    demo.assert_nothing_is_left()
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_planted_loss_is_found() -> Result<()> {
    let demo = Demo::new()?;
    let output = demo
        .command(Some(2_000), &[("DOMICILE_BUG", "lose-row")])
        .output()?;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let result = demo.result()?;
    let mut lost = 0;
    for phase in phases(&result)? {
        lost += number(phase, "writes_lost")?;
    }
    assert!(lost > 0, "{said}");
    assert_eq!(number(&result["pinned"]["CN"], "moved")?, 0);
    demo.assert_nothing_is_left()
}
