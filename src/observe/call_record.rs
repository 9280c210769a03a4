//! The record of one call, for the access log, the audit log and traces.

use std::net::IpAddr;
use std::time::Instant;

/// Everything that is logged about one call. Strings come from the peer and are escaped when
/// written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallRecord<'a> {
    /// Address of the peer.
    pub peer: Option<IpAddr>,
    /// True if the signature was valid, or none is required. Otherwise the line may be left out;
    /// see [`crate::limits::MAX_UNAUTHENTICATED_LINES_PER_SEC`].
    pub is_authenticated: bool,
    /// `metadata`, `encrypt`, `decrypt` or `health`; empty if the path does not name a call.
    pub call: &'a str,
    /// `uri_path_prefix` of the store, if the path names one; may be empty.
    pub store: Option<&'a str>,
    /// Access key id of the signature; for the audit log only.
    pub access_key_id: Option<&'a str>,
    /// The external key id in the path.
    pub key_id: Option<&'a str>,
    /// Version of that key which encrypts or decrypts, if it has versions.
    pub key_version: Option<u32>,
    /// `requestMetadata.kmsRequestId`
    pub kms_request_id: Option<&'a str>,
    /// `requestMetadata.kmsOperation`
    pub kms_operation: Option<&'a str>,
    /// `requestMetadata.awsPrincipalArn`
    pub principal: Option<&'a str>,
    /// `requestMetadata.kmsKeyArn`
    pub kms_key_arn: Option<&'a str>,
    /// `requestMetadata.kmsViaService`
    pub kms_via_service: Option<&'a str>,
    /// `requestMetadata.awsSourceVpc`
    pub source_vpc: Option<&'a str>,
    /// `requestMetadata.awsSourceVpce`
    pub source_vpce: Option<&'a str>,
    /// HTTP status.
    pub status: u16,
    /// `errorName`, if the answer is an error.
    pub error_name: Option<&'a str>,
    /// Cause of the error, for the operator. It may contain more details than the answer.
    pub reason: Option<&'a str>,
    /// Label of the token that answered.
    pub token: Option<&'a str>,
    /// Length of the request's body.
    pub request_bytes: usize,
    /// Length of the answer's body.
    pub response_bytes: usize,
    /// Time at which the request's first byte arrived; for traces only.
    pub started: Option<Instant>,
    /// Microseconds from then until the call was queued for the HSM; for traces only.
    pub queued_after_micros: Option<u32>,
    /// Microseconds in the queue, if the call needed the HSM.
    pub queue_micros: Option<u32>,
    /// Microseconds in the HSM, if the call needed it.
    pub hsm_micros: Option<u32>,
    /// Microseconds from the request's first byte to the answer.
    pub total_micros: u32,
}
