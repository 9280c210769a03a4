//! Tokens of real PKCS#11 modules, with known keys.
//!
//! Modules read their configuration from the environment once per process, so each test runs in a
//! separate process: the test binary started again, for that test alone.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use xks_proxy::hsm::config::{Config, Hedging, IvMode, Rules, TokenConfig, TokenSelector};
use xks_proxy::observe::redaction::Secret;

/// The user PIN of all test tokens.
pub const PIN: &str = "1234";
const SO_PIN: &str = "12345678";
const CHILD: &str = "XKS_PROXY_TEST_CHILD";
/// A file left by a child process whose test has run to the end.
const DONE: &str = "done";

/// Runs a body in a separate process, with these environment variables and an empty directory:
/// `in_child!(test's name, environment, body)`, in the module of the test.
macro_rules! in_child {
    ($test:expr, $environment:expr, $body:expr $(,)?) => {
        $crate::tokens::run_in_child(module_path!(), $test, $environment, $body)
    };
}
pub(crate) use in_child;

/// The test binary's name for a test in `module`, which begins with the name of that binary.
pub fn path_of(module: &str, test: &str) -> String {
    match module.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    }
}

/// See [`in_child`].
pub fn run_in_child(
    module: &str,
    test: &str,
    environment: impl FnOnce(&Path) -> Vec<(&'static str, PathBuf)>,
    body: impl FnOnce(&Path),
) {
    if let Some(directory) = std::env::var_os(CHILD) {
        let directory = Path::new(&directory);
        body(directory);
        std::fs::write(directory.join(DONE), "").unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = path_of(module, test);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &path, "--nocapture", "--test-threads=1"])
        .env(CHILD, directory.path())
        .envs(environment(directory.path()))
        .status()
        .unwrap();
    assert!(status.success(), "{path} failed in its process");
    assert!(directory.path().join(DONE).exists(), "{path} is no test of this program");
}

/// Writes a kryoptic configuration with a separate token.
pub fn kryoptic_environment(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let file = directory.join("kryoptic.conf");
    let database = directory.join("token.sql");
    let text =
        format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", database.display());
    std::fs::write(&file, text).unwrap();
    vec![("KRYOPTIC_CONF", file)]
}

/// Writes a SoftHSM2 configuration with a separate token directory.
pub fn softhsm_environment(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let tokens = directory.join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let file = directory.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&file, text).unwrap();
    vec![("SOFTHSM2_CONF", file)]
}

/// Replaces a file atomically, so that a module never reads it half written.
pub fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// Loads the same module for the tests' own calls.
pub fn initialize(module: &Path) -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module).unwrap();
    // The proxy may have initialised it already.
    let _ = pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    pkcs11
}

/// Makes a token in a free slot, with the user PIN [`PIN`].
pub fn make_token(pkcs11: &Pkcs11, label: &str) -> Slot {
    let is_free = |slot: &Slot| !pkcs11.get_token_info(*slot).unwrap().token_initialized();
    let slot = pkcs11.get_slots_with_token().unwrap().into_iter().find(is_free).unwrap();
    pkcs11.init_token(slot, &AuthPin::new(SO_PIN.into()), label).unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&AuthPin::new(SO_PIN.into()))).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    slot
}

/// The slot of the token with that label.
pub fn slot_of(pkcs11: &Pkcs11, label: &str) -> Slot {
    let is_it = |slot: &Slot| pkcs11.get_token_info(*slot).unwrap().label() == label;
    pkcs11.get_slots_with_token().unwrap().into_iter().find(is_it).unwrap()
}

/// Opens a logged-in session for the tests' own calls.
pub fn login(pkcs11: &Pkcs11, slot: Slot) -> Session {
    let session = pkcs11.open_rw_session(slot).unwrap();
    // The proxy may have logged in already.
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    session
}

/// Permission to encrypt with a key.
pub const ENCRYPT: u8 = 1;
/// Permission to decrypt with a key.
pub const DECRYPT: u8 = 2;

/// Imports an AES key.
pub fn add_key(session: &Session, label: &str, value: &[u8], uses: u8, is_token: bool) {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(is_token),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Label(label.into()),
        Attribute::Value(value.to_vec()),
        Attribute::Encrypt(uses & ENCRYPT != 0),
        Attribute::Decrypt(uses & DECRYPT != 0),
    ];
    session.create_object(&template).unwrap();
}

/// One token of the fleet.
pub fn token(module: PathBuf, select: TokenSelector, pin: &str, sessions: usize) -> TokenConfig {
    TokenConfig {
        module,
        select,
        user_pin: Secret::new(pin.to_owned()),
        max_sessions: sessions,
        weight: 1,
        priority: 0,
        iv_mode: IvMode::Random,
        rules: Rules::default(),
        initialize_parameters: None,
    }
}

/// A fleet with these tokens and key labels.
pub fn config(tokens: Vec<TokenConfig>, labels: &[&str]) -> Config {
    Config {
        tokens,
        labels: labels.iter().map(|label| Box::from(*label)).collect(),
        allow_ambiguous_labels: false,
        require_private_keys: false,
        health_key: None,
        storeless_keys: Vec::new(),
        hedging: Hedging::default(),
        witnesses: Arc::default(),
        usage: Arc::default(),
    }
}
