//! Other settings for event loops at work.
//!
//! A change is made whole, then put where each loop sees it at the beginning of its next turn: so
//! no request meets one half of it, and none is held up. The request path takes no lock, it looks
//! at one number a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::admission::Admission;
use super::config::Config;
use super::descriptors;
use super::lifecycle::Lifecycle;
use super::tls::Acceptor;
use crate::hsm::Hsm;
use crate::proto::ServiceConfig;

/// All that loops can take up while they run.
pub(super) struct Change {
    /// Counts changes from 1.
    pub(super) number: u64,
    pub(super) service: Arc<ServiceConfig>,
    pub(super) hsm: Arc<Hsm>,
    /// For connections of the API that come from now on.
    pub(super) tls: Option<Acceptor>,
    pub(super) admission: Arc<Admission>,
    /// Each loop's share.
    pub(super) max_buffered_bytes: usize,
}

/// Where changes are put, and who has taken them up.
pub struct Changes {
    lifecycle: Arc<Lifecycle>,
    /// The last change's.
    number: AtomicU64,
    state: Mutex<State>,
    taken_up: Condvar,
}

struct State {
    last: Option<Arc<Change>>,
    admission: Arc<Admission>,
    /// By event loop: the number of the change that it works with.
    adopted: Vec<u64>,
}

impl Changes {
    pub(super) fn new(
        lifecycle: Arc<Lifecycle>,
        admission: Arc<Admission>,
        event_loops: usize,
    ) -> Self {
        let state = State { last: None, admission, adopted: vec![0; event_loops] };
        Self {
            lifecycle,
            number: AtomicU64::new(0),
            state: Mutex::new(state),
            taken_up: Condvar::new(),
        }
    }

    /// Has all event loops go on with these. Of `config`, what only a start can change (addresses,
    /// keepalive, the number of loops) is passed over.
    pub fn put(&self, service: Arc<ServiceConfig>, hsm: Arc<Hsm>, config: &Config) {
        let max_connections = descriptors::possible_connections(config.max_connections);
        let mut state = self.state.lock();
        let admission = Arc::new(state.admission.succeeded_by(config, max_connections));
        let number = self.number.load(Ordering::Relaxed) + 1;
        state.admission = Arc::clone(&admission);
        state.last = Some(Arc::new(Change {
            number,
            service,
            hsm,
            tls: config.tls.clone(),
            admission,
            max_buffered_bytes: config.max_buffered_bytes / state.adopted.len().max(1),
        }));
        self.number.store(number, Ordering::Release);
        drop(state);
        self.lifecycle.wake();
    }

    /// Waits until all event loops have taken up the last change, `timeout` at the most, and says
    /// whether they have.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock();
        let number = self.number.load(Ordering::Relaxed);
        while state.adopted.iter().any(|adopted| *adopted < number) {
            if self.taken_up.wait_until(&mut state, end).timed_out() {
                return false;
            }
        }
        true
    }

    /// The last change, if it is another than that number's.
    pub(super) fn after(&self, number: u64) -> Option<Arc<Change>> {
        if self.number.load(Ordering::Acquire) == number {
            return None;
        }
        self.state.lock().last.clone()
    }

    pub(super) fn adopted(&self, event_loop: u16, number: u64) {
        if let Some(adopted) = self.state.lock().adopted.get_mut(usize::from(event_loop)) {
            *adopted = number;
        }
        self.taken_up.notify_all();
    }
}
