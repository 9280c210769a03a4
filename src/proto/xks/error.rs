//! The specification's errors, and the one mapping from failures to answers.

use std::borrow::Cow;

use crate::job::Failure;
use crate::limits::{MAX_ERROR_MESSAGE_BYTES, MAX_TARGET_BYTES};
use crate::observe::metrics::labels::OutcomeLabel;
use crate::proto::http::HttpError;
use crate::proto::quota::QuotaExceeded;
use crate::proto::sigv4::Unauthentic;

// The text for `HttpError::TargetTooLong` contains this number.
const _: () = assert!(MAX_TARGET_BYTES == 256);

/// `errorName` (XKS specification, Error codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorName {
    /// ValidationException
    Validation,
    /// InvalidStateException
    InvalidState,
    /// InvalidCiphertextException
    InvalidCiphertext,
    /// InvalidKeyUsageException
    InvalidKeyUsage,
    /// AuthenticationFailedException
    AuthenticationFailed,
    /// AccessDeniedException
    AccessDenied,
    /// KeyNotFoundException
    KeyNotFound,
    /// InvalidUriPathException
    InvalidUriPath,
    /// ThrottlingException
    Throttling,
    /// InternalException
    Internal,
    /// UnsupportedOperationException
    UnsupportedOperation,
    /// DependencyTimeoutException
    DependencyTimeout,
}

impl ErrorName {
    /// The name in the answer.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.label().text()
    }

    /// Returns the error's label in metrics.
    #[must_use]
    pub fn label(self) -> OutcomeLabel {
        match self {
            Self::Validation => OutcomeLabel::Validation,
            Self::InvalidState => OutcomeLabel::InvalidState,
            Self::InvalidCiphertext => OutcomeLabel::InvalidCiphertext,
            Self::InvalidKeyUsage => OutcomeLabel::InvalidKeyUsage,
            Self::AuthenticationFailed => OutcomeLabel::AuthenticationFailed,
            Self::AccessDenied => OutcomeLabel::AccessDenied,
            Self::KeyNotFound => OutcomeLabel::KeyNotFound,
            Self::InvalidUriPath => OutcomeLabel::InvalidUriPath,
            Self::Throttling => OutcomeLabel::Throttling,
            Self::Internal => OutcomeLabel::Internal,
            Self::UnsupportedOperation => OutcomeLabel::UnsupportedOperation,
            Self::DependencyTimeout => OutcomeLabel::DependencyTimeout,
        }
    }

    /// Returns whether the HSM, or the way to it, has failed.
    #[must_use]
    pub fn is_of_the_hsm(self) -> bool {
        matches!(self, Self::Internal | Self::DependencyTimeout)
    }

    fn status(self) -> u16 {
        match self {
            Self::Validation
            | Self::InvalidState
            | Self::InvalidCiphertext
            | Self::InvalidKeyUsage => 400,
            Self::AuthenticationFailed => 401,
            Self::AccessDenied => 403,
            Self::KeyNotFound | Self::InvalidUriPath => 404,
            Self::Throttling => 429,
            Self::Internal => 500,
            Self::UnsupportedOperation => 501,
            Self::DependencyTimeout => 503,
        }
    }
}

