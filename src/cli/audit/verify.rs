//! `xks-proxy audit verify`, and the verification that a report begins with.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::cli::settings_file;
use crate::exit::{EXIT_SETTINGS, EXIT_TAMPERED, Failed};
use crate::limits::MAX_UNSEALED_SECS;
use crate::observe::audit::chain::Chain;
use crate::observe::audit::checkpoint::{Checkpoint, CheckpointError};
use crate::observe::audit::key;
use crate::observe::audit::verify::{Finding, Reader, Summary, verify};
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::process::audit::seal_of;
use crate::process::standalone_hsm::StandaloneHsm;

/// The log, and what to verify it with.
#[derive(Debug, clap::Args)]
pub struct Log {
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
    pub(super) files: Vec<PathBuf>,
}

/// The outcome of a verification, for people.
pub(super) struct Judgement {
    /// The facts about the log, one statement each.
    pub(super) statements: Vec<String>,
    /// The reason why the log is not good.
    pub(super) failure: Option<Failed>,
}

pub(super) fn run(log: &Log) -> Result<(), Failed> {
    let mut tell = |finding: &Finding| {
        let word = if finding.is_tampered { "TAMPERED" } else { "note" };
        outln!("{}: {word}: {}", finding.position, finding.text);
    };
    let summary = read(log, &mut tell)?;
    let judgement = judge(&summary, log, unix_secs(SystemTime::now()));
    for statement in judgement.statements {
        outln!("{statement}");
    }
    judgement.failure.map_or(Ok(()), Err)
}

/// Verifies the log, and gives `reader` what is in it.
///
/// # Errors
/// The log cannot be verified: the key, a file, the settings or the HSM is missing.
pub(super) fn read(log: &Log, reader: &mut dyn Reader) -> Result<Summary, Failed> {
    let unusable = |text: String| Failed::new(EXIT_SETTINGS, text);
    let Log { key_file, state, hsm: with_hsm, files } = log;
    let settings = match key_file.is_none() || *with_hsm {
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
    let chain = Chain::begin(key);
    let state = state.as_deref();
    let summary = match settings.filter(|_| *with_hsm) {
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
            verify(files, chain, state, Some(&mut ask), reader)
        }
        None => verify(files, chain, state, None, reader),
    };
    summary.map_err(|error| unusable(error.to_string()))
}

/// Returns whether the files have nothing to do with an audit log, as far as can be known: a state
/// tells that there should be one.
fn is_other_file(summary: &Summary, log: &Log) -> bool {
    summary.formed_lines == 0 && log.state.is_none()
}

/// Returns whether there is something to report on: lines of this key's log, or of what was made of it.
pub(super) fn is_reportable(summary: &Summary, log: &Log) -> bool {
    let is_empty = summary.good_lines == 0 && summary.tampered == 0;
    !summary.is_other_chain && !is_empty && !is_other_file(summary, log)
}

/// Judges whether the log is what the proxy wrote. `now` is the time in seconds since 1970.
pub(super) fn judge(summary: &Summary, log: &Log, now: u64) -> Judgement {
    let failed = |exit_code: u8, text: String| Judgement {
        statements: Vec::new(),
        failure: Some(Failed::new(exit_code, text)),
    };
    if summary.is_other_chain {
        let text = "no line fits this key, and the log names another chain: it is the wrong key";
        return failed(EXIT_SETTINGS, text.to_owned());
    }
    if is_other_file(summary, log) {
        let text = "there is no line of an audit log in these files";
        return failed(EXIT_SETTINGS, text.to_owned());
    }
    let Summary { good_lines, tampered, first_seq, next_seq, .. } = *summary;
    if tampered > 0 {
        let text = format!("{tampered} findings; {good_lines} lines are as they were written");
        return failed(EXIT_TAMPERED, text);
    }
    let Some(first) = first_seq else {
        return failed(EXIT_SETTINGS, "there is no line in these files".to_owned());
    };
    let mut statements =
        vec![format!("good: {good_lines} lines, number {first} to {}", next_seq - 1)];
    if log.state.is_none() {
        statements.push(format!(
            "Whether lines were cut off after the last one{} can only be told with --state or a \
             later file.",
            if summary.is_ended { "" } else { ", which is not the end of a process or file," }
        ));
    }
    let mut failure = None;
    if log.hsm {
        failure = judge_seals(summary, now, &mut statements).err();
    } else if summary.checkpoints > 0 {
        statements.push(format!(
            "Checkpoints: {}; --hsm finds out whether they are sealed.",
            summary.checkpoints
        ));
    }
    Judgement { statements, failure }
}

/// Judges which lines the HSM has sealed. Lines after the last checkpoint may not have one yet.
fn judge_seals(summary: &Summary, now: u64, statements: &mut Vec<String>) -> Result<(), Failed> {
    let not_verified = |text: String| Failed::new(EXIT_SETTINGS, text);
    let Some(seq) = summary.sealed_seq else {
        let text = "not verified by the HSM: there is no checkpoint in these files";
        return Err(not_verified(text.to_owned()));
    };
    statements.push(format!(
        "The HSM vouches for all before number {seq}; checkpoints: {}.",
        summary.checkpoints
    ));
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
    statements.push(format!(
        "Only the chain vouches for the lines after that ({lines}): no checkpoint was due yet."
    ));
    Ok(())
}
