//! Tells systemd's watchdog that the process lives, for as long as every event loop turns.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::notify::Notifier;
use crate::server::lifecycle::Lifecycle;

/// How often to look, once the loops have been called to turn.
const POLL: Duration = Duration::from_millis(5);

/// Starts it, if the unit has `WatchdogSec=`.
///
/// # Errors
/// The system has no room for another thread.
pub(super) fn start(notifier: &Notifier, lifecycle: &Arc<Lifecycle>) -> io::Result<()> {
    let Some(period) = notifier.watchdog_period() else { return Ok(()) };
    let (notifier, lifecycle) = (notifier.clone(), Arc::clone(lifecycle));
    let watch = move || {
        // Half of it, as sd_watchdog_enabled(3) has it: a late message is not taken for a hang.
        let pause = period / 2;
        loop {
            let round = lifecycle.round();
            let called = Instant::now();
            let mut is_told = false;
            while !round.is_over() {
                if called.elapsed() >= pause && !is_told {
                    is_told = true;
                    tracing::error!("an event loop does not turn: the watchdog is not told");
                }
                thread::sleep(POLL.min(pause));
            }
            notifier.watchdog();
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}
