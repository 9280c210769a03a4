//! Proxies that send `ciphertextMetadata`, or none, and those that do not mind what they get back.

use serde_json::{Value, json};

use crate::broken::probe_at;
use crate::common::xks;
use crate::run::Run;
use crate::stand_in::StandIn;

/// Metadata of the stand-in: its last byte is the number of a key version.
const METADATA: &[u8] = b"version=1";

/// Returns the `ciphertextMetadata` that a stand-in with this fault sends.
pub fn sent(fault: &str) -> Option<Value> {
    match fault {
        "sends none" | "sends none and accepts any" => None,
        "sends 21 bytes" => Some(json!(xks::base64(&[7; 21]))),
        "sends 20 bytes" => Some(json!(xks::base64(&[7; 20]))),
        "sends base64url" => Some(json!("_-_-")),
        "sends base64 without padding" => Some(json!("AA")),
        "sends a number" => Some(json!(1)),
        _ => Some(json!(xks::base64(METADATA))),
    }
}

/// Returns whether a stand-in with this fault decrypts with the given `ciphertextMetadata` what it
/// sent with another.
pub fn fits(fault: &str, sent: Option<&Value>, given: Option<&Value>) -> bool {
    let bytes = |value: Option<&Value>| value.map(xks::bytes).unwrap_or_default();
    match fault {
        "accepts any" | "sends none and accepts any" => true,
        "accepts another last byte" => {
            let (sent, given) = (bytes(sent), bytes(given));
            sent.len() == given.len() && given.starts_with(&sent[..sent.len() - 1])
        }
        "accepts more" => bytes(given).starts_with(&bytes(sent)),
        "accepts less" => given.is_some() && bytes(sent).starts_with(&bytes(given)),
        _ => sent == given,
    }
}

/// Returns whether a stand-in with this fault takes the metadata for that of a version which it
/// does not have.
pub fn is_unknown_version(fault: &str, given: Option<&Value>) -> bool {
    let Some(given) = given.map(xks::bytes) else { return false };
    let (last, others) = given.split_last().unwrap();
    let (own_last, own_others) = METADATA.split_last().unwrap();
    match fault {
        "picks a key by version" => others == own_others && last != own_last,
        "binding.metadata-error" => given != METADATA && given.len() <= 20,
        _ => false,
    }
}

/// Returns the checks that failed or gave a warning, except those that give one without a fault.
fn found(run: &Run) -> Vec<&str> {
    let mut found = run.failed();
    found.extend(run.with_verdict("warn").into_iter().filter(|name| name.starts_with("binding.")));
    found
}

#[track_caller]
fn assert_found(fault: &str, expected: &[&str]) -> Run {
    let run = probe_at(&StandIn::http(fault));
    assert_eq!(found(&run), expected, "{fault}: {}", run.text);
    run
}

/// What came with the ciphertext goes back: the stand-in refuses anything else.
#[test]
fn is_passed_back() {
    for fault in ["", "sends none", "sends 20 bytes"] {
        let run = assert_found(fault, &[]);
        let is_sent = fault != "sends none";
        for name in ["binding.no-metadata", "binding.metadata-as-aad"] {
            assert_eq!(run.with_verdict("pass").contains(&name), is_sent, "{fault}: {name}");
        }
    }
    let came = |fault| assert_found(fault, &[]).came("binding.other-metadata").to_owned();
    assert_eq!(came(""), "11 tried: InvalidCiphertextException");
    assert_eq!(came("sends none"), "1 tried: InvalidCiphertextException");
    assert_eq!(came("sends 20 bytes"), "21 tried: InvalidCiphertextException");
}

/// The plaintext that comes back is right, so only the decision to decrypt can be wrong.
#[test]
fn is_ignored() {
    assert_found(
        "accepts any",
        &["binding.no-metadata", "binding.other-metadata", "binding.long-metadata"],
    );
    assert_found(
        "sends none and accepts any",
        &["binding.other-metadata", "binding.long-metadata"],
    );
}

/// A proxy that looks at a part of it is found out by the alterations of the rest.
#[test]
fn is_looked_at_in_part() {
    for (fault, alteration) in [
        ("accepts another last byte", "1 of 11 not refused: byte 9 of 9 altered: 200"),
        ("accepts more", "1 of 11 not refused: a byte more: 200"),
        ("accepts less", "1 of 11 not refused: a byte less: 200"),
    ] {
        let run = assert_found(fault, &["binding.other-metadata"]);
        let came = run.came("binding.other-metadata");
        assert!(came.starts_with(alteration), "{fault}: {came}");
        assert_eq!(run.code, Some(1));
    }
}

#[test]
fn is_malformed() {
    for (fault, why) in [
        ("sends 21 bytes", "a ciphertextMetadata of 21 bytes"),
        ("sends base64url", "ciphertextMetadata is not standard base64"),
        ("sends base64 without padding", "ciphertextMetadata is not standard base64"),
        ("sends a number", "ciphertextMetadata is not a string"),
    ] {
        let run = probe_at(&StandIn::http(fault));
        assert!(run.failed().contains(&"encrypt.answer"), "{fault}: {}", run.text);
        assert!(run.came("encrypt.answer").starts_with(why), "{fault}: {}", run.text);
        assert_eq!(run.code, Some(13));
    }
}

/// A changed version number makes the metadata that of a key which this proxy does not have: it
/// need not call the ciphertext invalid.
#[test]
fn names_a_key_version() {
    let run = assert_found("picks a key by version", &[]);
    let came = run.came("binding.metadata-error");
    assert!(came.contains("InternalException") && came.contains("InvalidCiphertext"), "{came}");
}
