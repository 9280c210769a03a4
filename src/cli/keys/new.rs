//! `xks-proxy keys new`: makes a key and prints the settings lines for it.

use clap::Args;

use super::super::settings_file;
use super::making::{self, Options};
use super::table;
use crate::exit::Failed;
use crate::output::outln;

/// Makes an AES-256 key on a token, tests it, and prints the settings lines to paste
///
/// The key is private, sensitive and not extractable, and may encrypt and decrypt only. A label that
/// exists on any token of the settings is refused. It asks before it writes to the HSM.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The key's CKA_LABEL, which is also its external key id in the lines that are printed
    label: String,
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
///
/// # Errors
/// [`Failed`]: the settings are wrong, or no key was made.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    let Arguments { label, options } = arguments;
    let (settings, _) = settings_file::load(options.file.as_deref(), false)?;
    let made = making::make(&settings, label, options)?;
    outln!(
        "\nTo use it, paste this behind the last member of an [[external_key_stores]], then \
         `xks-proxy reload`:\n\n{}",
        table::of_new_key(label, &made.id)
    );
    Ok(())
}
