//! Requests that wait since slow calls with their key hold its share of the sessions.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::queued::Queued;
use crate::limits::MAX_QUEUED_JOBS_PER_TOKEN;

/// Those of one token.
#[derive(Default)]
pub struct Deferred {
    waiting: Mutex<Vec<Queued>>,
    length: AtomicUsize,
}

impl Deferred {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets a request wait.
    ///
    /// # Errors
    /// There is no room; the request comes back.
    pub fn push(&self, queued: Queued) -> Result<(), Queued> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_QUEUED_JOBS_PER_TOKEN {
            return Err(queued);
        }
        waiting.push(queued);
        self.length.store(waiting.len(), Ordering::Release);
        Ok(())
    }

    /// Takes out the first request that need not wait any more.
    pub fn take(&self, is_ready: impl Fn(&Queued) -> bool) -> Option<Queued> {
        if self.is_empty() {
            return None;
        }
        let mut waiting = self.waiting.lock();
        let place = waiting.iter().position(is_ready)?;
        let queued = waiting.remove(place);
        self.length.store(waiting.len(), Ordering::Release);
        Some(queued)
    }

    /// Takes all out.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut waiting = self.waiting.lock();
        self.length.store(0, Ordering::Release);
        std::mem::take(&mut *waiting)
    }
}
