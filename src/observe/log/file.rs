//! The rotating log file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::{LogFile, Rotation};
use crate::observe::redaction::shown_path;
use crate::observe::timestamp::{civil_from_days, since_1970};

/// A file that another one follows in the next period, and in any other period after the clock has
/// been set.
///
/// The crate `tracing-appender` does not fit: it neither sets the files' mode nor goes back to an
/// earlier period's file.
pub(super) struct RotatingFile {
    file: LogFile,
    open: File,
    /// The period to which the open file belongs.
    period: u64,
    /// True if the present period's file could not be opened.
    is_late: bool,
}

impl RotatingFile {
    /// Opens the file of the present period.
    ///
    /// # Errors
    /// The directory or the file cannot be created or opened; the error names it.
    pub(super) fn open(file: &LogFile) -> io::Result<Self> {
        let period = period(file.rotation, since_1970());
        Ok(Self { file: file.clone(), open: open(file, period)?, period, is_late: false })
    }

    fn write_at(&mut self, bytes: &[u8], since_1970: Duration) -> io::Result<usize> {
        let period = period(self.file.rotation, since_1970);
        if period != self.period {
            match open(&self.file, period) {
                Ok(open) => (self.open, self.period, self.is_late) = (open, period, false),
                // The log goes on in the former file.
                Err(error) if !self.is_late => {
                    tracing::error!(%error, "the log continues in the former period's file");
                    self.is_late = true;
                }
                Err(_) => {}
            }
        }
        self.open.write(bytes)
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, since_1970())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.flush()
    }
}

const MINUTE_SECS: u64 = 60;
const HOUR_SECS: u64 = 60 * MINUTE_SECS;
const DAY_SECS: u64 = 24 * HOUR_SECS;

/// Returns the number of the period since 1970.
fn period(rotation: Rotation, since_1970: Duration) -> u64 {
    match rotation {
        Rotation::Minutely => since_1970.as_secs() / MINUTE_SECS,
        Rotation::Hourly => since_1970.as_secs() / HOUR_SECS,
        Rotation::Daily => since_1970.as_secs() / DAY_SECS,
        Rotation::Never => 0,
    }
}

/// Returns the path of a period's file. Files have the same names as in the reference proxy: for
/// example `prefix.2026-11-25-08` for an hour.
fn path(file: &LogFile, period: u64) -> PathBuf {
    let secs = period
        * match file.rotation {
            Rotation::Minutely => MINUTE_SECS,
            Rotation::Hourly => HOUR_SECS,
            Rotation::Daily => DAY_SECS,
            Rotation::Never => return file.directory.join(&file.prefix),
        };
    let (year, month, day) = civil_from_days((secs / DAY_SECS).cast_signed());
    let (hour, minute) = (secs % DAY_SECS / HOUR_SECS, secs % HOUR_SECS / MINUTE_SECS);
    let mut name = format!("{}.{year:04}-{month:02}-{day:02}", file.prefix);
    if matches!(file.rotation, Rotation::Hourly | Rotation::Minutely) {
        name.push_str(&format!("-{hour:02}"));
    }
    if file.rotation == Rotation::Minutely {
        name.push_str(&format!("-{minute:02}"));
    }
    file.directory.join(name)
}

/// Opens a period's file, and creates it and the directory if they are missing.
fn open(file: &LogFile, period: u64) -> io::Result<File> {
    fs::create_dir_all(&file.directory).map_err(|error| explain(&file.directory, &error))?;
    let path = path(file, period);
    let create = || {
        let mut options = OpenOptions::new();
        let new = options.append(true).create_new(true).mode(file.mode).open(&path)?;
        // The umask may have taken something away.
        new.set_permissions(Permissions::from_mode(file.mode))?;
        Ok::<_, io::Error>(new)
    };
    let opened = match create() {
        // The mode of an existing file is left alone.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(&path)
        }
        created => created,
    };
    opened.map_err(|error| explain(&path, &error))
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the log at {}: {error}", shown_path(path)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ROTATIONS: [Rotation; 4] =
        [Rotation::Minutely, Rotation::Hourly, Rotation::Daily, Rotation::Never];

    fn log_in(directory: &Path, rotation: Rotation, mode: u32) -> LogFile {
        let (directory, prefix) = (directory.to_owned(), "log".to_owned());
        LogFile { directory, prefix, rotation, mode }
    }

    /// The names that the reference proxy's files have.
    #[test]
    fn names() {
        // 2026-11-25 08:16:31
        let time = Duration::from_secs(1_795_594_591);
        for (rotation, name) in [
            (Rotation::Minutely, "log.2026-11-25-08-16"),
            (Rotation::Hourly, "log.2026-11-25-08"),
            (Rotation::Daily, "log.2026-11-25"),
            (Rotation::Never, "log"),
        ] {
            let file = log_in(Path::new("/logs"), rotation, 0o640);
            assert_eq!(path(&file, period(rotation, time)), Path::new("/logs").join(name));
        }
    }

    /// A new file has the mode in the settings whatever the umask; an existing one keeps its own.
    #[test]
    fn modes() {
        for mode in [0o600, 0o640, 0o644] {
            let directory = tempfile::tempdir().unwrap();
            let file = log_in(directory.path(), Rotation::Daily, mode);
            let mut log = RotatingFile::open(&file).unwrap();
            let later = since_1970() + Duration::from_secs(DAY_SECS);
            log.write_at(b"line\n", later).unwrap();
            let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            let files: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
            assert_eq!(files.len(), 2);
            for entry in files {
                assert_eq!(mode_of(&entry.unwrap().path()), mode);
            }
            let path = path(&file, period(Rotation::Daily, later));
            fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
            log.write_at(b"line\n", since_1970()).unwrap();
            log.write_at(b"line\n", later).unwrap();
            assert_eq!(
                (mode_of(&path), fs::read_to_string(&path).unwrap().lines().count()),
                (0o660, 2)
            );
        }
    }

    /// When the clock goes back to an earlier period, the log goes back to that period's file.
    #[test]
    fn after_a_clock_that_was_ahead() {
        for rotation in ROTATIONS {
            let directory = tempfile::tempdir().unwrap();
            let file = log_in(directory.path(), rotation, 0o640);
            let mut log = RotatingFile::open(&file).unwrap();
            let now = since_1970();
            let ahead = now + Duration::from_secs(400 * DAY_SECS);
            log.write_at(b"ahead\n", ahead).unwrap();
            log.write_at(b"back\n", now).unwrap();
            let present = fs::read_to_string(path(&file, period(rotation, now))).unwrap();
            let is_apart = rotation != Rotation::Never;
            assert_eq!(present == "back\n", is_apart, "{rotation:?}: {present}");
        }
    }

    /// If the next file cannot be opened, the log goes on in the former one, and later in the next.
    #[test]
    fn a_file_that_cannot_be_opened() {
        let directory = tempfile::tempdir().unwrap();
        let file = log_in(directory.path(), Rotation::Hourly, 0o640);
        let mut log = RotatingFile::open(&file).unwrap();
        let (now, later) = (since_1970(), since_1970() + Duration::from_secs(HOUR_SECS));
        let next = path(&file, period(Rotation::Hourly, later));
        fs::create_dir(&next).unwrap();
        for _ in 0..2 {
            log.write_at(b"line\n", later).unwrap();
        }
        fs::remove_dir(&next).unwrap();
        log.write_at(b"next\n", later).unwrap();
        let former = path(&file, period(Rotation::Hourly, now));
        assert_eq!(fs::read_to_string(former).unwrap(), "line\nline\n");
        assert_eq!(fs::read_to_string(next).unwrap(), "next\n");
    }
}
