//! `xks-proxy demo`, or how to get it: packages are built without the feature `demo`.

use std::path::PathBuf;

use crate::exit::Failed;

/// The command line of `xks-proxy demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// End after the calls
    #[arg(long)]
    once: bool,
    /// Make the demo's token with this PKCS#11 module
    #[arg(long, hide = true)]
    make_token: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// [`Failed`]: a step of the demo failed.
#[cfg(feature = "demo")]
pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    use crate::demo::{self, DemoError};
    use crate::output;

    if let Some(module) = &arguments.make_token {
        return demo::make_token_here(module).map_err(Failed::unavailable);
    }
    match demo::run(arguments.once) {
        Err(DemoError::Output(error)) => output::end(&error),
        outcome => outcome.map_err(|error| Failed::unavailable(error.to_string())),
    }
}

/// Refuses, and tells how to get the demo.
///
/// # Errors
/// [`Failed`], always.
#[cfg(not(feature = "demo"))]
pub(super) fn run(_: &Arguments) -> Result<(), Failed> {
    let message = "this program was built without the demo; in the source tree, \
                   `cargo run --release -- demo` builds and runs it";
    Err(Failed::new(crate::exit::EXIT_ARGUMENTS, message.to_owned()))
}
