//! Figures of one thread, and their combination across threads.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::pool::MAX_KINDS;
use crate::request::Operation;
use crate::schedule::{Nanos, nanos};

/// KMS's timeout (XKS specification).
pub const KMS_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of distinct error names; the rest are counted together.
const MAX_OUTCOMES: usize = 64;
/// Lowest and highest latency that can be distinguished: a tenth of a microsecond and 60 s.
const LOWEST: u64 = 100;
const HIGHEST: u64 = 60_000_000_000;

/// A histogram of latencies in nanoseconds, to `digits` significant digits.
#[must_use]
pub fn histogram(digits: u8) -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "constants that hdrhistogram takes")]
    Histogram::new_with_bounds(LOWEST, HIGHEST, digits).expect("valid bounds")
}

/// Requests with the same outcome.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// `errorName`, or a description of what happened.
    pub name: String,
    /// Nanoseconds from the intended send time.
    pub latency: Histogram<u64>,
}

/// Requests of one kind or of one phase.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latency of correct answers in nanoseconds from the intended send time.
    pub latency: Histogram<u64>,
    /// Correct answers within KMS's time limit.
    pub in_time: u64,
    /// Failed requests.
    pub failed: u64,
    /// Failed requests that the server answered.
    pub refused: u64,
}

impl Tally {
    /// Makes an empty tally, with latency to `digits` significant digits.
    #[must_use]
    pub fn new(digits: u8) -> Self {
        Self { latency: histogram(digits), in_time: 0, failed: 0, refused: 0 }
    }

    fn record(&mut self, latency: Nanos, failure: Option<(u16, &str)>) {
        if let Some((status, _)) = failure {
            self.failed += 1;
            self.refused += u64::from(status != 0);
        } else {
            self.latency.saturating_record(latency);
            self.in_time += u64::from(latency <= nanos(KMS_TIMEOUT));
        }
    }

    /// Adds another tally's figures.
    pub fn add(&mut self, other: &Self) {
        // Both have the bounds set by `histogram`, so nothing can be out of range.
        let _ = self.latency.add(&other.latency);
        self.in_time += other.in_time;
        self.failed += other.failed;
        self.refused += other.refused;
    }
}

/// One thread's requests in one interval of the run, by the time at which they ended.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Number of the interval, counted from the run's start.
    pub index: u64,
    /// Requests that ended in it.
    pub tally: Tally,
}

/// Fates of connections.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Connections {
    /// Opened, for the first time or again.
    pub opened: u64,
    /// Could not be opened.
    pub failed_to_open: u64,
    /// Closed by the server after an answer or while idle.
    pub closed_by_server: u64,
    /// Closed by the generator after an answer, as requested.
    #[serde(default)]
    pub renewed: u64,
    /// Lost while a request was under way.
    pub lost: u64,
    /// Closed by the generator because a request timed out or its answer was malformed.
    pub given_up: u64,
    /// Connections without load that the server closed.
    pub idle_closed: u64,
}

impl Connections {
    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed_to_open += other.failed_to_open;
        self.closed_by_server += other.closed_by_server;
        self.renewed += other.renewed;
        self.lost += other.lost;
        self.given_up += other.given_up;
        self.idle_closed += other.idle_closed;
    }
}

/// Correct answers to encrypts and decrypts with the same `ciphertextMetadata`.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct RoundTrips {
    /// Encrypts that gave it.
    pub encrypts: u64,
    /// Decrypts that it was given to.
    pub decrypts: u64,
}

/// Figures of one thread. All but those of connections cover the measured phases only.
pub struct Stats {
    /// Tallies in the order of [`Operation::ALL`].
    pub operations: Vec<Tally>,
    /// Tallies in the order of the phases, by the time at which requests were due.
    pub phases: Vec<Tally>,
    /// Latency of each phase's failed requests in nanoseconds.
    pub phase_failures: Vec<Histogram<u64>>,
    /// Correct answers that arrived during each phase, whenever they were due. Answers that a proxy
    /// sends after the end of an overload do not count as throughput.
    pub answered: Vec<u64>,
    /// All outcomes other than correct answers.
    pub outcomes: Vec<Outcome>,
    /// Open loop: time from when a request was due to when the generator noticed, its own delay.
    pub lateness: Histogram<u64>,
    /// Open loop: time from when a request was due to when a connection was free.
    pub wait: Histogram<u64>,
    /// Fates of the thread's connections.
    pub connections: Connections,
    /// Round trips by `ciphertextMetadata` in base64.
    pub by_metadata: BTreeMap<String, RoundTrips>,
    /// Ciphertexts of the run that it did not decrypt.
    pub not_decrypted: u64,
    /// The latest error of a connection.
    pub last_error: Option<String>,
    /// The current interval.
    pub interval: Interval,
}

impl Stats {
    /// Makes empty figures.
    #[must_use]
    pub fn new(phases: usize) -> Self {
        Self {
            operations: Operation::ALL.iter().map(|_| Tally::new(3)).collect(),
            phases: (0..phases).map(|_| Tally::new(3)).collect(),
            phase_failures: (0..phases).map(|_| histogram(3)).collect(),
            answered: vec![0; phases],
            outcomes: Vec::new(),
            lateness: histogram(3),
            wait: histogram(3),
            connections: Connections::default(),
            by_metadata: BTreeMap::new(),
            not_decrypted: 0,
            last_error: None,
            interval: Interval { index: 0, tally: Tally::new(2) },
        }
    }

