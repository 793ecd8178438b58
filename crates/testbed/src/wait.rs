//! Waiting for a state instead of for a time.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

/// How often a condition is looked at again.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds.
///
/// # Errors
///
/// Where it does not hold within `timeout` (the error names `what`), or at once where `condition`
/// itself fails.
pub async fn wait_until(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        if condition()
            .await
            .with_context(|| format!("while waiting until {what}"))?
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain until {what}");
        }
        sleep(POLL_EVERY).await;
    }
}
