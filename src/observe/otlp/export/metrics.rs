//! The metrics of the Prometheus page as OTLP's: counters as cumulative sums, histograms with
//! explicit bounds.

use super::messages::{
    Data, Gauge, Histogram, HistogramPoint, KeyValue, Metric, NumberPoint, PointValue, Sum,
    Temporality,
};
use crate::observe::metrics::exposition::{Exposition, Family, Kind, Number, Sample, Value};
use crate::observe::metrics::histogram::{BOUNDS_MICROS, Snapshot};

/// Returns the metrics that have samples, and the number of those.
pub(super) fn convert(
    exposition: &Exposition,
    start_unix_nano: u64,
    now_unix_nano: u64,
) -> (Vec<Metric>, u64) {
    let with_samples = exposition.families().iter().filter(|family| !family.samples.is_empty());
    let metrics = with_samples.map(|family| metric(family, start_unix_nano, now_unix_nano));
    let points = exposition.families().iter().map(|family| family.samples.len() as u64).sum();
    (metrics.collect(), points)
}

fn metric(family: &Family, start: u64, now: u64) -> Metric {
    let numbers = |start| -> Vec<NumberPoint> {
        family.samples.iter().filter_map(|sample| number_point(sample, start, now)).collect()
    };
    let aggregation_temporality = Temporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(start),
            aggregation_temporality,
            is_monotonic: true,
        }),
        // A gauge has no start.
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers(0) }),
        Kind::Histogram => {
            let points = family.samples.iter().filter_map(|sample| match &sample.value {
                Value::Histogram(snapshot) => Some(histogram_point(sample, snapshot, start, now)),
                Value::Number(_) => None,
            });
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality })
        }
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.clone(),
        unit: unit(family.name).to_owned(),
        data: Some(data),
    }
}

/// Units by UCUM, as the semantic conventions write them.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

fn number_point(sample: &Sample, start: u64, now: u64) -> Option<NumberPoint> {
    let Value::Number(number) = &sample.value else { return None };
    let value = match *number {
        Number::Whole(number) => PointValue::Int(i64::try_from(number).unwrap_or(i64::MAX)),
        Number::Signed(number) => PointValue::Int(number),
        Number::Real(number) => PointValue::Double(number),
    };
    Some(NumberPoint {
        start_time_unix_nano: start,
        time_unix_nano: now,
        attributes: attributes(sample),
        value: Some(value),
    })
}

#[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
fn histogram_point(sample: &Sample, snapshot: &Snapshot, start: u64, now: u64) -> HistogramPoint {
    HistogramPoint {
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: snapshot.count(),
        sum: Some(snapshot.sum_micros as f64 / 1e6),
        bucket_counts: snapshot.buckets.to_vec(),
        explicit_bounds: BOUNDS_MICROS.iter().map(|bound| f64::from(*bound) / 1e6).collect(),
        attributes: attributes(sample),
    }
}

fn attributes(sample: &Sample) -> Vec<KeyValue> {
    sample.labels.iter().map(|(name, value)| KeyValue::string(name, value)).collect()
}
