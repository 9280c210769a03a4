//! Discovery of a token's capabilities by experiment: how it makes IVs, its codes for a bad tag,
//! its largest operation, its number of sessions and its throughput.
//!
//! It opens many sessions and takes seconds, so it is run only by an operator (`xks-proxy
//! probe-hsm`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_RV, CKF_MESSAGE_ENCRYPT, CKM_AES_GCM};

use super::calls::Calls;
use super::codes::{self, Class};
use super::gcm::iv_parameter;
use super::labels::Labels;
use super::native::{Error, LoadError, RawError};
use super::profiles::{PROFILES, Profile};
use super::session::Pkcs11Session;
use super::shared::Shared;
use super::slots::version;
use super::token::Pkcs11Token;
use super::trouble::Trouble;
use crate::hsm::backend::{Fault, OpenError};
use crate::hsm::config::{GcmForm, IvMode, TokenConfig};
use crate::hsm::usage::Usage;
use crate::hsm::witness::Member;
use crate::job::{Failure, Iv, KeyIndex, TokenIndex};
use crate::limits::GCM_TAG_BYTES;

/// Size of a plaintext whose size does not matter.
const PLAINTEXT_BYTES: usize = 128;
/// Size of the largest operation that is tried: many times the 4 KiB that KMS sends at most.
const MAX_OPERATION_BYTES: usize = 256 * 1024;
/// Number of times that each kind of tampering is tried, since codes may vary.
const TAMPERINGS: usize = 8;
/// Number of encryptions that are timed.
const TIMED_ENCRYPTIONS: usize = 101;
/// Number of keys whose handles are compared in two sessions.
const KEYS_COMPARED: usize = 16;
const IV_MODES: [IvMode; 3] = [IvMode::ZeroedBuffer, IvMode::Appended, IvMode::Random];

/// Forms of calls to try, the usual one first.
const FORMS: [GcmForm; 4] = [
    GcmForm { asks_length: false, has_no_iv_bits: false },
    GcmForm { asks_length: true, has_no_iv_bits: false },
    GcmForm { asks_length: false, has_no_iv_bits: true },
    GcmForm { asks_length: true, has_no_iv_bits: true },
];

/// The bounds of a discovery.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Maximum number of sessions to open; at least one.
    pub max_sessions: usize,
    /// Time for which the throughput of each number of sessions is measured.
    pub time: Duration,
}

/// Reason why a token's capabilities, or one of them, could not be determined.
#[derive(Clone, Debug)]
pub enum DiscoveryError {
    /// The module cannot be loaded.
    Load(LoadError),
    /// No session can be opened.
    Open(OpenError),
    /// An operation failed.
    Failed(Failure),
    /// Another call failed.
    Call(Error),
    /// There is no key to use.
    NoKey,
    /// A ciphertext does not decrypt to its plaintext.
    OtherPlaintext,
    /// A ciphertext does not decrypt.
    Decryption(RawError),
    /// A thread has panicked.
    Panic,
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(formatter),
            Self::Open(error) => formatter.write_str(error.reason()),
            Self::Failed(failure) => failure.fmt(formatter),
            Self::Call(error) => formatter.write_str(&codes::describe_error(error)),
            Self::NoKey => formatter.write_str(
                "the token makes no session keys, and the stores have no key there that may \
                 encrypt and decrypt",
            ),
            Self::OtherPlaintext => formatter.write_str("it decrypts to something else"),
            Self::Decryption(error) => write!(formatter, "decryption: {}", raw(*error)),
            Self::Panic => formatter.write_str("a panic"),
        }
    }
}

impl From<LoadError> for DiscoveryError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<OpenError> for DiscoveryError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<Fault> for DiscoveryError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.failure)
    }
}

