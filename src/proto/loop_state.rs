//! State that the connections of one event loop share.

use std::sync::Arc;
use std::time::Instant;

use zeroize::{Zeroize as _, Zeroizing};

use super::buffer::{BufferPool, max_pooled};
use super::http::date::HttpDate;
use super::service_config::ServiceConfig;
use super::sigv4::signing_key::SigningKeys;
use super::xks::decode::Decoder;
use crate::job::{FleetHealth, Job, Request};
use crate::limits::{ANSWER_OVERHEAD_BYTES, MAX_CHUNK_LINE_BYTES, MAX_RECORD_BYTES};
use crate::observe::log::access_log::AccessLog;
use crate::observe::metrics::LoopMetrics;
use crate::policy::decisions::Decisions;

/// The time and the process's state at the start of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Monotonic time.
    pub now: Instant,
    /// Wall-clock time in seconds since 1970.
    pub unix_secs: u64,
    /// At least one token works.
    pub is_ready: bool,
    /// The clock is too far off to be ready.
    pub is_clock_off: bool,
    /// The process is about to stop: answers end the connections that are open already.
    pub is_draining: bool,
    /// Accepting ends soon: answers end the connections too that were made while draining.
    pub is_sending_away: bool,
    /// No new connections are accepted: answers end all connections, and idle ones are closed after
    /// a while.
    pub is_stopping: bool,
    /// The event loop cannot keep up with requests of the connection's kind: those that have waited
    /// too long are refused.
    pub is_congested: bool,
}

/// One event loop's configuration, pools and scratch memory.
pub struct LoopState {
    /// Configuration, the same for all loops.
    pub service: Arc<ServiceConfig>,
    /// Number of this loop, for [`crate::job::ReplyTo`].
    pub event_loop: u16,
    /// Bytes to be sent, appended by [`super::Connection::step`] and similar methods.
    pub out: Vec<u8>,
    /// The log with one line per call.
    pub access_log: AccessLog,
    /// Counters of this loop.
    pub metrics: Arc<LoopMetrics>,
    /// Number of changes of the fleet: a [`crate::job::TokenIndex`] is valid within one of them.
    pub fleet: u32,
    /// The fleet's health, for the health call.
    pub(super) health: Arc<FleetHealth>,
    /// Labels of the tokens, by [`crate::job::TokenIndex`], for the log.
    pub(super) token_labels: Vec<Box<str>>,
    pub(super) buffers: BufferPool,
    pub(super) signing_keys: SigningKeys,
    /// Earliest time of the next sample of the difference of the clocks; `None` means any.
    pub(super) next_clock_sample: Option<Instant>,
    pub(super) decoder: Decoder,
    pub(super) decisions: Decisions,
    pub(super) date: HttpDate,
    pub(super) body: Vec<u8>,
    requests: Vec<Arc<Request>>,
    outputs: Vec<Zeroizing<Vec<u8>>>,
    next_serial: u64,
}

impl LoopState {
    /// Makes the state of event loop number `event_loop`.
    #[must_use]
    pub fn new(service: Arc<ServiceConfig>, event_loop: u16, access_log: AccessLog) -> Self {
        let answer_bytes = answer_bytes(&service);
        Self {
            event_loop,
            out: Vec::with_capacity(answer_bytes),
            access_log,
            metrics: Arc::default(),
            fleet: 0,
            health: Arc::default(),
            token_labels: Vec::new(),
            buffers: BufferPool::new(buffer_bytes(&service)),
            signing_keys: SigningKeys::new(service.credentials()),
            next_clock_sample: None,
            decoder: Decoder::default(),
            decisions: Decisions::default(),
            date: HttpDate::default(),
            body: Vec::with_capacity(answer_bytes),
            requests: Vec::new(),
            outputs: Vec::new(),
            next_serial: 0,
            service,
        }
    }

    /// Adopts a new configuration, between two turns. Jobs at the HSM are answered as they were
    /// submitted.
    pub fn adopt(&mut self, service: Arc<ServiceConfig>) {
        self.buffers.enlarge(buffer_bytes(&service));
        for memory in [&mut self.out, &mut self.body] {
            debug_assert!(memory.is_empty());
            memory.reserve_exact(answer_bytes(&service));
        }
        // The signing key of an access key id whose secret has changed must no longer be found.
        self.signing_keys = SigningKeys::new(service.credentials());
        self.service = service;
    }

    /// Updates the fleet's health.
    pub fn set_health(&mut self, health: Arc<FleetHealth>) {
        if !Arc::ptr_eq(&health, &self.health) {
            self.token_labels =
                health.tokens.iter().map(|token| token.label.as_str().into()).collect();
            self.health = health;
        }
    }

    /// Memory of the receive buffers that connections hold, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffers.held_bytes()
    }

    /// The largest part of it that one connection can hold.
    #[must_use]
    pub fn max_held_bytes_per_connection(&self) -> usize {
        self.buffers.large_bytes()
    }

    pub(super) fn take_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    pub(super) fn take_request(&mut self) -> Arc<Request> {
        self.requests.pop().unwrap_or_default()
    }

    pub(super) fn take_output(&mut self) -> Zeroizing<Vec<u8>> {
        self.outputs.pop().unwrap_or_default()
    }

    /// Wipes a request's memory and keeps it for reuse. If an attempt still holds it, it is not
    /// kept, and the last attempt wipes it.
    pub(super) fn recycle_request(&mut self, mut request: Arc<Request>) {
        if let Some(request) = Arc::get_mut(&mut request) {
            request.wipe();
        } else {
            return;
        }
        if self.requests.len() < max_pooled(request.input.capacity()) {
            self.requests.push(request);
        }
    }

    /// Wipes an answer's memory and keeps it for reuse.
    pub fn recycle_output(&mut self, mut output: Zeroizing<Vec<u8>>) {
        output.zeroize();
        if self.outputs.len() < max_pooled(output.capacity()) {
            self.outputs.push(output);
        }
    }

    /// Wipes the memory of a job that was not done and keeps it for reuse.
    pub fn recycle_job(&mut self, job: Job) {
        self.recycle_output(job.output);
        self.recycle_request(job.request);
    }

    /// Wipes the remains of an interrupted request.
    pub fn reset(&mut self) {
        self.clear_out();
        wipe(&mut self.body);
    }

    /// Wipes bytes that have been sent.
    pub fn clear_out(&mut self) {
        wipe(&mut self.out);
    }

    /// Wipes an answer's body, which has been copied to [`Self::out`].
    pub(super) fn clear_body(&mut self) {
        wipe(&mut self.body);
    }
}

/// The size of a large buffer: the TLS record that completes a request may hold more than its end.
fn buffer_bytes(service: &ServiceConfig) -> usize {
    service.max_request_bytes() + MAX_CHUNK_LINE_BYTES + 2 * MAX_RECORD_BYTES
}

/// The size of an answer's memory. Memory that never grows leaves no copy of a plaintext behind.
fn answer_bytes(service: &ServiceConfig) -> usize {
    service.options.max_plaintext_in_base64 + ANSWER_OVERHEAD_BYTES
}

/// Wipes the bytes in use; `Vec::zeroize` would wipe the whole allocation each time. The rest has
/// been wiped before, since these vectors are shortened in no other way.
fn wipe(bytes: &mut Vec<u8>) {
    bytes.as_mut_slice().zeroize();
    bytes.clear();
}
