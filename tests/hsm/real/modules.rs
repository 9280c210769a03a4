//! AES-GCM through real PKCS#11 modules, checked against an independent implementation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::caller::*;
use crate::tokens::*;
use crate::tools;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, Nonce};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::Session;
use sha2::{Digest as _, Sha256};
use xks_proxy::hsm::config::{Config, IvMode, TokenConfig, TokenSelector};
use xks_proxy::hsm::pkcs11::native::Arguments;
use xks_proxy::hsm::pkcs11::{discovery, profiles};
use xks_proxy::hsm::{Hsm, TokenStats};
use xks_proxy::job::{Failure, HealthStatus, KeyAttributes, Success};

const VALUE: [u8; 32] = [0x42; 32];
const LABELS: [&str; 6] = ["both", "encrypt-only", "decrypt-only", "twice", "absent", "des"];
const BOTH: u32 = 0;
const ENCRYPT_ONLY: u32 = 1;
const DECRYPT_ONLY: u32 = 2;
const TWICE: u32 = 3;
const ABSENT: u32 = 4;
const DES: u32 = 5;

/// The keys named by [`LABELS`], and some that must not be mistaken for them.
fn add_keys(session: &Session) {
    add_key(session, "both", &VALUE, ENCRYPT | DECRYPT, true);
    add_key(session, "encrypt-only", &VALUE, ENCRYPT, true);
    add_key(session, "decrypt-only", &VALUE, DECRYPT, true);
    add_key(session, "twice", &VALUE, ENCRYPT | DECRYPT, true);
    add_key(session, "twice", &[1; 32], ENCRYPT | DECRYPT, true);
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(true),
        Attribute::Label("des".into()),
        Attribute::Value(vec![7; 24]),
    ];
    session.create_object(&template).unwrap();
}

fn seal(iv: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let aad = aad();
    let payload = Payload { msg: plaintext, aad: aad.as_slice() };
    if iv.len() == 12 {
        let iv = Nonce::<U12>::try_from(iv).unwrap();
        AesGcm::<Aes256, U12>::new(&VALUE.into()).encrypt(&iv, payload).unwrap()
    } else {
        let iv = Nonce::<U16>::try_from(iv).unwrap();
        AesGcm::<Aes256, U16>::new(&VALUE.into()).encrypt(&iv, payload).unwrap()
    }
}

fn unseal(iv: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let aad = aad();
    let payload = Payload { msg: ciphertext, aad: aad.as_slice() };
    let iv = Nonce::<U12>::try_from(iv).unwrap();
    AesGcm::<Aes256, U12>::new(&VALUE.into()).decrypt(&iv, payload).unwrap()
}

fn stats(caller: &Caller) -> TokenStats {
    caller.hsm.stats().remove(0)
}

