//! How fast a copy goes: a limit that may change while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Time that was lost, by a timer that wakes late, is made good up to this much.
const CREDIT: Duration = Duration::from_millis(100);

/// What a copy may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes a second, at most; `None`: as fast as it goes.
    Rate(Option<u64>),
    /// Nothing: it ends where it is.
    Stop,
}

/// Keeps copies to the limit that is in force, over all of them together.
#[derive(Debug)]
pub struct Pace {
    limit: watch::Receiver<Limit>,
    copied: Arc<AtomicU64>,
    /// Bytes ahead of the rate; below zero: credit.
    owed: f64,
    since: Instant,
}

// === impl Pace ===

impl Pace {
    /// A pace that follows `limit` and counts the bytes copied into `copied`.
    pub fn new(limit: watch::Receiver<Limit>, copied: Arc<AtomicU64>) -> Self {
        Self {
            limit,
            copied,
            owed: 0.0,
            since: Instant::now(),
        }
    }

    /// Takes note of `bytes` that were copied, and waits until more may be.
    ///
    /// # Errors
    /// [`Error::Stopped`] as soon as the limit says so, in the middle of a wait too.
    pub async fn copied(&mut self, bytes: u64) -> Result<()> {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
        self.owed += bytes as f64;
        loop {
            let limit = *self.limit.borrow_and_update();
            let elapsed = std::mem::replace(&mut self.since, Instant::now()).elapsed();
            let rate = match limit {
                Limit::Stop => return Err(Error::Stopped),
                Limit::Rate(None) => {
                    self.owed = 0.0;
                    return Ok(());
                }
                Limit::Rate(Some(rate)) => rate.max(1) as f64,
            };
            self.owed =
                (self.owed - rate * elapsed.as_secs_f64()).max(-rate * CREDIT.as_secs_f64());
            if self.owed <= 0.0 {
                return Ok(());
            }
            // An hour at most: a rate near zero must not overflow the clock.
            let wait = Duration::from_secs_f64((self.owed / rate).min(3_600.0));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = self.limit.changed() => if changed.is_err() {
                    // Nobody steers any more: the last limit stands.
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(limit: Limit) -> (watch::Sender<Limit>, Pace) {
        let (send, limit) = watch::channel(limit);
        (send, Pace::new(limit, Arc::default()))
    }

    #[tokio::test]
    async fn pieces_keep_to_the_rate_over_all_of_them() {
        let (_send, mut pace) = pace(Limit::Rate(Some(10_000)));
        let started = Instant::now();
        for _ in 0..40 {
            pace.copied(100).await.unwrap();
        }
        // 0.4 s, less the credit that a slow start may have given.
        assert!(started.elapsed() >= Duration::from_millis(290));
        assert_eq!(pace.copied.load(Ordering::Relaxed), 4_000);
    }

    #[tokio::test]
    async fn a_new_limit_is_heard_in_the_middle_of_a_wait() {
        let (send, mut pace) = pace(Limit::Rate(Some(1)));
        let started = Instant::now();
        let faster = async { send.send(Limit::Rate(Some(1_000_000))).unwrap() };
        let (copied, ()) = tokio::join!(pace.copied(100_000), faster);
        copied.unwrap();
        let stop = async { send.send(Limit::Stop).unwrap() };
        let (stopped, ()) = tokio::join!(pace.copied(u64::from(u32::MAX)), stop);
        assert!(matches!(stopped, Err(Error::Stopped)));
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn without_a_rate_nothing_is_owed_later() {
        let (send, mut pace) = pace(Limit::Rate(None));
        pace.copied(u64::from(u32::MAX)).await.unwrap();
        send.send(Limit::Rate(Some(1_000))).unwrap();
        let started = Instant::now();
        pace.copied(10).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
