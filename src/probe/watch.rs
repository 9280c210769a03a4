//! `--watch`: a part of the probe at an interval, as a synthetic client, with metrics.
//!
//! A round makes calls as KMS does, and none that a proxy has to refuse: those would raise the
//! counters that its alerts look at. It ends by its deadline whatever the proxy does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::class::{self, Class};
use super::options::{Arguments, Options};
use super::prober::{Prober, Target};
use super::report::{Check, Report, Verdict};
use super::{calls, latency, observation, terminal, transport};
use crate::admin::exporter;
use crate::exit::Failed;
use crate::observe::metrics::exposition::{Exposition, Kind};
use crate::observe::metrics::histogram::Snapshot;
use crate::observe::timestamp::unix_secs;
use crate::output::outln;

/// Results of all rounds so far.
#[derive(Default)]
struct Results {
    succeeded: u64,
    failed: u64,
    unanswered: u64,
    /// Durations of calls by kind.
    durations: BTreeMap<&'static str, Snapshot>,
    last: Option<Round>,
    interval: Duration,
}

/// The last round.
struct Round {
    checks: Vec<Check>,
    /// The reason there are no checks.
    mistake: Option<String>,
    begin: SystemTime,
    duration: Duration,
    expiry: Option<i64>,
}

impl Round {
    fn classes(&self) -> Vec<Class> {
        class::failed(&self.checks)
    }

    fn is_success(&self) -> bool {
        self.mistake.is_none() && self.classes().is_empty()
    }

    /// Returns what distinguishes the outcome from another round's.
    fn summary(&self) -> String {
        if let Some(mistake) = &self.mistake {
            return format!("FAIL  {mistake}");
        }
        let with = |verdict: Verdict| {
            let checks = self.checks.iter().filter(move |check| check.verdict == verdict);
            checks.map(|check| check.rule.name).collect::<Vec<_>>().join(" ")
        };
        let (failed, warned) = (with(Verdict::Fail), with(Verdict::Warn));
        match (failed.is_empty(), warned.is_empty()) {
            (true, true) => "pass".to_owned(),
            (true, false) => format!("pass, with warnings: {warned}"),
            (false, _) => format!("FAIL  {failed}"),
        }
    }
}

/// Probes at the interval until the process ends.
///
/// # Errors
/// [`Failed`]: the arguments are wrong at the start, or the address cannot be bound.
pub fn run(arguments: &Arguments, address: SocketAddr) -> Result<(), Failed> {
    Options::resolve(arguments)?;
    let interval = Duration::from_secs(u64::from(arguments.interval));
    let results = Arc::new(Mutex::new(Results { interval, ..Results::default() }));
    let read = Arc::clone(&results);
    let bound = exporter::start(address, move || expose(&read.lock()))
        .map_err(|error| Failed::unavailable(format!("{address}: {error}")))?;
    outln!("metrics: http://{bound}/metrics");
    let mut before = String::new();
    let mut next = Instant::now();
    loop {
        let round = round(arguments, interval, &results);
        let summary = round.summary();
        if summary != before {
            outln!("{} {summary}", terminal::rfc3339(round.begin));
            before = summary;
        }
        let mut results_now = results.lock();
        match round.is_success() {
            true => results_now.succeeded += 1,
            false => results_now.failed += 1,
        }
        results_now.last = Some(round);
        drop(results_now);
        // Rounds that were missed are left out.
        next = (next + interval).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn round(arguments: &Arguments, limit: Duration, results: &Mutex<Results>) -> Round {
    let (begin, started) = (SystemTime::now(), Instant::now());
    let mut report = Report::new(|_| {});
    // No answer of a proxy should make it panic; if one does, the next round is made all the same.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // Files may have changed, for instance with a rotated credential.
        let options = Options::resolve(arguments).map_err(|failed| failed.message)?;
        examine(&options, started + limit, &mut report, results);
        Ok(())
    }));
    let mistake = outcome.unwrap_or_else(|_| Err("the probe panicked".to_owned())).err();
    let expiry = report.expiry;
    Round { checks: report.into_checks(), mistake, begin, duration: started.elapsed(), expiry }
}

