//! The HSM's completion of a call.

use super::{Exchange, HsmReport, NamedVersion};
use crate::job::{Completion, Failure, KeyAttributes, KeyIndex, Success};
use crate::proto::loop_state::LoopState;
use crate::proto::store::StoreKey;
use crate::proto::xks::error::ApiError;
use crate::proto::xks::key_version;

/// The consequence of a completion.
pub(in crate::proto) enum Next<'c> {
    /// The call is answered with the HSM's result.
    Succeed(&'c Success),
    /// GetKeyMetadata is answered with these attributes.
    Report(KeyAttributes),
    /// The call fails.
    Fail(ApiError),
    /// The attributes of another version are needed.
    Describe(KeyIndex),
}

impl Exchange {
    /// Records which token did the job, and how long it took.
    pub(in crate::proto) fn note_completion(&mut self, completion: &Completion) {
        let (queue_micros, hsm_micros) =
            self.hsm.as_ref().map_or((0, 0), |hsm| (hsm.queue_micros, hsm.hsm_micros));
        self.hsm = Some(HsmReport {
            token: completion.token,
            queue_micros: queue_micros.saturating_add(completion.queue_micros),
            hsm_micros: hsm_micros.saturating_add(completion.hsm_micros),
        });
    }

    /// Determines what follows from a job's outcome. `received` is the buffer that the spans refer
    /// to.
    pub(in crate::proto) fn after<'c>(
        &mut self,
        loop_state: &LoopState,
        outcome: &'c Result<Success, Failure>,
        received: &[u8],
    ) -> Next<'c> {
        match outcome {
            // Usually the version that encrypts decrypts too.
            Ok(success @ Success::Described(KeyAttributes { decrypt: true, .. }))
                if self.described.is_none() =>
            {
                Next::Succeed(success)
            }
            Ok(Success::Described(attributes)) => {
                self.after_description(loop_state, Some(*attributes), received)
            }
            // This version does not decrypt, but another one may.
            Err(Failure::KeyNotFound | Failure::KeyAmbiguous(_) | Failure::KeysDiffer)
                if self.described.is_some() =>
            {
                self.after_description(loop_state, None, received)
            }
            Ok(success) => Next::Succeed(success),
            Err(failure) => Next::Fail(self.failed(*failure)),
        }
    }

    /// Maps a failure of the HSM side to the answer.
    pub(in crate::proto) fn failed(&self, failure: Failure) -> ApiError {
        match (failure, self.authorized.as_ref().map(|call| call.version)) {
            (Failure::InvalidCiphertext, Some(NamedVersion::Untold(number))) => {
                key_version::untold(number)
            }
            _ => failure.into(),
        }
    }

    /// GetKeyMetadata reports whether the version that encrypts may encrypt, and whether any
    /// version that is not retired may decrypt.
    fn after_description(
        &mut self,
        loop_state: &LoopState,
        attributes: Option<KeyAttributes>,
        received: &[u8],
    ) -> Next<'static> {
        let may_decrypt = attributes.is_some_and(|attributes| attributes.decrypt);
        let (first, number) = match (self.described, attributes) {
            (Some((first, number)), _) => (first, Some(number)),
            (None, Some(attributes)) => (attributes, None),
            (None, None) => return Next::Fail(Failure::Defect.into()),
        };
        if !may_decrypt
            && let Some(key) = self.store_key(loop_state, received)
            && let Some((number, key)) = next_live(key, number)
        {
            self.described = Some((first, number));
            return Next::Describe(key);
        }
        Next::Report(KeyAttributes { decrypt: may_decrypt, ..first })
    }

    /// The call's external key id, looked up by name: the settings may have changed since the
    /// request arrived.
    fn store_key<'l>(&self, loop_state: &'l LoopState, received: &[u8]) -> Option<&'l StoreKey> {
        let routed = self.routed()?;
        let store = loop_state.service.store(routed.prefix.text(received))?;
        store.key(routed.key_id?.text(received))
    }
}

/// The version with the next number after `number`, among those that decrypt but do not encrypt.
fn next_live(key: &StoreKey, number: Option<u32>) -> Option<(u32, KeyIndex)> {
    let is_next = |other: u32| number.is_none_or(|number| other > number);
    let mut versions = key.versions.iter();
    let next = versions.find(|version| {
        is_next(version.number) && !version.is_retired && version.number != key.encrypts.number
    });
    next.map(|version| (version.number, version.key))
}
