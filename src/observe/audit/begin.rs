//! The start of the writer: opens the files, and resumes the chain from the state file.
//!
//! Only one process writes at a time, and it holds a lock on the state file. In an upgrade, the new
//! process takes the log over from the old one ([`super::link`]); until then its lines wait in the
//! queue.

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::chain::{Chain, wipe_stack};
use super::config::AuditConfig;
use super::files::Files;
use super::key;
use super::link::{Link, LogId};
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

/// The end of the wait for another process.
pub(super) enum Waited {
    /// This process has the log.
    Begun(Box<Writer>),
    /// Yet another process takes over from this one.
    HandOver(Link),
    /// This process ends; the queue is finished.
    End,
}

/// Waits until the other process has released the log, or until this process ends: with nothing to
/// write, or after [`AUDIT_STOP_TIMEOUT`]. The wait is a failure after [`MAX_AUDIT_TAKEOVER_WAIT`]
/// without a `predecessor`, which releases the log in its own time. A process that has written the
/// log before also waits for its events to be written; `held` is the number of its lines that are
/// not in the queue.
pub(super) fn wait_and_begin(
    config: &AuditConfig,
    queue: &Arc<Queue>,
    predecessor: Option<&Link>,
    held: Option<usize>,
) -> Waited {
    tracing::info!("another process writes the audit log; lines wait until it releases the log");
    let mut since = Instant::now();
    let mut until = None;
    loop {
        match begin(config, queue) {
            Ok(writer) => {
                queue.set_failing(false);
                tracing::info!("this process writes the audit log now");
                return Waited::Begun(Box::new(writer));
            }
            Err(error) => {
                let is_held = error.kind() == ErrorKind::WouldBlock;
                if predecessor.is_some_and(|predecessor| !predecessor.is_closed()) {
                    since = Instant::now();
                }
                let is_late = since.elapsed() > MAX_AUDIT_TAKEOVER_WAIT;
                if (!is_held || is_late) && !queue.is_failing() {
                    queue.set_failing(true);
                    queue.counters.write_errors.add(1);
                    tracing::error!(%error, "the audit log cannot be taken over");
                }
            }
        }
        if let Ok(log) = LogId::of(&config.state_file())
            && let Some(successor) = queue.asking_successor(log)
        {
            return Waited::HandOver(successor);
        }
        if queue.lines.wait_to_retry(AUDIT_TAKEOVER_POLL).stop {
            queue.refuse_senders();
            let senders = queue.senders();
            // Lines of answered calls are still written if the other process ends in time.
            let lost = match held {
                None => queue.waiting_calls(),
                Some(held) => queue.lines.waiting_lines() + held,
            };
            let until = *until.get_or_insert_with(|| Instant::now() + AUDIT_STOP_TIMEOUT);
            if (lost == 0 && senders == 0) || Instant::now() >= until {
                if lost > 0 {
                    tracing::error!(lost, "another process kept the audit log; lines are lost");
                }
                queue.lines.finish();
                return Waited::End;
            }
            thread::sleep(AUDIT_TAKEOVER_POLL);
        }
    }
}
