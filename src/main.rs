//! The program's entry point: the command line and the allocator.

use std::process::ExitCode;

#[cfg(not(address_sanitizer))]
use mimalloc::MiMalloc;
#[cfg(not(address_sanitizer))]
use zeroizing_alloc::ZeroAlloc;

/// The program's allocator. All threads make small allocations frequently, for which mimalloc keeps
/// the threads separate. Freed memory is zeroed, because libraries along the way (TLS, JSON) do not
/// wipe the plaintext that passes through them.
///
/// The address sanitizer needs an allocator that it supports: with `--cfg address_sanitizer`, the
/// program uses the system's default.
#[cfg(not(address_sanitizer))]
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    xks_proxy::cli::run()
}
