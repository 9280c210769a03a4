//! `xks-proxy keys prove`: proves that all tokens hold the same keys.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::super::settings_file;
use crate::exit::{EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::hsm::backend::{Evidence, Proof};
use crate::hsm::proofs::{KeyOnToken, TokenProofs};
use crate::hsm::witness::{Witness, Witnesses};
use crate::limits::MAX_WITNESS_FILE_BYTES;
use crate::output::outln;
use crate::process::standalone_hsm::StandaloneHsm;
use crate::proto::ServiceConfig;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::witness_file::{self, Content};

/// Proves each key on each token of the settings, and prints a table.
///
/// A key's witness is a ciphertext of a fixed text: the one in the state directory, or else one
/// that the first token makes. A token that cannot decrypt it holds another key. After a change of
/// the state directory, let running proxies read it: `xks-proxy reload`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The settings file, if not the one that `serve` would use
    file: Option<PathBuf>,
    /// Write the keys' witnesses to a file, for replicas that have tokens of their own
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Use the witnesses of a file, and keep them in the state directory
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Make the keys' witnesses with this token (label or serial number), which counts as right
    /// from now on, and keep them in the state directory
    #[arg(long, value_name = "TOKEN", conflicts_with = "with")]
    trust: Option<String>,
    /// With --trust: only this key (its external key id); by default all
    #[arg(long, value_name = "LABEL", requires = "trust")]
    key: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// [`Failed`]: the settings or a file are wrong, or a key is not the same on all tokens.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    let (settings, _) = settings_file::load(arguments.file.as_deref(), false)?;
    let directory = settings.state_directory.as_deref().map(Directory::new);
    let keeps = arguments.with.is_some() || arguments.trust.is_some();
    if keeps && directory.is_none() {
        let message = "the settings have no [state] directory to keep the witnesses in: add it";
        return Err(Failed::new(EXIT_SETTINGS, message.to_owned()));
    }
    let service = settings.service();
    let mut known = known_witnesses(arguments, &service, directory.as_ref())?;
    let given = given_witnesses(arguments)?;
    known.extend(given.clone());
    let trusted = arguments.trust.clone().or_else(|| settings.pkcs11.trust_token.clone());
    let witnesses = Arc::new(Witnesses::new(known, trusted));
    let mut config = settings.hsm_config(&service);
    config.witnesses = Arc::clone(&witnesses);
    let standalone = StandaloneHsm::start_with(&settings, config)?;
    let tokens = prove(&standalone, &service);
    print_table(&tokens, &service, &settings);
    let trusted = arguments.trust.as_deref().map(|name| trusted_id(&tokens, name)).transpose()?;
    if let Some(id) = &trusted {
        require_witnesses(&witnesses, id, &arguments.key)?;
    }
    let is_named =
        |label: &str| arguments.key.is_empty() || arguments.key.iter().any(|key| **key == *label);
    if let Some(directory) = directory.as_ref().filter(|_| keeps) {
        let precedence = |label: &str, witness: &Witness| match &trusted {
            Some(id) if witness.made_by == *id && is_named(label) => Precedence::First,
            // The operator asked to keep only the trusted token's witnesses of the named keys.
            Some(_) => Precedence::None,
            None if given.get(label) == Some(witness) => Precedence::First,
            None => Precedence::Second,
        };
        keep(directory, &witnesses, precedence)?;
    }
    if let Some(file) = &arguments.export {
        export(file, &witnesses)?;
    }
    let untried = tokens.iter().filter(|token| token.trouble.is_some()).count();
    match mistakes(&tokens, &service, &settings) {
        0 if untried > 0 => {
            Err(Failed::new(EXIT_UNAVAILABLE, format!("\n{untried} tokens could not be tried")))
        }
        0 => Ok(()),
        number => {
            let message = format!("\nkeys that are not the same on all tokens, or fail: {number}");
            Err(Failed::new(EXIT_UNAVAILABLE, message))
        }
    }
}

