//! One request and its answer: the order of the checks, and what is logged.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::connection::{Answer, Listener};
use super::http::body::Whole;
use super::http::request::Head;
use super::http::response::ResponseHead;
use super::loop_state::{LoopState, Snapshot};
use super::route::{Call, Route, route};
use super::service_config::ServiceConfig;
use super::sigv4;
use super::xks::authorize;
use super::xks::decode::{Decoded, Members, RequestMetadata, Span};
use super::xks::error::{ApiError, ErrorName};
use super::xks::quota::InFlight;
use crate::job::{HsmAad, InlineBytes, Iv, KeyIndex, Operation, Request, TokenIndex};
use crate::limits::{
    GCM_IV_BYTES, GCM_TAG_BYTES, MAX_AAD_BYTES, MAX_ACCESS_KEY_ID_BYTES,
    MAX_CIPHERTEXT_METADATA_BYTES, MAX_GCM_IV_BYTES,
};
use crate::observe::audit::Reservation;
use crate::observe::audit::handle::CannotAudit;
use crate::observe::call_record::CallRecord;
use crate::observe::metrics::labels::{CallLabel, OutcomeLabel};

const CONGESTED: &str =
    "the proxy gets more requests than it can look at: this one has waited too long";

/// What a request asks for, once it has passed all checks.
pub(super) enum Accepted {
    /// A status and a text that are known at once.
    Text(u16, &'static str),
    /// The fleet's health.
    Health,
    /// The HSM.
    Job(Arc<Request>),
}

/// A request's exchange, and what came of checking it.
pub(super) type Outcome = (Exchange, Result<Accepted, ApiError>);

/// Where and when a request came in.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) listener: Listener,
    pub(super) peer: Option<IpAddr>,
    /// When its first byte came.
    pub(super) started: Instant,
}

impl Origin {
    /// Checks a whole request. The body is `body[..whole.length]`, with padding behind it.
    pub(super) fn accept(
        self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head: &Head<'_, '_>,
        head_bytes: usize,
        body: &mut [u8],
        whole: Whole,
    ) -> Outcome {
        let mut exchange = Exchange {
            consumed: head_bytes + whole.consumed,
            close: !head.keep_alive,
            announce_keep_alive: head.is_http_1_0,
            is_head: head.method == "HEAD",
            request_bytes: whole.length,
            body_offset: head_bytes,
            ..Exchange::new(self)
        };
        let mut accepted = exchange.accept(loop_state, snapshot, head, body, whole.length);
        if let Err(error) = exchange.reserve_audit_line(loop_state)
            && let Ok(Accepted::Job(request)) = std::mem::replace(&mut accepted, Err(error))
        {
            loop_state.recycle_request(request);
        }
        (exchange, accepted)
    }
}

/// What is kept of a request until it is answered. Spans are places in the connection's buffer.
pub(super) struct Exchange {
    pub(super) origin: Origin,
    /// Received bytes that the request takes up.
    pub(super) consumed: usize,
    pub(super) close: bool,
    pub(super) announce_keep_alive: bool,
    pub(super) is_head: bool,
    pub(super) request_bytes: usize,
    pub(super) token: Option<TokenIndex>,
    /// [`LoopState::fleet`] as the request was taken.
    fleet: u32,
    pub(super) queue_micros: Option<u32>,
    pub(super) hsm_micros: Option<u32>,
    /// Probes of load balancers are not logged.
    pub(super) is_probe: bool,
    /// The signature was right, or none is asked for.
    pub(super) is_authenticated: bool,
    pub(super) call: Option<Call>,
    pub(super) prefix: Option<Span>,
    pub(super) key_id: Option<Span>,
    /// The key that the HSM is asked to use.
    pub(super) key: Option<KeyIndex>,
    /// The key, or its store, is switched off.
    pub(super) is_disabled: bool,
    pub(super) metadata: RequestMetadata,
    /// What the new ciphertext is bound to: the answer must say the same, whatever the settings
    /// are by then.
    pub(super) ciphertext_metadata: Option<InlineBytes<MAX_CIPHERTEXT_METADATA_BYTES>>,
    /// Where the body begins, for the spans in `metadata`.
    pub(super) body_offset: usize,
    /// Who signed.
    access_key_id: Option<InlineBytes<MAX_ACCESS_KEY_ID_BYTES>>,
    /// Room for its line in the audit log.
    audit_line: Option<Reservation>,
    /// It was refused because its line cannot be kept, which is counted.
    is_unaudited: bool,
    /// Its place in the store's quota, until it is answered: a call that hangs in the HSM keeps
    /// none, or a store would be shut out for as long.
    in_flight: Option<InFlight>,
}

