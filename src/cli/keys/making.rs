//! The making of a key for `keys new` and `keys rotate`: choice of the token, checks, consent, and
//! the comparison of the tokens afterwards.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;

use super::super::confirm::confirm;
use super::super::probe_hsm::name_of;
use super::prove;
use super::usage::record_new;
use crate::exit::{EXIT_ARGUMENTS, EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::hsm::backend::{Identity, Proof};
use crate::hsm::inventory::KeyDetails;
use crate::hsm::key_date::{Date, KeyDate};
use crate::hsm::pkcs11::ffi::set_environment;
use crate::hsm::pkcs11::key_maker::{KeyMaker, NewKey, NotMade};
use crate::hsm::pkcs11::refusals;
use crate::hsm::proofs::TokenProofs;
use crate::key_name::{ID_PREFIX, KeyName, from_hex, hex};
use crate::limits::{MAX_CKA_ID_BYTES, MAX_KEY_ID_BYTES};
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::process::standalone_hsm::StandaloneHsm;
use crate::random;
use crate::settings::Settings;

/// Bytes of a CKA_ID that is made here.
const NEW_ID_BYTES: usize = 16;

/// The options with which a key is made.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The settings file, if not the one that `serve` would use
    pub(super) file: Option<PathBuf>,
    /// Make the key on this token (label or serial number); needed if the settings have several
    #[arg(long, value_name = "TOKEN")]
    on: Option<String>,
    /// The key's CKA_ID in hexadecimal digits; by default 16 random bytes
    #[arg(long, value_name = "HEX", value_parser = cka_id)]
    id: Option<CkaId>,
    /// Let other keys of the token wrap it, for a backup
    ///
    /// By default the key can never leave the HSM, so only the vendor's means (cloning, backup of
    /// the security world or partition) can save it. With this option, anybody who can log in with a
    /// key that may wrap can take it out of the HSM, and CKA_NEVER_EXTRACTABLE is false for as long
    /// as the key exists.
    #[arg(long)]
    extractable: bool,
    /// With --extractable: only wrapping keys that the security officer has marked as trusted
    #[arg(long, requires = "extractable")]
    wrap_with_trusted: bool,
    /// The day until which the key is to be used (CKA_END_DATE), of which the proxy warns 30 days
    /// ahead
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    end_date: Option<Date>,
    /// Do not ask before the key is made: for scripts
    #[arg(long)]
    yes: bool,
}

/// A CKA_ID, as an argument.
#[derive(Clone, Debug)]
struct CkaId(Vec<u8>);

fn cka_id(text: &str) -> Result<CkaId, String> {
    let id = from_hex(text).filter(|id| (1..=MAX_CKA_ID_BYTES).contains(&id.len()));
    id.map(CkaId).ok_or_else(|| format!("write 1 to {MAX_CKA_ID_BYTES} bytes, two digits each"))
}

fn date(text: &str) -> Result<Date, String> {
    Date::parse_text(text).ok_or_else(|| "write a day, such as 2027-11-30".to_owned())
}

/// A key that was made.
pub(super) struct Made {
    pub(super) id: Vec<u8>,
}

