//! Known-good operations: ciphertexts of a known plaintext, and the session's own key.

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::job::Iv;

/// Plaintext of health checks and known-good operations.
pub(super) const KNOWN_PLAINTEXT: [u8; 32] = *b"xks-proxy probes this HSM's work";

/// A ciphertext of [`KNOWN_PLAINTEXT`].
#[derive(Clone)]
pub(super) struct KnownGood {
    pub(super) handle: CK_OBJECT_HANDLE,
    pub(super) iv: Iv,
    pub(super) ciphertext: Vec<u8>,
}

/// The session's own AES key, which lives as long as the session.
#[derive(Clone, Copy)]
pub(super) enum SessionKey {
    Untried,
    Made(CK_OBJECT_HANDLE),
    /// The token makes no session keys. That does not mean that it is unhealthy: a FIPS 140 level 3
    /// nShield world requires a card for it.
    Refused,
}
