//! Signatures: no head or body causes a panic, and only signed requests are accepted.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/proto/rig/mod.rs"]
mod rig;

use libfuzzer_sys::fuzz_target;
use xks_proxy::proto::http::request::{find_end, header_slots, parse};
use xks_proxy::proto::sigv4::signing_key::SigningKeys;
use xks_proxy::proto::sigv4::{canonical, verify};

/// Paths of the seeds, which are signed with the rig's secret.
const SIGNED: [&str; 4] =
    ["health", "keys/key-1/encrypt", "keys/key-1/decrypt", "keys/key-1/metadata"];

fuzz_target!(|data: &[u8]| {
    let Some(end) = find_end(data, 0) else { return };
    let mut slots = header_slots();
    let Ok(head) = parse(&data[..end], &mut slots) else { return };
    let service = rig::service();
    let store = service.store(rig::PREFIX).expect("the store");
    let mut keys = SigningKeys::new(service.credentials());
    let body = &data[end..];
    let verified = verify(&head, body, store.credentials(), service.scope(), &mut keys, rig::NOON);
    if verified.is_ok() {
        // A request with the same canonical form was signed as well.
        let path = canonical::path(head.path);
        let path =
            path.strip_prefix(rig::PREFIX).and_then(|path| path.strip_prefix("/kms/xks/v1/"));
        assert!(path.is_some_and(|path| SIGNED.contains(&path)), "{}", head.path);
        assert!(head.method == "POST" && head.query.bytes().all(|byte| byte == b'&'));
        assert!(serde_json::from_slice::<serde_json::Value>(body).is_ok());
    }
});
