//! Where the process is between start and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mio::Waker;
use parking_lot::Mutex;

/// The state that all event loops share. It only ever moves forward.
#[derive(Default)]
pub struct Lifecycle {
    state: AtomicU8,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

const DRAINING: u8 = 1;
const STOPPING: u8 = 2;

impl Lifecycle {
    /// Readiness goes false and answers end their connections, so that load balancers move
    /// away; new connections are still served.
    pub fn drain(&self) {
        self.advance(DRAINING);
    }

    /// Accepting ends; what is in flight is finished.
    pub fn stop(&self) {
        self.advance(STOPPING);
    }

    /// Whether [`Self::drain`] or [`Self::stop`] has been called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.load(Ordering::Relaxed) >= DRAINING
    }

    /// Whether [`Self::stop`] has been called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.state.load(Ordering::Relaxed) >= STOPPING
    }

    pub(super) fn add_waker(&self, waker: Arc<Waker>) {
        self.wakers.lock().push(waker);
    }

    fn advance(&self, state: u8) {
        self.state.fetch_max(state, Ordering::Relaxed);
        self.wake();
    }

    /// Has each event loop take a turn.
    pub(super) fn wake(&self) {
        for waker in self.wakers.lock().iter() {
            // A waker fails only when its event loop's descriptor is gone, and so the loop.
            let _ = waker.wake();
        }
    }
}
