//! Limits of the estimate by how much the clocks differ.

use std::time::Duration;

/// Requests of which the median difference of the clocks is taken, at least.
pub const MIN_CLOCK_SAMPLES: usize = 20;
/// The same, at most.
pub const MAX_CLOCK_SAMPLES: usize = 256;
/// Time between two of these requests, once there are enough.
pub const CLOCK_SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Time after which such a request is forgotten.
pub const CLOCK_SKEW_WINDOW: Duration = Duration::from_secs(60);
/// Time for which a process that gets no requests takes its clock for wrong, at most. It is the one above
/// at first, and twice as long each time that the clock is found wrong again.
pub const MAX_CLOCK_OFF_TIME: Duration = Duration::from_secs(15 * 60);
/// Delay of a request, compared with the fastest ones, from which on it is no such request: somebody
/// may have kept it.
pub const MAX_SIGNING_DELAY: Duration = Duration::from_secs(60);
/// The fastest ones are those of the present period of this length, and of the one before.
pub const SIGNING_DELAY_PERIOD: Duration = Duration::from_secs(3_600);
/// Change of the wall clock against the monotonic one after which they are all forgotten.
pub const MIN_CLOCK_STEP: Duration = Duration::from_secs(2);
/// Difference of the clocks from which on a warning is logged.
pub const CLOCK_SKEW_WARNING: Duration = Duration::from_secs(60);
/// Difference of the clocks from which on `/readyz` is 503: soon, calls are refused. Setting:
/// `[server] unready_at_clock_skew_secs`.
pub const DEFAULT_UNREADY_AT_CLOCK_SKEW_SECS: u64 = 270;
