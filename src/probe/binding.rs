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
    "A ciphertextMetadata with a bit of any byte altered, longer or shorter than at Encrypt, or \
     where Encrypt gave none, must not decrypt: 400 InvalidCiphertextException.",
);
const METADATA_ERROR: Rule = Rule::should(
    "binding.metadata-error",
    "Decrypt; Error codes",
    "Some altered ciphertextMetadata gives 400 InvalidCiphertextException: an error that puts the \
     blame elsewhere is right only where the altered bytes are the number of a key version.",
);
const METADATA_MISSING: Rule = Rule::must(
    "binding.no-metadata",
    "Decrypt",
    "No ciphertextMetadata where Encrypt gave some must not decrypt: 400 \
     InvalidCiphertextException, or the error of a key version that is not in use.",
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
    &METADATA_ERROR,
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
/// Errors of an altered or missing metadata. By the last two, a proxy that reads a key version from
/// it says that it has no such version, or has it no longer in use.
const METADATA_ERRORS: &[&str] = &[
    "InvalidCiphertextException",
    "ValidationException",
    "InternalException",
    "InvalidStateException",
];

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

    if let Some(metadata) = sealed.metadata.as_deref().filter(|bytes| !bytes.is_empty()) {
        let altered = Sealed { metadata: None, ..sealed.clone() };
        refuse(&METADATA_MISSING, &altered, Some(AAD), METADATA_ERRORS);
        let shifted = [AAD, metadata].concat();
        refuse(&METADATA_AS_AAD, &altered, Some(&shifted), METADATA_ERRORS);
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
    altered_metadata(prober, key_id, sealed, report);
}

/// Decrypts with each alteration of the metadata. One error for all would be too strict: a proxy
/// that picks a key by a version in the metadata may not have the altered version.
fn altered_metadata(prober: &mut Prober<'_>, key_id: &str, sealed: &Sealed, report: &mut Report) {
    let metadata = sealed.metadata.as_deref().unwrap_or_default();
    let alterations = alterations(metadata);
    let tried = alterations.len();
    let mut not_refused = Vec::new();
    let mut errors: Vec<String> = Vec::new();
    for (what, altered) in alterations {
        let altered = Sealed { metadata: Some(altered), ..sealed.clone() };
        let body = prober.options.caller.decrypt(&altered, Some(AAD));
        match prober.post(&of_key(key_id, "decrypt"), &body) {
            Ok(answer) if answer.status != 200 => {
                let name = answers::error_name(&answer).unwrap_or_else(|| answers::came(&answer));
                if !errors.contains(&name) {
                    errors.push(name);
                }
            }
            Ok(answer) => not_refused.push(format!("{what}: {}", answers::came(&answer))),
            Err(why) => not_refused.push(format!("{what}: {why}")),
        }
    }
    let came = format!("{tried} tried: {}", errors.join(", "));
    let any_of = |names: &[&str]| errors.iter().any(|name| names.contains(&name.as_str()));
    let outcome = if !not_refused.is_empty() {
        let (count, list) = (not_refused.len(), not_refused.join("; "));
        Outcome::Broken(format!("{count} of {tried} not refused: {list}"))
    } else if any_of(&["AccessDeniedException"]) {
        Outcome::Doubtful(format!("a policy refused it first: {came}"))
    } else {
        Outcome::Held(came.clone())
    };
    report.add(&METADATA_OTHER, None, outcome);
    let is_right =
        any_of(INVALID) && errors.iter().all(|name| METADATA_ERRORS.contains(&name.as_str()));
    let outcome = match (errors.is_empty(), is_right) {
        (true, _) => Outcome::Untried("no alteration was refused".to_owned()),
        (false, true) => Outcome::Held(came),
        (false, false) => Outcome::Broken(came),
    };
    report.add(&METADATA_ERROR, None, outcome);
}

/// Returns the alterations of a metadata with their descriptions.
fn alterations(metadata: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = (0..metadata.len())
        .map(|place| {
            let mut altered = metadata.to_vec();
            flip(altered.get_mut(place..).unwrap_or_default());
            (format!("byte {} of {} altered", place + 1, metadata.len()), altered)
        })
        .collect();
    if metadata.len() < MAX_CIPHERTEXT_METADATA_BYTES {
        all.push(("a byte more".to_owned(), [metadata, &[1]].concat()));
    }
    if let [shorter @ .., _] = metadata
        && !shorter.is_empty()
    {
        all.push(("a byte less".to_owned(), shorter.to_vec()));
    }
    all
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