/// Makes a key with that label on one token, and compares the tokens of the settings. Prints what it
/// does.
///
/// # Errors
/// [`Failed`]: no key was made, for the reason given, or the tokens hold different keys.
pub(super) fn make(settings: &Settings, label: &str, options: &Options) -> Result<Made, Failed> {
    require_label(label)?;
    require_future(options.end_date)?;
    // No thread has been started yet.
    set_environment(&settings.pkcs11.environment);
    let mut maker = KeyMaker::open(&settings.pkcs11.tokens).map_err(|why| {
        let message = format!(
            "{why}\nEach token of the settings is searched for the label first. Nothing was made."
        );
        Failed::new(EXIT_UNAVAILABLE, message)
    })?;
    let tokens = maker.identities();
    let at = choose(settings, &tokens, options.on.as_deref())?;
    let Some(token) = tokens.get(at) else {
        return Err(Failed::new(EXIT_SETTINGS, "the settings have no token".to_owned()));
    };
    let key = NewKey {
        label: label.to_owned(),
        id: id(options)?,
        is_extractable: options.extractable,
        is_for_trusted_wrapping: options.wrap_with_trusted,
        end_date: options.end_date,
    };
    refuse_existing(&mut maker, &key)?;
    if maker.is_write_protected(at) {
        let remedy = refusals::WRITE_PROTECTED;
        let message = format!("token {:?}: {remedy}.\nNothing was made.", token.label);
        return Err(Failed::new(EXIT_UNAVAILABLE, message));
    }
    confirm(&question(&key, token), options.yes)?;
    let made = maker.make(at, &key).map_err(|NotMade { reason, left }| {
        let message = format!("token {:?}: {reason}.\n{left}", token.label);
        Failed::new(EXIT_UNAVAILABLE, message)
    })?;
    record_new(settings, label);
    outln!(
        "Made on token {:?} (serial {:?}): AES-256, CKA_LABEL {label:?}, CKA_ID {}. It encrypts and \
         decrypts.",
        token.label,
        token.id,
        hex(&key.id)
    );
    outln!("  {}", attributes(&made.details));
    tell_of_surplus(&made.details);
    if let Some(date) = key.end_date
        && made.details.end_date != KeyDate::On(date)
    {
        outln!("  ATTENTION: the token does not report the end date, so nothing will warn of it");
    }
    // The tokens are used by a fleet next.
    drop(maker);
    if tokens.len() > 1 {
        compare(settings, &key.label)?;
    }
    Ok(Made { id: key.id })
}

/// Requires a label that settings can name.
fn require_label(label: &str) -> Result<(), Failed> {
    let is_allowed = (1..=MAX_KEY_ID_BYTES).contains(&label.len())
        && label.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !label.starts_with(ID_PREFIX);
    if is_allowed {
        return Ok(());
    }
    let message = format!(
        "{label:?} is no label for a key: write 1 to {MAX_KEY_ID_BYTES} printable ASCII characters \
         that do not begin with {ID_PREFIX:?}"
    );
    Err(Failed::new(EXIT_ARGUMENTS, message))
}

/// Requires an end date that has not come yet.
fn require_future(end_date: Option<Date>) -> Result<(), Failed> {
    let today = Date::of_unix_secs(unix_secs(SystemTime::now()));
    match end_date.filter(|date| *date <= today) {
        None => Ok(()),
        Some(date) => {
            let message = format!("--end-date {date}: write a day that is still to come");
            Err(Failed::new(EXIT_ARGUMENTS, message))
        }
    }
}

fn id(options: &Options) -> Result<Vec<u8>, Failed> {
    if let Some(CkaId(id)) = &options.id {
        return Ok(id.clone());
    }
    let mut id = vec![0; NEW_ID_BYTES];
    random::fill(&mut id).map_err(|error| {
        Failed::unavailable(format!("no random numbers from the system: {error}"))
    })?;
    Ok(id)
}

/// Returns the index of the token on which to make the key.
fn choose(settings: &Settings, tokens: &[Identity], on: Option<&str>) -> Result<usize, Failed> {
    let listed: Vec<String> = tokens
        .iter()
        .zip(&settings.pkcs11.tokens)
        .map(|(token, config)| {
            let Identity { label, id, .. } = token;
            format!("  {label:?}, serial {id:?} ({})", name_of(&config.select))
        })
        .collect();
    let refused = |problem: String| {
        Err(Failed::new(EXIT_ARGUMENTS, format!("{problem}:\n{}", listed.join("\n"))))
    };
    let Some(on) = on else {
        return match tokens {
            [_] => Ok(0),
            _ => refused(format!(
                "The settings have {} tokens, and a key is made on one: the others get the same \
                 key by the vendor's means (cloning, security world, HA group), never by making it \
                 again. Say on which, with --on TOKEN (label or serial number)",
                tokens.len()
            )),
        };
    };
    let is_it = |(_, token): &(usize, &Identity)| token.label == on || token.id == on;
    let found: Vec<usize> = tokens.iter().enumerate().filter(is_it).map(|(at, _)| at).collect();
    // A token that the settings reach in several ways is one.
    let serial = |at: &usize| tokens.get(*at).map(|token| &token.id);
    match found.as_slice() {
        [] => refused(format!("--on {on:?}: no token of the settings has this label or serial")),
        [first, others @ ..] if others.iter().all(|at| serial(at) == serial(first)) => Ok(*first),
        _ => refused(format!("--on {on:?}: several tokens have this label: give the serial")),
    }
}