/// The capabilities that were found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The token's identity: label, serial number, manufacturer, model, versions.
    pub token: String,
    /// Each way of making IVs, with the IV's length or the reason why it does not work.
    pub iv_modes: Vec<(IvMode, Result<usize, DiscoveryError>)>,
    /// The way of making IVs to use; `None` if none works.
    pub iv_mode: Option<IvMode>,
    /// The form of calls that works with `iv_mode`.
    pub form: GcmForm,
    /// The PKCS#11 version of the function list, and the interfaces of v3.0 and later.
    pub interfaces: Vec<String>,
    /// True if CKM_AES_GCM has CKF_MESSAGE_ENCRYPT; `None` if the token does not report it.
    pub has_messages: Option<bool>,
    /// True if the token makes session keys.
    pub makes_session_keys: bool,
    /// True if two sessions have different handles of a key; `None` if the token has no key that the
    /// settings name.
    pub has_handles_of_sessions: Option<bool>,
    /// Median durations of C_EncryptInit and C_Encrypt.
    pub encryption: Option<(Duration, Duration)>,
    /// Codes of failed decryptions of tampered ciphertexts.
    pub bad_tag_codes: Vec<CK_RV>,
    /// Kinds of tampered ciphertexts that were decrypted nevertheless, or failed before C_Decrypt.
    pub bad_tag_oddities: Vec<String>,
    /// Largest plaintext that worked, in bytes.
    pub max_operation_bytes: usize,
    /// Reason why a larger plaintext did not work; `None` if none was refused.
    pub too_large: Option<String>,
    /// Number of sessions that could be open at once, and the reason why no more could be.
    pub sessions: (usize, Option<String>),
    /// Operations per second by number of sessions; an encryption and its decryption count as two.
    pub throughput: Vec<(usize, f64)>,
}

impl Findings {
    /// Returns the profiles whose rules fit the findings.
    pub fn fitting_profiles(&self) -> impl Iterator<Item = &'static Profile> {
        PROFILES.iter().filter(|profile| {
            let is_told = |code: &CK_RV| {
                let class = codes::class_of_decrypt(*code, profile.rules.bad_tag_codes);
                matches!(class, Class::BadCiphertext | Class::Ambiguous | Class::AmbiguousRequest)
            };
            let limit = profile.rules.max_operation_bytes;
            let fits_limit = match &self.too_large {
                None => limit.is_none(),
                Some(_) => limit.is_some_and(|limit| limit <= self.max_operation_bytes),
            };
            let of_sessions = profile.rules.has_handles_of_sessions;
            self.iv_mode == Some(profile.iv_mode)
                && self.has_handles_of_sessions.is_none_or(|found| found == of_sessions)
                && self.bad_tag_codes.iter().all(is_told)
                && fits_limit
        })
    }

    /// Returns the smallest number of sessions that reaches nine tenths of the best throughput.
    #[must_use]
    pub fn useful_sessions(&self) -> Option<usize> {
        let best = self.throughput.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        self.throughput.iter().find(|(_, rate)| *rate >= best * 0.9).map(|(sessions, _)| *sessions)
    }
}

/// Discovers a token's capabilities. `labels` name keys to use if the token makes no session keys.
///
/// # Errors
/// Returns [`DiscoveryError`] if the token cannot be reached, refuses the PIN, lacks AES-GCM, or
/// has no key to use.
pub fn run(
    config: &TokenConfig,
    labels: &[Box<str>],
    bounds: Bounds,
) -> Result<Findings, DiscoveryError> {
    run_counted(config, labels, bounds, Arc::default())
}

/// Discovers a token's capabilities like [`run`], and counts the uses of its keys.
///
/// # Errors
/// As [`run`].
pub fn run_counted(
    config: &TokenConfig,
    labels: &[Box<str>],
    bounds: Bounds,
    usage: Arc<Usage>,
) -> Result<Findings, DiscoveryError> {
    let labels = Labels::new(labels.to_vec(), true, None, Vec::new());
    let labels = Arc::new(labels.counted_in(usage));
    // Each trial has a single session, whose handles are its own in any case.
    let mut config = config.clone();
    config.rules.has_handles_of_sessions = false;
    // Only this session logs in; the others share its login, so the PIN is tried only once.
    let mut first = Trial::of(&config, IvMode::Random, &labels)?;
    let token = first.token.describe();
    let (iv_modes, mut working) = try_forms(&mut config, &labels)?;
    let (config, form) = (&config, config.rules.form);
    let mut findings = Findings {
        token,
        iv_modes,
        iv_mode: None,
        form,
        interfaces: first.interfaces(),
        has_messages: first.has_messages(),
        makes_session_keys: first.makes_session_keys,
        has_handles_of_sessions: None,
        encryption: None,
        bad_tag_codes: Vec::new(),
        bad_tag_oddities: Vec::new(),
        max_operation_bytes: 0,
        too_large: None,
        sessions: (0, None),
        throughput: Vec::new(),
    };
    // In the order of `IV_MODES`, which puts IVs made by the HSM first.
    if working.is_empty() {
        return Ok(findings);
    }
    let mut trial = working.swap_remove(0);
    drop(working);
    let iv_mode = trial.token.config().iv_mode;
    findings.iv_mode = Some(iv_mode);
    findings.has_handles_of_sessions = have_own_handles(&mut first, &mut trial, &labels);
    findings.encryption = trial.time_encryption();
    trial.tamper(&mut findings);
    (findings.max_operation_bytes, findings.too_large) = trial.largest();
    drop((trial, first));
    findings.sessions = sessions(config, iv_mode, &labels, bounds.max_sessions)?;
    let mut count = 1;
    while count <= findings.sessions.0 {
        let rate = throughput(config, iv_mode, &labels, count, bounds.time)?;
        findings.throughput.push((count, rate));
        count *= 2;
    }
    Ok(findings)
}

