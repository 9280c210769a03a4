//! `[pkcs11]`

use std::path::PathBuf;
use std::time::Duration;

use super::capabilities::{self, Capabilities};
use super::environment::{self, Environment, PKCS11_HSM_MODULE};
use super::pkcs11_logger;
use super::section::{Member, Section};
use super::token_members::{
    MODULE_REMEDY, is_module, module_of, parameters_of, pin_of, sessions_of,
};
use super::tokens::{self, Defaults};
use crate::hsm::config::{HedgeAfter, Hedging, TokenConfig, TokenSelector};
use crate::limits::{DEFAULT_HEDGE_BUDGET_PERCENT, MAX_HEDGE_AFTER_MILLI, MAX_LABEL_BYTES};

/// Settings of the sample proxy's session pool that have no effect here.
const WITHOUT_EFFECT: [&str; 3] =
    ["session_pool_timeout_milli", "session_eager_close", "context_read_timeout_milli"];

const SESSIONS_REMEDY: &str = "write how many sessions to keep open, such as 30 \
                               (requests a second x seconds that the HSM takes for one)";

/// `[pkcs11]`, `[pkcs11_logger]`, `[hsm_capabilities]`
#[derive(Clone, Debug)]
pub struct Pkcs11 {
    /// `[[pkcs11.tokens]]`; if there are none, a single token, in the first slot that has one.
    pub tokens: Vec<TokenConfig>,
    /// True if a label that several keys share means the first of them, as in the sample proxy.
    pub allow_ambiguous_labels: bool,
    /// True if keys that are not private objects are refused.
    pub require_private_keys: bool,
    /// `CKA_LABEL` of the key for health checks.
    pub health_key: Option<String>,
    /// Label or serial number of the token that counts as right where tokens hold different keys
    /// under one label and no witness decides.
    pub trust_token: Option<String>,
    /// The conditions under which a slow call is sent a second time.
    pub hedging: Hedging,
    /// True if the process exits when no token is usable and calls do not return.
    pub exit_when_wedged: bool,
    /// Environment variables to set before the module is loaded: the members of `[pkcs11_logger]`
    /// that the environment does not already set.
    pub environment: Vec<(String, String)>,
}

pub(super) fn read(root: &Section<'_>, environment: Environment<'_>) -> Option<Pkcs11> {
    let capabilities = shared_capabilities(root);
    let logger = pkcs11_logger::read(root, environment);
    let remedy = "add it with PKCS11_HSM_MODULE, user_pin and session_pool_max_size";
    let section = root.require_section("pkcs11", remedy)?;
    let tokens = tokens(&section, environment, capabilities);
    let allow_ambiguous_labels = section.switch("allow_ambiguous_labels");
    let require_private_keys = section.switch("require_private_keys");
    let exit_when_wedged = section.switch("exit_when_wedged");
    let hedging = hedging(&section);
    let health_key = section.optional("health_key", health_key_of);
    let trust_token = section.optional("trust_token", trust_token_of);
    notice_without_effect(&section);
    Some(Pkcs11 {
        tokens: tokens?,
        allow_ambiguous_labels: allow_ambiguous_labels?,
        require_private_keys: require_private_keys?,
        health_key: health_key?,
        trust_token: trust_token?,
        hedging: hedging?,
        exit_when_wedged: exit_when_wedged?,
        environment: logger?,
    })
}

/// Reads `[hsm_capabilities]`; returns `Some(None)` if it is missing and each token has its own
/// capabilities.
fn shared_capabilities(root: &Section<'_>) -> Option<Option<Capabilities>> {
    let pkcs11 = root.peek("pkcs11");
    let tokens = pkcs11.as_ref().and_then(|section| section.peek_all("tokens"));
    let is_said = tokens.is_some_and(|all| !all.is_empty() && all.iter().all(capabilities::are_in));
    if is_said && root.peek("hsm_capabilities").is_none() {
        return Some(None);
    }
    capabilities::read(root).map(Some)
}

/// Reads `[[pkcs11.tokens]]`; without them, `[pkcs11]` must describe a single token.
fn tokens(
    section: &Section<'_>,
    environment: Environment<'_>,
    capabilities: Option<Option<Capabilities>>,
) -> Option<Vec<TokenConfig>> {
    let is_sole = section.get("tokens").is_none();
    let module = module(section, environment, is_sole);
    let user_pin = pin_of(section, is_sole);
    let max_sessions =
        section.required_if(is_sole, "session_pool_max_size", SESSIONS_REMEDY, sessions_of);
    let initialize_parameters = section.optional("initialize_parameters", parameters_of);
    if is_sole {
        let Capabilities { iv_mode, rules } = capabilities??;
        return Some(vec![TokenConfig {
            module: module??,
            select: TokenSelector::First,
            user_pin: user_pin??,
            max_sessions: max_sessions??,
            weight: 1,
            priority: 0,
            iv_mode,
            rules,
            initialize_parameters: initialize_parameters?,
        }]);
    }
    let is_right = module.is_some()
        && user_pin.is_some()
        && max_sessions.is_some()
        && initialize_parameters.is_some()
        && capabilities.is_some();
    let defaults = Defaults {
        module: module.flatten(),
        user_pin: user_pin.flatten(),
        max_sessions: max_sessions.flatten(),
        initialize_parameters: initialize_parameters.flatten(),
        capabilities: capabilities.flatten(),
    };
    // The tokens' own mistakes are reported even if the defaults are wrong.
    tokens::read(section, &defaults).filter(|_| is_right)
}

fn hedging(section: &Section<'_>) -> Option<Hedging> {
    let after = section.value_or("hedge_after_milli", HedgeAfter::Automatic, |member| {
        let milli = member.integer(0..=MAX_HEDGE_AFTER_MILLI, "a number of milliseconds")?;
        Some(match milli {
            0 => HedgeAfter::Off,
            milli => HedgeAfter::Fixed(Duration::from_millis(milli)),
        })
    });
    let budget_percent = section.integer_or(
        "hedge_budget_percent",
        0..=100,
        "a number of calls in a hundred",
        DEFAULT_HEDGE_BUDGET_PERCENT,
    );
    Some(Hedging { after: after?, budget_percent: budget_percent? })
}

fn health_key_of(member: &Member<'_>) -> Option<String> {
    let remedy = "write the CKA_LABEL of an AES key for health checks alone, in quotes";
    let label = member.string(remedy)?;
    if label.is_empty() || label.len() > MAX_LABEL_BYTES {
        member.mistake(format!("it has 0 or more than {MAX_LABEL_BYTES} bytes"), remedy);
        return None;
    }
    Some(label.to_owned())
}

/// Reads the module's path; returns `Some(None)` if it is missing and not required.
fn module(
    section: &Section<'_>,
    environment: Environment<'_>,
    is_required: bool,
) -> Option<Option<PathBuf>> {
    if let Some(path) = environment::module(environment) {
        let location = section.location_of(PKCS11_HSM_MODULE);
        let origin = "the environment variable PKCS11_HSM_MODULE names";
        return is_module(&path, origin, &location, section.report()).then_some(Some(path));
    }
    section.required_if(is_required, PKCS11_HSM_MODULE, MODULE_REMEDY, module_of)
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
    section.report().notice(&section.location_of(first), problem, "they may be kept or removed");
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
