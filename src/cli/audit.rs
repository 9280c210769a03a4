//! `xks-proxy audit`: creates the first key of an audit log's chain, and verifies a log.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Subcommand;
use zeroize::Zeroizing;

use super::settings_file;
use crate::exit::{EXIT_SETTINGS, EXIT_TAMPERED, EXIT_UNAVAILABLE, Failed};
use crate::limits::MAX_UNSEALED_SECS;
use crate::observe::audit::chain::{CODE_BYTES, Chain};
use crate::observe::audit::checkpoint::{Checkpoint, CheckpointError};
use crate::observe::audit::key;
use crate::observe::audit::verify::{Finding, Summary, verify};
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::process::audit::seal_of;
use crate::process::standalone_hsm::StandaloneHsm;
use crate::random;

/// The subcommands of `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Make the first key of an audit log's chain
    ///
    /// Name the file in [audit] key_file and keep a copy away from this machine, for `verify`. Once
    /// the proxy has started for the first time, remove the file here.
    NewKey {
        /// The file to create; an existing one is never overwritten
        file: PathBuf,
    },
    /// Find lines that were changed, removed, inserted or moved
    ///
    /// Exit codes: 0 all is as the proxy wrote it; 1 it is not; 78 it cannot be checked, or with
    /// --hsm, lines are neither covered by a checkpoint nor too recent for one.
    Verify {
        /// The chain's first key; without it, the one that the settings file names
        #[arg(long)]
        key_file: Option<PathBuf>,
        /// The log's .state file, or a later copy of it: also finds lines cut off the end
        #[arg(long)]
        state: Option<PathBuf>,
        /// Let the HSM of the settings file verify the log's checkpoints
        #[arg(long)]
        hsm: bool,
        /// All files of the log, in any order; the oldest may be gone
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

pub(super) fn run(command: AuditCommand) -> Result<(), Failed> {
    match command {
        AuditCommand::NewKey { file } => new_key(&file),
        AuditCommand::Verify { key_file, state, hsm, files } => {
            check(key_file.as_deref(), state.as_deref(), hsm, &files)
        }
    }
}

fn new_key(file: &Path) -> Result<(), Failed> {
    let unavailable = |error: &dyn std::fmt::Display| {
        Failed::new(EXIT_UNAVAILABLE, format!("{}: {error}", file.display()))
    };
    let mut bytes = Zeroizing::new([0; CODE_BYTES]);
    random::fill(&mut *bytes).map_err(|error| unavailable(&error))?;
    key::write_new(file, &bytes).map_err(|error| unavailable(&error))?;
    outln!(
        "{} is the first key. Copy it to where the log is checked, name it in [audit] key_file, \
         start the proxy, then remove it here.",
        file.display()
    );
    Ok(())
}

fn check(
    key_file: Option<&Path>,
    state: Option<&Path>,
    with_hsm: bool,
    files: &[PathBuf],
) -> Result<(), Failed> {
    let unusable = |text: String| Failed::new(EXIT_SETTINGS, text);
    let settings = match key_file.is_none() || with_hsm {
        true => Some(settings_file::load(None, false)?.0),
        false => None,
    };
    let key_file = match (key_file, settings.as_ref().and_then(|it| it.audit.as_ref())) {
        (Some(file), _) => file.to_owned(),
        (None, Some(audit)) => audit.key_file.clone(),
        (None, None) => {
            let text = "name the key with --key-file: the settings have no [audit]";
            return Err(unusable(text.to_owned()));
        }
    };
    let key = key::read(&key_file)
        .map_err(|error| unusable(format!("{}: {error}", key_file.display())))?;
    let mut tell = |finding: &Finding| {
        let word = if finding.is_tampered { "TAMPERED" } else { "note" };
        outln!("{}: {word}: {}", finding.position, finding.text);
    };
    let chain = Chain::begin(key);
    let summary = match settings.filter(|_| with_hsm) {
        Some(settings) => {
            let service = settings.service();
            let standalone = StandaloneHsm::start(&settings, &service)?;
            let configured = settings.audit.as_ref().and_then(|it| it.hsm_key.as_deref());
            let Some(label) = configured else {
                let text = "--hsm needs [audit] hsm_key in the settings: only checkpoints that \
                            this key has sealed count";
                return Err(unusable(text.to_owned()));
            };
            let mut ask = |checkpoint: &Checkpoint| match service.key_of(label) {
                Some(key) if checkpoint.label == label => seal_of(&standalone, key, checkpoint),
                _ => Err(CheckpointError::OtherKey(checkpoint.label.clone())),
            };
            verify(files, chain, state, Some(&mut ask), &mut tell)
        }
        None => verify(files, chain, state, None, &mut tell),
    };
    judge(&summary.map_err(|error| unusable(error.to_string()))?, state.is_some(), with_hsm)
}

fn judge(summary: &Summary, has_state: bool, with_hsm: bool) -> Result<(), Failed> {
    if summary.is_other_chain {
        let text = "no line fits this key, and the log names another chain: it is the wrong key";
        return Err(Failed::new(EXIT_SETTINGS, text.to_owned()));
    }
    let Summary { good_lines, tampered, first_seq, next_seq, .. } = *summary;
    if tampered > 0 {
        let text = format!("{tampered} findings; {good_lines} lines are as they were written");
        return Err(Failed::new(EXIT_TAMPERED, text));
    }
    let Some(first) = first_seq else {
        return Err(Failed::new(EXIT_SETTINGS, "there is no line in these files".to_owned()));
    };
    outln!("good: {good_lines} lines, number {first} to {}", next_seq - 1);
    if !has_state {
        outln!(
            "Whether lines were cut off after the last one{} can only be told with --state or a \
             later file.",
            if summary.is_ended { "" } else { ", which is not the end of a process or file," }
        );
    }
    if with_hsm {
        return judge_seals(summary, unix_secs(SystemTime::now()));
    }
    if summary.checkpoints > 0 {
        outln!("Checkpoints: {}; --hsm finds out whether they are sealed.", summary.checkpoints);
    }
    Ok(())
}

/// Judges which lines the HSM has sealed. Lines after the last checkpoint may not have one yet.
fn judge_seals(summary: &Summary, now: u64) -> Result<(), Failed> {
    let not_verified = |text: String| Failed::new(EXIT_SETTINGS, text);
    let Some(seq) = summary.sealed_seq else {
        let text = "not verified by the HSM: there is no checkpoint in these files";
        return Err(not_verified(text.to_owned()));
    };
    outln!("The HSM vouches for all before number {seq}; checkpoints: {}.", summary.checkpoints);
    let unsealed = &summary.unsealed;
    if unsealed.lines == 0 {
        return Ok(());
    }
    let lines = format!(
        "number {} to {}, {} to {}",
        seq + 1,
        summary.next_seq - 1,
        unsealed.since,
        unsealed.until
    );
    if unsealed.age_secs(summary.is_ended, now) > MAX_UNSEALED_SECS {
        return Err(not_verified(format!(
            "not verified by the HSM: the lines after that ({lines}), which are too old to be \
             without a checkpoint"
        )));
    }
    outln!("Only the chain vouches for the lines after that ({lines}): no checkpoint was due yet.");
    Ok(())
}
