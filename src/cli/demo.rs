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
    use crate::demo;

    let outcome = match &arguments.make_token {
        Some(module) => demo::make_token_here(module),
        None => demo::run(arguments.once),
    };
    outcome.map_err(Failed::unavailable)
}

/// Says how to get the demo.
///
/// # Errors
/// [`Failed`], always.
#[cfg(not(feature = "demo"))]
pub(super) fn run(_: &Arguments) -> Result<(), Failed> {
    let message = "this program was built without the demo; in the source tree, \
                   `cargo run --release -- demo` builds and runs it";
    Err(Failed::new(crate::exit::EXIT_ARGUMENTS, message.to_owned()))
}
