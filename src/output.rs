//! Text for the user, on standard output and standard error.
//!
//! `println!` panics once the reader of the output is gone, as with `| head`. Here a command ends
//! instead: quietly by SIGPIPE if the reader is gone, and otherwise with the reason and exit code 69.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use signal_hook::consts::SIGPIPE;

use crate::exit::EXIT_UNAVAILABLE;

/// Prints a line on standard output, and ends the process if that fails.
macro_rules! outln {
    () => { $crate::output::print_or_end(format_args!("\n")) };
    ($($text:tt)*) => {
        $crate::output::print_or_end(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Prints a line on standard error, and ignores a failure.
macro_rules! errln {
    ($($text:tt)*) => {
        $crate::output::complain(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(crate) use {errln, outln};

/// Prints on standard output.
///
/// # Errors
/// The system's error; [`io::ErrorKind::BrokenPipe`] if the reader of the output is gone.
pub(crate) fn print(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_fmt(text)?;
    // What is left without a line end would be written at the exit, which ignores failures.
    stdout.flush()
}

/// Prints a secret on standard output without an intermediate buffer, which would not be zeroed.
///
/// # Errors
/// Those of [`print`].
pub(crate) fn print_secret(secret: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    stdout.lock().flush()?;
    File::from(stdout.as_fd().try_clone_to_owned()?).write_all(secret)
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns whether standard error is a terminal.
pub(crate) fn is_error_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Output of a command that must finish its work even if nobody can read about it.
#[derive(Default)]
pub(crate) struct Report {
    failure: Option<io::Error>,
}

impl Report {
    /// Prints a line on standard output, unless that has failed before.
    pub(crate) fn line(&mut self, text: fmt::Arguments<'_>) {
        if self.failure.is_none() {
            self.failure = print(format_args!("{text}\n")).err();
        }
    }

    /// Ends the process if standard output could not be written.
    pub(crate) fn end_if_failed(&self) {
        if let Some(error) = &self.failure {
            end(error);
        }
    }
}

/// Prints on standard output, and ends the process if that fails.
pub(crate) fn print_or_end(text: fmt::Arguments<'_>) {
    if let Err(error) = print(text) {
        end(&error);
    }
}

/// Writes to standard output, and ends the process if that fails.
pub(crate) fn write_or_end(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut stdout = BufWriter::new(io::stdout().lock());
    if let Err(error) = write(&mut stdout).and_then(|()| stdout.flush()) {
        end(&error);
    }
}

/// Prints on standard error, and ignores a failure.
pub(crate) fn complain(text: fmt::Arguments<'_>) {
    // There is nowhere left to report a failure.
    let _ = io::stderr().lock().write_fmt(text);
}

/// Ends the process because standard output cannot be written. If the reader is gone, it ends by
/// SIGPIPE, as other programs do; Rust programs ignore that signal by default.
pub(crate) fn end(error: &io::Error) -> ! {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // This returns only if the signal cannot be raised.
        let _ = signal_hook::low_level::emulate_default_handler(SIGPIPE);
    }
    complain(format_args!("standard output: {error}\n"));
    // Without the handlers that modules have registered for the exit: other threads may be in calls,
    // and SoftHSM2 crashes if its memory is freed meanwhile.
    signal_hook::low_level::exit(EXIT_UNAVAILABLE.into())
}
