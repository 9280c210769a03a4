//! Finds out by trying what a token can do: which way of making IVs, which codes for a bad tag,
//! the largest operation, how many sessions, how much at once.
//!
//! For an operator with a token at hand (`xks-proxy probe-hsm`): it opens many sessions and takes
//! seconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_RV, CKF_MESSAGE_ENCRYPT, CKM_AES_GCM};

use super::calls::Calls;
use super::codes::{self, Class};
use super::gcm::given_iv;
use super::labels::Labels;
use super::native::RawError;
use super::profiles::{PROFILES, Profile};
use super::session::Pkcs11Session;
use super::shared::Shared;
use super::slots::version;
use super::token::Pkcs11Token;
use super::trouble::Trouble;
use crate::hsm::backend::OpenError;
use crate::hsm::config::{GcmForm, IvMode, TokenConfig};
use crate::hsm::witness::Member;
use crate::job::{Iv, TokenIndex};
use crate::limits::GCM_TAG_BYTES;

/// What is encrypted where the size is not the question.
const PLAINTEXT_BYTES: usize = 128;
/// The largest operation that is tried: many times what KMS sends, which is 4 KiB at the most.
const MAX_OPERATION_BYTES: usize = 256 * 1024;
/// Each kind of tampering is tried so often, since codes may differ from time to time.
const TAMPERINGS: usize = 8;
/// Encryptions that are timed.
const TIMED_ENCRYPTIONS: usize = 101;
const IV_MODES: [IvMode; 3] = [IvMode::ZeroedBuffer, IvMode::Appended, IvMode::Random];

/// Ways of calling a module, the usual one first.
const FORMS: [GcmForm; 4] = [
    GcmForm { asks_length: false, has_no_iv_bits: false },
    GcmForm { asks_length: true, has_no_iv_bits: false },
    GcmForm { asks_length: false, has_no_iv_bits: true },
    GcmForm { asks_length: true, has_no_iv_bits: true },
];

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Sessions to open at the most, at least one.
    pub max_sessions: usize,
    /// How long the throughput of each number of sessions is measured.
    pub time: Duration,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Who the token says it is: manufacturer, model, versions.
    pub token: String,
    /// Each way of making IVs: the IV's bytes, or why it does not work.
    pub iv_modes: Vec<(IvMode, Result<usize, String>)>,
    /// The way to take; `None` if none works.
    pub iv_mode: Option<IvMode>,
    /// How the module wants to be called for that.
    pub form: GcmForm,
    /// PKCS#11's version, as the function list has it, and the interfaces of v3.0 and later.
    pub interfaces: Vec<String>,
    /// CKM_AES_GCM has CKF_MESSAGE_ENCRYPT; `None` if the token does not tell.
    pub has_messages: Option<bool>,
    /// Keys of a session's own can be made.
    pub makes_session_keys: bool,
    /// The medians of C_EncryptInit and C_Encrypt.
    pub encryption: Option<(Duration, Duration)>,
    /// The codes of failed decryptions of what was tampered with.
    pub bad_tag_codes: Vec<CK_RV>,
    /// What was tampered with and decrypted all the same, or failed before C_Decrypt.
    pub bad_tag_oddities: Vec<String>,
    /// The largest plaintext of one operation that worked, in bytes.
    pub max_operation_bytes: usize,
    /// Why a larger one did not; `None` if none was refused.
    pub too_large: Option<String>,
    /// Sessions that could be open at once, and why there were no more.
    pub sessions: (usize, Option<String>),
    /// Operations a second (an encryption and its decryption are two) by sessions.
    pub throughput: Vec<(usize, f64)>,
}

impl Findings {
    /// The profiles whose rules fit what was found.
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
            self.iv_mode == Some(profile.iv_mode)
                && self.bad_tag_codes.iter().all(is_told)
                && fits_limit
        })
    }

    /// The fewest sessions that reach nine tenths of the best throughput.
    #[must_use]
    pub fn useful_sessions(&self) -> Option<usize> {
        let best = self.throughput.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        self.throughput.iter().find(|(_, rate)| *rate >= best * 0.9).map(|(sessions, _)| *sessions)
    }
}

