//! The log, on standard output, in a rotating file, or both.

pub mod access_log;
mod config;
mod events;
mod file;
mod journal;
mod level;
mod output;
mod outputs;
mod sink;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

use self::access_log::AccessLog;
pub use self::config::{JournalForm, LogConfig, LogFile, Rotation};
use self::events::EventLayer;
use self::file::RotatingFile;
use self::journal::{Fielded, Prefixed};
use self::level::SharedLevel;
use self::output::Output;
pub use self::outputs::LostLines;
use self::outputs::Outputs;
use self::sink::Sink;
pub use super::line::LogFormat;
use super::otlp::lines::LogLines;
use super::syslog::copies::Copies;
use crate::limits::{LOG_STOP_TIMEOUT, MAX_LOG_BACKLOG_BYTES};

/// The running log. Dropping it stops it.
pub struct Log {
    outputs: Outputs,
    level: Arc<SharedLevel>,
    /// The level filter of tracing, if its events go to this log.
    filter: Mutex<Option<reload::Handle<LevelFilter, Registry>>>,
    format: LogFormat,
    /// The export by OTLP, which gets the same lines.
    exported: Option<LogLines>,
}

/// Starts the log and sends tracing's events to it. Forwarders, and the export if there is one, get
/// the same lines.
///
/// # Errors
/// The directory or the file cannot be created or written (the error names it), the system cannot
/// provide another thread, or the process already has a tracing subscriber.
pub fn start(config: &LogConfig, copies: Copies, exported: Option<LogLines>) -> io::Result<Log> {
    let mut log = Log::open(config, copies)?;
    log.exported = exported;
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(config.level));
    let subscriber = tracing_subscriber::registry().with(filter).with(log.event_layer());
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    *log.filter.lock() = Some(handle);
    Ok(log)
}

impl Log {
    /// Opens the outputs and starts their writers.
    fn open(config: &LogConfig, copies: Copies) -> io::Result<Self> {
        let mut outputs = Vec::new();
        if let Some(file) = &config.file {
            let file = file.clone();
            let sink = Sink::opened_by(move || Ok(Box::new(RotatingFile::open(&file)?)))?;
            outputs.push(Output::start("file", sink, config.format, MAX_LOG_BACKLOG_BYTES)?);
        }
        if config.stdout {
            // This bypasses std's handle, whose lock a stuck output would hold.
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            let sink = match config.journal {
                JournalForm::Fields if journal::is_journal(&stdout) => {
                    Sink::of(Fielded::new(journal::SOCKET)?)
                }
                JournalForm::Priority if journal::is_journal(&stdout) => {
                    Sink::of(Prefixed::new(stdout))
                }
                _ => Sink::of(stdout),
            };
            outputs.push(Output::start("stdout", sink, config.format, MAX_LOG_BACKLOG_BYTES)?);
        }
        Ok(Self {
            outputs: Outputs::new(outputs, copies),
            level: Arc::new(SharedLevel::new(config.level)),
            filter: Mutex::new(None),
            format: config.format,
            exported: None,
        })
    }

    fn event_layer(&self) -> EventLayer {
        EventLayer::new(self.outputs.clone(), self.format, self.exported.clone())
    }

    /// Creates the access log of one event loop.
    #[must_use]
    pub fn access_log(&self) -> AccessLog {
        let exported = self.exported.clone();
        AccessLog::new(self.outputs.clone(), Arc::clone(&self.level), self.format, exported)
    }

    /// Sets the least severe level that is logged, for all threads.
    pub fn set_level(&self, level: Level) {
        self.level.set(level);
        if let Some(filter) = &*self.filter.lock()
            // This fails only if the subscriber, and with it all events, is gone.
            && let Err(error) = filter.modify(|filter| *filter = LevelFilter::from_level(level))
        {
            tracing::error!(%error, "the log's level cannot be changed");
        }
    }

    /// Reopens files by name before the next lines are written, because another program, such as
    /// logrotate(8), has moved them away. Does not wait for that.
    pub fn reopen(&self) {
        for output in self.outputs.iter() {
            output.reopen();
        }
    }

    /// Returns the number of lines lost since the start because an output was too slow or failed,
    /// summed over all outputs.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.lost_lines().dropped_lines()
    }

    /// Returns a handle to the number of lost lines.
    #[must_use]
    pub fn lost_lines(&self) -> LostLines {
        LostLines::of(self.outputs.clone())
    }

    /// Writes the waiting lines, for at most [`LOG_STOP_TIMEOUT`], and ends the writers. Returns
    /// whether all of them have ended.
    pub fn stop(&self) -> bool {
        let deadline = Instant::now() + LOG_STOP_TIMEOUT;
        for output in self.outputs.iter() {
            output.begin_stop();
        }
        self.outputs.iter().all(|output| output.wait_stopped(deadline))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
pub(super) mod tests;
