//! The answers that the specification and the settings ask for: a model of one connection, which
//! knows the requests that were sent instead of reading their bytes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use xks_proxy::job::{Failure, KeyAttributes};
use xks_proxy::limits::{MAX_CLOCK_SKEW, MAX_CONGESTED_WAIT, MIN_AGE_TO_SEND_AWAY};
use xks_proxy::observe::metrics::labels::{CallLabel, OutcomeLabel};
use xks_proxy::proto::{Listener, Snapshot, Wait};

use crate::requests::{Call, Target, Template};
use crate::settings::{Settings, Store, VERSIONED};

/// State that the models of all connections share.
pub struct Shared {
    pub snapshot: Snapshot,
    pub settings: Settings,
    /// Requests in flight by [`Store::quota`].
    pub quotas: Vec<u32>,
    /// Requests that wait for the HSM.
    pub in_flight: u64,
    /// Answers by store (the third entry is for no store), call and outcome.
    pub counts: [[[u64; OutcomeLabel::ALL.len()]; CallLabel::ALL.len()]; 3],
}

/// What must follow from an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// More bytes are needed; `100 Continue` is sent if set.
    More { is_continue: bool },
    /// The HSM is asked.
    Job,
    /// The answer of the HSM is awaited.
    Wait,
    /// This answer is sent.
    Answer(Answer),
    /// The answer is still to be sent.
    Unsent,
    /// The connection ends.
    Close,
}

/// An answer's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Body,
    pub is_last: bool,
    pub announces_keep_alive: bool,
    pub is_head_method: bool,
}

/// The content of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// An error of this name.
    Error(OutcomeLabel),
    /// Text.
    Text,
    /// The fleet's health.
    Health,
    /// The HSM's result.
    Result,
}

/// A request at the HSM.
pub struct Waiting {
    pub call: &'static Call,
    /// Name of the key that is asked for now.
    pub key: Key,
    pub deadline: Instant,
    /// Serial number of the job, once there is one.
    pub serial: u64,
    /// Metadata of the new ciphertext.
    pub metadata: Metadata,
    pub is_disabled: bool,
    /// The ciphertext's metadata looks like a tag, but the key has no versions.
    is_untold: bool,
    quota: Option<usize>,
    /// Attributes of the version that encrypts, and the version that is asked about.
    described: Option<(KeyAttributes, u32)>,
}

/// Ciphertext metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    bytes: [u8; 20],
    length: usize,
}

impl Metadata {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// The metadata of a new ciphertext.
    fn new(version: u32, configured: Option<&[u8]>) -> Self {
        let mut metadata = Self::default();
        if version > 1 {
            metadata.push(b"\x00k");
            metadata.push(&version.to_be_bytes());
        }
        metadata.push(configured.unwrap_or_default());
        metadata
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A key in the HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Plain(&'static str),
    Version(u32),
}

impl Key {
    /// Its name in the HSM.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain(id) => id,
            Self::Version(number) => ["v-1", "v-2", "v-3"][number as usize - 1],
        }
    }
}

enum Phase {
    Head,
    Body,
    Waiting(Box<Waiting>),
    Answered { is_last: bool },
}

/// A connection.
pub struct Model {
    listener: Listener,
    phase: Phase,
    /// Requests that have begun to arrive and are not answered.
    requests: VecDeque<&'static Template>,
    /// Bytes that have arrived, and belong to them.
    buffered: usize,
    /// Bytes of empty lines before the first of them that are no longer buffered.
    stripped: usize,
    started: Instant,
    since: Instant,
    opened: Instant,
    is_half_closed: bool,
    answered: u64,
    /// The request is authentic; the peer is proven once it is answered.
    is_authentic: bool,
    pub is_proven: bool,
    came_late: bool,
}

type Judged = Result<Result<Box<Waiting>, (u16, Body)>, OutcomeLabel>;

impl Model {
    pub fn new(listener: Listener, snapshot: &Snapshot) -> Self {
        Self {
            listener,
            phase: Phase::Head,
            requests: VecDeque::new(),
            buffered: 0,
            stripped: 0,
            started: snapshot.now,
            since: snapshot.now,
            opened: snapshot.now,
            is_half_closed: false,
            answered: 0,
            is_authentic: false,
            is_proven: false,
            came_late: snapshot.is_draining,
        }
    }

