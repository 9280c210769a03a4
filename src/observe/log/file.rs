//! The rotating log file.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use tracing_appender::rolling::{self, RollingFileAppender};

use super::config::{LogFile, Rotation};
use crate::observe::redaction::shown_path;
use crate::observe::timestamp::since_1970;

/// A file that another one follows in the next period.
///
/// The appender begins another file only when the clock has passed the end of the period. After a
/// clock that was ahead, it would stay in the file of the year that never was.
pub(super) struct RotatingFile {
    file: LogFile,
    appender: RollingFileAppender,
    /// Period in which the appender was opened, or last found to rotate by itself.
    period: u64,
}

impl RotatingFile {
    /// Opens the file of the present period.
    ///
    /// # Errors
    /// The directory or the file cannot be created or opened; the error names it.
    pub(super) fn open(file: &LogFile) -> io::Result<Self> {
        let period = period(file.rotation, since_1970());
        Ok(Self { file: file.clone(), appender: open(file)?, period })
    }

    fn write_at(&mut self, bytes: &[u8], since_1970: Duration) -> io::Result<usize> {
        let period = period(self.file.rotation, since_1970);
        if period < self.period {
            self.appender = open(&self.file)?;
        }
        self.period = period;
        self.appender.write(bytes)
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, since_1970())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.appender.flush()
    }
}

fn period(rotation: Rotation, since_1970: Duration) -> u64 {
    let secs = match rotation {
        Rotation::Minutely => 60,
        Rotation::Hourly => 3600,
        Rotation::Daily => 86_400,
        Rotation::Never => return 0,
    };
    since_1970.as_secs() / secs
}

/// Creates the directory and the file. Files have the same names as in the reference proxy: for
/// example `prefix.2026-11-25-08` for an hour.
fn open(file: &LogFile) -> io::Result<RollingFileAppender> {
    fs::create_dir_all(&file.directory)
        .map_err(|error| explain(&file.directory, error.kind(), &error))?;
    let rotation = match file.rotation {
        Rotation::Minutely => rolling::Rotation::MINUTELY,
        Rotation::Hourly => rolling::Rotation::HOURLY,
        Rotation::Daily => rolling::Rotation::DAILY,
        Rotation::Never => rolling::Rotation::NEVER,
    };
    RollingFileAppender::builder()
        .rotation(rotation)
        .filename_prefix(&file.prefix)
        .build(&file.directory)
        .map_err(|error| {
            let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            let kind = cause.map_or(io::ErrorKind::Other, io::Error::kind);
            explain(&file.directory.join(&file.prefix), kind, &error)
        })
}

fn explain(path: &Path, kind: io::ErrorKind, cause: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("cannot write the log at {}: {cause}", shown_path(path)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// When the clock goes back to an earlier period, the log goes back to that period's file.
    #[test]
    fn after_a_clock_that_was_ahead() {
        for (rotation, year_ahead) in [
            (Rotation::Minutely, true),
            (Rotation::Hourly, true),
            (Rotation::Daily, true),
            (Rotation::Never, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let file = LogFile {
                directory: directory.path().to_owned(),
                prefix: "log".to_owned(),
                rotation,
            };
            let mut log = RotatingFile::open(&file).unwrap();
            let now = since_1970();
            let name = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
            // The file that it has open is not the one of the present, as then.
            fs::rename(&name, directory.path().join("of-the-future")).unwrap();
            log.write_at(b"ahead\n", now + Duration::from_secs(400 * 86_400)).unwrap();
            assert!(!name.exists());
            log.write_at(b"back\n", now).unwrap();
            log.flush().unwrap();
            assert_eq!(name.exists(), year_ahead, "{rotation:?}");
        }
    }
}
