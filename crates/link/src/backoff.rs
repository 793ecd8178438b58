//! How long to wait before the next attempt.

use std::time::Duration;

use rand::RngExt as _;

/// Waits that double from 100 ms to 30 s. Each is drawn evenly from zero to its bound ("full jitter"), so that peers
/// which lost the same path do not all come back in the same instant.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failed: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The bound of the next wait, by how many attempts have failed.
    fn bound(failed: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failed).unwrap_or(u32::MAX);
        Self::FIRST.saturating_mul(doubled).min(Self::LONGEST)
    }

    /// The next wait, after one more failure.
    pub fn next(&mut self) -> Duration {
        let bound = Self::bound(self.failed);
        self.failed = self.failed.saturating_add(1);
        bound.mul_f64(rand::rng().random())
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stop_growing() {
        let bounds: Vec<u128> = (0..11).map(|n| Backoff::bound(n).as_millis()).collect();
        assert_eq!(bounds[..4], [100, 200, 400, 800]);
        assert_eq!(bounds[9..], [30_000, 30_000]);
        assert_eq!(Backoff::bound(u32::MAX), Backoff::LONGEST);
    }

    #[test]
    fn no_wait_is_over_its_bound() {
        let mut backoff = Backoff::default();
        for n in 0..40 {
            assert!(backoff.next() <= Backoff::bound(n));
        }
        backoff.reset();
        assert!(backoff.next() <= Backoff::FIRST);
    }
}
