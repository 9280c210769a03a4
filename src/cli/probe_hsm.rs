//! `xks-proxy probe-hsm`: finds out the capabilities of a token, and the profile that fits it.

use std::path::Path;
use std::time::Duration;

use super::settings_file;
use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::hsm::config::{IvMode, TokenConfig, TokenSelector};
use crate::hsm::pkcs11::codes;
use crate::hsm::pkcs11::discovery::{self, Bounds, Findings};
use crate::hsm::pkcs11::ffi::set_environment;
use crate::hsm::pkcs11::profiles::Profile;
use crate::output::outln;
use crate::process::kept_usage::KeptUsage;

/// Tries out each token in the settings.
///
/// # Errors
/// [`Failed`]: the settings are wrong, or a token cannot be tried or cannot serve.
pub fn run(file: Option<&Path>, max_sessions: usize, time: Duration) -> Result<(), Failed> {
    // This command exists to find the capabilities, so a file may lack `[hsm_capabilities]`.
    let (settings, are_missing) = match settings_file::load(file, false) {
        Ok((settings, _)) => (settings, false),
        Err(failed) => match settings_file::load_to_probe(file) {
            Some(settings) => (settings, true),
            None => return Err(failed),
        },
    };
    // No thread has been started yet.
    set_environment(&settings.pkcs11.environment);
    let service = settings.service();
    // A token that makes no session keys is tried with a key of the settings.
    let kept = KeptUsage::open(&settings, service.labels());
    kept.start().map_err(|error| Failed::unavailable(format!("no thread: {error}")))?;
    let mut failures = Vec::new();
    for token in &settings.pkcs11.tokens {
        outln!("\nmodule {}, {}", token.module.display(), name_of(&token.select));
        let bounds = Bounds { max_sessions, time };
        match discovery::run_counted(token, service.labels(), bounds, kept.usage()) {
            Ok(findings) => {
                print(&findings, token, are_missing);
                if findings.iv_mode.is_none() {
                    failures.push("no way of making IVs works: it cannot serve".to_owned());
                }
            }
            Err(why) => {
                outln!("  FAILED: {why}");
                failures.push(why.to_string());
            }
        }
    }
    kept.close();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failed::new(EXIT_UNAVAILABLE, failures.join("\n")))
}

pub(super) fn name_of(select: &TokenSelector) -> String {
    match select {
        TokenSelector::First => "the first token".to_owned(),
        TokenSelector::Label(label) => format!("the token of label {label:?}"),
        TokenSelector::Serial(serial) => format!("the token of serial number {serial:?}"),
        TokenSelector::Slot(slot) => format!("slot {slot}"),
    }
}

fn print(findings: &Findings, token: &TokenConfig, are_missing: bool) {
    outln!("  token {}", findings.token);
    outln!("  interfaces: {}", findings.interfaces.join(", "));
    let messages = match findings.has_messages {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not told",
    };
    outln!("  messages with CKM_AES_GCM (CKF_MESSAGE_ENCRYPT): {messages}");
    let session_keys = if findings.makes_session_keys { "can be made" } else { "are not made" };
    outln!("  keys of a session's own: {session_keys}");
    outln!("  handles of the stores' keys: {}", handles(findings.has_handles_of_sessions));
    for (iv_mode, outcome) in &findings.iv_modes {
        match outcome {
            Ok(bytes) => outln!("  {}: works, {bytes} bytes", what(*iv_mode)),
            Err(why) => outln!("  {}: no ({why})", what(*iv_mode)),
        }
    }
    let Some(iv_mode) = findings.iv_mode else { return };
    let names: Vec<String> =
        findings.bad_tag_codes.iter().map(|code| codes::describe(*code)).collect();
    outln!("  a bad tag: {}", names.join(", "));
    for oddity in &findings.bad_tag_oddities {
        outln!("  ATTENTION: {oddity}");
    }
    if let Some((begins, rest)) = findings.encryption {
        outln!("  an encryption: C_EncryptInit {begins:.1?}, C_Encrypt {rest:.1?} (medians)");
    }
    match &findings.too_large {
        None => outln!("  one operation: {} bytes, no end found", findings.max_operation_bytes),
        Some(why) => {
            outln!("  one operation: {} bytes, then {why}", findings.max_operation_bytes);
        }
    }
    match &findings.sessions {
        (count, None) => outln!("  sessions: {count}, no end found"),
        (count, Some(why)) => outln!("  sessions: {count}, then {why}"),
    }
    for (sessions, rate) in &findings.throughput {
        outln!("  {sessions:>4} sessions at once: {rate:>8.0} operations a second");
    }
    print_profile(findings, iv_mode);
    if token.iv_mode != iv_mode && !are_missing {
        outln!("\n  The settings currently say something else: {}.", what(token.iv_mode));
    }
}

