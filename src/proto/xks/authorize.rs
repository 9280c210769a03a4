//! What a verified call may do: the store's keys, and its quota.

use std::time::Instant;

use super::error::{ApiError, ErrorName};
use super::quota::InFlight;
use crate::proto::route::Call;
use crate::proto::service::{Store, StoreKey};

/// The key that an external key id names, if the store may use it.
///
/// # Errors
/// KeyNotFoundException: the id is not in the store's `xks_key_id_set`.
pub fn key(store: &Store, key_id: &str) -> Result<StoreKey, ApiError> {
    store.key(key_id).ok_or_else(|| {
        ApiError::new(ErrorName::KeyNotFound, "the key store has no such external key id")
    })
}

/// The kill switch: a disabled key, or one of a disabled store, neither encrypts nor decrypts. Its
/// metadata is still told, with keyStatus DISABLED (XKS specification, GetKeyMetadata).
///
/// # Errors
/// InvalidStateException: the key or its store is disabled.
pub fn state(store: &Store, key: StoreKey, call: Call) -> Result<(), ApiError> {
    if !key.is_disabled || call == Call::Metadata {
        return Ok(());
    }
    let what =
        if store.is_disabled() { "the key store is disabled" } else { "the key is disabled" };
    Err(ApiError::new(ErrorName::InvalidState, what))
}

/// Counts a call that asks something of the HSM. Calls that are refused before, and the health
/// call, whose answer is known, don't count: a store that asks too much is not ill.
///
/// # Errors
/// ThrottlingException: the store is above its quota.
pub fn quota(store: &Store, now: Instant) -> Result<Option<InFlight>, ApiError> {
    store.quota().admit(now)
}
