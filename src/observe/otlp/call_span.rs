//! A traced call, as an event loop hands it over: of fixed size, so that nothing is allocated.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::texts::Texts;
use super::trace_id::TraceId;
use crate::limits::MAX_CALL_SPAN_TEXT_BYTES;
use crate::observe::call_record::CallRecord;

/// The texts of a call, in the order in which they are kept: the last ones are cut first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Call,
    Store,
    KmsRequestId,
    ErrorName,
    KeyId,
    Token,
    KmsOperation,
    Reason,
}

const TEXTS: usize = Text::Reason as usize + 1;

/// A traced call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallSpan {
    pub(super) trace_id: TraceId,
    /// Time since 1970 at which the answer was ready.
    pub(super) end: Duration,
    /// Time from the request's first byte to then.
    pub(super) total: Duration,
    pub(super) hsm: Option<HsmTimes>,
    pub(super) status: u16,
    pub(super) key_version: Option<u32>,
    pub(super) peer: Option<IpAddr>,
    pub(super) request_bytes: usize,
    pub(super) response_bytes: usize,
    texts: Texts<TEXTS, MAX_CALL_SPAN_TEXT_BYTES>,
}

/// The parts of a call that needed the HSM. From their end on, the answer was encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct HsmTimes {
    /// Time from the request's first byte until it was queued.
    pub(super) until_queued: Duration,
    /// Times in the queue and in the HSM; none if the HSM did not answer in time.
    pub(super) answered: Option<(Duration, Duration)>,
}

impl CallSpan {
    /// Copies the record of a call whose answer is ready `now`, at `since_1970`.
    pub(super) fn of(
        record: &CallRecord<'_>,
        trace_id: TraceId,
        now: Instant,
        since_1970: Duration,
    ) -> Self {
        let micros = |micros| Duration::from_micros(u64::from(micros));
        let mut texts = Texts::new();
        for text in [
            Some(record.call),
            record.store,
            record.kms_request_id,
            record.error_name,
            record.key_id,
            record.token,
            record.kms_operation,
            record.reason,
        ] {
            texts.push(text);
        }
        let answered = record.queue_micros.zip(record.hsm_micros);
        let hsm = record.queued_after_micros.map(|until_queued| HsmTimes {
            until_queued: micros(until_queued),
            answered: answered.map(|(queue, hsm)| (micros(queue), micros(hsm))),
        });
        let total = record.started.map_or_else(
            || micros(record.total_micros),
            |started| now.saturating_duration_since(started),
        );
        Self {
            trace_id,
            end: since_1970,
            total,
            hsm,
            status: record.status,
            key_version: record.key_version,
            peer: record.peer,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            texts,
        }
    }

    /// Returns a text, if the call has it.
    pub(super) fn text(&self, text: Text) -> Option<&str> {
        self.texts.get(text as usize)
    }
}