fn print_profile(findings: &Findings, iv_mode: IvMode) {
    let fitting: Vec<&Profile> = findings.fitting_profiles().collect();
    let named = fitting.iter().find(|profile| is_of(findings, profile.name));
    let (can, zero) = switches(iv_mode);
    outln!("\n  Add to the settings:\n\n  [hsm_capabilities]");
    match named {
        Some(profile) => outln!("  profile = \"{}\"", profile.name),
        None => {
            outln!("  can_generate_iv = {can}\n  is_zero_iv_required = {zero}");
            if !fitting.is_empty() {
                let names: Vec<_> = fitting.iter().map(|profile| profile.name).collect();
                outln!("  # or a profile, if it is such an HSM: {}", names.join(", "));
            }
        }
    }
    if findings.form.asks_length {
        outln!("  ask_output_length = true");
    }
    if findings.form.has_no_iv_bits {
        outln!("  gcm_params_without_iv_bits = true");
    }
    let is_in_profile = named.is_some_and(|name| name.rules.has_handles_of_sessions);
    if findings.has_handles_of_sessions == Some(true) && !is_in_profile {
        outln!("  handles_per_session = true");
    }
    if let Some(sessions) = findings.useful_sessions() {
        let with_spare = (sessions + sessions.div_ceil(2)).max(2);
        outln!(
            "\n  # {sessions} sessions give nine tenths of the best; some more for when one hangs"
        );
        outln!("  [pkcs11]\n  session_pool_max_size = {with_spare}");
    }
}

/// Returns whether the token identifies itself as the product that the profile is for.
fn is_of(findings: &Findings, profile: &str) -> bool {
    let words: &[&str] = match profile {
        "cloudhsm" => &["cloudhsm", "cavium", "marvell"],
        "fortanix" => &["fortanix"],
        "kryoptic" => &["kryoptic"],
        "luna" => &["luna", "safenet", "thales"],
        "nshield" => &["ncipher", "entrust", "nshield"],
        "nss" => &["nss", "mozilla"],
        "opencryptoki" => &["opencryptoki", "ibm"],
        "primus" => &["securosys", "primus"],
        "softhsm2" => &["softhsm"],
        "utimaco" => &["utimaco"],
        "vault" => &["hashicorp", "vault"],
        _ => &[],
    };
    let token = findings.token.to_lowercase();
    words.iter().any(|word| token.contains(word))
}

const fn handles(are_of_sessions: Option<bool>) -> &'static str {
    match are_of_sessions {
        Some(false) => "the same in each session",
        Some(true) => "other ones in each session",
        None => "not told: the settings name no key that the token has",
    }
}

const fn switches(iv_mode: IvMode) -> (bool, bool) {
    match iv_mode {
        IvMode::Random => (false, false),
        IvMode::ZeroedBuffer => (true, true),
        IvMode::Appended => (true, false),
    }
}

const fn what(iv_mode: IvMode) -> &'static str {
    match iv_mode {
        IvMode::Random => "an IV of random bytes",
        IvMode::ZeroedBuffer => "an IV that the HSM writes over zeros",
        IvMode::Appended => "an IV that the HSM appends to the output",
    }
}