fn known_witnesses(
    arguments: &Arguments,
    service: &ServiceConfig,
    directory: Option<&Directory>,
) -> Result<witness_file::Witnesses, Failed> {
    let mut known = match directory {
        Some(directory) => content(directory.path(), witness_file::load(directory))?,
        None => witness_file::Witnesses::new(),
    };
    if arguments.trust.is_some() {
        for key in &arguments.key {
            if service.key_of(key).is_none() {
                let message = format!("--key {key:?}: no store of the settings has this key");
                return Err(Failed::new(EXIT_SETTINGS, message));
            }
        }
        known.retain(|label, _| {
            !arguments.key.is_empty() && !arguments.key.iter().any(|key| **key == **label)
        });
    }
    Ok(known)
}

/// Returns the witnesses in the file given by --with.
fn given_witnesses(arguments: &Arguments) -> Result<witness_file::Witnesses, Failed> {
    let Some(file) = &arguments.with else { return Ok(witness_file::Witnesses::new()) };
    let told = |error| Failed::new(EXIT_SETTINGS, format!("{}: {error}", file.display()));
    let mut bytes = Vec::new();
    let open = fs::File::open(file).map_err(told)?;
    open.take(MAX_WITNESS_FILE_BYTES).read_to_end(&mut bytes).map_err(told)?;
    content(file, witness_file::parse(&bytes))
}

/// Returns the serial number, or else the label, of the token that --trust names. It is an error if
/// that token is missing: otherwise another token would make the witnesses.
fn trusted_id(tokens: &[TokenProofs], name: &str) -> Result<String, Failed> {
    let Some(token) = tokens.iter().find(|token| token.label == name || token.id == name) else {
        let message =
            format!("--trust {name:?}: no token of the settings has this label or serial number");
        return Err(Failed::new(EXIT_SETTINGS, message));
    };
    match &token.trouble {
        None => Ok(token.id.clone()),
        Some(trouble) => {
            let message = format!("--trust {name:?}: {trouble}; no witness was kept");
            Err(Failed::new(EXIT_UNAVAILABLE, message))
        }
    }
}

/// Checks that the trusted token made the witness of each key that --key names.
fn require_witnesses(witnesses: &Witnesses, id: &str, keys: &[String]) -> Result<(), Failed> {
    let is_made = |key: &&String| witnesses.get(key).is_some_and(|it| it.made_by == id);
    match keys.iter().find(|key| !is_made(key)) {
        None => Ok(()),
        Some(key) => {
            let message = format!(
                "--key {key:?}: the token {id:?} has made no witness of it, see the table above; no \
                 witness was kept"
            );
            Err(Failed::new(EXIT_UNAVAILABLE, message))
        }
    }
}

