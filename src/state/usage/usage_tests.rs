//! Tests of the count in the state directory. Several keepers in one process stand for several
//! processes: each locks its own file.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::books::Books;
use super::keeper::Keeper;
use super::ledger::{self, Account, Content, Ledger};
use super::process_file::{self, Entry, PREFIX, Reading};
use crate::hsm::usage::{Counters, Elsewhere, Usage};
use crate::job::KeyIndex;
use crate::limits::{MIN_USAGE_CEILING_PER_SEC, MIN_USAGE_RESERVE, USAGE_HISTORY_INTERVAL};
use crate::observe::timestamp::unix_secs;
use crate::state::directory::Directory;

const FOO: KeyIndex = KeyIndex(0);

fn now() -> u64 {
    unix_secs(SystemTime::now())
}

/// A state directory, and processes that count in it.
struct Place(tempfile::TempDir);

struct Process {
    usage: Arc<Usage>,
    counters: Counters,
    keeper: Keeper,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn directory(&self) -> Directory {
        Directory::new(self.0.path())
    }

    fn process(&self) -> Process {
        let usage = Arc::new(Usage::new(now()));
        let counters = Counters::new(Arc::clone(&usage), &["foo".into(), "bar".into()]);
        let keeper = Keeper::open(self.directory(), Arc::clone(&usage));
        Process { usage, counters, keeper }
    }

    /// States the numbers, as an operator does.
    fn state(&self, encrypts: u64) {
        let mut books = Books::open(&self.directory(), None, now()).unwrap();
        books.state("foo", encrypts);
        books.state("bar", encrypts);
        books.close().unwrap();
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn process_files(&self) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(PREFIX));
        files
    }

    fn ledger(&self) -> Content {
        ledger::load(&self.directory()).unwrap().unwrap_or_default()
    }

    fn account(&self, key: &str) -> Account {
        self.ledger().ledger.accounts.get(key).unwrap().clone()
    }
}

impl Process {
    fn encrypts(&self, times: u64) {
        (0..times).for_each(|_| self.counters.encrypts(FOO));
    }

    fn foo(&self) -> Elsewhere {
        self.usage.totals().into_iter().find(|key| &*key.name == "foo").unwrap().totals
    }

    /// Ends without a last record.
    fn ends_suddenly(self) {
        drop(self);
    }
}

fn reading() -> Reading {
    let entry = |key: &str, used| Entry {
        key: key.into(),
        used,
        reserved: used + 1000,
        decrypts: 3,
        last_encrypt: 1_790_000_000,
        last_decrypt: 1_790_000_001,
        ceiling_per_sec: 10,
    };
    Reading {
        started: 1_790_000_000,
        written: 1_790_000_100,
        sequence: 4,
        is_closed: false,
        entries: vec![entry("foo", 7), entry("ключ \"2\"\n", 0)],
    }
}

fn copies(reading: &Reading) -> Vec<u8> {
    let body = process_file::body(&reading.entries).unwrap();
    let mut copy = process_file::header(reading, &body).unwrap();
    copy.extend_from_slice(&body);
    copy.extend_from_slice(&[b'\n'; 100]);
    [&copy[..], &copy[..]].concat()
}