/// Checks everything that a token must be able to do, whichever module it is from.
fn works(config: Config) {
    let mut caller = Caller::start(config);
    assert_eq!(caller.hsm.health().tokens[0].status, HealthStatus::Active, "{:?}", stats(&caller));

    // Ciphertexts are AES-256-GCM at all lengths, including empty ones.
    for length in [0_u32, 1, 15, 16, 17, 100, 4300, 6144, 65_536] {
        let plaintext: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
        let (iv, ciphertext) = caller.encrypt(BOTH, &plaintext).unwrap();
        assert_eq!(unseal(iv.as_slice(), &ciphertext), plaintext, "{length} bytes");
        assert_eq!(caller.decrypt(BOTH, iv.as_slice(), &ciphertext).as_ref(), Ok(&plaintext));
        let own = seal(&[9; 12], &plaintext);
        assert_eq!(caller.decrypt(BOTH, &[9; 12], &own).as_ref(), Ok(&plaintext));
    }
    // Some HSMs generate 16-byte IVs; others must be able to decrypt the resulting ciphertexts.
    assert_eq!(caller.decrypt(BOTH, &[9; 16], &seal(&[9; 16], b"sixteen")).unwrap(), b"sixteen");

    // No IV is repeated across the batches that IVs are cut from.
    let mut ivs = std::collections::HashSet::new();
    for _ in 0..1000 {
        assert!(ivs.insert(caller.encrypt(BOTH, b"x").unwrap().0.as_slice().to_vec()));
    }

    // CDIV: SHA-256 of the input to `prefix`, IV, ciphertext and tag.
    for plaintext in [&b""[..], b"data key"] {
        let prefix = Sha256::new_with_prefix(b"aad and metadata");
        let (iv, sealed, cdiv) = caller.encrypt_with_cdiv(BOTH, prefix, plaintext).unwrap();
        let whole = [b"aad and metadata", iv.as_slice(), &sealed].concat();
        assert_eq!(cdiv, <[u8; 32]>::from(Sha256::digest(whole)));
        assert_eq!(unseal(iv.as_slice(), &sealed), plaintext);
    }

    // Tampering is reported, and costs no session.
    let before = stats(&caller).sessions_opened_total;
    let sealed = seal(&[9; 12], b"0123456789abcdef");
    for bit in 0..sealed.len() * 8 {
        let mut tampered = sealed.clone();
        tampered[bit / 8] ^= 1 << (bit % 8);
        let answer = caller.decrypt(BOTH, &[9; 12], &tampered);
        assert_eq!(answer, Err(Failure::InvalidCiphertext), "bit {bit}");
    }
    assert_eq!(caller.decrypt(BOTH, &[8; 12], &sealed), Err(Failure::InvalidCiphertext));
    assert_eq!(caller.decrypt(BOTH, &[9; 16], &sealed), Err(Failure::InvalidCiphertext));
    assert_eq!(caller.decrypt(BOTH, &[9; 12], &sealed[1..]), Err(Failure::InvalidCiphertext));
    assert_eq!(caller.decrypt(BOTH, &[9; 12], &sealed[..15]), Err(Failure::InvalidCiphertext));
    let mut tag_only = seal(&[9; 12], b"");
    assert_eq!(caller.decrypt(BOTH, &[9; 12], &tag_only).unwrap(), b"");
    tag_only[0] ^= 1;
    assert_eq!(caller.decrypt(BOTH, &[9; 12], &tag_only), Err(Failure::InvalidCiphertext));
    let answer = caller.decrypt(DECRYPT_ONLY, &[9; 12], &tag_only);
    assert_eq!(answer, Err(Failure::InvalidCiphertext), "no known-good pair of this key");
    assert_eq!(caller.decrypt(DECRYPT_ONLY, &[9; 12], &sealed).unwrap(), b"0123456789abcdef");
    assert_eq!(stats(&caller).sessions_opened_total, before);
    assert_eq!(stats(&caller).faults_total, 0);

    // Permitted uses of keys.
    let (_, sealed) = caller.encrypt(ENCRYPT_ONLY, b"x").unwrap();
    assert_eq!(caller.decrypt(ENCRYPT_ONLY, &[9; 12], &sealed), Err(Failure::MayNotDecrypt));
    assert_eq!(caller.encrypt(DECRYPT_ONLY, b"x"), Err(Failure::MayNotEncrypt));
    let answer = caller.encrypt_with_cdiv(ENCRYPT_ONLY, Sha256::new(), b"x");
    assert_eq!(answer, Err(Failure::MayNotDecrypt), "it cannot be verified");
    let Ok(Success::Described(attributes)) = caller.describe(ENCRYPT_ONLY) else { panic!() };
    let KeyAttributes { bits, encrypt, decrypt, .. } = attributes;
    assert_eq!((bits, encrypt, decrypt), (256, true, false));

    // Labels that name no key or several keys; a key that is not an AES key.
    assert_eq!(caller.encrypt(TWICE, b"x"), Err(Failure::KeyAmbiguous(2)));
    assert_eq!(caller.describe(TWICE), Err(Failure::KeyAmbiguous(2)));
    assert_eq!(caller.encrypt(ABSENT, b"x"), Err(Failure::KeyNotFound));
    assert_eq!(caller.encrypt(DES, b"x"), Err(Failure::KeyNotFound));

    // The inventory shown to an operator.
    let inventory = caller.hsm.inventory().remove(0);
    assert_eq!(inventory.trouble, None);
    assert!(inventory.library.is_some() && inventory.slot.is_some());
    assert_eq!(inventory.keys.len(), 5);
    assert_eq!(inventory.missing, [Box::from("absent"), Box::from("des")]);
    assert_eq!(inventory.ambiguous, [(Box::from("twice"), 2)]);
    let health = caller.hsm.health();
    let token = &health.tokens[0];
    assert!(!token.id.is_empty() && token.model.contains("firmware"), "{token:?}");

    assert!(caller.hsm.stop(Duration::from_secs(10)));
    assert_eq!(caller.encrypt(BOTH, b"x"), Err(Failure::NoToken), "it has stopped");
}

