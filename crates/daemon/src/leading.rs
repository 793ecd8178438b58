//! The works of one term of leading one service.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::work::{Leading, Work, keep_at_it};

/// What runs under one term; dropped, it is aborted.
pub(crate) struct Term {
    leading: Leading,
    works: JoinSet<()>,
}

// === impl Term ===

impl Term {
    /// Begins all works.
    pub fn begin(leading: Leading, works: &[Arc<dyn Work>]) -> Self {
        let mut running = JoinSet::new();
        for work in works {
            running.spawn(keep_at_it(Arc::clone(work), leading.clone()));
        }
        Self {
            leading,
            works: running,
        }
    }

    /// Bids the works end.
    pub fn stop(&self) {
        self.leading.stop.cancel();
    }

    /// Waits until all works have ended, at most `patience`; what has not by then is aborted. Says whether all ended by
    /// themselves.
    pub async fn end(mut self, patience: Duration) -> bool {
        self.stop();
        let all = async { while self.works.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(patience, all).await.is_ok();
        if !ended {
            let service = &self.leading.service;
            tracing::warn!(%service, left = self.works.len(), "work came to no safe point in time and is cut off");
            // Until it is really gone, or the runtime goes: a task that never yields cannot be aborted.
            let _ = tokio::time::timeout(CUT_OFF, self.works.shutdown()).await;
        }
        ended
    }
}

/// How long an aborted task may take to notice: it does at its next await.
const CUT_OFF: Duration = Duration::from_millis(500);