impl Exchange {
    pub(super) fn new(origin: Origin) -> Self {
        Self {
            origin,
            consumed: 0,
            close: false,
            announce_keep_alive: false,
            is_head: false,
            request_bytes: 0,
            token: None,
            fleet: 0,
            queue_micros: None,
            hsm_micros: None,
            is_probe: false,
            is_authenticated: false,
            call: None,
            prefix: None,
            key_id: None,
            key: None,
            is_disabled: false,
            metadata: RequestMetadata::default(),
            ciphertext_metadata: None,
            body_offset: 0,
            access_key_id: None,
            audit_line: None,
            is_unaudited: false,
            in_flight: None,
        }
    }

    /// Checks run in this order: path, method, whether there is still time for it, SigV4, content
    /// type and JSON, members, key in the store's set and not disabled, the policy, the store's
    /// quota, size limits.
    fn accept(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head: &Head<'_, '_>,
        body: &mut [u8],
        length: usize,
    ) -> Result<Accepted, ApiError> {
        let no_such_path = || ApiError::new(ErrorName::InvalidUriPath, "there is no such path");
        let (call, prefix, key_id) = match route(head.path).ok_or_else(no_such_path)? {
            probe @ (Route::Ping | Route::Ready) => {
                if head.method != "GET" && head.method != "HEAD" {
                    return Err(ApiError::method_not_allowed("GET, HEAD"));
                }
                self.is_probe = true;
                return Ok(answer_probe(probe, snapshot));
            }
            Route::Api { .. } if self.origin.listener != Listener::Api => {
                return Err(no_such_path());
            }
            Route::Api { call, prefix, key_id } => (call, prefix, key_id),
        };
        // The head lies right before the body.
        let base = (body.as_ptr() as usize).wrapping_sub(self.body_offset);
        self.call = Some(call);
        self.prefix = Some(Span::of(prefix, base));
        self.key_id = (call != Call::Health).then(|| Span::of(key_id, base));
        let service = Arc::clone(&loop_state.service);
        let store = service.store(prefix).ok_or_else(no_such_path)?;
        if head.method != "POST" {
            return Err(ApiError::method_not_allowed("POST"));
        }
        if snapshot.is_congested && call != Call::Health {
            let waited = snapshot.now.saturating_duration_since(self.origin.started);
            if waited >= service.max_wait_in_loop() {
                loop_state.metrics.congestion_refusals.add(1);
                return Err(ApiError::new(ErrorName::Throttling, CONGESTED));
            }
        }
        if service.is_sigv4_auth_enabled {
            let credential = sigv4::verify(
                head,
                body.get(..length).unwrap_or_default(),
                store.credentials(),
                service.scope(),
                &mut loop_state.signing_keys,
                snapshot.unix_secs,
            )?;
            credential.metrics().used(snapshot.unix_secs);
            self.access_key_id = InlineBytes::from_slice(credential.access_key_id().as_bytes());
        }
        self.is_authenticated = true;
        check_content_type(head.content_type)?;
        let members = loop_state.decoder.decode(call, body, length, &mut self.metadata)?;
        if call == Call::Health {
            return Ok(Accepted::Health);
        }
        let found = authorize::key(store, key_id)?;
        let key = found.index;
        self.is_disabled = found.is_disabled;
        authorize::state(store, found, call)?;
        if let Some(policy) = &service.policy {
            let attributes = authorize::attributes(call, store, key_id, &self.metadata, body);
            authorize::policy(policy, &mut loop_state.decisions, &loop_state.metrics, &attributes)?;
        }
        self.in_flight = authorize::quota(store, snapshot.now)?;
        self.key = Some(key);
        self.fleet = loop_state.fleet;
        if call == Call::Encrypt {
            let metadata = service.ciphertext_metadata.as_deref();
            self.ciphertext_metadata = metadata.and_then(InlineBytes::from_slice);
        }
        let metadata = self.ciphertext_metadata.as_ref().map(InlineBytes::as_slice);
        let mut request = loop_state.take_request();
        let built = match Arc::get_mut(&mut request) {
            Some(request) => build(request, &service, call, key, metadata, &members, body),
            // The pool holds only what nobody else does.
            None => Err(ApiError::new(ErrorName::Internal, "a pooled request is in use")),
        };
        if let Err(error) = built {
            loop_state.recycle_request(request);
            return Err(error);
        }
        Ok(Accepted::Job(request))
    }