    /// Records the end of a request: `failure` is a status and a name, or `None` for a correct
    /// answer.
    pub fn record(
        &mut self,
        operation: Operation,
        phase: Option<usize>,
        latency: Nanos,
        failure: Option<(u16, &str)>,
    ) {
        self.interval.tally.record(latency, failure);
        let Some(phase) = phase else { return };
        self.operations[operation as usize].record(latency, failure);
        self.phases[phase].record(latency, failure);
        if let Some((status, name)) = failure {
            self.phase_failures[phase].saturating_record(latency);
            self.outcome(status, name).saturating_record(latency);
        }
    }

    /// Records a correct answer to an encrypt or decrypt with this metadata in base64.
    pub fn record_metadata(&mut self, operation: Operation, metadata: &[u8]) {
        if !operation.is_encrypt() && operation != Operation::Decrypt {
            return;
        }
        let metadata = String::from_utf8_lossy(metadata);
        // The server chooses the metadata, so its number is limited.
        let is_full = self.by_metadata.len() >= MAX_KINDS;
        let name = match self.by_metadata.contains_key(&*metadata) {
            false if is_full => "other".to_owned(),
            _ => metadata.into_owned(),
        };
        let counts = self.by_metadata.entry(name).or_default();
        counts.encrypts += u64::from(operation.is_encrypt());
        counts.decrypts += u64::from(operation == Operation::Decrypt);
    }

    fn outcome(&mut self, status: u16, name: &str) -> &mut Histogram<u64> {
        let find = |outcomes: &[Outcome], status: u16, name: &str| {
            outcomes.iter().position(|o| o.status == status && o.name == name)
        };
        let place = find(&self.outcomes, status, name).or_else(|| {
            // The server chooses the names, so their number is limited.
            let is_full = self.outcomes.len() >= MAX_OUTCOMES;
            let (status, name) = if is_full { (0, "other") } else { (status, name) };
            find(&self.outcomes, status, name).or_else(|| {
                let latency = histogram(3);
                self.outcomes.push(Outcome { status, name: name.to_owned(), latency });
                Some(self.outcomes.len() - 1)
            })
        });
        &mut self.outcomes[place.unwrap_or(0)].latency
    }

    /// Ends the current interval and begins the one with this index.
    pub fn next_interval(&mut self, index: u64) -> Interval {
        let next = Interval { index, tally: Tally::new(2) };
        std::mem::replace(&mut self.interval, next)
    }

    /// Adds another thread's figures.
    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.operations.iter_mut().zip(&other.operations) {
            ours.add(theirs);
        }
        for (ours, theirs) in self.phases.iter_mut().zip(&other.phases) {
            ours.add(theirs);
        }
        for (ours, theirs) in self.phase_failures.iter_mut().zip(&other.phase_failures) {
            let _ = ours.add(theirs);
        }
        for (ours, theirs) in self.answered.iter_mut().zip(&other.answered) {
            *ours += theirs;
        }
        for outcome in &other.outcomes {
            let _ = self.outcome(outcome.status, &outcome.name).add(&outcome.latency);
        }
        let _ = self.lateness.add(&other.lateness);
        let _ = self.wait.add(&other.wait);
        self.connections.add(&other.connections);
        for (metadata, theirs) in &other.by_metadata {
            let ours = self.by_metadata.entry(metadata.clone()).or_default();
            ours.encrypts += theirs.encrypts;
            ours.decrypts += theirs.decrypts;
        }
        self.not_decrypted += other.not_decrypted;
        self.last_error = self.last_error.take().or_else(|| other.last_error.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that invents names must not make the generator use more and more memory.
    #[test]
    fn outcomes_are_bounded() {
        let mut stats = Stats::new(1);
        for number in 0..1000 {
            stats.record(Operation::Encrypt, Some(0), 1, Some((500, &number.to_string())));
        }
        assert_eq!(stats.outcomes.len(), MAX_OUTCOMES + 1);
        let total: u64 = stats.outcomes.iter().map(|outcome| outcome.latency.len()).sum();
        assert_eq!(total, 1000);
    }

    /// Answers after KMS's time limit are counted separately, and so are refusals among what failed; a
    /// warm-up is not counted at all.
    #[test]
    fn in_time_is_250_milliseconds() {
        let mut stats = Stats::new(1);
        for millis in [249, 250, 251] {
            stats.record(Operation::Decrypt, Some(0), millis * 1_000_000, None);
        }
        stats.record(Operation::Decrypt, Some(0), 1, Some((429, "ThrottlingException")));
        stats.record(Operation::Decrypt, Some(0), 1, Some((0, "timeout")));
        stats.record(Operation::Decrypt, None, 1, None);
        let tally = &stats.operations[Operation::Decrypt as usize];
        assert_eq!((tally.latency.len(), tally.in_time), (3, 2));
        assert_eq!((tally.failed, tally.refused), (2, 1));
        assert_eq!(stats.phases[0].in_time, 2);
    }
}
