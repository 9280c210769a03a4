//! The log of failed requests: a line of JSON for each, so that it can be compared with what else
//! happened at that time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::response::string_member;

/// A request that failed or was answered wrongly, or a connection that could not be opened.
#[derive(Clone, Debug, Serialize)]
pub struct FailedRequest {
    /// Seconds since 1970 at which it was due, or at which the attempt to connect was given up.
    pub due: f64,
    /// Seconds since 1970 at which it ended.
    pub ended: f64,
    /// The call, or `connect`.
    pub operation: &'static str,
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// `errorName`, or a description of what happened.
    pub name: String,
    /// The request's kmsRequestId; empty if it was not sent.
    pub request_id: String,
    /// Answers that the connection had brought before.
    pub answers_before: u64,
}

/// Returns the kmsRequestId of a request; empty if there is none.
#[must_use]
pub fn request_id(request: &[u8]) -> String {
    let id = string_member(request, "\"kmsRequestId\"").unwrap_or_default();
    String::from_utf8_lossy(id).into_owned()
}

/// Seconds since 1970, `ago` before now.
#[must_use]
pub fn seconds_since_1970(ago: Duration) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(ago).as_secs_f64()
}

/// The file that the lines are written to.
#[derive(Debug)]
pub struct FailureLog(File);

impl FailureLog {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: &Path) -> Result<Self, String> {
        File::create(path).map(Self).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn write(&mut self, failed: &FailedRequest) -> Result<(), String> {
        let mut line = serde_json::to_string(failed).map_err(|error| error.to_string())?;
        line.push('\n');
        self.0.write_all(line.as_bytes()).map_err(|error| error.to_string())
    }
}
