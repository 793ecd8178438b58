//! How a daemon is told to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::DaemonError;

/// The two ways to end. Clones are the same ending.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Work comes to a safe point first.
    pub gently: CancellationToken,
    /// Nothing is waited for. Whatever is on its way is as if the process had been killed, which it must bear anyway.
    pub at_once: CancellationToken,
}

// === impl Ending ===

impl Ending {
    /// The first SIGTERM or SIGINT ends gently, the second one at once.
    ///
    /// # Errors
    /// Where the system refuses. Must be called within a runtime.
    pub fn by_signals() -> Result<Self, DaemonError> {
        let hear = |kind| signal(kind).map_err(DaemonError::Signals);
        let mut terminate = hear(SignalKind::terminate())?;
        let mut interrupt = hear(SignalKind::interrupt())?;
        let ending = Self::default();
        let told = ending.clone();
        // Ends with the process: it owns nothing.
        tokio::spawn(async move {
            for token in [told.gently, told.at_once] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(ending)
    }
}