/// Tries a token. `labels` are of keys that may be used where the token makes no session keys.
///
/// # Errors
/// The token cannot be reached, refuses the PIN, has no AES-GCM, or no key to try with.
pub fn run(config: &TokenConfig, labels: &[Box<str>], bounds: Bounds) -> Result<Findings, String> {
    let labels = Arc::new(Labels::new(labels.to_vec(), true, None, Vec::new()));
    // The first opening does the login. The others find it done, so a PIN is tried once.
    let first = Probe::of(config, IvMode::Random, &labels)?;
    let token = first.token.describe();
    let mut iv_modes = Vec::new();
    let mut working = Vec::new();
    // The first form in which the module does anything: those with more calls are for others.
    let mut config = config.clone();
    for form in FORMS {
        config.rules.form = form;
        let mut tried = Vec::new();
        for iv_mode in IV_MODES {
            let mut probe = Probe::of(&config, iv_mode, &labels)?;
            match probe.round_trip(PLAINTEXT_BYTES) {
                Ok(iv_bytes) => {
                    tried.push((iv_mode, Ok(iv_bytes)));
                    working.push(probe);
                }
                Err(why) => tried.push((iv_mode, Err(why))),
            }
        }
        // What is told of a module that does nothing is about the usual form.
        if iv_modes.is_empty() || !working.is_empty() {
            iv_modes = tried;
        }
        if !working.is_empty() {
            break;
        }
    }
    let (config, form) = (&config, config.rules.form);
    let mut findings = Findings {
        token,
        iv_modes,
        iv_mode: None,
        form,
        interfaces: first.interfaces(),
        has_messages: first.has_messages(),
        makes_session_keys: first.makes_session_keys,
        encryption: None,
        bad_tag_codes: Vec::new(),
        bad_tag_oddities: Vec::new(),
        max_operation_bytes: 0,
        too_large: None,
        sessions: (0, None),
        throughput: Vec::new(),
    };
    // An HSM that makes its own IVs may be left to: the order is that of `IV_MODES`.
    if working.is_empty() {
        return Ok(findings);
    }
    let mut probe = working.swap_remove(0);
    drop(working);
    let iv_mode = probe.token.config().iv_mode;
    findings.iv_mode = Some(iv_mode);
    findings.encryption = probe.time_encryption();
    probe.tamper(&mut findings);
    (findings.max_operation_bytes, findings.too_large) = probe.largest();
    drop((probe, first));
    findings.sessions = sessions(config, iv_mode, &labels, bounds.max_sessions)?;
    let mut count = 1;
    while count <= findings.sessions.0 {
        let rate = throughput(config, iv_mode, &labels, count, bounds.time)?;
        findings.throughput.push((count, rate));
        count *= 2;
    }
    Ok(findings)
}

/// A token that is no fleet's.
const ALONE: Member = Member { fleet: 0, index: TokenIndex(0) };

/// A session and a key to try with.
struct Probe {
    session: Pkcs11Session,
    token: Pkcs11Token,
    key: CK_OBJECT_HANDLE,
    makes_session_keys: bool,
}

