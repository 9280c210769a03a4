//! The current file of the audit log, and its rotation.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::config::{AuditConfig, AuditRotation};
use super::line::string;
use crate::observe::timestamp::Rfc3339;

/// Ending of all file names: one JSON object per line.
const SUFFIX: &str = ".jsonl";
/// Upper bound of the length of a file's first line, which names the chain.
const MAX_FIRST_LINE_BYTES: u64 = 4096;

/// The current file, and the rules for its successor.
pub(super) struct Files {
    directory: PathBuf,
    prefix: String,
    rotation: AuditRotation,
    max_file_bytes: Option<u64>,
    /// Length at which this file is rotated: the usual one, or more if rotation was postponed.
    due_bytes: Option<u64>,
    retain_files: Option<usize>,
    file: File,
    /// The last file that others deleted. It stays open, so that its lines can be copied from
    /// `/proc/PID/fd` while the process runs.
    deleted: Option<File>,
    bytes: u64,
    /// Hour or day of the file, counted from 1970.
    period: u64,
}

impl Files {
    /// Opens the current file, or creates it and its directory.
    ///
    /// # Errors
    /// The directory or the file cannot be created or opened.
    pub(super) fn open(config: &AuditConfig) -> io::Result<Self> {
        fs::create_dir_all(&config.directory)?;
        let path = config.directory.join(format!("{}{SUFFIX}", config.prefix));
        let file = open_file(&path)?;
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            directory: config.directory.clone(),
            prefix: config.prefix.clone(),
            rotation: config.rotation,
            max_file_bytes: config.max_file_bytes,
            due_bytes: config.max_file_bytes,
            retain_files: config.retain_files,
            bytes: metadata.len(),
            period: period(config.rotation, modified),
            file,
            deleted: None,
        })
    }

    /// Returns the path of the current file.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", self.prefix))
    }

    /// Returns the current file, for recovery.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Returns the length of the current file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets the length of the current file after it was truncated.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Appends bytes, possibly only some of them, and returns the number appended.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    /// Waits until the file is on the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Returns whether the file's hour or day is over, or the file is too large.
    pub(super) fn is_due(&mut self, since_1970: Duration) -> bool {
        let period = period(self.rotation, since_1970);
        if self.bytes == 0 {
            self.period = period;
        }
        period != self.period || self.due_bytes.is_some_and(|max| self.bytes >= max)
    }

    /// Creates the next file without using it yet, so that a failure changes nothing.
    ///
    /// # Errors
    /// The file cannot be created.
    pub(super) fn prepare_next(&self) -> io::Result<File> {
        let path = self.next_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => open_file(&path),
        }
    }

    /// Renames the current file after the time and the number of its last line, and puts `next` in
    /// its place. The names are on the disk once [`Self::sync_names`] has returned.
    ///
    /// # Errors
    /// A file cannot be renamed; the current file stays in use.
    pub(super) fn rotate(&mut self, next: File, since_1970: Duration, seq: u64) -> io::Result<()> {
        let present = self.path();
        let archived = self.archived_path(since_1970, seq);
        fs::rename(&present, &archived)?;
        if let Err(error) = fs::rename(self.next_path(), &present) {
            let _ = fs::rename(&archived, &present);
            return Err(error);
        }
        self.begin(next, 0, since_1970);
        Ok(())
    }

    /// Waits until the directory is on the disk. This may fail although the files have been
    /// renamed.
    ///
    /// # Errors
    /// The directory cannot be opened, or the disk fails.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Continues in a file with this length.
    fn begin(&mut self, file: File, bytes: u64, since_1970: Duration) {
        let previous = std::mem::replace(&mut self.file, file);
        if previous.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            self.deleted = Some(previous);
        }
        self.bytes = bytes;
        self.period = period(self.rotation, since_1970);
        self.due_bytes = self.max_file_bytes;
    }

    /// Postpones rotation until the next period, or until the file has reached twice its limit.
    /// Later files have the limit in the settings again.
    pub(super) fn postpone(&mut self, since_1970: Duration) {
        self.period = period(self.rotation, since_1970);
        if let Some(max) = &mut self.due_bytes {
            *max = max.saturating_add(*max);
        }
    }

    /// Removes the oldest files beyond the number to keep, and returns how many were removed.
    /// `chain` is the id of the present chain, as in the log.
    ///
    /// # Errors
    /// The directory cannot be read, or a file cannot be removed.
    pub(super) fn remove_old(&self, chain: &str) -> io::Result<usize> {
        let Some(retained) = self.retain_files else { return Ok(0) };
        let mut archives: Vec<Archive> = fs::read_dir(&self.directory)?
            .filter_map(|entry| self.archive(&entry.ok()?.file_name()))
            .collect();
        let surplus = archives.len().saturating_sub(retained);
        if surplus == 0 {
            return Ok(0);
        }
        for archive in &mut archives {
            archive.is_of_chain = is_of_chain(&self.directory.join(&archive.name), chain);
        }
        archives.sort();
        for archive in archives.iter().take(surplus) {
            fs::remove_file(self.directory.join(&archive.name))?;
        }
        Ok(surplus)
    }

    /// Returns what others have done to the current file. Only this process writes it, so it is as
    /// long as what was written. Devices and pipes have no length to compare.
    ///
    /// # Errors
    /// The file's attributes cannot be read.
    pub(super) fn fate(&self) -> io::Result<Fate> {
        let here = self.file.metadata()?;
        let is_named = match fs::metadata(self.path()) {
            Ok(there) => is_same(&there, &here),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(match is_named {
            true if here.is_file() && here.len() < self.bytes => Fate::Truncated(here.len()),
            true => Fate::Untouched,
            false if here.nlink() == 0 => Fate::Deleted,
            false => Fate::Moved,
        })
    }

    /// Opens the file that now has the current file's name, or creates it and its directory; `None`
    /// if that is still the current file.
    ///
    /// # Errors
    /// The file with that name cannot be opened.
    pub(super) fn other_file(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.directory)?;
        let file = open_file(&self.path())?;
        let (there, here) = (file.metadata()?, self.file.metadata()?);
        Ok((!is_same(&there, &here)).then_some(file))
    }

    /// Continues in `other`.
    ///
    /// # Errors
    /// The length of `other` cannot be read; the current file stays in use.
    pub(super) fn switch_to(&mut self, other: File, since_1970: Duration) -> io::Result<()> {
        let bytes = other.metadata()?.len();
        self.begin(other, bytes, since_1970);
        Ok(())
    }

    fn next_path(&self) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}.next", self.prefix))
    }

    /// `audit-20261125T081631Z-000000004711.jsonl`
    fn archived_path(&self, since_1970: Duration, seq: u64) -> PathBuf {
        let mut rfc3339 = Rfc3339::default();
        let time: String = rfc3339
            .at(since_1970)
            .iter()
            .map(|byte| char::from(*byte))
            .take_while(|letter| *letter != '.')
            .filter(|letter| !matches!(letter, '-' | ':'))
            .collect();
        self.directory.join(format!("{}-{time}Z-{seq:012}{SUFFIX}", self.prefix))
    }

    /// Returns the parts of the name of a file that was rotated away.
    fn archive(&self, name: &OsStr) -> Option<Archive> {
        let name = name.to_str()?;
        let middle = name.strip_prefix(&self.prefix)?.strip_prefix('-')?.strip_suffix(SUFFIX)?;
        let (time, seq) = middle.split_once('-')?;
        let is_time = time.len() == "20261125T081631Z".len()
            && time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'T' | b'Z'));
        let is_number = seq.len() >= 12 && seq.bytes().all(|byte| byte.is_ascii_digit());
        (is_time && is_number).then_some(())?;
        let (seq, name) = (seq.parse().ok()?, name.to_owned());
        Some(Archive { is_of_chain: false, seq, name })
    }
}

