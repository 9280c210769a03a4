//! `xks-proxy serve`, which is also what the program does without a command.

use super::settings_file;
use crate::exit::Failed;
use crate::process::serve;
use crate::process::start::Start;

/// Serves until SIGTERM or SIGINT, or until another process does in its place.
///
/// # Errors
/// [`Failed`]: nothing was started, or an event loop ended by itself.
pub(super) fn run() -> Result<(), Failed> {
    // Before any file is opened: see `inherited::from_systemd`.
    let start = Start::new()?;
    let (settings, findings) = settings_file::load(None, false)?;
    serve::run(start, settings, &findings)
}
