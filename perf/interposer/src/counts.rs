//! The counts file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::functions::FUNCTIONS;
use crate::interposer::Interposer;

#[derive(Serialize)]
struct Counts<'a> {
    name: &'a str,
    seed: u64,
    settings_read: u64,
    settings_error: &'a str,
    hung: usize,
    calls: BTreeMap<&'static str, u64>,
    fault: Vec<FaultCounts>,
}

#[derive(Serialize)]
struct FaultCounts {
    fitted: u64,
    acted: u64,
}

/// Returns all current counts as TOML.
pub fn text(interposer: &Interposer) -> String {
    let settings = interposer.settings.load();
    let error = interposer.error.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = Counts {
        name: &settings.name,
        seed: settings.seed,
        settings_read: interposer.reads.load(Ordering::Relaxed),
        settings_error: &error,
        hung: interposer.hung.load(Ordering::Relaxed),
        calls: FUNCTIONS
            .into_iter()
            .map(|function| (function.name(), interposer.calls.of(function)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        fault: settings
            .faults
            .iter()
            .map(|fault| FaultCounts {
                fitted: fault.fitted.load(Ordering::Relaxed),
                acted: fault.acted.load(Ordering::Relaxed),
            })
            .collect(),
    };
    toml::to_string(&counts).unwrap_or_else(|error| format!("# {error}\n"))
}

/// Writes the file atomically, so that no reader sees half of it.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    // The watcher and a C_Finalize may write at the same time.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
