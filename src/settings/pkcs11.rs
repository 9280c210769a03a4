//! `[pkcs11]`, `[pkcs11_logger]` and `[hsm_capabilities]`

use std::path::{Path, PathBuf};

use super::Pkcs11;
use super::known::nearest;
use super::load::{Environment, PKCS11_HSM_MODULE, variable};
use super::report::{Place, Report};
use super::secret;
use super::section::{Section, shown};
use crate::hsm::config::{IvMode, TokenConfig, TokenSelector};
use crate::limits::MAX_SESSIONS_PER_TOKEN;

/// They tune the reference proxy's session pool, which has no counterpart here.
const WITHOUT_EFFECT: [&str; 3] =
    ["session_pool_timeout_milli", "session_eager_close", "context_read_timeout_milli"];

/// HSMs that have rules of their own, by the names that `profile` takes.
const PROFILES: [(&str, IvMode); 7] = [
    ("cloudhsm", IvMode::ZeroedBuffer),
    ("kryoptic", IvMode::Random),
    ("luna", IvMode::Appended),
    ("nshield", IvMode::ZeroedBuffer),
    ("nss", IvMode::Random),
    ("opencryptoki", IvMode::Random),
    ("softhsm2", IvMode::Random),
];

const MODULE_REMEDY: &str = "write the path of the HSM vendor's PKCS#11 library, or set the \
                             environment variable PKCS11_HSM_MODULE, which goes before it";
const PIN_REMEDY: &str = "write the PIN in quotes, \"\" if there is none, or name its file in \
                          user_pin_file";
const PROFILE_REMEDY: &str = "write one of cloudhsm, kryoptic, luna, nshield, nss, opencryptoki, \
                              softhsm2, or can_generate_iv and is_zero_iv_required instead";

pub(super) fn read(root: &Section<'_>, environment: Environment<'_>) -> Option<Pkcs11> {
    let iv_mode = iv_mode(root);
    let logger = logger(root, environment);
    let remedy = "add it with PKCS11_HSM_MODULE, user_pin and session_pool_max_size";
    let section = root.require_section("pkcs11", remedy)?;
    let module = module(&section, environment);
    let user_pin =
        secret::read(&section, "user_pin", "user_pin_file", PIN_REMEDY).map(|(_, pin)| pin);
    let sessions_remedy = "write how many sessions to keep open, such as 30 \
                           (requests a second x seconds that the HSM takes for one)";
    let max_sessions =
        section.require("session_pool_max_size", sessions_remedy).and_then(|member| {
            member.integer(1..=MAX_SESSIONS_PER_TOKEN as u64, "a number of sessions")
        });
    let allow_ambiguous_labels = match section.get("allow_ambiguous_labels") {
        Some(member) => member.bool(),
        None => Some(false),
    };
    let initialize_parameters = match section.get("initialize_parameters") {
        Some(member) => {
            let remedy = "write the string that the module takes at C_Initialize, in quotes";
            match member.string(remedy) {
                Some(text) if text.contains('\0') => {
                    member.mistake("it has a NUL character", remedy);
                    None
                }
                text => text.map(|text| Some(text.to_owned())),
            }
        }
        None => Some(None),
    };
    notice_without_effect(&section);
    Some(Pkcs11 {
        tokens: vec![TokenConfig {
            module: module?,
            select: TokenSelector::First,
            user_pin: user_pin?,
            max_sessions: max_sessions?,
            iv_mode: iv_mode?,
            initialize_parameters: initialize_parameters?,
        }],
        allow_ambiguous_labels: allow_ambiguous_labels?,
        environment: logger?,
    })
}