/// Each way of making IVs, with the IV's length or the reason why it does not work.
type IvModes = Vec<(IvMode, Result<usize, DiscoveryError>)>;

/// Tries all ways of making IVs with each form of calls, until a form works with one of them;
/// leaves that form in `config`. Returns the outcomes, and the trials that worked in the order of
/// [`IV_MODES`].
fn try_forms(
    config: &mut TokenConfig,
    labels: &Arc<Labels>,
) -> Result<(IvModes, Vec<Trial>), DiscoveryError> {
    let mut iv_modes = Vec::new();
    let mut working = Vec::new();
    // The first form that works at all is the one with the fewest calls.
    for form in FORMS {
        config.rules.form = form;
        let mut tried = Vec::new();
        for iv_mode in IV_MODES {
            let mut trial = Trial::of(config, iv_mode, labels)?;
            match trial.round_trip(PLAINTEXT_BYTES) {
                Ok(iv_bytes) => {
                    tried.push((iv_mode, Ok(iv_bytes)));
                    working.push(trial);
                }
                Err(why) => tried.push((iv_mode, Err(why))),
            }
        }
        // If no form works, the reasons reported are those for the usual form.
        if iv_modes.is_empty() || !working.is_empty() {
            iv_modes = tried;
        }
        if !working.is_empty() {
            break;
        }
    }
    Ok((iv_modes, working))
}

/// Membership of a token that belongs to no fleet.
const ALONE: Member = Member { fleet: 0, index: TokenIndex(0) };

/// A session under trial, and the key that it uses.
struct Trial {
    session: Pkcs11Session,
    token: Pkcs11Token,
    /// Index of the key, unless it is a session key, and its handle.
    key: (Option<KeyIndex>, CK_OBJECT_HANDLE),
    makes_session_keys: bool,
}

impl Trial {
    fn of(
        config: &TokenConfig,
        iv_mode: IvMode,
        labels: &Arc<Labels>,
    ) -> Result<Self, DiscoveryError> {
        let config = TokenConfig { iv_mode, ..config.clone() };
        let token =
            Pkcs11Token::new(config, ALONE, Arc::clone(labels), Arc::default(), Arc::default())?;
        let mut session = token.open_session()?;
        let key = session.call(|calls, token| Ok(key(calls, token)))??;
        let makes_session_keys = key.0.is_none();
        Ok(Self { session, token, key, makes_session_keys })
    }

    fn interfaces(&self) -> Vec<String> {
        let module = &self.token.shared().module.raw;
        let list = format!("PKCS#11 {} (C_GetFunctionList)", version(module.version()));
        let others = module.interfaces().into_iter();
        let others = others.map(|(name, of)| format!("{name:?} {}", version(of)));
        [list].into_iter().chain(others).collect()
    }

    fn has_messages(&self) -> Option<bool> {
        let shared = self.token.shared();
        let slot = shared.chosen.read().slot?.1;
        let info = shared.module.raw.mechanism_info(slot, CKM_AES_GCM).ok()?;
        Some(info.flags & CKF_MESSAGE_ENCRYPT != 0)
    }

    /// Measures the median durations of C_EncryptInit and C_Encrypt.
    fn time_encryption(&mut self) -> Option<(Duration, Duration)> {
        let (key, mut both) = (self.key, Vec::new());
        for _ in 0..TIMED_ENCRYPTIONS {
            let times = self.session.call(|calls, token| Ok(calls.time_encryption(token, key)));
            both.push(times.ok()??);
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[TIMED_ENCRYPTIONS / 2]
        };
        let (begins, rest): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        Some((median(begins), median(rest)))
    }

