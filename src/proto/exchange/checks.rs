//! The order of the checks on a request.

use std::sync::Arc;

use super::{
    AnswerSource, AuditLine, Authenticated, Authorized, Exchange, NamedVersion, Origin, Outcome,
    Received, Routed, Target, hsm_request,
};
use crate::job::InlineBytes;
use crate::limits::CLOCK_SAMPLE_INTERVAL;
use crate::observe::audit::handle::CannotAudit;
use crate::observe::metrics::SignedAt;
use crate::observe::readiness;
use crate::proto::http::body::Whole;
use crate::proto::http::request::Head;
use crate::proto::loop_state::{LoopState, Snapshot};
use crate::proto::route::{Call, Listener, Route, route};
use crate::proto::service_config::ServiceConfig;
use crate::proto::sigv4::{self, ClockSample, Unauthentic};
use crate::proto::span::Span;
use crate::proto::store::{Store, StoreKey};
use crate::proto::xks::error::{ApiError, ErrorName};
use crate::proto::xks::{authorize, version_tag};

const CONGESTED: &str =
    "the proxy receives more requests than it can process, and this one has waited too long";

impl Origin {
    /// Checks a complete request. The body is `body[..whole.length]`, followed by padding.
    pub(in crate::proto) fn check(
        self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head: &Head<'_, '_>,
        head_bytes: usize,
        body: &mut [u8],
        whole: Whole,
    ) -> Outcome {
        let mut exchange = Exchange::new(Received::new(self, head, head_bytes, whole));
        let mut checked = exchange.check(loop_state, snapshot, head, body, whole.length);
        if let Err(error) = exchange.reserve_audit_line(loop_state)
            && let Ok(AnswerSource::Hsm(request)) = std::mem::replace(&mut checked, Err(error))
        {
            loop_state.recycle_request(request);
        }
        (exchange, checked)
    }
}

impl Exchange {
    /// Checks run in this order: path, method, whether there is still time for the request, SigV4,
    /// content type and JSON, members, key in the store's set and not disabled, the policy, the
    /// store's quota, size limits.
    fn check(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        head: &Head<'_, '_>,
        body: &mut [u8],
        length: usize,
    ) -> Result<AnswerSource, ApiError> {
        let (call, prefix, key_id) = match route(head.path).ok_or_else(no_such_path)? {
            Route::Api { .. } if self.received.origin.listener != Listener::Api => {
                return Err(no_such_path());
            }
            Route::Api { call, prefix, key_id } => (call, prefix, key_id),
            endpoint => {
                let answer = answer_load_balancer(endpoint, head, snapshot)?;
                self.target = Target::LoadBalancer;
                return Ok(answer);
            }
        };
        // The head lies right before the body.
        let base = (body.as_ptr() as usize).wrapping_sub(self.received.body_offset);
        self.target = Target::Call(Routed {
            call,
            prefix: Span::of(prefix, base),
            key_id: (call != Call::Health).then(|| Span::of(key_id, base)),
        });
        let service = Arc::clone(&loop_state.service);
        let store = service.store(prefix).ok_or_else(no_such_path)?;
        if head.method != "POST" {
            return Err(ApiError::method_not_allowed("POST"));
        }
        if call != Call::Health {
            self.check_waiting_time(loop_state, snapshot)?;
        }
        let signed = body.get(..length).unwrap_or_default();
        self.authenticated =
            Some(authenticate(loop_state, &service, store, head, signed, snapshot)?);
        check_content_type(head.content_type)?;
        let members = loop_state.decoder.decode(call, body, length, &mut self.metadata)?;
        if call == Call::Health {
            return Ok(AnswerSource::Health);
        }
        let key = authorize::key(store, key_id)?;
        let authorized =
            self.authorize(loop_state, snapshot, (call, key_id), (store, key), body)?;
        hsm_request::build(loop_state, &service, (call, key), authorized, &members, body)
            .map(AnswerSource::Hsm)
    }

    /// Refuses a request that has waited for its event loop too long to be answered in time.
    fn check_waiting_time(
        &self,
        loop_state: &LoopState,
        snapshot: &Snapshot,
    ) -> Result<(), ApiError> {
        if snapshot.is_congested {
            let waited = snapshot.now.saturating_duration_since(self.received.origin.started);
            if waited >= loop_state.service.max_congested_wait() {
                loop_state.metrics.congestion_refusals.add(1);
                return Err(ApiError::new(ErrorName::Throttling, CONGESTED));
            }
        }
        Ok(())
    }

