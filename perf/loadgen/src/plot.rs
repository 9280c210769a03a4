//! The three kinds of plot.

use crate::results::Results;
use crate::svg::{Axis, Curve, Scale, draw};

/// Latency by percentile, with the tail stretched as in HdrHistogram's plots: each tick to the
/// right stands for a tenth of the previous one's requests.
#[must_use]
pub fn latency(runs: &[Results], title: &str) -> String {
    let tail = |percentile: f64| 100.0 / (100.0 - percentile).max(1e-3);
    let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99]
        .map(|percentile| (tail(percentile), format!("{percentile}%")))
        .to_vec();
    let x = Axis { title: "percentile", scale: Scale::Log, ticks };
    let curves: Vec<Curve> = curves(runs, "", false, |run| {
        // The last step is the maximum, at 100 %: it is drawn at the position of its single
        // request.
        let least = 100.0 - 100.0 / count(run).max(1.0);
        run.percentiles.iter().map(|(p, ms)| (tail(p.min(least)), *ms)).collect()
    });
    draw(title, &x, &milliseconds(), &curves)
}

/// 50th and 99th percentiles over the time of the run.
#[must_use]
pub fn over_time(runs: &[Results], title: &str) -> String {
    let x = Axis { title: "seconds", scale: Scale::Linear, ticks: Vec::new() };
    let points = |run: &Results, value: fn(&crate::results::Point) -> f64| {
        let all = run.over_time.iter().filter(|point| point.ok > 0 && point.seconds >= 0.0);
        all.map(|point| (point.seconds, value(point))).collect()
    };
    let mut all = curves(runs, " p99", false, |run| points(run, |point| point.p99_ms));
    let mut medians = curves(runs, " p50", false, |run| points(run, |point| point.p50_ms));
    medians.iter_mut().for_each(|curve| curve.is_dashed = true);
    all.append(&mut medians);
    draw(title, &x, &milliseconds(), &all)
}

/// 99th percentile by offered rate or, in a closed loop, by the rate reached.
#[must_use]
pub fn rate(runs: &[Results], title: &str) -> String {
    let x = Axis { title: "requests a second", scale: Scale::Linear, ticks: Vec::new() };
    let curves = curves(runs, "", true, |run| {
        let phases = run.phases.iter().filter(|phase| phase.summary.ok > 0);
        phases
            .map(|phase| {
                let rate = phase.rate.unwrap_or(phase.summary.ok_per_second);
                (rate, phase.summary.latency_ms.p99)
            })
            .collect()
    });
    draw(title, &x, &Axis { title: "p99 (ms)", ..milliseconds() }, &curves)
}

fn curves(
    runs: &[Results],
    suffix: &str,
    has_marks: bool,
    points: impl Fn(&Results) -> Vec<(f64, f64)>,
) -> Vec<Curve> {
    runs.iter()
        .enumerate()
        .map(|(colour, run)| Curve {
            name: format!("{}{suffix}", run.name),
            points: points(run),
            colour,
            is_dashed: false,
            has_marks,
        })
        .collect()
}

fn milliseconds() -> Axis {
    Axis { title: "latency (ms)", scale: Scale::Log, ticks: Vec::new() }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(run: &Results) -> f64 {
    run.total.ok as f64
}
