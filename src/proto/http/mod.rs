//! HTTP/1.1 and 1.0 (RFC 9110, RFC 9112): request head, body framing, response head.

pub mod body;
pub mod date;
pub mod request;
pub mod response;

use super::xks::error::{ApiError, ErrorName};
use crate::limits::MAX_TARGET_BYTES;

// As the error's text has it.
const _: () = assert!(MAX_TARGET_BYTES == 256);

/// A request that is answered without being understood; the connection ends afterwards.
///
/// The XKS specification names errors for its calls only. These statuses are HTTP's own, with a
/// body of the specification's form, so that whoever reads the log finds a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// 400: not HTTP, or ambiguous; the reason is for the answer and the log.
    BadRequest(&'static str),
    /// 408
    Timeout(&'static str),
    /// 413
    BodyTooLarge,
    /// 414
    TargetTooLong,
    /// 417
    UnknownExpectation,
    /// 431
    HeadTooLarge(&'static str),
    /// 501: a transfer coding other than chunked
    UnknownTransferCoding,
    /// 505
    UnknownVersion,
}

impl HttpError {
    /// The answer.
    #[must_use]
    pub fn answer(self) -> ApiError {
        use ErrorName::{InvalidUriPath, UnsupportedOperation, Validation};
        let (status, name, message) = match self {
            Self::BadRequest(reason) => (400, Validation, reason),
            Self::Timeout(reason) => (408, Validation, reason),
            Self::BodyTooLarge => (413, Validation, "the request body is larger than allowed"),
            Self::TargetTooLong => (414, InvalidUriPath, "the URI is longer than 256 characters"),
            Self::UnknownExpectation => (417, Validation, "the Expect header asks for too much"),
            Self::HeadTooLarge(reason) => (431, Validation, reason),
            Self::UnknownTransferCoding => {
                (501, UnsupportedOperation, "the only transfer coding here is chunked")
            }
            Self::UnknownVersion => {
                (505, UnsupportedOperation, "this server speaks HTTP/1.1 and HTTP/1.0")
            }
        };
        ApiError::with_status(name, status, message)
    }
}
