//! The thread that chains lines, writes them, and rotates files. It is the only one that waits for
//! the disk.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memrchr};

use super::chain::{Chain, hex, wipe_stack};
use super::checkpoint::{self, Schedule};
use super::config::AuditSync;
use super::files::{Fate, Files};
use super::gaps;
use super::line;
use super::link::Link;
use super::queue::Queue;
use super::record;
use super::state::StateFile;
use super::watch::Watch;
use crate::limits::{
    AUDIT_CHECKPOINT_INTERVAL, AUDIT_IDLE_INTERVAL, AUDIT_LOSS_REPORT_INTERVAL,
    AUDIT_RETRY_INTERVAL, AUDIT_SYNC_INTERVAL, AUDIT_TAKEOVER_POLL, AUDIT_WRITE_BYTES,
    LOG_WRITE_INTERVAL, MAX_ACCESS_LOG_LINE_BYTES,
};
use crate::observe::line_queue::{Requested, count_lines};
use crate::observe::timestamp::{Rfc3339, since_1970};

/// The state in which the writer found the log.
pub(super) struct OpenEvent {
    /// The end of the previous process: `none`, `clean` or `crash`.
    pub(super) previous_end: &'static str,
    /// Number of lines that the previous process wrote after it last saved its state.
    pub(super) recovered_lines: u64,
    /// Number of bytes of an incomplete line.
    pub(super) torn_bytes: u64,
}

