//! Initialization vectors: where they come from, and that none is used twice.

use cryptoki_sys::CK_RV;
use zeroize::Zeroize as _;

use super::codes;
use super::ffi::GcmIv;
use super::native::Session;
use crate::hsm::config::IvMode;
use crate::job::Iv;
use crate::limits::{GCM_IV_BYTES, GCM_TAG_BYTES, IV_BATCH_BYTES, MAX_GCM_IV_BYTES};

/// Bytes asked of C_GenerateRandom at once, tried in this order: some modules give 1,024 at the
/// most.
const BATCHES: [usize; 3] = [IV_BATCH_BYTES, 1020, GCM_IV_BYTES];

/// Random bytes from the HSM, cut into IVs. Each is given out once and wiped.
pub struct IvStock {
    bytes: Box<[u8; IV_BATCH_BYTES]>,
    next: usize,
    end: usize,
    batch: usize,
    first_of_last_batch: [u8; GCM_IV_BYTES],
}

/// Why there is no IV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIv {
    /// C_GenerateRandom failed; `None` if it was not even called.
    Code(Option<CK_RV>),
    /// What came is not random.
    NotRandom,
}

impl IvStock {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Box::new([0; IV_BATCH_BYTES]),
            next: 0,
            end: 0,
            batch: 0,
            first_of_last_batch: [0; GCM_IV_BYTES],
        }
    }

    /// One IV that was never given out before; fetches more when there are none left.
    ///
    /// # Errors
    /// [`NoIv`]
    pub fn take(&mut self, session: &Session) -> Result<[u8; GCM_IV_BYTES], NoIv> {
        if self.next == self.end {
            self.refill(|bytes| session.generate_random_slice(bytes).map_err(|error| error.code))?;
        }
        Ok(self.cut())
    }

    fn cut(&mut self) -> [u8; GCM_IV_BYTES] {
        let mut iv = [0; GCM_IV_BYTES];
        let taken = &mut self.bytes[self.next..self.next + GCM_IV_BYTES];
        iv.copy_from_slice(taken);
        taken.zeroize();
        self.next += GCM_IV_BYTES;
        iv
    }

    fn refill(
        &mut self,
        mut generate: impl FnMut(&mut [u8]) -> Result<(), Option<CK_RV>>,
    ) -> Result<(), NoIv> {
        loop {
            let length = BATCHES[self.batch];
            let batch = &mut self.bytes[..length];
            match generate(batch) {
                Ok(()) => {}
                Err(Some(code)) if refuses_length(code) && self.batch + 1 < BATCHES.len() => {
                    self.batch += 1;
                    continue;
                }
                Err(code) => return Err(NoIv::Code(code)),
            }
            // An IV used twice gives the key away. A module that says OK and writes nothing, or
            // the same again, is found out here, at the price of 341 comparisons a batch.
            let is_zero = |iv: &[u8]| iv.iter().all(|byte| *byte == 0);
            let is_broken = batch.chunks_exact(GCM_IV_BYTES).any(is_zero)
                || batch[..GCM_IV_BYTES] == self.first_of_last_batch;
            if is_broken {
                batch.zeroize();
                return Err(NoIv::NotRandom);
            }
            self.first_of_last_batch.copy_from_slice(&batch[..GCM_IV_BYTES]);
            (self.next, self.end) = (0, length);
            return Ok(());
        }
    }
}

impl Default for IvStock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IvStock {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

fn refuses_length(code: CK_RV) -> bool {
    matches!(codes::class(code), codes::Class::AmbiguousRequest | codes::Class::Request)
}

impl IvMode {
    /// The parameter for C_EncryptInit. `fresh` gives a random IV.
    ///
    /// # Errors
    /// Those of `fresh`.
    pub(super) fn prepare<E>(
        self,
        fresh: impl FnOnce() -> Result<[u8; GCM_IV_BYTES], E>,
    ) -> Result<GcmIv, E> {
        const LENGTH: u8 = GCM_IV_BYTES.to_le_bytes()[0];
        let mut iv = GcmIv { bytes: [0; MAX_GCM_IV_BYTES], length: LENGTH, bits: 96 };
        match self {
            Self::Random => iv.bytes[..GCM_IV_BYTES].copy_from_slice(&fresh()?),
            Self::ZeroedBuffer => {}
            // Luna: ulIvLen 0 with ulIvBits 96 gives an IV of 12 bytes from firmware 7.9.3 on;
            // before, ulIvBits is not looked at and 16 come.
            Self::Appended => iv.length = 0,
        }
        Ok(iv)
    }

