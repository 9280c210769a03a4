//! The request to the HSM, built from a call's members.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Authorized, NamedVersion};
use crate::job::{HsmAad, InlineBytes, Iv, KeyIndex, Operation, Request};
use crate::limits::{GCM_IV_BYTES, GCM_TAG_BYTES, MAX_AAD_BYTES, MAX_GCM_IV_BYTES};
use crate::proto::loop_state::LoopState;
use crate::proto::route::Call;
use crate::proto::service_config::{ServiceConfig, ServiceOptions};
use crate::proto::store::StoreKey;
use crate::proto::xks::decode::{Decoded, Members};
use crate::proto::xks::error::{ApiError, ErrorName};
use crate::proto::xks::{key_version, version_tag};

/// Builds the request to the HSM from a call's members, in pooled memory.
///
/// # Errors
/// UnsupportedOperationException: a member is larger than its limit.
/// InvalidCiphertextException: an IV or a tag has a length that GCM does not allow, or the
/// ciphertext names a version in a damaged form.
/// InternalException: the ciphertext is of a version that the settings do not have.
/// InvalidStateException: it is of a retired version.
pub(super) fn build(
    loop_state: &mut LoopState,
    service: &ServiceConfig,
    (call, key): (Call, &StoreKey),
    authorized: &mut Authorized,
    members: &Members,
    body: &[u8],
) -> Result<Arc<Request>, ApiError> {
    let mut request = loop_state.take_request();
    let filled = match Arc::get_mut(&mut request) {
        Some(request) => choose_version(authorized, call, key, members, body)
            .and_then(|()| fill(request, &service.options, call, authorized, members, body)),
        None => Err(in_use()),
    };
    match filled {
        Ok(()) => Ok(request),
        Err(error) => {
            loop_state.recycle_request(request);
            Err(error)
        }
    }
}

/// Builds a request for a key's attributes.
///
/// # Errors
/// InternalException: the pool of requests is corrupt.
pub(in crate::proto) fn describe(
    loop_state: &mut LoopState,
    key: KeyIndex,
) -> Result<Arc<Request>, ApiError> {
    let mut request = loop_state.take_request();
    let Some(pooled) = Arc::get_mut(&mut request) else { return Err(in_use()) };
    pooled.key = key;
    pooled.operation = Operation::Describe;
    Ok(request)
}

/// The pool holds only requests with no other owner.
fn in_use() -> ApiError {
    ApiError::new(ErrorName::Internal, "a pooled request is in use")
}

/// Chooses the key that decrypts a ciphertext: the version that its metadata names, among those of
/// the external key id that the call was authorized for.
fn choose_version(
    authorized: &mut Authorized,
    call: Call,
    key: &StoreKey,
    members: &Members,
    body: &[u8],
) -> Result<(), ApiError> {
    if call != Call::Decrypt {
        return Ok(());
    }
    let metadata = members.ciphertext_metadata.map(|member| member.span.bytes(body));
    let metadata = metadata.unwrap_or_default();
    if !key.is_versioned() {
        if let Some(untold) = version_tag::version(metadata) {
            authorized.version = NamedVersion::Untold(untold);
        }
        return Ok(());
    }
    let number = version_tag::version(metadata).unwrap_or(version_tag::ORIGINAL);
    authorized.version = NamedVersion::Of(number);
    authorized.key = key_version::decrypting(key, number, metadata)?;
    Ok(())
}

/// Checks the size limits, then fills the request.
fn fill(
    request: &mut Request,
    options: &ServiceOptions,
    call: Call,
    authorized: &Authorized,
    members: &Members,
    body: &[u8],
) -> Result<(), ApiError> {
    request.key = authorized.key;
    if call == Call::Metadata {
        request.operation = Operation::Describe;
        return Ok(());
    }
    let name = if call == Call::Encrypt { "plaintext" } else { "ciphertext" };
    check_size(members.data, options.max_plaintext_in_base64, name)?;
    check_size(members.aad, options.max_aad_in_base64, "additionalAuthenticatedData")?;
    let bytes = |member: Option<Decoded>| member.map(|member| member.span.bytes(body));

    let mut hash = Sha256::new();
    let aad = match bytes(members.aad) {
        None => None,
        Some(aad) => {
            let length = u16::try_from(aad.len()).map_err(|_| {
                ApiError::new(
                    ErrorName::UnsupportedOperation,
                    format!("additionalAuthenticatedData is longer than {MAX_AAD_BYTES} bytes"),
                )
            })?;
            hash.update(aad);
            Some((length, <[u8; 32]>::from(hash.clone().finalize())))
        }
    };
    let metadata = match call {
        Call::Encrypt => authorized.ciphertext_metadata.as_ref().map(InlineBytes::as_slice),
        _ => bytes(members.ciphertext_metadata),
    }
    .unwrap_or_default();
    request.aad = HsmAad::new(aad.as_ref().map(|(length, digest)| (*length, digest)), metadata);
    request.input.extend_from_slice(bytes(members.data).unwrap_or_default());
    request.operation = if call == Call::Encrypt {
        let cdiv = members.cdiv.then(|| {
            hash.update(metadata);
            hash
        });
        Operation::Encrypt { cdiv }
    } else {
        let iv = bytes(members.iv)
            .filter(|iv| iv.len() == GCM_IV_BYTES || iv.len() == MAX_GCM_IV_BYTES)
            .and_then(Iv::from_slice)
            .ok_or_else(|| {
                ApiError::new(
                    ErrorName::InvalidCiphertext,
                    "the initializationVector is neither 12 nor 16 bytes",
                )
            })?;
        let tag = bytes(members.tag).unwrap_or_default();
        if tag.len() != GCM_TAG_BYTES {
            return Err(ApiError::new(
                ErrorName::InvalidCiphertext,
                "the authenticationTag is not 16 bytes",
            ));
        }
        request.input.extend_from_slice(tag);
        Operation::Decrypt { iv }
    };
    Ok(())
}

fn check_size(
    member: Option<Decoded>,
    max_base64_bytes: usize,
    name: &'static str,
) -> Result<(), ApiError> {
    match member {
        Some(member) if member.base64_len > max_base64_bytes => {
            Err(too_large(name, max_base64_bytes))
        }
        _ => Ok(()),
    }
}

fn too_large(name: &str, max_bytes: usize) -> ApiError {
    ApiError::new(
        ErrorName::UnsupportedOperation,
        format!("{name} is larger than the configured limit of {max_bytes} bytes of base64"),
    )
}
