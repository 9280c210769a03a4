//! Encoding of results as JSON.

use std::io::Write as _;

use bytes::BufMut as _;

use super::error::push_printable;
use crate::job::{FleetHealth, HealthStatus, Iv, KeyAttributes};
use crate::limits::MAX_FLEET_DETAILS;

/// Appends `before` (a member's name, up to the quotation mark of its value) and the value's
/// base64.
fn base64_after(out: &mut Vec<u8>, before: &str, bytes: &[u8]) {
    out.put_slice(before.as_bytes());
    base64_simd::STANDARD.encode_append(bytes, out);
}

/// Appends GetKeyMetadata's answer.
pub fn key_metadata(out: &mut Vec<u8>, attributes: &KeyAttributes, is_enabled: bool) {
    // The XKS specification defines AES_256 for a 256-bit AES key. Another length is reported
    // unchanged, and an unknown one is omitted; KMS then refuses to create a KMS key for it.
    out.put_slice(b"{\"keySpec\":\"AES");
    if attributes.bits > 0 {
        // Writing into a Vec cannot fail.
        let _ = write!(out, "_{}", attributes.bits);
    }
    out.put_slice(b"\",\"keyUsage\":[");
    let usages = [
        (attributes.encrypt, "ENCRYPT"),
        (attributes.decrypt, "DECRYPT"),
        (attributes.sign, "SIGN"),
        (attributes.verify, "VERIFY"),
        (attributes.wrap, "WRAP"),
        (attributes.unwrap, "UNWRAP"),
        (attributes.derive, "DERIVE"),
    ];
    let mut separator = "";
    for (_, name) in usages.iter().filter(|(allowed, _)| *allowed) {
        let _ = write!(out, "{separator}\"{name}\"");
        separator = ",";
    }
    let status = if is_enabled { "ENABLED" } else { "DISABLED" };
    let _ = write!(out, "],\"keyStatus\":\"{status}\"}}");
}

/// Appends Encrypt's answer.
pub fn encrypted(
    out: &mut Vec<u8>,
    ciphertext: &[u8],
    iv: &Iv,
    tag: &[u8],
    metadata: Option<&[u8]>,
    cdiv: Option<&[u8; 32]>,
) {
    base64_after(out, "{\"authenticationTag\":\"", tag);
    base64_after(out, "\",\"ciphertext\":\"", ciphertext);
    if let Some(cdiv) = cdiv {
        base64_after(out, "\",\"ciphertextDataIntegrityValue\":\"", cdiv);
    }
    if let Some(metadata) = metadata {
        base64_after(out, "\",\"ciphertextMetadata\":\"", metadata);
    }
    base64_after(out, "\",\"initializationVector\":\"", iv.as_slice());
    out.put_slice(b"\"}");
}

/// Appends Decrypt's answer.
pub fn decrypted(out: &mut Vec<u8>, plaintext: &[u8]) {
    base64_after(out, "{\"plaintext\":\"", plaintext);
    out.put_slice(b"\"}");
}

/// Appends GetHealthStatus's answer: one to ten entries of `ekmFleetDetails`, for any size of the
/// fleet.
pub fn health(out: &mut Vec<u8>, health: &FleetHealth, fleet_size: u32) {
    let vendor = health.tokens.first().map_or("unknown", |token| token.manufacturer.as_str());
    let _ = write!(
        out,
        "{{\"xksProxyFleetSize\":{fleet_size},\"xksProxyVendor\":\"xks-proxy\",\
         \"xksProxyModel\":\"xks-proxy {}\",\"ekmVendor\":",
        env!("CARGO_PKG_VERSION")
    );
    string(out, vendor);
    out.put_slice(b",\"ekmFleetDetails\":[");
    for (index, token) in health.tokens.iter().take(MAX_FLEET_DETAILS).enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(b"{\"id\":");
        string(out, &token.id);
        out.put_slice(b",\"model\":");
        string(out, &token.model);
        out.put_slice(b",\"healthStatus\":\"");
        out.put_slice(status(token.status).as_bytes());
        out.put_slice(b"\"}");
    }
    if health.tokens.is_empty() {
        out.put_slice(
            b"{\"id\":\"unknown\",\"model\":\"unknown\",\"healthStatus\":\"UNAVAILABLE\"}",
        );
    }
    out.put_slice(b"]}");
}

