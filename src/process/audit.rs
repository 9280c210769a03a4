//! The audit log of the process, and the HSM key that seals its checkpoints.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq as _;

use super::hsm_caller::{HsmCaller, OTHER_ANSWER, told};
use super::standalone_hsm::StandaloneHsm;
use super::takeover::Takeover;
use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::hsm::Hsm;
use crate::job::{Failure, HsmAad, Iv, KeyIndex, Operation, Request, Success};
use crate::limits::MAX_AUDIT_CHECKPOINT_WAIT;
use crate::observe::audit::Audit;
use crate::observe::audit::checkpoint::{
    Checkpoint, CheckpointError, CheckpointKey, DIGEST_BYTES, Sealed,
};
use crate::proto::ServiceConfig;
use crate::settings::Settings;

/// Additional authenticated data of a checkpoint, so that nothing that a key store encrypts can be
/// passed off as one.
const CONTEXT: &[u8] = b"audit checkpoint 1";

fn aad() -> HsmAad {
    HsmAad::new(None, CONTEXT)
}

/// The key `[audit] hsm_key`, used through the same sessions that serve calls.
pub(super) struct SealingKey {
    pub(super) label: String,
    pub(super) key: KeyIndex,
    pub(super) hsm: Arc<ArcSwap<Hsm>>,
    pub(super) caller: HsmCaller,
}

impl CheckpointKey for SealingKey {
    fn label(&self) -> &str {
        &self.label
    }

    fn seal(&self, digest: &[u8; DIGEST_BYTES]) -> Result<Sealed, CheckpointError> {
        let request = Request {
            operation: Operation::Encrypt { cdiv: None },
            key: self.key,
            aad: aad(),
            input: digest.to_vec(),
        };
        let hsm = self.hsm.load();
        match self.caller.perform(&hsm, request, MAX_AUDIT_CHECKPOINT_WAIT).map_err(hsm_error)? {
            (Success::Encrypted { iv, tag, .. }, ciphertext) => {
                let bytes = [ciphertext.as_slice(), &tag].concat();
                Ok(Sealed { iv: iv.as_slice().to_vec(), bytes })
            }
            _ => Err(CheckpointError::Hsm(OTHER_ANSWER.to_owned())),
        }
    }
}

fn hsm_error(failure: Failure) -> CheckpointError {
    CheckpointError::Hsm(told(failure))
}

/// Returns whether that HSM key sealed the checkpoint.
///
/// # Errors
/// The HSM cannot answer; the error is the reason.
pub(crate) fn is_sealed(
    standalone: &StandaloneHsm,
    key: KeyIndex,
    checkpoint: &Checkpoint,
) -> Result<bool, CheckpointError> {
    let Some(iv) = Iv::from_slice(&checkpoint.sealed.iv) else { return Ok(false) };
    let operation = Operation::Decrypt { iv };
    let input = checkpoint.sealed.bytes.clone();
    match standalone.perform(Request { operation, key, aad: aad(), input }) {
        Ok((_, digest)) => Ok(digest.as_slice().ct_eq(&checkpoint.digest).into()),
        Err(Failure::InvalidCiphertext) => Ok(false),
        Err(failure) => Err(hsm_error(failure)),
    }
}

/// Opens the audit log, or none if the settings have no `[audit]` section.
pub(super) fn open(settings: &Settings, takeover: Option<&Takeover>) -> Result<Audit, Failed> {
    let Some(config) = &settings.audit else { return Ok(Audit::off()) };
    let audit = takeover
        .map(Takeover::socket)
        .transpose()
        .and_then(|predecessor| Audit::open_after(config, predecessor))
        .map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("[audit]: {error}")))?;
    audit.record_event(
        "start",
        &[("version", env!("CARGO_PKG_VERSION")), ("settings", &settings.file.to_string_lossy())],
    );
    Ok(audit)
}

/// Asks the process that this one replaces for the audit log.
pub(super) fn take_over(audit: &Audit, settings: &Settings, from: OwnedFd) {
    let Some(config) = &settings.audit else { return };
    if let Err(error) = audit.take_over(config, from) {
        tracing::warn!(%error, "the audit log is taken over only when the former process ends");
    }
}

/// Makes the HSM seal the log from now on if the settings name a key for it.
pub(super) fn seal(
    audit: &Audit,
    settings: &Settings,
    service: &ServiceConfig,
    hsm: &Arc<ArcSwap<Hsm>>,
    caller: HsmCaller,
) {
    let Some(label) = settings.audit.as_ref().and_then(|audit| audit.hsm_key.clone()) else {
        return;
    };
    if let Some(key) = service.key_of(&label) {
        let hsm = Arc::clone(hsm);
        audit.set_checkpoint_key(Box::new(SealingKey { label, key, hsm, caller }));
    }
}
