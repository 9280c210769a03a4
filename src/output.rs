//! Text for the user, on standard output and standard error.
//!
//! `println!` panics once the reader of the output is gone, as with `| head`.

use std::fmt;
use std::io::{self, Write as _};
use std::process;

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
    io::stdout().lock().write_fmt(text)
}

/// Prints on standard output, and ends the process if that fails.
pub(crate) fn print_or_end(text: fmt::Arguments<'_>) {
    if let Err(error) = print(text) {
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
    process::exit(EXIT_UNAVAILABLE.into())
}
