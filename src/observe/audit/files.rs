//! The file that lines are appended to, and those before it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::config::{AuditConfig, AuditRotation};
use crate::observe::timestamp::Rfc3339;

/// What the names of all files end with: one JSON object a line.
const SUFFIX: &str = ".jsonl";

/// The present file, and how it gives way to the next one.
pub(super) struct Files {
    directory: PathBuf,
    prefix: String,
    rotation: AuditRotation,
    max_file_bytes: Option<u64>,
    /// How long this file may become: as long as any, but where its end had to be postponed.
    due_bytes: Option<u64>,
    retain_files: Option<usize>,
    file: File,
    bytes: u64,
    /// The hour or day that the file is of, counted from 1970.
    period: u64,
}

impl Files {
    /// Opens the present file, or makes it, with its directory.
    ///
    /// # Errors
    /// As the system says.
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
        })
    }

    /// The present file's path.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", self.prefix))
    }

    /// For reading what it says, and cutting off a line that is not whole.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It was cut.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Appends; fewer bytes than there are if the disk is full.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether the file is of an hour or day that is over, or as large as it may be.
    pub(super) fn is_due(&mut self, since_1970: Duration) -> bool {
        let period = period(self.rotation, since_1970);
        if self.bytes == 0 {
            self.period = period;
        }
        period != self.period || self.due_bytes.is_some_and(|max| self.bytes >= max)
    }

    /// Makes the next file, without using it yet: if that cannot be done, nothing has changed.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn prepare_next(&self) -> io::Result<File> {
        let path = self.next_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => open_file(&path),
        }
    }

    /// Puts the present file under the name of its time and its last line's number, and `next` in
    /// its place. The names are on the disk once [`Self::sync_names`] has been.
    ///
    /// # Errors
    /// As the system says; the present file stays.
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

    /// Waits until the files' names are on the disk: the directory's doing, which may fail when
    /// the files have long changed places.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Goes on in a file that has so many bytes.
    fn begin(&mut self, file: File, bytes: u64, since_1970: Duration) {
        self.file = file;
        self.bytes = bytes;
        self.period = period(self.rotation, since_1970);
        self.due_bytes = self.max_file_bytes;
    }

    /// Not due again before the next period, or before the file has grown as much again. The next
    /// file is as long as the settings say.
    pub(super) fn postpone(&mut self, since_1970: Duration) {
        self.period = period(self.rotation, since_1970);
        if let Some(max) = &mut self.due_bytes {
            *max = max.saturating_add(*max);
        }
    }

    /// Removes the oldest files, beyond as many as are kept.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn remove_old(&self) -> io::Result<usize> {
        let Some(retained) = self.retain_files else { return Ok(0) };
        let mut names: Vec<_> = fs::read_dir(&self.directory)?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .filter(|name| self.is_archived(name))
            .collect();
        // Times and numbers have as many digits in all names, so this is their order.
        names.sort();
        let surplus = names.len().saturating_sub(retained);
        for name in names.iter().take(surplus) {
            fs::remove_file(self.directory.join(name))?;
        }
        Ok(surplus)
    }

    /// Opens the present file's name anew, if it is another file now. Whether it is.
    ///
    /// # Errors
    /// As the system says; the present file stays.
    pub(super) fn other_file(&self) -> io::Result<Option<File>> {
        let file = open_file(&self.path())?;
        let (there, here) = (file.metadata()?, self.file.metadata()?);
        let is_same = (there.dev(), there.ino()) == (here.dev(), here.ino());
        Ok((!is_same).then_some(file))
    }

    /// Goes on in `other`.
    ///
    /// # Errors
    /// As the system says; the present file stays.
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

    fn is_archived(&self, name: &OsStr) -> bool {
        let middle = name
            .to_str()
            .and_then(|name| name.strip_prefix(&self.prefix)?.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let Some((time, seq)) = middle.and_then(|middle| middle.split_once('-')) else {
            return false;
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        time.len() == "20261125T081631Z".len()
            && time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'T' | b'Z'))
            && seq.len() >= 12
            && is_digits(seq)
    }
}

fn period(rotation: AuditRotation, since_1970: Duration) -> u64 {
    match rotation {
        AuditRotation::Hourly => since_1970.as_secs() / 3600,
        AuditRotation::Daily => since_1970.as_secs() / 86_400,
        AuditRotation::Never => 0,
    }
}

/// Mode 0640: a group may read it, as /var/log's has it.
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

    /// A file that could not be ended in time may grow longer. Those after it may not.
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
            // logrotate(8) takes one away too.
            files.write(&[b'x'; 10]).unwrap();
            files.postpone(NOW);
            fs::remove_file(files.path()).unwrap();
            let other = files.other_file().unwrap().unwrap();
            files.switch_to(other, NOW).unwrap();
            assert!(!files.is_due(NOW));
        }
    }

    /// Where the next file cannot take the present one's place, the present one goes on under its
    /// name. Once it has, nothing is an error that comes after: the line that begins a file has to
    /// be written into it.
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
}