/// The fate of the current file at the hands of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Untouched,
    /// It has another name or directory, and another file may have its name.
    Moved,
    /// It has no name, so its lines are lost as soon as it is closed.
    Deleted,
    /// It was cut to this length.
    Truncated(u64),
}

/// A file that was rotated away. Older ones are less.
///
/// Within a chain, the number of the last line decides: times jump with the clock. Files of former
/// chains, whose numbers say nothing about this one's, are older than all of its own.
#[derive(PartialEq, Eq)]
struct Archive {
    is_of_chain: bool,
    seq: u64,
    name: String,
}

impl Ord for Archive {
    fn cmp(&self, other: &Self) -> Ordering {
        let of_chain = || self.seq.cmp(&other.seq);
        self.is_of_chain
            .cmp(&other.is_of_chain)
            .then_with(|| if self.is_of_chain { of_chain() } else { Ordering::Equal })
            // Which of the former chains came first, only the time in the name can tell.
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Archive {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns whether a file is of that chain, by its first line. One that cannot be read is: it is not
/// removed before its turn.
fn is_of_chain(path: &Path, chain: &str) -> bool {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| {
        BufReader::new(file).take(MAX_FIRST_LINE_BYTES).read_until(b'\n', &mut first)
    });
    match read {
        Ok(_) => string(&first, "chain").is_none_or(|other| other == chain),
        Err(_) => true,
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn period(rotation: AuditRotation, since_1970: Duration) -> u64 {
    match rotation {
        AuditRotation::Hourly => since_1970.as_secs() / 3600,
        AuditRotation::Daily => since_1970.as_secs() / 86_400,
        AuditRotation::Never => 0,
    }
}

/// Opens a file for appending, created with mode 0640: the group may read it, as is usual in
/// /var/log.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::config::{AuditSync, WhenFull};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn files(directory: &Path) -> Files {
        Files::open(&AuditConfig {
            directory: directory.to_owned(),
            prefix: "audit".to_owned(),
            rotation: AuditRotation::Never,
            max_file_bytes: Some(10),
            retain_files: None,
            when_full: WhenFull::Refuse,
            sync: AuditSync::Never,
            key_file: PathBuf::new(),
            hsm_key: None,
        })
        .unwrap()
    }

    /// A file whose rotation failed may grow longer; those after it may not.
    #[test]
    fn postponing_is_for_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        for _ in 0..2 {
            files.write(&[b'x'; 10]).unwrap();
            assert!(files.is_due(NOW));
            files.postpone(NOW);
            assert!(!files.is_due(NOW));
            files.write(&[b'x'; 10]).unwrap();
            assert!(files.is_due(NOW));
            let (next, seq) = (files.prepare_next().unwrap(), files.bytes());
            files.rotate(next, NOW, seq).unwrap();
            files.sync_names().unwrap();
            // logrotate(8) can also move a file away.
            files.write(&[b'x'; 10]).unwrap();
            files.postpone(NOW);
            fs::remove_file(files.path()).unwrap();
            let other = files.other_file().unwrap().unwrap();
            files.switch_to(other, NOW).unwrap();
            assert!(!files.is_due(NOW));
        }
    }

    /// If the next file cannot replace the current one, the current one stays in use under its
    /// name. Once it is replaced, rotation cannot fail: the first line of a file has to be written.
    #[test]
    fn a_switch_is_done_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        files.write(b"one").unwrap();
        let next = files.prepare_next().unwrap();
        fs::remove_file(files.next_path()).unwrap();
        assert!(files.rotate(next, NOW, 1).is_err());
        files.write(b"two").unwrap();
        assert_eq!(fs::read(files.path()).unwrap(), b"onetwo");
        let next = files.prepare_next().unwrap();
        files.rotate(next, NOW, 2).unwrap();
        assert_eq!((files.bytes(), fs::read(files.path()).unwrap()), (0, Vec::new()));
    }

