//! The log: standard output, a rotating file, or both.

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_appender::rolling::{self, RollingFileAppender};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

use super::access_log::AccessLog;
use super::backlog::{Backlog, Output};
use super::events::EventLayer;
use crate::limits::{LOG_STOP_TIMEOUT, MAX_LOG_BACKLOG_BYTES};

/// `[tracing]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Lines go to standard output.
    pub stdout: bool,
    /// Lines go to a rotating file.
    pub file: Option<LogFile>,
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// `format`
    pub format: LogFormat,
}

/// `[tracing] format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// `[tracing] directory`, `file_prefix`, `rotation_kind`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Made if it is missing.
    pub directory: PathBuf,
    /// The name begins with this; the time follows.
    pub prefix: String,
    /// When a new file begins.
    pub rotation: Rotation,
}

/// `[tracing] rotation_kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Each minute
    Minutely,
    /// Each hour
    Hourly,
    /// Each day
    Daily,
    /// One file for good
    Never,
}

/// The running log. Dropping it stops it.
pub struct Log {
    outputs: Outputs,
    level: Arc<LeastSevere>,
    /// tracing's own, if its events go here.
    filter: Mutex<Option<reload::Handle<LevelFilter, Registry>>>,
    format: LogFormat,
}

/// The least severe level that is logged, as all access logs see it.
#[derive(Debug)]
pub(super) struct LeastSevere(AtomicU8);

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

impl LeastSevere {
    fn new(level: Level) -> Self {
        let all = Self(AtomicU8::new(0));
        all.set(level);
        all
    }

    fn set(&self, level: Level) {
        let place = (0..).zip(LEVELS).find_map(|(place, known)| (known == level).then_some(place));
        self.0.store(place.unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Level {
        let place = usize::from(self.0.load(Ordering::Relaxed));
        LEVELS.get(place).copied().unwrap_or(Level::ERROR)
    }
}

/// Starts the log and has tracing's events go there.
///
/// # Errors
/// The directory or the file can't be made or written (the error names it), no thread can be
/// had, or the process has a tracing subscriber already.
pub fn start(config: &LogConfig) -> io::Result<Log> {
    let log = Log::open(config)?;
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(config.level));
    let subscriber = tracing_subscriber::registry().with(filter).with(log.event_layer());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    *log.filter.lock() = Some(handle);
    Ok(log)
}

impl Log {
    /// Starts the writers.
    pub(super) fn open(config: &LogConfig) -> io::Result<Self> {
        let mut outputs = Vec::new();
        if let Some(file) = &config.file {
            let file = file.clone();
            let output = Output::opened_by(move || Ok(Box::new(open_file(&file)?)))?;
            outputs.push(Backlog::start("file", output, config.format, MAX_LOG_BACKLOG_BYTES)?);
        }
        if config.stdout {
            // Not through std's handle: its lock would be held while the output is stuck.
            let output = Output::of(File::from(io::stdout().as_fd().try_clone_to_owned()?));
            outputs.push(Backlog::start("stdout", output, config.format, MAX_LOG_BACKLOG_BYTES)?);
        }
        Ok(Self {
            outputs: Outputs(outputs.into()),
            level: Arc::new(LeastSevere::new(config.level)),
            filter: Mutex::new(None),
            format: config.format,
        })
    }

    pub(super) fn event_layer(&self) -> EventLayer {
        EventLayer::new(self.outputs.clone(), self.format)
    }

    /// An access log, for one event loop.
    #[must_use]
    pub fn access_log(&self) -> AccessLog {
        AccessLog::new(self.outputs.clone(), Arc::clone(&self.level), self.format)
    }

    /// Logs from that level on, on all threads.
    pub fn set_level(&self, level: Level) {
        self.level.set(level);
        if let Some(filter) = &*self.filter.lock()
            // It fails when the subscriber is gone, and with it all events.
            && let Err(error) = filter.modify(|filter| *filter = LevelFilter::from_level(level))
        {
            tracing::error!(%error, "the log's level stays as it was");
        }
    }

    /// Has files be opened anew, by their names, before the next lines are written: another
    /// program has moved them away (logrotate). Does not wait for it.
    pub fn reopen(&self) {
        for backlog in self.outputs.0.iter() {
            backlog.reopen();
        }
    }

    /// Lines that were not written since the start, because an output was too slow or failed;
    /// the sum over the outputs.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.loss().dropped_lines()
    }

    /// What tells of lost lines, for whoever watches.
    #[must_use]
    pub fn loss(&self) -> Loss {
        Loss(self.outputs.clone())
    }

    /// Writes what waits, for [`LOG_STOP_TIMEOUT`] at the most, and ends the writers. Whether all
    /// of them came to their end.
    pub fn stop(&self) -> bool {
        let deadline = Instant::now() + LOG_STOP_TIMEOUT;
        for backlog in self.outputs.0.iter() {
            backlog.begin_stop();
        }
        self.outputs.0.iter().all(|backlog| backlog.wait_stopped(deadline))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A look at a log's lost lines.
#[derive(Clone)]
pub struct Loss(Outputs);

impl Loss {
    /// As [`Log::dropped_lines`].
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.0.0.iter().map(|backlog| backlog.dropped_lines()).sum()
    }
}

/// Where lines go: up to two backlogs.
#[derive(Clone)]
pub(super) struct Outputs(Arc<[Arc<Backlog>]>);

impl Outputs {
    /// None.
    pub(super) fn none() -> Self {
        Self(Arc::new([]))
    }

    /// Hands whole lines over.
    pub(super) fn push(&self, lines: &[u8]) {
        for backlog in self.0.iter() {
            backlog.push(lines);
        }
    }
}

/// Makes directory and file; names are those of the reference proxy, `prefix.2026-11-25-08` for
/// an hour.
fn open_file(file: &LogFile) -> io::Result<RollingFileAppender> {
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
    io::Error::new(kind, format!("cannot write the log at {}: {cause}", path.display()))
}

#[cfg(test)]
#[path = "log_tests.rs"]
pub(super) mod tests;