    /// Makes sure, before the HSM is asked, that the audit log will have room for the call. A call
    /// that cannot be written down is not made.
    fn reserve_audit_line(&mut self, loop_state: &LoopState) -> Result<(), ApiError> {
        if self.call.is_none() || !self.is_authenticated {
            return Ok(());
        }
        let metadata = &self.metadata;
        let strings = [
            self.prefix,
            self.key_id,
            metadata.kms_request_id,
            metadata.kms_operation,
            metadata.aws_principal_arn,
            metadata.kms_key_arn,
            metadata.kms_via_service,
            metadata.aws_source_vpc,
            metadata.aws_source_vpce,
        ];
        let lengths = strings.into_iter().flatten().map(Span::len);
        match loop_state.access_log.audit.reserve(lengths) {
            Ok(reservation) => {
                self.audit_line = reservation;
                Ok(())
            }
            Err(CannotAudit) => {
                self.is_unaudited = true;
                let message = "the audit log cannot be written at present";
                Err(ApiError::new(ErrorName::DependencyTimeout, message))
            }
        }
    }

    /// The peer has gone before there was an answer: that the call was made is still written down.
    pub(super) fn abandon(&self, loop_state: &mut LoopState, received: &[u8]) {
        if self.is_audited(loop_state) {
            let labels = self.known_labels(loop_state.fleet, &loop_state.token_labels);
            let record = self.record(labels, 0, None, received);
            loop_state.access_log.audit.write(&record, self.audit_line.as_ref());
        }
    }

    /// Appends head and body to [`LoopState::out`] and logs the call. `received` is the buffer
    /// that the spans are of.
    pub(super) fn write_answer(
        &self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        answer: &Answer<'_>,
        close: bool,
        received: &[u8],
    ) {
        let (status, content_type, error) = match answer {
            Answer::Json => (200, "application/json", None),
            Answer::Text(status) => (*status, "text/plain", None),
            Answer::Error(error) => {
                loop_state.clear_body();
                error.write_json(&mut loop_state.body);
                (error.status, "application/json", Some(*error))
            }
        };
        let head = ResponseHead {
            status,
            content_type,
            content_length: loop_state.body.len(),
            date: loop_state.date.at(snapshot.unix_secs),
            close,
            announce_keep_alive: self.announce_keep_alive,
            allow: error.and_then(|error| error.allow),
        };
        head.write(&mut loop_state.out);
        if !self.is_head {
            loop_state.out.extend_from_slice(&loop_state.body);
        }
        if !self.is_probe {
            let micros = snapshot.now.saturating_duration_since(self.origin.started).as_micros();
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            self.count(loop_state, error, received, micros);
            self.log(loop_state, micros, status, error, received);
        }
        loop_state.clear_body();
    }

