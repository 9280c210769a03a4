//! `xks-proxy keys`: lists the keys of the tokens, proves, makes and rotates them.

mod audit;
mod counts;
mod json;
mod list;
mod making;
mod new;
pub(super) mod prove;
mod rotate;
mod table;
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
    /// Print JSON, in the form that docs/operations.md describes
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an AES-256 key on a token, test it, and print the settings lines to paste
    New(new::Arguments),
    /// Prove that all tokens hold the same keys, with a ciphertext of each key: its witness
    Prove(prove::Arguments),
    /// Make the key of the next version of an external key id, and print the steps of the rotation
    Rotate(rotate::Arguments),
    /// Show how often each HSM key has been used, and when it reaches its limit of encryptions
    Usage(usage::Arguments),
}

/// Runs the subcommand, or lists the keys if there is none.
///
/// # Errors
/// [`Failed`]: the settings are wrong, a token cannot be used, or the subcommand's own reasons.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    match &arguments.command {
        None => list::run(arguments.file.as_deref(), arguments.json),
        Some(Command::New(arguments)) => new::run(arguments),
        Some(Command::Prove(arguments)) => prove::run(arguments),
        Some(Command::Rotate(arguments)) => rotate::run(arguments),
        Some(Command::Usage(arguments)) => usage::run(arguments),
    }
}
