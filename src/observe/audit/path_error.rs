//! Errors that name the file concerned.

use std::io;
use std::path::Path;

/// Adds the path to an error.
pub(super) fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
