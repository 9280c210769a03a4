//! The four calls as KMS makes them, with each key.

use std::time::Duration;

use super::answers::{self, Fleet, KeyMetadata, Reply, expect_error, expect_success};
use super::kms;
use super::kms_codes::KEY_NOT_FOUND;
use super::no_answer::Cause;
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};
use crate::client::bodies::{Sealed, random_bytes};
use crate::limits::KMS_TIMEOUT_MILLI;

const HEALTH: Rule = Rule::must(
    "health.answer",
    "GetHealthStatus",
    "200 with xksProxyFleetSize (an integer above zero), xksProxyVendor, xksProxyModel, ekmVendor \
     and one to ten ekmFleetDetails (id, model, healthStatus ACTIVE, DEGRADED or UNAVAILABLE).",
);
const HEALTH_STATUS: Rule =
    Rule::should("health.status", "GetHealthStatus", "Every external key manager is ACTIVE.");
const HEALTH_USABLE: Rule = Rule::must(
    "health.usable",
    "GetHealthStatus",
    "An external key manager is not UNAVAILABLE; if all are, KMS does not connect.",
);
const HEALTH_TIME: Rule = Rule::must(
    "health.time",
    "GetHealthStatus, KMS considerations",
    "It answers within 250 ms, by a cached result if the deep check takes longer.",
);
const METADATA: Rule = Rule::must(
    "metadata.answer",
    "GetKeyMetadata",
    "200 with keySpec, up to ten keyUsage values and keyStatus (ENABLED or DISABLED).",
);
const METADATA_USABLE: Rule = Rule::must(
    "metadata.usable",
    "GetKeyMetadata, KMS considerations",
    "KMS CreateKey wants keySpec AES_256, keyUsage with ENCRYPT and DECRYPT, keyStatus ENABLED.",
);
const OTHER_METADATA_USABLE: Rule = Rule::should(
    "metadata.usable-other",
    "GetKeyMetadata, KMS considerations",
    "KMS CreateKey wants keySpec AES_256, keyUsage with ENCRYPT and DECRYPT, keyStatus ENABLED.",
);
const ENCRYPT: Rule = Rule::must(
    "encrypt.answer",
    "Encrypt",
    "200 with a ciphertext as long as the plaintext, an initializationVector of 12 or 16 bytes, \
     an authenticationTag of 16, and at most 20 bytes of ciphertextMetadata, all in base64.",
);
const CDIV: Rule = Rule::must(
    "encrypt.cdiv",
    "Encrypt; Appendix C",
    "If asked for, ciphertextDataIntegrityValue is SHA-256 of additionalAuthenticatedData, \
     ciphertextMetadata, initializationVector, ciphertext and authenticationTag.",
);
const CDIV_WITHOUT_AAD: Rule = Rule::must(
    "encrypt.cdiv-without-aad",
    "Encrypt; Appendix C",
    "The same without additionalAuthenticatedData in the request.",
);
const FRESH_IV: Rule = Rule::must(
    "encrypt.fresh-iv",
    "(NIST SP 800-38D, 8)",
    "No initialization vector is used twice with a key.",
);
const DECRYPT: Rule =
    Rule::must("decrypt.answer", "Decrypt", "200 with the plaintext that was encrypted.");
const DECRYPT_WITHOUT_AAD: Rule = Rule::must(
    "decrypt.without-aad",
    "Decrypt",
    "The same for a ciphertext made without additionalAuthenticatedData.",
);
const USAGE_ENCRYPT: Rule = Rule::must(
    "encrypt.usage",
    "Error codes",
    "Encrypt with a key whose keyUsage has no ENCRYPT: 400 InvalidKeyUsageException.",
);
const USAGE_CDIV: Rule = Rule::should(
    "encrypt.usage-cdiv",
    "Appendix C",
    "Encrypt with a data integrity value cannot be verified with a key whose keyUsage has no \
     DECRYPT: 400 InvalidKeyUsageException.",
);
const USAGE_DECRYPT: Rule = Rule::must(
    "decrypt.usage",
    "Error codes",
    "Decrypt with a key whose keyUsage has no DECRYPT: 400 InvalidKeyUsageException.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[
    &HEALTH,
    &HEALTH_STATUS,
    &HEALTH_USABLE,
    &HEALTH_TIME,
    &METADATA,
    &METADATA_USABLE,
    &OTHER_METADATA_USABLE,
    &ENCRYPT,
    &CDIV,
    &CDIV_WITHOUT_AAD,
    &FRESH_IV,
    &DECRYPT,
    &DECRYPT_WITHOUT_AAD,
    &USAGE_ENCRYPT,
    &USAGE_CDIV,
    &USAGE_DECRYPT,
];

/// Additional authenticated data of the probe.
pub(super) const AAD: &[u8] = b"xks-proxy probe: additional authenticated data";

/// Returns a plaintext of the probe.
pub(super) fn plaintext() -> Vec<u8> {
    // Any value will do, as long as it is not real data.
    let random: [u8; 16] = random_bytes().unwrap_or_default();
    [b"xks-proxy probe ", random.as_slice()].concat()
}

