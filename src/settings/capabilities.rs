//! `[hsm_capabilities]`, and the same members in `[[pkcs11.tokens]]`.

use super::section::{Section, shown};
use super::unknown::nearest;
use crate::hsm::config::{GcmForm, IvMode, Rules};
use crate::hsm::pkcs11::profiles::{self, PROFILES};

/// The abilities of an HSM, and the form in which it must be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    pub(super) iv_mode: IvMode,
    pub(super) rules: Rules,
}

/// The members that describe capabilities.
const MEMBERS: [&str; 7] = [
    "can_generate_iv",
    "is_zero_iv_required",
    "profile",
    ASKS_LENGTH,
    HAS_NO_IV_BITS,
    IS_DETERMINISTIC,
    HANDLES_OF_SESSIONS,
];
const ASKS_LENGTH: &str = "ask_output_length";
const HAS_NO_IV_BITS: &str = "gcm_params_without_iv_bits";
const IS_DETERMINISTIC: &str = "has_deterministic_ivs";
const HANDLES_OF_SESSIONS: &str = "handles_per_session";

const PROFILE_REMEDY: &str = "write one of cloudhsm, fortanix, kryoptic, luna, nshield, nss, \
                              opencryptoki, primus, softhsm2, utimaco, vault, or \
                              can_generate_iv and is_zero_iv_required instead";

/// Reads `[hsm_capabilities]`.
pub(super) fn read(root: &Section<'_>) -> Option<Capabilities> {
    let remedy = "add it with can_generate_iv and is_zero_iv_required, or with profile";
    read_from(&root.require_section("hsm_capabilities", remedy)?)
}

/// Returns whether the section has at least one of the members.
pub(super) fn are_in(section: &Section<'_>) -> bool {
    MEMBERS.into_iter().any(|name| section.get(name).is_some())
}

/// Reads the members from a section.
pub(super) fn read_from(section: &Section<'_>) -> Option<Capabilities> {
    let profile = section.get("profile");
    let switch = |name| match section.get(name) {
        Some(member) => member.bool().map(Some),
        None if profile.is_some() => Some(None),
        None => {
            let remedy = format!("write {name} = true or {name} = false, or a profile instead");
            section.report().mistake(&section.location_of(name), "it is missing", remedy);
            None
        }
    };
    let (can_generate_iv, is_zero_iv_required) =
        (switch("can_generate_iv"), switch("is_zero_iv_required"));
    let or = |name, default| section.get(name).map_or(Some(default), |member| member.bool());
    let said = or(IS_DETERMINISTIC, false);
    let form = |default: GcmForm| {
        let asks_length = or(ASKS_LENGTH, default.asks_length);
        let has_no_iv_bits = or(HAS_NO_IV_BITS, default.has_no_iv_bits);
        Some(GcmForm { asks_length: asks_length?, has_no_iv_bits: has_no_iv_bits? })
    };
    let Some(profile) = profile else {
        let form = form(GcmForm::default());
        let has_own_handles = or(HANDLES_OF_SESSIONS, false);
        let iv_mode = match (can_generate_iv??, is_zero_iv_required??) {
            (false, _) => IvMode::Random,
            (true, true) => IvMode::ZeroedBuffer,
            (true, false) => IvMode::Appended,
        };
        let makes_deterministic_ivs = is_deterministic(section, said?, iv_mode)?;
        let rules = Rules {
            form: form?,
            makes_deterministic_ivs,
            has_handles_of_sessions: has_own_handles?,
            ..Rules::default()
        };
        return Some(Capabilities { iv_mode, rules });
    };
    let name = profile.string(PROFILE_REMEDY)?;
    let known = profiles::by_name(name).or_else(|| {
        let (problem, remedy) = unknown_profile(name);
        profile.mistake(problem, remedy);
        None
    })?;
    let (can, zero) = members_for(known.iv_mode);
    let mut is_right = true;
    let mut compare = |member: &str, said: Option<bool>, wanted: Option<bool>| {
        if let (Some(said), Some(wanted)) = (said, wanted)
            && said != wanted
        {
            let problem = format!("{said} contradicts profile = \"{name}\"");
            let remedy = format!("write {member} = {wanted}, or remove it, or remove profile");
            section.report().mistake(&section.location_of(member), problem, remedy);
            is_right = false;
        }
    };
    compare("can_generate_iv", can_generate_iv?, Some(can));
    compare("is_zero_iv_required", is_zero_iv_required?, zero);
    // A session of such a module could encrypt with the key that another session's handle means. More
    // care than a profile needs is allowed.
    let needs_own = known.rules.has_handles_of_sessions;
    let has_own_handles = or(HANDLES_OF_SESSIONS, needs_own);
    compare(HANDLES_OF_SESSIONS, has_own_handles, needs_own.then_some(true));
    let makes_deterministic_ivs = is_deterministic(section, said?, known.iv_mode)?;
    let form = form(known.rules.form)?;
    let has_handles_of_sessions = has_own_handles?;
    let rules = Rules { form, makes_deterministic_ivs, has_handles_of_sessions, ..known.rules };
    is_right.then_some(Capabilities { iv_mode: known.iv_mode, rules })
}

/// Returns the values of `can_generate_iv` and `is_zero_iv_required` that stand for a mode.
fn members_for(iv_mode: IvMode) -> (bool, Option<bool>) {
    match iv_mode {
        IvMode::Random => (false, None),
        IvMode::ZeroedBuffer => (true, Some(true)),
        IvMode::Appended => (true, Some(false)),
    }
}

/// Returns whether the HSM makes deterministic IVs, as the settings say. No profile says so: the
/// vendors' documentation of all that are known leaves it open, or speaks of random ones.
fn is_deterministic(section: &Section<'_>, said: bool, iv_mode: IvMode) -> Option<bool> {
    if said && iv_mode == IvMode::Random {
        let problem = "this HSM makes no IVs: the proxy makes random ones";
        section.report().mistake(&section.location_of(IS_DETERMINISTIC), problem, "remove it");
        return None;
    }
    Some(said)
}

fn unknown_profile(name: &str) -> (String, String) {
    let lower = name.to_lowercase();
    if lower.contains("yubi") {
        let remedy = "use another HSM";
        return ("a YubiHSM 2 has no AES-GCM and cannot serve".to_owned(), remedy.to_owned());
    }
    if lower.contains("azure") || lower.contains("mhsm") {
        let problem = "Azure Managed HSM's PKCS#11 library has no AES keys and cannot serve";
        return (problem.to_owned(), "use another HSM".to_owned());
    }
    let remedy = match nearest(name, PROFILES.iter().map(|profile| profile.name)) {
        Some(nearest) => format!("did you mean \"{nearest}\"? Or {PROFILE_REMEDY}"),
        None => PROFILE_REMEDY.to_owned(),
    };
    (format!("\"{}\" is not a profile", shown(name)), remedy)
}
