//! The interposer, its files, two tokens behind it, and a few calls on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use serde::Deserialize;

pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "1234";
/// Longer than even a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
pub struct Counts {
    pub name: String,
    pub seed: u64,
    pub settings_read: u64,
    pub settings_error: String,
    pub hung: usize,
    pub calls: BTreeMap<String, u64>,
    #[serde(default)]
    pub fault: Vec<FaultCounts>,
}

#[derive(Debug, Deserialize, PartialEq)]
pub struct FaultCounts {
    pub fitted: u64,
    pub acted: u64,
}

impl Counts {
    pub fn of(&self, function: &str) -> u64 {
        self.calls.get(function).copied().unwrap_or(0)
    }
}

/// One instance of the interposer, its files, and two tokens behind it.
pub struct Bench {
    pub directory: PathBuf,
    pub pkcs11: Pkcs11,
    pub slots: [Slot; 2],
}

/// The built library, which `cargo test` puts next to the tests.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libxks_interposer.so")
}

/// Writes a SoftHSM2 configuration and makes two tokens, "a" and "b", for the process's lifetime.
pub fn make_tokens(directory: &Path) -> PathBuf {
    assert!(
        Path::new(SOFTHSM).exists(),
        "{SOFTHSM} is missing: install SoftHSM2 (apt-get install softhsm2)"
    );
    let tokens = directory.join("tokens");
    fs::create_dir_all(&tokens).unwrap();
    let configuration = directory.join("softhsm2.conf");
    fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    for label in ["a", "b"] {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", PIN])
            .env("SOFTHSM2_CONF", &configuration)
            .output()
            .expect("softhsm2-util is missing: install SoftHSM2 (apt-get install softhsm2)");
        assert!(made.status.success(), "{made:?}");
    }
    configuration
}

#[expect(unsafe_code, reason = "set_var")]
pub fn set(name: &str, value: &Path) {
    // SAFETY: the tests take turns, and while the first of them sets the environment up, nothing
    // else in this process reads it.
    unsafe { std::env::set_var(name, value) };
}

pub fn initialized(module: &Path) -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    pkcs11
}

/// The bench, with no settings in force; held by one test at a time.
pub fn bench() -> MutexGuard<'static, Bench> {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    let bench = BENCH.get_or_init(|| {
        // A static is never dropped: the next run cleans up.
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interposer");
        let _ = fs::remove_dir_all(&directory);
        set("SOFTHSM2_CONF", &make_tokens(&directory));
        set("XKS_INTERPOSER_MODULE", Path::new(SOFTHSM));
        set("XKS_INTERPOSER_CONFIG", &directory.join("settings"));
        set("XKS_INTERPOSER_COUNTS", &directory.join("counts"));
        fs::write(directory.join("settings"), "").unwrap();
        let pkcs11 = initialized(&library());
        let slots = ["a", "b"].map(|label| {
            let labelled =
                |slot: &Slot| pkcs11.get_token_info(*slot).unwrap().label().trim_end() == label;
            pkcs11.get_slots_with_initialized_token().unwrap().into_iter().find(labelled).unwrap()
        });
        Mutex::new(Bench { directory, pkcs11, slots })
    });
    let bench = bench.lock().unwrap_or_else(PoisonError::into_inner);
    bench.apply("");
    bench
}

impl Bench {
    /// Puts settings in force and waits until they are.
    pub fn apply(&self, settings: &str) {
        let next = counts(&self.directory.join("counts")).settings_read + 1;
        let name = format!("settings {next}");
        let text = format!("name = \"{name}\"\n{settings}\n");
        let new = self.directory.join("settings.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.directory.join("settings")).unwrap();
        self.wait_for(|counts| {
            assert_eq!(counts.settings_error, "");
            counts.name == name
        });
    }

    pub fn wait_for(&self, is_so: impl Fn(&Counts) -> bool) -> Counts {
        let start = Instant::now();
        loop {
            let counts = counts(&self.directory.join("counts"));
            if is_so(&counts) {
                return counts;
            }
            assert!(start.elapsed() < PATIENCE, "{counts:?}");
        }
    }

    pub fn session(&self, token: usize) -> Session {
        self.pkcs11.open_rw_session(self.slots[token]).unwrap()
    }

    pub fn slot_id(&self, token: usize) -> u64 {
        self.slots[token].id()
    }
}

/// Requests the current counts.
pub fn counts(path: &Path) -> Counts {
    let mut request = path.as_os_str().to_owned();
    request.push(".request");
    fs::write(&request, "").unwrap();
    let start = Instant::now();
    while Path::new(&request).exists() {
        assert!(start.elapsed() < PATIENCE, "no counts are written");
        thread::sleep(Duration::from_millis(1));
    }
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Makes one C_GenerateRandom call.
pub fn random(session: &Session) -> Result<(), RvError> {
    match session.generate_random_slice(&mut [0; 16]) {
        Ok(()) => Ok(()),
        Err(Error::Pkcs11(code, _)) => Err(code),
        Err(error) => unreachable!("{error}"),
    }
}

pub fn randoms(session: &Session, calls: usize) -> Vec<bool> {
    (0..calls).map(|_| random(session).is_ok()).collect()
}

pub fn log_in(session: &Session) {
    match session.login(UserType::User, Some(&AuthPin::new(PIN.into()))) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
        Err(error) => unreachable!("{error}"),
    }
}

pub fn make_key(session: &Session) -> ObjectHandle {
    let template = [Attribute::Token(false), Attribute::ValueLen(32.into())];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap()
}

pub fn encrypt(session: &Session, key: ObjectHandle) -> Vec<u8> {
    let mut iv = [7; 12];
    let params = GcmParams::new(&mut iv, b"aad", 128.into()).unwrap();
    session.encrypt(&Mechanism::AesGcm(params), key, b"plaintext").unwrap()
}

/// Encrypts with AES-GCM and these bytes as the application's IV, which the module may change.
pub fn encrypt_with(
    session: &Session,
    key: ObjectHandle,
    iv: &mut [u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, RvError> {
    let params = GcmParams::new(iv, b"aad", 128.into()).unwrap();
    code_of(session.encrypt(&Mechanism::AesGcm(params), key, plaintext))
}

pub fn decrypt_with(
    session: &Session,
    key: ObjectHandle,
    iv: &[u8],
    ciphertext: &[u8],
) -> Result<Vec<u8>, RvError> {
    let mut iv = iv.to_vec();
    let params = GcmParams::new(&mut iv, b"aad", 128.into()).unwrap();
    code_of(session.decrypt(&Mechanism::AesGcm(params), key, ciphertext))
}

pub fn code_of<T>(result: Result<T, Error>) -> Result<T, RvError> {
    result.map_err(|error| match error {
        Error::Pkcs11(code, _) => code,
        error => unreachable!("{error}"),
    })
}
