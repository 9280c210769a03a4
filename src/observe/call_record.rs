//! The record of one call, for the access log and the audit log.

use std::net::IpAddr;

/// What is logged of one call. Strings come from the peer and are escaped when written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallRecord<'a> {
    /// The connection's other end.
    pub peer: Option<IpAddr>,
    /// The signature was right, or none is asked for. Else the line may be left out, see
    /// [`crate::limits::MAX_UNAUTHENTICATED_LINES_PER_SEC`].
    pub is_authenticated: bool,
    /// `metadata`, `encrypt`, `decrypt`, `health`; empty if the path named none.
    pub call: &'a str,
    /// The store's `uri_path_prefix`, if the path named one. It may be "".
    pub store: Option<&'a str>,
    /// The access key id that signed; for the audit log.
    pub access_key_id: Option<&'a str>,
    /// The external key id in the path.
    pub key_id: Option<&'a str>,
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
    /// `errorName`, if it is an error.
    pub error_name: Option<&'a str>,
    /// Why, for the operator. It may say more than the answer does.
    pub reason: Option<&'a str>,
    /// Label of the token that gave the answer.
    pub token: Option<&'a str>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Bytes of the answer's body.
    pub response_bytes: usize,
    /// Microseconds in the queue, if there was a job.
    pub queue_micros: Option<u32>,
    /// Microseconds in the HSM, if there was a job.
    pub hsm_micros: Option<u32>,
    /// Microseconds from the request's first byte to the answer.
    pub total_micros: u32,
}