/// An error in the form of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// `errorName`
    pub name: ErrorName,
    /// HTTP status: the specification's, or HTTP's own if no call was reached.
    pub status: u16,
    /// `errorMessage`, made printable ASCII of under 512 characters when written.
    pub message: Cow<'static, str>,
    /// The text for the log, if it says more than the message.
    pub reason: Option<Cow<'static, str>>,
    /// Allowed methods, for a 405.
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// Makes an error with the status that the specification gives to the name.
    pub fn new(name: ErrorName, message: impl Into<Cow<'static, str>>) -> Self {
        Self::with_status(name, name.status(), message)
    }

    /// Makes an error with a status of HTTP.
    pub fn with_status(
        name: ErrorName,
        status: u16,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name, status, message: message.into(), reason: None, allow: None }
    }

    /// Makes a ValidationException.
    pub fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorName::Validation, message)
    }

    /// Makes a 405 with the path's methods (RFC 9110, 15.5.6).
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut error =
            Self::with_status(ErrorName::Validation, 405, format!("the method here is {allow}"));
        error.allow = Some(allow);
        error
    }

    /// The text for the log.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.reason.as_ref().unwrap_or(&self.message)
    }

    /// Appends `{"errorName":...,"errorMessage":...}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"errorName\":\"");
        out.extend_from_slice(self.name.name().as_bytes());
        out.extend_from_slice(b"\",\"errorMessage\":\"");
        // Under 512 characters of 0x20 to 0x7e (XKS specification, Error codes).
        let message = self.message.as_bytes();
        push_printable(out, message.get(..MAX_ERROR_MESSAGE_BYTES).unwrap_or(message));
        out.extend_from_slice(b"\"}");
    }
}

/// Appends `text` as printable ASCII for a JSON string. Characters that JSON would escape are
/// replaced, so that the text is as long for the reader as in the JSON.
pub(super) fn push_printable(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|byte| match byte {
        b'"' => b'\'',
        b'\\' => b'/',
        0x20..=0x7e => *byte,
        _ => b'?',
    }));
}

impl From<Unauthentic> for ApiError {
    fn from(unauthentic: Unauthentic) -> Self {
        let mut error = Self::new(ErrorName::AuthenticationFailed, unauthentic.message());
        error.reason = Some(unauthentic.reason().into());
        error
    }
}

/// A request that is not understood is answered with one of HTTP's own statuses.
impl From<HttpError> for ApiError {
    fn from(error: HttpError) -> Self {
        use ErrorName::{InvalidUriPath, UnsupportedOperation, Validation};
        let (status, name, message) = match error {
            HttpError::BadRequest(reason) => (400, Validation, reason),
            HttpError::Timeout(reason) => (408, Validation, reason),
            HttpError::BodyTooLarge => (413, Validation, "the request body is larger than allowed"),
            HttpError::TargetTooLong => {
                (414, InvalidUriPath, "the URI is longer than 256 characters")
            }
            HttpError::UnknownExpectation => {
                (417, Validation, "the Expect header field has an unsupported value")
            }
            HttpError::HeadTooLarge(reason) => (431, Validation, reason),
            HttpError::UnknownTransferCoding => {
                (501, UnsupportedOperation, "the only transfer coding here is chunked")
            }
            HttpError::UnknownVersion => {
                (505, UnsupportedOperation, "this server speaks HTTP/1.1 and HTTP/1.0")
            }
        };
        Self::with_status(name, status, message)
    }
}

impl From<QuotaExceeded> for ApiError {
    fn from(exceeded: QuotaExceeded) -> Self {
        let message = match exceeded {
            QuotaExceeded::InFlight => "the key store has its max_in_flight requests already",
            QuotaExceeded::Rate => "the key store is above its max_requests_per_sec",
        };
        Self::new(ErrorName::Throttling, message)
    }
}

