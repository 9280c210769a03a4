//! The kinds of plot.

use std::collections::BTreeMap;

use crate::results::{Point, Results};
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
    let points = |run: &Results, value: fn(&Point) -> f64| {
        let all = run.over_time.iter().filter(|point| point.ok > 0 && point.seconds >= 0.0);
        all.map(|point| (point.seconds, value(point))).collect()
    };
    let mut all = curves(runs, " p99", false, |run| points(run, |point| point.p99_ms));
    let mut medians = curves(runs, " p50", false, |run| points(run, |point| point.p50_ms));
    medians.iter_mut().for_each(|curve| curve.is_dashed = true);
    all.append(&mut medians);
    draw(title, &x, &milliseconds(), &all)
}

/// Requests offered, answered within KMS's 250 ms and refused, a second, over the time of the run. The
/// rest of what was offered got no answer, or one that came too late.
#[must_use]
pub fn goodput(runs: &[Results], title: &str) -> String {
    let x = Axis { title: "seconds", scale: Scale::Linear, ticks: Vec::new() };
    let y = Axis { title: "requests a second", ..x.clone() };
    let mut all = curves(runs, " within 250 ms", false, |run| {
        each_second(&run.over_time, |point| point.ok_in_250_ms)
    });
    all.append(&mut curves(runs, " refused", true, |run| {
        each_second(&run.over_time, |point| point.refused)
    }));
    let mut offered = curves(runs, " offered", false, offered);
    offered.iter_mut().for_each(|curve| curve.is_dashed = true);
    all.append(&mut offered);
    draw(title, &x, &y, &all)
}

/// Returns the mean rate in each second, or in each interval if those are longer.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
#[expect(clippy::cast_possible_truncation, reason = "a run is far shorter")]
fn each_second(points: &[Point], count: fn(&Point) -> u64) -> Vec<(f64, f64)> {
    let pairs = points.windows(2).map(|pair| pair[1].seconds - pair[0].seconds);
    let width = pairs.fold(f64::INFINITY, f64::min);
    let width = if width.is_finite() { width.max(1.0) } else { 1.0 };
    let mut seconds: BTreeMap<i64, u64> = BTreeMap::new();
    // The end of an interval may be computed slightly too low.
    for point in points.iter().filter(|point| point.seconds > -1e-6) {
        *seconds.entry(((point.seconds + 1e-6) / width) as i64).or_default() += count(point);
    }
    seconds
        .into_iter()
        .map(|(place, count)| ((place as f64 + 0.5) * width, count as f64 / width))
        .collect()
}

/// Returns the offered rate at both ends of each phase; nothing for a closed loop.
fn offered(run: &Results) -> Vec<(f64, f64)> {
    let mut start = 0.0;
    let mut points = Vec::new();
    for phase in &run.phases {
        let end = start + phase.seconds;
        points.extend(phase.rate.into_iter().flat_map(|rate| [(start, rate), (end, rate)]));
        start = end;
    }
    points
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

#[cfg(test)]
mod tests {
    use super::*;

    fn points(start: f64, width: f64, counts: &[u64]) -> Vec<Point> {
        let point = |seconds, count| Point {
            seconds,
            ok: count,
            ok_in_250_ms: count,
            failed: 0,
            refused: 0,
            p50_ms: 0.0,
            p99_ms: 0.0,
            max_ms: 0.0,
        };
        let mut at = start - width;
        let each = counts.iter().map(|count| {
            at += width;
            point(at, *count)
        });
        each.collect()
    }

    /// Short intervals are added up to seconds, without those of the warm-up; long ones are rates.
    #[test]
    fn rates_are_those_of_a_second() {
        let rates = |points: &[Point]| each_second(points, |point| point.ok_in_250_ms);
        let tenths = points(-0.2, 0.1, &[9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5]);
        assert_eq!(rates(&tenths), [(0.5, 10.0), (1.5, 5.0)]);
        assert_eq!(rates(&points(0.0, 2.0, &[10, 30])), [(1.0, 5.0), (3.0, 15.0)]);
        assert_eq!(rates(&points(0.0, 1.0, &[7])), [(0.5, 7.0)]);
    }
}
