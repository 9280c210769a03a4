//! The exact number of calls of C_Encrypt, which outlives a process that is killed.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::functions::Function;

static FILE: OnceLock<Option<File>> = OnceLock::new();

/// Appends a byte to the file of `XKS_INTERPOSER_MARKS` at each call of C_Encrypt, before the call.
/// The length of the file is the number of calls.
pub fn mark(function: Function) {
    if !matches!(function, Function::C_Encrypt) {
        return;
    }
    let open = || {
        let path = PathBuf::from(std::env::var_os("XKS_INTERPOSER_MARKS")?);
        OpenOptions::new().append(true).create(true).open(path).ok()
    };
    if let Some(mut file) = FILE.get_or_init(open).as_ref() {
        // The tests notice a file that is too short.
        let _ = file.write_all(b".");
    }
}
