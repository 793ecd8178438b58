//! What systemd is told, where it started us (`NOTIFY_SOCKET`); elsewhere nothing happens.

use daemon::Moment;
use sd_notify::{NotifyState, notify};

/// Tells it. Each round is a sign of life for its watchdog.
pub(super) fn tell(moment: Moment<'_>) {
    let told = match moment {
        Moment::Up(says) => notify(&[NotifyState::Ready, NotifyState::Status(says)]),
        Moment::Round(says) => notify(&[NotifyState::Watchdog, NotifyState::Status(says)]),
        Moment::Ending => notify(&[NotifyState::Stopping]),
    };
    // Whoever does not hear it acts as its unit says; there is nothing more to do here.
    if let Err(error) = told {
        tracing::debug!(%error, "the service manager was not told");
    }
}
