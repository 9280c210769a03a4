//! Initialization vectors: their sources, and checks that no IV is used twice.

use std::collections::VecDeque;

use cryptoki_sys::CK_RV;
use parking_lot::Mutex;
use zeroize::Zeroize as _;

use super::codes;
use super::native::GcmIv;
use super::native_session::NativeSession;
use crate::hsm::config::IvMode;
use crate::job::Iv;
use crate::limits::{
    GCM_IV_BYTES, GCM_TAG_BYTES, IV_BATCH_BYTES, MAX_GCM_IV_BYTES, MAX_SEEN_BATCHES,
};
use crate::random;

/// Numbers of bytes requested from C_GenerateRandom, tried in this order: some modules return at
/// most 1,024.
const BATCHES: [usize; 3] = [IV_BATCH_BYTES, 1020, GCM_IV_BYTES];

/// Random bytes from the HSM, cut into IVs. Each is used once and then zeroed.
///
/// An IV is the XOR of these bytes with as many bytes drawn from the operating system at the time
/// of use. So a copied or restored virtual machine makes other IVs than the original, provided that
/// its kernel learns of the copy (vmgenid). XOR suffices: the result is uniformly random if either
/// input is and the other does not depend on it.
pub struct IvStock {
    bytes: Box<[u8; IV_BATCH_BYTES]>,
    next: usize,
    end: usize,
    batch: usize,
}

/// The first IVs of the batches that a token's sessions received recently. They reveal a generator
/// that repeats itself, even across sessions.
#[derive(Default)]
pub struct RecentBatches(Mutex<VecDeque<[u8; GCM_IV_BYTES]>>);

impl RecentBatches {
    /// Records a batch. Returns false if a recent batch began with the same IV.
    fn is_new(&self, first: &[u8]) -> bool {
        let Ok(first) = <[u8; GCM_IV_BYTES]>::try_from(first) else { return false };
        let mut seen = self.0.lock();
        if seen.contains(&first) {
            return false;
        }
        if seen.len() == MAX_SEEN_BATCHES {
            seen.pop_front();
        }
        seen.push_back(first);
        true
    }
}

/// Reason why there is no IV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIv {
    /// C_GenerateRandom failed. Contains its code, or `None` if it was not called.
    Code(Option<CK_RV>),
    /// The bytes returned by C_GenerateRandom are not random.
    NotRandom,
    /// The operating system returned no random bytes.
    NoSystemRandom,
}

impl IvStock {
    /// Creates an empty stock.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Box::new([0; IV_BATCH_BYTES]), next: 0, end: 0, batch: 0 }
    }

    /// Returns an IV that has never been used, fetching more random bytes if none are left.
    ///
    /// # Errors
    /// Returns [`NoIv`] if there is no IV.
    pub fn take(
        &mut self,
        session: &NativeSession,
        seen: &RecentBatches,
    ) -> Result<[u8; GCM_IV_BYTES], NoIv> {
        if self.next == self.end {
            self.refill(seen, |bytes| {
                session.generate_random_slice(bytes).map_err(|error| error.code)
            })?;
        }
        self.cut()
    }

    fn cut(&mut self) -> Result<[u8; GCM_IV_BYTES], NoIv> {
        let mut iv = [0; GCM_IV_BYTES];
        random::fill(&mut iv).map_err(|_| NoIv::NoSystemRandom)?;
        let taken = &mut self.bytes[self.next..self.next + GCM_IV_BYTES];
        for (byte, from_hsm) in iv.iter_mut().zip(taken.iter()) {
            *byte ^= from_hsm;
        }
        taken.zeroize();
        self.next += GCM_IV_BYTES;
        Ok(iv)
    }

    fn refill(
        &mut self,
        seen: &RecentBatches,
        mut generate: impl FnMut(&mut [u8]) -> Result<(), Option<CK_RV>>,
    ) -> Result<(), NoIv> {
        loop {
            let length = BATCHES[self.batch];
            let batch = &mut self.bytes[..length];
            // A failed call may have left something that a call which writes nothing would reuse.
            batch.fill(0);
            match generate(batch) {
                Ok(()) => {}
                Err(Some(code)) if refuses_length(code) && self.batch + 1 < BATCHES.len() => {
                    self.batch += 1;
                    continue;
                }
                Err(code) => return Err(NoIv::Code(code)),
            }
            // Reusing an IV reveals the authentication key. This detects a module that returns
            // CKR_OK but writes nothing, or the same bytes again.
            let is_zero = |iv: &[u8]| iv.iter().all(|byte| *byte == 0);
            let is_broken = batch.chunks_exact(GCM_IV_BYTES).any(is_zero)
                || !seen.is_new(&batch[..GCM_IV_BYTES]);
            if is_broken {
                batch.zeroize();
                return Err(NoIv::NotRandom);
            }
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
    /// Returns the IV parameter for C_EncryptInit. `fresh` generates a random IV.
    ///
    /// # Errors
    /// Returns the error of `fresh`.
    pub(super) fn prepare<E>(
        self,
        fresh: impl FnOnce() -> Result<[u8; GCM_IV_BYTES], E>,
    ) -> Result<GcmIv, E> {
        const LENGTH: u8 = GCM_IV_BYTES.to_le_bytes()[0];
        let mut iv = GcmIv { bytes: [0; MAX_GCM_IV_BYTES], length: LENGTH, bits: 96 };
        match self {
            Self::Random => iv.bytes[..GCM_IV_BYTES].copy_from_slice(&fresh()?),
            Self::ZeroedBuffer => {}
            // Luna: with ulIvLen 0 and ulIvBits 96, firmware 7.9.3 and later makes an IV of 12
            // bytes; earlier firmware ignores ulIvBits and makes one of 16.
            Self::Appended => iv.length = 0,
        }
        Ok(iv)
    }

    /// Returns the IV, removing it from the output of C_Encrypt if it was appended, so that
    /// `output` holds ciphertext and tag. Returns `None` if the output does not fit the mode.
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
        // All zeros: the HSM made no IV, so every message would have the same one.
        iv.as_slice().iter().any(|byte| *byte != 0).then_some(iv)
    }
}

