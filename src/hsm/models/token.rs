//! A token whose calls do what the scenario says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::hsm::backend::{
    Backend, Evidence, Failed, Fault, Health, Identity, KeyChoice, OpenError, Session,
};
use crate::hsm::inventory::TokenInventory;
use crate::job::{KeyIndex, Request, Success};
use crate::sync::{Condvar, Mutex};

/// One call.
pub struct ModelCall<'a> {
    pub token: &'a ModelToken,
    /// Number of calls of this token before this one.
    pub number: usize,
}

type Perform = dyn Fn(ModelCall<'_>) -> Result<(), Fault> + Send + Sync;

/// A token. Its own counts are plain atomics, since no schedule depends on them.
pub struct ModelToken {
    perform: Box<Perform>,
    pub gate: Gate,
    /// Outcome of a known-good operation with another key.
    pub evidence: Evidence,
    calls: AtomicUsize,
    in_calls: AtomicUsize,
    most_in_calls: AtomicUsize,
    open_sessions: AtomicUsize,
    /// Set if the module was released while a session was open, or used afterwards.
    is_misused: AtomicBool,
    is_closed: AtomicBool,
    opens: AtomicUsize,
    checks: AtomicUsize,
    pub health_check_hangs: AtomicBool,
    /// Makes the next opening of a session panic.
    pub open_panics: AtomicBool,
}

/// A barrier that calls wait at until it is opened.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_open: bool,
    arrivals: usize,
}

impl Gate {
    pub fn pass(&self) {
        let mut state = self.state.lock();
        state.arrivals += 1;
        self.changed.notify_all();
        while !state.is_open {
            self.changed.wait(&mut state);
        }
    }

    pub fn open(&self) {
        self.state.lock().is_open = true;
        self.changed.notify_all();
    }

    /// Waits until that many calls have arrived in all.
    pub fn wait_for(&self, arrivals: usize) {
        let mut state = self.state.lock();
        while state.arrivals < arrivals {
            self.changed.wait(&mut state);
        }
    }
}

impl ModelToken {
    pub fn new(
        perform: impl Fn(ModelCall<'_>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_evidence(Evidence::Unavailable, perform)
    }

    pub fn with_evidence(
        evidence: Evidence,
        perform: impl Fn(ModelCall<'_>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            perform: Box::new(perform),
            gate: Gate::default(),
            evidence,
            calls: AtomicUsize::new(0),
            in_calls: AtomicUsize::new(0),
            most_in_calls: AtomicUsize::new(0),
            open_sessions: AtomicUsize::new(0),
            is_misused: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            opens: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            health_check_hangs: AtomicBool::new(false),
            open_panics: AtomicBool::new(false),
        })
    }

    /// A token whose calls succeed.
    pub fn good() -> Arc<Self> {
        Self::new(|_| Ok(()))
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the number of sessions that were opened.
    pub fn opens(&self) -> usize {
        self.opens.load(Ordering::Relaxed)
    }

    /// Returns the number of health checks that have succeeded.
    pub fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }

    pub fn most_in_calls(&self) -> usize {
        self.most_in_calls.load(Ordering::Relaxed)
    }

    pub fn open_sessions(&self) -> usize {
        self.open_sessions.load(Ordering::Relaxed)
    }

    /// Asserts that the module was released once all sessions were closed.
    pub fn assert_released(&self) {
        assert_eq!(self.open_sessions(), 0, "sessions are left open");
        assert!(self.is_closed.load(Ordering::Relaxed), "the module is not released");
        assert!(!self.is_misused.load(Ordering::Relaxed), "the module was used after its release");
    }

    fn note_use(&self) {
        self.is_misused.fetch_or(self.is_closed.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The token as the engine sees it.
pub struct ModelBackend(pub Arc<ModelToken>);

struct ModelSession(Arc<ModelToken>);

impl Backend for ModelBackend {
    fn open(&self) -> Result<Box<dyn Session>, OpenError> {
        self.0.note_use();
        self.0.opens.fetch_add(1, Ordering::Relaxed);
        if self.0.open_panics.swap(false, Ordering::Relaxed) {
            // Without the message of a panic, which shuttle takes for a failure.
            std::panic::resume_unwind(Box::new("as asked"));
        }
        self.0.open_sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(ModelSession(Arc::clone(&self.0))))
    }

    fn has_key(&self, _: KeyIndex) -> bool {
        true
    }

    fn take_stale(&self) -> bool {
        false
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn reinitialize(&self) -> bool {
        false
    }

    fn cdiv_mismatches(&self) -> u64 {
        0
    }

    fn inventory(&self) -> TokenInventory {
        TokenInventory::default()
    }

    fn close(&self) {
        let is_in_use = self.0.open_sessions() > 0;
        self.0.is_misused.fetch_or(is_in_use, Ordering::Relaxed);
        self.0.is_closed.store(true, Ordering::Relaxed);
    }
}

impl Session for ModelSession {
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault> {
        let token = &self.0;
        token.note_use();
        let number = token.calls.fetch_add(1, Ordering::Relaxed);
        let in_calls = token.in_calls.fetch_add(1, Ordering::Relaxed) + 1;
        token.most_in_calls.fetch_max(in_calls, Ordering::Relaxed);
        let result = (token.perform)(ModelCall { token, number });
        token.in_calls.fetch_sub(1, Ordering::Relaxed);
        token.note_use();
        result?;
        output.extend_from_slice(&request.input);
        Ok(Success::Decrypted)
    }

    fn known_good(&mut self, _: Failed, _: &dyn KeyChoice) -> Evidence {
        self.0.evidence
    }

    fn check_health(&mut self, _: &dyn KeyChoice) -> Result<Health, Fault> {
        if self.0.health_check_hangs.load(Ordering::Relaxed) {
            self.0.gate.pass();
        }
        self.0.checks.fetch_add(1, Ordering::Relaxed);
        Ok(Health::Good)
    }

    fn refresh_keys(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Drop for ModelSession {
    fn drop(&mut self) {
        self.0.open_sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
