//! The configuration of the log.

use std::path::PathBuf;

use crate::observe::line::LogFormat;

/// `[tracing]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Write to standard output.
    pub stdout: bool,
    /// Write to a rotating file.
    pub file: Option<LogFile>,
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// `format`
    pub format: LogFormat,
    /// `journal`
    pub journal: JournalForm,
}

/// `[tracing] journal`: the form of lines if standard output is systemd's journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JournalForm {
    /// As elsewhere.
    Plain,
    /// With the priority before them, which the journal takes off.
    #[default]
    Priority,
    /// Not to standard output, but to the journal's own socket, with fields.
    Fields,
}

/// `[tracing] directory`, `file_prefix`, `rotation_kind`, `file_mode`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Directory of the files; created if it is missing.
    pub directory: PathBuf,
    /// Beginning of the file name, which the time follows.
    pub prefix: String,
    /// Interval at which a new file begins.
    pub rotation: Rotation,
    /// Mode of a new file.
    pub mode: u32,
}

/// `[tracing] rotation_kind`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Every minute
    Minutely,
    /// Every hour
    Hourly,
    /// Every day
    Daily,
    /// Never: the same file is used throughout
    Never,
}
