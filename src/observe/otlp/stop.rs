//! Telling the exporter's threads to end, and waiting for them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The state of the threads.
#[derive(Debug, Default)]
pub(super) struct Stop {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    must_stop: bool,
    running: usize,
}

impl Stop {
    /// Notes a thread that will call [`Self::ended`].
    pub(super) fn started(&self) {
        self.state.lock().running += 1;
    }

    pub(super) fn ended(&self) {
        let mut state = self.state.lock();
        state.running = state.running.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits, unless the threads have to end, and returns whether they do.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.must_stop && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        state.must_stop
    }

    /// Tells the threads to end, and returns whether they have within `time`.
    pub(super) fn stop(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        state.must_stop = true;
        self.changed.notify_all();
        while state.running > 0 {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.running == 0;
            }
        }
        true
    }
}
