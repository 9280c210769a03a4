//! The request to the HSM, built from a call's members.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Authorized;
use crate::job::{HsmAad, InlineBytes, Iv, Operation, Request};
use crate::limits::{GCM_IV_BYTES, GCM_TAG_BYTES, MAX_AAD_BYTES, MAX_GCM_IV_BYTES};
use crate::proto::loop_state::LoopState;
use crate::proto::route::Call;
use crate::proto::service_config::{ServiceConfig, ServiceOptions};
use crate::proto::xks::decode::{Decoded, Members};
use crate::proto::xks::error::{ApiError, ErrorName};

/// Builds the request to the HSM, in memory of the pool, from a call's members.
///
/// # Errors
/// UnsupportedOperationException: a member is larger than its limit.
/// InvalidCiphertextException: an IV or a tag has a length that GCM does not have.
pub(super) fn build(
    loop_state: &mut LoopState,
    service: &ServiceConfig,
    call: Call,
    authorized: &Authorized,
    members: &Members,
    body: &[u8],
) -> Result<Arc<Request>, ApiError> {
    let mut request = loop_state.take_request();
    let filled = match Arc::get_mut(&mut request) {
        Some(request) => fill(request, &service.options, call, authorized, members, body),
        // The pool holds only requests with no other owner.
        None => Err(ApiError::new(ErrorName::Internal, "a pooled request is in use")),
    };
    match filled {
        Ok(()) => Ok(request),
        Err(error) => {
            loop_state.recycle_request(request);
            Err(error)
        }
    }
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
