//! Arguments to subcommand to exit code.

use std::process::ExitCode;

#[cfg(not(address_sanitizer))]
use mimalloc::MiMalloc;
#[cfg(not(address_sanitizer))]
use zeroizing_alloc::ZeroAlloc;

/// Small allocations come and go on every thread; mimalloc keeps them apart. What is freed is
/// wiped: libraries in between (TLS, JSON) do not wipe the plaintext that went through them.
///
/// The address sanitizer needs an allocator that it knows: built with `--cfg address_sanitizer`,
/// the program has the system's.
#[cfg(not(address_sanitizer))]
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    xks_proxy::cli::run()
}
