//! The keeper: writes this process's counts to its own file, ahead of time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::books::Books;
use super::own_file::{Moment, OwnFile};
use super::process_file::Entry;
use crate::hsm::usage::{KeyUsage, Record, Usage};
use crate::limits::{
    MAX_STATE_LOCK_WAIT, MIN_USAGE_CEILING_PER_SEC, MIN_USAGE_RESERVE, SAVE_RETRY_INTERVAL,
    USAGE_CEILING_FACTOR, USAGE_HEARTBEAT_INTERVAL, USAGE_REFRESH_INTERVAL, USAGE_RESERVE_TIME,
    USAGE_SAVE_INTERVAL,
};
use crate::observe::timestamp::unix_secs;
use crate::state::directory::Directory;
use crate::state::witness_file::Unreadable;

/// Keys that a message names.
const MAX_NAMED_KEYS: usize = 5;

/// The keeper of the counts.
pub struct Keeper {
    directory: Directory,
    usage: Arc<Usage>,
    started: u64,
    state: Mutex<State>,
    /// Notified after each attempt to write.
    progress: Condvar,
    /// True if the directory is to be read again at the next opportunity.
    wants_refresh: AtomicBool,
}

#[derive(Default)]
struct State {
    file: Option<OwnFile>,
    /// The counts at the last look, in the order of the keys.
    past: Vec<Past>,
    looked_at: Option<Instant>,
    written_at: Option<Instant>,
    refreshed_at: Option<Instant>,
    /// Number of keys that were recorded in the last write.
    recorded_keys: usize,
    is_failing: bool,
    is_closed: bool,
    attempts: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Past {
    encrypts: u64,
    decrypts: u64,
    /// Rate in the latest interval, and the highest rate so far.
    per_sec: u64,
    peak_per_sec: u64,
    is_at_limit: bool,
}

impl Keeper {
    /// Reads the directory, and reserves numbers for the keys that are known. If that fails, logs a
    /// warning; counts are then kept in memory, and writing them is tried again.
    #[must_use]
    pub fn open(directory: Directory, usage: Arc<Usage>) -> Self {
        let started = unix_secs(SystemTime::now());
        let (state, progress) = (Mutex::default(), Condvar::new());
        let wants_refresh = AtomicBool::new(false);
        let keeper = Self { directory, usage, started, state, progress, wants_refresh };
        keeper.keep();
        if keeper.usage.record().is_failing
            && let Ok(books) = Books::look_at(&keeper.directory, started)
        {
            keeper.usage.set_elsewhere(books.elsewhere());
        }
        keeper
    }

    /// Starts a thread that writes the counts as they grow, until [`Self::close`].
    ///
    /// # Errors
    /// The system cannot provide another thread.
    pub fn start(self: Arc<Self>) -> io::Result<()> {
        let keep = move || {
            loop {
                let wait =
                    if self.is_failing() { SAVE_RETRY_INTERVAL } else { USAGE_SAVE_INTERVAL };
                self.usage.wait(Instant::now() + wait);
                let begin = Instant::now();
                if !self.keep() {
                    return;
                }
                // Many keys must not keep a core busy.
                thread::sleep(begin.elapsed().min(USAGE_SAVE_INTERVAL));
            }
        };
        thread::Builder::new().name("usage".to_owned()).spawn(keep).map(drop)
    }

    fn is_failing(&self) -> bool {
        self.state.lock().is_failing
    }

