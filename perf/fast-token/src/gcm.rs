//! AES-256-GCM with IVs of 96 bits and tags of 128.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::error::Unspecified;

/// Bytes of an IV.
pub const IV_BYTES: usize = 12;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// Replaces the plaintext in `text` by the ciphertext and the tag.
///
/// # Errors
/// The text is too long for GCM.
pub fn seal(
    key: &LessSafeKey,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    text: &mut Vec<u8>,
) -> Result<(), Unspecified> {
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::from(aad), text)
}

/// Replaces the ciphertext and the tag in `text` by the plaintext.
///
/// # Errors
/// The tag is wrong.
pub fn open(
    key: &LessSafeKey,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    text: &mut Vec<u8>,
) -> Result<(), Unspecified> {
    let nonce = Nonce::assume_unique_for_key(iv);
    let bytes = key.open_in_place(nonce, Aad::from(aad), text)?.len();
    text.truncate(bytes);
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use aws_lc_rs::aead::{AES_256_GCM, UnboundKey};

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// Test case 16 of the GCM specification (McGrew and Viega, appendix B), in both directions.
    #[test]
    fn known_answer() {
        let key = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let iv = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plaintext = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let sealed = bytes(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
             76fc6ece0f4e1768cddf8853bb2d551b",
        );
        let mut text = plaintext.clone();
        seal(&key, iv, &aad, &mut text).unwrap();
        assert_eq!(text, sealed);
        open(&key, iv, &aad, &mut text).unwrap();
        assert_eq!(text, plaintext);
        assert!(open(&key, iv, b"other", &mut sealed.clone()).is_err());
    }
}
