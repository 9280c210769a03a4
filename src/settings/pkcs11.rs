//! `[pkcs11]` and `[pkcs11_logger]`

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Pkcs11;
use super::capabilities::{self, Capabilities};
use super::load::{Environment, PKCS11_HSM_MODULE, variable};
use super::report::{Location, Report};
use super::secret;
use super::section::{Member, Section, shown};
use super::tokens::{self, Defaults};
use crate::hsm::config::{HedgeAfter, Hedging, TokenConfig, TokenSelector};
use crate::limits::{
    DEFAULT_HEDGE_BUDGET_PERCENT, MAX_HEDGE_AFTER_MILLI, MAX_LABEL_BYTES, MAX_SESSIONS_PER_TOKEN,
};
use crate::observe::redaction::Secret;

/// They tune the reference proxy's session pool, which has no counterpart here.
const WITHOUT_EFFECT: [&str; 3] =
    ["session_pool_timeout_milli", "session_eager_close", "context_read_timeout_milli"];

const MODULE_REMEDY: &str = "write the path of the HSM vendor's PKCS#11 library, or set the \
                             environment variable PKCS11_HSM_MODULE, which goes before it";
const PIN_REMEDY: &str = "write the PIN in quotes, \"\" if there is none, or name its file in \
                          user_pin_file";
const SESSIONS_REMEDY: &str = "write how many sessions to keep open, such as 30 \
                               (requests a second x seconds that the HSM takes for one)";

pub(super) fn read(root: &Section<'_>, environment: Environment<'_>) -> Option<Pkcs11> {
    let has_own = |token: &Section<'_>| capabilities::is_in(token);
    let pkcs11 = root.peek("pkcs11");
    let tokens = pkcs11.as_ref().and_then(|section| section.peek_all("tokens"));
    // Where each token says it itself, nothing is left for `[hsm_capabilities]` to say.
    let is_said = tokens.is_some_and(|all| !all.is_empty() && all.iter().all(has_own));
    let capabilities = if is_said && root.peek("hsm_capabilities").is_none() {
        None
    } else {
        Some(capabilities::read(root))
    };
    let logger = logger(root, environment);
    let remedy = "add it with PKCS11_HSM_MODULE, user_pin and session_pool_max_size";
    let section = root.require_section("pkcs11", remedy)?;
    let has_tokens = section.get("tokens").is_some();
    let module = module(&section, environment, !has_tokens);
    let required = |name, remedy| {
        if has_tokens { section.get(name) } else { section.require(name, remedy) }
    };
    let user_pin = pin_of(&section, !has_tokens);
    let max_sessions =
        required("session_pool_max_size", SESSIONS_REMEDY).map(|member| sessions_of(&member));
    let switch = |name| match section.get(name) {
        Some(member) => member.bool(),
        None => Some(false),
    };
    let allow_ambiguous_labels = switch("allow_ambiguous_labels");
    let require_private_keys = switch("require_private_keys");
    let exit_when_wedged = switch("exit_when_wedged");
    let hedging = hedging(&section);
    let health_key = optional(&section, "health_key", health_key_of);
    let trust_token = optional(&section, "trust_token", trust_token_of);
    let initialize_parameters = optional(&section, "initialize_parameters", parameters_of);
    notice_without_effect(&section);
    let tokens = if has_tokens {
        let is_wrong = matches!(module, Some(None))
            || matches!(user_pin, Some(None))
            || matches!(max_sessions, Some(None))
            || matches!(capabilities, Some(None));
        let tokens = tokens::read(
            &section,
            &Defaults {
                module: module.flatten(),
                user_pin: user_pin.flatten(),
                max_sessions: max_sessions.flatten(),
                initialize_parameters: initialize_parameters?,
                capabilities: capabilities.flatten(),
            },
        );
        tokens.filter(|_| !is_wrong)?
    } else {
        let Capabilities { iv_mode, rules } = capabilities.flatten()?;
        vec![TokenConfig {
            module: module.flatten()?,
            select: TokenSelector::First,
            user_pin: user_pin.flatten()?,
            max_sessions: max_sessions.flatten()?,
            weight: 1,
            priority: 0,
            iv_mode,
            rules,
            initialize_parameters: initialize_parameters?,
        }]
    };
    Some(Pkcs11 {
        tokens,
        allow_ambiguous_labels: allow_ambiguous_labels?,
        require_private_keys: require_private_keys?,
        health_key: health_key?,
        trust_token: trust_token?,
        hedging: hedging?,
        exit_when_wedged: exit_when_wedged?,
        environment: logger?,
    })
}

fn hedging(section: &Section<'_>) -> Option<Hedging> {
    let after = match section.get("hedge_after_milli") {
        None => Some(HedgeAfter::Automatic),
        Some(member) => member.integer(0..=MAX_HEDGE_AFTER_MILLI, "a number of milliseconds").map(
            |milli: u64| match milli {
                0 => HedgeAfter::Off,
                milli => HedgeAfter::Fixed(Duration::from_millis(milli)),
            },
        ),
    };
    let budget_percent = match section.get("hedge_budget_percent") {
        None => Some(DEFAULT_HEDGE_BUDGET_PERCENT),
        Some(member) => member.integer(0..=100, "a number of calls in a hundred"),
    };
    Some(Hedging { after: after?, budget_percent: budget_percent? })
}

