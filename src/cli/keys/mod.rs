//! `xks-proxy keys`: lists the keys of the tokens, proves, makes and rotates them.

mod list;
pub(super) mod prove;
mod usage;
mod usage_report;
mod usage_sums;

use std::path::PathBuf;

pub(super) use list::{print_token, spec};

use crate::exit::Failed;

/// The command line of `keys`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The settings file, if not the one that `serve` would use
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Prove that all tokens hold the same keys, with a ciphertext of each key: its witness
    Prove(prove::Arguments),
    /// Show how often each HSM key has been used, and when it reaches its limit of encryptions
    Usage(usage::Arguments),
}

/// Runs the subcommand, or lists the keys if there is none.
///
/// # Errors
/// [`Failed`]: the settings are wrong, a token cannot be used, or the subcommand's own reasons.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    match &arguments.command {
        None => list::run(arguments.file.as_deref()),
        Some(Command::Prove(arguments)) => prove::run(arguments),
        Some(Command::Usage(arguments)) => usage::run(arguments),
    }
}
