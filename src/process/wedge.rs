//! `[pkcs11] exit_when_wedged`: the end of a process whose calls to the HSM do not return.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use signal_hook::consts::SIGTERM;

use crate::hsm::Hsm;
use crate::limits::WEDGED_TIME;

/// Interval between checks of the fleet.
const POLL: Duration = Duration::from_millis(250);

/// Makes the process drain and end once the fleet has been wedged for [`WEDGED_TIME`], and sets
/// `has_wedged` then.
///
/// # Errors
/// The system refuses to start a thread.
pub(super) fn watch(hsm: &Arc<ArcSwap<Hsm>>, has_wedged: &Arc<AtomicBool>) -> io::Result<()> {
    let (hsm, has_wedged) = (Arc::downgrade(hsm), Arc::clone(has_wedged));
    let watch = move || {
        let mut since = None;
        while let Some(hsm) = hsm.upgrade() {
            since =
                if hsm.load().is_wedged() { since.or_else(|| Some(Instant::now())) } else { None };
            drop(hsm);
            if since.is_some_and(|then: Instant| then.elapsed() >= WEDGED_TIME) {
                tracing::error!(
                    "calls to the HSM do not return; the process ends so that it is restarted"
                );
                has_wedged.store(true, Ordering::Relaxed);
                let _ = signal_hook::low_level::raise(SIGTERM);
                return;
            }
            thread::sleep(POLL);
        }
    };
    thread::Builder::new().name("wedge-watch".to_owned()).spawn(watch).map(drop)
}
