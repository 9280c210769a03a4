//! A panic is a defect: it ends one connection or one HSM session, and is counted and told of.

use std::panic::{PanicHookInfo, set_hook};
use std::sync::Arc;

use super::metrics::counter::SharedCounter;

/// Has panics counted, and logged with where they happen, from now on and in all threads.
pub fn count_panics() -> Arc<SharedCounter> {
    let panics: Arc<SharedCounter> = Arc::default();
    let counter = Arc::clone(&panics);
    set_hook(Box::new(move |panic| record(panic, &counter)));
    panics
}

/// A panic's message may hold a peer's bytes, so the log gets its place alone.
pub(crate) fn record(panic: &PanicHookInfo<'_>, panics: &SharedCounter) {
    panics.add(1);
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "panic: this is a defect");
}
