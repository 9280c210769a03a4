//! Latency of calls, one at a time and concurrently.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answers::{self, expect_success};
use super::calls::{AAD, of_key};
use super::no_answer::NoAnswer;
use super::prober::Target;
use super::report::{Outcome, Report, Rule};
use crate::client::Client;
use crate::client::bodies::Sealed;
use crate::limits::{KMS_TIMEOUT_MILLI, PROBE_FRESH_CONNECTIONS};

const FRESH: Rule = Rule::must(
    "latency.new-connection",
    "GetKeyMetadata, KMS considerations",
    "KMS's 250 ms must be enough for a TCP connection, a TLS handshake and a call.",
);
const SEQUENTIAL: Rule = Rule::must(
    "latency.one-at-a-time",
    "Encrypt, KMS considerations",
    "KMS abandons a call after 250 ms; 99 in 100 take less, with no other load.",
);
const CONCURRENT: Rule = Rule::must(
    "latency.concurrent",
    "Encrypt, KMS considerations",
    "KMS abandons a call after 250 ms; 99 in 100 take less, with several connections in use.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[&FRESH, &SEQUENTIAL, &CONCURRENT];

/// Timeout of KMS.
pub const KMS_TIMEOUT: Duration = Duration::from_millis(KMS_TIMEOUT_MILLI);

/// Durations of a series of calls.
#[derive(Debug, Default)]
pub struct Measured {
    /// Durations in ascending order.
    pub times: Vec<Duration>,
    /// Number of calls that failed.
    pub errors: u32,
    /// The first error, if any call failed.
    pub first_error: Option<String>,
}

impl Measured {
    fn add(&mut self, result: Result<Duration, String>) {
        match result {
            Ok(time) => self.times.push(time),
            Err(why) => {
                self.errors += 1;
                self.first_error.get_or_insert(why);
            }
        }
    }

    /// Returns the percentile (nearest rank).
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied().unwrap_or_default()
    }

    fn max(&self) -> Duration {
        self.percentile(100)
    }

    /// Returns the members of the JSON report, in milliseconds.
    fn to_json(&self) -> Value {
        json!({
            "calls": self.times.len(),
            "errors": self.errors,
            "p50_milli": milli(self.percentile(50)),
            "p90_milli": milli(self.percentile(90)),
            "p99_milli": milli(self.percentile(99)),
            "max_milli": milli(self.max()),
        })
    }

    fn judge(&self, percent: usize) -> Outcome {
        if let Some(why) = &self.first_error {
            let all = self.times.len() + self.errors as usize;
            return Outcome::Broken(format!("{} of {all} calls failed: {why}", self.errors));
        }
        let came = format!(
            "p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms, of {} calls",
            milli(self.percentile(50)),
            milli(self.percentile(99)),
            milli(self.max()),
            self.times.len()
        );
        if self.percentile(percent) > KMS_TIMEOUT {
            Outcome::Broken(came)
        } else if self.max() > KMS_TIMEOUT {
            Outcome::Doubtful(came)
        } else {
            Outcome::Held(came)
        }
    }
}

fn milli(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The calls to measure.
pub struct Load<'a> {
    /// Key of the calls.
    pub key_id: &'a str,
    /// Ciphertext made with [`AAD`].
    pub sealed: &'a Sealed,
    /// Its plaintext.
    pub plaintext: &'a [u8],
    /// Callback that receives the number of calls made so far and the total.
    pub progress: &'a (dyn Fn(u32, u32) + Sync),
}

impl Load<'_> {
    /// Alternates Decrypt and Encrypt, and checks each answer.
    fn call(&self, target: &Target<'_>, client: &mut Client, index: u32) -> Result<(), String> {
        let options = target.options;
        let is_decrypt = index.is_multiple_of(2);
        let (call, body) = if is_decrypt {
            ("decrypt", options.caller.decrypt(self.sealed, Some(AAD)))
        } else {
            ("encrypt", options.caller.encrypt(self.plaintext, Some(AAD), true))
        };
        let path = of_key(self.key_id, call);
        let reply =
            client.call(Some(&options.signer), &path, &body.to_string()).map_err(NoAnswer::from);
        let found = expect_success(&reply, |object| {
            if is_decrypt {
                return answers::opened(object, self.plaintext);
            }
            let sealed = answers::sealed(object, self.plaintext.len())?;
            answers::cdiv(object, &sealed, AAD)
        });
        found.map_err(|outcome| match outcome {
            Outcome::Held(why)
            | Outcome::Broken(why)
            | Outcome::Doubtful(why)
            | Outcome::Untried(why) => why,
        })
    }
}