/// A process's file reads back unchanged as long as one of its copies is intact, whatever happened
/// to the other one.
#[test]
fn one_copy_suffices() {
    let reading = reading();
    let whole = copies(&reading);
    assert_eq!(process_file::parse(&whole).unwrap().unwrap(), reading);
    let used = process_file::HEADER_BYTES + process_file::body(&reading.entries).unwrap().len();
    for at in 0..used {
        for start in [0, whole.len() / 2] {
            let mut damaged = whole.clone();
            damaged[start + at] ^= 1;
            assert_eq!(process_file::parse(&damaged).unwrap().as_ref(), Some(&reading), "{at}");
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        damaged[whole.len() / 2 + at] ^= 1;
        // The spaces after the header say nothing.
        let found = process_file::parse(&damaged);
        assert!(matches!(&found, Ok(None) | Err(_)) || found == Ok(Some(reading.clone())), "{at}");
    }
    assert_eq!(process_file::parse(b"").unwrap(), None);
    assert_eq!(process_file::parse(&whole[..whole.len() / 2 + 20]).unwrap(), None);
}

/// The ledger reads back unchanged, each damaged or missing line is noticed, and damage to one line
/// leaves the others.
#[test]
fn the_ledger_notices_damage() {
    let account = Account::unknown_before(5, "no record").stated(9, 6);
    let accounts = [("a".into(), account.clone()), ("b".into(), Account::default())];
    let absorbed = ["key-usage.1".to_owned()];
    let ledger = Ledger { accounts: accounts.into(), absorbed: absorbed.into() };
    let text = ledger::format(&ledger).unwrap();
    let content = ledger::parse(&text).unwrap();
    assert_eq!(content, Content { ledger, damaged_lines: 0 });
    for at in (0..text.len()).filter(|at| text[*at] != b'\n') {
        let mut damaged = text.clone();
        damaged[at] ^= 1;
        if let Ok(content) = ledger::parse(&damaged) {
            assert!(content.damaged_lines > 0, "byte {at}");
            assert!(content.ledger.accounts.len() + 1 >= 2, "byte {at}");
        }
    }
    let cut = &text[..text.iter().rposition(|byte| *byte == b'{').unwrap()];
    assert_eq!(ledger::parse(cut).unwrap().damaged_lines, 1);
    assert_eq!(ledger::parse(b"").unwrap().damaged_lines, 1);
}

/// A new directory begins incomplete counts. After an orderly end numbers are exact, and one file
/// remains.
#[test]
fn an_orderly_end_is_exact() {
    let place = Place::new();
    let start = now();
    let process = place.process();
    assert!(process.foo().incomplete_since.unwrap() >= start);
    place.state(100);
    let process = {
        process.keeper.close();
        place.process()
    };
    process.encrypts(5);
    process.counters.decrypts(FOO);
    let foo = process.foo();
    assert_eq!((foo.encrypts, foo.decrypts, foo.incomplete_since), (105, 1, None));
    process.keeper.close();
    let account = place.account("foo");
    assert_eq!((account.encrypts, account.at_least, account.decrypts), (105, 105, 1));
    assert!(account.last_encrypt >= start && account.last_decrypt >= start);
    assert_eq!(place.process_files(), [""; 0].map(PathBuf::from));
    let mode = fs::metadata(place.0.path().join(ledger::FILE_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// After a crash, what was reserved counts as used, once.
#[test]
fn a_crash_overstates() {
    let place = Place::new();
    place.process().ends_suddenly();
    place.state(0);
    let process = place.process();
    process.encrypts(5);
    process.ends_suddenly();
    let process = place.process();
    let foo = process.foo();
    assert_eq!((foo.encrypts, foo.incomplete_since), (MIN_USAGE_RESERVE, None));
    // The next process read the ledger again, and took the file up only once.
    assert_eq!(place.account("foo").encrypts, MIN_USAGE_RESERVE);
    assert_eq!(place.process_files().len(), 1);
}

/// A file that is in the sums, but was not removed, is not added a second time.
#[test]
fn a_file_is_added_once() {
    let place = Place::new();
    place.process().ends_suddenly();
    let file = place.process_files().remove(0);
    let content = fs::read(&file).unwrap();
    place.state(0);
    let before = place.account("foo").encrypts;
    assert!(!file.exists());
    fs::write(&file, content).unwrap();
    drop(Books::open(&place.directory(), None, now()).unwrap().close().unwrap());
    assert_eq!(place.account("foo").encrypts, before);
    assert!(!file.exists());
    // Once the file is gone, the ledger forgets its name at the next change.
    place.state(1);
    assert_eq!(place.ledger().ledger.absorbed.len(), 0);
}

/// Two processes beside each other, as during an upgrade, see each other's numbers, and the sum is
/// right at the end.
#[test]
fn two_processes_add_up() {
    let place = Place::new();
    place.process().ends_suddenly();
    place.state(0);
    let old = place.process();
    old.encrypts(10);
    let new = place.process();
    new.encrypts(3);
    assert_eq!(place.process_files().len(), 2);
    assert_eq!(new.foo().encrypts, MIN_USAGE_RESERVE + 3, "the old one's reservation");
    place.state(50);
    old.encrypts(1);
    old.keeper.close();
    new.keeper.close();
    let account = place.account("foo");
    assert_eq!((account.encrypts, account.incomplete), (50 + 11 + 3, None));
}

/// A process that was killed long ago may have gone on counting while its disk failed.
#[test]
fn a_long_silence_is_doubtful() {
    let entry = &reading().entries[0];
    let after = |seconds| {
        let mut account = Account::default();
        account.absorb(entry, &reading(), reading().written + seconds);
        account
    };
    let (recent, old) = (after(100), after(101));
    assert_eq!((recent.encrypts, recent.at_least, recent.incomplete), (1007, 7, None));
    assert_eq!(old.encrypts, 1007);
    assert_eq!(old.incomplete.unwrap().since, reading().written);
    let closed = Reading { is_closed: true, ..reading() };
    let mut account = Account::default();
    account.absorb(entry, &closed, closed.written + 1_000_000);
    assert_eq!((account.encrypts, account.incomplete), (7, None));
    let mut account = Account::default();
    account.absorb(entry, &reading(), reading().written - 100);
    assert!(account.incomplete.is_some(), "the clock was set back");
}

/// A damaged file of a process is kept, and all counts are marked; a damaged ledger is kept, and
/// the keys whose lines are damaged are marked.
#[test]
fn damaged_files_are_kept_and_marked() {
    let place = Place::new();
    place.process().ends_suddenly();
    place.state(70);
    place.process().ends_suddenly();
    let file = place.process_files().remove(0);
    fs::write(&file, "damaged").unwrap();
    let process = place.process();
    assert!(process.foo().incomplete_since.is_some());
    assert_eq!(process.foo().encrypts, 70);
    process.keeper.close();
    let aside = |content: &[u8]| {
        let mut files = place.files();
        files.retain(|path| path.to_str().unwrap().contains(".damaged-"));
        assert!(files.iter().any(|path| fs::read(path).unwrap() == content), "{files:?}");
        files.len()
    };
    assert_eq!(aside(b"damaged"), 1);

    place.state(80);
    let path = place.0.path().join(ledger::FILE_NAME);
    let text = fs::read_to_string(&path).unwrap();
    let damaged = text.replacen("\"key\":\"bar\"", "\"key\":\"baz\"", 1);
    fs::write(&path, &damaged).unwrap();
    let process = place.process();
    let foo = process.foo();
    assert_eq!((foo.encrypts, foo.incomplete_since), (80, None));
    let bar = process.usage.totals().into_iter().find(|key| &*key.name == "bar").unwrap();
    assert!(bar.totals.incomplete_since.is_some());
    assert_eq!(aside(damaged.as_bytes()), 2);
}

/// A file of another version is neither changed nor removed, and the process counts in memory.
#[test]
fn another_version_stays() {
    let place = Place::new();
    let path = place.0.path().join(ledger::FILE_NAME);
    let text = "{\"format\":\"xks-proxy key usage\",\"version\":2}\n";
    fs::write(&path, text).unwrap();
    let process = place.process();
    process.encrypts(2);
    assert!(process.usage.record().is_failing);
    assert_eq!(process.foo().encrypts, 2);
    assert!(process.foo().incomplete_since.is_some());
    process.keeper.close();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

/// A directory in which nothing can be created: the process counts in memory, marked, and writes
/// the true number once it can.
#[test]
fn a_directory_that_recovers() {
    let place = Place::new();
    place.process().ends_suddenly();
    place.state(40);
    let blocked = place.0.path().join("key-usage.next");
    // Even root cannot replace a directory that is not empty by a file.
    fs::create_dir_all(blocked.join("in the way")).unwrap();
    let lock = place.0.path().join("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let process = place.process();
    process.encrypts(2);
    let foo = process.foo();
    assert!(process.usage.record().is_failing);
    assert_eq!(foo.encrypts, 42, "the ledger can still be read");
    assert!(foo.incomplete_since.is_some());
    fs::remove_dir(&lock).unwrap();
    fs::remove_dir_all(&blocked).unwrap();
    let keeper = Arc::new(process.keeper);
    Arc::clone(&keeper).start().unwrap();
    assert!(keeper.refresh(Duration::from_secs(10)));
    let foo = process.usage.totals().remove(0).totals;
    assert_eq!((foo.encrypts, foo.incomplete_since), (42, None));
    keeper.close();
    assert_eq!(place.account("foo").encrypts, 42);
}

/// Reservations grow ahead of the use, in a file that was removed as well.
#[test]
fn reservations_grow() {
    let place = Place::new();
    let process = place.process();
    place.state(0);
    let keeper = Arc::new(process.keeper);
    Arc::clone(&keeper).start().unwrap();
    let cell = Arc::clone(&process.usage.cells()[0].1);
    for round in 1..=4 {
        (0..MIN_USAGE_RESERVE / 2 + 1).for_each(|_| process.counters.encrypts(FOO));
        let least = round * (MIN_USAGE_RESERVE / 2) + MIN_USAGE_RESERVE;
        let end = SystemTime::now() + Duration::from_secs(20);
        while cell.reserved() < least {
            assert!(SystemTime::now() < end, "{} < {least}", cell.reserved());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(cell.reserved() >= cell.encrypts());
        if round == 2 {
            fs::remove_file(place.process_files().remove(0)).unwrap();
            assert!(keeper.refresh(Duration::from_secs(20)));
        }
    }
    let content = fs::read(place.process_files().remove(0)).unwrap();
    let reading = process_file::parse(&content).unwrap().unwrap();
    assert!(reading.entries[0].reserved >= cell.encrypts());
    assert!(reading.entries[0].ceiling_per_sec > MIN_USAGE_CEILING_PER_SEC);
    keeper.close();
}

/// Keys of a reload are recorded before they are used, and a longer name needs a larger file.
#[test]
fn keys_are_added() {
    let place = Place::new();
    let process = place.process();
    let keeper = Arc::new(process.keeper);
    Arc::clone(&keeper).start().unwrap();
    let mut names: Vec<Box<str>> = vec!["foo".into(), "bar".into()];
    names.extend((0..1000).map(|number| format!("a key with a long name {number}").into()));
    process.counters.extend_to(&names);
    assert!(keeper.refresh(Duration::from_secs(20)));
    let content = fs::read(place.process_files().remove(0)).unwrap();
    let reading = process_file::parse(&content).unwrap().unwrap();
    assert_eq!(reading.entries.len(), names.len());
    assert_eq!(place.process_files().len(), 1);
    keeper.close();
}

/// The history has a point a day, and the rate is that of the last days.
#[test]
fn rates_come_from_the_history() {
    let day = USAGE_HISTORY_INTERVAL.as_secs();
    let mut account = Account::default().stated(1000, 0);
    assert_eq!(account.rate(0, 1000), None);
    assert_eq!(account.rate(100, 1500), Some(5.0));
    assert!(!account.remember(day - 1, 2000));
    for number in 1..100 {
        assert!(account.remember(number * day, 1000 + number * day));
        assert!(!account.remember(number * day + 5, 0));
    }
    assert_eq!(account.history.len(), 32);
    assert_eq!(account.rate(99 * day + 60, 1000 + 99 * day + 60), Some(1.0));
}

/// A command that root runs does not lock out the proxy's user.
#[test]
fn files_belong_to_the_directorys_owner() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let place = Place::new();
    if chown(place.0.path(), Some(12_345), Some(12_346)).is_err() {
        // Only root can try this.
        return;
    }
    fs::set_permissions(place.0.path(), Permissions::from_mode(0o700)).unwrap();
    let _process = place.process();
    for file in place.files() {
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346), "{}", file.display());
    }
    assert_eq!(place.files().len(), 3);
}
