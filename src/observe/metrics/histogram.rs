//! Histograms of durations.

use super::counter::Counter;

/// Upper bounds of the buckets, inclusive, in microseconds. 35 ms and 250 ms are KMS's own limits
/// (XKS specification, Encrypt); the default deadline of 180 ms lies between two bounds.
pub const BOUNDS_MICROS: [u32; 22] = [
    100, 200, 300, 500, 750, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 35_000,
    50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 500_000, 1_000_000,
];

/// A histogram to which only one thread adds, like [`Counter`].
#[derive(Debug, Default)]
pub struct Histogram {
    /// Counts per bucket, not cumulative; the last is for durations above all bounds.
    buckets: [Counter; BOUNDS_MICROS.len() + 1],
    sum_micros: Counter,
}

impl Histogram {
    /// Adds a duration; only for the thread that owns the histogram.
    pub fn record(&self, micros: u32) {
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.sum_micros.add(u64::from(micros));
    }

    /// Adds the counts to `sum`.
    pub fn add_to(&self, sum: &mut Snapshot) {
        for (bucket, sum) in self.buckets.iter().zip(&mut sum.buckets) {
            *sum += bucket.get();
        }
        sum.sum_micros += self.sum_micros.get();
    }
}

/// The counts of one or more histograms at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts per bucket, not cumulative, as in [`Histogram`].
    pub buckets: [u64; BOUNDS_MICROS.len() + 1],
    /// Sum of all durations.
    pub sum_micros: u64,
}

impl Snapshot {
    /// Adds a duration.
    pub fn record(&mut self, micros: u64) {
        let bucket = BOUNDS_MICROS.partition_point(|bound| u64::from(*bound) < micros);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
        self.sum_micros += micros;
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the counts of another snapshot.
    pub fn add(&mut self, other: &Self) {
        for (bucket, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += other;
        }
        self.sum_micros += other.sum_micros;
    }

    /// Returns the difference from an earlier snapshot.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        for (bucket, earlier) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *bucket = bucket.saturating_sub(*earlier);
        }
        since.sum_micros = since.sum_micros.saturating_sub(earlier.sum_micros);
        since
    }

    /// Returns the quantile (0 to 1) in microseconds, interpolated within its bucket as in
    /// Prometheus's `histogram_quantile`, and at most the last bound. `None` if there are no
    /// durations.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn quantile_micros(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = quantile * count as f64;
        let mut below = 0;
        let mut lower = 0;
        for (bucket, upper) in self.buckets.iter().zip(BOUNDS_MICROS) {
            if *bucket > 0 && (below + bucket) as f64 >= rank {
                let share = (rank - below as f64) / *bucket as f64;
                return Some(f64::from(lower) + f64::from(upper - lower) * share.clamp(0.0, 1.0));
            }
            below += bucket;
            lower = upper;
        }
        Some(f64::from(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: &[u32]) -> Snapshot {
        let histogram = Histogram::default();
        micros.iter().for_each(|micros| histogram.record(*micros));
        let mut snapshot = Snapshot::default();
        histogram.add_to(&mut snapshot);
        snapshot
    }

    /// Bounds are inclusive, like Prometheus's `le`, and durations above all bounds are counted.
    #[test]
    fn bounds_are_inclusive() {
        let snapshot = of(&[0, 100, 101, 1_000_000, 1_000_001, u32::MAX]);
        assert_eq!((snapshot.buckets[0], snapshot.buckets[1]), (2, 1));
        assert_eq!(snapshot.buckets[BOUNDS_MICROS.len() - 1..], [1, 2]);
        assert_eq!(snapshot.count(), 6);
        assert_eq!(snapshot.sum_micros, 2_000_202 + u64::from(u32::MAX));
        assert!(BOUNDS_MICROS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    /// The status page and Prometheus compute the same quantiles.
    #[test]
    fn quantiles() {
        assert_eq!(of(&[]).quantile_micros(0.5), None);
        let snapshot = of(&[150; 100]);
        assert_eq!(snapshot.quantile_micros(0.5), Some(150.0));
        assert_eq!(snapshot.quantile_micros(1.0), Some(200.0));
        let mut mixed = vec![50; 99];
        mixed.push(2_000_000);
        assert_eq!(of(&mixed).quantile_micros(0.999), Some(1_000_000.0));
        assert!(of(&mixed).quantile_micros(0.99).is_some_and(|micros| micros <= 100.0));
    }

    /// Rates are computed from differences.
    #[test]
    fn differences() {
        let (earlier, later) = (of(&[50]), of(&[50, 150, 150]));
        let since = later.since(&earlier);
        assert_eq!((since.count(), since.sum_micros), (2, 300));
        assert_eq!(earlier.since(&later).count(), 0);
    }
}
