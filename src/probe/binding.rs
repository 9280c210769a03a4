//! Rules about authenticated encryption: altered ciphertexts and additional data must be detected.

use super::answers::{self, expect_error, expect_success};
use super::calls::{AAD, of_key};
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};
use crate::client::bodies::Sealed;
use crate::limits::{MAX_CIPHERTEXT_METADATA_BYTES, MIN_MAX_AAD_BYTES, MIN_MAX_PLAINTEXT_BYTES};

const AAD_OTHER: Rule = Rule::must(
    "binding.other-aad",
    "Decrypt; Error codes",
    "Other additionalAuthenticatedData than at Encrypt: 400 InvalidCiphertextException.",
);
const AAD_MISSING: Rule = Rule::must(
    "binding.no-aad",
    "Decrypt; Error codes",
    "No additionalAuthenticatedData where Encrypt had some: 400 InvalidCiphertextException.",
);
const METADATA_OTHER: Rule = Rule::must(
    "binding.other-metadata",
    "Decrypt",
    "A modified or added ciphertextMetadata must be detected: 400 \
     InvalidCiphertextException.",
);
const METADATA_MISSING: Rule = Rule::must(
    "binding.no-metadata",
    "Decrypt",
    "No ciphertextMetadata where Encrypt gave some: 400 InvalidCiphertextException.",
);
const METADATA_AS_AAD: Rule = Rule::should(
    "binding.metadata-as-aad",
    "Encrypt, ciphertextMetadata, NOTE",
    "additionalAuthenticatedData that ends in the former ciphertextMetadata is not the same: \
     lengths are part of what the key manager authenticates.",
);
const METADATA_LONG: Rule = Rule::should(
    "binding.long-metadata",
    "Decrypt",
    "ciphertextMetadata of more than 20 bytes: 400 ValidationException or \
     InvalidCiphertextException.",
);
const CIPHERTEXT: Rule = Rule::must(
    "tampering.ciphertext",
    "Error codes",
    "A ciphertext with a bit altered: 400 InvalidCiphertextException.",
);
const TAG: Rule = Rule::must(
    "tampering.tag",
    "Error codes",
    "An authenticationTag with a bit altered: 400 InvalidCiphertextException.",
);
const IV: Rule = Rule::must(
    "tampering.iv",
    "Error codes",
    "An initializationVector with a bit altered: 400 InvalidCiphertextException.",
);
const SHORT_TAG: Rule = Rule::must(
    "tampering.short-tag",
    "Decrypt; Error codes",
    "An authenticationTag must have 16 bytes; the first 12 of a right one: 400 \
     InvalidCiphertextException or ValidationException.",
);
const SHORT_IV: Rule = Rule::must(
    "tampering.short-iv",
    "Decrypt; Error codes",
    "An initializationVector must have 12 or 16 bytes; 11: 400 InvalidCiphertextException or \
     ValidationException.",
);
const TRUNCATED: Rule = Rule::must(
    "tampering.truncated",
    "Error codes",
    "A ciphertext without its last byte: 400 InvalidCiphertextException.",
);
const LARGE: Rule = Rule::must(
    "sizes.largest",
    "Encrypt; Decrypt",
    "4,300 bytes of plaintext with 8,192 of additionalAuthenticatedData there and back.",
);
const ONE_BYTE: Rule = Rule::must(
    "sizes.one-byte",
    "Encrypt; Decrypt",
    "One byte of plaintext there and back, with a data integrity value.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &AAD_OTHER,
    &AAD_MISSING,
    &METADATA_OTHER,
    &METADATA_MISSING,
    &METADATA_AS_AAD,
    &METADATA_LONG,
    &CIPHERTEXT,
    &TAG,
    &IV,
    &SHORT_TAG,
    &SHORT_IV,
    &TRUNCATED,
    &LARGE,
    &ONE_BYTE,
];

const INVALID_CIPHERTEXT: &[&str] = &["InvalidCiphertextException"];
const INVALID: &[&str] = &["InvalidCiphertextException", "ValidationException"];

