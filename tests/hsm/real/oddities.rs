//! Oddities that PKCS#11 permits or real modules show, simulated by the interposer in front of
//! SoftHSM2. Tokens serve nevertheless.

use std::sync::Arc;
use std::time::Duration;

use cryptoki_sys::*;

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use xks_proxy::hsm::config::{GcmForm, Rules, TokenConfig, TokenSelector};
use xks_proxy::hsm::pkcs11::discovery::{self, Bounds};
use xks_proxy::hsm::pkcs11::ffi::RawModule;
use xks_proxy::hsm::pkcs11::native::{Arguments, Attribute};
use xks_proxy::hsm::pkcs11::native_session::NativeSession;

/// The token "one", called with GCM parameters of that form.
fn config_of(form: GcmForm) -> TokenConfig {
    let select = TokenSelector::Label("one".to_owned());
    TokenConfig {
        rules: Rules { form, ..Rules::default() },
        ..token(Interposed::module(), select, PIN, 4)
    }
}

fn start(form: GcmForm) -> Caller {
    Caller::start(config(vec![config_of(form)], &LABELS))
}

/// Asserts that a fleet serves with that oddity, and lists all keys.
fn serves(test: &str, oddity: &str, form: GcmForm) {
    in_child!(test, Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set(&format!("[odd]\n{oddity}"));
        let mut caller = start(form);
        for n in 0..20 {
            assert_eq!(round_trip(&mut caller, n), Ok(()), "{:?}", caller.hsm.stats());
        }
        let (iv, mut sealed) = caller.encrypt(1, b"with the other key").unwrap();
        assert_eq!(caller.decrypt(1, iv.as_slice(), &sealed).unwrap(), b"with the other key");
        sealed[0] ^= 1;
        let tampered = caller.decrypt(1, iv.as_slice(), &sealed);
        assert_eq!(tampered, Err(xks_proxy::job::Failure::InvalidCiphertext));
        let inventory = caller.hsm.inventory().remove(0);
        assert_eq!(inventory.trouble, None);
        assert_eq!(inventory.missing, [Box::from("absent")]);
        assert_eq!(inventory.keys.len(), 2, "{:?}", inventory.keys);
        assert!(caller.hsm.stop(Duration::from_secs(10)));
    });
}

/// opencryptoki's software token has a clock whose time is not valid.
#[test]
fn a_clock_that_is_wrong() {
    serves("a_clock_that_is_wrong", "utc_time = \"never\"", GcmForm::default());
}

/// A search ends with an empty result, and not with one that is merely short.
#[test]
fn few_objects_at_once() {
    serves("few_objects_at_once", "find_at_most = 1", GcmForm::default());
}

/// A listing detects that it was cut short, and searches are ended whatever they find.
#[test]
fn more_objects_than_are_looked_at() {
    in_child!("more_objects_than_are_looked_at", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set("[odd]\nfind_at_most = 1");
        let module = Arc::new(RawModule::load(&Interposed::module()).unwrap());
        module.initialize(Arguments::OsLocking).unwrap();
        let named = |slot: &u64| module.token_info(*slot).unwrap().label.starts_with(b"one ");
        let slot = module.slots(10).unwrap().into_iter().find(named).unwrap();
        let session = NativeSession::open(&module, slot, false).unwrap();
        session.login(Some(PIN)).unwrap();
        for (max_objects, expected) in [(0, (0, true)), (1, (1, true)), (2, (2, false))] {
            let (found, has_more) = session.find(&[], max_objects).unwrap();
            assert_eq!((found.len(), has_more), expected);
        }
        session.close().unwrap();
        module.finalize().unwrap();
    });
}

/// Some modules accept searches by class and label only; others accept no attributes at all.
#[test]
fn short_templates() {
    serves("short_templates", "template_at_most = 2", GcmForm::default());
}

#[test]
fn no_templates() {
    serves("no_templates", "template_at_most = 0", GcmForm::default());
}

