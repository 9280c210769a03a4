//! Ciphertexts whose plaintext is known, and the keys that they are made with.

use cryptoki_sys::CK_OBJECT_HANDLE;

use crate::job::Iv;

/// What probes and known-good operations encrypt.
pub(super) const PROBE_PLAINTEXT: [u8; 32] = *b"xks-proxy probes this HSM's work";

/// A ciphertext of [`PROBE_PLAINTEXT`].
#[derive(Clone)]
pub(super) struct KnownGood {
    pub(super) handle: CK_OBJECT_HANDLE,
    pub(super) iv: Iv,
    pub(super) ciphertext: Vec<u8>,
}

/// An AES key that lives as long as the session.
#[derive(Clone, Copy)]
pub(super) enum ProbeKey {
    Untried,
    Made(CK_OBJECT_HANDLE),
    /// The token makes none, which is no sign of ill health: a FIPS 140 level 3 nShield world
    /// wants a card for that.
    Refused,
}
