//! Any bytes, in pieces of any size: nothing panics, answers are HTTP with a JSON body where JSON
//! is announced, and their size is in proportion to the input.
//!
//! The first byte switches signatures on (odd) or off, the second is the size of the pieces.
#![no_main]

#[path = "../answers.rs"]
mod answers;
#[allow(dead_code)]
#[path = "../../tests/proto/rig/mod.rs"]
mod rig;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [options, piece, bytes @ ..] = data else { return };
    let mut service = rig::service();
    service.options.is_sigv4_auth_enabled = options & 1 == 1;
    let mut rig = rig::Rig::new(service);
    let piece = if *piece == 255 { usize::MAX } else { usize::from(*piece) + 1 };
    rig.send_in_pieces(bytes, piece);
    rig.end_input();
    assert!(rig.is_closed(), "jobs are done at once, so the end of the input is the end");
    answers::check(&rig.answers, bytes);
});
