//! Authorization of a verified call: the store's keys, the policy, and the store's quota.

use std::sync::Arc;
use std::time::Instant;

use super::decode::RequestMetadata;
use super::error::{ApiError, ErrorName};
use crate::observe::metrics::LoopMetrics;
use crate::policy::decisions::Decisions;
use crate::policy::{Action, Attributes, Policy};
use crate::proto::quota::QuotaPermit;
use crate::proto::route::Call;
use crate::proto::span::Span;
use crate::proto::store::{Store, StoreKey};

/// Finds the key that an external key id names, if the store may use it.
///
/// # Errors
/// KeyNotFoundException: the store does not have the id.
pub fn key<'s>(store: &'s Store, key_id: &str) -> Result<&'s StoreKey, ApiError> {
    store.key(key_id).ok_or_else(|| {
        ApiError::new(ErrorName::KeyNotFound, "the key store has no such external key id")
    })
}

/// Applies the kill switch: a disabled key, or any key of a disabled store, neither encrypts nor
/// decrypts. Its metadata is still reported, with keyStatus DISABLED (XKS specification,
/// GetKeyMetadata).
///
/// # Errors
/// InvalidStateException: the key or its store is disabled.
pub fn state(store: &Store, key: &StoreKey, call: Call) -> Result<(), ApiError> {
    if !key.is_disabled || call == Call::Metadata {
        return Ok(());
    }
    let what =
        if store.is_disabled() { "the key store is disabled" } else { "the key is disabled" };
    Err(ApiError::new(ErrorName::InvalidState, what))
}

/// Builds a policy's input from a call. `metadata` is complete, and its spans refer to `body`.
#[must_use]
pub fn attributes<'a>(
    call: Call,
    store: &'a Store,
    key_id: &'a str,
    metadata: &RequestMetadata,
    body: &'a [u8],
) -> Attributes<'a> {
    let text = |span: Option<Span>| span.map(|span| span.text(body));
    let required = |span| text(span).unwrap_or_default();
    Attributes {
        action: match call {
            Call::Encrypt => Action::Encrypt,
            Call::Decrypt => Action::Decrypt,
            // The health call is exempt, and was answered earlier.
            Call::Metadata | Call::Health => Action::Metadata,
        },
        store: store.uri_path_prefix(),
        external_key_id: key_id,
        aws_principal_arn: required(metadata.aws_principal_arn),
        kms_operation: required(metadata.kms_operation),
        kms_request_id: required(metadata.kms_request_id),
        kms_key_arn: text(metadata.kms_key_arn),
        kms_via_service: text(metadata.kms_via_service),
        aws_source_vpc: text(metadata.aws_source_vpc),
        aws_source_vpce: text(metadata.aws_source_vpce),
    }
}

/// Evaluates the policy (XKS specification, Authorization). The caller learns only that the call
/// was denied; the log contains the reason.
///
/// # Errors
/// AccessDeniedException: the policy does not allow the call.
pub fn policy(
    policy: &Arc<Policy>,
    decisions: &mut Decisions,
    metrics: &LoopMetrics,
    attributes: &Attributes<'_>,
) -> Result<(), ApiError> {
    let decided = decisions.decide(policy, attributes);
    if decided.was_remembered {
        metrics.policy_decisions_remembered.add(1);
    } else {
        metrics.policy_evaluations.add(1);
    }
    if decided.is_allowed {
        return Ok(());
    }
    let message = "the policy of the external key store proxy does not allow this call";
    let mut error = ApiError::new(ErrorName::AccessDenied, message);
    error.reason = Some(decided.reason.to_owned().into());
    Err(error)
}

/// Counts a call that needs the HSM. Calls that were refused earlier don't count, nor does the
/// health call: a store that exceeds its quota is not unhealthy.
///
/// # Errors
/// ThrottlingException: the store is above its quota.
pub fn quota(store: &Store, now: Instant) -> Result<Option<QuotaPermit>, ApiError> {
    Ok(store.quota().admit(now)?)
}
