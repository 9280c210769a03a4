//! Growing waits between failing attempts.

use std::time::Duration;

use crate::limits::{MAX_RECONNECT_BACKOFF, MIN_RECONNECT_BACKOFF};
use crate::sync::random;

/// Waits that double, with jitter, so that attempts which failed together are not repeated
/// together.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(MAX_RECONNECT_BACKOFF)
    }
}

impl Backoff {
    /// Creates waits of up to `max`, plus a quarter.
    #[must_use]
    pub fn up_to(max: Duration) -> Self {
        Self { failures: 0, max }
    }

    /// Returns the next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = MIN_RECONNECT_BACKOFF.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        jittered(wait.min(self.max))
    }

    /// Starts again with the shortest wait.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns a random duration between three quarters and five quarters of `wait`.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    wait * 3 / 4 + wait * u32::try_from(random() % 512).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits double up to a limit, and vary randomly.
    #[test]
    fn backoff_grows_and_scatters() {
        let mut backoff = Backoff::default();
        let first = backoff.wait();
        assert!(first >= MIN_RECONNECT_BACKOFF * 3 / 4 && first < MIN_RECONNECT_BACKOFF * 5 / 4);
        for _ in 0..100 {
            assert!(backoff.wait() < MAX_RECONNECT_BACKOFF * 5 / 4);
        }
        assert!(backoff.wait() >= MAX_RECONNECT_BACKOFF * 3 / 4);
        let different = (0..20).map(|_| jittered(MAX_RECONNECT_BACKOFF));
        assert!(different.collect::<std::collections::HashSet<_>>().len() > 1);
        backoff.reset();
        assert!(backoff.wait() < MIN_RECONNECT_BACKOFF * 5 / 4);
    }
}