/// A SoftHSM2 token with [`add_keys`], ready for the proxy to initialise.
fn softhsm_with_keys() -> PathBuf {
    let module = tools::softhsm2_module();
    let pkcs11 = initialize(&module);
    let slot = make_token(&pkcs11, "first");
    add_keys(&login(&pkcs11, slot));
    pkcs11.finalize().unwrap();
    module
}

fn first(module: PathBuf) -> TokenConfig {
    token(module, TokenSelector::First, PIN, 4)
}

#[test]
fn softhsm_works() {
    in_child!("softhsm_works", softhsm_environment, |_| {
        works(config(vec![first(softhsm_with_keys())], &LABELS));
    });
}

#[test]
fn kryoptic_works() {
    in_child!("kryoptic_works", kryoptic_environment, |_| {
        let module = tools::kryoptic_module();
        let pkcs11 = initialize(&module);
        let slot = make_token(&pkcs11, "kryoptic");
        add_keys(&login(&pkcs11, slot));
        pkcs11.finalize().unwrap();
        is_as_its_profile_says(&first(module.clone()), "kryoptic");
        works(config(vec![first(module)], &LABELS));
    });
}

#[test]
fn nss_works() {
    in_child!("nss_works", |_| Vec::new(), |directory| {
        let parameters = format!(
            "configdir='sql:{}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
            directory.display()
        );
        nss_with_keys(&parameters);
        let token = TokenConfig {
            initialize_parameters: Some(parameters),
            ..token(
                tools::nss_module(),
                TokenSelector::Label("NSS Certificate DB".to_owned()),
                PIN,
                4,
            )
        };
        is_as_its_profile_says(&token, "nss");
        works(config(vec![token], &LABELS));
    },);
}

/// Asserts that the findings of `probe-hsm` match the profile with that name.
fn is_as_its_profile_says(token: &TokenConfig, name: &str) {
    let bounds = discovery::Bounds { max_sessions: 4, time: Duration::from_millis(20) };
    let findings = discovery::run(token, &[], bounds).unwrap();
    let fits = findings.fitting_profiles().any(|profile| profile.name == name);
    assert!(fits && findings.throughput.len() == 3, "{findings:#?}");
    assert!(profiles::by_name(name).is_some() && findings.bad_tag_oddities.is_empty());
}

