//! New settings for running event loops.
//! A change is built completely before it is published, and each loop adopts it at the start of its
//! next turn. So every request sees either all of a change or none of it, and is not delayed. The
//! request path takes no lock for this: it compares one number per turn.

use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::config::Config;
use super::descriptors;
use super::lifecycle::Lifecycle;
use super::tls::Acceptor;
use crate::hsm::Hsm;
use crate::proto::ServiceConfig;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, clock};

/// All settings that loops can adopt while they run.
pub(super) struct Change {
    /// Number of the change, counted from 1.
    pub(super) number: u64,
    pub(super) service: Arc<ServiceConfig>,
    pub(super) hsm: Arc<Hsm>,
    /// TLS for API connections accepted from now on.
    pub(super) tls: Option<Acceptor>,
    pub(super) admission: Arc<Admission>,
    /// Limit of each loop.
    pub(super) max_buffered_bytes: usize,
}

/// The last change, and the loops that have adopted it.
pub struct Changes {
    lifecycle: Arc<Lifecycle>,
    /// Number of the last change.
    number: AtomicU64,
    state: Mutex<State>,
    taken_up: Condvar,
}

struct State {
    last: Option<Arc<Change>>,
    admission: Arc<Admission>,
    /// Number of the change in use by each event loop.
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

    /// Passes new settings to all event loops, and returns the limit on connections that is now in
    /// use. Members of `config` that only apply at the start (addresses, keepalive, the number of
    /// loops) are ignored.
    pub fn put(&self, service: Arc<ServiceConfig>, hsm: Arc<Hsm>, config: &Config) -> usize {
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
        max_connections
    }

    /// Waits up to `timeout` until all event loops have adopted the last change, and returns
    /// whether they have.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let end = clock::now() + timeout;
        let mut state = self.state.lock();
        let number = self.number.load(Ordering::Relaxed);
        while state.adopted.iter().any(|adopted| *adopted < number) {
            if self.taken_up.wait_until(&mut state, end).timed_out() {
                return false;
            }
        }
        true
    }

    /// The last change, unless `number` is its number.
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
