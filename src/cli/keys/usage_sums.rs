//! The uses of keys in a state directory, or in a copy of one of its files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::limits::MAX_USAGE_FILE_BYTES;
use crate::state::directory::Directory;
use crate::state::usage::books::Books;
use crate::state::usage::ledger::{self, Account, Ledger};
use crate::state::usage::process_file::{self, Reading};

/// The use of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) encrypts: u64,
    /// Number of encryptions that were counted one by one.
    pub(super) at_least: u64,
    pub(super) decrypts: u64,
    pub(super) last_encrypt: u64,
    pub(super) last_decrypt: u64,
    /// Encryptions in a second, if that is known.
    pub(super) rate: Option<f64>,
    /// Earliest time since which a count is incomplete, and the reason.
    pub(super) incomplete: Option<(u64, String)>,
}

impl Sum {
    pub(super) fn add(&mut self, other: Self) {
        self.encrypts = self.encrypts.saturating_add(other.encrypts);
        self.at_least = self.at_least.saturating_add(other.at_least);
        self.decrypts = self.decrypts.saturating_add(other.decrypts);
        self.last_encrypt = self.last_encrypt.max(other.last_encrypt);
        self.last_decrypt = self.last_decrypt.max(other.last_decrypt);
        if let Some(rate) = other.rate {
            self.rate = Some(self.rate.unwrap_or(0.0) + rate);
        }
        if let Some(incomplete) = other.incomplete {
            let earlier = self.incomplete.take().filter(|ours| ours.0 <= incomplete.0);
            self.incomplete = Some(earlier.unwrap_or(incomplete));
        }
    }

    fn of(account: &Account) -> Self {
        let incomplete = account.incomplete.as_ref();
        Self {
            encrypts: account.encrypts,
            at_least: account.at_least,
            decrypts: account.decrypts,
            last_encrypt: account.last_encrypt,
            last_decrypt: account.last_decrypt,
            rate: None,
            incomplete: incomplete.map(|it| (it.since, it.reason.clone())),
        }
    }
}

/// Returns the uses recorded at a path.
///
/// # Errors
/// The path cannot be read, or is something else; the error is the reason.
pub(super) fn sum_of(path: &Path, now: u64) -> Result<BTreeMap<Box<str>, Sum>, String> {
    if path.is_dir() {
        let directory = Directory::new(path);
        // Without a lock if the directory is read-only.
        let books = Books::open(&directory, None, now).or_else(|_| Books::look_at(&directory, now));
        let books = books.map_err(|reason| reason.to_string())?;
        return Ok(sums(books.ledger(), books.running(), true, now));
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_USAGE_FILE_BYTES).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if let Ok(Some(reading)) = process_file::parse(&content) {
        return Ok(sums(&Ledger::default(), &[reading], false, now));
    }
    match ledger::parse(&content) {
        Ok(content) if content.damaged_lines == 0 => Ok(sums(&content.ledger, &[], false, now)),
        Ok(content) => Err(format!(
            "it is not a record of uses of keys, or is damaged in {} lines",
            content.damaged_lines
        )),
        Err(reason) => Err(reason.to_string()),
    }
}

/// Adds up. What a running process has reserved counts only in a copy, since it may have ended in
/// the meantime.
fn sums(
    ledger: &Ledger,
    readings: &[Reading],
    are_running: bool,
    now: u64,
) -> BTreeMap<Box<str>, Sum> {
    let of_ledger = ledger.accounts.iter().map(|(key, account)| (key.clone(), Sum::of(account)));
    let mut sums: BTreeMap<Box<str>, Sum> = of_ledger.collect();
    for reading in readings {
        for entry in &reading.entries {
            let encrypts = if are_running { entry.used } else { reading.charged(entry) };
            let part = Sum {
                encrypts,
                at_least: entry.used,
                decrypts: entry.decrypts,
                last_encrypt: entry.last_encrypt,
                last_decrypt: entry.last_decrypt,
                ..Sum::default()
            };
            sums.entry(entry.key.clone()).or_default().add(part);
        }
    }
    for (key, sum) in &mut sums {
        let account = ledger.accounts.get(key);
        sum.rate = account.and_then(|account| account.rate(now, sum.at_least));
    }
    sums
}