/// `None` if it is not there and need not be; `Some(None)` if it is wrong.
pub(super) fn pin_of(section: &Section<'_>, is_required: bool) -> Option<Option<Secret<String>>> {
    let is_there = ["user_pin", "user_pin_file"].into_iter().any(|it| section.get(it).is_some());
    (is_there || is_required)
        .then(|| secret::read(section, "user_pin", "user_pin_file", PIN_REMEDY).map(|(_, pin)| pin))
}

pub(super) fn sessions_of(member: &Member<'_>) -> Option<usize> {
    member.integer(1..=MAX_SESSIONS_PER_TOKEN as u64, "a number of sessions")
}

/// `Some(None)` if the member is not there, `None` if it is wrong.
fn optional<T>(
    section: &Section<'_>,
    name: &str,
    read: impl FnOnce(&Member<'_>) -> Option<T>,
) -> Option<Option<T>> {
    match section.get(name) {
        Some(member) => read(&member).map(Some),
        None => Some(None),
    }
}

fn health_key_of(member: &Member<'_>) -> Option<String> {
    let remedy = "write the CKA_LABEL of an AES key that exists for probes, in quotes";
    let label = member.string(remedy)?;
    if label.is_empty() || label.len() > MAX_LABEL_BYTES {
        member.mistake(format!("it has 0 or more than {MAX_LABEL_BYTES} bytes"), remedy);
        return None;
    }
    Some(label.to_owned())
}

pub(super) fn parameters_of(member: &Member<'_>) -> Option<String> {
    let remedy = "write the string that the module takes at C_Initialize, in quotes";
    let text = member.string(remedy)?;
    if text.contains('\0') {
        member.mistake("it has a NUL character", remedy);
        return None;
    }
    Some(text.to_owned())
}

/// A module's path, of a file that is there.
pub(super) fn module_of(member: &Member<'_>) -> Option<PathBuf> {
    let text = member.string(MODULE_REMEDY)?;
    if text.is_empty() {
        member.mistake("it is empty", MODULE_REMEDY);
        return None;
    }
    let path = PathBuf::from(text);
    is_module(&path, "it says", member.location(), member.report()).then_some(path)
}

/// `None` if it is not there and need not be; `Some(None)` if it is wrong.
fn module(
    section: &Section<'_>,
    environment: Environment<'_>,
    is_required: bool,
) -> Option<Option<PathBuf>> {
    if let Some(path) = variable(environment, PKCS11_HSM_MODULE) {
        let path = PathBuf::from(path);
        let location = section.location_of(PKCS11_HSM_MODULE);
        let origin = "the environment variable PKCS11_HSM_MODULE says";
        return Some(is_module(&path, origin, &location, section.report()).then_some(path));
    }
    let member = if is_required {
        section.require(PKCS11_HSM_MODULE, MODULE_REMEDY)
    } else {
        section.get(PKCS11_HSM_MODULE)
    };
    member.map(|member| module_of(&member))
}

fn is_module(path: &Path, origin: &str, location: &Location, report: &Report<'_>) -> bool {
    let name = shown(&path.to_string_lossy());
    if !path.to_string_lossy().contains('/') {
        // dlopen(3): a name without a slash is searched for, and not in the working directory.
        let problem = format!("{origin} \"{name}\", which the system's loader has to find");
        report.warning(location, problem, "write the library's whole path");
        return true;
    }
    let problem = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => return true,
        Ok(_) => format!("{origin} \"{name}\", which is not a file"),
        Err(error) => format!("{origin} \"{name}\", which cannot be read: {error}"),
    };
    report.mistake(location, problem, MODULE_REMEDY);
    false
}

fn notice_without_effect(section: &Section<'_>) {
    let present: Vec<&str> =
        WITHOUT_EFFECT.into_iter().filter(|name| section.get(name).is_some()).collect();
    let Some(&first) = present.first() else {
        return;
    };
    let problem = format!(
        "{} without effect here: sessions stay open, and a call's time limit is [limits] \
         request_deadline_milli",
        match present.as_slice() {
            [one] => format!("{one} is"),
            several => format!("{} are", several.join(", ")),
        }
    );
    section.report().notice(&section.location_of(first), problem, "they may stay or go");
}

/// The variables that the environment does not have itself. Empty ones are left out: to the
/// logger they are the same as none.
fn logger(root: &Section<'_>, environment: Environment<'_>) -> Option<Vec<(String, String)>> {
    let Some(section) = root.section("pkcs11_logger") else {
        return Some(Vec::new());
    };
    let names =
        ["PKCS11_LOGGER_LIBRARY_PATH", "PKCS11_LOGGER_LOG_FILE_PATH", "PKCS11_LOGGER_FLAGS"];
    let mut variables = Vec::new();
    let mut is_right = true;
    for name in names {
        let Some(member) = section.get(name) else {
            continue;
        };
        let remedy = format!("write the value of the environment variable {name}, in quotes");
        match member.string(&remedy) {
            Some(text) if text.contains('\0') => {
                member.mistake("it has a NUL character", remedy);
                is_right = false;
            }
            Some("") => {}
            Some(text) if environment(name).is_none() => {
                variables.push((name.to_owned(), text.to_owned()));
            }
            Some(_) => {}
            None => is_right = false,
        }
    }
    is_right.then_some(variables)
}

fn trust_token_of(member: &Member<'_>) -> Option<String> {
    let remedy = "write the label or the serial number of the token whose keys are right, as \
                  `xks-proxy keys` shows it";
    let name = member.string(remedy)?;
    if name.is_empty() {
        member.mistake("it is empty", remedy);
        return None;
    }
    Some(name.to_owned())
}
