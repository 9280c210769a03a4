//! Tokens whose behaviour the test sets.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use xks_proxy::hsm::backend::{
    Backend, Evidence, Failed, Fault, Health, Identity, KeyChoice, OpenError, Session,
};
use xks_proxy::hsm::inventory::TokenInventory;
use xks_proxy::job::{KeyIndex, Request, Success};

/// A call of a fake session: the session's number, and the request.
pub type Perform = dyn Fn(&Fake, usize, &Request) -> Result<(), Fault> + Send + Sync;

/// A token whose behaviour the test sets.
pub struct Fake {
    pub name: &'static str,
    pub perform: Box<Perform>,
    /// The error with which opening a session fails, if set.
    pub refusal: Mutex<Option<OpenError>>,
    /// The outcome of a known-good operation with another key.
    pub evidence: Mutex<Evidence>,
    /// The fault with which health checks fail, if set.
    pub sickness: Mutex<Option<Fault>>,
    pub probes_hang: AtomicBool,
    pub probes_panic: AtomicBool,
    pub probes: AtomicUsize,
    /// Number of health checks that have panicked.
    pub panics: AtomicUsize,
    pub lacks_key: AtomicBool,
    pub opens: AtomicUsize,
    pub open_now: AtomicUsize,
    pub most_open: AtomicUsize,
    pub calls: AtomicUsize,
    /// A counter for tests.
    pub counted: AtomicUsize,
    pub reinitialized: AtomicUsize,
    pub closed: AtomicUsize,
    pub gate: Gate,
}

/// Barrier that calls can be made to wait at.
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    inside: AtomicUsize,
    condvar: Condvar,
}

impl Gate {
    pub fn pass(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            is_open = self.condvar.wait(is_open).unwrap();
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.condvar.notify_all();
    }

    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }
}

impl Fake {
    pub fn new(
        perform: impl Fn(&Fake, usize, &Request) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::named("fake", perform)
    }

    pub fn named(
        name: &'static str,
        perform: impl Fn(&Fake, usize, &Request) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            perform: Box::new(perform),
            refusal: Mutex::default(),
            evidence: Mutex::new(Evidence::Unavailable),
            sickness: Mutex::default(),
            probes_hang: AtomicBool::new(false),
            probes_panic: AtomicBool::new(false),
            probes: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
            lacks_key: AtomicBool::new(false),
            opens: AtomicUsize::new(0),
            open_now: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            counted: AtomicUsize::new(0),
            reinitialized: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            gate: Gate::default(),
        })
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// The fake token in the form that the engine uses.
pub struct FakeToken(pub Arc<Fake>);

struct FakeSession {
    token: Arc<Fake>,
    number: usize,
}

impl Backend for FakeToken {
    fn open(&self) -> Result<Box<dyn Session>, OpenError> {
        let number = self.0.opens.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = self.0.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        let open = self.0.open_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Box::new(FakeSession { token: Arc::clone(&self.0), number }))
    }

    fn has_key(&self, _: KeyIndex) -> bool {
        !self.0.lacks_key.load(Ordering::SeqCst)
    }

    fn take_stale(&self) -> bool {
        false
    }

    fn identity(&self) -> Identity {
        let text = || self.0.name.to_owned();
        Identity { id: text(), label: text(), model: text(), manufacturer: text() }
    }

    fn reinitialize(&self) -> bool {
        assert_eq!(self.0.open_now.load(Ordering::SeqCst), 0, "all sessions are closed before");
        self.0.reinitialized.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn cdiv_mismatches(&self) -> u64 {
        0
    }

    fn inventory(&self) -> TokenInventory {
        TokenInventory::default()
    }

    fn close(&self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Session for FakeSession {
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault> {
        self.token.calls.fetch_add(1, Ordering::SeqCst);
        (self.token.perform)(&self.token, self.number, request)?;
        output.extend_from_slice(&request.input);
        Ok(Success::Decrypted)
    }

    fn known_good(&mut self, _: Failed, _: &dyn KeyChoice) -> Evidence {
        *self.token.evidence.lock().unwrap()
    }

    fn check_health(&mut self, _: &dyn KeyChoice) -> Result<Health, Fault> {
        if self.token.probes_panic.load(Ordering::SeqCst) {
            self.token.panics.fetch_add(1, Ordering::SeqCst);
            panic!("as asked");
        }
        self.token.probes.fetch_add(1, Ordering::SeqCst);
        if self.token.probes_hang.load(Ordering::SeqCst) {
            self.token.gate.pass();
        }
        self.token.sickness.lock().unwrap().map_or(Ok(Health::Good), Err)
    }

    fn refresh_keys(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.token.open_now.fetch_sub(1, Ordering::SeqCst);
    }
}
