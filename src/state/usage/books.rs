//! All that a state directory knows about the keys' uses: the ledger, and the files of processes.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::ledger::{self, Account, Content, Ledger};
use super::process_file::{self, PREFIX, Reading};
use crate::hsm::usage::Elsewhere;
use crate::key_name::hex;
use crate::limits::{MAX_USAGE_FILE_BYTES, MAX_USAGE_FILES};
use crate::random;
use crate::state::directory::{Directory, Lock};
use crate::state::witness_file::Unreadable;

/// Part of the names of files that were set aside.
const DAMAGED_SUFFIX: &str = ".damaged";
const NO_RECORD: &str = "there was no record of it before";
const DAMAGED: &str = "the record of its count was damaged";

/// The ledger and the files of the processes that run, read under the directory's lock, with the
/// processes that have ended added to the ledger.
pub struct Books {
    directory: Directory,
    lock: Option<Lock>,
    ledger: Ledger,
    /// The ledger as it is in the file.
    saved: Ledger,
    /// What processes that run have written.
    running: Vec<Reading>,
    /// Damaged files, to be renamed.
    damaged: Vec<String>,
    /// Files of processes that have ended, locked.
    ended: Vec<(String, File)>,
    now: u64,
}

fn io_error(error: io::Error) -> Unreadable {
    Unreadable::Io(error.to_string())
}