    pub fn wait(&self) -> Wait {
        match &self.phase {
            Phase::Head if self.buffered == 0 => Wait::Idle(self.since),
            Phase::Head => Wait::Head(self.started),
            Phase::Body => Wait::Body(self.since),
            Phase::Waiting(waiting) => Wait::Hsm(waiting.deadline),
            Phase::Answered { .. } => Wait::Send(self.since),
        }
    }

    pub fn waiting(&self) -> Option<&Waiting> {
        match &self.phase {
            Phase::Waiting(waiting) => Some(waiting),
            _ => None,
        }
    }

    /// Notes the job that asks the HSM.
    pub fn submitted(&mut self, serial: u64) {
        if let Phase::Waiting(waiting) = &mut self.phase {
            waiting.serial = serial;
        }
    }

    pub fn holds_bytes(&self) -> bool {
        self.buffered > 0
    }

    /// Notes a request whose first bytes are about to arrive.
    pub fn begin(&mut self, template: &'static Template) {
        self.requests.push_back(template);
    }

    /// Notes bytes that have arrived.
    pub fn receive(&mut self, count: usize, shared: &Shared) {
        if self.buffered == 0 && count > 0 {
            self.started = shared.snapshot.now;
        }
        self.buffered += count;
    }

    /// The consequence of the bytes that have arrived.
    pub fn advance(&mut self, shared: &mut Shared) -> Expected {
        match self.phase {
            Phase::Waiting(_) => return Expected::Wait,
            Phase::Answered { .. } => return Expected::Unsent,
            Phase::Head | Phase::Body => {}
        }
        let more = if self.is_half_closed {
            Expected::Close
        } else {
            Expected::More { is_continue: false }
        };
        let Some(&template) = self.requests.front() else { return more };
        while self.stripped < template.leading && self.buffered >= 2 {
            self.stripped += 2;
            self.buffered -= 2;
        }
        let arrived = self.stripped + self.buffered.min(template.end - self.stripped);
        if let Some(refusal) = template.refusal
            && arrived >= refusal.at
        {
            return self.refuse(shared, refusal.status, refusal.error);
        }
        let mut is_continue = false;
        if matches!(self.phase, Phase::Head) {
            if arrived < template.head {
                return more;
            }
            let max_body = shared.settings.max_body();
            if template.content_length.is_some_and(|length| length > max_body) {
                return self.refuse(shared, 413, OutcomeLabel::Validation);
            }
            if arrived < template.end {
                is_continue = template.expects_continue && arrived == template.head;
                self.phase = Phase::Body;
                self.since = shared.snapshot.now;
            }
        }
        match more {
            _ if arrived >= template.end => self.judge(shared, template),
            Expected::More { .. } => Expected::More { is_continue },
            more => more,
        }
    }

    pub fn peer_closed(&mut self, shared: &mut Shared) -> Expected {
        self.is_half_closed = true;
        match self.phase {
            Phase::Head | Phase::Body => self.advance(shared),
            // The core says that it wants nothing, whether or not the answer has been sent.
            Phase::Waiting(_) | Phase::Answered { .. } => Expected::Wait,
        }
    }

    pub fn sent(&mut self, shared: &mut Shared) -> Expected {
        if let Phase::Answered { is_last } = self.phase {
            if is_last {
                return Expected::Close;
            }
            self.phase = Phase::Head;
            self.since = shared.snapshot.now;
            self.started = shared.snapshot.now;
        }
        self.advance(shared)
    }

    pub fn timed_out(&mut self, shared: &mut Shared) -> Expected {
        match self.phase {
            Phase::Head if self.buffered == 0 => Expected::Close,
            Phase::Head | Phase::Body => self.refuse(shared, 408, OutcomeLabel::Validation),
            Phase::Waiting(_) => self.fail(shared, Failure::TimedOut),
            Phase::Answered { .. } => Expected::Close,
        }
    }

    /// Notes that the connection has ended.
    pub fn close(mut self, shared: &mut Shared) {
        let _ = self.end_waiting(shared);
    }

    fn take_waiting(&mut self, shared: &mut Shared) -> Option<Box<Waiting>> {
        match std::mem::replace(&mut self.phase, Phase::Head) {
            Phase::Waiting(waiting) => {
                shared.in_flight -= 1;
                Some(waiting)
            }
            other => {
                self.phase = other;
                None
            }
        }
    }