fn nss_with_keys(parameters: &str) {
    use xks_proxy::hsm::pkcs11::ffi::RawModule;
    let module = tools::nss_module();
    // A library that is unloaded loses its state.
    let raw = RawModule::load(&module).unwrap();
    raw.initialize(Arguments::Parameters(parameters)).unwrap();
    let pkcs11 = initialize(&module);
    let slot = slot_of(&pkcs11, "NSS Certificate DB");
    let session = pkcs11.open_rw_session(slot).unwrap();
    let empty = cryptoki::types::AuthPin::new("".into());
    session.login(cryptoki::session::UserType::So, Some(&empty)).unwrap();
    session.init_pin(&cryptoki::types::AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    add_keys(&login(&pkcs11, slot));
    drop(session);
    pkcs11.finalize().unwrap();
}

/// A token without a password needs no login, and must not be refused for lack of one.
#[test]
fn nss_without_a_password_works() {
    in_child!("nss_without_a_password_works", |_| Vec::new(), |directory| {
        use xks_proxy::hsm::pkcs11::ffi::RawModule;
        let parameters = format!("configdir='sql:{}'", directory.display());
        let raw = RawModule::load(&tools::nss_module()).unwrap();
        raw.initialize(Arguments::Parameters(&parameters)).unwrap();
        let pkcs11 = initialize(&tools::nss_module());
        let slot = slot_of(&pkcs11, "NSS Certificate DB");
        let session = pkcs11.open_rw_session(slot).unwrap();
        let empty = cryptoki::types::AuthPin::new("".into());
        session.login(cryptoki::session::UserType::So, Some(&empty)).unwrap();
        session.init_pin(&empty).unwrap();
        session.logout().unwrap();
        add_keys(&session);
        drop(session);
        pkcs11.finalize().unwrap();
        let token = TokenConfig {
            initialize_parameters: Some(parameters),
            ..token(
                tools::nss_module(),
                TokenSelector::Label("NSS Certificate DB".to_owned()),
                "",
                4,
            )
        };
        works(config(vec![token], &LABELS));
    },);
}

/// A key created after the start is usable without a restart, and so is one that was deleted and
/// created again (with another handle).
#[test]
fn keys_come_and_go() {
    in_child!("keys_come_and_go", softhsm_environment, |_| {
        let module = softhsm_with_keys();
        let mut caller = Caller::start(config(vec![first(module.clone())], &LABELS));
        let pkcs11 = initialize(&module);
        let session = login(&pkcs11, slot_of(&pkcs11, "first"));
        // A session key with that label does not count.
        add_key(&session, "absent", &VALUE, ENCRYPT | DECRYPT, false);
        assert_eq!(caller.encrypt(ABSENT, b"x"), Err(Failure::KeyNotFound));
        add_key(&session, "absent", &VALUE, ENCRYPT | DECRYPT, true);
        eventually("the new key is found", || caller.encrypt(ABSENT, b"x").is_ok());

        let old = session.find_objects(&[Attribute::Label("both".into())]).unwrap();
        session.destroy_object(old[0]).unwrap();
        add_key(&session, "both", &VALUE, ENCRYPT | DECRYPT, true);
        let (iv, sealed) = caller.encrypt(BOTH, b"x").unwrap();
        assert_eq!(unseal(iv.as_slice(), &sealed), b"x");
        session.destroy_object(old[0]).unwrap_err();
    });
}

/// As in the reference proxy, if the settings allow it.
#[test]
fn ambiguous_labels_can_be_allowed() {
    in_child!("ambiguous_labels_can_be_allowed", softhsm_environment, |_| {
        let token = first(softhsm_with_keys());
        let config = Config { allow_ambiguous_labels: true, ..config(vec![token], &LABELS) };
        let mut caller = Caller::start(config);
        let (iv, sealed) = caller.encrypt(TWICE, b"x").unwrap();
        assert_eq!(caller.decrypt(TWICE, iv.as_slice(), &sealed).unwrap(), b"x");
    });
}

/// A wrong PIN: the process stays up, the token is UNAVAILABLE and says why, and no later request
/// causes another attempt with the PIN.
#[test]
fn a_wrong_pin_is_tried_once() {
    in_child!("a_wrong_pin_is_tried_once", softhsm_environment, |_| {
        let module = softhsm_with_keys();
        let wrong = token(module, TokenSelector::First, "4321", 4);
        let mut caller = Caller::start(config(vec![wrong], &LABELS));
        assert_eq!(caller.encrypt(BOTH, b"x"), Err(Failure::NoToken));
        let health = caller.hsm.health();
        assert_eq!(health.tokens[0].status, HealthStatus::Unavailable);
        assert_eq!(health.tokens[0].label, "first");
        assert!(!health.can_serve());
        let trouble = stats(&caller).trouble.unwrap();
        assert!(trouble.contains("CKR_PIN_INCORRECT"), "{trouble}");
        let inventory = caller.hsm.inventory().remove(0);
        assert!(inventory.trouble.unwrap().contains("not tried again"));
    });
}

/// A missing file or one that is no PKCS#11 module prevents the start, with a message that names
/// it.
#[test]
fn what_is_no_module_is_a_start_error() {
    for path in ["/nonexistent/module.so", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/passwd"] {
        let error = Hsm::start(config(vec![first(PathBuf::from(path))], &LABELS), Vec::new());
        let message = error.err().expect("it must not start").message;
        assert!(message.starts_with(&format!("{path:?}")), "{message}");
    }
}

/// With a module that has no token, the fleet starts and uses a token once there is one.
#[test]
fn a_token_that_comes_later_is_used() {
    in_child!("a_token_that_comes_later_is_used", softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let mut caller = Caller::start(config(vec![first(module.clone())], &LABELS));
        assert_eq!(caller.encrypt(BOTH, b"x"), Err(Failure::NoToken));
        let trouble = stats(&caller).trouble.unwrap();
        assert!(trouble.contains("no initialised token"), "{trouble}");
        let pkcs11 = initialize(&module);
        let slot = make_token(&pkcs11, "late");
        add_keys(&login(&pkcs11, slot));
        eventually("the token is used", || caller.encrypt(BOTH, b"x").is_ok());
    });
}