    fn encrypt(&mut self, aad: &[u8], bytes: usize) -> Result<(Iv, Vec<u8>), DiscoveryError> {
        let (plaintext, key) = (vec![0x5a; bytes], self.key);
        let mut output = Vec::new();
        let iv = self
            .session
            .call(|calls, token| Ok(calls.encrypt_bytes(token, key, aad, &plaintext, &mut output)));
        match iv {
            Ok(Ok(iv)) => Ok((iv, output)),
            Ok(Err(Trouble::Fault(fault))) | Err(fault) => Err(fault.into()),
            Ok(Err(Trouble::StaleHandle(code))) => {
                Err(DiscoveryError::Failed(Failure::Pkcs11(codes::return_code(code))))
            }
        }
    }

    fn decrypt(&mut self, iv: &Iv, aad: &[u8], input: &[u8]) -> Result<Vec<u8>, RawError> {
        let (_, key) = self.key;
        let mut output = Vec::new();
        let result = self.session.call(|calls, token| {
            let Some(session) = &calls.session else { return Ok(Err(RawError::Malformed)) };
            let (raw, mut parameter) = (&token.module.raw, iv_parameter(iv));
            let form = token.config.rules.form;
            Ok(raw.decrypt(form, session.handle(), key, &mut parameter, aad, input, &mut output))
        });
        match result {
            Ok(result) => result.map(|()| output),
            Err(_) => Err(RawError::Malformed),
        }
    }

    /// Encrypts and decrypts a plaintext of that many bytes. Returns the IV's length.
    fn round_trip(&mut self, bytes: usize) -> Result<usize, DiscoveryError> {
        let (iv, sealed) = self.encrypt(b"aad", bytes)?;
        match self.decrypt(&iv, b"aad", &sealed) {
            Ok(opened) if opened == vec![0x5a; bytes] => Ok(iv.as_slice().len()),
            Ok(_) => Err(DiscoveryError::OtherPlaintext),
            Err(error) => Err(DiscoveryError::Decryption(error)),
        }
    }

    fn tamper(&mut self, findings: &mut Findings) {
        for _ in 0..TAMPERINGS {
            let Ok((iv, sealed)) = self.encrypt(b"aad", PLAINTEXT_BYTES) else { continue };
            let last = sealed.len() - 1;
            let tampered = |at: usize| {
                let mut tampered = sealed.clone();
                tampered[at] ^= 1;
                tampered
            };
            let cases = [
                ("a wrong tag", tampered(last), &b"aad"[..]),
                ("a wrong ciphertext", tampered(0), b"aad"),
                ("a wrong AAD", sealed.clone(), b"daa"),
                ("no ciphertext", sealed[last + 1 - GCM_TAG_BYTES..].to_vec(), b"aad"),
            ];
            for (what, input, aad) in cases {
                let oddity = match self.decrypt(&iv, aad, &input) {
                    Err(RawError::Operation(code)) => {
                        if !findings.bad_tag_codes.contains(&code) {
                            findings.bad_tag_codes.push(code);
                        }
                        continue;
                    }
                    Ok(_) => format!("{what} DECRYPTS"),
                    Err(error) => format!("{what}: {}", raw(error)),
                };
                if !findings.bad_tag_oddities.contains(&oddity) {
                    findings.bad_tag_oddities.push(oddity);
                }
            }
        }
    }

    /// Determines the size of the largest plaintext, and the reason why no larger one works.
    fn largest(&mut self) -> (usize, Option<String>) {
        let (mut works, mut fails) = (PLAINTEXT_BYTES, None);
        while fails.is_none() && works < MAX_OPERATION_BYTES {
            match self.round_trip(works * 2) {
                Ok(_) => works *= 2,
                Err(why) => fails = Some((works * 2, why)),
            }
        }
        while let Some((too_large, _)) = &fails
            && works + 1 < *too_large
        {
            let middle = works.midpoint(*too_large);
            match self.round_trip(middle) {
                Ok(_) => works = middle,
                Err(why) => fails = Some((middle, why)),
            }
        }
        (works, fails.map(|(_, why)| why.to_string()))
    }
}