fn examine(options: &Options, deadline: Instant, report: &mut Report, results: &Mutex<Results>) {
    let Some(addresses) = transport::examine(options, transport::Extent::Brief, report) else {
        return;
    };
    let mut prober = Prober::new(Target { options, addresses });
    prober.deadline = Some(deadline);
    if calls::health(&mut prober, report) {
        let mut first = None;
        for key_id in &options.key_ids {
            let made = calls::key(&mut prober, key_id, true, report);
            first = first.or_else(|| made.map(|(sealed, plaintext)| (key_id, sealed, plaintext)));
        }
        if let Some((key_id, sealed, plaintext)) = &first
            && Instant::now() < deadline
        {
            let load = latency::Load { key_id, sealed, plaintext, progress: &|_, _| {} };
            let measured = latency::of_new_connections(&prober.target, &load, report);
            for time in &measured.times {
                prober.observed.time("new_connection", *time);
            }
        }
    }
    observation::examine(&prober.observed, report);
    let mut results = results.lock();
    results.unanswered += prober.observed.unanswered;
    for (call, durations) in &prober.observed.durations {
        results.durations.entry(call).or_default().add(durations);
    }
}

fn expose(results: &Results) -> String {
    let mut text = Exposition::default();
    text.family("xks_probe_rounds_total", Kind::Counter, "Rounds of the probe.")
        .sample(&[("outcome", "success")], results.succeeded)
        .sample(&[("outcome", "failure")], results.failed);
    let help = "Calls of the probe that got no answer.";
    text.family("xks_probe_unanswered_calls_total", Kind::Counter, help)
        .sample(&[], results.unanswered);
    let help = "Durations of answered calls; new_connection includes TCP and TLS.";
    text.family("xks_probe_call_duration_seconds", Kind::Histogram, help);
    for (call, durations) in &results.durations {
        text.histogram(&[("call", call)], durations);
    }
    let help = "Seconds from the begin of a round to that of the next, as --interval says.";
    text.family("xks_probe_interval_seconds", Kind::Gauge, help)
        .sample(&[], results.interval.as_secs());
    if let Some(round) = &results.last {
        expose_round(round, &mut text);
    }
    text.into_text()
}

fn expose_round(round: &Round, text: &mut Exposition) {
    let help = "1 if no check failed in the last round, else 0.";
    text.family("xks_probe_success", Kind::Gauge, help).sample(&[], u8::from(round.is_success()));
    let help = "1 for each class of failures in the last round, else 0.";
    text.family("xks_probe_failing", Kind::Gauge, help);
    let classes = round.classes();
    for class in Class::ALL {
        text.sample(&[("class", class.name())], u8::from(classes.contains(&class)));
    }
    let help = "The checks of the last round with their verdicts: pass, warn, fail or skip.";
    text.family("xks_probe_check", Kind::Gauge, help);
    for check in &round.checks {
        let key = check.subject.as_deref().unwrap_or_default();
        let verdict = check.verdict.name();
        text.sample(&[("check", check.rule.name), ("key", key), ("verdict", verdict)], 1);
    }
    let begin = unix_secs(round.begin);
    let help = "Begin of the last round.";
    text.family("xks_probe_last_round_timestamp_seconds", Kind::Gauge, help).sample(&[], begin);
    let help = "Duration of the last round.";
    text.family("xks_probe_round_duration_seconds", Kind::Gauge, help)
        .sample(&[], round.duration.as_secs_f64());
    if let Some(expiry) = round.expiry {
        let help = "Time at which the first certificate of the server's chain expires.";
        text.family("xks_probe_certificate_expiry_timestamp_seconds", Kind::Gauge, help)
            .sample(&[], expiry);
    }
}
