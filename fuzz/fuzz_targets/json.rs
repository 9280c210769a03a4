//! Bodies: our decoder accepts exactly what serde_json accepts, with the same values.
//!
//! The first byte selects the call.
#![no_main]

#[path = "../../tests/proto/json_model.rs"]
mod json_model;

use libfuzzer_sys::fuzz_target;
use xks_proxy::proto::route::Call;
use xks_proxy::proto::xks::decode::Decoder;

fuzz_target!(|data: &[u8]| {
    let [call, body @ ..] = data else { return };
    let call = [Call::Metadata, Call::Health, Call::Encrypt, Call::Decrypt][usize::from(call % 4)];
    let seen = json_model::decode(&mut Decoder::default(), call, body);
    // serde_json stops at 128 levels of nesting, our decoder at 1,024.
    let depth = body.iter().filter(|byte| b"[{".contains(byte)).count();
    if depth < 120 {
        assert_eq!(seen, json_model::model(call, body));
    }
});
