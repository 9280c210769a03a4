//! The ledger: the file with the sums of all processes that have ended, a line of JSON per key.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::digest::digest;
use super::process_file::{Entry, Reading};
use crate::limits::{
    MAX_USAGE_CLOCK_STEP, MAX_USAGE_FILE_BYTES, MAX_USAGE_HISTORY, USAGE_HISTORY_INTERVAL,
    USAGE_RATE_SPAN,
};
use crate::state::directory::Directory;
use crate::state::witness_file::Unreadable;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "key-usage";
pub(super) const FORMAT: &str = "xks-proxy key usage";
const VERSION: u32 = 1;

/// The reason why a count is not known to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// Time from which on the count is right, or at which it was interrupted, in seconds since
    /// 1970.
    pub since: u64,
    /// The reason, for people.
    pub reason: String,
}

/// The use of one key by processes that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Number of encryptions. After a crash, the number that the process had reserved.
    pub encrypts: u64,
    /// Number of encryptions that were counted one by one.
    pub at_least: u64,
    /// Number of decryptions for clients.
    pub decrypts: u64,
    /// Time of the last encryption, in seconds since 1970; 0 if there was none.
    pub last_encrypt: u64,
    /// Time of the last decryption, in seconds since 1970; 0 if there was none.
    pub last_decrypt: u64,
    /// Set if the count is not known to be complete.
    pub incomplete: Option<Incomplete>,
    /// Time at which an operator stated the number, in seconds since 1970.
    pub stated: Option<u64>,
    /// Earlier times and numbers of encryptions, from which the rate is computed.
    pub history: Vec<(u64, u64)>,
}

/// The accounts of all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The accounts, by the keys' names.
    pub accounts: BTreeMap<Box<str>, Account>,
    /// Files of processes that are in the sums already and may not have been deleted yet.
    pub absorbed: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    #[serde(default)]
    keys: usize,
    #[serde(default)]
    absorbed: BTreeSet<String>,
    #[serde(default)]
    check: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Box<str>,
    account: Account,
    check: String,
}

/// The readable part of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The accounts.
    pub ledger: Ledger,
    /// Number of lines that are damaged or missing.
    pub damaged_lines: usize,
}

impl Account {
    /// Returns the account of a key whose earlier use is unknown.
    #[must_use]
    pub fn unknown_before(now: u64, reason: &str) -> Self {
        let incomplete = Some(Incomplete { since: now, reason: reason.to_owned() });
        Self { incomplete, history: vec![(now, 0)], ..Self::default() }
    }

    /// Returns the account of a key of which an operator says that it has made that number of
    /// encryptions.
    #[must_use]
    pub fn stated(self, encrypts: u64, now: u64) -> Self {
        Self {
            encrypts,
            at_least: encrypts,
            incomplete: None,
            stated: Some(now),
            history: vec![(now, encrypts)],
            ..self
        }
    }

    /// Marks the count as incomplete, unless it is so already.
    pub fn doubt(&mut self, since: u64, reason: &str) {
        self.incomplete.get_or_insert_with(|| Incomplete { since, reason: reason.to_owned() });
    }

    /// Adds the part of a process that has ended. `now` is a time at which it certainly had.
    pub fn absorb(&mut self, entry: &Entry, of: &Reading, now: u64) {
        self.at_least = self.at_least.saturating_add(entry.used);
        self.encrypts = self.encrypts.saturating_add(of.charged(entry));
        self.decrypts = self.decrypts.saturating_add(entry.decrypts);
        self.last_encrypt = self.last_encrypt.max(entry.last_encrypt);
        self.last_decrypt = self.last_decrypt.max(entry.last_decrypt);
        if let Some(reason) = doubt_about(entry, of, now) {
            self.doubt(of.written, reason);
        }
    }

    /// Adds a point to the history if the last one is old. `at_least` includes processes that run.
    /// Returns whether it was added.
    pub fn remember(&mut self, now: u64, at_least: u64) -> bool {
        let interval = USAGE_HISTORY_INTERVAL.as_secs();
        if self.history.last().is_some_and(|(then, _)| now < then.saturating_add(interval)) {
            return false;
        }
        self.history.push((now, at_least));
        let excess = self.history.len().saturating_sub(MAX_USAGE_HISTORY);
        self.history.drain(..excess);
        true
    }