fn status(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Active => "ACTIVE",
        HealthStatus::Degraded => "DEGRADED",
        HealthStatus::Unavailable => "UNAVAILABLE",
    }
}

/// Appends a token's description of itself as a JSON string of printable ASCII. An empty one would
/// be invalid, so it is replaced by "unknown".
fn string(out: &mut Vec<u8>, text: &str) {
    out.put_u8(b'"');
    push_printable(out, text.as_bytes());
    if text.is_empty() {
        out.put_slice(b"unknown");
    }
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::TokenHealth;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The specification's own Encrypt and Decrypt examples.
    #[test]
    fn the_specification_s_examples() {
        let iv = [0x1c, 0xca, 0xe5, 0x47, 0x0f, 0x39, 0x70, 0x02, 0x54, 0x77, 0x90, 0x31];
        let ciphertext = [0x82, 0x1c, 0x64, 0x2b, 0x5b, 0x71, 0x78, 0x33, 0x67, 0xde, 0xaf, 0x18];
        let tag = [
            0xbc, 0x1c, 0x4d, 0xda, 0x77, 0x07, 0xd6, 0x81, 0x24, 0x47, 0xc5, 0x95, 0x5e, 0x99,
            0xb2, 0x61,
        ];
        let iv = Iv::from_slice(&iv).unwrap_or_default();
        let answer =
            text(|out| encrypted(out, &ciphertext, &iv, &tag, Some(b"key_version=1"), None));
        assert_eq!(
            answer,
            "{\"authenticationTag\":\"vBxN2ncH1oEkR8WVXpmyYQ==\",\
             \"ciphertext\":\"ghxkK1txeDNn3q8Y\",\
             \"ciphertextMetadata\":\"a2V5X3ZlcnNpb249MQ==\",\
             \"initializationVector\":\"HMrlRw85cAJUd5Ax\"}"
        );
        let answer = text(|out| decrypted(out, b"Hello World!"));
        assert_eq!(answer, "{\"plaintext\":\"SGVsbG8gV29ybGQh\"}");
    }

    /// A key's length is reported unchanged, and an unknown one is not invented.
    #[test]
    fn key_spec_says_what_is_known() {
        let mut attributes = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
        for (bits, spec) in [(256, "AES_256"), (128, "AES_128"), (0, "AES")] {
            attributes.bits = bits;
            assert_eq!(
                text(|out| key_metadata(out, &attributes, true)),
                format!(
                    "{{\"keySpec\":\"{spec}\",\"keyUsage\":[\"ENCRYPT\",\"DECRYPT\"],\
                     \"keyStatus\":\"ENABLED\"}}"
                )
            );
        }
    }

    /// KMS refuses an answer with no entries or more than ten, and one that is not JSON.
    #[test]
    fn health_is_always_valid() {
        let token = TokenHealth {
            id: "a\"b\\\u{e9}".to_owned(),
            label: String::new(),
            model: String::new(),
            manufacturer: "SoftHSM".to_owned(),
            status: HealthStatus::Degraded,
        };
        let fleet = FleetHealth { tokens: vec![token; 12] };
        let answer = text(|out| health(out, &fleet, 2));
        assert_eq!(answer.matches("DEGRADED").count(), 10);
        assert!(answer.contains("{\"id\":\"a'b/??\",\"model\":\"unknown\","));
        assert!(answer.starts_with("{\"xksProxyFleetSize\":2,"));
        let answer = text(|out| health(out, &FleetHealth::default(), 1));
        assert_eq!(answer.matches("UNAVAILABLE").count(), 1);
    }
}