/// Returns the path of a call with a key.
pub(super) fn of_key(key_id: &str, call: &str) -> String {
    format!("/keys/{key_id}/{call}")
}

/// Calls GetHealthStatus. Returns whether the proxy knows the path and accepts the credential.
pub fn health(prober: &mut Prober<'_>, report: &mut Report) -> bool {
    let reply = prober.post("/health", &prober.options.caller.health());
    let found = expect_success(&reply, answers::health);
    let judged = |is_right: bool, text: &String| match is_right {
        true => Outcome::Held(text.clone()),
        false => Outcome::Broken(text.clone()),
    };
    let (outcome, status, usable) = match found {
        Ok(Fleet { text, is_active, is_usable }) => {
            let (status, usable) = (judged(is_active, &text), judged(is_usable, &text));
            (Outcome::Held(text), status, usable)
        }
        Err(outcome) => {
            let untried = Outcome::Untried("the answer is not right".to_owned());
            (outcome, untried.clone(), untried)
        }
    };
    report.add_with_code(&HEALTH, None, outcome, kms::of_health(&reply));
    report.add(&HEALTH_STATUS, None, status);
    report.add(&HEALTH_USABLE, None, usable);
    report.add_with_code(&HEALTH_TIME, None, in_time(&reply), kms::of_late_health(&reply));
    reply.is_ok_and(|answer| answer.status != 401 && answer.status != 404)
}

fn in_time(reply: &Reply) -> Outcome {
    match reply {
        Err(why) if why.cause == Cause::TimedOut => Outcome::Broken(why.to_string()),
        Err(why) => Outcome::Untried(why.to_string()),
        Ok(answer) => {
            let came = format!("{:.2} ms", answer.time.as_secs_f64() * 1e3);
            let is_in_time = answer.time <= Duration::from_millis(KMS_TIMEOUT_MILLI);
            if is_in_time { Outcome::Held(came) } else { Outcome::Broken(came) }
        }
    }
}

/// Calls GetKeyMetadata, Encrypt and Decrypt with a key. The first key serves all further checks.
/// Returns a ciphertext made with [`AAD`] and its plaintext, if the key encrypts.
pub fn key(
    prober: &mut Prober<'_>,
    key_id: &str,
    is_first: bool,
    report: &mut Report,
) -> Option<(Sealed, Vec<u8>)> {
    let metadata = metadata(prober, key_id, is_first, report);
    if is_unknown(report, key_id) {
        for rule in [&ENCRYPT, &DECRYPT] {
            report.add(rule, Some(key_id), Outcome::Untried("there is no such key".to_owned()));
        }
        return None;
    }
    if metadata.as_ref().is_some_and(|known| !is_first && !known.spec.starts_with("AES_")) {
        // In malformed metadata, the usage is not reliable either.
        for rule in [&ENCRYPT, &DECRYPT] {
            let why = "its metadata is not an AES key's".to_owned();
            report.add(rule, Some(key_id), Outcome::Untried(why));
        }
        return None;
    }
    // A key of unknown usage must work, and so must the first one.
    let may = |usage: &str| is_first || metadata.as_ref().is_none_or(|known| known.may(usage));
    if !may("ENCRYPT") {
        let body = prober.options.caller.encrypt(&plaintext(), Some(AAD), false);
        let reply = prober.post(&of_key(key_id, "encrypt"), &body);
        report.add(
            &USAGE_ENCRYPT,
            Some(key_id),
            expect_error(&reply, &["InvalidKeyUsageException"]),
        );
        if !may("DECRYPT") {
            decrypt_forbidden(prober, key_id, &any_sealed(), report);
        }
        return None;
    }
    let plaintext = plaintext();
    let sealed = encrypt(prober, key_id, &plaintext, may("DECRYPT"), report);
    let Some((with_aad, without_aad)) = sealed else {
        for rule in [&DECRYPT, &DECRYPT_WITHOUT_AAD] {
            report.add(rule, Some(key_id), Outcome::Untried("there is no ciphertext".to_owned()));
        }
        return None;
    };
    if !may("DECRYPT") {
        decrypt_forbidden(prober, key_id, &with_aad, report);
        return None;
    }
    for (rule, sealed, aad) in
        [(&DECRYPT, &with_aad, Some(AAD)), (&DECRYPT_WITHOUT_AAD, &without_aad, None)]
    {
        let body = prober.options.caller.decrypt(sealed, aad);
        let reply = prober.post(&of_key(key_id, "decrypt"), &body);
        let opened = expect_success(&reply, |object| answers::opened(object, &plaintext));
        let outcome = opened.map_or_else(|outcome| outcome, |()| came(&reply));
        report.add(rule, Some(key_id), outcome);
    }
    Some((with_aad, plaintext))
}

/// Returns whether the proxy has said that it has no such key.
pub fn is_unknown(report: &Report, key_id: &str) -> bool {
    report
        .checks()
        .iter()
        .any(|check| check.subject.as_deref() == Some(key_id) && check.kms == Some(KEY_NOT_FOUND))
}

