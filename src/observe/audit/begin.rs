//! The start of the writer: opens the files, and resumes the chain from the state file.
//!
//! Only one process writes at a time, and it holds a lock on the state file. In an upgrade, the new
//! process already serves while the old one drains: its lines wait in the queue.

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::chain::{Chain, wipe_stack};
use super::config::AuditConfig;
use super::files::Files;
use super::key;
use super::path_error::with_setting;
use super::queue::Queue;
use super::recover::recover;
use super::state::{State, StateFile};
use super::writer::{OpenEvent, Writer};
use crate::limits::{AUDIT_STOP_TIMEOUT, AUDIT_TAKEOVER_POLL, MAX_AUDIT_TAKEOVER_WAIT};

/// Opens the files and resumes the chain.
///
/// # Errors
/// [`ErrorKind::WouldBlock`] if another process writes the log. Otherwise the directory, a file,
/// the state or the key cannot be read or written; the error names which.
pub(super) fn begin(config: &AuditConfig, queue: &Arc<Queue>) -> io::Result<Writer> {
    fs::create_dir_all(&config.directory)
        .map_err(|error| with_setting(&config.directory, &error))?;
    let state_path = config.state_file();
    let (mut state_file, kept) =
        StateFile::open(&state_path).map_err(|error| with_setting(&state_path, &error))?;
    let mut files = Files::open(config).map_err(|error| with_setting(&config.directory, &error))?;
    let previous_end = match &kept {
        None => "none",
        Some(state) if state.is_clean => "clean",
        Some(_) => "crash",
    };
    let mut state = match kept {
        Some(state) => state,
        None => {
            let key = key::read(&config.key_file)
                .map_err(|error| with_setting(&config.key_file, &error))?;
            State { chain: Chain::begin(key), file_bytes: files.bytes(), is_clean: false }
        }
    };
    let found = recover(files.file(), files.bytes(), &mut state)
        .map_err(|error| with_setting(&files.path(), &error))?;
    files.set_bytes(files.bytes() - found.torn_bytes);
    state_file
        .save(&state.chain, files.bytes(), false)
        .and_then(|()| state_file.sync())
        .map_err(|error| with_setting(&state_path, &error))?;
    wipe_stack();
    let mut writer = Writer::new(Arc::clone(queue), files, state_file, state.chain, config.sync);
    writer.add_open_event(&OpenEvent {
        previous_end,
        recovered_lines: found.lines,
        torn_bytes: found.torn_bytes,
    });
    Ok(writer)
}

/// Waits until the other process has released the log. Returns `None` if this process ends before
/// that, with nothing to write or after [`AUDIT_STOP_TIMEOUT`].
pub(super) fn wait_and_begin(config: &AuditConfig, queue: &Arc<Queue>) -> Option<Writer> {
    tracing::info!("another process writes the audit log; lines wait until it has ended");
    let since = Instant::now();
    let mut until = None;
    loop {
        match begin(config, queue) {
            Ok(writer) => {
                queue.set_failing(false);
                tracing::info!("this process writes the audit log now");
                return Some(writer);
            }
            Err(error) => {
                let is_held = error.kind() == ErrorKind::WouldBlock;
                let is_late = since.elapsed() > MAX_AUDIT_TAKEOVER_WAIT;
                if (!is_held || is_late) && !queue.is_failing() {
                    queue.set_failing(true);
                    queue.counters.write_errors.add(1);
                    tracing::error!(%error, "the audit log cannot be taken over");
                }
            }
        }
        if queue.lines.wait_to_retry(AUDIT_TAKEOVER_POLL).stop {
            // Lines of answered calls are still written if the other process ends in time.
            let lost = queue.waiting_calls();
            let until = *until.get_or_insert_with(|| Instant::now() + AUDIT_STOP_TIMEOUT);
            if lost == 0 || Instant::now() >= until {
                if lost > 0 {
                    tracing::error!(lost, "another process kept the audit log; lines are lost");
                }
                queue.lines.finish();
                return None;
            }
            thread::sleep(AUDIT_TAKEOVER_POLL);
        }
    }
}
