//! The chain of authentication codes over the lines of the audit log.
//!
//! The code of line n is HMAC-SHA-256(k(n), 1 || code of line n-1 || the line), and k(n+1) =
//! HMAC-SHA-256(k(n), 2). A key is zeroed as soon as the next one exists (forward integrity:
//! Bellare and Yee 1997, Schneier and Kelsey 1999). An intruder finds only the key of the next
//! line, and can forge later lines but not earlier ones. A copy of k(0), kept elsewhere, verifies
//! the whole log.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Length of a key of the chain, and of a line's code: HMAC-SHA-256.
pub const CODE_BYTES: usize = 32;
/// Length of a [`Chain::id`].
pub const CHAIN_ID_BYTES: usize = 8;

/// A key that is zeroed when it is dropped, and not copied when it is moved.
pub type Key = Box<Zeroizing<[u8; CODE_BYTES]>>;

/// First byte hashed for the code of a line.
const LINE: u8 = 1;
/// The only byte hashed for the next key.
const NEXT: u8 = 2;
/// The only byte hashed for the id of the chain that begins with the key.
const ID: u8 = 3;

/// The state of the chain before line number [`Chain::seq`].
///
/// The key stays at one address, where it is overwritten: moving a chain copies no key.
/// [`wipe_stack`] overwrites the copies that computations leave on the stack.
#[derive(Clone)]
pub struct Chain {
    id: [u8; CHAIN_ID_BYTES],
    seq: u64,
    key: Key,
    previous: [u8; CODE_BYTES],
}

impl Chain {
    /// Begins a chain with its first key.
    #[must_use]
    #[inline(never)]
    pub fn begin(key: Key) -> Self {
        let code: [u8; CODE_BYTES] = keyed(&key).chain_update([ID]).finalize().into_bytes().into();
        let mut id = [0; CHAIN_ID_BYTES];
        id.copy_from_slice(&code[..CHAIN_ID_BYTES]);
        Self { id, seq: 0, key, previous: [0; CODE_BYTES] }
    }

    /// Resumes a chain from a saved state.
    pub(super) fn resume(
        id: [u8; CHAIN_ID_BYTES],
        seq: u64,
        key: Key,
        previous: [u8; CODE_BYTES],
    ) -> Self {
        Self { id, seq, key, previous }
    }

    /// Returns the id of the chain, which identifies its first key and is not secret.
    #[must_use]
    pub fn id(&self) -> [u8; CHAIN_ID_BYTES] {
        self.id
    }

    /// Returns the number of the next line; the first is 0.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns the code of the last line; zeros before the first line.
    #[must_use]
    pub fn previous(&self) -> &[u8; CODE_BYTES] {
        &self.previous
    }

    /// Returns whether the next line has the same key in both chains.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        self.key.ct_eq(&**other.key).into()
    }

    /// Returns the key of the next line, for the state file only.
    pub(super) fn key(&self) -> &[u8; CODE_BYTES] {
        &self.key
    }

    /// Computes the code of the next line and advances the chain.
    #[inline(never)]
    pub fn seal(&mut self, line: &[u8]) -> [u8; CODE_BYTES] {
        let keyed = keyed(&self.key);
        let code = code(keyed.clone(), &self.previous, line);
        self.advance(keyed, code);
        code
    }

    /// Returns whether `given` is the code of the next line, after a line with the code `previous`.
    #[must_use]
    #[inline(never)]
    pub fn fits(&self, previous: &[u8; CODE_BYTES], line: &[u8], given: &[u8; CODE_BYTES]) -> bool {
        code(keyed(&self.key), previous, line).ct_eq(given).into()
    }

    /// Advances the chain past a line whose stated code is `given`.
    #[inline(never)]
    pub fn skip(&mut self, given: [u8; CODE_BYTES]) {
        self.advance(keyed(&self.key), given);
    }

    fn advance(&mut self, keyed: Hmac<Sha256>, code: [u8; CODE_BYTES]) {
        let next: Zeroizing<[u8; CODE_BYTES]> =
            Zeroizing::new(keyed.chain_update([NEXT]).finalize().into_bytes().into());
        // In place, so that no copy of the former key is left.
        self.key.copy_from_slice(&*next);
        self.previous = code;
        self.seq += 1;
    }
}

