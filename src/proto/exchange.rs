//! One request and its answer.
//!
//! A request passes through stages: completely [`Received`], [`Routed`] to a call of a store,
//! [`Authenticated`], decoded to its members, [`Authorized`], and performed by the HSM
//! ([`HsmReport`]). Each stage has a type that holds its results, and an [`Exchange`] collects them
//! until the request is answered and logged, at whichever stage it stops. [`Span`]s are positions
//! in the connection's buffer.

mod answer;
mod checks;
mod completion;
mod hsm_request;
mod record;

pub(super) use self::completion::Next;
pub(super) use self::hsm_request::describe;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::http::body::Whole;
use super::http::request::Head;
use super::quota::QuotaPermit;
use super::route::{Call, Listener};
use super::span::Span;
use super::xks::decode::RequestMetadata;
use super::xks::error::ApiError;
use super::xks::version_tag::Metadata;
use crate::job::{InlineBytes, KeyAttributes, KeyIndex, Request, TokenIndex};
use crate::limits::MAX_ACCESS_KEY_ID_BYTES;
use crate::observe::audit::Reservation;

/// The source of the answer to a request that has passed all checks.
pub(super) enum AnswerSource {
    /// A fixed status and text.
    Text(u16, &'static str),
    /// The fleet's health.
    Health,
    /// The HSM, with the request to it.
    Hsm(Arc<Request>),
}

/// An answer.
pub(super) enum Answer<'a> {
    /// 200 and the JSON in [`super::LoopState::body`].
    Json,
    /// This status and the text in [`super::LoopState::body`].
    Text(u16),
    /// An error.
    Error(&'a ApiError),
}

/// A request's exchange, and the outcome of the checks.
pub(super) type Outcome = (Exchange, Result<AnswerSource, ApiError>);

/// Listener, peer and time of a request's arrival.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) listener: Listener,
    pub(super) peer: Option<IpAddr>,
    /// Time at which its first byte arrived.
    pub(super) started: Instant,
}

/// A request that has been received completely, as framed by HTTP.
struct Received {
    origin: Origin,
    /// Number of received bytes that the request takes up.
    consumed: usize,
    /// The connection ends after the answer.
    close: bool,
    /// The answer must announce to an HTTP/1.0 peer that the connection stays open.
    announce_keep_alive: bool,
    /// The answer has no body.
    is_head: bool,
    /// Length of the body.
    request_bytes: usize,
    /// Start of the body, which the spans of the request's metadata are relative to.
    body_offset: usize,
}

/// The destination of a request's path.
enum Target {
    /// No valid destination, or none determined yet.
    Unknown,
    /// `/ping` or `/readyz`, asked for by a load balancer; neither counted nor logged.
    LoadBalancer,
    /// A call of a store.
    Call(Routed),
}

/// A request that is one of the specification's calls.
#[derive(Clone, Copy)]
struct Routed {
    call: Call,
    /// The store's path prefix.
    prefix: Span,
    /// The external key id; none for the health call.
    key_id: Option<Span>,
}

/// A call whose signature is valid, or that needs none.
struct Authenticated {
    /// The access key id that it was signed with.
    access_key_id: Option<InlineBytes<MAX_ACCESS_KEY_ID_BYTES>>,
}

/// A call that its store, the policy and the store's quota allow.
struct Authorized {
    key: KeyIndex,
    /// Version of the external key id that encrypts or decrypts, for the logs.
    version: NamedVersion,
    /// The key, or its store, is disabled, which GetKeyMetadata reports.
    is_disabled: bool,
    /// [`super::LoopState::fleet`] at the time.
    fleet: u32,
    /// Metadata that a new ciphertext is bound to. The answer must contain the same, even if the
    /// settings have changed by then.
    ciphertext_metadata: Option<Metadata>,
    /// The call's place in the store's quota, held until it is answered. A call that hangs in the
    /// HSM is answered at its deadline and then frees its place: otherwise it would block the store
    /// for as long as it hangs.
    _permit: Option<QuotaPermit>,
}

