//! Reasons why a request is not authentic.

use super::clock_sample::ClockSample;

/// The reason why a request is not authentic. In the answer, an unknown access key looks like a
/// wrong signature: otherwise a stranger could find out which access keys exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthentic {
    /// No Authorization header field.
    MissingAuthorization,
    /// More than one Authorization header field.
    SeveralAuthorizations,
    /// The Authorization header field cannot be parsed, for this reason.
    Malformed(&'static str),
    /// The scope does not end with `aws4_request`.
    WrongTerminator,
    /// The scope names another Region.
    WrongRegion,
    /// The scope names another service.
    WrongService,
    /// `host` or `x-amz-date` is not signed.
    NotSigned(&'static str),
    /// A signed header field is not in the request.
    MissingSignedHeader,
    /// `x-amz-date` is missing, repeated or not a date and time.
    MalformedDate,
    /// The scope's date is not the day of `x-amz-date`.
    ScopeDateDiffers,
    /// `x-amz-date` is more than five minutes from our clock. With the difference, if the signature
    /// was verified and is right.
    Skewed(Option<ClockSample>),
    /// The store has no credential with that access key id.
    UnknownAccessKey,
    /// The signature does not match.
    WrongSignature,
}

impl Unauthentic {
    /// The text for the answer: printable ASCII.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::MissingAuthorization => "the Authorization header field is missing",
            Self::SeveralAuthorizations => "there are several Authorization header fields",
            Self::Malformed(reason) => reason,
            Self::WrongTerminator => "the credential scope does not end with aws4_request",
            Self::WrongRegion => "the credential scope names another Region",
            Self::WrongService => "the credential scope names another service",
            Self::NotSigned("host") => "the host header field is not signed",
            Self::NotSigned(_) => "the x-amz-date header field is not signed",
            Self::MissingSignedHeader => "a signed header field is not in the request",
            Self::MalformedDate => {
                "there is not exactly one X-Amz-Date header field of the form YYYYMMDDTHHMMSSZ"
            }
            Self::ScopeDateDiffers => "the credential scope's date is not that of X-Amz-Date",
            Self::Skewed(_) => "X-Amz-Date is more than 5 minutes from the proxy's clock",
            Self::UnknownAccessKey | Self::WrongSignature => {
                "the signature does not match the request and the key store's credentials"
            }
        }
    }

    /// The text for the log, which distinguishes the two cases that the answer does not.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownAccessKey => "the key store has no such access key id",
            Self::WrongSignature => "the signature does not match",
            other => other.message(),
        }
    }
}
