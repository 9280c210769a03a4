//! The encryptions and decryptions of each key by this process.
//!
//! Every C_Encrypt with a configured key counts, whether for a request or the proxy itself (health
//! checks, witnesses, attempts of the audit log to seal a checkpoint), and counts before the call:
//! the number is never below the truth. Keys that live in a session only do not count. Of the
//! decryptions, only those that a client asked for count, since they are evidence that a key is
//! still needed; the decryptions that verify a CDIV, a witness or a token are not.
//!
//! Counting takes one atomic addition and a comparison. There is no lock: the counters are in
//! segments that are only ever added.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::signal::Signal;
use crate::job::KeyIndex;

/// Number of keys in the first segment; each further one has twice as many as the one before.
const FIRST_SEGMENT: usize = 64;
const SEGMENTS: usize = 27;

/// The counters of one key in this process.
#[derive(Debug)]
#[repr(align(64))]
pub struct KeyUsage {
    encrypts: AtomicU64,
    decrypts: AtomicU64,
    /// Number of encryptions at which the keeper of the count is woken.
    wake_at: AtomicU64,
    /// Number of encryptions from which on requests to encrypt are refused.
    refuse_at: AtomicU64,
    /// Number of encryptions that are recorded on the disk ahead.
    reserved: AtomicU64,
    /// Times of the last use, in seconds since 1970, as noticed by the keeper; 0 if none.
    last_encrypt: AtomicU64,
    last_decrypt: AtomicU64,
}

impl Default for KeyUsage {
    fn default() -> Self {
        Self {
            encrypts: AtomicU64::new(0),
            decrypts: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            refuse_at: AtomicU64::new(u64::MAX),
            reserved: AtomicU64::new(0),
            last_encrypt: AtomicU64::new(0),
            last_decrypt: AtomicU64::new(0),
        }
    }
}

impl KeyUsage {
    /// Returns the number of encryptions.
    #[must_use]
    pub fn encrypts(&self) -> u64 {
        self.encrypts.load(Ordering::Relaxed)
    }

    /// Returns the number of decryptions for clients.
    #[must_use]
    pub fn decrypts(&self) -> u64 {
        self.decrypts.load(Ordering::Relaxed)
    }

    /// Returns the number of encryptions that are recorded on the disk ahead.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Records that this number of encryptions is on the disk. The keeper is woken at `wake_at`.
    pub fn reserve(&self, reserved: u64, wake_at: u64) {
        self.reserved.store(reserved, Ordering::Relaxed);
        self.wake_at.store(wake_at, Ordering::Relaxed);
    }

    /// Records the times of uses since the last call. `since` are the numbers of encryptions and
    /// decryptions at that call.
    pub fn notice(&self, since: (u64, u64), now_unix_secs: u64) {
        if self.encrypts() != since.0 {
            self.last_encrypt.store(now_unix_secs, Ordering::Relaxed);
        }
        if self.decrypts() != since.1 {
            self.last_decrypt.store(now_unix_secs, Ordering::Relaxed);
        }
    }

    /// Returns the times of the last encryption and decryption, in seconds since 1970; 0 if none.
    #[must_use]
    pub fn last_uses(&self) -> (u64, u64) {
        (self.last_encrypt.load(Ordering::Relaxed), self.last_decrypt.load(Ordering::Relaxed))
    }
}

/// The part of a key's use that this process has not made: by earlier processes, and by others that
/// run beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Number of encryptions. It is never below the truth, unless the count is incomplete.
    pub encrypts: u64,
    /// Number of decryptions for clients.
    pub decrypts: u64,
    /// Time of the last encryption, in seconds since 1970; 0 if there was none.
    pub last_encrypt: u64,
    /// Time of the last decryption, in seconds since 1970; 0 if there was none.
    pub last_decrypt: u64,
    /// Time at which an incomplete count begins, or was interrupted, in seconds since 1970.
    pub incomplete_since: Option<u64>,
}

/// The use of one key, by all processes that share the state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTotals {
    /// The key's name.
    pub name: Box<str>,
    /// The sums.
    pub totals: Elsewhere,
}

/// The state of the record on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// True if there is a directory for the record.
    pub is_kept: bool,
    /// True if the last attempt to write it failed.
    pub is_failing: bool,
    /// Time of the last successful write, in seconds since 1970; 0 if there was none.
    pub saved_unix_secs: u64,
}