/// Two tokens of one module: a job goes to the token that has its key, whichever is listed first.
#[test]
fn jobs_go_to_the_token_that_has_the_key() {
    in_child!("jobs_go_to_the_token_that_has_the_key", softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        for label in ["one", "two"] {
            let slot = make_token(&pkcs11, label);
            let session = login(&pkcs11, slot);
            add_key(&session, &format!("of-{label}"), &VALUE, ENCRYPT | DECRYPT, true);
            add_key(&session, "both", &VALUE, ENCRYPT | DECRYPT, true);
        }
        pkcs11.finalize().unwrap();
        let tokens = ["one", "two"]
            .map(|label| token(module.clone(), TokenSelector::Label(label.to_owned()), PIN, 2));
        let labels = ["of-one", "of-two", "both", "absent"];
        let mut caller = Caller::start(config(tokens.to_vec(), &labels));
        for _ in 0..50 {
            for key in 0..3 {
                let (iv, sealed) = caller.encrypt(key, b"x").unwrap();
                assert_eq!(caller.decrypt(key, iv.as_slice(), &sealed).unwrap(), b"x");
            }
            assert_eq!(caller.encrypt(3, b"x"), Err(Failure::KeyNotFound));
        }
        let answered: Vec<_> = caller.hsm.stats().iter().map(|s| s.answered_total).collect();
        assert!(answered.iter().all(|answered| *answered >= 100), "{answered:?}");
    });
}

/// A token's only key is deleted while another token of the module works: the module is not
/// initialised again, a new session suffices to find out, and the other token serves throughout.
#[test]
fn the_only_key_is_deleted_beside_a_token_that_works() {
    let test = "the_only_key_is_deleted_beside_a_token_that_works";
    in_child!(test, softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        for label in ["one", "two"] {
            let session = login(&pkcs11, make_token(&pkcs11, label));
            add_key(&session, &format!("of-{label}"), &VALUE, ENCRYPT | DECRYPT, true);
        }
        pkcs11.finalize().unwrap();
        let tokens = ["one", "two"]
            .map(|label| token(module.clone(), TokenSelector::Label(label.to_owned()), PIN, 2));
        let mut caller = Caller::start(config(tokens.to_vec(), &["of-one", "of-two"]));
        caller.encrypt(0, b"x").unwrap();
        let pkcs11 = initialize(&module);
        let session = login(&pkcs11, slot_of(&pkcs11, "one"));
        let key = session.find_objects(&[Attribute::Label("of-one".into())]).unwrap();
        session.destroy_object(key[0]).unwrap();
        assert_eq!(caller.encrypt(0, b"x"), Err(Failure::NoToken), "it may be the token's trouble");
        eventually("the key is known as deleted", || {
            caller.encrypt(1, b"x").unwrap();
            match caller.encrypt(0, b"x") {
                Err(Failure::KeyNotFound) => true,
                Err(Failure::NoToken) => false,
                other => panic!("{other:?}"),
            }
        });
        eventually("both tokens are in use", || caller.hsm.stats().iter().all(|it| it.is_usable));
        assert_eq!(caller.encrypt(0, b"x"), Err(Failure::KeyNotFound));
        assert!(caller.hsm.stats().iter().all(|token| token.reinitialized_total == 0));
        add_key(&session, "of-one", &VALUE, ENCRYPT | DECRYPT, true);
        eventually("a new key is found", || caller.encrypt(0, b"x").is_ok());
    });
}

