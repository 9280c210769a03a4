//! `xks-proxy audit report`: who used which key when, as the audit log tells it.
//!
//! ```text
//!  this thread   verify: reads lines, checks the chain ── batches of unchanged lines
//!                                                             |
//!  counting      collect  <───────────────────────────────────+
//!                 ├── recent: rows by numbers ── table: rows by names, bounded
//!                 ├── timeline, events
//!                 |
//!  this thread   build ── sheet: tables for any format ── text, csv, json, html
//! ```

mod build;
mod call;
mod collect;
mod csv;
mod events;
mod feed;
mod html;
mod json;
mod markup;
mod recent;
mod sheet;
mod svg;
mod table;
mod tables;
mod text;
mod time;
mod timeline;

use std::path::PathBuf;
use std::time::SystemTime;
use std::{fs, io};

use self::build::Sources;
use self::time::Period;
use super::verify::{self, is_reportable, judge};
use crate::exit::{EXIT_ARGUMENTS, Failed};
use crate::limits::DEFAULT_AUDIT_REPORT_SHOWN_ROWS;
use crate::new_file;
use crate::observe::timestamp::unix_secs;
use crate::output;

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// For a spreadsheet: all rows in one table
    Csv,
    /// For programs: all rows
    Json,
    /// A page with charts, which needs nothing else
    Html,
}

/// The command line of `audit report`.
#[derive(Debug, clap::Args)]
#[group(id = "report")]
pub struct Arguments {
    /// The first day, or the first moment (RFC 3339); the log's begin if not given
    #[arg(long, value_name = "TIME", value_parser = time::begin)]
    from: Option<u64>,
    /// The last day, or the moment after the last (RFC 3339); the log's end if not given
    #[arg(long, value_name = "TIME", value_parser = time::end)]
    to: Option<u64>,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write to a new file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Rows of each table in text and HTML; the others are summed up
    #[arg(long, value_name = "N", default_value_t = DEFAULT_AUDIT_REPORT_SHOWN_ROWS)]
    rows: usize,
    #[command(flatten)]
    log: verify::Log,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let period = Period { from: arguments.from, to: arguments.to };
    if let (Some(from), Some(to)) = (period.from, period.to)
        && from >= to
    {
        let text = "--to is not after --from: the period is empty";
        return Err(Failed::new(EXIT_ARGUMENTS, text.to_owned()));
    }
    // Before the log is read, which may take minutes.
    if let Some(path) = &arguments.output
        && fs::symlink_metadata(path).is_ok()
    {
        return Err(exists(path));
    }
    let (summary, findings, collected) = feed::read(&arguments.log, period)?;
    let judgement = judge(&summary, &arguments.log, unix_secs(SystemTime::now()));
    if !is_reportable(&summary, &arguments.log)
        && let Some(failed) = judgement.failure
    {
        return Err(failed);
    }
    let is_for_people = matches!(arguments.format, Format::Text | Format::Html);
    let report = build::report(Sources {
        period,
        summary: &summary,
        judgement: &judgement,
        findings: &findings,
        collected,
        shown_rows: is_for_people.then_some(arguments.rows),
    });
    let write = |out: &mut dyn io::Write| match arguments.format {
        Format::Text => out.write_all(text::render(&report).as_bytes()),
        // All rows: not in memory as a whole.
        Format::Csv => csv::write(&report, out),
        Format::Json => json::write(&report, out),
        Format::Html => out.write_all(html::render(&report).as_bytes()),
    };
    match &arguments.output {
        None => output::write_or_end(write),
        // As the log's files are.
        Some(path) => {
            new_file::write_by(path, 0o640, write).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => exists(path),
                _ => Failed::unavailable(format!("{} cannot be written: {error}", path.display())),
            })?;
        }
    }
    judgement.failure.map_or(Ok(()), Err)
}

fn exists(path: &std::path::Path) -> Failed {
    let text = format!("{} exists already: remove it, or name another file", path.display());
    Failed::unavailable(text)
}