/// Decrypts altered ciphertexts; `sealed` was made with [`AAD`].
pub fn examine(prober: &mut Prober<'_>, key_id: &str, sealed: &Sealed, report: &mut Report) {
    let mut refuse = |rule, sealed: &Sealed, aad: Option<&[u8]>, names| {
        let body = prober.options.caller.decrypt(sealed, aad);
        let reply = prober.post(&of_key(key_id, "decrypt"), &body);
        report.add(rule, None, expect_error(&reply, names));
    };
    let mut other_aad = AAD.to_vec();
    flip(&mut other_aad);
    refuse(&AAD_OTHER, sealed, Some(&other_aad), INVALID_CIPHERTEXT);
    refuse(&AAD_MISSING, sealed, None, INVALID_CIPHERTEXT);

    let metadata = sealed.metadata.clone().unwrap_or_default();
    let mut other_metadata = metadata.clone();
    if other_metadata.is_empty() {
        other_metadata.push(1);
    } else {
        flip(&mut other_metadata);
    }
    let altered = Sealed { metadata: Some(other_metadata), ..sealed.clone() };
    refuse(&METADATA_OTHER, &altered, Some(AAD), INVALID);
    if !metadata.is_empty() {
        let altered = Sealed { metadata: None, ..sealed.clone() };
        refuse(&METADATA_MISSING, &altered, Some(AAD), INVALID);
        let shifted = [AAD, &metadata].concat();
        refuse(&METADATA_AS_AAD, &altered, Some(&shifted), INVALID);
    }
    let long = vec![0; MAX_CIPHERTEXT_METADATA_BYTES + 1];
    refuse(&METADATA_LONG, &Sealed { metadata: Some(long), ..sealed.clone() }, Some(AAD), INVALID);

    let altered = |change: fn(&mut Sealed)| {
        let mut altered = sealed.clone();
        change(&mut altered);
        altered
    };
    for (rule, altered, names) in [
        (&CIPHERTEXT, altered(|it| flip(&mut it.ciphertext)), INVALID_CIPHERTEXT),
        (&TAG, altered(|it| flip(&mut it.tag)), INVALID_CIPHERTEXT),
        (&IV, altered(|it| flip(&mut it.iv)), INVALID_CIPHERTEXT),
        (&SHORT_TAG, altered(|it| it.tag.truncate(12)), INVALID),
        (&SHORT_IV, altered(|it| it.iv.truncate(11)), INVALID),
        (
            &TRUNCATED,
            altered(|it| it.ciphertext.truncate(it.ciphertext.len() - 1)),
            INVALID_CIPHERTEXT,
        ),
    ] {
        refuse(rule, &altered, Some(AAD), names);
    }
}

fn flip(bytes: &mut [u8]) {
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
}

/// Tries the sizes that a proxy must accept.
pub fn sizes(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let large = vec![0x5a; MIN_MAX_PLAINTEXT_BYTES];
    let large_aad = vec![0xa5; MIN_MAX_AAD_BYTES];
    for (rule, plaintext, aad, has_cdiv) in [
        (&LARGE, large.as_slice(), Some(large_aad.as_slice()), false),
        (&ONE_BYTE, b"x".as_slice(), None, true),
    ] {
        report.add(rule, None, there_and_back(prober, key_id, plaintext, aad, has_cdiv));
    }
}

fn there_and_back(
    prober: &mut Prober<'_>,
    key_id: &str,
    plaintext: &[u8],
    aad: Option<&[u8]>,
    has_cdiv: bool,
) -> Outcome {
    let body = prober.options.caller.encrypt(plaintext, aad, has_cdiv);
    let reply = prober.post(&of_key(key_id, "encrypt"), &body);
    let sealed = expect_success(&reply, |object| {
        let sealed = answers::sealed(object, plaintext.len())?;
        if has_cdiv {
            answers::cdiv(object, &sealed, aad.unwrap_or_default())?;
        }
        Ok(sealed)
    });
    let sealed = match sealed {
        Ok(sealed) => sealed,
        Err(Outcome::Broken(why)) => return Outcome::Broken(format!("Encrypt: {why}")),
        Err(outcome) => return outcome,
    };
    let body = prober.options.caller.decrypt(&sealed, aad);
    let reply = prober.post(&of_key(key_id, "decrypt"), &body);
    match expect_success(&reply, |object| answers::opened(object, plaintext)) {
        Ok(()) => Outcome::Held("it came back".to_owned()),
        Err(Outcome::Broken(why)) => Outcome::Broken(format!("Decrypt: {why}")),
        Err(outcome) => outcome,
    }
}