/// Returns the IV parameter for C_DecryptInit.
pub(super) fn iv_parameter(iv: &Iv) -> GcmIv {
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

    /// No IV is used twice, one call of C_GenerateRandom yields 341 IVs, and used ones are erased
    /// from memory.
    #[test]
    fn each_iv_is_given_once_and_wiped() {
        let (mut stock, mut counter, mut calls) = (IvStock::new(), 0, 0);
        let batches = RecentBatches::default();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            if stock.next == stock.end {
                calls += 1;
                stock
                    .refill(&batches, |bytes| {
                        counting(bytes, &mut counter);
                        Ok(())
                    })
                    .unwrap();
            }
            assert!(seen.insert(stock.cut().unwrap()));
            assert!(stock.bytes[..stock.next].iter().all(|byte| *byte == 0));
        }
        assert_eq!(calls, 3);
    }

    /// Google's library returns at most 1,024 bytes.
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
        stock.refill(&RecentBatches::default(), limited).unwrap();
        assert_eq!(stock.end, 1020);
    }

    /// A module whose generator does nothing must not lead to the same IV for every message.
    #[test]
    fn random_that_is_not_random_is_refused() {
        let (mut stock, seen) = (IvStock::new(), RecentBatches::default());
        assert_eq!(stock.refill(&seen, |_| Ok(())), Err(NoIv::NotRandom));
        let same = |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok(())
        };
        stock.refill(&seen, same).unwrap();
        stock.next = stock.end;
        assert_eq!(stock.refill(&seen, same), Err(NoIv::NotRandom));
        // The same bytes are also rejected in another session of the token.
        assert_eq!(IvStock::new().refill(&seen, same), Err(NoIv::NotRandom));
        assert_eq!(
            IvStock::new().refill(&seen, |_| Err(Some(CKR_DEVICE_ERROR))),
            Err(NoIv::Code(Some(CKR_DEVICE_ERROR)))
        );
    }

    /// A process that was restored, or copied with its machine, does not reuse the original's IVs.
    #[test]
    fn copies_of_a_stock_differ() {
        let (mut original, mut copy) = (IvStock::new(), IvStock::new());
        for stock in [&mut original, &mut copy] {
            let fill = |bytes: &mut [u8]| {
                counting(bytes, &mut 0);
                Ok(())
            };
            stock.refill(&RecentBatches::default(), fill).unwrap();
        }
        assert!(original.bytes == copy.bytes && original.next == copy.next);
        let mut seen = HashSet::new();
        while original.next < original.end {
            assert!(seen.insert(original.cut().unwrap()) && seen.insert(copy.cut().unwrap()));
        }
        assert_eq!(seen.len(), 2 * 341);
    }

    /// Only the most recent batches are compared.
    #[test]
    fn batches_are_forgotten() {
        let seen = RecentBatches::default();
        let first = |n: usize| {
            let mut first = [0; GCM_IV_BYTES];
            first[..8].copy_from_slice(&n.to_be_bytes());
            first
        };
        assert!((0..=MAX_SEEN_BATCHES).all(|n| seen.is_new(&first(n))));
        assert!(!seen.is_new(&first(1)) && seen.is_new(&first(0)));
    }

    fn iv_of(mode: IvMode, bytes: [u8; MAX_GCM_IV_BYTES]) -> GcmIv {
        let iv = mode.prepare(|| Ok::<_, ()>([1; GCM_IV_BYTES])).unwrap();
        GcmIv { bytes: if mode == IvMode::ZeroedBuffer { bytes } else { iv.bytes }, ..iv }
    }

    /// The parameters and outputs of the three modes.
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