    fn count(
        &self,
        loop_state: &LoopState,
        error: Option<&ApiError>,
        received: &[u8],
        total_micros: u32,
    ) {
        let metrics = &loop_state.metrics;
        let call = self.call.map_or(CallLabel::None, Call::label);
        let outcome = error.map_or(OutcomeLabel::Ok, |error| error.name.label());
        // By name: the settings may have changed since the request came.
        let store = self.prefix.and_then(|prefix| loop_state.service.store(prefix.text(received)));
        let counters = match store {
            Some(store) => store.metrics().of_loop(loop_state.event_loop),
            None => Some(&metrics.storeless),
        };
        if let Some(counters) = counters {
            counters.count(call, outcome);
        }
        let durations = metrics.durations(call);
        durations.total.record(total_micros);
        if let Some(micros) = self.queue_micros {
            durations.queue.record(micros);
        }
        if let Some(micros) = self.hsm_micros {
            durations.hsm.record(micros);
        }
        if let (Some(key), Some(Call::Encrypt), None) = (self.key, self.call, error)
            && let Some(key) = loop_state.service.key_metrics(key)
        {
            key.encrypts.add(1);
        }
    }

    fn log(
        &self,
        loop_state: &mut LoopState,
        total_micros: u32,
        status: u16,
        error: Option<&ApiError>,
        received: &[u8],
    ) {
        let (is_logged, is_audited) =
            (loop_state.access_log.is_enabled_for(status), self.is_audited(loop_state));
        // What nobody writes down is not put together: each string is looked at for that.
        if !is_logged && !is_audited {
            return;
        }
        let labels = self.known_labels(loop_state.fleet, &loop_state.token_labels);
        let record = CallRecord {
            total_micros,
            response_bytes: loop_state.body.len(),
            ..self.record(labels, status, error, received)
        };
        if is_logged {
            loop_state.access_log.write(&record);
        }
        if is_audited {
            loop_state.access_log.audit.write(&record, self.audit_line.as_ref());
        }
    }

    fn is_audited(&self, loop_state: &LoopState) -> bool {
        self.call.is_some() && !self.is_unaudited && loop_state.access_log.audit.is_on()
    }

    /// A token that has left the fleet since is not told by another one's label.
    fn known_labels<'l>(&self, fleet: u32, labels: &'l [Box<str>]) -> &'l [Box<str>] {
        if self.fleet == fleet { labels } else { &[] }
    }

    fn record<'r>(
        &'r self,
        token_labels: &'r [Box<str>],
        status: u16,
        error: Option<&'r ApiError>,
        received: &'r [u8],
    ) -> CallRecord<'r> {
        let text = |span: Option<Span>| span.map(|span| span.text(received));
        let body = received.get(self.body_offset..).unwrap_or_default();
        let member = |span: Option<Span>| span.map(|span| span.text(body));
        let token = self.token.and_then(|token| token_labels.get(usize::from(token.0)));
        let access_key_id = self.access_key_id.as_ref().map(InlineBytes::as_slice);
        CallRecord {
            peer: self.origin.peer,
            is_authenticated: self.is_authenticated,
            call: self.call.map_or("", Call::name),
            store: text(self.prefix),
            access_key_id: access_key_id.and_then(|id| std::str::from_utf8(id).ok()),
            key_id: text(self.key_id),
            kms_request_id: member(self.metadata.kms_request_id),
            kms_operation: member(self.metadata.kms_operation),
            principal: member(self.metadata.aws_principal_arn),
            kms_key_arn: member(self.metadata.kms_key_arn),
            kms_via_service: member(self.metadata.kms_via_service),
            source_vpc: member(self.metadata.aws_source_vpc),
            source_vpce: member(self.metadata.aws_source_vpce),
            status,
            error_name: error.map(|error| error.name.name()),
            reason: error.map(ApiError::reason),
            token: token.map(AsRef::as_ref),
            request_bytes: self.request_bytes,
            queue_micros: self.queue_micros,
            hsm_micros: self.hsm_micros,
            ..CallRecord::default()
        }
    }
}

