//! A site's daemon as a child process, asked over its admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::wait_until;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::program::{Program, Ran, Running};
use super::{PATIENCE, World};

/// A daemon that runs; killed when dropped.
#[derive(Debug)]
pub struct Served {
    /// The process.
    pub running: Running,
    /// Its admin socket.
    pub socket: PathBuf,
    log: PathBuf,
}

/// A port that nobody has at the moment.
pub async fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}

/// `GET path`: the code and the body.
pub async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    answered(stream, &request).await
}

/// `POST path` with a document, on a socket.
pub async fn post(socket: &Path, path: &str, document: &Value) -> Result<(u16, String)> {
    let body = document.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    answered(UnixStream::connect(socket).await?, &request).await
}

async fn answered(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Result<(u16, String)> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split(' ').nth(1).context("no code")?.parse()?;
    Ok((code, body.to_owned()))
}

/// `GET path` over TCP.
pub async fn get_at(port: u16, path: &str) -> Result<(u16, String)> {
    get(TcpStream::connect(("127.0.0.1", port)).await?, path).await
}

/// `POST path` with a document, over TCP.
pub async fn post_at(port: u16, path: &str, document: &Value) -> Result<(u16, Value)> {
    let body = document.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (code, body) = answered(stream, &request).await?;
    Ok((code, serde_json::from_str(&body)?))
}

impl World {
    /// `serve` of `site` with the configuration `file`; everything of its own is called `name`.
    pub fn serving(&self, file: &str, site: &str, name: &str) -> Program {
        let socket = format!("{name}.sock");
        self.program(&[
            "--config", file, "serve", "--site", site, "--socket", &socket,
        ])
    }

    /// Starts such a daemon, and waits until it answers.
    pub async fn serve(&self, file: &str, site: &str, name: &str) -> Result<Served> {
        self.served(self.serving(file, site, name), name).await
    }

    /// Starts `program`, which serves as `name`, and waits until it answers.
    pub async fn served(&self, program: Program, name: &str) -> Result<Served> {
        let log = self.path(&format!("{name}.log"));
        let running = program.complain_to(&log)?.start()?;
        let mut served = Served {
            running,
            socket: self.path(&format!("{name}.sock")),
            log,
        };
        wait_until("the daemon answers", PATIENCE, async || {
            let ended = served.running.ended()?;
            ensure!(ended.is_none(), "it has ended: {ended:?}: {}", served.log());
            Ok(served.get("/healthz").await.is_ok())
        })
        .await?;
        Ok(served)
    }
}

// === impl Served ===

impl Served {
    /// `GET path` on the admin socket.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        get(UnixStream::connect(&self.socket).await?, path).await
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Value> {
        let (code, body) = self.get("/status").await?;
        ensure!(code == 200, "{code}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits until it says so of itself.
    pub async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_until(what, PATIENCE, async || {
            last = self.status().await?;
            Ok(so(&last))
        })
        .await;
        waited.with_context(|| format!("{last:#}\n{}", self.log()))?;
        Ok(last)
    }

    /// Waits until `/readyz` answers so.
    pub async fn until_ready(&self, code: u16, says: &str) -> Result<()> {
        let mut last = (0, String::new());
        let waited = wait_until(&format!("{code}: {says}"), PATIENCE, async || {
            last = self.get("/readyz").await?;
            Ok(last.0 == code && last.1.trim_end() == says)
        })
        .await;
        waited.with_context(|| format!("{last:?}"))
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal, as `kill -NAME` does.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let id = self.running.id().context("it has ended")?;
        let sent = tokio::process::Command::new("kill")
            .args([&format!("-{name}"), &id.to_string()])
            .status()
            .await?;
        ensure!(sent.success(), "no signal was sent to {id}");
        if name != "KILL" {
            return Ok(());
        }
        // Until all its threads are dead its sockets are its own, and who starts after it is refused them.
        wait_until("a killed daemon is dead", PATIENCE, async || {
            let status = std::fs::read_to_string(format!("/proc/{id}/stat"));
            let state = status.as_deref().unwrap_or_default().rsplit(") ").next();
            let dead = state.is_none_or(|state| state.is_empty() || state.starts_with(['Z', 'X']));
            let threads = std::fs::read_dir(format!("/proc/{id}/task"));
            Ok(dead && threads.map_or(0, Iterator::count) <= 1)
        })
        .await
    }

    /// Sends SIGTERM, and waits for its end: how it ended, what it logged, how long it took.
    pub async fn terminate(self) -> Result<(Ran, String, Duration)> {
        let began = std::time::Instant::now();
        self.signal("TERM").await?;
        let log = self.log.clone();
        let ran = self.running.end().await?;
        Ok((ran, std::fs::read_to_string(log)?, began.elapsed()))
    }
}

/// Whether it leads all its services.
pub fn leads(status: &Value) -> bool {
    let services = status["services"].as_array();
    services.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["leads"] == true))
}

/// Whether it is connected with `peer`, and has heard who it is.
pub fn sees(status: &Value, peer: &str) -> bool {
    let mut peers = status["peers"].as_array().into_iter().flatten();
    peers.any(|one| one["peer"] == peer && one["connected"] == true && one["version"].is_string())
}

/// The files of `folder` with these names, as one text.
pub fn texts(folder: &Path, names: &[&str]) -> String {
    let read = |name: &&str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    names.iter().map(read).collect()
}