impl Books {
    /// Reads the directory. `own` is the name of this process's file, which is left out.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn open(directory: &Directory, own: Option<&str>, now: u64) -> Result<Self, Unreadable> {
        let lock = directory.lock().map_err(io_error)?;
        Self::read(directory, Some(lock), own, now)
    }

    /// Reads a directory that may not be written to, without a lock. Changes by others in the
    /// meantime may be seen in part.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn look_at(directory: &Directory, now: u64) -> Result<Self, Unreadable> {
        Self::read(directory, None, None, now)
    }

    fn read(
        directory: &Directory,
        lock: Option<Lock>,
        own: Option<&str>,
        now: u64,
    ) -> Result<Self, Unreadable> {
        let found = ledger::load(directory)?;
        let Content { ledger, damaged_lines } = found.unwrap_or_default();
        let mut books = Self {
            directory: directory.clone(),
            lock,
            saved: ledger.clone(),
            ledger,
            running: Vec::new(),
            damaged: Vec::new(),
            ended: Vec::new(),
            now,
        };
        if damaged_lines > 0 {
            books.damaged.push(ledger::FILE_NAME.to_owned());
            // Not even the names of the keys whose lines are damaged are known; those that are in
            // use are registered again, as incomplete.
            books.saved = Ledger::default();
        }
        let files = books.file_names().map_err(io_error)?;
        let mut absorbed = std::mem::take(&mut books.ledger.absorbed);
        absorbed.retain(|name| files.contains(name));
        books.ledger.absorbed = absorbed;
        for name in files.into_iter().filter(|name| Some(name.as_str()) != own) {
            books.add_file(name).map_err(io_error)?;
        }
        Ok(books)
    }

    /// Returns the names of the processes' files.
    fn file_names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.directory.path())? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if name.starts_with(PREFIX) && !name.contains(DAMAGED_SUFFIX) {
                names.push(name);
            }
            if names.len() > MAX_USAGE_FILES {
                return Err(io::Error::other("there are too many files of uses of keys"));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn add_file(&mut self, name: String) -> io::Result<()> {
        let mut file = match File::open(self.directory.path().join(&name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let has_ended = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        if has_ended && (self.ledger.absorbed.contains(&name) || name.ends_with(".next")) {
            // An unfinished file was never in use.
            self.ledger.absorbed.insert(name.clone());
            self.ended.push((name, file));
            return Ok(());
        }
        if name.ends_with(".next") {
            return Ok(());
        }
        let mut content = Vec::new();
        file.by_ref().take(MAX_USAGE_FILE_BYTES).read_to_end(&mut content)?;
        match (process_file::parse(&content), has_ended) {
            (Ok(Some(reading)), true) => {
                self.absorb(&reading);
                self.ledger.absorbed.insert(name.clone());
                self.ended.push((name, file));
            }
            (Ok(Some(reading)), false) => self.running.push(reading),
            (Ok(None), true) => {
                self.doubt_all(DAMAGED);
                self.damaged.push(name);
            }
            // The process that runs will write its file again.
            (Ok(None), false) => {}
            (Err(reason), _) => {
                tracing::warn!(file = name, %reason, "a record of uses of keys cannot be read");
                self.doubt_all("another version of the proxy has counted in the same directory");
            }
        }
        Ok(())
    }

    fn absorb(&mut self, reading: &Reading) {
        for entry in &reading.entries {
            let new = || Account::unknown_before(self.now, NO_RECORD);
            let account = self.ledger.accounts.entry(entry.key.clone()).or_insert_with(new);
            account.absorb(entry, reading, self.now);
        }
    }

    fn doubt_all(&mut self, reason: &str) {
        self.ledger.accounts.values_mut().for_each(|account| account.doubt(self.now, reason));
    }

    /// Opens an account for each of these keys that has none, since its earlier use is unknown.
    pub fn register<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let is_damaged = !self.damaged.is_empty();
        let reason = if is_damaged { DAMAGED } else { NO_RECORD };
        for name in names.filter(|name| !name.is_empty()) {
            if !self.ledger.accounts.contains_key(name) {
                let account = Account::unknown_before(self.now, reason);
                self.ledger.accounts.insert(name.into(), account);
            }
        }
    }

    /// Records that a key has made this number of encryptions in all.
    pub fn state(&mut self, name: &str, encrypts: u64) {
        let running = self.running.iter().flat_map(|reading| &reading.entries);
        let used: u64 = running.filter(|it| *it.key == *name).map(|it| it.used).sum();
        let account = self.ledger.accounts.remove(name).unwrap_or_default();
        let stated = account.stated(encrypts.saturating_sub(used), self.now);
        self.ledger.accounts.insert(name.into(), stated);
    }

    /// Adds points to the histories that are due. `own` returns the number of encryptions of this
    /// process.
    pub fn remember(&mut self, own: impl Fn(&str) -> u64) {
        let mut running: HashMap<&str, u64> = HashMap::new();
        for entry in self.running.iter().flat_map(|reading| &reading.entries) {
            *running.entry(&entry.key).or_default() += entry.used;
        }
        for (name, account) in &mut self.ledger.accounts {
            let others = running.get(&**name).copied().unwrap_or(0);
            let at_least = account.at_least.saturating_add(others).saturating_add(own(name));
            account.remember(self.now, at_least);
        }
    }

    /// Returns each key's use by all processes other than this one.
    #[must_use]
    pub fn elsewhere(&self) -> HashMap<Box<str>, Elsewhere> {
        let of_account = |account: &Account| Elsewhere {
            encrypts: account.encrypts,
            decrypts: account.decrypts,
            last_encrypt: account.last_encrypt,
            last_decrypt: account.last_decrypt,
            incomplete_since: account.incomplete.as_ref().map(|incomplete| incomplete.since),
        };
        let accounts = self.ledger.accounts.iter();
        let mut all: HashMap<_, _> =
            accounts.map(|(name, account)| (name.clone(), of_account(account))).collect();
        for reading in &self.running {
            for entry in &reading.entries {
                let Some(sum) = all.get_mut(&entry.key) else { continue };
                sum.encrypts = sum.encrypts.saturating_add(reading.charged(entry));
                sum.decrypts = sum.decrypts.saturating_add(entry.decrypts);
                sum.last_encrypt = sum.last_encrypt.max(entry.last_encrypt);
                sum.last_decrypt = sum.last_decrypt.max(entry.last_decrypt);
            }
        }
        all
    }

    /// Returns the accounts, which include processes that have ended.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the latest records of the processes that run.
    #[must_use]
    pub fn running(&self) -> &[Reading] {
        &self.running
    }

    /// Writes the ledger if it has changed, and removes the files that are in it. Damaged files are
    /// kept under other names. Returns the lock, still held.
    ///
    /// # Errors
    /// The directory cannot be written. Whatever was done can be repeated.
    pub fn close(mut self) -> io::Result<Lock> {
        let Some(lock) = self.lock.take() else {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it was only looked at"));
        };
        for name in &self.damaged {
            let aside = set_aside(&self.directory, name, self.now)?;
            tracing::warn!(
                file = %aside.display(),
                "[state] directory: the record of uses of keys was damaged; counts are incomplete \
                 until `xks-proxy keys usage --set` states them"
            );
        }
        if self.ledger != self.saved {
            let content = ledger::format(&self.ledger)?;
            self.directory.write(ledger::FILE_NAME, &content)?;
        }
        // Only now does nothing depend on the damaged files any more.
        let damaged = self.damaged.drain(..).filter(|name| name != ledger::FILE_NAME);
        for name in damaged {
            fs::remove_file(self.directory.path().join(name))?;
        }
        for (name, _locked) in self.ended.drain(..) {
            // If this fails, the file is listed as absorbed, and a later process removes it.
            let _ = fs::remove_file(self.directory.path().join(name));
        }
        Ok(lock)
    }
}

/// Copies a damaged file to a name that no other one has.
fn set_aside(directory: &Directory, name: &str, now: u64) -> io::Result<PathBuf> {
    let mut random = [0; 4];
    random::fill(&mut random)?;
    let aside = format!("{name}{DAMAGED_SUFFIX}-{now}-{}", hex(&random));
    let mut copy = directory.create_new(&aside)?;
    io::copy(&mut File::open(directory.path().join(name))?, &mut copy)?;
    copy.sync_all()?;
    directory.sync()?;
    Ok(directory.path().join(aside))
}