    /// Returns the encryptions in a second over the last days, if there is some history.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self, now: u64, at_least: u64) -> Option<f64> {
        let begin = now.saturating_sub(USAGE_RATE_SPAN.as_secs());
        let recent = self.history.iter().find(|(then, _)| *then >= begin);
        let (then, count) = recent.or(self.history.last())?;
        let span = now.checked_sub(*then).filter(|span| *span > 0)?;
        Some(at_least.saturating_sub(*count) as f64 / span as f64)
    }
}

/// Returns the reason to doubt that a process's reservation covers its use: see the module's
/// documentation.
fn doubt_about(entry: &Entry, of: &Reading, now: u64) -> Option<&'static str> {
    if of.is_closed {
        return None;
    }
    if now.saturating_add(MAX_USAGE_CLOCK_STEP.as_secs()) < of.written {
        return Some("a process ended without a last record, and the clock was set back since");
    }
    let possible = now.saturating_sub(of.written).saturating_mul(entry.ceiling_per_sec);
    let left = entry.reserved.saturating_sub(entry.used);
    (possible > left).then_some(
        "a process ended without a last record, so long ago that it may have used up its reserve",
    )
}

/// Parses a file's content.
///
/// # Errors
/// [`Unreadable::Foreign`]
pub fn parse(content: &[u8]) -> Result<Content, Unreadable> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
    let mut found = Content::default();
    let mut keys = 0;
    match header {
        Some(header) if header.format == FORMAT && header.version == VERSION => {
            if header.check == check_of_header(&header) {
                found.ledger.absorbed = header.absorbed;
                keys = header.keys;
            } else {
                found.damaged_lines = 1;
            }
        }
        Some(Header { format, version, .. }) if format == FORMAT => {
            return Err(Unreadable::Foreign(format!(
                "it has version {version}, and this program knows version {VERSION}"
            )));
        }
        Some(Header { format, .. }) => {
            return Err(Unreadable::Foreign(format!("its format is {format:?}")));
        }
        None => found.damaged_lines = 1,
    }
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if line.check == check_of(&line.key, &line.account) => {
                found.ledger.accounts.insert(line.key, line.account);
            }
            Ok(_) | Err(_) => found.damaged_lines += 1,
        }
    }
    let present = found.ledger.accounts.len() + found.damaged_lines;
    found.damaged_lines += keys.saturating_sub(present);
    Ok(found)
}

fn check_of_header(header: &Header) -> String {
    digest(format!("{} {:?}", header.keys, header.absorbed).as_bytes())
}

fn check_of(key: &str, account: &Account) -> String {
    // This cannot fail: the members are numbers and texts.
    digest(&serde_json::to_vec(&(key, account)).unwrap_or_default())
}

/// Returns the content of a file with these accounts.
///
/// # Errors
/// Never in practice: memory takes all writes.
pub fn format(ledger: &Ledger) -> io::Result<Vec<u8>> {
    let mut header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        keys: ledger.accounts.len(),
        absorbed: ledger.absorbed.clone(),
        check: String::new(),
    };
    header.check = check_of_header(&header);
    let mut content = serde_json::to_vec(&header)?;
    content.push(b'\n');
    for (key, account) in &ledger.accounts {
        let check = check_of(key, account);
        let line = Line { key: key.clone(), account: account.clone(), check };
        serde_json::to_writer(&mut content, &line)?;
        content.push(b'\n');
    }
    Ok(content)
}

/// Reads the file of a state directory. Returns `None` if there is none.
///
/// # Errors
/// [`Unreadable`]
pub fn load(directory: &Directory) -> Result<Option<Content>, Unreadable> {
    let content = directory.read(FILE_NAME, MAX_USAGE_FILE_BYTES);
    let content = content.map_err(|error| Unreadable::Io(error.to_string()))?;
    content.as_deref().map(parse).transpose()
}
