//! A signal that a thread waits for.

use std::time::Instant;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

/// A signal for one waiting thread. A notification while the thread is not waiting ends its next
/// wait.
#[derive(Default)]
pub struct Signal {
    is_notified: Mutex<bool>,
    condvar: Condvar,
    is_waiting: AtomicBool,
}

impl Signal {
    /// Ends the thread's current wait, or the next one.
    pub fn notify(&self) {
        *self.is_notified.lock() = true;
        self.condvar.notify_one();
    }

    /// Calls [`Self::notify`] if the thread is in a long wait. Cheap enough to be called often.
    pub fn notify_if_waiting(&self) {
        if self.is_waiting.load(Ordering::SeqCst) {
            self.notify();
        }
    }

    /// Waits until notified, or until `end`.
    pub fn wait_until(&self, end: Instant) {
        let mut is_notified = self.is_notified.lock();
        while !*is_notified {
            if self.condvar.wait_until(&mut is_notified, end).timed_out() {
                break;
            }
        }
        *is_notified = false;
    }

    /// Waits like [`Self::wait_until`], and is also woken by [`Self::notify_if_waiting`].
    /// `is_needed` is called once other threads can see that this thread waits; if it returns true,
    /// there is no wait.
    pub fn wait_idle_until(&self, end: Instant, is_needed: impl FnOnce() -> bool) {
        self.is_waiting.store(true, Ordering::SeqCst);
        if !is_needed() {
            self.wait_until(end);
        }
        self.is_waiting.store(false, Ordering::SeqCst);
    }
}
