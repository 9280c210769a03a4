//! How often each function was called, and the counts file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::functions::{FUNCTIONS, Function};
use crate::interposer::Interposer;

/// Threads count apart from each other, so that they don't take a cache line from one another
/// at every call: this many do.
const SHARDS: usize = 32;

/// Calls of each function since the start.
pub struct Calls([Shard; SHARDS]);

#[repr(align(128))]
struct Shard([AtomicU64; FUNCTIONS.len()]);

impl Calls {
    pub const fn new() -> Self {
        Self([const { Shard([const { AtomicU64::new(0) }; FUNCTIONS.len()]) }; SHARDS])
    }

    pub fn count(&self, function: Function) {
        thread_local! {
            static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = SHARD.get().unwrap_or_else(|| {
            let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            SHARD.set(Some(shard));
            shard
        });
        self.0[shard].0[function as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, function: Function) -> u64 {
        let of = |shard: &Shard| shard.0[function as usize].load(Ordering::Relaxed);
        self.0.iter().map(of).sum()
    }
}

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

/// All counts as they are now, as TOML.
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

/// Writes the file so that nobody reads half of it.
///
/// # Errors
/// It can't be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    // The watcher and a C_Finalize may both be at it.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
