//! The version of an external key id that decrypts a ciphertext.
//!
//! KMS tells the callers of a KeyNotFoundException to make a new key, and those of an
//! InvalidCiphertextException that their data is corrupt. A version that this proxy does not have
//! is neither: it is an InternalException, whose log line says what to do.

use super::error::{ApiError, ErrorName};
use super::version_tag;
use crate::job::KeyIndex;
use crate::proto::store::StoreKey;

/// Likely reasons why a ciphertext names a version that the settings do not have.
const LIKELY_CAUSES: &str = "either this replica has not been told of the version yet, or the \
                             version was taken out too soon; list it in \
                             external_key_stores.keys.versions";

/// Returns the key of the version with this number, which `metadata` names or implies.
///
/// # Errors
/// InternalException: the settings do not have the version.
/// InvalidStateException: the version is retired.
/// InvalidCiphertextException: the tag is damaged, and the original version, whose ciphertexts may
/// have any metadata, does not decrypt.
pub fn decrypting(key: &StoreKey, number: u32, metadata: &[u8]) -> Result<KeyIndex, ApiError> {
    match key.version(number) {
        Some(version) if !version.is_retired => Ok(version.key),
        _ if version_tag::is_damaged(metadata) => Err(damaged()),
        Some(_) => Err(retired(number)),
        None => Err(unknown(key, number)),
    }
}

#[cold]
fn damaged() -> ApiError {
    ApiError::new(
        ErrorName::InvalidCiphertext,
        "the ciphertextMetadata begins like the tag of a key's version, but is damaged",
    )
}

#[cold]
fn retired(number: u32) -> ApiError {
    let message = format!("version {number} of the key is retired");
    let mut error = ApiError::new(ErrorName::InvalidState, message);
    let reason = format!(
        "version {number} of the key is retired, and a ciphertext of it is still in use; to decrypt \
         it, remove the version's `retired`"
    );
    error.reason = Some(reason.into());
    error
}

#[cold]
fn unknown(key: &StoreKey, number: u32) -> ApiError {
    let message = match number {
        version_tag::ORIGINAL => "the ciphertext is of the key's original version, which this \
                                  proxy does not have"
            .into(),
        _ => format!(
            "the ciphertext is of version {number} of the key, which this proxy does not \
                      have"
        ),
    };
    let mut error = ApiError::new(ErrorName::Internal, message);
    let known: Vec<String> = key.versions.iter().map(|it| it.number.to_string()).collect();
    let reason = format!(
        "the ciphertext is of version {number} of the key, and the settings list {}: {LIKELY_CAUSES}",
        known.join(", ")
    );
    error.reason = Some(reason.into());
    error
}

/// The error for a ciphertext that the HSM refuses and whose metadata looks like the tag of a
/// version, while the external key id has no versions. The metadata may have been the operator's
/// own, but most likely it is not.
#[must_use]
#[cold]
pub fn untold(number: u32) -> ApiError {
    let message = format!(
        "the ciphertext may be of version {number} of the key, which this proxy does not have"
    );
    let mut error = ApiError::new(ErrorName::Internal, message);
    let reason = format!(
        "the HSM refuses the ciphertext, whose metadata names version {number} of the key, and the \
         settings have no versions for the key: {LIKELY_CAUSES}"
    );
    error.reason = Some(reason.into());
    error
}