    /// Applies the kill switch, the policy and the store's quota.
    fn authorize(
        &mut self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        (call, key_id): (Call, &str),
        (store, key): (&Store, &StoreKey),
        body: &[u8],
    ) -> Result<&mut Authorized, ApiError> {
        let service = &loop_state.service;
        authorize::state(store, key, call)?;
        if let Some(policy) = &service.options.policy {
            let attributes = authorize::attributes(call, store, key_id, &self.metadata, body);
            let (decisions, metrics) = (&mut loop_state.decisions, &loop_state.metrics);
            authorize::policy(policy, decisions, metrics, &attributes)?;
        }
        let permit = authorize::quota(store, snapshot.now)?;
        let encrypts = key.encrypts;
        let ciphertext_metadata = match call {
            Call::Encrypt => {
                let configured = service.options.ciphertext_metadata.as_deref();
                version_tag::metadata(encrypts.number, configured)
            }
            _ => None,
        };
        let version = match call {
            Call::Encrypt if key.is_versioned() => NamedVersion::Of(encrypts.number),
            _ => NamedVersion::None,
        };
        Ok(self.authorized.insert(Authorized {
            key: encrypts.key,
            version,
            is_disabled: key.is_disabled,
            fleet: loop_state.fleet,
            ciphertext_metadata,
            _permit: permit,
        }))
    }

    /// Reserves room in the audit log before the HSM is asked, so that no call is made that cannot
    /// be recorded.
    fn reserve_audit_line(&mut self, loop_state: &LoopState) -> Result<(), ApiError> {
        let Target::Call(routed) = self.target else { return Ok(()) };
        if !self.is_authenticated() {
            return Ok(());
        }
        let metadata = &self.metadata;
        let strings = [
            Some(routed.prefix),
            routed.key_id,
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
            Ok(None) => Ok(()),
            Ok(Some(reservation)) => {
                self.audit_line = AuditLine::Reserved(reservation);
                Ok(())
            }
            Err(CannotAudit) => {
                self.audit_line = AuditLine::Refused;
                let message = "the audit log cannot be written at present";
                Err(ApiError::new(ErrorName::DependencyTimeout, message))
            }
        }
    }
}

fn no_such_path() -> ApiError {
    ApiError::new(ErrorName::InvalidUriPath, "there is no such path")
}

/// Answers `/ping` or `/readyz`.
fn answer_load_balancer(
    endpoint: Route<'_>,
    head: &Head<'_, '_>,
    snapshot: &Snapshot,
) -> Result<AnswerSource, ApiError> {
    if head.method != "GET" && head.method != "HEAD" {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    Ok(match endpoint {
        Route::Ready if snapshot.is_draining => AnswerSource::Text(503, readiness::IS_DRAINING),
        Route::Ready if !snapshot.is_ready => AnswerSource::Text(503, readiness::NOT_READY),
        Route::Ready if snapshot.is_clock_off => AnswerSource::Text(503, readiness::CLOCK_IS_OFF),
        Route::Ready => AnswerSource::Text(200, readiness::READY),
        _ => AnswerSource::Text(
            200,
            concat!("pong from ", env!("CARGO_PKG_NAME"), " v", env!("CARGO_PKG_VERSION"), "\n"),
        ),
    })
}

/// Verifies the signature, if requests must be signed.
fn authenticate(
    loop_state: &mut LoopState,
    service: &ServiceConfig,
    store: &Store,
    head: &Head<'_, '_>,
    body: &[u8],
    snapshot: &Snapshot,
) -> Result<Authenticated, ApiError> {
    if !service.options.is_sigv4_auth_enabled {
        return Ok(Authenticated { access_key_id: None });
    }
    let (scope, keys) = (service.scope(), &mut loop_state.signing_keys);
    let unix_secs = snapshot.unix_secs;
    let verified = sigv4::verify(head, body, store.credentials(), scope, keys, unix_secs);
    let clock = match &verified {
        Ok(verified) => Some(verified.clock),
        Err(Unauthentic::Skewed(clock)) => *clock,
        Err(_) => None,
    };
    if let Some(sample) = clock
        && loop_state.next_clock_sample.is_none_or(|next| snapshot.now >= next)
    {
        note_clock(loop_state, snapshot, sample);
    }
    let credential = verified?.credential;
    credential.metrics().used(unix_secs);
    let access_key_id = InlineBytes::from_slice(credential.access_key_id().as_bytes());
    Ok(Authenticated { access_key_id })
}

/// Records the difference of the clocks. Once there are enough samples, a few a second will do.
fn note_clock(loop_state: &mut LoopState, snapshot: &Snapshot, sample: ClockSample) {
    let ClockSample { ahead_secs, tag } = sample;
    let now = i64::try_from(snapshot.unix_secs).unwrap_or(i64::MAX);
    let signed_at = SignedAt { ahead_secs, unix_secs: now.saturating_sub(ahead_secs), tag };
    if loop_state.metrics.clock_skew.note(snapshot.now, signed_at) {
        loop_state.next_clock_sample = Some(snapshot.now + CLOCK_SAMPLE_INTERVAL);
    }
}

/// Accepts `application/json`, with any parameters (XKS specification, API content type).
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
