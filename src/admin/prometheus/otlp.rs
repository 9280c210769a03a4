//! Metrics of the export by OTLP.

use crate::admin::sources::Sources;
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::exposition::Kind::{Counter, Gauge};
use crate::observe::otlp::stats::Signal;

/// Writes the metrics of the export; nothing if there is none.
pub(super) fn otlp(text: &mut Exposition, sources: &Sources) {
    let Some(stats) = &sources.otlp else { return };
    text.family(
        "xks_proxy_otlp_exported_total",
        Counter,
        "Data points, log lines and traced calls that the OTLP collector has taken.",
    );
    for signal in Signal::ALL {
        text.sample(&[("signal", signal.name())], stats.of(signal).exported.get());
    }
    text.family(
        "xks_proxy_otlp_dropped_total",
        Counter,
        "Data points, log lines and traced calls that were not exported: overflow (they came faster \
         than the collector took them), undelivered (it did not answer), rejected (it refused them).",
    );
    for signal in Signal::ALL {
        for (reason, count) in stats.of(signal).dropped() {
            text.sample(&[("signal", signal.name()), ("reason", reason)], count);
        }
    }
    text.family(
        "xks_proxy_otlp_failed_requests_total",
        Counter,
        "Requests to the OTLP collector that failed; most are repeated.",
    );
    for signal in Signal::ALL {
        text.sample(&[("signal", signal.name())], stats.of(signal).failed_requests.get());
    }
    text.family("xks_proxy_otlp_failing", Gauge, "1 while requests to the OTLP collector fail.");
    for signal in Signal::ALL {
        text.sample(&[("signal", signal.name())], u8::from(stats.of(signal).is_failing()));
    }
}
