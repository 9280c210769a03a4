//! What a verified call may do: the store's keys, and its quota.

use std::time::Instant;

use super::error::{ApiError, ErrorName};
use super::quota::InFlight;
use crate::job::KeyIndex;
use crate::proto::service::Store;

/// The key that an external key id names, if the store may use it.
///
/// # Errors
/// KeyNotFoundException: the id is not in the store's `xks_key_id_set`.
pub fn key(store: &Store, key_id: &str) -> Result<KeyIndex, ApiError> {
    store.key(key_id).ok_or_else(|| {
        ApiError::new(ErrorName::KeyNotFound, "the key store has no such external key id")
    })
}

/// Counts a call that asks something of the HSM. Calls that are refused before, and the health
/// call, whose answer is known, don't count: a store that asks too much is not ill.
///
/// # Errors
/// ThrottlingException: the store is above its quota.
pub fn quota(store: &Store, now: Instant) -> Result<Option<InFlight>, ApiError> {
    store.quota().admit(now)
}
