//! The values of the metrics' labels.

/// The label `call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallLabel {
    /// The path does not name a call.
    None,
    /// `GetKeyMetadata`
    Metadata,
    /// `Encrypt`
    Encrypt,
    /// `Decrypt`
    Decrypt,
    /// `GetHealthStatus`
    Health,
}

impl CallLabel {
    /// Every value, in the order of the exposition.
    pub const ALL: [Self; 5] =
        [Self::None, Self::Metadata, Self::Encrypt, Self::Decrypt, Self::Health];

    /// The calls of the specification.
    pub const CALLS: [Self; 4] = [Self::Metadata, Self::Encrypt, Self::Decrypt, Self::Health];

    /// The calls that need the HSM.
    pub const HSM_CALLS: [Self; 3] = [Self::Metadata, Self::Encrypt, Self::Decrypt];

    /// Returns the label's text, which is also the call's name in paths.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Metadata => "metadata",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Health => "health",
        }
    }
}

/// The label `outcome` of a request: the answer's errorName (XKS specification, Error codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeLabel {
    /// The call succeeded.
    Ok,
    /// `ValidationException`
    Validation,
    /// `InvalidStateException`
    InvalidState,
    /// `InvalidCiphertextException`
    InvalidCiphertext,
    /// `InvalidKeyUsageException`
    InvalidKeyUsage,
    /// `AuthenticationFailedException`
    AuthenticationFailed,
    /// `AccessDeniedException`
    AccessDenied,
    /// `KeyNotFoundException`
    KeyNotFound,
    /// `InvalidUriPathException`
    InvalidUriPath,
    /// `ThrottlingException`
    Throttling,
    /// `InternalException`
    Internal,
    /// `UnsupportedOperationException`
    UnsupportedOperation,
    /// `DependencyTimeoutException`
    DependencyTimeout,
}

/// The party at fault for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody: the call succeeded.
    None,
    /// The caller: the call was refused.
    Caller,
    /// The proxy or the HSM: the call failed.
    Service,
}

impl OutcomeLabel {
    /// Every value, in the order of the exposition.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Validation,
        Self::InvalidState,
        Self::InvalidCiphertext,
        Self::InvalidKeyUsage,
        Self::AuthenticationFailed,
        Self::AccessDenied,
        Self::KeyNotFound,
        Self::InvalidUriPath,
        Self::Throttling,
        Self::Internal,
        Self::UnsupportedOperation,
        Self::DependencyTimeout,
    ];

    /// Returns the label's text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Validation => "ValidationException",
            Self::InvalidState => "InvalidStateException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidKeyUsage => "InvalidKeyUsageException",
            Self::AuthenticationFailed => "AuthenticationFailedException",
            Self::AccessDenied => "AccessDeniedException",
            Self::KeyNotFound => "KeyNotFoundException",
            Self::InvalidUriPath => "InvalidUriPathException",
            Self::Throttling => "ThrottlingException",
            Self::Internal => "InternalException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::DependencyTimeout => "DependencyTimeoutException",
        }
    }

    /// Returns the party at fault for the outcome.
    #[must_use]
    pub fn fault(self) -> Fault {
        match self {
            Self::Ok => Fault::None,
            Self::Throttling | Self::Internal | Self::DependencyTimeout => Fault::Service,
            _ => Fault::Caller,
        }
    }
}

/// The label `listener`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerLabel {
    /// The XKS API.
    Api,
    /// Metrics, health endpoints and the status page.
    Admin,
}

impl ListenerLabel {
    /// Returns the label's text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Admin => "admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are indexed by these values, so each must be listed at its own index.
    #[test]
    fn values_are_listed_in_order() {
        for (index, call) in CallLabel::ALL.into_iter().enumerate() {
            assert_eq!(call as usize, index);
        }
        for (index, outcome) in OutcomeLabel::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }
}