fn answer_probe(probe: Route<'_>, snapshot: &Snapshot) -> Accepted {
    match probe {
        Route::Ready if snapshot.is_ready && !snapshot.is_draining => {
            Accepted::Text(200, "ready\n")
        }
        Route::Ready => Accepted::Text(503, "not ready\n"),
        _ => Accepted::Text(
            200,
            concat!("pong from ", env!("CARGO_PKG_NAME"), " v", env!("CARGO_PKG_VERSION"), "\n"),
        ),
    }
}

/// `application/json`, with any parameters (XKS specification, API content type).
fn check_content_type(value: Option<&[u8]>) -> Result<(), ApiError> {
    let media_type = value
        .and_then(|value| value.split(|byte| *byte == b';').next())
        .map(<[u8]>::trim_ascii)
        .unwrap_or_default();
    if media_type.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    Err(ApiError::validation("the Content-Type is not application/json"))
}

/// Size limits, then what the HSM needs.
fn build(
    request: &mut Request,
    service: &ServiceConfig,
    call: Call,
    key: KeyIndex,
    new_metadata: Option<&[u8]>,
    members: &Members,
    body: &[u8],
) -> Result<(), ApiError> {
    request.key = key;
    if call == Call::Metadata {
        request.operation = Operation::Describe;
        return Ok(());
    }
    let name = if call == Call::Encrypt { "plaintext" } else { "ciphertext" };
    check_size(members.data, service.max_plaintext_in_base64, name)?;
    check_size(members.aad, service.max_aad_in_base64, "additionalAuthenticatedData")?;
    let bytes = |member: Option<Decoded>| member.map(|member| member.span.bytes(body));

    let mut hash = Sha256::new();
    let aad = match bytes(members.aad) {
        None => None,
        Some(aad) => {
            let length = u16::try_from(aad.len()).map_err(|_| {
                ApiError::new(
                    ErrorName::UnsupportedOperation,
                    format!("additionalAuthenticatedData is longer than {MAX_AAD_BYTES} bytes"),
                )
            })?;
            hash.update(aad);
            Some((length, <[u8; 32]>::from(hash.clone().finalize())))
        }
    };
    let metadata = match call {
        Call::Encrypt => new_metadata,
        _ => bytes(members.ciphertext_metadata),
    }
    .unwrap_or_default();
    request.aad = HsmAad::new(aad.as_ref().map(|(length, digest)| (*length, digest)), metadata);
    request.input.extend_from_slice(bytes(members.data).unwrap_or_default());
    request.operation = if call == Call::Encrypt {
        let cdiv = members.cdiv.then(|| {
            hash.update(metadata);
            hash
        });
        Operation::Encrypt { cdiv }
    } else {
        let iv = bytes(members.iv)
            .filter(|iv| iv.len() == GCM_IV_BYTES || iv.len() == MAX_GCM_IV_BYTES)
            .and_then(Iv::from_slice)
            .ok_or_else(|| {
                ApiError::new(
                    ErrorName::InvalidCiphertext,
                    "the initializationVector is neither 12 nor 16 bytes",
                )
            })?;
        let tag = bytes(members.tag).unwrap_or_default();
        if tag.len() != GCM_TAG_BYTES {
            return Err(ApiError::new(
                ErrorName::InvalidCiphertext,
                "the authenticationTag is not 16 bytes",
            ));
        }
        request.input.extend_from_slice(tag);
        Operation::Decrypt { iv }
    };
    Ok(())
}

fn check_size(
    member: Option<Decoded>,
    max_base64_bytes: usize,
    name: &'static str,
) -> Result<(), ApiError> {
    match member {
        Some(member) if member.base64_len > max_base64_bytes => {
            Err(too_large(name, max_base64_bytes))
        }
        _ => Ok(()),
    }
}

fn too_large(name: &str, max_bytes: usize) -> ApiError {
    ApiError::new(
        ErrorName::UnsupportedOperation,
        format!("{name} is larger than the configured limit of {max_bytes} bytes of base64"),
    )
}
