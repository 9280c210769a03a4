//! The tag in front of a ciphertext's metadata, which names the version of the external key that
//! made the ciphertext: `00 6b` and the version's number, 4 bytes, big-endian.
//!
//! KMS stores the metadata with the ciphertext and returns it for the decryption. The tag is only
//! the caller's word until the HSM has verified the GCM tag, which covers all metadata.

use crate::job::InlineBytes;
use crate::limits::{MAX_CIPHERTEXT_METADATA_BYTES, VERSION_TAG_BYTES};

/// First bytes of a tag. Configured metadata may not begin with them.
pub const PREFIX: [u8; 2] = [0x00, 0x6b];

/// The number of the original version. Its ciphertexts have no tag, so that it decrypts whatever
/// was made before the key had versions.
pub const ORIGINAL: u32 = 1;

const _: () = assert!(VERSION_TAG_BYTES == PREFIX.len() + size_of::<u32>());

/// Ciphertext metadata, stored inline.
pub type Metadata = InlineBytes<MAX_CIPHERTEXT_METADATA_BYTES>;

/// Returns the version that a well-formed tag at the start of `metadata` names. No proxy writes a
/// tag with the original version's number or a smaller one.
#[must_use]
pub fn version(metadata: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(*metadata.strip_prefix(&PREFIX)?.first_chunk()?);
    (number > ORIGINAL).then_some(number)
}

/// Returns whether `metadata` begins with a tag's first bytes but contains no well-formed tag.
#[must_use]
pub fn is_damaged(metadata: &[u8]) -> bool {
    metadata.starts_with(&PREFIX) && version(metadata).is_none()
}

/// Returns the metadata of a new ciphertext: the version's tag, unless it is the original version,
/// and the configured metadata. What does not fit is left out; settings refuse it earlier.
#[must_use]
pub fn metadata(version: u32, configured: Option<&[u8]>) -> Option<Metadata> {
    if version <= ORIGINAL {
        return configured.and_then(Metadata::from_slice);
    }
    let mut bytes = [0; MAX_CIPHERTEXT_METADATA_BYTES];
    let tag = PREFIX.into_iter().chain(version.to_be_bytes());
    let configured = configured.unwrap_or_default();
    let all = tag.chain(configured.iter().copied());
    let length = bytes.iter_mut().zip(all).map(|(to, from)| *to = from).count();
    Metadata::from_slice(bytes.get(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(version: u32, configured: Option<&[u8]>) -> Option<Vec<u8>> {
        metadata(version, configured).map(|metadata| metadata.as_slice().to_vec())
    }

    /// The form is fixed: ciphertexts are stored for years.
    #[test]
    fn the_form() {
        assert_eq!(made(2, None), Some(vec![0x00, 0x6b, 0, 0, 0, 2]));
        assert_eq!(made(0x0102_0304, Some(b"v1")), Some(b"\x00\x6b\x01\x02\x03\x04v1".to_vec()));
        assert_eq!(made(ORIGINAL, None), None);
        assert_eq!(made(ORIGINAL, Some(b"")), Some(Vec::new()));
        assert_eq!(made(ORIGINAL, Some(&[7; 20])), Some(vec![7; 20]));
    }

    /// A tag reads back before any configured metadata that the settings allow.
    #[test]
    fn there_and_back() {
        for number in [2, 3, 255, 256, 0x0001_0000, u32::MAX] {
            for length in 0..=MAX_CIPHERTEXT_METADATA_BYTES - VERSION_TAG_BYTES {
                let configured = vec![0x6b; length];
                let metadata = made(number, Some(&configured)).unwrap_or_default();
                assert_eq!(metadata.len(), VERSION_TAG_BYTES + length);
                assert_eq!(version(&metadata), Some(number));
                assert!(metadata.ends_with(&configured) && !is_damaged(&metadata));
            }
        }
    }

    /// Everything else is not a tag; what begins like one is damaged.
    #[test]
    fn no_tags() {
        for (metadata, damaged) in [
            (&b""[..], false),
            (b"\x00", false),
            (b"key_version=1", false),
            (b"\x6b\x00\x00\x00\x00\x02", false),
            (b"\x00\x6b", true),
            (b"\x00\x6b\x00\x00\x02", true),
            (b"\x00\x6b\x00\x00\x00\x00", true),
            (b"\x00\x6b\x00\x00\x00\x01rest", true),
        ] {
            assert_eq!((version(metadata), is_damaged(metadata)), (None, damaged), "{metadata:?}");
        }
    }
}
