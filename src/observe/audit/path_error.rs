//! Errors that name the file concerned.

use std::io;
use std::path::Path;

use crate::observe::redaction::shown_path;

/// Adds the path to an error.
pub(super) fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Adds a path from the settings to an error, unless it may be a secret.
pub(super) fn with_setting(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown_path(path)))
}
