//! `xks-proxy check`: checks a settings file, and whether the HSM contains the keys that it names.

use std::path::Path;
use std::time::{Duration, Instant};

use super::keys::{print_token, prove, spec};
use super::{settings_file, unlisted_versions};
use crate::certificate::host_name;
use crate::exit::{EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::hsm::inventory::TokenInventory;
use crate::job::{HsmAad, KeyIndex, Operation, Request, Success};
use crate::observe::redaction::shown;
use crate::output::outln;
use crate::process::hsm_caller::{OTHER_ANSWER, told};
use crate::process::standalone_hsm::StandaloneHsm;
use crate::proto::{ServiceConfig, Version};
use crate::settings::Settings;

/// Plaintext that each key encrypts and decrypts.
const SAMPLE: &[u8] = b"32 bytes to go there and back...";

/// Checks the settings; with `dns_name`, also whether the certificate is for the name that KMS
/// calls; with `with_hsm`, also the token, the keys, and a round trip with each key.
///
/// # Errors
/// [`Failed`] with all mistakes.
pub fn run(
    file: Option<&Path>,
    with_hsm: bool,
    is_strict: bool,
    dns_name: Option<&str>,
) -> Result<(), Failed> {
    let (settings, findings) = settings_file::load(file, is_strict)?;
    for finding in &findings {
        outln!("{finding}");
    }
    unlisted_versions::print(&settings);
    outln!("{}: no mistakes, {} remarks", settings.file.display(), findings.len());
    if let Some(name) = dns_name {
        check_name(&settings, name).map_err(|why| Failed::new(EXIT_SETTINGS, why))?;
    }
    if with_hsm { check_hsm(&settings) } else { Ok(()) }
}

/// Checks that the certificate is for the name that KMS calls.
fn check_name(settings: &Settings, dns_name: &str) -> Result<(), String> {
    let Some(tls) = &settings.tls else {
        return Err(
            "--dns-name: TLS is off, so what ends it in front has the certificate".to_owned()
        );
    };
    let certificate = &tls.certificate;
    let is_among = |names: &[String]| names.iter().any(|name| host_name::is_for(name, dns_name));
    for (names, what, who) in [
        (&certificate.names, "its DNS names (subjectAltName)", "TLS clients look"),
        (&certificate.common_names, "its common names (CN)", "AWS's guide says that KMS looks"),
    ] {
        if !is_among(names) {
            return Err(format!(
                "tls.tls_cert_pem: {dns_name} is none of {what}, at which {who}: {}; have the \
                 certificate issued for it, or KMS fails with XKS_PROXY_INVALID_TLS_CONFIGURATION",
                shown(&names.join(", "))
            ));
        }
    }
    outln!("the certificate is for {dns_name}");
    Ok(())
}

fn check_hsm(settings: &Settings) -> Result<(), Failed> {
    let service = settings.service();
    let standalone = StandaloneHsm::start(settings, &service)?;
    let health_key = settings.pkcs11.health_key.as_deref();
    let mut mistakes = 0;
    let mut has_health_key = false;
    for token in standalone.hsm().inventory() {
        print_token(&token);
        mistakes += usize::from(token.trouble.is_some());
        has_health_key |= tell_of_health_key(&token, health_key);
        mistakes += tell_of_two_names(&token, settings);
    }
    let left_out = health_key.filter(|_| !has_health_key);
    mistakes += check_keys(&standalone, &service, left_out);
    let proofs = prove::prove(&standalone, &service);
    prove::print_table(&proofs, &service, settings);
    mistakes += prove::mistakes(&proofs, &service, settings);
    if let Some(trusted) = &settings.pkcs11.trust_token
        && !proofs.iter().any(|token| token.label == *trusted || token.id == *trusted)
    {
        mistakes += 1;
        outln!(
            "\npkcs11.trust_token: no token of the settings has the label or the serial number \
             {trusted:?}"
        );
    }
    if mistakes == 0 {
        outln!(
            "\nthe HSM has all keys, and each encrypts and decrypts as its attributes say, and is \
             the same on each token that has it"
        );
        return Ok(());
    }
    Err(Failed::new(EXIT_UNAVAILABLE, format!("{mistakes} of the checks with the HSM failed")))
}

/// Prints how the token's health is checked. Returns whether the token has the health key.
fn tell_of_health_key(token: &TokenInventory, health_key: Option<&str>) -> bool {
    let has_it =
        |label: &str| token.keys.iter().any(|key| key.names.iter().any(|name| **name == *label));
    match health_key {
        None => outln!(
            "  no [pkcs11] health_key: health is judged by a key that the session makes, else by \
             the keys of the stores"
        ),
        Some(label) if has_it(label) => {
            outln!("  health key {label:?}: there");
            return true;
        }
        Some(label) => outln!(
            "  health key {label:?}: NOT THERE: health is judged by a key that the session makes, \
             else by the keys of the stores; make such an AES-256 key on this token too"
        ),
    }
    false
}

/// Prints the keys that the settings name in two ways, which only the token can tell. Returns the
/// number of those for which that is a mistake: versions of one external key id, between which a
/// rotation would change nothing, and the audit log's key, with which a store's callers could forge
/// checkpoints.
fn tell_of_two_names(token: &TokenInventory, settings: &Settings) -> usize {
    let audit_key = settings.audit.as_ref().and_then(|audit| audit.hsm_key.as_deref());
    let keys = || settings.stores.iter().flat_map(|store| store.versioned_keys());
    let mut mistakes = 0;
    for key in token.keys.iter().filter(|key| key.names.len() > 1) {
        let has = |name: &str| key.names.iter().any(|known| **known == *name);
        let is_version = |version: &&Version| has(&version.key_name);
        let twice = keys().find(|it| it.versions.iter().filter(is_version).count() > 1);
        let problem = match twice {
            Some(twice) => format!("both are versions of the external key id {:?}", twice.id),
            None if audit_key.is_some_and(has) => {
                "one is the audit log's key, which no store may use".to_owned()
            }
            None => {
                let names = key.names.join(" and ");
                outln!("  WARNING: {names} are one key, counted under each name separately");
                continue;
            }
        };
        mistakes += 1;
        outln!("  MISTAKE: {} are one key, and {problem}", key.names.join(" and "));
    }
    mistakes
}

/// Makes a round trip with each key but `left_out`. Returns the number of failures.
fn check_keys(
    standalone: &StandaloneHsm,
    service: &ServiceConfig,
    left_out: Option<&str>,
) -> usize {
    outln!();
    let mut failures = 0;
    let keys = service.labels().iter().zip(0..);
    for (label, index) in keys.filter(|(label, _)| Some(&***label) != left_out) {
        let started = Instant::now();
        match round_trip(standalone, KeyIndex(index)) {
            Ok(what) => outln!("key {label}: {what} ({})", millis(started.elapsed())),
            Err(why) => {
                failures += 1;
                outln!("key {label}: FAILED: {why}");
            }
        }
    }
    failures
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn round_trip(standalone: &StandaloneHsm, key: KeyIndex) -> Result<String, String> {
    let mut describe = Request::default();
    describe.key = key;
    let (Success::Described(attributes), _) = standalone.perform(describe).map_err(told)? else {
        return Err(OTHER_ANSWER.to_owned());
    };
    let name = spec(attributes.bits);
    if attributes.bits == 0 {
        return Err(
            "the token does not report its length (CKA_VALUE_LEN), and KMS makes KMS keys of \
                    AES-256 keys alone"
                .to_owned(),
        );
    }
    if attributes.bits != 256 {
        return Err(format!("it is an {name} key; KMS makes KMS keys of AES-256 keys alone"));
    }
    if !attributes.encrypt {
        return Ok(format!("{name}, may not encrypt (CKA_ENCRYPT), so not tried"));
    }
    let aad = HsmAad::default();
    let operation = Operation::Encrypt { cdiv: None };
    let encrypt = Request { operation, key, aad, input: SAMPLE.to_vec() };
    let (success, mut sealed) = standalone.perform(encrypt).map_err(told)?;
    let Success::Encrypted { iv, tag, .. } = success else {
        return Err(OTHER_ANSWER.to_owned());
    };
    if !attributes.decrypt {
        return Ok(format!("{name}, encrypts; may not decrypt (CKA_DECRYPT), so not tried"));
    }
    sealed.extend_from_slice(&tag);
    let decrypt = Request {
        operation: Operation::Decrypt { iv },
        key,
        aad,
        input: std::mem::take(&mut *sealed),
    };
    let (_, opened) = standalone.perform(decrypt).map_err(told)?;
    if opened.as_slice() != SAMPLE {
        return Err("what it encrypted did not decrypt to the same again".to_owned());
    }
    Ok(format!("{name}, encrypts and decrypts"))
}
