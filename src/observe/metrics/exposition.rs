//! Prometheus's text format, version 0.0.4.
//!
//! Written by hand rather than with `prometheus-client`, whose encoder (0.24, also for collectors)
//! only supports OpenMetrics. It would change the format on which dashboards and alerts rely:
//! `# HELP` and `# TYPE` of counters lose their `_total`, help texts get a second full stop, `_sum`
//! and `_count` precede the buckets, whole numbers in `le` get a `.0`, and `# EOF` ends the text.
//! It also does not escape label values, which may be any text that an HSM reports.

use std::fmt::{Display, Write as _};

use super::histogram::{BOUNDS_MICROS, Snapshot};

/// Media type of the exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that only increases.
    Counter,
    /// A value that increases and decreases.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// Names and values of labels. Values may come from settings or HSMs, and are escaped.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

/// The text of the exposition, under construction.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// Begins a metric; its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.name = name;
        self
    }

    /// Adds a sample to the metric begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.write("", labels, None, value);
        self
    }

    /// Adds the samples of one histogram, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
    pub fn histogram(&mut self, labels: Labels<'_>, snapshot: &Snapshot) -> &mut Self {
        let mut cumulative = 0;
        for (bound, bucket) in BOUNDS_MICROS.iter().zip(&snapshot.buckets) {
            cumulative += bucket;
            let bound = (f64::from(*bound) / 1e6).to_string();
            self.write("_bucket", labels, Some(&bound), cumulative);
        }
        self.write("_bucket", labels, Some("+Inf"), snapshot.count());
        self.write("_sum", labels, None, snapshot.sum_micros as f64 / 1e6);
        self.write("_count", labels, None, snapshot.count());
        self
    }

    /// Returns the complete text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let le = le.map(|le| ("le", le));
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(le) {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token's label may be any text that its HSM reports.
    #[test]
    fn label_values_are_escaped() {
        let mut exposition = Exposition::default();
        exposition
            .family("up", Kind::Gauge, "Whether.")
            .sample(&[], 1)
            .sample(&[("a", "x\"y\\z\n"), ("b", "")], 0.5);
        assert_eq!(
            exposition.into_text(),
            "# HELP up Whether.\n# TYPE up gauge\nup 1\nup{a=\"x\\\"y\\\\z\\n\",b=\"\"} 0.5\n"
        );
    }

    /// Buckets are cumulative and in seconds, and end with +Inf.
    #[test]
    fn histograms() {
        let mut snapshot = Snapshot::default();
        snapshot.buckets[0] = 2;
        snapshot.buckets[BOUNDS_MICROS.len()] = 1;
        snapshot.sum_micros = 1_500_000;
        let mut exposition = Exposition::default();
        exposition.family("d_seconds", Kind::Histogram, "How long.");
        exposition.histogram(&[("call", "encrypt")], &snapshot);
        let text = exposition.into_text();
        for line in [
            "d_seconds_bucket{call=\"encrypt\",le=\"0.0001\"} 2\n",
            "d_seconds_bucket{call=\"encrypt\",le=\"1\"} 2\n",
            "d_seconds_bucket{call=\"encrypt\",le=\"+Inf\"} 3\n",
            "d_seconds_sum{call=\"encrypt\"} 1.5\n",
            "d_seconds_count{call=\"encrypt\"} 3\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