/// Some modules return no attribute at all if one is unavailable. Then keys are read without what
/// only the operator needs, or attribute by attribute.
#[test]
fn all_attributes_or_none() {
    serves("all_attributes_or_none", "attributes_at_most = 13", GcmForm::default());
}

#[test]
fn one_attribute_at_a_time() {
    serves("one_attribute_at_a_time", "attributes_at_most = 1", GcmForm::default());
}

/// A new key is found by its label, even among many other objects and if searches accept no
/// template.
#[test]
fn a_new_key_among_many_objects() {
    in_child!("a_new_key_among_many_objects", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set("[odd]\ntemplate_at_most = 0\nfind_strays = 1100");
        let mut caller = start(GcmForm::default());
        assert_eq!(round_trip(&mut caller, 0), Ok(()));
        let module = Arc::new(RawModule::load(&Interposed::module()).unwrap());
        let session = NativeSession::open(&module, Interposed::slot(&caller, 0), true).unwrap();
        let template = [
            Attribute::Flag(CKA_TOKEN, CK_TRUE),
            Attribute::Flag(CKA_PRIVATE, CK_TRUE),
            Attribute::Number(CKA_VALUE_LEN, 32),
            Attribute::Flag(CKA_ENCRYPT, CK_TRUE),
            Attribute::Flag(CKA_DECRYPT, CK_TRUE),
            Attribute::Bytes(CKA_LABEL, b"absent".to_vec()),
        ];
        session.generate_aes_key(&template).unwrap();
        eventually("the new key serves", || caller.encrypt(2, b"x").is_ok());
        session.close().unwrap();
        assert!(caller.hsm.stop(Duration::from_secs(10)));
    });
}

#[test]
fn no_locks_of_the_system() {
    serves("no_locks_of_the_system", "initialize = \"no_os_locking\"", GcmForm::default());
}

#[test]
fn no_arguments() {
    serves("no_arguments", "initialize = \"null_only\"", GcmForm::default());
}

#[test]
fn threads_of_its_own() {
    serves("threads_of_its_own", "initialize = \"needs_threads\"", GcmForm::default());
}

/// A module that cannot lock is called by one thread at a time, however many sessions there are.
#[test]
fn one_call_at_a_time() {
    const CALL: Duration = Duration::from_millis(50);
    in_child!("one_call_at_a_time", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set("[odd]\ninitialize = \"no_os_locking\"");
        let mut caller = start(GcmForm::default());
        assert_eq!(round_trip(&mut caller, 0), Ok(()));
        interposed.set(&format!("[latency]\nC_Encrypt = \"{}ms\"", CALL.as_millis()));
        let encryption = || xks_proxy::job::Operation::Encrypt { cdiv: None };
        let mut jobs: Vec<_> =
            (0..8).map(|_| caller.job(request(0, encryption(), b"x"), 5_000)).collect();
        let began = std::time::Instant::now();
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        let answers = caller.wait(8);
        assert!(answers.len() == 8 && answers.iter().all(|answer| answer.outcome.is_ok()));
        assert!(began.elapsed() >= CALL * 8, "{:?}", began.elapsed());
    });
}

#[test]
fn the_length_first() {
    serves(
        "the_length_first",
        "wants_length_first = true",
        GcmForm { asks_length: true, ..GcmForm::default() },
    );
}

#[test]
fn parameters_of_the_first_edition() {
    serves(
        "parameters_of_the_first_edition",
        "no_iv_bits = true",
        GcmForm { has_no_iv_bits: true, ..GcmForm::default() },
    );
}

/// The first session for requests is open before the first of them arrives.
#[test]
fn slow_sessions() {
    in_child!("slow_sessions", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set("[latency]\nC_OpenSession = \"500ms\"");
        let mut caller = start(GcmForm::default());
        let encryption = xks_proxy::job::Operation::Encrypt { cdiv: None };
        let mut jobs = vec![caller.job(request(0, encryption, b"x"), 180)];
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        let answer = caller.wait_for(1, Duration::from_millis(200)).pop().expect("an answer");
        assert!(answer.outcome.is_ok(), "{:?}", answer.outcome);
    });
}