/// SoftHSM2 does not fill in a zeroed IV: with the profile of an HSM that does, each message would
/// get the same IV. Such a ciphertext must not be returned.
#[test]
fn an_iv_that_no_hsm_made_is_refused() {
    in_child!("an_iv_that_no_hsm_made_is_refused", softhsm_environment, |_| {
        let module = softhsm_with_keys();
        let token = TokenConfig { iv_mode: IvMode::ZeroedBuffer, ..first(module) };
        let mut caller = Caller::start(config(vec![token], &LABELS));
        assert_eq!(caller.encrypt(BOTH, b"x"), Err(Failure::Malformed));
        let sealed = seal(&[9; 12], b"x");
        assert_eq!(caller.decrypt(BOTH, &[9; 12], &sealed).unwrap(), b"x");
    });
}

/// A second start in one process after the first has stopped: the module is finalised in between.
#[test]
fn starts_again_after_a_stop() {
    in_child!("starts_again_after_a_stop", softhsm_environment, |_| {
        let module = softhsm_with_keys();
        for _ in 0..3 {
            let mut caller = Caller::start(config(vec![first(module.clone())], &LABELS));
            assert!(caller.encrypt(BOTH, b"x").is_ok());
            assert!(caller.hsm.stop(Duration::from_secs(10)));
        }
        let pkcs11 = cryptoki::context::Pkcs11::new(Path::new(&module)).unwrap();
        assert!(pkcs11.get_slots_with_token().is_err(), "it is finalised");
    });
}

/// A public object with a key's label, which anybody may have created, is not used instead of the
/// key. On its own it is used, unless the settings require private keys.
#[test]
fn private_keys_come_first() {
    in_child!("private_keys_come_first", softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        let slot = make_token(&pkcs11, "first");
        let session = login(&pkcs11, slot);
        let public = |label: &str| {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Label(label.into()),
                Attribute::Value(vec![1; 32]),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
            ];
            session.create_object(&template).unwrap();
        };
        public("both");
        add_key(&session, "both", &VALUE, ENCRYPT | DECRYPT, true);
        public("both");
        public("encrypt-only");
        drop(session);
        pkcs11.finalize().unwrap();
        for require_private_keys in [false, true] {
            let config = config(vec![first(module.clone())], &LABELS);
            let mut caller = Caller::start(Config { require_private_keys, ..config });
            let (iv, sealed) = caller.encrypt(BOTH, b"x").unwrap();
            assert_eq!(unseal(iv.as_slice(), &sealed), b"x");
            let public_alone = caller.encrypt(ENCRYPT_ONLY, b"x");
            let refused = public_alone == Err(Failure::KeyNotFound);
            assert_eq!(refused, require_private_keys, "{public_alone:?}");
            assert_eq!(caller.hsm.inventory()[0].ambiguous, []);
            assert!(caller.hsm.stop(Duration::from_secs(10)));
        }
    });
}

/// opencryptoki's daemon, without which its module does nothing. A running daemon is reused.
struct SlotDaemon {
    started: Option<std::process::Child>,
    /// Held while a test uses the daemon, so that no other test ends it.
    _lock: std::fs::File,
}