/// Returns the witnesses in a file. Unlike at the start of the proxy, damage is an error, as an
/// operator is there to act on it.
fn content(
    path: &Path,
    content: Result<Content, witness_file::Unreadable>,
) -> Result<witness_file::Witnesses, Failed> {
    let failed = |why: String| Failed::new(EXIT_SETTINGS, format!("{}: {why}", path.display()));
    match content {
        Ok(Content { witnesses, damaged_lines: 0 }) => Ok(witnesses),
        Ok(Content { damaged_lines, .. }) => {
            Err(failed(format!("{damaged_lines} lines of the witnesses are damaged")))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Precedence of a witness over the one in the state directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Precedence {
    First,
    /// Kept only if the directory has none.
    Second,
    /// Not kept.
    None,
}

fn keep(
    directory: &Directory,
    witnesses: &Witnesses,
    precedence: impl Fn(&str, &Witness) -> Precedence,
) -> Result<(), Failed> {
    let mut kept = 0;
    let changed = witness_file::change(directory, |known| {
        for (label, witness) in witnesses.settled() {
            let is_kept = match precedence(&label, &witness) {
                Precedence::First => known.get(&label) != Some(&*witness),
                Precedence::Second => !known.contains_key(&label),
                Precedence::None => false,
            };
            if is_kept {
                kept += 1;
                known.insert(label, (*witness).clone());
            }
        }
    });
    let path = directory.path().display();
    changed.map_err(|error| Failed::new(EXIT_UNAVAILABLE, format!("{path}: {error}")))?;
    outln!("\n{path}: new witnesses: {kept}; running proxies take them up by `xks-proxy reload`");
    Ok(())
}

fn export(file: &Path, witnesses: &Witnesses) -> Result<(), Failed> {
    let settled = witnesses.settled();
    let number = settled.len();
    let owned = settled.into_iter().map(|(label, witness)| (label, (*witness).clone()));
    let written = witness_file::format(&owned.collect()).and_then(|it| fs::write(file, it));
    let told = |error| Failed::new(EXIT_UNAVAILABLE, format!("{}: {error}", file.display()));
    written.map_err(told)?;
    outln!("\n{}: witnesses written: {number}", file.display());
    Ok(())
}

/// Tries every key on every token.
pub(in crate::cli) fn prove(
    standalone: &StandaloneHsm,
    service: &ServiceConfig,
) -> Vec<TokenProofs> {
    let keys = u32::try_from(service.labels().len()).unwrap_or(u32::MAX);
    standalone.hsm().prove_all(keys)
}

/// Prints the outcome for each key on each token.
pub(in crate::cli) fn print_table(
    tokens: &[TokenProofs],
    service: &ServiceConfig,
    settings: &Settings,
) {
    for TokenProofs { label, id, keys, trouble } in tokens {
        outln!("\ntoken {label:?}, serial {id:?}");
        if let Some(trouble) = trouble {
            outln!("  NOT TRIED: {trouble}");
        }
        for (name, key) in of_stores(keys, service, settings) {
            outln!("  {name:<40} {}", told(key));
        }
    }
    let all = tokens.iter().flat_map(|token| of_stores(&token.keys, service, settings));
    if all.clone().any(|(_, key)| matches!(key.proof, Proof::Disagrees | Proof::Disputed)) {
        outln!(
            "\nREMEDY: a key that differs encrypts what the other tokens cannot decrypt. Import the \
             right key into each token under its label. Where the tokens disagree, say which one \
             is right: [pkcs11] trust_token, or `xks-proxy keys prove --trust TOKEN --key LABEL`, \
             with the token that made the ciphertexts which are in use."
        );
    }
}

/// Returns the keys of the stores and of the audit log, without the health key, which may differ
/// from token to token.
fn of_stores<'a>(
    keys: &'a [KeyOnToken],
    service: &'a ServiceConfig,
    settings: &'a Settings,
) -> impl Iterator<Item = (&'a str, &'a KeyOnToken)> + Clone {
    let is_of_store = |label: &str| settings.stores.iter().any(|store| store.has_key_name(label));
    let is_for_probes_alone = move |label: &str| {
        settings.pkcs11.health_key.as_deref() == Some(label) && !is_of_store(label)
    };
    let labels = service.labels().iter().map(AsRef::as_ref);
    labels.zip(keys).filter(move |(label, _)| !is_for_probes_alone(label))
}

/// Returns the outcome for a key, for the operator.
pub(super) fn told(key: &KeyOnToken) -> String {
    let proof = match &key.proof {
        Proof::Agrees => "proven: it decrypts the key's witness".to_owned(),
        Proof::Made => "proven: it made the key's witness".to_owned(),
        Proof::Disagrees => "DIFFERS: it is another key than the witness's".to_owned(),
        Proof::Disputed => {
            "DIFFERS from another token's, and no witness says which is right".into()
        }
        Proof::Unproven(reason) => format!("not proven: {reason}"),
        Proof::Absent => "missing".to_owned(),
    };
    match key.round_trip {
        Evidence::Passed => format!("{proof}; encrypts and decrypts"),
        Evidence::Failed => format!("{proof}; FAILS to encrypt or decrypt"),
        Evidence::Unavailable => proof,
    }
}

/// Returns the number of wrong keys, counted for each token. A key that only some tokens have is
/// not a mistake: the keys may be divided among the tokens.
pub(in crate::cli) fn mistakes(
    tokens: &[TokenProofs],
    service: &ServiceConfig,
    settings: &Settings,
) -> usize {
    let is_wrong = |key: &KeyOnToken| {
        key.round_trip == Evidence::Failed
            || matches!(key.proof, Proof::Disagrees | Proof::Disputed)
            || matches!(key.proof, Proof::Unproven(_)) && key.round_trip == Evidence::Passed
    };
    let keys = tokens.iter().flat_map(|token| of_stores(&token.keys, service, settings));
    keys.filter(|(_, key)| is_wrong(key)).count()
}
