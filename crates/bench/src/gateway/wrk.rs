//! `wrk`, which asks for the pages of users at random.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// What it counted.
pub(super) struct Ran {
    pub requests: u64,
    pub per_second: f64,
    pub p99_ms: f64,
}

/// Asks `127.0.0.1:port` for so long, each time for another of `users`.
pub(super) async fn run(port: u16, connections: u32, users: u32, time: Duration) -> Result<Ran> {
    let mut script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    write!(
        script,
        "math.randomseed(os.time())\n\
         request = function()\n\
           return \"GET / HTTP/1.1\\r\\nHost: shop\\r\\nX-User: \" .. math.random(0, {}) .. \"\\r\\n\\r\\n\"\n\
         end\n",
        users - 1
    )?;
    let ran = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", time.as_secs()))
        .arg("-s")
        .arg(script.path())
        .arg(format!("http://127.0.0.1:{port}/"))
        .kill_on_drop(true)
        .output()
        .await
        .context("wrk: install Debian's package wrk")?;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(
        ran.status.success(),
        "wrk: {said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    ensure!(
        !said.contains("Non-2xx") && !said.contains("Socket errors"),
        "not every request was answered: {said}"
    );
    let line = |begins: &str| {
        said.lines()
            .map(str::trim)
            .find(|line| line.starts_with(begins))
    };
    let p99 = line("99%").and_then(|line| line.split_whitespace().nth(1));
    let rate = line("Requests/sec:").and_then(|line| line.split_whitespace().nth(1));
    let count = said.lines().find(|line| line.contains(" requests in "));
    let count = count.and_then(|line| line.split_whitespace().next());
    Ok(Ran {
        requests: count.context("wrk counts nothing")?.parse()?,
        per_second: rate.context("wrk tells no rate")?.parse()?,
        p99_ms: milliseconds(p99.context("wrk tells no latency")?)?,
    })
}

/// `1.23ms`, `870.00us`, `1.02s`.
fn milliseconds(text: &str) -> Result<f64> {
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .context("a unit")?;
    let number: f64 = text[..at].parse()?;
    match &text[at..] {
        "us" => Ok(number / 1e3),
        "ms" => Ok(number),
        "s" => Ok(number * 1e3),
        other => anyhow::bail!("wrk's unit {other}"),
    }
}
