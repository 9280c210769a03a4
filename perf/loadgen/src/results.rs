//! The results of a run, written to JSON and read back for plots.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::stats::{Connections, RoundTrips, Tally};

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Name given on the command line.
    pub name: String,
    /// IP:PORT
    pub address: String,
    /// TLS 1.3 if set, else plain HTTP.
    pub is_tls: bool,
    /// Operations by weight.
    pub mix: BTreeMap<String, u32>,
    /// Pacing: `closed`, `constant` or `poisson`.
    pub pace: String,
    /// Connections under load.
    pub connections: u32,
    /// Connections held open without load.
    pub idle_connections: u32,
    /// Number of the generator's threads.
    pub threads: u32,
    /// Set if the contents of answers were checked, and not only their status.
    pub is_checked: bool,
    /// Length of the measured load in seconds.
    pub seconds: f64,
    /// All measured requests.
    pub total: Summary,
    /// Summaries by call.
    pub operations: BTreeMap<String, Summary>,
    /// Summaries by phase, without the warm-up.
    pub phases: Vec<PhaseSummary>,
    /// Failed requests by status and error name.
    pub failures: Vec<Failure>,
    /// Milliseconds at each percentile, in the steps of HDR histograms: `[percentile, ms]`.
    pub percentiles: Vec<(f64, f64)>,
    /// Figures over the time of the run, with the warm-up at negative times.
    pub over_time: Vec<Point>,
    /// With round trips: correct answers by `ciphertextMetadata` in base64.
    #[serde(default)]
    pub by_metadata: BTreeMap<String, RoundTrips>,
    /// With round trips: ciphertexts of the run, warm-up included, that it did not decrypt.
    #[serde(default)]
    pub not_decrypted: u64,
    /// Fates of connections, warm-up included.
    pub connection_counts: Connections,
    /// Number of ciphertexts used for decrypts.
    pub ciphertexts: usize,
    /// Number of encrypt answers that were decrypted after the run.
    pub verified_encrypts: usize,
    /// Descriptions of some of the wrong answers.
    pub wrong_encrypts: Vec<String>,
    /// Figures of the generator itself.
    pub generator: Generator,
    /// The proxy's process or processes, if named.
    pub server: Option<Server>,
    /// The latest error of a connection.
    pub last_error: Option<String>,
}

/// Number of requests and their latency.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that ended, successfully or not.
    pub requests: u64,
    /// Requests answered correctly.
    pub ok: u64,
    /// Requests answered correctly within KMS's 250 ms.
    pub ok_in_250_ms: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Correct answers per second, by arrival time: those after the end do not count.
    pub ok_per_second: f64,
    /// Latency of the correct answers.
    pub latency_ms: Latency,
}

/// Milliseconds from the intended send time; all 0 without requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Minimum.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 75th percentile.
    pub p75: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// 99.99th percentile.
    pub p99_99: f64,
    /// Maximum.
    pub max: f64,
}

/// Results of one phase.
#[derive(Debug, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// Offered requests per second; `None` in a closed loop.
    pub rate: Option<f64>,
    /// Duration in seconds.
    pub seconds: f64,
    /// Requests, assigned to the phase in which they were due.
    #[serde(flatten)]
    pub summary: Summary,
    /// Latency of the failed requests.
    pub failed_latency_ms: Latency,
}

/// One kind of failure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// `errorName`, or a description of the failure.
    pub name: String,
    /// Number of requests.
    pub count: u64,
    /// Latency of these requests.
    pub latency_ms: Latency,
}

/// Figures of one interval.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    /// Start of the interval in seconds after the end of the warm-up.
    pub seconds: f64,
    /// Requests answered correctly.
    pub ok: u64,
    /// Of these, within KMS's 250 ms.
    #[serde(default)]
    pub ok_in_250_ms: u64,
    /// Requests that failed in it.
    pub failed: u64,
    /// Of these, requests that the server answered.
    #[serde(default)]
    pub refused: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Maximum.
    pub max_ms: f64,
}

/// CPU time and lateness of the generator itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Generator {
    /// CPU time during the measured phases.
    pub cpu_seconds: f64,
    /// CPU time per request.
    pub cpu_micros_per_request: f64,
    /// CPU time divided by elapsed time: 1 is one core.
    pub cores: f64,
    /// Open loop: time from when a request was due to when the generator noticed.
    pub lateness_ms: Latency,
    /// Open loop: time from when a request was due to when a connection was free for it.
    pub wait_ms: Latency,
}

/// CPU time and memory of the proxy.
#[derive(Debug, Serialize, Deserialize)]
pub struct Server {
    /// Process ids.
    pub pids: Vec<u32>,
    /// CPU time during the measured phases, to within 10 ms for each process.
    pub cpu_seconds: f64,
    /// CPU time per request that ended.
    pub cpu_micros_per_request: f64,
    /// CPU time divided by elapsed time: 1 is one core.
    pub cores: f64,
    /// Resident memory before the generator opened its connections.
    pub resident_kib_before: u64,
    /// Resident memory at the end of the measured phases, with connections still open.
    pub resident_kib_after: u64,
}

