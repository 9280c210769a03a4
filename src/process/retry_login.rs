//! The signal of `xks-proxy hsm retry-login`, in the process that receives it.

use crate::hsm::pkcs11::pin_tries;

/// The signal that carries the request. The kernel and libraries send all others for reasons of
/// their own, but never this one (signal(7), "unused").
pub(crate) const SIGNAL: i32 = rustix::process::Signal::STKFLT.as_raw();

/// Allows one more attempt with each PIN that was refused or held back.
pub(super) fn on_signal() {
    let pins = pin_tries::grant_one_more();
    if pins == 0 {
        tracing::info!("retry-login: no PIN is waiting for it");
    } else {
        tracing::warn!(pins, "retry-login: PINs that were held back are tried once more");
    }
}
