//! Transfer of witnesses between the HSM side and the state directory.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::witness_file::{self, Content};
use crate::hsm::witness::Witnesses;
use crate::limits::{MIN_SAVE_INTERVAL, SAVE_RETRY_INTERVAL};
use crate::observe::redaction::shown_path;

/// A timeout so long that, in practice, only a change ends the wait.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// Reads the witnesses from the state directory. If that fails, logs a warning and returns none:
/// tokens then make new ones, or are compared with each other until an operator intervenes.
#[must_use]
pub fn load(directory: &Directory) -> witness_file::Witnesses {
    let path = shown_path(directory.path());
    if directory.is_open_to_others() {
        tracing::warn!(
            directory = %path,
            "[state] directory: others have access to it; set its mode to 0700"
        );
    }
    match witness_file::load(directory) {
        Ok(Content { witnesses, damaged_lines }) => {
            if damaged_lines > 0 {
                tracing::warn!(
                    directory = %path,
                    damaged_lines,
                    "[state] directory: some keys' witnesses are damaged; new ones are made"
                );
            }
            witnesses
        }
        Err(reason) => {
            tracing::warn!(
                directory = %path,
                %reason,
                "[state] directory: the keys' witnesses cannot be read; new ones are made, for \
                 this process only"
            );
            witness_file::Witnesses::new()
        }
    }
}

/// Starts a thread that saves witnesses as they change, and that runs until the process ends.
///
/// # Errors
/// The system cannot provide another thread.
pub fn start(directory: Directory, witnesses: Arc<Witnesses>) -> io::Result<()> {
    let save = move || {
        let mut saved = 0;
        let mut is_failing = false;
        loop {
            witnesses.wait_for_change(Instant::now() + LONG, saved);
            let (revision, start) = (witnesses.revision(), Instant::now());
            match witness_file::save(&directory, witnesses.settled()) {
                Ok(all) => {
                    witnesses.adopt(all);
                    saved = revision;
                    is_failing = false;
                    // A large file must not be written too often while keys are being proven.
                    thread::sleep(MIN_SAVE_INTERVAL.max(start.elapsed() * 20));
                }
                Err(reason) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            directory = shown_path(directory.path()),
                            %reason,
                            "[state] directory: the keys' witnesses cannot be written; this is \
                             retried, and the process continues with those in memory"
                        );
                    }
                    thread::sleep(SAVE_RETRY_INTERVAL);
                }
            }
        }
    };
    thread::Builder::new().name("state".to_owned()).spawn(save).map(drop)
}