    /// Writes an archive of the chain, and returns its name.
    fn archive(directory: &Path, time: &str, seq: u64, chain: &str) -> String {
        let name = format!("audit-{time}-{seq:012}.jsonl");
        let line = format!("{{\"seq\":{seq},\"event\":\"open\",\"chain\":\"{chain}\"}}\n");
        fs::write(directory.join(&name), line).unwrap();
        name
    }

    /// The lines' numbers say which files are the oldest, as the clock may have been ahead. Files of
    /// former chains, whose numbers may be higher, go first.
    #[test]
    fn the_oldest_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        let (here, former) = ("0011223344556677", "8899aabbccddeeff");
        let archive = |time, seq, chain| archive(directory.path(), time, seq, chain);
        let by_age = [
            archive("20250101T000000Z", 900_000, former),
            archive("20250102T000000Z", 1_000_000, former),
            archive("20280101T000000Z", 10, here),
            archive("20280102T000000Z", 20, here),
            archive("20260101T000000Z", 30, here),
            archive("20260102T000000Z", 1_000_000_000_000, here),
        ];
        for removed in 1..by_age.len() {
            files.retain_files = Some(by_age.len() - removed);
            assert_eq!(files.remove_old(here).unwrap(), 1);
            let is_there = |name: &&String| directory.path().join(name).exists();
            assert_eq!(
                by_age.iter().filter(is_there).collect::<Vec<_>>(),
                by_age[removed..].iter().collect::<Vec<_>>()
            );
        }
        assert_eq!(files.remove_old(here).unwrap(), 0);
    }

    /// A file of a day that differs from today's is over, whichever comes first.
    #[test]
    fn after_a_clock_that_was_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        files.rotation = AuditRotation::Daily;
        let ahead = NOW + Duration::from_secs(700 * 86_400);
        assert!(!files.is_due(ahead));
        files.write(b"x").unwrap();
        assert!(!files.is_due(ahead) && files.is_due(NOW));
    }
}
