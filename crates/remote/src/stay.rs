//! A source's stay at one service of this site.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mover::host::Visit;

use crate::PATIENCE;
use crate::intake::Intake;

/// How many lines a visit may have: a move opens about ten.
const LINES_MAX: usize = 64;

/// One visit, with its lines.
pub(crate) struct Stay {
    pub(crate) number: u64,
    visit: Arc<Visit>,
    lines: Mutex<HashMap<u32, Arc<Intake>>>,
    /// One line is opened at a time: the second asking finds what the first has opened.
    opening: tokio::sync::Mutex<()>,
    heard: Mutex<Instant>,
}

// === impl Stay ===

impl Stay {
    pub(crate) fn new(number: u64, visit: Arc<Visit>) -> Self {
        Self {
            number,
            visit,
            lines: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            heard: Mutex::new(Instant::now()),
        }
    }

    /// Takes note that the source lives.
    pub(crate) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether nothing was heard of the source for so long that it counts as gone.
    pub(crate) fn is_silent(&self) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.elapsed() > PATIENCE * 2
    }

    pub(crate) fn line(&self, line: u32) -> Option<Arc<Intake>> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(&line).cloned()
    }

    /// Opens a line, unless it is open. `false` where there are too many.
    pub(crate) async fn open(&self, line: u32, purpose: &str) -> mover::Result<bool> {
        let _one = self.opening.lock().await;
        if self.line(line).is_some() {
            return Ok(true);
        }
        {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() >= LINES_MAX {
                return Ok(false);
            }
        }
        let clerk = self.visit.clerk(purpose).await?;
        let intake = Arc::new(Intake::new(self.visit.site().clone(), clerk));
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.insert(line, intake);
        Ok(true)
    }

    pub(crate) fn close(&self, line: u32) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(intake) = lines.remove(&line) {
            intake.end();
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        lines.values().for_each(|intake| intake.end());
    }
}
