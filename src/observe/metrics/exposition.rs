//! The metrics at one moment, and Prometheus's text format, version 0.0.4.
//!
//! The text is written by hand rather than with `prometheus-client`, whose encoder (0.24, also for collectors)
//! only supports OpenMetrics. It would change the format on which dashboards and alerts rely:
//! `# HELP` and `# TYPE` of counters lose their `_total`, help texts get a second full stop, `_sum`
//! and `_count` precede the buckets, whole numbers in `le` get a `.0`, and `# EOF` ends the text.
//! It also does not escape label values, which may be any text that an HSM reports.

use std::fmt::{self, Display, Write as _};

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
pub type Labels<'l> = &'l [(&'static str, &'l str)];

/// A value of a counter or a gauge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A whole number that may be negative.
    Signed(i64),
    /// A number with a fraction.
    Real(f64),
}

impl From<u8> for Number {
    fn from(number: u8) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<i32> for Number {
    fn from(number: i32) -> Self {
        i64::from(number).into()
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(formatter),
            Self::Signed(number) => number.fmt(formatter),
            Self::Real(number) => number.fmt(formatter),
        }
    }
}

/// A metric with its samples.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its meaning.
    pub help: String,
    /// Its samples.
    pub samples: Vec<Sample>,
}

/// Labels and value at one moment.
#[derive(Debug)]
pub struct Sample {
    /// Names and values of the labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A value at one moment.
#[derive(Debug)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(Number),
    /// Of a histogram.
    Histogram(Snapshot),
}

/// All metrics at one moment: for Prometheus as text, and for OTLP as they are.
#[derive(Debug, Default)]
pub struct Exposition {
    families: Vec<Family>,
}

impl Exposition {
    /// Begins a metric; its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        self.families.push(Family { name, kind, help: help.to_owned(), samples: Vec::new() });
        self
    }

    /// Adds a sample to the metric begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Into<Number>) -> &mut Self {
        self.add(labels, Value::Number(value.into()))
    }

    /// Adds the samples of one histogram, in seconds.
    pub fn histogram(&mut self, labels: Labels<'_>, snapshot: &Snapshot) -> &mut Self {
        self.add(labels, Value::Histogram(*snapshot))
    }

    /// Returns the metrics, in order.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Returns the complete text.
    #[must_use]
    pub fn into_text(self) -> String {
        let mut text = String::new();
        for family in &self.families {
            let Family { name, help, .. } = family;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            // Writing into a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for Sample { labels, value } in &family.samples {
                match value {
                    Value::Number(number) => {
                        write_line(&mut text, [name, ""], labels, None, number)
                    }
                    Value::Histogram(snapshot) => {
                        write_histogram(&mut text, name, labels, snapshot);
                    }
                }
            }
        }
        text
    }

    fn add(&mut self, labels: Labels<'_>, value: Value) -> &mut Self {
        if let Some(family) = self.families.last_mut() {
            let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
            family.samples.push(Sample { labels: labels.collect(), value });
        }
        self
    }
}

type OwnedLabels = [(&'static str, String)];

#[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
fn write_histogram(text: &mut String, name: &str, labels: &OwnedLabels, snapshot: &Snapshot) {
    let mut cumulative = 0;
    for (bound, bucket) in BOUNDS_MICROS.iter().zip(&snapshot.buckets) {
        cumulative += bucket;
        let bound = (f64::from(*bound) / 1e6).to_string();
        write_line(text, [name, "_bucket"], labels, Some(&bound), cumulative);
    }
    write_line(text, [name, "_bucket"], labels, Some("+Inf"), snapshot.count());
    write_line(text, [name, "_sum"], labels, None, snapshot.sum_micros as f64 / 1e6);
    write_line(text, [name, "_count"], labels, None, snapshot.count());
}

fn write_line(
    text: &mut String,
    name: [&str; 2],
    labels: &OwnedLabels,
    le: Option<&str>,
    value: impl Display,
) {
    name.iter().for_each(|part| text.push_str(part));
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let mut separator = '{';
    for (name, value) in labels.chain(le.map(|le| ("le", le))) {
        text.push(separator);
        separator = ',';
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if separator == ',' {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
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
