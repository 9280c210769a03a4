//! A run from beginning to end: ciphertexts, threads, progress, figures.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::args::RunArguments;
use crate::check::{self, Sample};
use crate::ciphertext::Ciphertext;
use crate::corpus;
use crate::failures::FailureLog;
use crate::process::{cpu_time, own_cpu_time, raise_open_files, resident_kib};
use crate::request::{Operation, Sizes};
use crate::results::{
    Failure, Generator, PhaseSummary, Point, Results, Server, latency, millis, percentiles, ratio,
    summary,
};
use crate::schedule::{Pace, Phase, nanos};
use crate::stats::{Interval, Stats, Tally};
use crate::target::Target;
use crate::worker::{self, Plan, Report, Share};

/// Descriptors needed in addition to those of the connections.
const OTHER_FILES: u64 = 64;
/// Delay from the time the last thread is ready until all threads begin.
const START_DELAY: Duration = Duration::from_millis(20);
/// The line printed when measured load begins.
const ANNOUNCEMENT: &str = "measuring";
/// Time between two updates of the progress line.
const PROGRESS: Duration = Duration::from_secs(1);

/// The parts that runs of the same load at different rates share.
pub struct Prepared<'a> {
    arguments: &'a RunArguments,
    target: Arc<Target>,
    sizes: Sizes,
    ciphertexts: Arc<[Arc<Ciphertext>]>,
}

impl<'a> Prepared<'a> {
    /// Finds the target, and makes the ciphertexts for decrypts.
    ///
    /// # Errors
    /// Reason why runs are not possible.
    pub fn new(arguments: &'a RunArguments) -> Result<Self, String> {
        let target = Arc::new(arguments.target()?);
        let files = u64::from(arguments.connections) + u64::from(arguments.idle_connections);
        let limit = raise_open_files();
        if files + OTHER_FILES > limit {
            return Err(format!("{files} connections are more than the {limit} files allowed"));
        }
        for pid in &arguments.pids {
            cpu_time(*pid).ok_or_else(|| format!("there is no process {pid}"))?;
        }
        let sizes = Sizes {
            plaintext_bytes: usize::try_from(arguments.plaintext_bytes).unwrap_or(0),
            aad_bytes: usize::try_from(arguments.aad_bytes).unwrap_or(0),
        };
        let ciphertexts = ciphertexts(arguments, &target, sizes)?;
        Ok(Self { arguments, target, sizes, ciphertexts })
    }

    /// Does a run with these phases.
    ///
    /// # Errors
    /// Reason why the run was not possible.
    pub fn run(&self, phases: Vec<Phase>) -> Result<Results, String> {
        let arguments = self.arguments;
        let total = phases.iter().map(|phase| phase.duration).sum();
        let plan = Plan {
            target: Arc::clone(&self.target),
            ciphertexts: Arc::clone(&self.ciphertexts),
            has_round_trips: arguments.round_trips,
            sizes: self.sizes,
            mix: arguments.mix.0.clone(),
            phases,
            is_poisson: arguments.poisson,
            is_newest_first: arguments.newest_first,
            timeout: arguments.timeout(),
            is_checked: !arguments.no_check,
            logs_failures: arguments.failures.is_some(),
            requests_per_connection: arguments.requests_per_connection,
            interval: arguments.interval(total),
            threads: usize::try_from(arguments.threads.min(arguments.connections)).unwrap_or(1),
            run_id: fastrand::u64(..),
        };
        let log = arguments.failures.as_deref().map(FailureLog::new).transpose()?;
        let measured = std::thread::scope(|scope| {
            let (reports, inbox) = mpsc::channel();
            let mut starts = Vec::new();
            for thread in 0..plan.threads {
                let share = share(arguments, thread, plan.threads);
                let (start, start_inbox) = mpsc::channel();
                let (plan, reports) = (&plan, reports.clone());
                starts.push(start);
                scope.spawn(move || worker::run(plan, share, &reports, &start_inbox));
            }
            drop(reports);
            Run { arguments, plan: &plan, inbox }.measure(&starts, log)
        })?;
        let verified = check::verify(&self.target, &measured.samples);
        Ok(results(arguments, &plan, &measured, verified))
    }
}

