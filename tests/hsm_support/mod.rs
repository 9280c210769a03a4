//! Tokens of real PKCS#11 modules with known keys, and a caller that waits for each answer.
//!
//! Modules read their configuration from the environment, once a process. So each test runs in a
//! process of its own: the test binary started again, for that test alone.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod bench;
pub mod fake;
#[path = "../common/tools.rs"]
pub mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use sha2::Sha256;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::config::{Config, Hedging, IvMode, Rules, TokenConfig, TokenSelector};
use xks_proxy::job::{
    Completion, CompletionQueue, Failure, HsmAad, Iv, Job, KeyIndex, Operation, ReplyTo, Request,
    Success,
};
use xks_proxy::observe::redaction::Secret;
use zeroize::Zeroizing;

/// The user PIN of all test tokens.
pub const PIN: &str = "1234";
const SO_PIN: &str = "12345678";
const CHILD: &str = "XKS_PROXY_TEST_CHILD";

/// Runs `body` in a process of its own, with these environment variables and an empty directory.
pub fn in_child(
    test: &str,
    environment: impl FnOnce(&Path) -> Vec<(&'static str, PathBuf)>,
    body: impl FnOnce(&Path),
) {
    if let Some(directory) = std::env::var_os(CHILD) {
        return body(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, directory.path())
        .envs(environment(directory.path()))
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its process");
}

/// Writes kryoptic's configuration for a token of its own.
pub fn kryoptic_environment(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    let file = directory.join("kryoptic.conf");
    let database = directory.join("token.sql");
    let text =
        format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", database.display());
    std::fs::write(&file, text).unwrap();
    vec![("KRYOPTIC_CONF", file)]
}

/// Writes SoftHSM2's configuration for a token directory of its own.
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

/// A file that changes while the module reads it is not seen half.
pub fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// The same module, for the tests' own calls.
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

/// A logged-in session for the tests' own calls.
pub fn login(pkcs11: &Pkcs11, slot: Slot) -> Session {
    let session = pkcs11.open_rw_session(slot).unwrap();
    // The proxy may have logged in already.
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    session
}

/// Uses that a key may be put to.
pub const ENCRYPT: u8 = 1;
/// Uses that a key may be put to.
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

/// A fleet with these labels.
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
    }
}

/// A caller of the HSM side that waits for its answers, as one event loop would.
pub struct Caller {
    /// Who is called.
    pub hsm: Arc<Hsm>,
    inbox: Arc<CompletionQueue>,
    woken: Receiver<()>,
    serial: u64,
}

impl Caller {
    /// Starts the fleet.
    pub fn start(config: Config) -> Self {
        Self::with(|inboxes| Hsm::start(config, inboxes).unwrap())
    }

    /// Starts what `start` starts.
    pub fn with(start: impl FnOnce(Vec<Arc<CompletionQueue>>) -> Arc<Hsm>) -> Self {
        Self::try_with(|inboxes| Some(start(inboxes))).unwrap()
    }

    /// Starts what `start` starts, if it does.
    pub fn try_with(
        start: impl FnOnce(Vec<Arc<CompletionQueue>>) -> Option<Arc<Hsm>>,
    ) -> Option<Self> {
        let (sender, woken) = channel();
        let sender = std::sync::Mutex::new(sender);
        let inbox = Arc::new(CompletionQueue::new(move || {
            let _ = sender.lock().unwrap().send(());
        }));
        let hsm = start(vec![Arc::clone(&inbox)])?;
        Some(Self { hsm, inbox, woken, serial: 0 })
    }

    /// A job of this caller with a deadline of that many milliseconds.
    pub fn job(&mut self, request: Request, deadline_milli: u64) -> Job {
        self.serial += 1;
        let now = Instant::now();
        Job {
            output: Zeroizing::new(Vec::with_capacity(request.max_output_bytes())),
            request: Arc::new(request),
            reply_to: ReplyTo { event_loop: 0, slot: 0, serial: self.serial },
            queued_at: now,
            deadline: now + Duration::from_millis(deadline_milli),
        }
    }

    /// Waits for answers until there are that many, or for ten seconds.
    pub fn wait(&self, count: usize) -> Vec<Completion> {
        self.wait_for(count, Duration::from_secs(10))
    }

