//! Limits of a shutdown.

use std::time::Duration;

use super::otlp::OTLP_STOP_TIMEOUT;
use super::syslog::SYSLOG_STOP_TIMEOUT;

/// Time between SIGTERM and the moment at which the proxy stops accepting. During it the proxy
/// reports that it is not ready, and answers on open connections carry `Connection: close`.
/// Setting: `[server] drain_delay_milli`.
///
/// The default suits a process by itself: with the next one it is within the 10 seconds after which
/// container runtimes kill. Behind a load balancer the settings must say more.
pub const DEFAULT_DRAIN_DELAY_MILLI: u64 = 5_000;
/// Time after that for requests in flight to finish. Setting: `[server] drain_timeout_milli`.
pub const DEFAULT_DRAIN_TIMEOUT_MILLI: u64 = 5_000;
/// Time for which a Network Load Balancer opens connections to a target from its first negative
/// answer to a health check on: two checks, 10 seconds apart, as our templates set them, and up to 40
/// seconds after that, as users report (aws/containers-roadmap#470). AWS gives no figure.
pub const NLB_UNHEALTHY_DELAY: Duration = Duration::from_secs(20 + 40);
/// Time for which it opens connections to a target that has been deregistered, as users report
/// (aws/containers-roadmap#470, aws-load-balancer-controller#2366), whatever its deregistration
/// delay. In Kubernetes, the load balancer's controller deregisters a pod as soon as it is to end.
pub const NLB_DEREGISTERED_DELAY: Duration = Duration::from_secs(120);
/// Age from which a connection is closed by an answer that reports a failure of the HSM, while the
/// proxy is not ready. It bounds the handshakes when no proxy is ready and all clients come back at
/// once: one a second for each connection.
pub const MIN_AGE_TO_SEND_AWAY: Duration = Duration::from_secs(1);
/// Longest last part of the delay before accepting ends, of which it is half otherwise: during it,
/// answers close the connections too that were made while draining.
pub const MAX_DRAIN_LAST_PART: Duration = Duration::from_secs(10);
/// Time for which quiet connections are kept after the end of accepting, since a request may be on
/// its way: the first one of a new connection, or the next one of a client that sends one every
/// second or two. It is counted from the end of accepting: counted from the last answer, it would
/// end just when a client's next request arrives.
pub const DRAIN_QUIET_TIME: Duration = Duration::from_millis(3_000);
/// Time beyond the drain, for the audit log's and the log's last lines, that systemd is asked for.
/// Those of the HSM's sessions and the logs have their own limits.
pub const STOP_MARGIN: Duration = Duration::from_secs(3);
/// Time for the sessions to close after the last request when the process stops.
pub const HSM_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the last lines of the log to be written when the process stops.
pub const LOG_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time, when the process stops, for the last lines to be written and for another process that
/// still writes to stop.
pub const AUDIT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time from the end of the drain to the end of the process: a reload that is under way, the
/// sessions, the logs. A supervisor that kills earlier may lose lines of the audit log.
pub const STOP_TIME: Duration = HSM_STOP_TIMEOUT
    .saturating_mul(2)
    .saturating_add(AUDIT_STOP_TIMEOUT)
    .saturating_add(LOG_STOP_TIMEOUT)
    .saturating_add(SYSLOG_STOP_TIMEOUT)
    .saturating_add(OTLP_STOP_TIMEOUT)
    .saturating_add(STOP_MARGIN);