    /// Reads the directory again, and waits until the keys that are known now are recorded on the
    /// disk, for at most `timeout`. Returns whether they are.
    pub fn refresh(&self, timeout: Duration) -> bool {
        let (keys, end) = (self.usage.cells().len(), Instant::now() + timeout);
        self.wants_refresh.store(true, Ordering::Release);
        let Some(mut state) = self.state.try_lock_until(end) else { return false };
        let first = state.attempts;
        while state.attempts == first || state.recorded_keys < keys {
            self.usage.wake();
            if self.progress.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
        state.recorded_keys >= keys && !state.is_failing
    }

    /// Looks at the counts, and writes what is due. Returns false once the keeper is closed.
    fn keep(&self) -> bool {
        let mut state = self.state.lock();
        if state.is_closed {
            return false;
        }
        let (now, instant) = (unix_secs(SystemTime::now()), Instant::now());
        let cells = self.usage.cells();
        let has_moved = state.look(&cells, now, instant);
        let interval = if has_moved { Duration::ZERO } else { USAGE_HEARTBEAT_INTERVAL };
        let is_due = |at: Option<Instant>, interval| at.is_none_or(|at| instant >= at + interval);
        if self.wants_refresh.swap(false, Ordering::AcqRel) {
            (state.refreshed_at, state.written_at) = (None, None);
        }
        let is_new = cells.len() > state.recorded_keys;
        if is_new || state.is_failing || is_due(state.written_at, interval) {
            let outcome = self.write(&mut state, &cells, now, instant);
            state.attempts += 1;
            self.record(&mut state, outcome.err().as_ref(), now);
            state.look_at_limits(&self.usage);
        }
        self.progress.notify_all();
        true
    }

    /// Writes the counts, and reads those of others if that is due.
    fn write(
        &self,
        state: &mut State,
        cells: &[(Box<str>, Arc<KeyUsage>)],
        now: u64,
        instant: Instant,
    ) -> Result<(), Unreadable> {
        let io = |error: io::Error| Unreadable::Io(error.to_string());
        let entries = state.entries(cells, false);
        let moment = Moment { started: self.started, now, is_closed: false };
        let is_due = |at: Instant| instant >= at + USAGE_REFRESH_INTERVAL;
        let is_fit = match &state.file {
            Some(file) => file.is_fit(&self.directory, &entries).map_err(io)?,
            None => false,
        };
        if !is_fit || cells.len() > state.recorded_keys || state.refreshed_at.is_none_or(is_due) {
            let own = state.file.as_ref().map(OwnFile::name);
            let mut books = Books::open(&self.directory, own, now)?;
            books.register(cells.iter().map(|(name, _)| &**name));
            let used: HashMap<&str, u64> = entries.iter().map(|it| (&*it.key, it.used)).collect();
            books.remember(|name| used.get(name).copied().unwrap_or(0));
            self.usage.set_elsewhere(books.elsewhere());
            let lock = books.close().map_err(io)?;
            if !is_fit {
                let former = state.file.as_ref();
                let made = OwnFile::create(&self.directory, &lock, former, moment, &entries);
                state.file = Some(made.map_err(io)?);
            }
            state.refreshed_at = Some(instant);
        }
        if is_fit && let Some(file) = &mut state.file {
            file.write(moment, &entries).map_err(io)?;
        }
        state.written_at = Some(instant);
        state.recorded_keys = cells.len();
        for ((_, cell), entry) in cells.iter().zip(&entries) {
            cell.reserve(entry.reserved, entry.used + (entry.reserved - entry.used) / 2);
        }
        Ok(())
    }

    fn record(&self, state: &mut State, failure: Option<&Unreadable>, now: u64) {
        let mut record = Record { is_kept: true, ..self.usage.record() };
        record.is_failing = failure.is_some();
        let was_failing = std::mem::replace(&mut state.is_failing, record.is_failing);
        match failure {
            None => {
                record.saved_unix_secs = now;
                if was_failing {
                    tracing::info!("[state] directory: the count of uses of keys is written again");
                }
            }
            Some(reason) if !was_failing => tracing::warn!(
                directory = %self.directory.path().display(),
                %reason,
                "[state] directory: the count of uses of keys cannot be written; this is tried \
                 again, and the process goes on counting in memory"
            ),
            Some(_) => {}
        }
        self.usage.set_record(record);
    }

    /// Writes exact numbers, since no more keys will be used, and adds them to the ledger. Does
    /// nothing if a write hangs.
    pub fn close(&self) {
        let Some(mut state) = self.state.try_lock_for(MAX_STATE_LOCK_WAIT) else { return };
        if std::mem::replace(&mut state.is_closed, true) {
            return;
        }
        let (now, cells) = (unix_secs(SystemTime::now()), self.usage.cells());
        state.look(&cells, now, Instant::now());
        let entries = state.entries(&cells, true);
        let moment = Moment { started: self.started, now, is_closed: true };
        let Some(mut file) = state.file.take() else { return };
        let written = file.write(moment, &entries);
        // Closing the file releases its lock.
        drop(file);
        let added = written.map_err(|error| error.to_string()).and_then(|()| {
            let books = Books::open(&self.directory, None, now).map_err(|it| it.to_string())?;
            books.close().map(drop).map_err(|error| error.to_string())
        });
        if let Err(reason) = added {
            tracing::warn!(
                directory = %self.directory.path().display(),
                reason,
                "[state] directory: the last count of uses of keys was not added to the sums; the \
                 next process does so"
            );
        }
        self.usage.wake();
    }
}

/// Returns the names of those keys among `of` whose counts are incomplete, up to a few, and their
/// number.
#[must_use]
pub fn incomplete(usage: &Usage, of: &[Box<str>]) -> Option<(String, usize)> {
    let of: HashSet<&str> = of.iter().map(AsRef::as_ref).collect();
    let totals = usage.totals().into_iter().filter(|key| of.contains(&*key.name));
    let names: Vec<_> =
        totals.filter(|key| key.totals.incomplete_since.is_some()).map(|key| key.name).collect();
    let named = names.get(..MAX_NAMED_KEYS).unwrap_or(&names).join(", ");
    let more = if names.len() > MAX_NAMED_KEYS { ", ..." } else { "" };
    (!names.is_empty()).then(|| (format!("{named}{more}"), names.len()))
}

impl State {
    /// Compares the counts with those of the last look. Returns whether any has grown.
    fn look(&mut self, cells: &[(Box<str>, Arc<KeyUsage>)], now: u64, instant: Instant) -> bool {
        self.past.resize(cells.len().max(self.past.len()), Past::default());
        let millis = self.looked_at.map_or(0, |at| (instant - at).as_millis());
        let millis = u64::try_from(millis).unwrap_or(u64::MAX).max(1000);
        self.looked_at = Some(instant);
        let mut has_moved = false;
        for ((_, cell), past) in cells.iter().zip(&mut self.past) {
            let (encrypts, decrypts) = (cell.encrypts(), cell.decrypts());
            cell.notice((past.encrypts, past.decrypts), now);
            has_moved |= (encrypts, decrypts) != (past.encrypts, past.decrypts);
            past.per_sec = encrypts.saturating_sub(past.encrypts).saturating_mul(1000) / millis;
            past.peak_per_sec = past.peak_per_sec.max(past.per_sec);
            (past.encrypts, past.decrypts) = (encrypts, decrypts);
        }
        has_moved
    }

