//! The thread that reads settings again and writes counts.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::counts;
use crate::interposer::{self, Interposer};
use crate::settings::Settings;

/// Between two looks at the request file.
const TICK: Duration = Duration::from_millis(20);
/// Ticks between two looks at the settings.
const TICKS_PER_SETTINGS: u64 = 2;
/// Ticks between two writings of the counts.
const TICKS_PER_COUNTS: u64 = 5;
/// Ticks for which a file that has changed is suspected to change again within the same
/// timestamp.
const TICKS_OF_SUSPICION: u64 = 10;

/// Returns the interposer, made at the first call, with its thread running if there is anything to
/// watch: a fork does not inherit its parent's threads, so each process starts one.
///
/// # Errors
/// As [`interposer::start`].
pub fn start() -> Result<&'static Interposer, &'static str> {
    let interposer = interposer::start()?;
    ensure(interposer);
    Ok(interposer)
}

fn ensure(interposer: &'static Interposer) {
    let environment = &interposer.environment;
    if environment.config.is_none() && environment.counts.is_none() {
        return;
    }
    let process = process::id();
    if interposer.watched_by.swap(process, Ordering::AcqRel) == process {
        return;
    }
    let mut watcher = Watcher {
        interposer,
        seen: environment.config.as_deref().and_then(stamp),
        seen_text: environment.settings_text().unwrap_or_default(),
        suspicious_until: TICKS_OF_SUSPICION,
        written: String::new(),
    };
    let spawned =
        thread::Builder::new().name("xks-interposer".to_owned()).spawn(move || watcher.run());
    if let Err(error) = spawned {
        eprintln!("xks-interposer: no thread: {error}");
    }
}

/// Time, size and inode, by which a change of a file is noticed.
type Stamp = (i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.size(), metadata.ino()))
}

struct Watcher {
    interposer: &'static Interposer,
    seen: Option<Stamp>,
    seen_text: String,
    suspicious_until: u64,
    /// The counts as last written.
    written: String,
}

impl Watcher {
    fn run(&mut self) {
        let environment = &self.interposer.environment;
        for tick in 0_u64.. {
            if let Some(config) = &environment.config
                && tick.is_multiple_of(TICKS_PER_SETTINGS)
            {
                self.look_at_settings(config, tick);
            }
            if let Some(path) = &environment.counts {
                let request = request_path(path);
                let is_asked = request.exists();
                if is_asked || tick.is_multiple_of(TICKS_PER_COUNTS) {
                    self.write_counts(path, is_asked);
                }
                if is_asked {
                    let _ = fs::remove_file(request);
                }
            }
            thread::sleep(TICK);
        }
    }

    fn look_at_settings(&mut self, config: &Path, tick: u64) {
        let stamp = stamp(config);
        let is_changed = stamp != self.seen;
        if !is_changed && tick > self.suspicious_until {
            return;
        }
        let text = self.interposer.environment.settings_text();
        if is_changed {
            self.seen = stamp;
            self.suspicious_until = tick + TICKS_OF_SUSPICION;
        } else if text.as_ref() == Ok(&self.seen_text) {
            return;
        }
        let seed = self.interposer.environment.default_seed;
        let settings = text.and_then(|text| {
            self.seen_text.clone_from(&text);
            Settings::parse(&text, seed)
        });
        let error = match settings {
            Ok(settings) => {
                self.interposer.change(settings);
                String::new()
            }
            Err(error) => error,
        };
        *self.interposer.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn write_counts(&mut self, path: &Path, is_asked: bool) {
        let text = counts::text(self.interposer);
        if (is_asked || text != self.written) && counts::write(path, &text).is_ok() {
            self.written = text;
        }
    }
}

fn request_path(counts: &Path) -> PathBuf {
    let mut path = counts.as_os_str().to_owned();
    path.push(".request");
    path.into()
}