/// The one mapping from the HSM side's failures to the specification's errors.
impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        use ErrorName::{
            DependencyTimeout, Internal, InvalidCiphertext, InvalidKeyUsage, InvalidState,
            KeyNotFound, Throttling, UnsupportedOperation,
        };
        match failure {
            Failure::KeyNotFound => {
                Self::new(KeyNotFound, "the HSM has no AES key of that CKA_LABEL")
            }
            Failure::KeyAmbiguous(keys) => Self::new(
                InvalidState,
                format!("{keys} keys in the HSM have that CKA_LABEL, so it is ambiguous"),
            ),
            Failure::KeysDiffer => Self::new(
                InvalidState,
                "the HSM's tokens hold different keys under that CKA_LABEL: the proxy's operator has \
                 to say which is right",
            ),
            Failure::LimitReached(limit) => Self::new(
                InvalidState,
                format!(
                    "the HSM key has made {limit} encryptions, its limit: the proxy's operator has \
                     to rotate it"
                ),
            ),
            Failure::MayNotEncrypt => {
                Self::new(InvalidKeyUsage, "the key may not encrypt (CKA_ENCRYPT)")
            }
            Failure::MayNotDecrypt => {
                Self::new(InvalidKeyUsage, "the key may not decrypt (CKA_DECRYPT)")
            }
            Failure::InvalidCiphertext => Self::new(
                InvalidCiphertext,
                "ciphertext, initialization vector, tag, metadata and AAD do not match",
            ),
            Failure::TooLarge => Self::new(
                UnsupportedOperation,
                "the data is larger than the HSM takes in one operation",
            ),
            Failure::Overloaded => Self::new(
                Throttling,
                "the HSM cannot keep up: the wait would be longer than the deadline",
            ),
            Failure::TimedOut => {
                Self::new(DependencyTimeout, "the HSM did not answer within the deadline")
            }
            Failure::NoToken => Self::new(DependencyTimeout, "no HSM token is usable at present"),
            Failure::CdivMismatch => {
                Self::new(Internal, "the HSM's ciphertext did not decrypt to the plaintext")
            }
            Failure::Malformed => Self::new(Internal, "the HSM's answer violates PKCS#11"),
            Failure::Defect => Self::new(Internal, "a defect in the proxy: its log says where"),
            Failure::Pkcs11(_) => Self::new(Internal, format!("the HSM failed with {failure}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's table, row by row.
    #[test]
    fn names_and_statuses() {
        use ErrorName::{
            AccessDenied, AuthenticationFailed, DependencyTimeout, Internal, InvalidCiphertext,
            InvalidKeyUsage, InvalidState, InvalidUriPath, KeyNotFound, Throttling,
            UnsupportedOperation, Validation,
        };
        for (name, text, status) in [
            (Validation, "ValidationException", 400),
            (InvalidState, "InvalidStateException", 400),
            (InvalidCiphertext, "InvalidCiphertextException", 400),
            (InvalidKeyUsage, "InvalidKeyUsageException", 400),
            (AuthenticationFailed, "AuthenticationFailedException", 401),
            (AccessDenied, "AccessDeniedException", 403),
            (KeyNotFound, "KeyNotFoundException", 404),
            (InvalidUriPath, "InvalidUriPathException", 404),
            (Throttling, "ThrottlingException", 429),
            (UnsupportedOperation, "UnsupportedOperationException", 501),
            (DependencyTimeout, "DependencyTimeoutException", 503),
            (Internal, "InternalException", 500),
        ] {
            let error = ApiError::new(name, "why");
            assert_eq!((name.name(), error.status), (text, status));
            assert_eq!(name.label().text(), text);
        }
    }

    /// XKS specification, Error codes: under 512 characters of 0x20 to 0x7e, and still JSON.
    #[test]
    fn messages_are_short_printable_ascii() {
        let message = format!("\"a\\b\n\u{e9}{}", "x".repeat(600));
        let mut out = Vec::new();
        ApiError::validation(message).write_json(&mut out);
        let text = String::from_utf8_lossy(&out);
        let start = "{\"errorName\":\"ValidationException\",\"errorMessage\":\"";
        let message = text.strip_prefix(start).and_then(|text| text.strip_suffix("\"}"));
        assert!(message.is_some_and(|message| message.starts_with("'a/b???x")));
        assert!(message.is_some_and(|message| message.len() == MAX_ERROR_MESSAGE_BYTES));
    }

    /// An unknown access key and a wrong signature must look the same to the caller.
    #[test]
    fn the_answer_does_not_tell_which_access_keys_exist() {
        let unknown = ApiError::from(Unauthentic::UnknownAccessKey);
        let wrong = ApiError::from(Unauthentic::WrongSignature);
        assert_eq!((unknown.status, &unknown.message), (wrong.status, &wrong.message));
        assert_ne!(unknown.reason(), wrong.reason());
    }
}
