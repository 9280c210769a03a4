//! The additional fields (TLVs) behind a header's addresses, and the checksum that may be among
//! them.

/// The type of the checksum's TLV (PP2_TYPE_CRC32C).
const CHECKSUM: u8 = 0x03;

/// Length of a TLV's type and length.
const TLV_HEAD_BYTES: usize = 3;

/// What is wrong with the TLVs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadTlvs {
    /// One runs over the end of the header.
    Overrun,
    /// The checksum is not that of the header.
    Checksum,
}

/// Walks over the TLVs of `header`, which begin at `start`, and verifies the checksum if there is
/// one.
pub(super) fn check(header: &[u8], start: usize) -> Result<(), BadTlvs> {
    let mut is_checked = false;
    let mut at = start;
    while at < header.len() {
        let Some([kind, high, low]) = header.get(at..at + TLV_HEAD_BYTES) else {
            return Err(BadTlvs::Overrun);
        };
        let begin = at + TLV_HEAD_BYTES;
        let end = begin + usize::from(u16::from_be_bytes([*high, *low]));
        let value = header.get(begin..end).ok_or(BadTlvs::Overrun)?;
        if *kind == CHECKSUM {
            // A second one could not cover the first.
            if is_checked || value != checksum(header, begin, end).to_be_bytes() {
                return Err(BadTlvs::Checksum);
            }
            is_checked = true;
        }
        at = end;
    }
    Ok(())
}

/// The checksum of `header` with zeros in place of the checksum itself, which is from `begin` to
/// `end`.
fn checksum(header: &[u8], begin: usize, end: usize) -> u32 {
    let zeroed = (begin..end).map(|_| 0);
    let before = header.iter().take(begin).copied();
    crc32c(before.chain(zeroed).chain(header.iter().skip(end).copied()))
}

/// CRC-32C (RFC 3720, 12.1, and appendix B.4).
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The polynomial 0x1edc6f41, its bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720, appendix B.4.
    #[test]
    fn examples_of_the_rfc() {
        for (bytes, sum) in [
            ([0; 32], 0x8a91_36aa),
            ([0xff; 32], 0x62a8_ab43),
            (std::array::from_fn(|at| u8::try_from(at).unwrap_or(0)), 0x46dd_794e),
        ] {
            assert_eq!(crc32c(bytes.into_iter()), sum);
        }
    }
}
