//! `xks-proxy serve`, which is also the default if no command is given.

use super::settings_file;
use crate::exit::Failed;
use crate::process::serve;
use crate::process::start::Start;

/// Serves until SIGTERM or SIGINT, or until another process serves in its place.
///
/// # Errors
/// [`Failed`]: nothing was started, or an event loop ended by itself.
pub(super) fn run() -> Result<(), Failed> {
    // Must precede the opening of any file: see `inherited::from_systemd`.
    let start = Start::new()?;
    let (settings, findings) = settings_file::load(None, false)?;
    serve::run(start, settings, &findings)
}
