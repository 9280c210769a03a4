//! The program: the command line and the allocator.

use std::process::ExitCode;

#[cfg(not(address_sanitizer))]
use mimalloc::MiMalloc;
#[cfg(not(address_sanitizer))]
use zeroizing_alloc::ZeroAlloc;

/// Allocator of the program. Small allocations are frequent on every thread, which mimalloc
/// separates. Freed memory is zeroed, because libraries in between (TLS, JSON) do not wipe the
/// plaintext that passes through them.
///
/// The address sanitizer needs an allocator that it knows: with `--cfg address_sanitizer` the
/// program has the default one of the system.
#[cfg(not(address_sanitizer))]
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    xks_proxy::cli::run()
}
