//! The rotating log file.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use tracing_appender::rolling::{self, RollingFileAppender};

use super::config::{LogFile, Rotation};
use crate::observe::redaction::shown_path;

/// Creates the directory and the file. Files have the same names as in the reference proxy: for
/// example `prefix.2026-11-25-08` for an hour.
pub(super) fn open(file: &LogFile) -> io::Result<RollingFileAppender> {
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
