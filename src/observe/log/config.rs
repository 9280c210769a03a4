//! `[tracing]`: where the log goes and what is in it.

use std::path::PathBuf;

use crate::observe::line::LogFormat;

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
