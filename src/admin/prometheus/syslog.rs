//! Metrics of the forwarding to syslog collectors.

use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::{self, Counter, Gauge};
use crate::observe::syslog::SyslogStats;

/// A metric of a forwarder: name, type, help, and value.
type OfForwarder = (&'static str, Kind, &'static str, fn(&SyslogStats) -> u64);

const OF_FORWARDER: &[OfForwarder] = &[
    (
        "xks_proxy_syslog_connected",
        Gauge,
        "1 if there is a connection to the syslog collector, for the lines of the log or of the \
         audit log.",
        |stats| stats.is_connected.into(),
    ),
    ("xks_proxy_syslog_lines_total", Counter, "Lines sent to the syslog collector.", |stats| {
        stats.sent_lines
    }),
    (
        "xks_proxy_syslog_dropped_lines_total",
        Counter,
        "Lines that the syslog collector will not get, because it could not be reached or was too \
         slow. They are in the log or audit log itself.",
        |stats| stats.dropped_lines,
    ),
    (
        "xks_proxy_syslog_failures_total",
        Counter,
        "Attempts to connect to the syslog collector, or to send to it, that failed.",
        |stats| stats.failures,
    ),
];

/// Writes the metrics; nothing if nothing is forwarded.
pub(super) fn syslog(text: &mut Exposition, forwarders: &[SyslogStats]) {
    if forwarders.is_empty() {
        return;
    }
    for (name, kind, help, value) in OF_FORWARDER {
        text.family(name, *kind, help);
        for stats in forwarders {
            text.sample(&[("server", &stats.server), ("log", stats.log)], value(stats));
        }
    }
}