/// Discovery finds the module's form of GCM parameters by trying them.
#[test]
fn forms_are_found() {
    in_child!("forms_are_found", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let bounds = Bounds { max_sessions: 1, time: Duration::from_millis(10) };
        let mut found = |oddity: &str| {
            interposed.set(&format!("[odd]\n{oddity}"));
            let findings = discovery::run(&config_of(GcmForm::default()), &[], bounds).unwrap();
            assert!(findings.iv_mode.is_some(), "{findings:#?}");
            findings.form
        };
        assert_eq!(found(""), GcmForm::default());
        let both = GcmForm { asks_length: true, has_no_iv_bits: true };
        assert_eq!(found("wants_length_first = true\nno_iv_bits = true"), both);
        let first = GcmForm { has_no_iv_bits: true, ..GcmForm::default() };
        assert_eq!(found("no_iv_bits = true"), first);
    });
}

/// Encrypts with both keys in several sessions at once. Returns the number of ciphertexts of each
/// request's own key and of another key, and of failures.
fn encrypt_in_turn(caller: &mut Caller) -> [usize; 3] {
    let values = [VALUE, [1; 32]];
    let mut jobs = Vec::new();
    let mut keys = Vec::new();
    for n in 0..8 {
        let key = n % 2;
        let encryption = xks_proxy::job::Operation::Encrypt { cdiv: None };
        let job = caller.job(request(key, encryption, b"x"), 5_000);
        keys.push((job.reply_to.serial, key as usize));
        jobs.push(job);
    }
    caller.hsm.submit(&mut jobs, &mut Vec::new());
    let mut outcomes = [0; 3];
    for answer in caller.wait(8) {
        let (_, key) = keys.iter().find(|(serial, _)| *serial == answer.reply_to.serial).unwrap();
        let Ok(xks_proxy::job::Success::Encrypted { iv, tag, .. }) = answer.outcome else {
            outcomes[2] += 1;
            continue;
        };
        let sealed = (iv, [&answer.output[..], &tag].concat());
        match (opens_with(&values[*key], &sealed), opens_with(&values[1 - key], &sealed)) {
            (true, false) => outcomes[0] += 1,
            // The other key, or the one that health checks have made in their session.
            (false, _) => outcomes[1] += 1,
            (true, true) => panic!("the keys are the same"),
        }
    }
    outcomes
}

fn config_of_sessions(has_handles_of_sessions: bool) -> TokenConfig {
    let usual = config_of(GcmForm::default());
    TokenConfig { rules: Rules { has_handles_of_sessions, ..usual.rules }, ..usual }
}

/// Where each session has handles of its own, no session uses another's: it may be another key's.
#[test]
fn handles_of_sessions() {
    in_child!("handles_of_sessions", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let slow = "[latency]\nC_Encrypt = \"2ms\"";
        interposed.set(&format!("{slow}\n[odd]\nhandles_of_sessions = true"));
        let mut caller = Caller::start(config(vec![config_of_sessions(true)], &LABELS));
        for n in 0..50 {
            assert_eq!(round_trip(&mut caller, n), Ok(()), "{:?}", caller.hsm.stats());
            assert_eq!(encrypt_in_turn(&mut caller), [8, 0, 0]);
        }
        let (iv, mut sealed) = caller.encrypt(1, b"with the other key").unwrap();
        sealed[0] ^= 1;
        let tampered = caller.decrypt(1, iv.as_slice(), &sealed);
        assert_eq!(tampered, Err(xks_proxy::job::Failure::InvalidCiphertext));
        assert_eq!(caller.encrypt(2, b"x"), Err(xks_proxy::job::Failure::KeyNotFound));
        // Once a session knows a key, it searches for it no more.
        let searches = interposed.count("C_FindObjectsInit");
        for _ in 0..20 {
            assert_eq!(encrypt_in_turn(&mut caller), [8, 0, 0]);
        }
        assert!(interposed.count("C_FindObjectsInit") < searches + 20);
        assert!(caller.hsm.stop(Duration::from_secs(10)));
    });
}