    /// Waits for answers until there are that many, or for that long.
    pub fn wait_for(&self, count: usize, time: Duration) -> Vec<Completion> {
        let end = Instant::now() + time;
        let mut all = Vec::new();
        while all.len() < count && Instant::now() < end {
            let _ = self.woken.recv_timeout(time.min(Duration::from_millis(100)));
            let mut some = Vec::new();
            self.inbox.take(&mut some);
            all.append(&mut some);
        }
        all
    }

    /// Asks and waits.
    pub fn ask(&mut self, request: Request) -> Result<(Success, Vec<u8>), Failure> {
        let mut jobs = vec![self.job(request, 5_000)];
        let mut refused = Vec::new();
        self.hsm.submit(&mut jobs, &mut refused);
        if let Some((_, failure)) = refused.pop() {
            return Err(failure);
        }
        let completion = self.wait(1).pop().expect("no answer");
        assert_eq!(completion.reply_to.serial, self.serial);
        let output = completion.output.to_vec();
        if completion.outcome.is_err() {
            assert!(output.is_empty(), "a failure has no output");
        }
        completion.outcome.map(|success| (success, output))
    }

    /// Asks and waits, while answers to other jobs may come too.
    pub fn ask_any(&mut self, request: Request) -> Result<(Success, Vec<u8>), Failure> {
        let mut jobs = vec![self.job(request, 5_000)];
        self.hsm.submit(&mut jobs, &mut Vec::new());
        loop {
            let answers = self.wait(1);
            assert!(!answers.is_empty(), "no answer");
            let is_it = |answer: &Completion| answer.reply_to.serial == self.serial;
            if let Some(it) = answers.into_iter().find(is_it) {
                return it.outcome.map(|success| (success, it.output.to_vec()));
            }
        }
    }

    /// Asks for the attributes.
    pub fn describe(&mut self, key: u32) -> Result<Success, Failure> {
        self.ask(request(key, Operation::Describe, &[])).map(|(success, _)| success)
    }

    /// Encrypts; IV and ciphertext with tag.
    pub fn encrypt(&mut self, key: u32, plaintext: &[u8]) -> Result<(Iv, Vec<u8>), Failure> {
        let operation = Operation::Encrypt { cdiv: None };
        let (success, mut output) = self.ask(request(key, operation, plaintext))?;
        let Success::Encrypted { iv, tag, cdiv: None } = success else { panic!("{success:?}") };
        assert_eq!(output.len(), plaintext.len());
        output.extend_from_slice(&tag);
        Ok((iv, output))
    }

    /// Encrypts with a CDIV over that prefix; IV, ciphertext with tag, CDIV.
    pub fn encrypt_with_cdiv(
        &mut self,
        key: u32,
        prefix: Sha256,
        plaintext: &[u8],
    ) -> Result<(Iv, Vec<u8>, [u8; 32]), Failure> {
        let operation = Operation::Encrypt { cdiv: Some(prefix) };
        let (success, mut output) = self.ask(request(key, operation, plaintext))?;
        let Success::Encrypted { iv, tag, cdiv: Some(cdiv) } = success else {
            panic!("{success:?}")
        };
        output.extend_from_slice(&tag);
        Ok((iv, output, cdiv))
    }

    /// Decrypts ciphertext with tag.
    pub fn decrypt(&mut self, key: u32, iv: &[u8], input: &[u8]) -> Result<Vec<u8>, Failure> {
        let operation = Operation::Decrypt { iv: Iv::from_slice(iv).unwrap() };
        let (success, output) = self.ask(request(key, operation, input))?;
        assert_eq!(success, Success::Decrypted);
        Ok(output)
    }
}

/// The AAD of all test requests.
pub fn aad() -> HsmAad {
    HsmAad::new(Some((3, &[0xaa; 32])), b"metadata")
}

/// A request with [`aad`].
pub fn request(key: u32, operation: Operation, input: &[u8]) -> Request {
    Request { operation, key: KeyIndex(key), aad: aad(), input: input.to_vec() }
}

/// Whether a ciphertext that was made with [`aad`] is one of a key of that value.
pub fn opens_with(value: &[u8; 32], (iv, sealed): &(Iv, Vec<u8>)) -> bool {
    use aes_gcm::aead::{Aead as _, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
    let nonce = Nonce::try_from(iv.as_slice()).unwrap();
    let aad = aad();
    let payload = Payload { msg: sealed, aad: aad.as_slice() };
    Aes256Gcm::new_from_slice(value).unwrap().decrypt(&nonce, payload).is_ok()
}

/// Waits, with patience for slow machines, until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
