//! Everything on which the order of events between threads depends: locks, atomics, threads, the
//! clock and random numbers.
//!
//! Code that hands work from one thread to another takes these from here and from nowhere else. In
//! an ordinary build they are the originals. With the feature `models` they are simulated by
//! shuttle, which runs all threads of a scenario in one, chooses at each operation which of them
//! goes on, and can repeat any order of events that it has found to fail.

#[cfg(all(test, feature = "models"))]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod check;
#[cfg(feature = "models")]
mod model;
#[cfg(not(feature = "models"))]
mod native;

#[cfg(feature = "models")]
pub use model::{Condvar, Mutex, MutexGuard, atomic, clock, cores, mpsc, random, thread};
#[cfg(not(feature = "models"))]
pub use native::{Condvar, Mutex, MutexGuard, atomic, clock, cores, mpsc, random, thread};