pub(super) struct Writer {
    queue: Arc<Queue>,
    files: Files,
    state_file: StateFile,
    chain: Chain,
    sync: AuditSync,
    /// Complete lines that wait to be written to the file.
    out: Vec<u8>,
    /// Number of bytes of [`Self::out`] that have been written.
    written: usize,
    /// Number of bytes of the batch that are chained, in [`Self::out`] or already written.
    chained: usize,
    is_first_of_file: bool,
    members: Vec<u8>,
    time: Rfc3339,
    unsynced_since: Option<Instant>,
    /// True if the failure to save the state has been logged.
    has_state_failed: bool,
    checkpoints: Schedule,
    watch: Watch,
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        files: Files,
        state_file: StateFile,
        chain: Chain,
        sync: AuditSync,
    ) -> Self {
        Self {
            queue,
            files,
            state_file,
            chain,
            sync,
            out: Vec::with_capacity(AUDIT_WRITE_BYTES + 2 * MAX_ACCESS_LOG_LINE_BYTES),
            written: 0,
            chained: 0,
            is_first_of_file: true,
            members: Vec::with_capacity(MAX_ACCESS_LOG_LINE_BYTES),
            time: Rfc3339::default(),
            unsynced_since: None,
            has_state_failed: false,
            checkpoints: Schedule::new(),
            watch: Watch::new(),
        }
    }

    /// Adds the first line of a process, to be written with the first batch.
    pub(super) fn add_open_event(&mut self, opened: &OpenEvent) {
        let id = self.chain_id();
        let strings = [("chain", id.as_str()), ("previousEnd", opened.previous_end)];
        let numbers =
            [("recoveredLines", opened.recovered_lines), ("tornBytes", opened.torn_bytes)];
        self.add_event("open", &strings, &numbers);
    }

    fn chain_id(&self) -> String {
        hex(&self.chain.id())
    }

    /// Writes the lines in `batch`, and those in the queue until a stop is requested and none is
    /// left. Returns the process that the log was released for, if one has asked for it.
    pub(super) fn run(&mut self, batch: &mut Vec<u8>) -> Option<Link> {
        let has_written_all = loop {
            let requested = match batch.is_empty() {
                true => self.queue.lines.take(batch, Some(self.patience())),
                false => Requested::default(),
            };
            let is_written = self.write_batch(batch, requested);
            wipe_stack();
            if !is_written {
                break false;
            }
            self.queue.release(batch.len());
            let was_empty = batch.is_empty();
            batch.clear();
            self.chained = 0;
            if let Some(successor) = self.asking_successor() {
                if !self.release() {
                    break false;
                }
                return Some(successor);
            }
            if requested.stop && was_empty {
                self.queue.refuse_senders();
                if self.queue.senders() == 0 && self.queue.lines.close() {
                    break self.report_gaps(Duration::ZERO) && self.write_out();
                }
                thread::sleep(AUDIT_TAKEOVER_POLL);
            } else if !was_empty {
                self.queue.lines.pause(LOG_WRITE_INTERVAL);
            }
        };
        self.queue.refuse_senders();
        if has_written_all {
            self.sync_now();
        } else {
            let lost = self.lost(batch);
            tracing::error!(lost, "the audit log could not be written at the end");
            // The next start truncates an incomplete line.
            let begun = self.out.get(..self.written).unwrap_or_default();
            let torn = begun.len() - memrchr(b'\n', begun).map_or(0, |newline| newline + 1);
            self.files.set_bytes(self.files.bytes().saturating_sub(torn as u64));
        }
        // The saved position is after the lines that could not be written, so that the verifier
        // notices that they are missing.
        self.save_state(has_written_all);
        let _ = self.state_file.sync();
        // Whoever waits for the end may open the log again at once.
        let _ = self.state_file.unlock();
        wipe_stack();
        self.queue.lines.finish();
        None
    }

    /// Returns the wait for lines, which is shorter while another process may ask for the log.
    fn patience(&self) -> Duration {
        match self.queue.successor.lock().is_some() {
            true => AUDIT_TAKEOVER_POLL,
            false => AUDIT_IDLE_INTERVAL,
        }
    }

    /// Returns the process that has asked for this log, if one has.
    fn asking_successor(&self) -> Option<Link> {
        match self.state_file.id() {
            Ok(log) => self.queue.asking_successor(log),
            Err(_) => None,
        }
    }

    /// Ends the part of the log that this process writes. Returns false if it cannot be written and
    /// the process is ending.
    fn release(&mut self) -> bool {
        if !self.report_gaps(Duration::ZERO) {
            return false;
        }
        self.add_event("handover", &[], &[]);
        if !self.write_out() {
            return false;
        }
        self.save_state(true);
        self.sync_now();
        wipe_stack();
        true
    }

    /// Returns the number of lines that will never be in the file.
    fn lost(&self, batch: &[u8]) -> usize {
        let (out, batch) = (self.out.get(self.written..), batch.get(self.chained..));
        [out, batch].into_iter().flatten().map(|rest| memchr_iter(b'\n', rest).count()).sum()
    }

    /// Writes one batch and does any other work that is due. Returns false if the batch cannot be
    /// written and the process is ending. Never inlined, so that [`wipe_stack`] reaches its frame.
    #[inline(never)]
    fn write_batch(&mut self, batch: &[u8], requested: Requested) -> bool {
        self.chained = 0;
        let is_appended = (!requested.reopen || self.reopen(None))
            && self.mind_files()
            && self.rotate_if_due()
            && self.report_gaps(AUDIT_LOSS_REPORT_INTERVAL)
            && self.append(batch);
        if !is_appended || !self.write_out() {
            return false;
        }
        if !batch.is_empty() {
            self.save_state(false);
        }
        // The HSM may take its time, in which the process may be killed: the lines are written first.
        if self.checkpoints.is_due(self.chain.seq(), Instant::now()) && self.add_checkpoint() {
            if !self.write_out() {
                return false;
            }
            self.save_state(false);
        }
        let is_sync_due = match self.sync {
            AuditSync::Always => self.unsynced_since.is_some(),
            AuditSync::Interval => {
                self.unsynced_since.is_some_and(|since| since.elapsed() >= AUDIT_SYNC_INTERVAL)
            }
            AuditSync::Never => false,
        };
        if is_sync_due {
            self.sync_now();
        }
        true
    }

    /// Chains lines and writes them. Returns false in the same case as [`Self::write_out`].
    fn append(&mut self, batch: &[u8]) -> bool {
        let mut begin = 0;
        for newline in memchr_iter(b'\n', batch) {
            self.add(batch.get(begin..newline).unwrap_or_default());
            begin = newline + 1;
            self.chained = begin;
            if self.out.len() >= AUDIT_WRITE_BYTES && !self.write_out() {
                return false;
            }
        }
        true
    }

    fn add(&mut self, members: &[u8]) {
        line::write(&mut self.out, &mut self.chain, members, self.is_first_of_file);
        self.is_first_of_file = false;
    }

    /// Adds an event generated by the writer itself.
    fn add_event(&mut self, event: &str, strings: &[(&str, &str)], numbers: &[(&str, u64)]) {
        let mut members = std::mem::take(&mut self.members);
        members.clear();
        let mut line =
            record::write_event(&mut members, &mut self.time, since_1970(), event, strings);
        for (name, number) in numbers {
            line.number(name, *number);
        }
        self.add(&members);
        self.members = members;
    }

    /// Adds a checkpoint if there is a key to seal it, and returns whether it was added. Lines
    /// accumulate in the queue while the HSM is asked; none are lost if it is unavailable.
    fn add_checkpoint(&mut self) -> bool {
        let queue = Arc::clone(&self.queue);
        let key = queue.checkpoint_key.lock();
        let Some(key) = &*key else { return false };
        let counters = &queue.counters;
        match key.seal(&checkpoint::digest(&self.chain)) {
            Ok(sealed) => {
                let (iv, bytes) = checkpoint::members(&sealed);
                let members = [("key", key.label()), ("iv", &iv), ("sealed", &bytes)];
                self.add_event(checkpoint::EVENT, &members, &[]);
                self.checkpoints.done(self.chain.seq(), Instant::now(), AUDIT_CHECKPOINT_INTERVAL);
                counters.last_checkpoint_unix_secs.store(since_1970().as_secs(), Ordering::Relaxed);
                true
            }
            Err(reason) => {
                self.checkpoints.failed(Instant::now(), &reason);
                counters.checkpoint_errors.add(1);
                false
            }
        }
    }

    /// Records in the log how many lines are missing, at most once per `interval`. Returns false in
    /// the same case as [`Self::write_out`].
    fn report_gaps(&mut self, interval: Duration) -> bool {
        let queue = Arc::clone(&self.queue);
        let due = queue.gaps.lock().due(&queue.counters, interval);
        let Some((numbers, counts)) = due else { return true };
        self.add_event(gaps::EVENT, &[], &numbers);
        queue.gaps.lock().reported(counts);
        self.write_out()
    }

    /// Writes all of [`Self::out`], retrying until it succeeds. Returns false if that fails and the
    /// process is ending.
    fn write_out(&mut self) -> bool {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.files.write(rest) {
                Ok(0) => {
                    if !self.fail(&ErrorKind::WriteZero.into()) {
                        return false;
                    }
                }
                Ok(count) => {
                    self.written += count;
                    self.unsynced_since.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.fail(&error) {
                        return false;
                    }
                }
            }
        }
        if !self.out.is_empty() {
            let counters = &self.queue.counters;
            counters.written.add(count_lines(&self.out));
            counters.last_write_unix_secs.store(since_1970().as_secs(), Ordering::Relaxed);
            self.queue.copies.push(&self.out);
            self.out.clear();
            self.written = 0;
            if self.queue.is_failing() {
                self.queue.set_failing(false);
                tracing::info!("the audit log can be written again");
            }
        }
        true
    }

    /// Waits after a failed write. Returns false if the process is ending.
    fn fail(&mut self, error: &io::Error) -> bool {
        self.queue.counters.write_errors.add(1);
        if !self.queue.is_failing() {
            self.queue.set_failing(true);
            let file = self.files.path();
            let are_refused = self.queue.is_lossless();
            tracing::error!(%error, file = %file.display(), are_refused,
                "the audit log cannot be written; with when_full = \"refuse\", calls are refused");
        }
        let requested = self.queue.lines.wait_to_retry(AUDIT_RETRY_INTERVAL);
        let is_between_lines =
            self.written == 0 || self.out.get(self.written - 1).is_some_and(|byte| *byte == b'\n');
        if requested.reopen && is_between_lines {
            // The file was moved away to free space. Lines that are already chained go to the new
            // one.
            if let Ok(Some(other)) = self.files.other_file() {
                let _ = self.files.switch_to(other, since_1970());
            }
        }
        !requested.stop
    }

    fn rotate_if_due(&mut self) -> bool {
        if !self.files.is_due(since_1970()) {
            return true;
        }
        let next = match self.files.prepare_next() {
            Ok(next) => next,
            Err(error) => return self.no_next_file(&error),
        };
        if !self.end_file() {
            return false;
        }
        let last = self.chain.seq().saturating_sub(1);
        if let Err(error) = self.files.rotate(next, since_1970(), last) {
            return self.no_next_file(&error);
        }
        if let Err(error) = self.files.sync_names() {
            self.note_unsynced(&error);
        }
        if let Err(error) = self.files.remove_old(&self.chain_id()) {
            tracing::warn!(%error, "old files of the audit log cannot be removed");
        }
        self.begin_file("continue", None)
    }

    /// Writes the last line of a file. From then on, the saved state makes recovery read a whole
    /// file: the one just ended or the next one.
    fn end_file(&mut self) -> bool {
        if self.checkpoints.is_due_at_the_end(self.chain.seq()) {
            self.add_checkpoint();
        }
        self.add_event("rotate", &[], &[]);
        let is_written = self.write_out();
        if is_written {
            self.save_state_at(0, false);
            self.sync_now();
        }
        is_written
    }

    /// Reports that the next file cannot be used, and continues in the current one.
    fn no_next_file(&mut self, error: &io::Error) -> bool {
        self.queue.counters.write_errors.add(1);
        self.files.postpone(since_1970());
        tracing::error!(
            %error,
            "the audit log cannot start a new file; it continues in the current one"
        );
        true
    }

    /// Looks after files that others have deleted, moved or cut. Returns false in the same case as
    /// [`Self::write_out`].
    fn mind_files(&mut self) -> bool {
        if !self.watch.is_due(Instant::now()) {
            return true;
        }
        self.mind_state_file();
        let Some((fate, is_new)) = self.watch.look(&self.files) else { return true };
        let file = self.files.path();
        let file = file.display();
        if is_new {
            self.queue.counters.lost_files.add(1);
        }
        match fate {
            Fate::Untouched => true,
            Fate::Moved => {
                if is_new {
                    tracing::warn!(%file, "the audit log's file was moved or replaced without SIGUSR1; the log continues in the file of that name");
                }
                self.reopen(Some("moved"))
            }
            Fate::Deleted => {
                tracing::error!(%file, "the audit log's file was deleted: its lines are lost, unless they are copied from /proc/PID/fd before this process ends; the log continues in a new file");
                // A call whose line goes to a file that nobody can read would not be audited.
                while let Err(error) = self.files.other_file() {
                    if !self.fail(&error) {
                        return false;
                    }
                }
                self.reopen(Some("deleted"))
            }
            Fate::Truncated(bytes) => {
                tracing::error!(%file, "the audit log's file was cut while it was written: lines are lost; the log continues in it");
                self.files.set_bytes(bytes);
                self.begin_file("reopen", Some("truncated"))
            }
        }
    }

    /// Writes the state to a new file if the present one has lost its name: the next start would
    /// begin a new chain without it, or resume at an earlier line.
    fn mind_state_file(&mut self) {
        let recreated = self.state_file.recreate_if_lost();
        let recreated = match recreated {
            Ok(false) => return,
            Ok(true) => {
                self.queue.counters.lost_files.add(1);
                tracing::error!(
                    "the state file of the audit log was deleted or replaced; it is written again"
                );
                self.save_state(false);
                self.state_file.sync()
            }
            Err(error) => Err(error),
        };
        if let Err(error) = recreated {
            self.queue.counters.write_errors.add(1);
            self.watch.failed(Instant::now());
            tracing::error!(%error, "the state file of the audit log is lost and cannot be written again: the next start begins a new chain");
        }
    }

    /// Switches to the file that now has the current one's name. `fate` is what others did to the
    /// current one, unless they asked for this.
    fn reopen(&mut self, fate: Option<&str>) -> bool {
        let other = match self.files.other_file() {
            Ok(Some(other)) => other,
            Ok(None) if fate.is_some() => return true,
            // The file has not been moved.
            Ok(None) => {
                self.add_event("reopen", &[], &[]);
                return self.write_out();
            }
            Err(error) => {
                self.watch.failed(Instant::now());
                return self.no_next_file(&error);
            }
        };
        if !self.end_file() {
            return false;
        }
        if let Err(error) = self.files.switch_to(other, since_1970()) {
            return self.no_next_file(&error);
        }
        self.begin_file("reopen", fate)
    }

    /// Writes the first line of a file.
    fn begin_file(&mut self, event: &str, fate: Option<&str>) -> bool {
        self.is_first_of_file = true;
        let id = self.chain_id();
        let chain = [("chain", id.as_str())];
        let fate = fate.map(|fate| ("previousFile", fate));
        let members: Vec<(&str, &str)> = chain.into_iter().chain(fate).collect();
        self.add_event(event, &members, &[]);
        let is_written = self.write_out();
        self.save_state(false);
        is_written
    }

    fn sync_now(&mut self) {
        let synced = self.files.sync().and_then(|()| self.state_file.sync());
        if let Err(error) = synced {
            self.note_unsynced(&error);
        }
        self.unsynced_since = None;
    }

    fn note_unsynced(&self, error: &io::Error) {
        self.queue.counters.write_errors.add(1);
        tracing::error!(%error, "the audit log cannot be synchronised with the disk");
    }

    fn save_state(&mut self, is_clean: bool) {
        self.save_state_at(self.files.bytes(), is_clean);
    }

    fn save_state_at(&mut self, file_bytes: u64, is_clean: bool) {
        match self.state_file.save(&self.chain, file_bytes, is_clean) {
            Ok(()) => self.has_state_failed = false,
            Err(error) => {
                self.queue.counters.write_errors.add(1);
                if !std::mem::replace(&mut self.has_state_failed, true) {
                    tracing::error!(%error, "the state of the audit log cannot be saved");
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::begin::begin;
    use super::super::config::{AuditConfig, AuditRotation, WhenFull};
    use super::super::key;
    use super::*;

    /// Each lost line is counted once, at whatever stage it was when the disk filled up: auditors
    /// rely on the number in the log.
    #[test]
    fn a_lost_line_is_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        key::write_new(&key_file, &[5; 32]).unwrap();
        let log = directory.path().join("log");
        fs::create_dir(&log).unwrap();
        // Behaves like a full disk.
        symlink("/dev/full", log.join("audit.jsonl")).unwrap();
        let config = AuditConfig {
            directory: log,
            prefix: "audit".to_owned(),
            rotation: AuditRotation::Never,
            max_file_bytes: None,
            retain_files: None,
            when_full: WhenFull::Refuse,
            sync: AuditSync::Never,
            key_file,
            hsm_key: None,
        };
        let line = b",\"a\":1\n";
        // The first batch is chained entirely before anything is written, the second only in part.
        for lines in [3, 2 * AUDIT_WRITE_BYTES / line.len()] {
            let queue = Arc::new(Queue::new(1 << 20, WhenFull::Refuse));
            queue.lines.request_stop();
            let mut writer = begin(&config, &queue).unwrap();
            let batch = line.repeat(lines);
            assert!(!writer.write_batch(&batch, Requested::default()));
            // The batch and the process's first line.
            assert_eq!(writer.lost(&batch), lines + 1);
        }
    }
}
