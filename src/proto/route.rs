//! The route table: from a path to a call.

use crate::limits::MAX_KEY_ID_BYTES;
use crate::observe::metrics::labels::CallLabel;

/// The port on which a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The XKS API, `/ping` and `/readyz`.
    Api,
    /// `/ping` and `/readyz` only.
    Ping,
}

/// The specification's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// GetKeyMetadata
    Metadata,
    /// Encrypt
    Encrypt,
    /// Decrypt
    Decrypt,
    /// GetHealthStatus
    Health,
}

impl Call {
    /// The name in the path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Health => "health",
        }
    }

    /// Returns the call's label in metrics.
    #[must_use]
    pub fn label(self) -> CallLabel {
        match self {
            Self::Metadata => CallLabel::Metadata,
            Self::Encrypt => CallLabel::Encrypt,
            Self::Decrypt => CallLabel::Decrypt,
            Self::Health => CallLabel::Health,
        }
    }
}

/// The destination of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'b> {
    /// `GET /ping`: the process is alive.
    Ping,
    /// `GET /readyz`: a token works, and the process is not draining.
    Ready,
    /// One of the four calls.
    Api {
        /// Call.
        call: Call,
        /// The path before `/kms/xks/v1`.
        prefix: &'b str,
        /// The external key id; empty for [`Call::Health`].
        key_id: &'b str,
    },
}

/// Finds the route of a path, or `None` if there is no such path. The path is read from its end, so
/// that a store's prefix may itself contain `/kms/xks/v1`.
#[must_use]
pub fn route(path: &str) -> Option<Route<'_>> {
    match path {
        "/ping" => return Some(Route::Ping),
        "/readyz" => return Some(Route::Ready),
        _ => {}
    }
    let (rest, last) = path.rsplit_once('/')?;
    let (call, prefix, key_id) = match last {
        "health" => (Call::Health, rest.strip_suffix("/kms/xks/v1")?, ""),
        "metadata" => with_key(Call::Metadata, rest)?,
        "encrypt" => with_key(Call::Encrypt, rest)?,
        "decrypt" => with_key(Call::Decrypt, rest)?,
        _ => return None,
    };
    Some(Route::Api { call, prefix, key_id })
}

fn with_key(call: Call, rest: &str) -> Option<(Call, &str, &str)> {
    let (rest, key_id) = rest.rsplit_once('/')?;
    is_key_id(key_id).then_some(())?;
    Some((call, rest.strip_suffix("/kms/xks/v1/keys")?, key_id))
}

/// Returns whether the text is an external key id: 1 to 128 of `a-zA-Z0-9-._` (XKS specification,
/// API operations). A lone "." or ".." is a path segment that clients and proxies remove (RFC 3986,
/// 5.2.4), so it names no key.
#[must_use]
pub fn is_key_id(text: &str) -> bool {
    (1..=MAX_KEY_ID_BYTES).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls have the same names in metrics as in paths.
    #[test]
    fn metrics_know_the_calls() {
        for call in [Call::Metadata, Call::Encrypt, Call::Decrypt, Call::Health] {
            assert_eq!(call.label().text(), call.name());
        }
    }

    /// Every row of the route table, and near misses of each.
    #[test]
    fn paths() {
        let api = |call, prefix, key_id| Some(Route::Api { call, prefix, key_id });
        for (path, expected) in [
            ("/ping", Some(Route::Ping)),
            ("/readyz", Some(Route::Ready)),
            ("/kms/xks/v1/health", api(Call::Health, "", "")),
            ("/a/b-c_d/kms/xks/v1/health", api(Call::Health, "/a/b-c_d", "")),
            ("/kms/xks/v1/kms/xks/v1/health", api(Call::Health, "/kms/xks/v1", "")),
            ("/p/kms/xks/v1/keys/k.1_-Z/encrypt", api(Call::Encrypt, "/p", "k.1_-Z")),
            ("/kms/xks/v1/keys/health/decrypt", api(Call::Decrypt, "", "health")),
            ("/kms/xks/v1/keys/k/metadata", api(Call::Metadata, "", "k")),
            ("/kms/xks/v1/keys//metadata", None),
            ("/kms/xks/v1/keys/../metadata", None),
            ("/kms/xks/v1/keys/a%2Fb/metadata", None),
            ("/kms/xks/v1/keys/k/metadata/", None),
            ("/kms/xks/v1/keys/k/sign", None),
            ("/kms/xks/v2/health", None),
            ("/pings", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
        assert!(is_key_id(&"k".repeat(128)) && !is_key_id(&"k".repeat(129)));
    }
}
