//! `xks-proxy check`: is this settings file right, and does the HSM have what it names?

use std::path::Path;
use std::time::{Duration, Instant};

use super::hsm_caller::{OTHER_ANSWER, told};
use super::hsm_session::HsmSession;
use super::{EXIT_UNAVAILABLE, Failed};
use crate::job::{HsmAad, KeyIndex, Operation, Request, Success};
use crate::proto::Service;
use crate::settings::Settings;

/// What each key encrypts and decrypts.
const SAMPLE: &[u8] = b"32 bytes to go there and back...";

/// Checks the settings; with `with_hsm`, also the token, the keys, and a round trip on each.
///
/// # Errors
/// [`Failed`]: all that is wrong.
pub fn run(file: Option<&Path>, with_hsm: bool, is_strict: bool) -> Result<(), Failed> {
    let (settings, findings) = super::load(file, is_strict)?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("{}: no mistakes, {} remarks", settings.file.display(), findings.len());
    if with_hsm { check_hsm(&settings) } else { Ok(()) }
}

fn check_hsm(settings: &Settings) -> Result<(), Failed> {
    let service = settings.service();
    let session = HsmSession::start(settings, &service)?;
    let mut mistakes = 0;
    for token in session.hsm().inventory() {
        super::keys::print_token(&token);
        mistakes += usize::from(token.trouble.is_some());
    }
    mistakes += check_keys(&session, &service);
    if mistakes == 0 {
        println!("\nthe HSM has all keys, and each encrypts and decrypts as its attributes say");
        return Ok(());
    }
    Err(Failed::new(EXIT_UNAVAILABLE, format!("{mistakes} of the checks with the HSM failed")))
}

/// Has each key make a round trip; how many failed.
fn check_keys(session: &HsmSession, service: &Service) -> usize {
    println!();
    let mut failures = 0;
    for (label, index) in service.labels().iter().zip(0..) {
        let started = Instant::now();
        match round_trip(session, KeyIndex(index)) {
            Ok(what) => println!("key {label}: {what} ({})", millis(started.elapsed())),
            Err(why) => {
                failures += 1;
                println!("key {label}: FAILED: {why}");
            }
        }
    }
    failures
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn round_trip(session: &HsmSession, key: KeyIndex) -> Result<String, String> {
    let mut describe = Request::default();
    describe.key = key;
    let (Success::Described(attributes), _) = session.perform(describe).map_err(told)? else {
        return Err(OTHER_ANSWER.to_owned());
    };
    let name = super::keys::spec(attributes.bits);
    if attributes.bits == 0 {
        return Err(
            "the token does not tell its length (CKA_VALUE_LEN), and KMS makes KMS keys of \
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
    let (success, mut sealed) = session.perform(encrypt).map_err(told)?;
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
    let (_, opened) = session.perform(decrypt).map_err(told)?;
    if opened.as_slice() != SAMPLE {
        return Err("what it encrypted did not decrypt to the same again".to_owned());
    }
    Ok(format!("{name}, encrypts and decrypts"))
}
