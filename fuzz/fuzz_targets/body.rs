//! Chunked bodies: decoding gives the same result in one piece and in many.
//!
//! The first byte is the size of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xks_proxy::proto::http::HttpError;
use xks_proxy::proto::http::body::{Framing, Progress};

const MAX_BYTES: usize = 1_000;

fn join(wire: &[u8], piece: usize) -> Result<Option<Vec<u8>>, HttpError> {
    let mut progress = Progress::new(Framing::Chunked, MAX_BYTES)?;
    let mut received = Vec::new();
    for piece in wire.chunks(piece) {
        received.extend_from_slice(piece);
        if let Some(whole) = progress.advance(&mut received, MAX_BYTES)? {
            assert!(whole.length <= MAX_BYTES && whole.length <= whole.consumed);
            return Ok(Some(received[..whole.length].to_vec()));
        }
        if let Some((at, spent)) = progress.take_spent() {
            received.drain(at..at + spent);
        }
        assert!(received.len() <= MAX_BYTES + 1_100 + piece.len(), "framing is not kept");
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    let [piece, wire @ ..] = data else { return };
    assert_eq!(join(wire, usize::from(*piece) + 1), join(wire, usize::MAX));
});
