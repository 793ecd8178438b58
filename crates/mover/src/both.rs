//! Two halves of one piece of work that end together.

use std::pin::pin;
use std::time::Duration;

/// Carries out `a` and `b` at the same time. At the first error of one, calls `stop`, which bids the other end at its next
/// safe point, and waits for that, no longer than `patience`: whatever it has on its way to a database has arrived by then,
/// or been given up by itself, and is not dropped in the middle.
///
/// # Errors
/// The first error; what the other half says after it is dropped.
pub(crate) async fn both<A, B, E>(
    a: impl Future<Output = Result<A, E>>,
    b: impl Future<Output = Result<B, E>>,
    stop: impl FnOnce(),
    patience: Duration,
) -> Result<(A, B), E> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (first_a, first_b) = tokio::select! {
        ended = &mut a => (Some(ended), None),
        ended = &mut b => (None, Some(ended)),
    };
    match (first_a, first_b) {
        (Some(Err(error)), _) => {
            stop();
            let _ = tokio::time::timeout(patience, b).await;
            Err(error)
        }
        (_, Some(Err(error))) => {
            stop();
            let _ = tokio::time::timeout(patience, a).await;
            Err(error)
        }
        (Some(Ok(a)), _) => Ok((a, b.await?)),
        (_, Some(Ok(b))) => Ok((a.await?, b)),
        (None, None) => unreachable!("one of them has ended"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::{Notify, oneshot};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_error_lets_the_other_half_come_to_its_safe_point() {
        let (told, safe) = (Notify::new(), std::cell::Cell::new(false));
        let other = async {
            told.notified().await;
            tokio::time::sleep(PATIENCE / 2).await;
            safe.set(true);
            Ok::<_, &str>(())
        };
        let failing = async { Err::<(), _>("cause") };
        let ended = both(failing, other, || told.notify_one(), PATIENCE).await;
        assert_eq!((ended, safe.get()), (Err("cause"), true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_that_stands_still_is_not_waited_for_longer_than_the_patience() {
        let stuck = async { pending::<Result<(), &str>>().await };
        let failing = async { Err::<(), _>("cause") };
        let started = tokio::time::Instant::now();
        assert_eq!(both(stuck, failing, || (), PATIENCE).await, Err("cause"));
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test]
    async fn without_an_error_both_are_carried_out() {
        let (send, receive) = oneshot::channel();
        let first = async { send.send(1).map_err(|_| "gone") };
        let second = async { receive.await.map_err(|_| "gone") };
        assert_eq!(both(first, second, || (), PATIENCE).await, Ok(((), 1)));
    }
}
