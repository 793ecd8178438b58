//! What all writers of a workload share: the log, the counters and the pauses.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::log::{Entry, Log};

/// More anomalies than a person reads; beyond it they are only counted as having happened.
const ANOMALIES_MAX: usize = 100;

/// One change of home as a client saw it.
#[derive(Clone, Debug)]
pub struct Pause {
    /// The user's key.
    pub user: i32,
    /// The site that acknowledged him before.
    pub from: String,
    /// The site that acknowledged him after.
    pub to: String,
    /// From the start of the first try that was refused (a try that waited for a lock and was then
    /// refused counts from its start) to the first acknowledgement at the new home.
    pub length: Duration,
}

pub(super) struct Journal {
    started: Instant,
    site_names: Vec<String>,
    inner: Mutex<Inner>,
}

struct Inner {
    log: Log,
    file: Option<BufWriter<File>>,
    presence: HashMap<i32, Presence>,
    pauses: Vec<Pause>,
}

/// Where a user was last acknowledged, and since when he is refused there.
struct Presence {
    site: usize,
    acknowledged: Instant,
    refused: Option<Instant>,
}

// === impl Journal ===

impl Journal {
    pub(super) fn new(site_names: Vec<String>, log: Log, file: Option<&Path>) -> Result<Journal> {
        let file = file
            .map(|path| File::create(path).map(BufWriter::new))
            .transpose()
            .context("cannot create the log file")?;
        Ok(Journal {
            started: Instant::now(),
            site_names,
            inner: Mutex::new(Inner {
                log,
                file,
                presence: HashMap::new(),
                pauses: Vec::new(),
            }),
        })
    }

    /// Time since the workload's start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Appends an operation; must be called before its user lets go of what it held.
    pub(super) fn record(&self, entry: Entry) -> Result<()> {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file {
            serde_json::to_writer(&mut *file, &entry).context("cannot write the log file")?;
            file.write_all(b"\n").context("cannot write the log file")?;
        }
        inner.log.entries.push(entry);
        Ok(())
    }

    /// The log accounts for one more user.
    pub(super) fn add_user(&self, key: i32) {
        self.lock().log.users.push(key);
    }

    pub(super) fn anomaly(&self, what: String) {
        let mut inner = self.lock();
        if inner.log.anomalies.len() < ANOMALIES_MAX {
            inner.log.anomalies.push(what);
        }
    }

    /// A try that began at `began` was refused at `site`.
    pub(super) fn refused(&self, user: i32, site: usize, began: Instant) {
        let mut inner = self.lock();
        let presence = inner.presence.entry(user).or_insert(Presence {
            site,
            acknowledged: began,
            refused: None,
        });
        // A refusal at a site where he was not last acknowledged is a stale belief, not a pause.
        if presence.site == site {
            let since = began.max(presence.acknowledged);
            presence.refused = Some(presence.refused.map_or(since, |first| first.min(since)));
        }
    }

    /// A write of `user` was acknowledged at `site`.
    pub(super) fn acknowledged(&self, user: i32, site: usize) {
        let now = Instant::now();
        let mut inner = self.lock();
        let here = Presence {
            site,
            acknowledged: now,
            refused: None,
        };
        if let Some(before) = inner.presence.insert(user, here)
            && before.site != site
            && let Some(refused) = before.refused
        {
            let pause = Pause {
                user,
                from: self.site_names[before.site].clone(),
                to: self.site_names[site].clone(),
                length: now.duration_since(refused),
            };
            inner.pauses.push(pause);
        }
    }

    pub(super) fn pauses(&self) -> Vec<Pause> {
        self.lock().pauses.clone()
    }

    /// A copy of the log as it stands.
    pub(super) fn log(&self) -> Result<Log> {
        let mut inner = self.lock();
        if let Some(file) = &mut inner.file {
            file.flush().context("cannot write the log file")?;
        }
        Ok(inner.log.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of a writer leaves whole entries behind; the log stays of use.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
