//! Model checks of the hand-off between event loops, workers and the monitor: each scenario runs
//! the real code under thousands of schedules, random ones and those that reverse few decisions
//! (PCT). A schedule that fails is printed, and `tests/models/run` repeats it.
//!
//! Tokens are replaced by [`token::ModelToken`], since only the order of events matters here.

mod breakers;
mod calls;
mod completions;
mod faults;
mod hand_off;
mod hedges;
mod keys;
mod pool;
pub(crate) mod rig;
mod stopping;
mod token;