/// A separate connection, reopened when it ends.
struct Line(Option<Client>);

impl Line {
    /// Makes a call, timed from `started`.
    fn call(
        &mut self,
        target: &Target<'_>,
        load: &Load<'_>,
        index: u32,
        started: Instant,
    ) -> Result<Duration, String> {
        let mut client = match self.0.take() {
            Some(client) => client,
            None => target.connect().map_err(|error| format!("no connection: {error}"))?,
        };
        load.call(target, &mut client, index)?;
        let time = started.elapsed();
        self.0 = (!client.is_over()).then_some(client);
        Ok(time)
    }
}

/// Makes the first of the measurements.
pub fn of_new_connections(target: &Target<'_>, load: &Load<'_>, report: &mut Report) -> Measured {
    let mut measured = fresh(target, load);
    measured.times.sort_unstable();
    report.add(&FRESH, None, measured.judge(50));
    measured
}

/// Makes the measurements; the second and third only if the count of calls is not 0.
pub fn examine(
    target: &Target<'_>,
    load: &Load<'_>,
    report: &mut Report,
) -> Vec<(&'static str, Measured)> {
    let count = target.options.count;
    let mut parts = vec![("new connections", &FRESH, 50, fresh(target, load))];
    if count > 0 {
        parts.push(("one at a time", &SEQUENTIAL, 99, sequential(target, load)));
        parts.push(("concurrent", &CONCURRENT, 99, concurrent(target, load)));
    }
    let mut facts = json!({});
    let mut all = Vec::new();
    for (name, rule, percent, mut measured) in parts {
        measured.times.sort_unstable();
        report.add(rule, None, measured.judge(percent));
        facts[name.replace(' ', "_")] = measured.to_json();
        all.push((name, measured));
    }
    report.tell("latency", facts);
    all
}

fn fresh(target: &Target<'_>, load: &Load<'_>) -> Measured {
    let mut measured = Measured::default();
    for index in 0..PROBE_FRESH_CONNECTIONS {
        measured.add(Line(None).call(target, load, index, Instant::now()));
    }
    measured
}

fn sequential(target: &Target<'_>, load: &Load<'_>) -> Measured {
    let mut measured = Measured::default();
    let mut line = Line(target.connect().ok());
    let count = target.options.count;
    for index in 0..count {
        measured.add(line.call(target, load, index, Instant::now()));
        (load.progress)(index + 1, 2 * count);
    }
    measured
}

/// Makes calls at an even rate, regardless of whether earlier ones have been answered: the time
/// spent waiting for a free connection counts.
fn concurrent(target: &Target<'_>, load: &Load<'_>) -> Measured {
    let (count, rate) = (target.options.count, target.options.rate);
    let measured = Mutex::new(Measured::default());
    let next = AtomicU32::new(0);
    let done = AtomicU32::new(0);
    // Opening the connections is not timed.
    let lines: Vec<Line> =
        (0..target.options.connections).map(|_| Line(target.connect().ok())).collect();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for mut line in lines {
            let (measured, next, done) = (&measured, &next, &done);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let due = begin + Duration::from_secs(1) * index / rate;
                    let early = due.saturating_duration_since(Instant::now());
                    std::thread::sleep(early);
                    let started = if early.is_zero() { due } else { Instant::now() };
                    let result = line.call(target, load, index, started);
                    if let Ok(mut measured) = measured.lock() {
                        measured.add(result);
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    (load.progress)(count + done, 2 * count);
                }
            });
        }
    });
    measured.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(milli: impl IntoIterator<Item = u64>) -> Measured {
        let times = milli.into_iter().map(Duration::from_millis).collect();
        Measured { times, ..Measured::default() }
    }

    /// The nearest rank, and calls too late for KMS.
    #[test]
    fn percentiles() {
        let measured = of(1..=100);
        assert_eq!(measured.percentile(50), Duration::from_millis(50));
        assert_eq!(measured.percentile(99), Duration::from_millis(99));
        assert_eq!(measured.percentile(100), Duration::from_millis(100));
        assert_eq!(of([]).percentile(99), Duration::ZERO);
        assert!(matches!(measured.judge(99), Outcome::Held(_)));
        let one_late = of((1..=199).chain([251]));
        assert!(matches!(one_late.judge(99), Outcome::Doubtful(_)));
        assert!(matches!(of((1..=99).chain([251])).judge(99), Outcome::Doubtful(_)));
        assert!(matches!(of([1, 251]).judge(99), Outcome::Broken(_)));
        let mut failed = of([1]);
        failed.add(Err("429".to_owned()));
        assert!(matches!(failed.judge(99), Outcome::Broken(_)));
    }
}