/// The limit of encryptions per key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The number.
    pub encrypts: u64,
    /// True if requests to encrypt are refused at the limit.
    pub refuses: bool,
}

/// The use of all keys that the process has known.
#[derive(Default)]
pub struct Usage {
    /// The counters, in the order in which the keys became known.
    cells: RwLock<Cells>,
    elsewhere: RwLock<HashMap<Box<str>, Elsewhere>>,
    limit: RwLock<Option<Limit>>,
    record: Mutex<Record>,
    started_unix_secs: u64,
    wake: Signal,
}

#[derive(Default)]
struct Cells {
    list: Vec<(Box<str>, Arc<KeyUsage>)>,
    places: HashMap<Box<str>, usize>,
}

/// The counters of the keys that jobs may name, by [`KeyIndex`]. They do not move when others are
/// added.
pub struct Counters {
    usage: Arc<Usage>,
    segments: [OnceLock<Segment>; SEGMENTS],
}

type Segment = Box<[OnceLock<Arc<KeyUsage>>]>;

/// Indicates that a key has reached its limit, and that encryptions are then refused. Contains the
/// limit.
pub struct LimitReached(pub u64);

/// Returns the segment of a key's counters, and their place in it.
fn place(index: usize) -> (usize, usize) {
    let segment = (index / FIRST_SEGMENT + 1).ilog2() as usize;
    (segment, index - FIRST_SEGMENT * ((1 << segment) - 1))
}

impl Counters {
    /// Returns the counters in `usage` of the keys with these names, in the order of [`KeyIndex`].
    #[must_use]
    pub fn new(usage: Arc<Usage>, names: &[Box<str>]) -> Self {
        let counters = Self { usage, segments: [const { OnceLock::new() }; SEGMENTS] };
        counters.extend_to(names);
        counters
    }

    /// Adds the keys that are not known yet. `names` are all names; existing ones keep their index.
    pub fn extend_to(&self, names: &[Box<str>]) {
        let all = self.usage.extend_to(names);
        for (index, cell) in all.into_iter().enumerate() {
            let (segment, place) = place(index);
            let Some(cells) = self.segments.get(segment) else { return };
            let size = FIRST_SEGMENT << segment;
            let cells = cells.get_or_init(|| (0..size).map(|_| OnceLock::new()).collect());
            if let Some(place) = cells.get(place) {
                place.get_or_init(|| cell);
            }
        }
    }

    fn of(&self, key: KeyIndex) -> Option<&KeyUsage> {
        let (segment, place) = place(key.0 as usize);
        self.segments.get(segment)?.get()?.get(place)?.get().map(Arc::as_ref)
    }

    /// Counts an encryption that is about to be made by the proxy itself.
    #[inline]
    pub fn encrypts(&self, key: KeyIndex) {
        if let Some(cell) = self.of(key) {
            self.usage.count(cell);
        }
    }

    /// Counts an encryption that is about to be made for a request, unless it is to be refused.
    ///
    /// # Errors
    /// The key has reached its limit.
    #[inline]
    pub fn encrypts_for_request(&self, key: KeyIndex) -> Result<(), LimitReached> {
        let Some(cell) = self.of(key) else { return Ok(()) };
        let before = self.usage.count(cell);
        if before >= cell.refuse_at.load(Ordering::Relaxed) {
            cell.encrypts.fetch_sub(1, Ordering::Relaxed);
            return Err(LimitReached(self.usage.limit().encrypts));
        }
        Ok(())
    }

