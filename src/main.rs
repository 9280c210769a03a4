//! Arguments to subcommand to exit code.

use std::process::ExitCode;

/// Small allocations come and go on every thread; this allocator keeps them apart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xks_proxy::cli::run()
}