/// The version of an external key id that a call is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedVersion {
    /// The external key id has no versions, and the ciphertext names none.
    None,
    /// The version that encrypts, or that the ciphertext names, whether or not the settings have
    /// it.
    Of(u32),
    /// The external key id has no versions here, but the ciphertext's metadata may be the tag of
    /// this one.
    Untold(u32),
}

impl NamedVersion {
    /// The number for the logs.
    fn number(self) -> Option<u32> {
        match self {
            Self::Of(number) => Some(number),
            // The metadata is the operator's own until proven otherwise.
            Self::None | Self::Untold(_) => None,
        }
    }
}

/// The token that did the job, and the time it took.
struct HsmReport {
    token: Option<TokenIndex>,
    queue_micros: u32,
    hsm_micros: u32,
}

/// Room for the call's line in the audit log.
enum AuditLine {
    /// None is needed: there is no audit log, its lines may be lost, or nothing is asked of the
    /// HSM.
    Unreserved,
    /// Reserved before the HSM is asked.
    Reserved(Reservation),
    /// There is no room, so the call is refused. It is counted but not written.
    Refused,
}

/// Everything that is kept about a request until it is answered.
pub(super) struct Exchange {
    received: Received,
    target: Target,
    authenticated: Option<Authenticated>,
    /// Metadata as far as it was decoded, so that a refused call is logged with its kmsRequestId.
    metadata: RequestMetadata,
    authorized: Option<Authorized>,
    /// Attributes of the version that encrypts, while GetKeyMetadata asks whether another one
    /// decrypts, and the number of that other version.
    described: Option<(KeyAttributes, u32)>,
    /// Time at which it was first queued for the HSM.
    queued_at: Option<Instant>,
    hsm: Option<HsmReport>,
    audit_line: AuditLine,
}

impl Received {
    /// Makes the exchange for a request whose head ends at `head_bytes` and whose body is complete.
    fn new(origin: Origin, head: &Head<'_, '_>, head_bytes: usize, whole: Whole) -> Self {
        Self {
            origin,
            consumed: head_bytes + whole.consumed,
            close: !head.keep_alive,
            announce_keep_alive: head.is_http_1_0,
            is_head: head.method == "HEAD",
            request_bytes: whole.length,
            body_offset: head_bytes,
        }
    }
}

impl Exchange {
    fn new(received: Received) -> Self {
        Self {
            received,
            target: Target::Unknown,
            authenticated: None,
            metadata: RequestMetadata::default(),
            authorized: None,
            described: None,
            queued_at: None,
            hsm: None,
            audit_line: AuditLine::Unreserved,
        }
    }

    /// The exchange for `received_bytes` bytes that are not a request. It ends the connection,
    /// since the start of the next request cannot be known.
    pub(super) fn unreadable(origin: Origin, received_bytes: usize) -> Self {
        Self::new(Received {
            origin,
            consumed: received_bytes,
            close: true,
            announce_keep_alive: false,
            is_head: false,
            request_bytes: 0,
            body_offset: 0,
        })
    }

    /// Number of received bytes that the request takes up.
    pub(super) fn consumed(&self) -> usize {
        self.received.consumed
    }

    /// Returns whether the connection must end after the answer.
    pub(super) fn must_close(&self) -> bool {
        self.received.close
    }

    /// Returns whether the signature was valid, or none is required.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.is_some()
    }

    /// Notes that the HSM is asked. GetKeyMetadata may ask it several times: the first one counts.
    pub(super) fn note_queued(&mut self, now: Instant) {
        self.queued_at.get_or_insert(now);
    }

    fn call(&self) -> Option<Call> {
        self.routed().map(|routed| routed.call)
    }

    fn routed(&self) -> Option<Routed> {
        match self.target {
            Target::Call(routed) => Some(routed),
            Target::Unknown | Target::LoadBalancer => None,
        }
    }
}