fn module(section: &Section<'_>, environment: Environment<'_>) -> Option<PathBuf> {
    if let Some(path) = variable(environment, PKCS11_HSM_MODULE) {
        let path = PathBuf::from(path);
        let place = section.place_of(PKCS11_HSM_MODULE);
        let origin = "the environment variable PKCS11_HSM_MODULE says";
        return is_module(&path, origin, &place, section.report()).then_some(path);
    }
    let member = section.require(PKCS11_HSM_MODULE, MODULE_REMEDY)?;
    let text = member.string(MODULE_REMEDY)?;
    if text.is_empty() {
        member.mistake("it is empty", MODULE_REMEDY);
        return None;
    }
    let path = PathBuf::from(text);
    is_module(&path, "it says", member.place(), section.report()).then_some(path)
}

fn is_module(path: &Path, origin: &str, place: &Place, report: &Report<'_>) -> bool {
    let name = shown(&path.to_string_lossy());
    if !path.to_string_lossy().contains('/') {
        // dlopen(3): a name without a slash is searched for, and not in the working directory.
        let problem = format!("{origin} \"{name}\", which the system's loader has to find");
        report.warning(place, problem, "write the library's whole path");
        return true;
    }
    let problem = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => return true,
        Ok(_) => format!("{origin} \"{name}\", which is not a file"),
        Err(error) => format!("{origin} \"{name}\", which cannot be read: {error}"),
    };
    report.mistake(place, problem, MODULE_REMEDY);
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
    section.report().notice(&section.place_of(first), problem, "they may stay or go");
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

fn iv_mode(root: &Section<'_>) -> Option<IvMode> {
    let remedy = "add it with can_generate_iv and is_zero_iv_required, or with profile";
    let section = root.require_section("hsm_capabilities", remedy)?;
    let profile = section.get("profile");
    let switch = |name| match section.get(name) {
        Some(member) => member.bool().map(Some),
        None if profile.is_some() => Some(None),
        None => {
            let remedy = format!("write {name} = true or {name} = false, or a profile instead");
            section.report().mistake(&section.place_of(name), "it is missing", remedy);
            None
        }
    };
    let can_generate_iv = switch("can_generate_iv");
    let is_zero_iv_required = switch("is_zero_iv_required");
    let Some(profile) = profile else {
        return Some(match (can_generate_iv??, is_zero_iv_required??) {
            (false, _) => IvMode::Random,
            (true, true) => IvMode::ZeroedBuffer,
            (true, false) => IvMode::Appended,
        });
    };
    let name = profile.string(PROFILE_REMEDY)?;
    let Some(&(_, iv_mode)) = PROFILES.iter().find(|(known, _)| *known == name) else {
        let (problem, remedy) = unknown_profile(name);
        profile.mistake(problem, remedy);
        return None;
    };
    let (can, zero) = match iv_mode {
        IvMode::Random => (false, None),
        IvMode::ZeroedBuffer => (true, Some(true)),
        IvMode::Appended => (true, Some(false)),
    };
    let mut is_right = true;
    let mut compare = |member: &str, said: Option<bool>, wanted: Option<bool>| {
        if let (Some(said), Some(wanted)) = (said, wanted)
            && said != wanted
        {
            let problem = format!("{said} contradicts profile = \"{name}\"");
            let remedy = format!("write {member} = {wanted}, or remove it, or remove profile");
            section.report().mistake(&section.place_of(member), problem, remedy);
            is_right = false;
        }
    };
    compare("can_generate_iv", can_generate_iv?, Some(can));
    compare("is_zero_iv_required", is_zero_iv_required?, zero);
    is_right.then_some(iv_mode)
}

fn unknown_profile(name: &str) -> (String, String) {
    let lower = name.to_lowercase();
    if lower.contains("yubi") {
        let remedy = "use another HSM";
        return ("a YubiHSM 2 has no AES-GCM and cannot serve".to_owned(), remedy.to_owned());
    }
    let remedy = match nearest(name, PROFILES.iter().map(|(known, _)| *known)) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => PROFILE_REMEDY.to_owned(),
    };
    (format!("\"{}\" is not a profile", shown(name)), remedy)
}