    /// Returns the lines to write, of the counts at the last look. A last record reserves nothing.
    fn entries(&self, cells: &[(Box<str>, Arc<KeyUsage>)], is_last: bool) -> Vec<Entry> {
        let entry = |((name, cell), past): (&(Box<str>, Arc<KeyUsage>), &Past)| {
            let for_time = past.per_sec.saturating_mul(USAGE_RESERVE_TIME.as_secs());
            let reserve = if is_last { 0 } else { for_time.max(MIN_USAGE_RESERVE) };
            let (last_encrypt, last_decrypt) = cell.last_uses();
            let peak = past.peak_per_sec.saturating_mul(USAGE_CEILING_FACTOR);
            Entry {
                key: name.clone(),
                used: past.encrypts,
                reserved: past.encrypts.saturating_add(reserve),
                decrypts: past.decrypts,
                last_encrypt,
                last_decrypt,
                ceiling_per_sec: peak.max(MIN_USAGE_CEILING_PER_SEC),
            }
        };
        cells.iter().zip(&self.past).map(entry).collect()
    }

    /// Logs the keys that have reached the limit.
    fn look_at_limits(&mut self, usage: &Usage) {
        let limit = usage.limit();
        for (key, past) in usage.totals().into_iter().zip(&mut self.past) {
            let is_at_limit = key.totals.encrypts >= limit.encrypts;
            if is_at_limit && !std::mem::replace(&mut past.is_at_limit, is_at_limit) {
                tracing::error!(
                    key = &*key.name,
                    encryptions = key.totals.encrypts,
                    limit = limit.encrypts,
                    refused = limit.refuses,
                    "the HSM key has made as many encryptions as one key may: rotate it"
                );
            }
        }
    }
}