/// Does the run that the arguments describe.
///
/// # Errors
/// Reason why the run was not possible.
pub fn run(arguments: &RunArguments) -> Result<Results, String> {
    let phases = arguments.phases()?;
    Prepared::new(arguments)?.run(phases)
}

fn ciphertexts(
    arguments: &RunArguments,
    target: &Arc<Target>,
    sizes: Sizes,
) -> Result<Arc<[Arc<Ciphertext>]>, String> {
    let decrypts =
        arguments.mix.0.iter().any(|(op, weight)| *op == Operation::Decrypt && *weight > 0);
    let count = usize::try_from(arguments.ciphertexts).unwrap_or(1);
    let made = if !decrypts {
        Vec::new()
    } else if arguments.no_check {
        (0..count).map(|_| Ciphertext::synthetic(sizes.plaintext_bytes, sizes.aad_bytes)).collect()
    } else {
        corpus::make(target, sizes, count)?
    };
    Ok(made.into_iter().map(Arc::new).collect())
}

/// One thread's share of the load.
fn share(arguments: &RunArguments, thread: usize, threads: usize) -> Share {
    let of = |whole: u32| {
        let whole = usize::try_from(whole).unwrap_or(0);
        whole / threads + usize::from(thread < whole % threads)
    };
    let (thread_number, threads_number) = (thread as u64, threads as u64);
    let requests = arguments.requests;
    Share {
        thread,
        connections: of(arguments.connections),
        idle_connections: of(arguments.idle_connections),
        samples: of(arguments.samples),
        max_requests: requests / threads_number
            + u64::from(thread_number < requests % threads_number),
    }
}

/// Combined measurements of all threads.
struct Measured {
    stats: Stats,
    samples: Vec<Sample>,
    intervals: BTreeMap<u64, Tally>,
    own_cpu: Duration,
    server_cpu: Duration,
    resident_before: u64,
    resident_after: u64,
    seconds: f64,
}

struct Run<'a> {
    arguments: &'a RunArguments,
    plan: &'a Plan,
    inbox: Receiver<Report>,
}

