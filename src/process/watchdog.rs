//! Keeps systemd's watchdog informed while every event loop makes progress.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::notify::Notifier;
use crate::server::lifecycle::Lifecycle;

/// Interval between checks of the loops after they were woken.
const POLL: Duration = Duration::from_millis(5);

/// Starts the watchdog thread if the unit has `WatchdogSec=`.
///
/// # Errors
/// The system refuses to start a thread.
pub(super) fn start(notifier: &Notifier, lifecycle: &Arc<Lifecycle>) -> io::Result<()> {
    let Some(period) = notifier.watchdog_period() else { return Ok(()) };
    let (notifier, lifecycle) = (notifier.clone(), Arc::clone(lifecycle));
    let watch = move || {
        // Half of the period, as sd_watchdog_enabled(3) recommends, so that a late message is not
        // taken for a hang.
        let pause = period / 2;
        loop {
            let round = lifecycle.round();
            let called = Instant::now();
            let mut is_told = false;
            while !round.is_over() {
                if called.elapsed() >= pause && !is_told {
                    is_told = true;
                    tracing::error!(
                        "an event loop makes no progress: the watchdog is not notified"
                    );
                }
                thread::sleep(POLL.min(pause));
            }
            notifier.watchdog();
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}