    /// Takes tag and IV off what C_Encrypt wrote, so that `output` is the ciphertext and tag of
    /// `plaintext_bytes` bytes. `None` if it isn't what this mode promises.
    pub(super) fn finish(
        self,
        iv: &GcmIv,
        plaintext_bytes: usize,
        output: &mut Vec<u8>,
    ) -> Option<Iv> {
        let with_tag = plaintext_bytes + GCM_TAG_BYTES;
        let iv = match self {
            Self::Random | Self::ZeroedBuffer if output.len() == with_tag => {
                Iv::from_slice(&iv.bytes[..GCM_IV_BYTES])?
            }
            Self::Random | Self::ZeroedBuffer => return None,
            Self::Appended => {
                let appended = output.get(with_tag..)?;
                if !matches!(appended.len(), GCM_IV_BYTES | MAX_GCM_IV_BYTES) {
                    return None;
                }
                Iv::from_slice(appended)?
            }
        };
        output.truncate(with_tag);
        // All zeros: the HSM made no IV, so each message would get the same one.
        iv.as_slice().iter().any(|byte| *byte != 0).then_some(iv)
    }
}

/// The parameter for C_DecryptInit.
pub(super) fn given_iv(iv: &Iv) -> GcmIv {
    let iv = iv.as_slice();
    let mut bytes = [0; MAX_GCM_IV_BYTES];
    bytes[..iv.len()].copy_from_slice(iv);
    let length = iv.len().to_le_bytes()[0];
    GcmIv { bytes, length, bits: u32::from(length) * 8 }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use cryptoki_sys::{CKR_ARGUMENTS_BAD, CKR_DEVICE_ERROR};
    use std::collections::HashSet;

    fn counting(bytes: &mut [u8], counter: &mut u64) {
        for iv in bytes.chunks_mut(GCM_IV_BYTES) {
            *counter += 1;
            iv[..8].copy_from_slice(&counter.to_be_bytes());
        }
    }

    /// No IV twice, 341 to a C_GenerateRandom, and nothing of those given out stays in memory.
    #[test]
    fn each_iv_is_given_once_and_wiped() {
        let (mut stock, mut counter, mut calls) = (IvStock::new(), 0, 0);
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            if stock.next == stock.end {
                calls += 1;
                stock
                    .refill(|bytes| {
                        counting(bytes, &mut counter);
                        Ok(())
                    })
                    .unwrap();
            }
            assert!(seen.insert(stock.cut()));
            assert!(stock.bytes[..stock.next].iter().all(|byte| *byte == 0));
        }
        assert_eq!(calls, 3);
    }

    /// Google's library gives 1,024 bytes at the most.
    #[test]
    fn smaller_batches_where_the_module_wants_them() {
        let (mut stock, mut counter) = (IvStock::new(), 0);
        let limited = |bytes: &mut [u8]| {
            if bytes.len() > 1024 {
                return Err(Some(CKR_ARGUMENTS_BAD));
            }
            counting(bytes, &mut counter);
            Ok(())
        };
        stock.refill(limited).unwrap();
        assert_eq!(stock.end, 1020);
    }

    /// A module whose generator does nothing must not lead to the same IV for all messages.
    #[test]
    fn random_that_is_not_random_is_refused() {
        let mut stock = IvStock::new();
        assert_eq!(stock.refill(|_| Ok(())), Err(NoIv::NotRandom));
        let same = |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok(())
        };
        stock.refill(same).unwrap();
        stock.next = stock.end;
        assert_eq!(stock.refill(same), Err(NoIv::NotRandom));
        assert_eq!(
            IvStock::new().refill(|_| Err(Some(CKR_DEVICE_ERROR))),
            Err(NoIv::Code(Some(CKR_DEVICE_ERROR)))
        );
    }

    fn iv_of(mode: IvMode, bytes: [u8; MAX_GCM_IV_BYTES]) -> GcmIv {
        let iv = mode.prepare(|| Ok::<_, ()>([1; GCM_IV_BYTES])).unwrap();
        GcmIv { bytes: if mode == IvMode::ZeroedBuffer { bytes } else { iv.bytes }, ..iv }
    }

    /// The three modes' parameters, and what is made of their outputs.
    #[test]
    fn modes() {
        let random = iv_of(IvMode::Random, [0; 16]);
        assert_eq!((random.length, random.bits), (12, 96));
        let mut output = vec![5; 4 + 16];
        let iv = IvMode::Random.finish(&random, 4, &mut output).unwrap();
        assert_eq!((iv.as_slice(), output.len()), ([1; 12].as_slice(), 20));

        let zeroed = iv_of(IvMode::ZeroedBuffer, [2; 16]);
        let iv = IvMode::ZeroedBuffer.finish(&zeroed, 4, &mut output).unwrap();
        assert_eq!(iv.as_slice(), [2; 12]);
        let untouched = iv_of(IvMode::ZeroedBuffer, [0; 16]);
        assert_eq!((untouched.length, untouched.bits), (12, 96));
        assert!(IvMode::ZeroedBuffer.finish(&untouched, 4, &mut output).is_none());

        let appended = iv_of(IvMode::Appended, [0; 16]);
        assert_eq!((appended.length, appended.bits), (0, 96));
        for iv_bytes in [12, 16] {
            let mut output = [vec![5; 4 + 16], vec![3; iv_bytes]].concat();
            let iv = IvMode::Appended.finish(&appended, 4, &mut output).unwrap();
            assert_eq!((iv.as_slice(), output.len()), (vec![3; iv_bytes].as_slice(), 20));
        }
        for length in [0, 20, 31, 33, 37] {
            let mut output = vec![5; length];
            assert!(IvMode::Appended.finish(&appended, 4, &mut output).is_none());
        }
        for length in [0, 19, 21, 32] {
            let mut output = vec![5; length];
            assert!(IvMode::Random.finish(&random, 4, &mut output).is_none());
        }
    }
}