impl Run<'_> {
    fn measure(
        &self,
        starts: &[mpsc::Sender<Instant>],
        log: Option<FailureLog>,
    ) -> Result<Measured, String> {
        let resident = || self.arguments.pids.iter().filter_map(|pid| resident_kib(*pid)).sum();
        let resident_before = resident();
        for _ in starts {
            match self.inbox.recv() {
                Ok(Report::Opened(opened)) => opened?,
                _ => return Err("a thread ended early".into()),
            }
        }
        let start = Instant::now() + START_DELAY;
        for thread in starts {
            thread.send(start).map_err(|_| "a thread ended early")?;
        }
        let phases = &self.plan.phases;
        let warm_up = phases.iter().filter(|phase| !phase.is_measured);
        let measured_from = start + warm_up.map(|phase| phase.duration).sum::<Duration>();
        let measured_to = start + phases.iter().map(|phase| phase.duration).sum::<Duration>();

        let mut collected = Collected::new(phases.len(), starts.len(), log);
        let mut progress = Progress::new(self.arguments.quiet);
        self.collect_until(measured_from, &mut collected, &mut progress);
        if self.arguments.announce {
            println!("{ANNOUNCEMENT}");
        }
        let (before, own_before, from) = (self.server_cpu(), own_cpu_time(), Instant::now());
        self.collect_until(measured_to, &mut collected, &mut progress);
        let (after, own_after, to) = (self.server_cpu(), own_cpu_time(), Instant::now());
        let resident_after = resident();
        // Requests end at their timeout at the latest, and so do the threads.
        let last = Instant::now() + self.plan.timeout + Duration::from_secs(5);
        self.collect_until(last, &mut collected, &mut progress);
        progress.end();
        if let Some(error) = collected.log_error {
            return Err(format!("the log of failures: {error}"));
        }
        if collected.finished < starts.len() {
            return Err("a thread did not end".into());
        }
        // Shorter than planned if the maximum number of requests ended the run.
        let seconds = to.saturating_duration_since(from).as_secs_f64();
        Ok(Measured {
            stats: collected.stats,
            samples: collected.samples,
            intervals: collected.intervals,
            own_cpu: own_after.saturating_sub(own_before),
            server_cpu: after.saturating_sub(before),
            resident_before,
            resident_after,
            seconds,
        })
    }

    fn server_cpu(&self) -> Duration {
        self.arguments.pids.iter().filter_map(|pid| cpu_time(*pid)).sum()
    }

    /// Receives reports until `end`, or until all threads have finished.
    fn collect_until(&self, end: Instant, collected: &mut Collected, progress: &mut Progress) {
        while collected.finished < collected.threads {
            let wait = end.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(wait) {
                Ok(Report::Interval(thread, interval)) => {
                    progress.add(&interval, thread, collected.threads);
                    collected.add_interval(&interval);
                }
                Ok(Report::Finished(stats, mut samples)) => {
                    collected.stats.add(&stats);
                    collected.samples.append(&mut samples);
                    collected.finished += 1;
                }
                Ok(Report::Failed(failed)) => {
                    if let Some(Err(error)) = collected.log.as_mut().map(|log| log.write(&failed)) {
                        collected.log_error = Some(error);
                    }
                }
                Ok(Report::Opened(_)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

struct Collected {
    threads: usize,
    finished: usize,
    stats: Stats,
    samples: Vec<Sample>,
    intervals: BTreeMap<u64, Tally>,
    log: Option<FailureLog>,
    log_error: Option<String>,
}

impl Collected {
    fn new(phases: usize, threads: usize, log: Option<FailureLog>) -> Self {
        Self {
            threads,
            finished: 0,
            stats: Stats::new(phases),
            samples: Vec::new(),
            intervals: BTreeMap::new(),
            log,
            log_error: None,
        }
    }

    fn add_interval(&mut self, interval: &Interval) {
        self.intervals
            .entry(interval.index)
            .and_modify(|tally| tally.add(&interval.tally))
            .or_insert_with(|| interval.tally.clone());
    }
}

/// The progress line on the terminal, rewritten each second.
struct Progress {
    is_shown: bool,
    since: Instant,
    tally: Tally,
    failed_in_all: u64,
}

impl Progress {
    fn new(is_quiet: bool) -> Self {
        let is_shown = !is_quiet && std::io::stderr().is_terminal();
        Self { is_shown, since: Instant::now(), tally: Tally::new(2), failed_in_all: 0 }
    }

    fn add(&mut self, interval: &Interval, thread: usize, threads: usize) {
        if !self.is_shown {
            return;
        }
        self.tally.add(&interval.tally);
        self.failed_in_all += interval.tally.failed;
        // When the last thread's interval arrives, nearly all others have arrived.
        if thread + 1 < threads || self.since.elapsed() < PROGRESS {
            return;
        }
        let tally = std::mem::replace(&mut self.tally, Tally::new(2));
        let rate = ratio_of(tally.latency.len(), self.since.elapsed());
        self.since = Instant::now();
        eprint!(
            "\r\x1b[K{rate:>9.0}/s  p50 {:>8.2} ms  p99 {:>8.2} ms  {} failed",
            millis(tally.latency.value_at_quantile(0.5)),
            millis(tally.latency.value_at_quantile(0.99)),
            self.failed_in_all
        );
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn ratio_of(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

fn results(
    arguments: &RunArguments,
    plan: &Plan,
    measured: &Measured,
    (verified_encrypts, wrong_encrypts): (usize, Vec<String>),
) -> Results {
    let Measured { stats, seconds, .. } = measured;
    let mut total = Tally::new(3);
    for phase in &stats.phases {
        total.add(phase);
    }
    let measured_phases = plan.phases.iter().zip(&stats.answered);
    let answered = measured_phases.filter(|(phase, _)| phase.is_measured).map(|(_, n)| n).sum();
    let total_summary = summary(&total, answered, *seconds);
    let requests = total_summary.requests;
    let operations = Operation::ALL.iter().zip(&stats.operations);
    let is_closed = plan.phases.iter().any(|phase| phase.pace == Pace::Closed);
    let server_seconds = measured.server_cpu.as_secs_f64();
    let own_seconds = measured.own_cpu.as_secs_f64();
    Results {
        name: arguments.name.clone(),
        address: plan.target.address.to_string(),
        is_tls: plan.target.tls.is_some(),
        mix: plan.mix.iter().map(|(op, weight)| (op.name().to_owned(), *weight)).collect(),
        pace: match (is_closed, plan.is_poisson) {
            (true, _) => "closed",
            (false, false) => "constant",
            (false, true) => "poisson",
        }
        .to_owned(),
        connections: arguments.connections,
        idle_connections: arguments.idle_connections,
        threads: arguments.threads,
        is_checked: plan.is_checked,
        seconds: *seconds,
        operations: operations
            .map(|(operation, tally)| {
                (operation.name().to_owned(), summary(tally, tally.latency.len(), *seconds))
            })
            .filter(|(_, summary)| summary.requests > 0)
            .collect(),
        phases: phase_summaries(plan, measured),
        failures: failures(stats),
        percentiles: percentiles(&total.latency),
        over_time: over_time(plan, &measured.intervals),
        by_metadata: stats.by_metadata.clone(),
        not_decrypted: stats.not_decrypted,
        connection_counts: stats.connections,
        ciphertexts: plan.ciphertexts.len(),
        verified_encrypts,
        wrong_encrypts,
        generator: Generator {
            cpu_seconds: own_seconds,
            cpu_micros_per_request: ratio(own_seconds * 1e6, requests),
            cores: own_seconds / seconds.max(1e-9),
            lateness_ms: latency(&stats.lateness),
            wait_ms: latency(&stats.wait),
        },
        server: (!arguments.pids.is_empty()).then(|| Server {
            pids: arguments.pids.clone(),
            cpu_seconds: server_seconds,
            cpu_micros_per_request: ratio(server_seconds * 1e6, requests),
            cores: server_seconds / seconds.max(1e-9),
            resident_kib_before: measured.resident_before,
            resident_kib_after: measured.resident_after,
        }),
        last_error: stats.last_error.clone(),
        total: total_summary,
    }
}

fn phase_summaries(plan: &Plan, measured: &Measured) -> Vec<PhaseSummary> {
    let stats = &measured.stats;
    let tallies = stats.phases.iter().zip(&stats.answered).zip(&stats.phase_failures);
    let phases = plan.phases.iter().zip(tallies);
    phases
        .filter(|(phase, _)| phase.is_measured)
        .map(|(phase, ((tally, answered), failures))| {
            let seconds = phase.duration.as_secs_f64().min(measured.seconds);
            PhaseSummary {
                rate: match phase.pace {
                    Pace::Closed => None,
                    Pace::Open(rate) => Some(rate),
                },
                seconds,
                summary: summary(tally, *answered, seconds),
                failed_latency_ms: latency(failures),
            }
        })
        .collect()
}

fn failures(stats: &Stats) -> Vec<Failure> {
    let mut failures: Vec<Failure> = stats
        .outcomes
        .iter()
        .map(|outcome| Failure {
            status: outcome.status,
            name: outcome.name.clone(),
            count: outcome.latency.len(),
            latency_ms: latency(&outcome.latency),
        })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

fn over_time(plan: &Plan, intervals: &BTreeMap<u64, Tally>) -> Vec<Point> {
    let warm_up: Duration =
        plan.phases.iter().filter(|phase| !phase.is_measured).map(|phase| phase.duration).sum();
    intervals
        .iter()
        .map(|(index, tally)| Point {
            seconds: (millis(index * nanos(plan.interval)) - millis(nanos(warm_up))) / 1e3,
            ok: tally.latency.len(),
            ok_in_250_ms: tally.in_time,
            failed: tally.failed,
            refused: tally.refused,
            p50_ms: millis(tally.latency.value_at_quantile(0.5)),
            p99_ms: millis(tally.latency.value_at_quantile(0.99)),
            max_ms: millis(tally.latency.max()),
        })
        .collect()
}
