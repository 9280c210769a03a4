//! A simulated peer and HSM around the protocol core: no socket, no thread, no clock.

pub mod hsm;
pub mod signer;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xks_proxy::job::{Completion, FleetHealth, HealthStatus, Job, TokenHealth};
use xks_proxy::observe::log::access_log::AccessLog;
use xks_proxy::observe::redaction::Secret;
use xks_proxy::proto::service_config::Timeouts;
use xks_proxy::proto::{
    Connection, CredentialConfig, Listener, LoopState, ServiceConfig, ServiceOptions, Snapshot,
    Step, StoreConfig, Wait,
};

use hsm::MemoryHsm;
use wire::Response;

/// The store that most tests call.
pub const PREFIX: &str = "/example/store-1";
/// Its access key id.
pub const ACCESS_KEY_ID: &str = "AKIDEXAMPLEAKIDEXAMPLE";
/// Its secret access key.
pub const SECRET: &str = "wJalrXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdefg";
/// Another store, of another customer.
pub const OTHER_PREFIX: &str = "/example/store-2";
/// Its access key id.
pub const OTHER_ACCESS_KEY_ID: &str = "OTHEREXAMPLEOTHEREXAMPLE";
/// Its secret access key.
pub const OTHER_SECRET: &str = "zzzzzzUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdefg";
/// AWS Region in the signatures' scope.
pub const REGION: &str = "eu-west-1";
/// Service in the signatures' scope.
pub const SERVICE: &str = "kms-xks-proxy";
/// A key that is in the store and in the HSM.
pub const KEY: &str = "key-1";
/// 2024-02-29T12:00:00Z
pub const NOON: u64 = 1_709_208_000;

/// The service that most tests use: two stores.
pub fn service() -> ServiceConfig {
    service_of(stores())
}

/// The usual service with these stores.
pub fn service_of(stores: Vec<StoreConfig>) -> ServiceConfig {
    ServiceConfig::new(options(), stores, None, None)
}

/// Options of the usual service. Each timeout has a different length, so that a test notices if one
/// is used instead of another.
pub fn options() -> ServiceOptions {
    let timeouts = Timeouts {
        request: Duration::from_millis(180),
        head: Duration::from_secs(10),
        body: Duration::from_secs(11),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(12),
        handshake: Duration::from_secs(13),
    };
    ServiceOptions::new(REGION, SERVICE, timeouts)
}

/// The stores of the usual service.
pub fn stores() -> Vec<StoreConfig> {
    vec![
        store(PREFIX, &[(ACCESS_KEY_ID, SECRET)], &[KEY, "key-2", "not-in-hsm"]),
        store(OTHER_PREFIX, &[(OTHER_ACCESS_KEY_ID, OTHER_SECRET)], &["key-3"]),
    ]
}

/// A store with these credentials and external key ids.
pub fn store(prefix: &str, credentials: &[(&str, &str)], key_ids: &[&str]) -> StoreConfig {
    StoreConfig {
        uri_path_prefix: prefix.to_owned(),
        credentials: credentials.iter().map(|(id, secret)| credential(id, secret)).collect(),
        key_ids: key_ids.iter().map(|key_id| (*key_id).to_owned()).collect(),
        ..StoreConfig::default()
    }
}

/// A credential.
pub fn credential(access_key_id: &str, secret: &str) -> CredentialConfig {
    CredentialConfig {
        access_key_id: access_key_id.to_owned(),
        secret_access_key: Secret::new(secret.to_owned()),
        created_unix_secs: None,
    }
}

/// A connection, observed from both ends.
pub struct Rig {
    pub loop_state: LoopState,
    /// The connection; `None` once closed.
    pub connection: Option<Connection>,
    pub hsm: MemoryHsm,
    pub snapshot: Snapshot,
    /// Jobs submitted and not yet done; only with [`Self::hold_jobs`].
    pub jobs: VecDeque<Job>,
    /// Set if jobs wait for [`Self::work`] instead of being done at once.
    pub hold_jobs: bool,
    /// Set if answers stay unsent until [`Self::take_answer`].
    pub hold_answers: bool,
    /// Bytes sent by the peer for which the connection has had no room yet.
    pub inbox: Vec<u8>,
    /// All bytes that the peer has received.
    pub answers: Vec<u8>,
    pub listener: Listener,
}

impl Rig {
    /// Makes a rig with the usual service.
    pub fn usual() -> Self {
        Self::new(service())
    }

    pub fn new(service: ServiceConfig) -> Self {
        Self::on(Listener::Api, service)
    }

    #[allow(clippy::default_constructed_unit_structs, reason = "not its one form")]
    pub fn on(listener: Listener, service: ServiceConfig) -> Self {
        let hsm = MemoryHsm::new(&service);
        let snapshot = Snapshot {
            now: Instant::now(),
            unix_secs: NOON,
            is_ready: true,
            is_clock_off: false,
            is_draining: false,
            is_sending_away: false,
            is_stopping: false,
            is_congested: false,
        };
        let mut loop_state = LoopState::new(Arc::new(service), 3, AccessLog::default());
        loop_state.set_health(Arc::new(fleet()));
        Self {
            loop_state,
            connection: Some(Connection::new(listener, None, &snapshot)),
            hsm,
            snapshot,
            jobs: VecDeque::new(),
            hold_jobs: false,
            hold_answers: false,
            inbox: Vec::new(),
            answers: Vec::new(),
            listener,
        }
    }

