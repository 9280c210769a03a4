//! Counting and logging of panics. Each is a defect, and ends one connection or one HSM session.

use std::panic::{PanicHookInfo, set_hook};
use std::sync::Arc;

use super::metrics::counter::SharedCounter;

/// Counts the panics of all threads from now on, and logs where they occur.
pub fn count_panics() -> Arc<SharedCounter> {
    let panics: Arc<SharedCounter> = Arc::default();
    let counter = Arc::clone(&panics);
    set_hook(Box::new(move |panic| record(panic, &counter)));
    panics
}

/// Logs only the location of a panic, as its message may contain a peer's bytes.
pub(crate) fn record(panic: &PanicHookInfo<'_>, panics: &SharedCounter) {
    panics.add(1);
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "panic: this is a defect");
}