    fn refuse(&mut self, shared: &mut Shared, status: u16, error: OutcomeLabel) -> Expected {
        self.requests.clear();
        self.buffered = 0;
        count_nowhere(shared, error);
        Expected::Answer(self.answered(shared, status, Body::Error(error), None))
    }

    /// Notes an answer. `template` is its request, unless nothing can follow.
    fn answered(
        &mut self,
        shared: &Shared,
        status: u16,
        body: Body,
        template: Option<&Template>,
    ) -> Answer {
        let snapshot = &shared.snapshot;
        self.answered += 1;
        self.is_proven |= std::mem::take(&mut self.is_authentic);
        let max_requests = shared.settings.max_requests;
        let is_of_the_hsm =
            matches!(body, Body::Error(OutcomeLabel::Internal | OutcomeLabel::DependencyTimeout));
        let is_old = snapshot.now - self.opened >= MIN_AGE_TO_SEND_AWAY;
        let is_last = template.is_none_or(|template| template.is_last)
            || (snapshot.is_draining && (!self.came_late || snapshot.is_sending_away))
            || snapshot.is_stopping
            || (self.is_half_closed && self.buffered == 0)
            || (max_requests > 0 && self.answered >= max_requests)
            || (is_of_the_hsm && is_old && !snapshot.is_ready);
        if is_last {
            self.requests.clear();
            self.buffered = 0;
        }
        self.phase = Phase::Answered { is_last };
        self.since = snapshot.now;
        Answer {
            status,
            body,
            is_last,
            announces_keep_alive: template.is_some_and(|it| it.announces_keep_alive) && !is_last,
            is_head_method: template.is_some_and(|it| it.is_head_method),
        }
    }

    /// Notes the answer to the first request, and counts it.
    fn answer(&mut self, shared: &mut Shared, status: u16, body: Body) -> Expected {
        let template = self.requests.pop_front().expect("a request is answered");
        self.buffered -= template.end - self.stripped;
        self.stripped = 0;
        let outcome = match body {
            Body::Error(error) => error,
            _ => OutcomeLabel::Ok,
        };
        match &template.target {
            Target::LoadBalancer { is_allowed: true, .. } => {}
            Target::LoadBalancer { .. } => count_nowhere(shared, outcome),
            // The listener for load balancers knows no calls.
            Target::Nowhere => count_nowhere(shared, outcome),
            Target::Call(_) if self.listener == Listener::Ping => count_nowhere(shared, outcome),
            Target::Call(call) => {
                let store = shared.settings.stores.get(call.store);
                let store = if store.is_some_and(Option::is_some) { call.store } else { 2 };
                shared.counts[store][call.label as usize][outcome as usize] += 1;
            }
        }
        Expected::Answer(self.answered(shared, status, body, Some(template)))
    }

    fn error(&mut self, shared: &mut Shared, error: OutcomeLabel) -> Expected {
        self.answer(shared, status_of(error), Body::Error(error))
    }

    /// Decides about a request that has arrived.
    fn judge(&mut self, shared: &mut Shared, template: &'static Template) -> Expected {
        let snapshot = shared.snapshot;
        match &template.target {
            Target::Nowhere => self.error(shared, OutcomeLabel::InvalidUriPath),
            Target::Call(_) if self.listener == Listener::Ping => {
                self.error(shared, OutcomeLabel::InvalidUriPath)
            }
            Target::LoadBalancer { is_allowed: false, .. } => {
                self.answer(shared, 405, Body::Error(OutcomeLabel::Validation))
            }
            Target::LoadBalancer { is_readiness, .. } => {
                let is_ready = snapshot.is_ready && !snapshot.is_draining && !snapshot.is_clock_off;
                let status = if *is_readiness && !is_ready { 503 } else { 200 };
                self.answer(shared, status, Body::Text)
            }
            Target::Call(call) => match self.judge_call(shared, template, call) {
                Err(error) if error == OutcomeLabel::Validation && !call.is_post => {
                    self.answer(shared, 405, Body::Error(error))
                }
                Err(error) => self.error(shared, error),
                Ok(Err((status, body))) => self.answer(shared, status, body),
                Ok(Ok(waiting)) => {
                    if let Some(quota) = waiting.quota {
                        shared.quotas[quota] += 1;
                    }
                    self.ask(shared, waiting)
                }
            },
        }
    }

    fn ask(&mut self, shared: &mut Shared, mut waiting: Box<Waiting>) -> Expected {
        waiting.deadline = self.started + shared.settings.timeouts.request;
        shared.in_flight += 1;
        self.phase = Phase::Waiting(waiting);
        Expected::Job
    }