    /// Counts a decryption that is about to be made for a request.
    #[inline]
    pub fn decrypts(&self, key: KeyIndex) {
        if let Some(cell) = self.of(key) {
            cell.decrypts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Usage {
    /// Creates the counters of a process that started at that time, in seconds since 1970.
    #[must_use]
    pub fn new(started_unix_secs: u64) -> Self {
        Self { started_unix_secs, ..Self::default() }
    }

    /// Adds the keys that are not known yet, and returns the counters of these.
    pub fn extend_to(&self, names: &[Box<str>]) -> Vec<Arc<KeyUsage>> {
        let mut cells = self.cells.write();
        let Cells { list, places } = &mut *cells;
        let known = list.len();
        let mut of_name = |name: &str| {
            let place = *places.entry(name.into()).or_insert_with(|| {
                list.push((name.into(), Arc::default()));
                list.len() - 1
            });
            list.get(place).map(|(_, cell)| Arc::clone(cell)).unwrap_or_default()
        };
        let found = names.iter().map(|name| of_name(name)).collect();
        let has_new = list.len() > known;
        drop(cells);
        if has_new {
            self.apply_limit();
            self.wake.notify();
        }
        found
    }

    /// Counts an encryption, and returns the number before.
    #[inline]
    fn count(&self, cell: &KeyUsage) -> u64 {
        let before = cell.encrypts.fetch_add(1, Ordering::Relaxed);
        let wake_at = cell.wake_at.load(Ordering::Relaxed);
        if before >= wake_at {
            self.wake_once(cell, wake_at);
        }
        before
    }

    /// Wakes the keeper, once for each reservation, so that a disk that fails costs requests
    /// nothing.
    #[cold]
    fn wake_once(&self, cell: &KeyUsage, wake_at: u64) {
        let (relaxed, wake) = (Ordering::Relaxed, &cell.wake_at);
        // If this fails, another thread wakes the keeper, or there is a new reservation.
        if wake.compare_exchange(wake_at, u64::MAX, relaxed, relaxed).is_ok() {
            self.wake.notify();
        }
    }

    /// Waits until a key needs a new reservation or keys are added, or until `end`. For one thread.
    pub fn wait(&self, end: Instant) {
        self.wake.wait_until(end);
    }

    /// Ends the current [`Self::wait`], or the next one.
    pub fn wake(&self) {
        self.wake.notify();
    }

    /// Returns the counters of all keys, with their names, in the order in which they became known.
    #[must_use]
    pub fn cells(&self) -> Vec<(Box<str>, Arc<KeyUsage>)> {
        self.cells.read().list.clone()
    }

    /// Returns the limit.
    #[must_use]
    pub fn limit(&self) -> Limit {
        self.limit.read().unwrap_or(Limit { encrypts: u64::MAX, refuses: false })
    }

    /// Sets the limit.
    pub fn set_limit(&self, limit: Limit) {
        *self.limit.write() = Some(limit);
        self.apply_limit();
    }

    /// Sets the use of the keys by other processes.
    pub fn set_elsewhere(&self, elsewhere: HashMap<Box<str>, Elsewhere>) {
        *self.elsewhere.write() = elsewhere;
        self.apply_limit();
    }

    fn apply_limit(&self) {
        let (limit, elsewhere) = (self.limit(), self.elsewhere.read());
        for (name, cell) in self.cells() {
            let others = elsewhere.get(&name).map_or(0, |others| others.encrypts);
            let left = limit.encrypts.saturating_sub(others);
            let refuse_at = if limit.refuses { left } else { u64::MAX };
            cell.refuse_at.store(refuse_at, Ordering::Relaxed);
        }
    }

    /// Returns the state of the record on the disk.
    #[must_use]
    pub fn record(&self) -> Record {
        *self.record.lock()
    }

    /// Sets the state of the record on the disk.
    pub fn set_record(&self, record: Record) {
        *self.record.lock() = record;
    }

    /// Returns the use of all keys by all processes. Without a record, counts begin at the start of
    /// this process, and are incomplete from then on.
    #[must_use]
    pub fn totals(&self) -> Vec<KeyTotals> {
        let (record, elsewhere) = (self.record(), self.elsewhere.read());
        let none =
            Elsewhere { incomplete_since: Some(self.started_unix_secs), ..Elsewhere::default() };
        let cells = self.cells().into_iter().map(|(name, cell)| {
            let others = elsewhere.get(&name).unwrap_or(&none);
            let (last_encrypt, last_decrypt) = cell.last_uses();
            // Encryptions that are not on the disk would be lost if the process were killed now.
            let is_short = record.is_kept && cell.encrypts() > cell.reserved();
            let short_since = is_short.then_some(record.saved_unix_secs);
            let totals = Elsewhere {
                encrypts: others.encrypts.saturating_add(cell.encrypts()),
                decrypts: others.decrypts.saturating_add(cell.decrypts()),
                last_encrypt: others.last_encrypt.max(last_encrypt),
                last_decrypt: others.last_decrypt.max(last_decrypt),
                incomplete_since: others.incomplete_since.or(short_since),
            };
            KeyTotals { name, totals }
        });
        cells.collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(keys: usize) -> Vec<Box<str>> {
        (0..keys).map(|key| key.to_string().into()).collect()
    }

    fn counters(keys: usize) -> Counters {
        Counters::new(Arc::new(Usage::new(7)), &names(keys))
    }

    /// Each of many keys has its own counters, which stay in place when others are added. Another
    /// order of the same keys leads to the same counters.
    #[test]
    fn counters_do_not_move() {
        let counters = counters(3);
        counters.encrypts(KeyIndex(2));
        let cell: *const KeyUsage = counters.of(KeyIndex(2)).unwrap();
        counters.extend_to(&names(10_000));
        assert!(std::ptr::eq(cell, counters.of(KeyIndex(2)).unwrap()));
        (0..10_000).map(KeyIndex).for_each(|key| counters.encrypts(key));
        let cells = counters.usage.cells();
        assert_eq!(cells.len(), 10_000);
        for (key, (_, cell)) in cells.iter().enumerate() {
            assert_eq!(cell.encrypts(), 1 + u64::from(key == 2));
        }
        assert!(counters.of(KeyIndex(10_000)).is_none());
        assert!(counters.of(KeyIndex(u32::MAX)).is_none());
        let mut others = names(3);
        others.reverse();
        let others = Counters::new(Arc::clone(&counters.usage), &others);
        assert!(std::ptr::eq(cell, others.of(KeyIndex(0)).unwrap()));
    }

    /// At the limit, a request is refused and does not count; the proxy's own encryptions and
    /// decryptions go on, and the count is exact with many threads.
    #[test]
    fn refusal_at_the_limit() {
        let counters = counters(1);
        let others = Elsewhere { encrypts: 400, ..Elsewhere::default() };
        counters.usage.set_elsewhere(HashMap::from([("0".into(), others)]));
        counters.usage.set_limit(Limit { encrypts: 1400, refuses: true });
        let cell = counters.of(KeyIndex(0)).unwrap();
        cell.reserve(500, 100);
        let made: usize = std::thread::scope(|scope| {
            let work = || {
                let tries = (0..500).map(|_| counters.encrypts_for_request(KeyIndex(0)));
                tries.filter(Result::is_ok).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(cell.encrypts(), 1000);
        // A thread may be refused while another one's refused encryption is still counted.
        assert!(made <= 1000 && made > 990, "{made}");
        counters.encrypts(KeyIndex(0));
        counters.decrypts(KeyIndex(0));
        assert_eq!((cell.encrypts(), cell.decrypts()), (1001, 1));
        assert!(counters.encrypts_for_request(KeyIndex(0)).is_err());
        counters.usage.set_limit(Limit { encrypts: 1400, refuses: false });
        assert!(counters.encrypts_for_request(KeyIndex(0)).is_ok());
        assert_eq!(counters.usage.totals()[0].totals.encrypts, 1402);
    }

    /// The keeper is woken once when its number is reached, and again after the next reservation.
    #[test]
    fn the_keeper_is_woken_in_time() {
        let counters = counters(1);
        counters.usage.wait(Instant::now());
        let cell = counters.of(KeyIndex(0)).unwrap();
        let is_woken = || {
            let start = Instant::now();
            counters.usage.wait(start + std::time::Duration::from_millis(50));
            start.elapsed() < std::time::Duration::from_millis(40)
        };
        for round in 0..2 {
            cell.reserve(10 * round + 10, 10 * round + 5);
            (0..5).for_each(|_| counters.encrypts(KeyIndex(0)));
            assert!(!is_woken());
            (0..5).for_each(|_| counters.encrypts(KeyIndex(0)));
            assert!(is_woken());
            assert!(!is_woken());
        }
    }

    /// A count that is not on the disk, or was begun without one, is marked.
    #[test]
    fn incomplete_counts_are_marked() {
        let counters = counters(1);
        let usage = &counters.usage;
        let since = || usage.totals()[0].totals.incomplete_since;
        assert_eq!(since(), Some(7));
        usage.set_elsewhere(HashMap::from([("0".into(), Elsewhere::default())]));
        usage.set_record(Record { is_kept: true, is_failing: true, saved_unix_secs: 9 });
        let cell = counters.of(KeyIndex(0)).unwrap();
        cell.reserve(2, 1);
        (0..2).for_each(|_| counters.encrypts(KeyIndex(0)));
        assert_eq!(since(), None);
        counters.encrypts(KeyIndex(0));
        assert_eq!(since(), Some(9));
        cell.reserve(20, 10);
        assert_eq!(since(), None);
    }
}
