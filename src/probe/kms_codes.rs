//! Connection error codes of external key stores, and exceptions, as AWS KMS names them.

/// The code for answers that come too late, or not at all.
pub const TIMED_OUT: &str = "XKS_PROXY_TIMED_OUT";
/// The code for a handshake or a certificate that does not suit KMS.
pub const INVALID_TLS: &str = "XKS_PROXY_INVALID_TLS_CONFIGURATION";
/// The code for a credential that the proxy refuses.
pub const INVALID_CREDENTIALS: &str = "INVALID_CREDENTIALS";
/// The code for an answer that denies access.
pub const ACCESS_DENIED: &str = "XKS_PROXY_ACCESS_DENIED";
/// The code for a path that the proxy does not have.
pub const INVALID_CONFIGURATION: &str = "XKS_PROXY_INVALID_CONFIGURATION";
/// The code for an answer that KMS cannot interpret.
pub const INVALID_RESPONSE: &str = "XKS_PROXY_INVALID_RESPONSE";
/// The exception of CreateKey for a key that the proxy does not have.
pub const KEY_NOT_FOUND: &str = "XksKeyNotFoundException";
/// The exception of CreateKey for a key that KMS cannot use.
pub const INVALID_KEY: &str = "XksKeyInvalidConfigurationException";

/// The code when nothing answers, and when every external key manager is UNAVAILABLE.
pub const NOT_REACHABLE: &str = "XKS_PROXY_NOT_REACHABLE";