    /// The checks of a call, in the order of the specification.
    fn judge_call(&mut self, shared: &Shared, template: &Template, call: &'static Call) -> Judged {
        use OutcomeLabel::{
            AuthenticationFailed, InvalidState, InvalidUriPath, KeyNotFound, Throttling, Validation,
        };
        let (settings, snapshot) = (&shared.settings, &shared.snapshot);
        let store = settings.stores.get(call.store).and_then(Option::as_ref);
        let store = store.ok_or(InvalidUriPath)?;
        if !call.is_post {
            return Err(Validation);
        }
        let is_health = call.label == CallLabel::Health;
        let waited = snapshot.now - self.started;
        let max_wait = MAX_CONGESTED_WAIT.min(settings.timeouts.request / 2);
        if !is_health && snapshot.is_congested && waited >= max_wait {
            return Err(Throttling);
        }
        let is_known = call.credential.is_some_and(|signer| store.credentials.contains(&signer));
        let skew = Duration::from_secs(snapshot.unix_secs.abs_diff(template.signed_at));
        if settings.is_signed && (!is_known || skew > MAX_CLOCK_SKEW) {
            return Err(AuthenticationFailed);
        }
        self.is_authentic = true;
        if !call.is_json_type || !call.is_valid {
            return Err(Validation);
        }
        if is_health {
            return Ok(Err((200, Body::Health)));
        }
        if !store.has(call.key) {
            return Err(KeyNotFound);
        }
        let is_disabled = store.has_disabled(call.key);
        if is_disabled && call.label != CallLabel::Metadata {
            return Err(InvalidState);
        }
        let quota = store.max_in_flight.map(|max| (store.quota, max));
        if quota.is_some_and(|(quota, max)| shared.quotas[quota] >= max) {
            return Err(Throttling);
        }
        let mut waiting = Box::new(Waiting {
            call,
            key: Key::Plain(call.key),
            deadline: snapshot.now,
            serial: 0,
            metadata: Metadata::default(),
            is_disabled,
            is_untold: false,
            quota: quota.map(|(quota, _)| quota),
            described: None,
        });
        choose_key(&mut waiting, store, settings)?;
        if call.label != CallLabel::Metadata {
            check_sizes(call, settings)?;
        }
        Ok(Ok(waiting))
    }

    /// The consequence of a job that has failed, or was refused.
    pub fn fail(&mut self, shared: &mut Shared, failure: Failure) -> Expected {
        let Some(waiting) = self.end_waiting(shared) else { return Expected::Wait };
        let error = match failure {
            Failure::InvalidCiphertext if waiting.is_untold => OutcomeLabel::Internal,
            failure => error_of(failure),
        };
        self.error(shared, error)
    }

    fn end_waiting(&mut self, shared: &mut Shared) -> Option<Box<Waiting>> {
        let waiting = self.take_waiting(shared)?;
        if let Some(quota) = waiting.quota {
            shared.quotas[quota] -= 1;
        }
        Some(waiting)
    }

    /// The consequence of an encryption or a decryption that has succeeded.
    pub fn succeed(&mut self, shared: &mut Shared) -> Expected {
        match self.end_waiting(shared) {
            Some(_) => self.answer(shared, 200, Body::Result),
            None => Expected::Wait,
        }
    }

    /// The consequence of a completed question for a key's attributes (`None`: the HSM does not
    /// have exactly one such key), and the attributes to be reported.
    pub fn describe(
        &mut self,
        shared: &mut Shared,
        attributes: Result<KeyAttributes, Failure>,
    ) -> (Expected, Option<KeyAttributes>) {
        let Some(mut waiting) = self.take_waiting(shared) else { return (Expected::Wait, None) };
        let is_missing = matches!(
            attributes,
            Err(Failure::KeyNotFound | Failure::KeyAmbiguous(_) | Failure::KeysDiffer)
        );
        let attributes = match (attributes, waiting.described) {
            (Err(_), Some(_)) if is_missing => None,
            (Err(failure), _) => {
                self.phase = Phase::Waiting(waiting);
                shared.in_flight += 1;
                return (self.fail(shared, failure), None);
            }
            (Ok(attributes), _) => Some(attributes),
        };
        let first = waiting.described.map(|(first, _)| first).or(attributes).expect("one or other");
        let may_decrypt = attributes.is_some_and(|it| it.decrypt);
        let after = waiting.described.map_or(0, |(_, version)| version);
        let store = shared.settings.stores[waiting.call.store].as_ref();
        let next = store.filter(|_| !may_decrypt && waiting.call.key == VERSIONED);
        let next = next.and_then(|store| {
            let encrypts = store.encrypt_with?;
            let is_next = |version: &u32| *version != encrypts && store.decrypts(*version);
            (after + 1..=3).find(is_next)
        });
        if let Some(version) = next {
            waiting.described = Some((first, version));
            waiting.key = Key::Version(version);
            return (self.ask(shared, waiting), None);
        }
        if let Some(quota) = waiting.quota {
            shared.quotas[quota] -= 1;
        }
        let reported = KeyAttributes { decrypt: may_decrypt, ..first };
        (self.answer(shared, 200, Body::Result), Some(reported))
    }
}