/// Refuses a label or CKA_ID that exists on any token: the proxy could not tell the keys apart.
fn refuse_existing(maker: &mut KeyMaker, key: &NewKey) -> Result<(), Failed> {
    for name in [KeyName::Label(&key.label), KeyName::CkaId(key.id.clone())] {
        let found = maker
            .find(&name)
            .map_err(|why| Failed::new(EXIT_UNAVAILABLE, format!("{why}\nNothing was made.")))?;
        let Some(token) = found else { continue };
        let attribute = match &name {
            KeyName::Label(label) => format!("CKA_LABEL {label:?}"),
            KeyName::CkaId(id) => format!("CKA_ID {}", hex(id)),
        };
        let message = format!(
            "Token {:?} (serial {:?}) has an object with {attribute} already: choose another. \
             Nothing was made.",
            token.label, token.id
        );
        return Err(Failed::new(EXIT_UNAVAILABLE, message));
    }
    Ok(())
}

fn question(key: &NewKey, token: &Identity) -> String {
    let out = match (key.is_extractable, key.is_for_trusted_wrapping) {
        (false, _) => "that can never leave the HSM",
        (true, false) => "that any key which may wrap can take out of the HSM",
        (true, true) => "that trusted wrapping keys can take out of the HSM",
    };
    let end = key.end_date.map(|date| format!(", end date {date}")).unwrap_or_default();
    format!(
        "Make an AES-256 key {out}, CKA_LABEL {:?}{end}, on token {:?} (serial {:?}, {} {})?",
        key.label, token.label, token.id, token.manufacturer, token.model
    )
}

fn attributes(details: &KeyDetails) -> String {
    let told = |is_set: Option<bool>| match is_set {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    format!(
        "private {}, sensitive {}, extractable {}, local {}",
        told(details.private),
        told(details.sensitive),
        told(details.extractable),
        told(details.local)
    )
}

/// Warns of uses that the token permits although they were not asked for.
fn tell_of_surplus(details: &KeyDetails) {
    let surplus = details.surplus_uses();
    if !surplus.is_empty() {
        outln!(
            "  ATTENTION: the token also lets it {}, which the proxy does not need",
            surplus.join(", ")
        );
    }
}

/// Compares the key on all tokens, and prints what is to be done.
fn compare(settings: &Settings, label: &str) -> Result<(), Failed> {
    let mut config = settings.hsm_config(&settings.service());
    config.labels = vec![label.into()];
    (config.health_key, config.storeless_keys) = (None, Vec::new());
    let tokens = StandaloneHsm::start_with(settings, config)?.hsm().prove_all(1);
    outln!("\nThe key on each token:");
    for TokenProofs { label, id, keys, trouble } in &tokens {
        let told = match (trouble, keys.first()) {
            (Some(trouble), _) => format!("NOT TRIED: {trouble}"),
            (None, Some(key)) => prove::told(key),
            (None, None) => "not tried".to_owned(),
        };
        outln!("  token {label:?}, serial {id:?}: {told}");
    }
    let proofs = || tokens.iter().filter_map(|token| token.keys.first()).map(|key| &key.proof);
    if proofs().any(|proof| matches!(proof, Proof::Disagrees | Proof::Disputed)) {
        let message = format!(
            "the tokens hold different keys under {label:?}: do not use this label before one of \
             them has been destroyed with the vendor's tool"
        );
        return Err(Failed::new(EXIT_UNAVAILABLE, message));
    }
    let is_everywhere = proofs().count() == tokens.len()
        && proofs().all(|proof| matches!(proof, Proof::Agrees | Proof::Made));
    if is_everywhere {
        outln!("All tokens hold the same key.");
    } else {
        outln!(
            "\nREPLICATE the key to the other tokens now, by the vendor's means (cloning, security \
             world, HA group). Then let `xks-proxy keys prove`, with the lines below in its settings \
             file, prove that all hold the same, before a running proxy reads them."
        );
    }
    Ok(())
}