/// Returns whether two sessions have different handles of a key; `None` if they find none.
fn have_own_handles(one: &mut Trial, other: &mut Trial, labels: &Labels) -> Option<bool> {
    let handle = |trial: &mut Trial, label: &str| {
        let found = trial
            .session
            .call(|calls, token| Ok(token.keys.search(calls.session()?, label).ok().flatten()));
        found.ok().flatten().map(|key| key.handle)
    };
    let labels = labels.now();
    let names = labels.all().iter().take(KEYS_COMPARED);
    // In opposite orders, since a module may number the objects that a session finds.
    let there: Vec<_> = names.clone().map(|name| handle(one, name)).collect();
    let mut back: Vec<_> = names.rev().map(|name| handle(other, name)).collect();
    back.reverse();
    let found = there.into_iter().zip(back).filter_map(|(one, other)| Some(one? != other?));
    found.reduce(|some, differs| some | differs)
}

/// Returns the handle of a new session key, or else that of one of the token's keys that the
/// settings name, with its index.
fn key(
    calls: &mut Calls,
    token: &Shared,
) -> Result<(Option<KeyIndex>, CK_OBJECT_HANDLE), DiscoveryError> {
    match calls.make_session_key(token) {
        Ok(Some(handle)) => return Ok((None, handle)),
        Ok(None) => {}
        Err(fault) => return Err(fault.into()),
    }
    let session = calls.session()?;
    token.keys.refresh(session).map_err(DiscoveryError::Call)?;
    let key = token.keys.some_for_evidence(1, &|_| true).into_iter().next();
    key.map(|(index, key)| (Some(index), key.handle)).ok_or(DiscoveryError::NoKey)
}

impl Calls {
    /// Measures C_EncryptInit and C_Encrypt of one encryption.
    fn time_encryption(
        &mut self,
        token: &Shared,
        (index, key): (Option<KeyIndex>, CK_OBJECT_HANDLE),
    ) -> Option<(Duration, Duration)> {
        let session = self.session.as_ref()?;
        let fresh = || self.ivs.take(session, &token.iv_batches);
        let mut iv = token.config.iv_mode.prepare(fresh).ok()?;
        let (form, plaintext, mut output) =
            (token.config.rules.form, [0x5a; PLAINTEXT_BYTES], Vec::new());
        let start = Instant::now();
        let mut began = start;
        let tell = || began = Instant::now();
        let (raw, handle) = (&token.module.raw, session.handle());
        index.inspect(|index| token.keys.labels().usage().encrypts(*index));
        raw.encrypt(form, handle, key, &mut iv, &[], &plaintext, &mut output, tell).ok()?;
        Some((began - start, began.elapsed()))
    }
}

/// Counts the sessions that can be open at once, up to `max`.
fn sessions(
    config: &TokenConfig,
    iv_mode: IvMode,
    labels: &Arc<Labels>,
    max: usize,
) -> Result<(usize, Option<String>), DiscoveryError> {
    let config = TokenConfig { iv_mode, ..config.clone() };
    let token =
        Pkcs11Token::new(config, ALONE, Arc::clone(labels), Arc::default(), Arc::default())?;
    let mut open = Vec::new();
    while open.len() < max {
        match token.open_session() {
            Ok(session) => open.push(session),
            Err(error) => return Ok((open.len(), Some(error.reason().to_owned()))),
        }
    }
    Ok((open.len(), None))
}

/// Measures the operations per second with the given number of sessions at once.
fn throughput(
    config: &TokenConfig,
    iv_mode: IvMode,
    labels: &Arc<Labels>,
    sessions: usize,
    time: Duration,
) -> Result<f64, DiscoveryError> {
    let (operations, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Barrier::new(sessions + 1);
    let work = || {
        let trial = Trial::of(config, iv_mode, labels);
        start.wait();
        let mut trial = trial?;
        while !is_over.load(Ordering::Relaxed) {
            trial.round_trip(PLAINTEXT_BYTES)?;
            operations.fetch_add(2, Ordering::Relaxed);
        }
        Ok::<(), DiscoveryError>(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..sessions).map(|_| scope.spawn(work)).collect();
        start.wait();
        let started = Instant::now();
        std::thread::sleep(time);
        let done = operations.load(Ordering::Relaxed);
        let elapsed = started.elapsed();
        is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap_or(Err(DiscoveryError::Panic))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(done as f64 / elapsed.as_secs_f64())
    })
}

fn raw(error: RawError) -> String {
    match error {
        RawError::Init(code) => format!("C_DecryptInit: {}", codes::describe(code)),
        RawError::Operation(code) => format!("C_Decrypt: {}", codes::describe(code)),
        RawError::Malformed => "its output violates PKCS#11".to_owned(),
    }
}