fn count_nowhere(shared: &mut Shared, outcome: OutcomeLabel) {
    shared.counts[2][CallLabel::None as usize][outcome as usize] += 1;
}

/// Chooses the key, and the metadata of a new ciphertext.
fn choose_key(
    waiting: &mut Waiting,
    store: &Store,
    settings: &Settings,
) -> Result<(), OutcomeLabel> {
    let call = waiting.call;
    let encrypts = store.encrypt_with.filter(|_| call.key == VERSIONED);
    if let Some(encrypts) = encrypts {
        waiting.key = Key::Version(encrypts);
    }
    match call.label {
        CallLabel::Encrypt => {
            waiting.metadata = Metadata::new(encrypts.unwrap_or(1), settings.ciphertext_metadata);
        }
        CallLabel::Decrypt => {
            let metadata = call.metadata.unwrap_or_default();
            waiting.metadata.push(metadata);
            let tagged = metadata.strip_prefix(b"\x00k").map(|number| u32::from(number[3]));
            if encrypts.is_none() {
                waiting.is_untold = tagged.is_some();
                return Ok(());
            }
            let version = tagged.unwrap_or(1);
            if version > 3 {
                return Err(OutcomeLabel::Internal);
            }
            if !store.decrypts(version) {
                return Err(OutcomeLabel::InvalidState);
            }
            waiting.key = Key::Version(version);
        }
        _ => {}
    }
    Ok(())
}

fn check_sizes(call: &Call, settings: &Settings) -> Result<(), OutcomeLabel> {
    let aad = call.aad.map_or(0, |(length, _)| usize::from(length).div_ceil(3) * 4);
    if call.encoded_bytes > settings.max_plaintext || aad > settings.max_aad {
        return Err(OutcomeLabel::UnsupportedOperation);
    }
    Ok(())
}

/// The status of an error (XKS specification, Error codes).
fn status_of(error: OutcomeLabel) -> u16 {
    match error.text() {
        "ok" => 200,
        "ValidationException"
        | "InvalidStateException"
        | "InvalidCiphertextException"
        | "InvalidKeyUsageException" => 400,
        "AuthenticationFailedException" => 401,
        "AccessDeniedException" => 403,
        "KeyNotFoundException" | "InvalidUriPathException" => 404,
        "ThrottlingException" => 429,
        "InternalException" => 500,
        "UnsupportedOperationException" => 501,
        "DependencyTimeoutException" => 503,
        other => panic!("{other} is not in the specification"),
    }
}

/// The error that the specification has for a failure of the HSM.
fn error_of(failure: Failure) -> OutcomeLabel {
    match failure {
        Failure::KeyNotFound => OutcomeLabel::KeyNotFound,
        Failure::KeyAmbiguous(_) | Failure::KeysDiffer | Failure::LimitReached(_) => {
            OutcomeLabel::InvalidState
        }
        Failure::MayNotEncrypt | Failure::MayNotDecrypt => OutcomeLabel::InvalidKeyUsage,
        Failure::InvalidCiphertext => OutcomeLabel::InvalidCiphertext,
        Failure::TooLarge => OutcomeLabel::UnsupportedOperation,
        Failure::Overloaded => OutcomeLabel::Throttling,
        Failure::TimedOut | Failure::NoToken => OutcomeLabel::DependencyTimeout,
        Failure::CdivMismatch | Failure::Malformed | Failure::Defect | Failure::Pkcs11(_) => {
            OutcomeLabel::Internal
        }
    }
}