impl Probe {
    fn of(config: &TokenConfig, iv_mode: IvMode, labels: &Arc<Labels>) -> Result<Self, String> {
        let config = TokenConfig { iv_mode, ..config.clone() };
        let token = Pkcs11Token::new(config, ALONE, Arc::clone(labels), Arc::default())?;
        let told = |error: OpenError| error.reason().to_owned();
        let mut session = token.open_session().map_err(told)?;
        let (key, makes_session_keys) = session
            .call(|calls, token| Ok(key(calls, token)))
            .map_err(|fault| fault.failure.to_string())??;
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

    /// The medians of what the two calls of an encryption take.
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

    fn encrypt(&mut self, aad: &[u8], bytes: usize) -> Result<(Iv, Vec<u8>), String> {
        let (plaintext, key) = (vec![0x5a; bytes], self.key);
        let mut output = Vec::new();
        let iv = self
            .session
            .call(|calls, token| Ok(calls.encrypt_bytes(token, key, aad, &plaintext, &mut output)));
        match iv {
            Ok(Ok(iv)) => Ok((iv, output)),
            Ok(Err(Trouble::Fault(fault))) | Err(fault) => Err(fault.failure.to_string()),
            Ok(Err(Trouble::StaleHandle(code))) => Err(codes::describe(code)),
        }
    }

    fn decrypt(&mut self, iv: &Iv, aad: &[u8], input: &[u8]) -> Result<Vec<u8>, RawError> {
        let key = self.key;
        let mut output = Vec::new();
        let result = self.session.call(|calls, token| {
            let Some(session) = &calls.session else { return Ok(Err(RawError::Malformed)) };
            let (raw, mut parameter) = (&token.module.raw, given_iv(iv));
            let form = token.config.rules.form;
            Ok(raw.decrypt(form, session.handle(), key, &mut parameter, aad, input, &mut output))
        });
        match result {
            Ok(result) => result.map(|()| output),
            Err(_) => Err(RawError::Malformed),
        }
    }

    /// Encrypts and decrypts so many bytes; the IV's length.
    fn round_trip(&mut self, bytes: usize) -> Result<usize, String> {
        let (iv, sealed) = self.encrypt(b"aad", bytes)?;
        match self.decrypt(&iv, b"aad", &sealed) {
            Ok(opened) if opened == vec![0x5a; bytes] => Ok(iv.as_slice().len()),
            Ok(_) => Err("it decrypts to something else".to_owned()),
            Err(error) => Err(format!("decryption: {}", raw(error))),
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

    /// The largest plaintext, and why no larger one.
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
        (works, fails.map(|(_, why)| why))
    }
}

/// A key of the session's own, or else one of the token's that the settings name.
fn key(calls: &mut Calls, token: &Shared) -> Result<(CK_OBJECT_HANDLE, bool), String> {
    match calls.make_probe_key(token) {
        Ok(Some(handle)) => return Ok((handle, true)),
        Ok(None) => {}
        Err(fault) => return Err(fault.failure.to_string()),
    }
    let session = calls.session().map_err(|fault| fault.failure.to_string())?;
    token.keys.refresh(session).map_err(|error| codes::describe_error(&error))?;
    let key = token.keys.some_for_evidence(1, &|_| true).into_iter().next().map(|found| found.1);
    key.map(|key| (key.handle, false)).ok_or_else(|| {
        "the token makes no session keys, and has no key of xks_key_id_set that may encrypt and \
         decrypt"
            .to_owned()
    })
}

impl Calls {
    /// What C_EncryptInit takes and what C_Encrypt does, of one encryption.
    fn time_encryption(
        &mut self,
        token: &Shared,
        key: CK_OBJECT_HANDLE,
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
        raw.encrypt(form, handle, key, &mut iv, &[], &plaintext, &mut output, tell).ok()?;
        Some((began - start, began.elapsed()))
    }
}

/// How many sessions can be open, up to `max`.
fn sessions(
    config: &TokenConfig,
    iv_mode: IvMode,
    labels: &Arc<Labels>,
    max: usize,
) -> Result<(usize, Option<String>), String> {
    let config = TokenConfig { iv_mode, ..config.clone() };
    let token = Pkcs11Token::new(config, ALONE, Arc::clone(labels), Arc::default())?;
    let mut open = Vec::new();
    while open.len() < max {
        match token.open_session() {
            Ok(session) => open.push(session),
            Err(error) => return Ok((open.len(), Some(error.reason().to_owned()))),
        }
    }
    Ok((open.len(), None))
}

/// Operations a second with so many sessions at once.
fn throughput(
    config: &TokenConfig,
    iv_mode: IvMode,
    labels: &Arc<Labels>,
    sessions: usize,
    time: Duration,
) -> Result<f64, String> {
    let (operations, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Barrier::new(sessions + 1);
    let work = || {
        let probe = Probe::of(config, iv_mode, labels);
        start.wait();
        let mut probe = probe?;
        while !is_over.load(Ordering::Relaxed) {
            probe.round_trip(PLAINTEXT_BYTES)?;
            operations.fetch_add(2, Ordering::Relaxed);
        }
        Ok::<(), String>(())
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
            thread.join().unwrap_or_else(|_| Err("a panic".to_owned()))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        Ok(done as f64 / elapsed.as_secs_f64())
    })
}

fn raw(error: RawError) -> String {
    match error {
        RawError::Init(code) => format!("C_DecryptInit: {}", codes::describe(code)),
        RawError::Operation(code) => format!("C_Decrypt: {}", codes::describe(code)),
        RawError::Malformed => "its output is not what PKCS#11 has it".to_owned(),
    }
}
