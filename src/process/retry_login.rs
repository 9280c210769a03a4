//! The signal of `xks-proxy hsm retry-login`, in the process that receives it.

use crate::hsm::pkcs11::pin_tries;

/// The signal that carries it: the kernel and libraries send all others for reasons of their own,
/// and this one never (signal(7), "unused").
pub(crate) const SIGNAL: i32 = rustix::process::Signal::STKFLT.as_raw();

/// Allows one more try of each PIN that is not tried again.
pub(super) fn on_signal() {
    let pins = pin_tries::grant_one_more();
    if pins == 0 {
        tracing::info!("retry-login: no PIN waits for it");
    } else {
        tracing::warn!(pins, "retry-login: PINs that were not tried again are tried once more");
    }
}
