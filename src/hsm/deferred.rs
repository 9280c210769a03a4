//! Jobs that wait because slow calls with their key occupy the key's share of the sessions.

use super::queued::Queued;
use crate::limits::MAX_QUEUED_JOBS_PER_TOKEN;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The deferred jobs of one token.
#[derive(Default)]
pub struct Deferred {
    waiting: Mutex<Vec<Queued>>,
    length: AtomicUsize,
}

impl Deferred {
    /// Returns the number of jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Returns whether no job is deferred.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a job.
    ///
    /// # Errors
    /// Returns the job if there is no room.
    pub fn push(&self, queued: Queued) -> Result<(), Queued> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_QUEUED_JOBS_PER_TOKEN {
            return Err(queued);
        }
        waiting.push(queued);
        self.length.store(waiting.len(), Ordering::Release);
        Ok(())
    }

    /// Removes and returns the first job that no longer needs to wait.
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

    /// Removes and returns all jobs.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut waiting = self.waiting.lock();
        self.length.store(0, Ordering::Release);
        std::mem::take(&mut *waiting)
    }
}
