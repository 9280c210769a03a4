//! The texts of `/readyz`, on the API's ports and on the admin listener.

/// All is well.
pub const READY: &str = "ready\n";
/// No token works, or calls cannot be audited.
pub const NOT_READY: &str = "not ready\n";
/// The process is shutting down and still serves. A load balancer that reads this can leave the open
/// connections alone, where it would cut those of a failed process.
pub const IS_DRAINING: &str = "not ready: draining\n";
/// Most requests would be refused, or soon will be.
pub const CLOCK_IS_OFF: &str = "not ready: the clock of this machine differs from that of the signed \
                                requests by [server] unready_at_clock_skew_secs or more\n";
