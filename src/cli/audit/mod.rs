//! `xks-proxy audit`: creates the first key of an audit log's chain, verifies a log, and reports what
//! is in it.

mod report;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use zeroize::Zeroizing;

use crate::exit::{EXIT_UNAVAILABLE, Failed};
use crate::observe::audit::chain::CODE_BYTES;
use crate::observe::audit::key;
use crate::output::outln;
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
    Verify(verify::Log),
    /// Report who used which key when, what was refused, and what interrupted the log
    ///
    /// Verifies the log, too, and counts only lines that are as the proxy wrote them. The report
    /// begins with the outcome. Times are UTC. Exit codes are those of `audit verify`: the report is
    /// also written with 1, and with 78 if lines are not verified by the HSM.
    Report(report::Arguments),
}

pub(super) fn run(command: AuditCommand) -> Result<(), Failed> {
    match command {
        AuditCommand::NewKey { file } => new_key(&file),
        AuditCommand::Verify(arguments) => verify::run(&arguments),
        AuditCommand::Report(arguments) => report::run(&arguments),
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
        "{} is the first key. Copy it to where the log is checked, give it to the proxy's user \
         (chown), name it in [audit] key_file, start the proxy, then remove it here.",
        file.display()
    );
    Ok(())
}
