//! A cap on parallel calls.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Limits the number of calls that may be inside at the same time.
#[derive(Debug)]
pub struct Gate {
    free: Mutex<usize>,
    changed: Condvar,
}

/// One call's permission to be inside.
pub struct Permit(Arc<Gate>);

impl Gate {
    /// Makes a gate for `parallel` calls at a time.
    pub fn new(parallel: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(parallel), changed: Condvar::new() })
    }

    /// Waits for a permit.
    pub fn enter(self: &Arc<Self>) -> Permit {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(Arc::clone(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}