/// The rule is needed: without it, such a module encrypts with the wrong key.
#[test]
fn handles_of_other_sessions() {
    in_child!("handles_of_other_sessions", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let slow = "[latency]\nC_Encrypt = \"2ms\"";
        interposed.set(&format!("{slow}\n[odd]\nhandles_of_sessions = true"));
        let mut caller = Caller::start(config(vec![config_of_sessions(false)], &LABELS));
        let is_wrong = |_| {
            let [_, wrong, failed] = encrypt_in_turn(&mut caller);
            wrong + failed > 0
        };
        assert!((0..200).any(is_wrong));
    });
}

/// A key that was replaced is proven again in each session, before its first encryption there.
#[test]
fn handles_of_sessions_become_stale() {
    in_child!("handles_of_sessions_become_stale", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set("[odd]\nhandles_of_sessions = true");
        let mut caller = Caller::start(config(vec![config_of_sessions(true)], &LABELS));
        assert_eq!(round_trip(&mut caller, 0), Ok(()));
        interposed.set(
            "[odd]\nhandles_of_sessions = true\n[[fault]]\nfunctions = [\"C_EncryptInit\"]\n\
             return = \"CKR_KEY_HANDLE_INVALID\"\ncount = 3",
        );
        eventually("the key is found again", || round_trip(&mut caller, 1).is_ok());
        assert_eq!(encrypt_in_turn(&mut caller), [8, 0, 0]);
        assert!(caller.hsm.stop(Duration::from_secs(10)));
    });
}

/// Discovery finds out whether handles belong to sessions.
#[test]
fn kinds_of_handles_are_found() {
    in_child!("kinds_of_handles_are_found", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let bounds = Bounds { max_sessions: 2, time: Duration::from_millis(10) };
        let mut found = |is_odd: bool, labels: &[&str]| {
            interposed.set(&format!("[odd]\nhandles_of_sessions = {is_odd}"));
            let labels: Vec<_> = labels.iter().map(|label| Box::from(*label)).collect();
            let findings = discovery::run(&config_of_sessions(is_odd), &labels, bounds).unwrap();
            assert!(findings.iv_mode.is_some(), "{findings:#?}");
            findings.has_handles_of_sessions
        };
        assert_eq!(found(false, &LABELS), Some(false));
        assert_eq!(found(true, &LABELS), Some(true));
        assert_eq!(found(false, &["absent"]), None);
    });
}

/// Further findings of `probe-hsm`: for SoftHSM2 it determines everything.
#[test]
fn the_probe_tells_more() {
    in_child!("the_probe_tells_more", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let bounds = Bounds { max_sessions: 1, time: Duration::from_millis(10) };
        interposed.set("[latency]\nC_EncryptInit = \"3ms\"");
        let findings = discovery::run(&config_of(GcmForm::default()), &[], bounds).unwrap();
        assert_eq!(findings.interfaces, ["PKCS#11 2.40 (C_GetFunctionList)"]);
        assert_eq!(findings.has_messages, Some(false));
        assert!(findings.makes_session_keys);
        let (begins, rest) = findings.encryption.unwrap();
        assert!(begins >= Duration::from_millis(3) && rest < begins, "{begins:?} {rest:?}");
        interposed.set("no_session_keys = true");
        let labels = LABELS.map(Box::from);
        let findings = discovery::run(&config_of(GcmForm::default()), &labels, bounds).unwrap();
        assert!(!findings.makes_session_keys);
    });
}
