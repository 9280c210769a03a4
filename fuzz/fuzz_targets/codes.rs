//! PKCS#11 return codes: each has a class and a description, and leads to an answer that the XKS
//! specification allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xks_proxy::hsm::pkcs11::codes::{class, describe, return_code};
use xks_proxy::job::Failure;
use xks_proxy::proto::xks::error::ApiError;

fuzz_target!(|data: (u64, u32, u8)| {
    let (code, count, which) = data;
    assert_eq!(class(code), class(code));
    let described = describe(code);
    assert!(described.ends_with(')') || described.starts_with("code 0x"), "{described}");
    let failure = match which % 12 {
        0 => Failure::KeyNotFound,
        1 => Failure::KeyAmbiguous(count),
        2 => Failure::MayNotEncrypt,
        3 => Failure::MayNotDecrypt,
        4 => Failure::InvalidCiphertext,
        5 => Failure::Overloaded,
        6 => Failure::TimedOut,
        7 => Failure::NoToken,
        8 => Failure::CdivMismatch,
        9 => Failure::Malformed,
        10 => Failure::Defect,
        _ => Failure::Pkcs11(return_code(code)),
    };
    for failure in [failure, Failure::Pkcs11(return_code(code))] {
        let error = ApiError::from(failure);
        let message = error.message.as_bytes();
        assert!(message.len() < 512 && message.iter().all(|byte| (0x20..0x7f).contains(byte)));
        assert!((400..=503).contains(&error.status));
    }
});