fn came(reply: &Reply) -> Outcome {
    Outcome::Held(reply.as_ref().map(answers::came).unwrap_or_default())
}

fn metadata(
    prober: &mut Prober<'_>,
    key_id: &str,
    is_first: bool,
    report: &mut Report,
) -> Option<KeyMetadata> {
    let body = prober.options.caller.key_metadata();
    let reply = prober.post(&of_key(key_id, "metadata"), &body);
    let rule = if is_first { &METADATA_USABLE } else { &OTHER_METADATA_USABLE };
    match expect_success(&reply, KeyMetadata::parse) {
        Ok(metadata) => {
            report.add(&METADATA, Some(key_id), came(&reply));
            let is_usable = metadata.spec == "AES_256"
                && metadata.may("ENCRYPT")
                && metadata.may("DECRYPT")
                && metadata.status == "ENABLED";
            let KeyMetadata { spec, usage, status } = &metadata;
            let said = format!("{spec}, [{}], {status}", usage.join(", "));
            report.add(rule, Some(key_id), if is_usable { Ok(said) } else { Err(said) });
            Some(metadata)
        }
        Err(outcome) => {
            report.add_with_code(&METADATA, Some(key_id), outcome, kms::of_metadata(&reply));
            let why = "the answer is not right".to_owned();
            report.add(rule, Some(key_id), Outcome::Untried(why));
            None
        }
    }
}

/// Encrypts with and without AAD, and with the data integrity value if the key `may_decrypt`.
fn encrypt(
    prober: &mut Prober<'_>,
    key_id: &str,
    plaintext: &[u8],
    may_decrypt: bool,
    report: &mut Report,
) -> Option<(Sealed, Sealed)> {
    let path = of_key(key_id, "encrypt");
    let body = prober.options.caller.encrypt(plaintext, Some(AAD), false);
    let reply = prober.post(&path, &body);
    let found = expect_success(&reply, |object| answers::sealed(object, plaintext.len()));
    let plain = match found {
        Ok(sealed) => {
            report.add(&ENCRYPT, Some(key_id), came(&reply));
            sealed
        }
        Err(outcome) => {
            report.add(&ENCRYPT, Some(key_id), outcome);
            for rule in [&CDIV, &CDIV_WITHOUT_AAD, &FRESH_IV] {
                let why = "it does not encrypt without it".to_owned();
                report.add(rule, Some(key_id), Outcome::Untried(why));
            }
            return None;
        }
    };
    let mut made = vec![plain];
    for (rule, aad) in [(&CDIV, Some(AAD)), (&CDIV_WITHOUT_AAD, None)] {
        let body = prober.options.caller.encrypt(plaintext, aad, may_decrypt);
        let reply = prober.post(&path, &body);
        let found = expect_success(&reply, |object| {
            let sealed = answers::sealed(object, plaintext.len())?;
            let value = if may_decrypt {
                answers::cdiv(object, &sealed, aad.unwrap_or_default())
            } else {
                Ok(())
            };
            Ok((sealed, value))
        });
        let outcome = match found {
            Ok((sealed, value)) => {
                made.push(sealed);
                value.map_or_else(Outcome::Broken, |()| came(&reply))
            }
            Err(outcome) => outcome,
        };
        if may_decrypt {
            report.add(rule, Some(key_id), outcome);
        }
    }
    if !may_decrypt {
        let body = prober.options.caller.encrypt(plaintext, Some(AAD), true);
        let reply = prober.post(&path, &body);
        let outcome = expect_error(&reply, &["InvalidKeyUsageException"]);
        report.add(&USAGE_CDIV, Some(key_id), outcome);
    }
    report.add(&FRESH_IV, Some(key_id), fresh_ivs(&made));
    let without_aad = made.pop()?;
    let with_aad = made.into_iter().next()?;
    Some((with_aad, without_aad))
}

fn fresh_ivs(made: &[Sealed]) -> Outcome {
    let mut ivs: Vec<&[u8]> = made.iter().map(|sealed| sealed.iv.as_slice()).collect();
    ivs.sort_unstable();
    ivs.dedup();
    let came = format!("{} different in {} answers", ivs.len(), made.len());
    if ivs.len() == made.len() { Outcome::Held(came) } else { Outcome::Broken(came) }
}

fn decrypt_forbidden(prober: &mut Prober<'_>, key_id: &str, sealed: &Sealed, report: &mut Report) {
    let body = prober.options.caller.decrypt(sealed, Some(AAD));
    let reply = prober.post(&of_key(key_id, "decrypt"), &body);
    report.add(&USAGE_DECRYPT, Some(key_id), expect_error(&reply, &["InvalidKeyUsageException"]));
}

/// Returns a well-formed ciphertext that was not made with any key.
pub(super) fn any_sealed() -> Sealed {
    Sealed { ciphertext: vec![1; 32], iv: vec![2; 12], tag: vec![3; 16], metadata: None }
}
