//! PROXY protocol headers: they have one reading, regardless of how they are split, and the bytes
//! after them are untouched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xks_proxy::limits::MAX_PROXY_HEADER_BYTES;
use xks_proxy::proto::proxy_header::{SIGNATURE, parse};

/// Returns whether these bytes are TLVs, the last of which ends with them.
fn are_whole(mut tlvs: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = tlvs {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(following) => tlvs = following,
            None => return false,
        }
    }
    tlvs.is_empty()
}

fuzz_target!(|data: &[u8]| {
    // With other first bytes, most inputs would not get past the signature.
    let received = match data {
        [0, rest @ ..] => [SIGNATURE.as_slice(), rest].concat(),
        _ => data.to_vec(),
    };
    let whole = parse(&received);
    for cut in [1, 11, 12, 15, 16, 27, 28, 51, 52, received.len() / 2] {
        let Some(piece) = received.get(..cut) else { continue };
        match (parse(piece), whole) {
            (Ok(None), _) => {}
            (Ok(Some(header)), whole) => assert_eq!(Ok(Some(header)), whole),
            // A piece may be refused only if the whole is, though perhaps for another reason: a
            // text header shows its version only when enough of it has arrived.
            (Err(_), whole) => assert!(whole.is_err()),
        }
    }
    if let Ok(Some(header)) = whole {
        assert!(header.length <= received.len() && header.length <= MAX_PROXY_HEADER_BYTES);
        assert_eq!(parse(&received[..header.length]), whole);
        assert_eq!(parse(&received[..header.length - 1]), Ok(None));
        if header.source.is_some() {
            let addresses = if received[13] == 0x11 { 12 } else { 36 };
            assert!(are_whole(&received[16 + addresses..header.length]), "a TLV runs over");
        }
    }
});
