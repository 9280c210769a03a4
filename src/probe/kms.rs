//! The words under which AWS KMS reports an answer: connection error codes and exceptions.
//! docs/troubleshooting.md has their sources.

use super::answers::Reply;
use super::kms_codes::{
    ACCESS_DENIED, INVALID_CONFIGURATION, INVALID_CREDENTIALS, INVALID_RESPONSE, INVALID_TLS,
    KEY_NOT_FOUND, NOT_REACHABLE, TIMED_OUT,
};
use super::no_answer::Cause;

/// Returns the connection error code for a wrong answer to GetHealthStatus, unless AWS's pages do
/// not tell which it is.
#[must_use]
pub fn of_health(reply: &Reply) -> Option<&'static str> {
    match reply {
        Err(why) => Some(match why.cause {
            Cause::TimedOut => TIMED_OUT,
            Cause::ClientCertificate => INVALID_TLS,
            Cause::Unusable => INVALID_RESPONSE,
            Cause::Network => NOT_REACHABLE,
        }),
        Ok(answer) => match answer.status {
            200 => Some(INVALID_RESPONSE),
            401 => Some(INVALID_CREDENTIALS),
            403 => Some(ACCESS_DENIED),
            404 => Some(INVALID_CONFIGURATION),
            _ => None,
        },
    }
}

/// Returns the connection error code for a late answer to GetHealthStatus, or for none.
#[must_use]
pub fn of_late_health(reply: &Reply) -> Option<&'static str> {
    let is_late = reply.as_ref().map_or_else(|why| why.cause == Cause::TimedOut, |_| true);
    is_late.then_some(TIMED_OUT)
}

/// Returns the exception of CreateKey for a wrong answer to GetKeyMetadata.
#[must_use]
pub fn of_metadata(reply: &Reply) -> Option<&'static str> {
    let is_unknown = reply.as_ref().is_ok_and(|answer| {
        answer.status == 404 && answer.body.windows(11).any(|bytes| bytes == b"KeyNotFound")
    });
    is_unknown.then_some(KEY_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::client::Answer;

    fn answer(status: u16, body: &[u8]) -> Reply {
        let (body, time) = (body.to_vec(), Duration::ZERO);
        Ok(Answer { status, minor_version: 1, headers: Vec::new(), body, time })
    }

    /// Each answer to GetHealthStatus has the code that AWS's pages give for it, or none.
    #[test]
    fn health() {
        for (status, code) in [
            (200, Some("XKS_PROXY_INVALID_RESPONSE")),
            (401, Some("INVALID_CREDENTIALS")),
            (403, Some("XKS_PROXY_ACCESS_DENIED")),
            (404, Some("XKS_PROXY_INVALID_CONFIGURATION")),
            (500, None),
            (503, None),
        ] {
            assert_eq!(of_health(&answer(status, b"")), code, "{status}");
        }
        let none = |error: io::Error| Err(error.into());
        // The text plays no part.
        let late = io::Error::new(io::ErrorKind::TimedOut, "no HTTP/1.1, CertificateRequired");
        let late: Reply = none(late);
        assert_eq!((of_health(&late), of_late_health(&late)), (Some(TIMED_OUT), Some(TIMED_OUT)));
        let reset = none(io::ErrorKind::ConnectionReset.into());
        assert_eq!((of_health(&reset), of_late_health(&reset)), (Some(NOT_REACHABLE), None));
        let text = none(io::Error::other("timed out, temporarily unavailable"));
        assert_eq!((of_health(&text), of_late_health(&text)), (Some(NOT_REACHABLE), None));
        assert_eq!(of_late_health(&answer(200, b"")), Some(TIMED_OUT));
    }

    /// Only a proxy that does not know the key makes CreateKey say so.
    #[test]
    fn metadata() {
        let unknown = br#"{"errorName":"KeyNotFoundException"}"#;
        assert_eq!(of_metadata(&answer(404, unknown)), Some("XksKeyNotFoundException"));
        let path = br#"{"errorName":"InvalidUriPathException"}"#;
        assert_eq!(of_metadata(&answer(404, path)), None);
        assert_eq!(of_metadata(&answer(500, unknown)), None);
        assert_eq!(of_metadata(&Err(io::Error::other("KeyNotFound").into())), None);
    }
}
