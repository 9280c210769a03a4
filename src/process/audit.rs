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
    Checkpoint, CheckpointError, CheckpointKey, DIGEST_BYTES, Seal, Sealed,
};
use crate::observe::syslog::copies::Copies;
use crate::proto::ServiceConfig;
use crate::settings::Settings;

/// Additional authenticated data of a checkpoint, so that nothing that a key store encrypts can be
/// passed off as one.
fn aad() -> HsmAad {
    HsmAad::of_no_request(b"xks-proxy audit checkpoint 2")
}

/// Additional authenticated data of former versions, which a request with this ciphertext metadata
/// and without AAD has, too.
fn former_aad() -> HsmAad {
    HsmAad::new(None, b"audit checkpoint 1")
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

/// Returns whether that HSM key sealed the checkpoint, and in which form.
///
/// # Errors
/// The HSM cannot answer; the error is the reason.
pub(crate) fn seal_of(
    standalone: &StandaloneHsm,
    key: KeyIndex,
    checkpoint: &Checkpoint,
) -> Result<Seal, CheckpointError> {
    let Some(iv) = Iv::from_slice(&checkpoint.sealed.iv) else { return Ok(Seal::None) };
    for (aad, seal) in [(aad(), Seal::Present), (former_aad(), Seal::Former)] {
        let operation = Operation::Decrypt { iv };
        let input = checkpoint.sealed.bytes.clone();
        match standalone.perform(Request { operation, key, aad, input }) {
            Ok((_, digest)) if digest.as_slice().ct_eq(&checkpoint.digest).into() => {
                return Ok(seal);
            }
            Ok(_) | Err(Failure::InvalidCiphertext) => {}
            Err(failure) => return Err(hsm_error(failure)),
        }
    }
    Ok(Seal::None)
}

/// Opens the audit log, or none if the settings have no `[audit]` section.
pub(super) fn open(
    settings: &Settings,
    takeover: Option<&Takeover>,
    copies: Copies,
) -> Result<Audit, Failed> {
    let Some(config) = &settings.audit else { return Ok(Audit::off()) };
    let audit = takeover
        .map(Takeover::socket)
        .transpose()
        .and_then(|predecessor| Audit::open_after(config, predecessor, copies))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_CIPHERTEXT_METADATA_BYTES;

    /// Whoever can encrypt with the key through a store cannot make a checkpoint: no request, with
    /// or without AAD, and with metadata of any length, has the same AAD.
    #[test]
    fn no_request_has_the_aad_of_a_checkpoint() {
        let own = aad();
        let metadata = &own.as_slice()[..MAX_CIPHERTEXT_METADATA_BYTES];
        for length in 0..=metadata.len() {
            for aad in [None, Some((0, &[0; 32])), Some((u16::MAX, &[0xff; 32]))] {
                let request = HsmAad::new(aad, &metadata[..length]);
                assert_ne!(request.as_slice().len(), own.as_slice().len());
            }
        }
        // The former one is that of a request.
        assert_eq!(former_aad(), HsmAad::new(None, b"audit checkpoint 1"));
    }
}
