//! The settings file and its meaning. The crate's documentation describes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_RV, CK_SLOT_ID, CKR_FUNCTION_FAILED};
use serde::Deserialize;

use crate::codes;
use crate::emulation::{Emulation, IvMode, WrittenBy};
use crate::fault::{Action, Fault};
use crate::functions::{FUNCTIONS, Function};
use crate::gate::Gate;
use crate::keys::{KEYED, KeySet};
use crate::latency::{self, Latency};
use crate::oddities::Oddities;

/// The functions that `hsm_milli` delays.
const HSM_FUNCTIONS: [Function; 5] = [
    Function::C_Encrypt,
    Function::C_Decrypt,
    Function::C_GenerateRandom,
    Function::C_FindObjectsInit,
    Function::C_GetAttributeValue,
];

/// Purposes of latency draws begin here, so that they are independent of fault draws.
const LATENCY_PURPOSE: u64 = 1 << 33;

/// Settings in force.
#[derive(Debug)]
pub struct Settings {
    pub name: String,
    pub seed: u64,
    pub read_at: Instant,
    /// Latencies, indexed by [`Function`].
    latency: Vec<Option<Latency>>,
    /// Number of latencies drawn for each function.
    drawn: Vec<AtomicU64>,
    pub gate: Option<Arc<Gate>>,
    pub faults: Vec<Fault>,
    /// Set if a fault depends on the key that a call is about.
    pub asks_for_keys: bool,
    pub emulation: Emulation,
    pub odd: Oddities,
    /// Set if calls are only counted before they are forwarded.
    pub is_passive: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    name: String,
    seed: Option<u64>,
    hsm_milli: f64,
    parallel_calls: Option<usize>,
    iv: Option<IvEntry>,
    iv_written_by: Option<WrittenBy>,
    appended_iv_bytes: Option<usize>,
    bad_tag: Option<Code>,
    no_session_keys: Option<Refusal>,
    needs_rw: bool,
    no_rw_sessions: bool,
    odd: Oddities,
    latency: BTreeMap<String, String>,
    fault: Vec<FaultEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FaultEntry {
    r#return: Option<Code>,
    hang: Option<HangEntry>,
    delay: Option<String>,
    close_session: bool,
    remove_token: bool,
    flip_bit: bool,
    leak_bytes: Option<usize>,
    functions: Vec<String>,
    slot: Option<CK_SLOT_ID>,
    key: Option<String>,
    keys: Vec<String>,
    key_prefix: Option<String>,
    skip: u64,
    count: Option<u64>,
    probability: Option<f64>,
    from_milli: u64,
    until_milli: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IvEntry {
    ZeroedBuffer,
    Appended,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HangEntry {
    Is(bool),
    For(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Refusal {
    Is(bool),
    With(Code),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Name(String),
    Number(CK_RV),
}

impl Settings {
    /// Reads settings. `default_seed` is used if they name none.
    ///
    /// # Errors
    /// Description of the mistake, in words.
    pub fn parse(text: &str, default_seed: u64) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let latency = latencies(&file)?;
        let gate = match file.parallel_calls {
            Some(0) => return Err("parallel_calls = 0 lets no call through".to_owned()),
            parallel => parallel.map(Gate::new),
        };
        let faults = file.fault.iter().map(fault).collect::<Result<Vec<_>, _>>()?;
        let emulation = emulation(&file)?;
        Ok(Self {
            name: file.name,
            seed: file.seed.unwrap_or(default_seed),
            read_at: Instant::now(),
            is_passive: latency.iter().all(Option::is_none)
                && gate.is_none()
                && faults.is_empty()
                && emulation.no_session_keys.is_none(),
            drawn: latency.iter().map(|_| AtomicU64::new(0)).collect(),
            latency,
            gate,
            asks_for_keys: faults.iter().any(|fault| fault.keys.is_some()),
            faults,
            emulation,
            odd: file.odd,
        })
    }

    /// Returns the latency of this call.
    pub fn draw_latency(&self, function: Function) -> Duration {
        let index = function as usize;
        let Some((latency, drawn)) =
            self.latency.get(index).and_then(Option::as_ref).zip(self.drawn.get(index))
        else {
            return Duration::ZERO;
        };
        // A constant needs no number, so threads need not contend for the counter's cache line.
        let number = if latency.is_constant() { 0 } else { drawn.fetch_add(1, Ordering::Relaxed) };
        latency.draw(self.seed, LATENCY_PURPOSE + function as u64, number)
    }

    /// Returns whether the cap on parallel calls applies to this function.
    pub fn is_capped(&self, function: Function) -> bool {
        self.latency.get(function as usize).is_some_and(Option::is_some)
            || self.latency.iter().all(Option::is_none)
    }
}

fn latencies(file: &File) -> Result<Vec<Option<Latency>>, String> {
    let hsm = Duration::try_from_secs_f64(file.hsm_milli / 1000.0)
        .map_err(|error| format!("hsm_milli: {error}"))?;
    let mut latencies = vec![None; FUNCTIONS.len()];
    let mut set = |function: Function, latency: &Latency| {
        if let Some(place) = latencies.get_mut(function as usize) {
            *place = Some(latency.clone());
        }
    };
    if let Some(others) = file.latency.get("*") {
        let others = Latency::parse(others)?;
        FUNCTIONS.iter().for_each(|function| set(*function, &others));
    }
    if !hsm.is_zero() {
        HSM_FUNCTIONS.iter().for_each(|function| set(*function, &Latency::constant(hsm)));
    }
    for (name, latency) in file.latency.iter().filter(|(name, _)| *name != "*") {
        set(function(name)?, &Latency::parse(latency)?);
    }
    Ok(latencies)
}

fn emulation(file: &File) -> Result<Emulation, String> {
    let iv = match (file.iv, file.iv_written_by, file.appended_iv_bytes) {
        (None, None, None) => None,
        (Some(IvEntry::ZeroedBuffer), by, None) => {
            Some(IvMode::ZeroedBuffer(by.unwrap_or_default()))
        }
        (Some(IvEntry::Appended), None, bytes @ (None | Some(12 | 16))) => {
            Some(IvMode::Appended(bytes))
        }
        (Some(IvEntry::Appended), None, Some(bytes)) => {
            return Err(format!("appended_iv_bytes = {bytes}: IVs have 12 or 16"));
        }
        _ => {
            return Err("iv_written_by goes with iv = \"zeroed_buffer\", appended_iv_bytes with \
                        iv = \"appended\""
                .to_owned());
        }
    };
    if file.needs_rw && file.no_rw_sessions {
        return Err("needs_rw and no_rw_sessions leave no session".to_owned());
    }
    Ok(Emulation {
        iv,
        bad_tag: file.bad_tag.as_ref().map(code).transpose()?,
        no_session_keys: match &file.no_session_keys {
            None | Some(Refusal::Is(false)) => None,
            Some(Refusal::Is(true)) => Some(CKR_FUNCTION_FAILED),
            Some(Refusal::With(with)) => Some(code(with)?),
        },
        needs_rw: file.needs_rw,
        no_rw_sessions: file.no_rw_sessions,
    })
}

fn fault(entry: &FaultEntry) -> Result<Fault, String> {
    let code = entry.r#return.as_ref().map(code).transpose()?;
    let delay = entry.delay.as_deref().map(Latency::parse).transpose()?;
    let actions = [
        hang(entry)?.map(|time| Action::Hang { time, code }),
        delay.map(Action::Delay),
        entry.close_session.then_some(Action::CloseSession),
        entry.remove_token.then_some(Action::RemoveToken(code)),
        entry.flip_bit.then_some(Action::FlipBit),
        entry.leak_bytes.map(Action::Leak),
    ];
    let mut actions = actions.into_iter().flatten();
    let action = match (actions.next(), code, actions.next()) {
        (Some(action @ (Action::Hang { .. } | Action::RemoveToken(_))), _, None)
        | (Some(action), None, None) => action,
        (None, Some(code), None) => Action::Return(code),
        _ => return Err("a [[fault]] has one action, and one only".to_owned()),
    };
    if matches!(action, Action::RemoveToken(_)) && entry.slot.is_none() {
        return Err("remove_token needs a slot".to_owned());
    }
    let probability = entry.probability.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&probability) {
        return Err(format!("{probability} is not a probability"));
    }
    let functions: Vec<_> =
        entry.functions.iter().map(|name| function(name)).collect::<Result<_, _>>()?;
    let keys = keys(entry)?;
    if keys.is_some() && !functions.iter().all(|function| KEYED.contains(function)) {
        return Err(format!("a fault of a key is about {KEYED:?} alone"));
    }
    Ok(Fault {
        action,
        functions,
        keys,
        slot: entry.slot,
        skip: entry.skip,
        count: entry.count.unwrap_or(u64::MAX),
        probability,
        from: Duration::from_millis(entry.from_milli),
        until: entry.until_milli.map_or(Duration::MAX, Duration::from_millis),
        fitted: AtomicU64::new(0),
        acted: AtomicU64::new(0),
    })
}

/// Returns how long a fault's hangs last, if it has any.
fn hang(entry: &FaultEntry) -> Result<Option<Duration>, String> {
    match &entry.hang {
        None | Some(HangEntry::Is(false)) => Ok(None),
        Some(HangEntry::Is(true)) => Ok(Some(Duration::MAX)),
        Some(HangEntry::For(time)) => latency::parse_duration(time).map(Some),
    }
}

fn keys(entry: &FaultEntry) -> Result<Option<KeySet>, String> {
    let labels: Vec<_> = entry.key.iter().chain(&entry.keys).collect();
    if labels.is_empty() && entry.key_prefix.is_none() {
        return Ok(None);
    }
    if labels.iter().copied().chain(&entry.key_prefix).any(String::is_empty) {
        return Err("a key without a label cannot be named".to_owned());
    }
    Ok(Some(KeySet {
        labels: labels.into_iter().map(|label| label.clone().into_bytes()).collect(),
        prefix: entry.key_prefix.clone().map(String::into_bytes),
    }))
}

fn function(name: &str) -> Result<Function, String> {
    Function::by_name(name).ok_or_else(|| format!("{name} is not a function of PKCS#11 v2.40"))
}

fn code(code: &Code) -> Result<CK_RV, String> {
    match code {
        Code::Number(number) => Ok(*number),
        Code::Name(name) => codes::by_name(name).ok_or_else(|| format!("{name} is not known")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn latency_of(settings: &Settings, function: Function) -> Option<Duration> {
        settings.latency[function as usize].as_ref().map(|_| settings.draw_latency(function))
    }

    /// The measurements' "HSM of n ms" delays these five functions and no others.
    #[test]
    fn hsm_milli() {
        let settings = Settings::parse("hsm_milli = 2", 0).unwrap();
        let slow: Vec<_> = FUNCTIONS
            .into_iter()
            .filter(|function| latency_of(&settings, *function) == Some(Duration::from_millis(2)))
            .map(Function::name)
            .collect();
        assert_eq!(
            slow,
            [
                "C_GetAttributeValue",
                "C_FindObjectsInit",
                "C_Encrypt",
                "C_Decrypt",
                "C_GenerateRandom"
            ]
        );
        assert_eq!(settings.latency.iter().flatten().count(), 5);
        assert!(settings.is_capped(Function::C_Encrypt));
        assert!(!settings.is_capped(Function::C_EncryptInit));
        assert_eq!(
            latency_of(&Settings::parse("hsm_milli = 0.5", 0).unwrap(), Function::C_Decrypt),
            Some(Duration::from_micros(500))
        );
    }

    /// A function's own latency takes precedence over `hsm_milli`, and that over `*`.
    #[test]
    fn order_of_latencies() {
        let text = "hsm_milli = 2\n[latency]\n\"*\" = \"1us\"\nC_Encrypt = \"3ms\"";
        let settings = Settings::parse(text, 0).unwrap();
        let of = |function| latency_of(&settings, function).unwrap();
        assert_eq!(of(Function::C_Encrypt), Duration::from_millis(3));
        assert_eq!(of(Function::C_Decrypt), Duration::from_millis(2));
        assert_eq!(of(Function::C_Login), Duration::from_micros(1));
    }

    /// A tail is replayed from the seed, and differs between functions.
    #[test]
    fn tails_replay() {
        let tail = |seed: u64, function| {
            let text = format!("seed = {seed}\n[latency]\n\"*\" = \"1ms, p=0.5:2ms\"");
            let settings = Settings::parse(&text, 0).unwrap();
            (0..64).map(|_| settings.draw_latency(function)).collect::<Vec<_>>()
        };
        let first = tail(1, Function::C_Encrypt);
        assert_eq!(tail(1, Function::C_Encrypt), first);
        assert_ne!(tail(2, Function::C_Encrypt), first);
        assert_ne!(tail(1, Function::C_Decrypt), first);
    }

    /// Without settings, nothing is done to a call.
    #[test]
    fn empty() {
        let settings = Settings::parse("", 5).unwrap();
        assert!(settings.is_passive);
        assert_eq!(settings.seed, 5);
        assert!(!Settings::parse("parallel_calls = 1", 0).unwrap().is_passive);
        assert!(!Settings::parse("[[fault]]\nreturn = 5", 0).unwrap().is_passive);
        assert!(!Settings::parse("[[fault]]\nreturn = 5", 0).unwrap().asks_for_keys);
        assert!(Settings::parse("[[fault]]\nreturn = 5\nkey = \"a\"", 0).unwrap().asks_for_keys);
    }

    /// A mistake in the settings must not silently measure or test something else.
    #[test]
    fn refused() {
        for wrong in [
            "hsm_millis = 2",
            "hsm_milli = -1",
            "parallel_calls = 0",
            "[latency]\nC_Encrpyt = \"1ms\"",
            "[latency]\nC_Encrypt = 1",
            "iv = \"random\"",
            "iv_written_by = \"C_Encrypt\"",
            "iv = \"zeroed_buffer\"\niv_written_by = \"C_EncryptFinal\"",
            "iv = \"zeroed_buffer\"\nappended_iv_bytes = 12",
            "iv = \"appended\"\nappended_iv_bytes = 13",
            "bad_tag = \"CKR_BAD_TAG\"",
            "no_session_keys = \"yes\"",
            "needs_rw = true\nno_rw_sessions = true",
            "[[fault]]",
            "[[fault]]\nreturn = \"CKR_NO_SUCH\"",
            "[[fault]]\nreturn = 5\nflip_bit = true",
            "[[fault]]\nhang = true\nflip_bit = true",
            "[[fault]]\nleak_bytes = 7\nflip_bit = true",
            "[[fault]]\nremove_token = true",
            "[[fault]]\nflip_bit = true\nprobability = 1.5",
            "[[fault]]\nflip_bit = true\nfunctions = [\"Encrypt\"]",
            "[[fault]]\nhang = \"2\"",
            "[[fault]]\nhang = true\nkey = \"\"",
            "[[fault]]\nhang = true\nkey_prefix = \"\"",
            "[[fault]]\nhang = true\nkey = \"a\"\nfunctions = [\"C_Login\"]",
        ] {
            assert!(Settings::parse(wrong, 0).is_err(), "{wrong}");
        }
    }

    /// Each action, with its return code.
    #[test]
    fn actions() {
        let action = |text: &str| {
            let text = format!("[[fault]]\n{text}");
            Settings::parse(&text, 0).unwrap().faults.swap_remove(0).action
        };
        assert!(matches!(action("return = \"CKR_DEVICE_ERROR\""), Action::Return(0x30)));
        assert!(matches!(action("return = 0x80000066"), Action::Return(0x8000_0066)));
        assert!(matches!(action("hang = true"), Action::Hang { time: Duration::MAX, code: None }));
        assert!(matches!(
            action("hang = true\nreturn = 0x30"),
            Action::Hang { code: Some(0x30), .. }
        ));
        let two_minutes = Duration::from_secs(120);
        assert!(matches!(
            action("hang = \"120s\""),
            Action::Hang { time, code: None } if time == two_minutes
        ));
        assert!(matches!(action("delay = \"2ms\""), Action::Delay(_)));
        assert!(matches!(action("close_session = true"), Action::CloseSession));
        assert!(matches!(action("slot = 1\nremove_token = true"), Action::RemoveToken(None)));
        assert!(matches!(action("flip_bit = true"), Action::FlipBit));
        assert!(matches!(action("leak_bytes = 7"), Action::Leak(7)));
    }
}