/// Latencies in milliseconds, from a histogram of nanoseconds.
#[must_use]
pub fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| millis(histogram.value_at_quantile(quantile));
    Latency {
        min: millis(histogram.min()),
        mean: histogram.mean() / 1e6,
        p50: at(0.5),
        p75: at(0.75),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
        max: millis(histogram.max()),
    }
}

/// Nanoseconds as milliseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// `amount / by`, or 0 if `by` is 0.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub fn ratio(amount: f64, by: u64) -> f64 {
    if by == 0 { 0.0 } else { amount / by as f64 }
}

/// Summary of a tally, with `answered` correct answers in that many seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub fn summary(tally: &Tally, answered: u64, seconds: f64) -> Summary {
    let ok = tally.latency.len();
    Summary {
        requests: ok + tally.failed,
        ok,
        ok_in_250_ms: tally.in_time,
        failed: tally.failed,
        ok_per_second: if seconds > 0.0 { answered as f64 / seconds } else { 0.0 },
        latency_ms: latency(&tally.latency),
    }
}

/// `[percentile, ms]`: five steps for each halving of the distance to 100 %, as in HdrHistogram.
#[must_use]
pub fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    histogram
        .iter_quantiles(5)
        .map(|step| (step.quantile_iterated_to() * 100.0, millis(step.value_iterated_to())))
        .collect()
}

impl Results {
    /// Returns whether no answer was wrong. (A failed request is not a wrong answer.)
    #[must_use]
    pub fn has_wrong_answers(&self) -> bool {
        let is_wrong =
            |failure: &Failure| failure.status == 200 || failure.name == "malformed answer";
        !self.wrong_encrypts.is_empty() || self.failures.iter().any(is_wrong)
    }

    /// The results as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Results { total, generator, connection_counts: counts, .. } = self;
        let protocol = if self.is_tls { "TLS 1.3" } else { "plain HTTP" };
        let right = if self.is_checked { "right" } else { "with 200, unchecked" };
        writeln!(
            out,
            "{}: {} connections, {protocol}, {} loop, {:.1} s",
            self.name, self.connections, self.pace, self.seconds
        )?;
        writeln!(
            out,
            "  {:.0}/s answered {right}; {} requests, {} inside 250 ms, {} failed",
            total.ok_per_second, total.requests, total.ok_in_250_ms, total.failed
        )?;
        write_latency(out, "all", &total.latency_ms)?;
        if self.operations.len() > 1 {
            for (name, summary) in &self.operations {
                write_latency(out, name, &summary.latency_ms)?;
            }
        }
        for phase in self.phases.iter().filter(|_| self.phases.len() > 1) {
            let name = format!("{:.0}/s", phase.rate.unwrap_or(0.0));
            write_latency(out, &name, &phase.summary.latency_ms)?;
            let PhaseSummary { summary, .. } = phase;
            writeln!(
                out,
                "{:14} {:.0}/s answered {right}, {} failed",
                "", summary.ok_per_second, summary.failed
            )?;
        }
        for failure in &self.failures {
            writeln!(
                out,
                "  failed: {} {}: {} times, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
                failure.status,
                failure.name,
                failure.count,
                failure.latency_ms.p50,
                failure.latency_ms.p99,
                failure.latency_ms.max
            )?;
        }
        writeln!(
            out,
            "  connections: {} opened, {} closed by the server, {} renewed, {} lost, {} given up, {} \
             failed to open, {} idle ones closed",
            counts.opened,
            counts.closed_by_server,
            counts.renewed,
            counts.lost,
            counts.given_up,
            counts.failed_to_open,
            counts.idle_closed
        )?;
        if let Some(error) = &self.last_error {
            writeln!(out, "  latest error of a connection: {error}")?;
        }
        if self.is_checked {
            writeln!(out, "  encrypts decrypted again: {}", self.verified_encrypts)?;
        }
        for (metadata, RoundTrips { encrypts, decrypts }) in &self.by_metadata {
            let metadata = if metadata.is_empty() { "none" } else { metadata };
            writeln!(
                out,
                "  ciphertextMetadata {metadata}: {encrypts} encrypts, {decrypts} decrypts"
            )?;
        }
        for wrong in &self.wrong_encrypts {
            writeln!(out, "  WRONG: {wrong}")?;
        }
        writeln!(
            out,
            "  generator: {:.2} cores, {:.1} us CPU a request; late by p50 {:.3} ms, p99 {:.3} ms",
            generator.cores,
            generator.cpu_micros_per_request,
            generator.lateness_ms.p50,
            generator.lateness_ms.p99
        )?;
        if let Some(server) = &self.server {
            writeln!(
                out,
                "  server: {:.2} cores, {:.1} us CPU a request; resident {} KiB before, {} after",
                server.cores,
                server.cpu_micros_per_request,
                server.resident_kib_before,
                server.resident_kib_after
            )?;
        }
        Ok(())
    }
}

fn write_latency(out: &mut String, name: &str, latency: &Latency) -> std::fmt::Result {
    writeln!(
        out,
        "  {name:12} p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  p99.99 {:.3}  max {:.3} ms",
        latency.p50, latency.p90, latency.p99, latency.p99_9, latency.p99_99, latency.max
    )
}
