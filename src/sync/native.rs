//! The originals.

use std::cell::Cell;

pub use parking_lot::{Condvar, Mutex, MutexGuard};
pub use std::sync::{atomic, mpsc};
pub use std::thread;

/// The clock.
pub mod clock {
    use std::time::{Duration, Instant};

    /// Returns the current time.
    #[inline]
    #[must_use]
    pub fn now() -> Instant {
        Instant::now()
    }

    /// Returns the CPU time used by the calling thread so far. Makes a system call.
    #[must_use]
    pub fn thread_cpu_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }
}

/// Returns the number of cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns a random number by SplitMix64, with separate state for each thread. Not for secrets.
#[inline]
#[must_use]
pub fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new({
            use std::hash::{BuildHasher as _, RandomState};
            RandomState::new().hash_one(0)
        });
    }
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
