//! HTTP/1.1 and 1.0 (RFC 9110, RFC 9112): request head, body framing, response head.

pub mod authority;
pub mod body;
pub mod date;
pub mod request;
pub mod response;

/// An error for a request that is not understood; the connection ends after the answer.
///
/// The XKS specification defines errors for its calls only. These statuses are HTTP's own, with a
/// body in the specification's form, so that readers of the log find a reason.
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
