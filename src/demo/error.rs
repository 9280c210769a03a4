//! The error that ends the demo early.

use std::fmt;
use std::io;

use crate::output;

/// The error that ends the demo early. Everything that it started and created is gone by then.
#[derive(Debug)]
pub enum DemoError {
    /// Standard output cannot be written, as behind `| head`.
    Output(io::Error),
    /// A step of the demo failed.
    Step(String),
}

impl fmt::Display for DemoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) => write!(formatter, "standard output: {error}"),
            Self::Step(why) => formatter.write_str(why),
        }
    }
}

impl From<String> for DemoError {
    fn from(why: String) -> Self {
        Self::Step(why)
    }
}

impl From<&str> for DemoError {
    fn from(why: &str) -> Self {
        Self::Step(why.to_owned())
    }
}

/// Prints a line. An error goes to the caller, so that the demo stops what it started.
///
/// # Errors
/// [`DemoError::Output`].
pub(super) fn say(line: fmt::Arguments<'_>) -> Result<(), DemoError> {
    output::print(format_args!("{line}\n")).map_err(DemoError::Output)
}
