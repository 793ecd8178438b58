//! What processes cost: CPU and memory, as Linux counts them in /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The fields of `/proc/PID/stat` that we look at; times in ticks.
struct Stat {
    parent: u32,
    own: u64,
    /// Of children that ended and were waited for.
    children: u64,
}

/// CPU that process `pid`, of one thread, used so far; zero if it is gone.
pub(crate) fn of_process(pid: u32) -> Duration {
    // In nanoseconds where the kernel keeps them: a tick is ten milliseconds.
    let exact = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let exact = exact.and_then(|text| text.split_whitespace().next()?.parse().ok());
    match exact {
        Some(nanoseconds) => Duration::from_nanos(nanoseconds),
        None => stat(pid).map_or(Duration::ZERO, |stat| ticks(stat.own)),
    }
}

/// CPU that process `pid` used so far, with all its threads; zero if it is gone.
pub(crate) fn of_threads(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let ids = threads
        .flatten()
        .filter_map(|one| one.file_name().to_str()?.parse().ok());
    ids.map(of_process).sum()
}

/// CPU that our children which have ended used.
pub(crate) fn of_our_children() -> Duration {
    stat(std::process::id()).map_or(Duration::ZERO, |stat| ticks(stat.children))
}

/// CPU that the server under `postmaster` used so far: itself, its backends and those that have ended.
///
/// # Errors
/// Where /proc cannot be read: this measures on Linux only.
pub(crate) fn of_server(postmaster: u32) -> Result<Duration> {
    let mut total = stat(postmaster)
        .map(|stat| stat.own + stat.children)
        .context("the server is gone")?;
    for entry in fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(stat) = pid.and_then(stat).filter(|stat| stat.parent == postmaster) {
            total += stat.own + stat.children;
        }
    }
    Ok(ticks(total))
}

/// The most memory that process `pid` ever held, in MiB; `None` if it is gone.
pub(crate) fn peak_mib(pid: u32) -> Option<f64> {
    in_mib(pid, "VmHWM:")
}

fn in_mib(pid: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// The memory that process `pid` holds now, in MiB; `None` if it is gone.
pub(crate) fn resident_mib(pid: u32) -> Option<f64> {
    in_mib(pid, "VmRSS:")
}

/// How many processes want to run, averaged over the last minute: what else this machine did.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; after it come the state, the parent, ...
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        children: number(13)? + number(14)?,
    })
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cost_can_be_read() {
        let me = std::process::id();
        assert!(stat(me).is_some());
        assert!(peak_mib(me).is_some_and(|mib| mib > 0.1));
        assert_eq!(of_process(0), Duration::ZERO);
    }
}