/// Overwrites the keys and hash states that earlier calls have left on the stack below the caller.
/// Must be called after functions that compute with a key; they are never inlined, so that their
/// frames lie below.
#[inline(never)]
pub fn wipe_stack() {
    const DEPTH_BYTES: usize = 32 * 1024;
    let mut below = [0_u8; DEPTH_BYTES];
    std::hint::black_box(&mut below);
}

/// Creates a key from its bytes.
#[must_use]
pub fn key_of(bytes: &[u8; CODE_BYTES]) -> Key {
    let mut key: Key = Box::default();
    key.copy_from_slice(bytes);
    key
}

/// Creates an HMAC, which zeroes itself when dropped (feature `zeroize`).
fn keyed(key: &[u8; CODE_BYTES]) -> Hmac<Sha256> {
    // The key is padded to a whole block here, as HMAC pads shorter keys with zeros (RFC 2104, 2).
    let mut block = Zeroizing::new([0; 64]);
    block[..CODE_BYTES].copy_from_slice(key);
    Hmac::new((&*block).into())
}

fn code(keyed: Hmac<Sha256>, previous: &[u8; CODE_BYTES], line: &[u8]) -> [u8; CODE_BYTES] {
    keyed
        .chain_update([LINE])
        .chain_update(previous)
        .chain_update(line)
        .finalize()
        .into_bytes()
        .into()
}

/// Appends bytes as lower-case hexadecimal digits.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(b"0123456789abcdef"[usize::from(nibble)]);
        }
    }
}

/// Returns bytes as lower-case hexadecimal digits.
#[must_use]
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut digits = Vec::with_capacity(2 * bytes.len());
    push_hex(&mut digits, bytes);
    String::from_utf8(digits).unwrap_or_default()
}

/// Parses exactly `2 * N` lower-case hexadecimal digits.
#[must_use]
pub(super) fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn chain() -> Chain {
        Chain::begin(key_of(&[7; CODE_BYTES]))
    }

    /// HMAC as in RFC 2104, implemented with the hash alone: independent verifiers must agree.
    fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
        use sha2::Digest as _;
        let pad = |with: u8| {
            let mut block = [with; 64];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
    }

    /// The construction is the documented one.
    #[test]
    fn codes_and_keys() {
        let mut made = chain();
        let first = made.seal(b"line 0");
        assert_eq!(first, hmac(&[7; 32], &[&[1][..], &[0; 32], b"line 0"].concat()));
        let next_key = hmac(&[7; 32], &[2]);
        assert_eq!(*made.key(), next_key);
        let second = made.seal(b"line 1");
        assert_eq!(second, hmac(&next_key, &[&[1][..], &first, b"line 1"].concat()));
        assert_eq!(made.id(), hmac(&[7; 32], &[3])[..8]);
        assert_eq!((made.seq(), *made.previous()), (2, second));
    }

    /// A code binds its line, the line's number, and the line before.
    #[test]
    fn what_a_code_binds() {
        let mut made = chain();
        let first = made.seal(b"a");
        let second = made.seal(b"b");
        let mut check = chain();
        assert!(check.fits(&[0; 32], b"a", &first));
        assert!(!check.fits(&[0; 32], b"A", &first));
        assert!(!check.fits(&[1; 32], b"a", &first));
        assert!(!check.fits(&first, b"b", &second));
        check.skip(first);
        assert!(check.fits(&first, b"b", &second));
        assert!(!check.fits(&[0; 32], b"a", &first));
    }

    #[test]
    fn hex() {
        let mut text = Vec::new();
        push_hex(&mut text, &[0, 0x9a, 0xff]);
        assert_eq!(text, b"009aff");
        assert_eq!(from_hex::<3>(&text).unwrap(), [0, 0x9a, 0xff]);
        for wrong in ["009aF0", "009af", "009aff0", "00 aff", "+09aff"] {
            assert_eq!(from_hex::<3>(wrong.as_bytes()), None);
        }
    }
}
