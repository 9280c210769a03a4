//! A thread that waits to be told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// What one thread waits on and others tell it by. What is told while nobody waits is kept.
#[derive(Default)]
pub struct Signal {
    is_notified: Mutex<bool>,
    condvar: Condvar,
    is_waiting: AtomicBool,
}

impl Signal {
    /// Ends the other's wait, this one or the next.
    pub fn notify(&self) {
        *self.is_notified.lock() = true;
        self.condvar.notify_one();
    }

    /// [`Self::notify`] if somebody waits for long: cheap where it is called often.
    pub fn notify_if_waiting(&self) {
        if self.is_waiting.load(Ordering::SeqCst) {
            self.notify();
        }
    }

    /// Waits until told, or until `end`.
    pub fn wait_until(&self, end: Instant) {
        let mut is_notified = self.is_notified.lock();
        while !*is_notified {
            if self.condvar.wait_until(&mut is_notified, end).timed_out() {
                break;
            }
        }
        *is_notified = false;
    }

    /// As [`Self::wait_until`], and heard by [`Self::notify_if_waiting`]. Does not wait if
    /// `is_needed` says, once others can see that this thread waits, that there is work.
    pub fn wait_idle_until(&self, end: Instant, is_needed: impl FnOnce() -> bool) {
        self.is_waiting.store(true, Ordering::SeqCst);
        if !is_needed() {
            self.wait_until(end);
        }
        self.is_waiting.store(false, Ordering::SeqCst);
    }
}
