//! What a verified call may do: the store's keys.

use super::error::{ApiError, ErrorName};
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