    /// Opens a new connection to the same proxy.
    pub fn reconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close(&mut self.loop_state);
        }
        self.inbox.clear();
        self.answers.clear();
        self.connection = Some(Connection::new(self.listener, None, &self.snapshot));
    }

    pub fn is_closed(&self) -> bool {
        self.connection.is_none()
    }

    /// Sends bytes from the peer and lets everything happen that can.
    pub fn send(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        self.pump(usize::MAX);
    }

    /// Does the same with the bytes arriving in pieces of at most `piece`.
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        self.inbox.extend_from_slice(bytes);
        self.pump(piece);
    }

    /// Sends one request on its own connection, and expects one answer.
    pub fn ask(&mut self, request: &[u8]) -> Response {
        self.reconnect();
        self.send(request);
        let mut responses = self.responses();
        assert_eq!(responses.len(), 1, "one request, one answer");
        responses.remove(0)
    }

    /// Passes on what is in the inbox as long as the connection has room for it.
    pub fn pump(&mut self, piece: usize) {
        while let Some(connection) = &mut self.connection {
            let room = connection.room(&self.loop_state).min(piece).min(self.inbox.len());
            if room == 0 {
                return;
            }
            let bytes: Vec<u8> = self.inbox.drain(..room).collect();
            connection.receive(&mut self.loop_state, self.snapshot.now, &bytes);
            let step = connection.step(&mut self.loop_state, &self.snapshot);
            self.drive(step);
        }
    }

    /// Closes the peer's sending side.
    pub fn end_input(&mut self) {
        if let Some(connection) = &mut self.connection {
            let step = connection.peer_closed(&mut self.loop_state, &self.snapshot);
            self.drive(step);
        }
    }

    /// Lets time pass; if the connection's wait ends by then, it is notified.
    pub fn pass(&mut self, duration: Duration) {
        self.snapshot.now += duration;
        self.snapshot.unix_secs += duration.as_secs();
        let timeouts = self.loop_state.service.options.timeouts;
        let Some(connection) = &mut self.connection else { return };
        let end = match connection.wait() {
            Wait::Idle(since) => since + timeouts.idle,
            Wait::Head(since) => since + timeouts.head,
            Wait::Body(since) => since + timeouts.body,
            Wait::Hsm(until) => until,
            Wait::Send(since) => since + timeouts.write,
        };
        if self.snapshot.now >= end {
            let step = connection.timed_out(&mut self.loop_state, &self.snapshot);
            self.drive(step);
        }
    }

    /// Does the oldest waiting job; its answer is delivered if it is still awaited. Returns whether
    /// it was.
    pub fn work(&mut self) -> bool {
        let job = self.jobs.pop_front().expect("a job waits");
        let completion = self.hsm.work(job);
        self.complete(completion)
    }

    /// Delivers an answer from the HSM side. Returns whether it was awaited.
    pub fn complete(&mut self, completion: Completion) -> bool {
        match &mut self.connection {
            Some(connection) if connection.waits_for(completion.reply_to.serial) => {
                let step = connection.complete(&mut self.loop_state, &self.snapshot, completion);
                self.drive(step);
                self.pump(usize::MAX);
                true
            }
            _ => {
                self.loop_state.recycle_output(completion.output);
                false
            }
        }
    }

    /// Completes the sending of the held answer, if there is one.
    pub fn take_answer(&mut self) {
        if let Some(connection) = &mut self.connection
            && matches!(connection.wait(), Wait::Send(_))
        {
            let step = connection.sent(&mut self.loop_state, &self.snapshot);
            self.drive(step);
            self.pump(usize::MAX);
        }
    }

    /// Handles a step as the server does.
    pub fn drive(&mut self, mut step: Step) {
        loop {
            self.answers.extend_from_slice(&self.loop_state.out);
            self.loop_state.clear_out();
            let Some(connection) = &mut self.connection else { return };
            step = match step {
                Step::Receive => return,
                Step::Submit(job) if self.hold_jobs => {
                    self.jobs.push_back(job);
                    return;
                }
                Step::Submit(job) => {
                    let completion = self.hsm.work(job);
                    connection.complete(&mut self.loop_state, &self.snapshot, completion)
                }
                Step::Send if self.hold_answers => return,
                Step::Send => connection.sent(&mut self.loop_state, &self.snapshot),
                Step::Close => {
                    if let Some(connection) = self.connection.take() {
                        connection.close(&mut self.loop_state);
                    }
                    return;
                }
            };
        }
    }

    /// Returns all answers so far, each of which must be well-formed, with nothing after the last.
    pub fn responses(&mut self) -> Vec<Response> {
        wire::parse_all(&std::mem::take(&mut self.answers), false)
    }
}

/// The fleet reported by GetHealthStatus.
pub fn fleet() -> FleetHealth {
    FleetHealth {
        tokens: vec![TokenHealth {
            id: "0123".to_owned(),
            label: "token".to_owned(),
            model: "memory 1.0".to_owned(),
            manufacturer: "tests".to_owned(),
            status: HealthStatus::Active,
        }],
    }
}
