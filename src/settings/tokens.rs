//! `[[pkcs11.tokens]]`: a fleet of several tokens.

use std::path::{Path, PathBuf};

use super::capabilities::{self, Capabilities};
use super::section::Section;
use super::token_members::{module_of, parameters_of, pin_of, sessions_of};
use crate::hsm::config::{TokenConfig, TokenSelector};
use crate::limits::{MAX_PRIORITY, MAX_TOKENS, MAX_WEIGHT};
use crate::observe::redaction::Secret;

const PIN_REMEDY: &str = "write it here, \"\" if there is none, or name its file in user_pin_file";
const NAME_REMEDY: &str = "write one of label, serial and slot";

/// Values from `[pkcs11]` and `[hsm_capabilities]` for tokens that lack their own.
pub(super) struct Defaults {
    pub(super) module: Option<PathBuf>,
    pub(super) user_pin: Option<Secret<String>>,
    pub(super) max_sessions: Option<usize>,
    pub(super) initialize_parameters: Option<String>,
    pub(super) capabilities: Option<Capabilities>,
}

/// Reads all tokens; `section` is `[pkcs11]`.
pub(super) fn read(section: &Section<'_>, defaults: &Defaults) -> Option<Vec<TokenConfig>> {
    let sections = section.sections("pkcs11.tokens")?;
    let location = section.location_of("tokens");
    if sections.is_empty() || sections.len() > MAX_TOKENS {
        let problem = format!("there are {} of them", sections.len());
        let remedy = format!("write 1 to {MAX_TOKENS}, or none for the first slot with a token");
        section.report().mistake(&location, problem, remedy);
        return None;
    }
    let is_sole = sections.len() == 1;
    let read: Vec<_> = sections.iter().map(|token| one(token, defaults, is_sole)).collect();
    let tokens = read.into_iter().collect::<Option<Vec<_>>>()?;
    let mut is_right = true;
    for (index, token) in tokens.iter().enumerate() {
        let is_same =
            |other: &TokenConfig| (&other.module, &other.select) == (&token.module, &token.select);
        if let Some(first) = tokens[..index].iter().position(is_same) {
            let problem = format!("it is the same token as pkcs11.tokens[{first}]");
            let remedy = "name another token, or increase the weight of the first";
            section.report().mistake(&sections[index].location(), problem, remedy);
            is_right = false;
        }
    }
    is_right.then_some(tokens)
}

fn one(token: &Section<'_>, defaults: &Defaults, is_sole: bool) -> Option<TokenConfig> {
    let select = select(token, is_sole);
    let module = match token.get("module") {
        Some(member) => module_of(&member),
        None => or_default(token, "module", "PKCS11_HSM_MODULE", defaults.module.as_ref()),
    };
    let user_pin = match pin_of(token, false) {
        None => None,
        Some(Some(pin)) => Some(pin),
        // The PIN in `[pkcs11]` is meant only for tokens of the module named there.
        Some(None) if is_of_another_module(module.as_deref(), token, defaults) => {
            let problem = "it is missing, and the PIN in [pkcs11] is only for the module there";
            token.report().mistake(&token.location_of("user_pin"), problem, PIN_REMEDY);
            None
        }
        Some(None) => or_default(token, "user_pin", "user_pin", defaults.user_pin.as_ref()),
    };
    let sessions = "session_pool_max_size";
    let max_sessions = match token.get(sessions) {
        Some(member) => sessions_of(&member),
        None => or_default(token, sessions, sessions, defaults.max_sessions.as_ref()),
    };
    let weight = token.integer_or("weight", 1..=u64::from(MAX_WEIGHT), "a weight", 1);
    let priority = token.integer_or("priority", 0..=u64::from(MAX_PRIORITY), "a number", 0);
    let initialize_parameters = match token.get("initialize_parameters") {
        Some(member) => parameters_of(&member).map(Some),
        // The parameters in `[pkcs11]` are meant only for the module named there.
        None if token.get("module").is_some() => Some(None),
        None => Some(defaults.initialize_parameters.clone()),
    };
    let capabilities = if capabilities::are_in(token) {
        capabilities::read_from(token)
    } else {
        defaults.capabilities
    };
    let Capabilities { iv_mode, rules } = capabilities?;
    Some(TokenConfig {
        module: module?,
        select: select?,
        user_pin: user_pin?,
        max_sessions: max_sessions?,
        weight: weight?,
        priority: priority?,
        iv_mode,
        rules,
        initialize_parameters: initialize_parameters?,
    })
}

/// Returns whether the token names a module other than that of `[pkcs11]`.
fn is_of_another_module(module: Option<&Path>, token: &Section<'_>, defaults: &Defaults) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    token.get("module").is_some() && module.map(real) != defaults.module.as_deref().map(real)
}

fn or_default<T: Clone>(
    token: &Section<'_>,
    name: &str,
    member: &str,
    default: Option<&T>,
) -> Option<T> {
    if default.is_none() {
        let remedy = format!("write it here, or {member} in [pkcs11] for all tokens");
        token.report().mistake(&token.location_of(name), "it is missing", remedy);
    }
    default.cloned()
}

fn select(token: &Section<'_>, is_sole: bool) -> Option<TokenSelector> {
    let label = token.get("label");
    let serial = token.get("serial");
    let slot = token.get("slot");
    let named: Vec<&str> = [("label", &label), ("serial", &serial), ("slot", &slot)]
        .into_iter()
        .filter(|(_, member)| member.is_some())
        .map(|(name, _)| name)
        .collect();
    match (named.as_slice(), label, serial, slot) {
        ([], ..) if is_sole => Some(TokenSelector::First),
        ([], ..) => {
            let problem = "it does not identify a token";
            token.report().mistake(&token.location(), problem, NAME_REMEDY);
            None
        }
        ([_], Some(label), ..) => {
            let remedy = "write the token's label, in quotes";
            name(&label, remedy).map(TokenSelector::Label)
        }
        ([_], _, Some(serial), _) => {
            let remedy = "write the token's serial number, in quotes";
            name(&serial, remedy).map(TokenSelector::Serial)
        }
        ([_], _, _, Some(slot)) => {
            slot.integer(0..=i64::MAX.unsigned_abs(), "a slot's id").map(TokenSelector::Slot)
        }
        (several, ..) => {
            let problem = format!("it has {}", several.join(" and "));
            token.report().mistake(&token.location_of(several[1]), problem, NAME_REMEDY);
            None
        }
    }
}

fn name(member: &super::section::Member<'_>, remedy: &str) -> Option<String> {
    let text = member.string(remedy)?;
    if text.trim().is_empty() {
        member.mistake("it is empty", remedy);
        return None;
    }
    // Tokens pad these values with spaces.
    Some(text.trim_end().to_owned())
}
