//! A digest that shows damage.

use sha2::{Digest as _, Sha256};

use crate::key_name::hex;

/// Returns the first 8 bytes of the SHA-256, in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).get(..8).unwrap_or_default())
}
