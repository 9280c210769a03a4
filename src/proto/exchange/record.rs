//! Counting and logging of a call.

use super::{AuditLine, Exchange, Target};
use crate::job::InlineBytes;
use crate::observe::audit::Reservation;
use crate::observe::call_record::CallRecord;
use crate::observe::metrics::labels::{CallLabel, OutcomeLabel};
use crate::proto::loop_state::LoopState;
use crate::proto::route::Call;
use crate::proto::span::Span;
use crate::proto::xks::error::ApiError;

impl Exchange {
    /// Writes the call to the audit log if the peer has disconnected before it was answered.
    pub(in crate::proto) fn abandon(&self, loop_state: &mut LoopState, received: &[u8]) {
        if self.is_audited(loop_state) {
            let labels = self.known_labels(loop_state.fleet, &loop_state.token_labels);
            let record = self.record(labels, 0, None, received);
            loop_state.access_log.audit.write(&record, self.reservation());
        }
    }

    pub(super) fn count(
        &self,
        loop_state: &LoopState,
        error: Option<&ApiError>,
        received: &[u8],
        total_micros: u32,
    ) {
        let metrics = &loop_state.metrics;
        let call = self.call().map_or(CallLabel::None, Call::label);
        let outcome = error.map_or(OutcomeLabel::Ok, |error| error.name.label());
        // Looked up by name: the settings may have changed since the request arrived.
        let store = match &self.target {
            Target::Call(routed) => loop_state.service.store(routed.prefix.text(received)),
            Target::Unknown | Target::LoadBalancer => None,
        };
        let counters = match store {
            Some(store) => store.metrics().of_loop(loop_state.event_loop),
            None => Some(&metrics.storeless),
        };
        if let Some(counters) = counters {
            counters.count(call, outcome);
        }
        let durations = metrics.durations(call);
        durations.total.record(total_micros);
        if let Some(hsm) = &self.hsm {
            durations.queue.record(hsm.queue_micros);
            durations.hsm.record(hsm.hsm_micros);
        }
        if let (Some(authorized), Some(Call::Encrypt), None) =
            (&self.authorized, self.call(), error)
            && let Some(key) = loop_state.service.key_metrics(authorized.key)
        {
            key.encrypts.add(1);
        }
    }

    pub(super) fn log(
        &self,
        loop_state: &mut LoopState,
        total_micros: u32,
        status: u16,
        error: Option<&ApiError>,
        received: &[u8],
    ) {
        let (is_logged, is_audited) =
            (loop_state.access_log.is_enabled_for(status), self.is_audited(loop_state));
        let is_traced = loop_state.access_log.traces.is_on();
        // A record that would not be written is not built: building one examines every string.
        if !is_logged && !is_audited && !is_traced {
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
            loop_state.access_log.audit.write(&record, self.reservation());
        }
        if is_traced {
            loop_state.access_log.traces.offer(&record);
        }
    }

    fn is_audited(&self, loop_state: &LoopState) -> bool {
        matches!(self.target, Target::Call(_))
            && !matches!(self.audit_line, AuditLine::Refused)
            && loop_state.access_log.audit.is_on()
    }

    fn reservation(&self) -> Option<&Reservation> {
        match &self.audit_line {
            AuditLine::Reserved(reservation) => Some(reservation),
            AuditLine::Unreserved | AuditLine::Refused => None,
        }
    }

    /// The labels of the tokens, or none if the fleet has changed since: a token that has left it
    /// must not be logged under another one's label.
    fn known_labels<'l>(&self, fleet: u32, labels: &'l [Box<str>]) -> &'l [Box<str>] {
        match &self.authorized {
            Some(authorized) if authorized.fleet == fleet => labels,
            _ => &[],
        }
    }

    fn record<'r>(
        &'r self,
        token_labels: &'r [Box<str>],
        status: u16,
        error: Option<&'r ApiError>,
        received: &'r [u8],
    ) -> CallRecord<'r> {
        let text = |span: Option<Span>| span.map(|span| span.text(received));
        let body = received.get(self.received.body_offset..).unwrap_or_default();
        let member = |span: Option<Span>| span.map(|span| span.text(body));
        let (prefix, key_id) = match &self.target {
            Target::Call(routed) => (Some(routed.prefix), routed.key_id),
            Target::Unknown | Target::LoadBalancer => (None, None),
        };
        let hsm = self.hsm.as_ref();
        let token = hsm.and_then(|hsm| token_labels.get(usize::from(hsm.token?.0)));
        let authenticated = self.authenticated.as_ref();
        let access_key_id = authenticated.and_then(|signer| signer.access_key_id.as_ref());
        let access_key_id = access_key_id.map(InlineBytes::as_slice);
        CallRecord {
            peer: self.received.origin.peer,
            is_authenticated: self.is_authenticated(),
            call: self.call().map_or("", Call::name),
            store: text(prefix),
            access_key_id: access_key_id.and_then(|id| std::str::from_utf8(id).ok()),
            key_id: text(key_id),
            key_version: self.authorized.as_ref().and_then(|call| call.version.number()),
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
            request_bytes: self.received.request_bytes,
            started: Some(self.received.origin.started),
            queued_after_micros: self.queued_at.map(|queued_at| {
                let micros = queued_at.saturating_duration_since(self.received.origin.started);
                u32::try_from(micros.as_micros()).unwrap_or(u32::MAX)
            }),
            queue_micros: hsm.map(|hsm| hsm.queue_micros),
            hsm_micros: hsm.map(|hsm| hsm.hsm_micros),
            ..CallRecord::default()
        }
    }
}