impl SlotDaemon {
    fn start() -> Self {
        let is_up = || {
            std::process::Command::new("pkcsconf")
                .arg("-t")
                .output()
                .expect("opencryptoki is not installed: apt-get install opencryptoki")
                .status
                .success()
        };
        let lock = std::env::temp_dir().join("xks-proxy-tests-opencryptoki.lock");
        let lock = std::fs::File::create(lock).unwrap();
        lock.lock().unwrap();
        if is_up() {
            return Self { started: None, _lock: lock };
        }
        // /run is empty after each boot, and in containers.
        std::fs::create_dir_all("/run/lock/opencryptoki").unwrap();
        let daemon = std::process::Command::new("pkcsslotd").arg("-f").spawn().unwrap();
        eventually("opencryptoki's daemon is up", is_up);
        Self { started: Some(daemon), _lock: lock }
    }
}

impl Drop for SlotDaemon {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.started {
            // If killed with SIGKILL, it would leave its shared memory behind.
            let pid = daemon.id().to_string();
            let _ = std::process::Command::new("kill").args(["-TERM", &pid]).status();
            let _ = daemon.wait();
        }
    }
}

fn opencryptoki(label: &str) -> TokenConfig {
    let module = [
        "/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11/libopencryptoki.so",
        "/usr/lib64/pkcs11/libopencryptoki.so",
    ];
    let module = module.iter().map(PathBuf::from).find(|path| path.exists()).unwrap();
    token(module, TokenSelector::Label(label.to_owned()), PIN, 1)
}

/// opencryptoki's software token reports a clock whose time is not in PKCS#11's format, and is
/// detected nevertheless.
#[test]
fn opencryptoki_is_seen() {
    in_child!("opencryptoki_is_seen", |_| Vec::new(), |_| {
        let _daemon = SlotDaemon::start();
        let hsm = Hsm::start(config(vec![opencryptoki("none of that name")], &LABELS), Vec::new());
        let told = hsm.unwrap().stats().remove(0).trouble.unwrap();
        // An administrator created it, with another label.
        assert!(told.contains("serial \"123\""), "{told}");
    },);
}

/// Up to at least version 3.8.1, opencryptoki's software token has no AES-GCM: the proxy does not
/// start with it, and `probe-hsm` finds no profile but says why. (The token is made in a directory
/// that a mount namespace puts in place of the system's.)
#[test]
fn opencryptoki_cannot_serve() {
    const NAMESPACE: &str = "XKS_PROXY_TEST_NAMESPACE";
    let test = "opencryptoki_cannot_serve";
    let body = |_: &Path| {
        let _daemon = SlotDaemon::start();
        let made = std::process::Command::new("sh")
            .args(["-c", "printf 'soft\\n' | pkcsconf -c 3 -I -S 87654321"])
            .status();
        assert!(made.unwrap().success(), "the token is not made");
        let why = "the token \"soft\" (IBM Corp. IBM SoftTok) has no AES-GCM (CKM_AES_GCM)";
        let refused = Hsm::start(config(vec![opencryptoki("soft")], &LABELS), Vec::new());
        let refused = refused.err().expect("it must not start").message;
        assert!(refused.contains(why), "{refused}");
        let bounds = discovery::Bounds { max_sessions: 1, time: Duration::from_millis(10) };
        let refused = discovery::run(&opencryptoki("soft"), &[], bounds).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    };
    if std::env::var_os(NAMESPACE).is_some() {
        return in_child!(test, |_| Vec::new(), body);
    }
    let directory = tempfile::tempdir().unwrap();
    let may_mount = std::process::Command::new("unshare").args(["--mount", "true"]).status();
    let mut command = if may_mount.is_ok_and(|status| status.success()) {
        let script = "cp -a /var/lib/opencryptoki \"$0\" && \
                      mount --bind \"$0/opencryptoki\" /var/lib/opencryptoki && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command
    } else {
        // In a container without CAP_SYS_ADMIN, the tokens are saved and restored instead.
        let script = "cp -a /var/lib/opencryptoki \"$0\" && { \"$@\"; code=$?; \
                      rm -rf /var/lib/opencryptoki && cp -a \"$0/opencryptoki\" /var/lib/; \
                      exit $code; }";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let status = command
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &path_of(module_path!(), test), "--nocapture", "--test-threads=1"])
        .env(NAMESPACE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed");
}
