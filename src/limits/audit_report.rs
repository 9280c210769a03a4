//! Limits of `audit report`. Names in a log come from those who call: nobody can make the report need
//! more memory by using many.

use std::time::Duration;

/// Rows of each table that have been served, and as many again that were only refused. Calls of
/// further names are summed up in the row "others".
pub const MAX_AUDIT_REPORT_ROWS: usize = 10_000;
/// Bytes of the names in those rows.
pub const MAX_AUDIT_REPORT_NAME_BYTES: usize = 8 * 1024 * 1024;
/// Changes, and interruptions, that are listed; further ones are only counted.
pub const MAX_AUDIT_REPORT_EVENTS: usize = 2_000;
/// Findings of the verification that are listed; further ones are only counted.
pub const MAX_AUDIT_REPORT_FINDINGS: usize = 1_000;
/// Rows of each table that are counted by numbers before they are added to the table.
pub const MAX_AUDIT_REPORT_RECENT_ROWS: usize = 65_536;
/// Bytes of the names that have a number meanwhile.
pub const MAX_AUDIT_REPORT_RECENT_BYTES: usize = 16 * 1024 * 1024;
/// Intervals in which calls are counted. If there are more, they are made longer.
pub const MAX_AUDIT_REPORT_INTERVALS: usize = 4_096;
/// Intervals in the report.
pub const MAX_AUDIT_REPORT_BARS: usize = 120;
/// Bytes of lines that the verifying thread hands to the counting one at once.
pub const AUDIT_REPORT_BATCH_BYTES: usize = 256 * 1024;
/// Batches that wait to be counted.
pub const MAX_AUDIT_REPORT_BATCHES: usize = 8;
/// Rows of a table in text and HTML, unless `--rows` says otherwise.
pub const DEFAULT_AUDIT_REPORT_SHOWN_ROWS: usize = 20;
/// Longest text that widens its column of a table in text. ARNs of sessions have some 120 characters.
pub const MAX_AUDIT_REPORT_COLUMN_CHARS: usize = 160;
/// Time by which a line is older than the one before, from which on the clock was set back. Lines of
/// several threads are written within a fraction of it.
pub const MIN_AUDIT_REPORT_STEP_BACK: Duration = Duration::from_secs(10);
/// Time without a line, while the proxy runs, that is reported: nobody called, or the clock was set
/// forward.
pub const MIN_AUDIT_REPORT_SILENCE: Duration = Duration::from_secs(3_600);
