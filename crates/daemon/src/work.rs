//! What a leader does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use model::{ServiceName, causes};
use residency::office::Office;
use tokio_util::sync::CancellationToken;

use crate::Soon;
use crate::view::View;

/// Work that the leader of a service does.
///
/// `lead` is called when this daemon has begun to lead a service, once for each, beside the others. It returns
///
/// - soon after [`Leading::stop`] is cancelled, at its next safe point: it is given the daemon's patience and then dropped
///   where it stands, which it must bear as it must bear `kill -9`;
/// - with `Ok` by itself where nothing is left to do under this term;
/// - with an error, or a panic, where it is to be called again after a wait, under the same term.
///
/// Until it has ended the daemon does not lead this service again.
pub trait Work: Send + Sync {
    /// What it is called in logs.
    fn name(&self) -> &'static str;

    /// Does it.
    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>>;
}

/// One term of leading one service.
#[derive(Clone, Debug)]
pub struct Leading {
    /// The service.
    pub service: ServiceName,
    /// The office: whoever commits something checks it in the transaction, so that nothing of a lost term is committed.
    pub office: Office,
    /// Cancelled when the term ends: the lock's session was lost, or the daemon ends.
    pub stop: CancellationToken,
    /// The peers, and whatever else is known.
    pub view: View,
}

/// Why work stopped by itself. Holds no personal data and no secret: it is logged.
pub type WorkError = Box<dyn std::error::Error + Send + Sync>;

/// The first wait before work that failed is called again; it doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Work that went on for so long before it failed was well under way: the wait after it is the first again. Users may be
/// paused meanwhile, and a peer that is started anew now and then must not make them wait ever longer.
const WENT_ON: Duration = Duration::from_secs(2);

/// The wait after work that went on for `lasted` and failed, where the one before was `last`.
fn wait(last: Option<Duration>, lasted: Duration) -> Duration {
    match last {
        Some(last) if lasted < WENT_ON => AGAIN_MAX.min(last * 2),
        _ => AGAIN,
    }
}

/// Calls `work` until it has ended, or is to.
pub(crate) async fn keep_at_it(work: Arc<dyn Work>, leading: Leading) {
    let (service, name) = (leading.service.clone(), work.name());
    let mut waited = None;
    while !leading.stop.is_cancelled() {
        let began = Instant::now();
        let attempt = AssertUnwindSafe(work.lead(leading.clone())).catch_unwind();
        match attempt.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(%service, work = name, error = causes(&*error), "work failed; it is tried again");
            }
            // The panic's own text went to standard error.
            Err(_) => tracing::error!(%service, work = name, "work panicked; it is tried again"),
        }
        let next = wait(waited, began.elapsed());
        if tokio::time::timeout(next, leading.stop.cancelled())
            .await
            .is_ok()
        {
            return;
        }
        waited = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_work_goes_on_for_a_while() {
        let at_once = Duration::from_millis(10);
        let (mut last, mut waits) = (None, Vec::new());
        for _ in 0..7 {
            last = Some(wait(last, at_once));
            waits.extend(last.map(|wait| wait.as_secs()));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(wait(last, WENT_ON), AGAIN);
    }
}
