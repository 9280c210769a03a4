//! Sessions and replicas to set, from a ramp.

use std::fmt::Write as _;

use serde::Serialize;

use crate::ramp::{Ramp, Step};

/// Sessions beyond those that are busy on average: half as many again.
const SESSION_HEADROOM: f64 = 1.5;
/// Share of the highest rate within the limits that a replica is planned for.
const PLANNED_LOAD: f64 = 0.8;
/// Share of busy sessions from which the sessions are the limit.
const ALL_BUSY: f64 = 0.85;
/// Factor by which the HSM's latency must have risen for the HSM to be the limit.
const HSM_SLOWER: f64 = 1.5;
/// Share of the limit of latency that the generator's own delay may have.
const MAX_LATE: f64 = 0.25;

/// The cause that keeps the rate from rising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The ramp ended within the limits.
    Ramp,
    /// The proxy ended, or can no longer be called.
    Broken,
    /// No request was answered correctly.
    Errors,
    /// The generator cannot send faster.
    Generator,
    /// The HSM takes longer, the more it has to do.
    Hsm,
    /// All sessions are at work, and the HSM is as fast as before.
    Sessions,
    /// The proxy, the network, or the HSM: without the proxy's metrics, nobody knows.
    Other,
}

/// A recommendation.
#[derive(Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// Highest rate within the limits, if there is one.
    pub max_rate: Option<f64>,
    /// The cause for which the next rate exceeded the limits.
    pub bound: Bound,
    /// `session_pool_max_size` for the rate of each replica, if the time in the HSM is known.
    pub sessions: Option<f64>,
    /// Replicas for the wanted rate with one down, each with an HSM like this one.
    pub replicas: Option<f64>,
    /// Requests per second that each replica handles then.
    pub rate_of_each: Option<f64>,
}

impl Recommendation {
    /// Derives a recommendation from a ramp.
    #[must_use]
    pub fn of(ramp: &Ramp) -> Self {
        let wanted = ramp.limits.wanted_rate;
        let best = best(ramp);
        let max_rate = best.map(|step| step.rate);
        let others = max_rate.map(|max| (wanted / (max * PLANNED_LOAD)).ceil().max(1.0));
        let rate_of_each = others.map(|others| wanted / others);
        // A local token's time is the CPU's: the first step's may be that of a cold cache.
        let milli = best.and_then(|step| step.hsm_ms);
        let sessions = milli
            .zip(rate_of_each)
            .map(|(milli, rate)| (rate * milli / 1e3 * SESSION_HEADROOM).ceil().max(1.0));
        Self {
            max_rate,
            bound: bound(ramp),
            sessions,
            replicas: others.map(|others| others + 1.0),
            rate_of_each,
        }
    }

    /// The ramp's table and the recommendation as text for people.
    #[must_use]
    pub fn text(&self, ramp: &Ramp) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(ramp, &mut text);
        text
    }

    fn write(&self, ramp: &Ramp, out: &mut String) -> std::fmt::Result {
        write_table(ramp, out)?;
        let limits = &ramp.limits;
        let within = format!("p99 <= {} ms, {} % failed", limits.p99_ms, limits.failed_percent);
        let Some(max) = self.max_rate else {
            writeln!(out, "\nno rate keeps within the limits ({within}){}", self.advice())?;
            writeln!(out, "limited by: {}", self.reason())?;
            return write_break(ramp, out);
        };
        writeln!(out, "\nhighest rate within the limits ({within}): {max:.0}/s")?;
        writeln!(out, "limited by: {}", self.reason())?;
        write_break(ramp, out)?;
        let wanted = limits.wanted_rate;
        let (replicas, each) = (self.replicas.unwrap_or(0.0), self.rate_of_each.unwrap_or(0.0));
        match self.sessions {
            Some(sessions) => writeln!(
                out,
                "session_pool_max_size: {sessions:.0} for {each:.0}/s a replica (rate x time in the \
                 HSM, and half as many again)"
            )?,
            None => writeln!(
                out,
                "session_pool_max_size: unknown without the proxy's metrics: see --metrics"
            )?,
        }
        writeln!(
            out,
            "replicas for {wanted:.0}/s with one down: {replicas:.0}, if each has an HSM like this \
             one, at {:.0} % of its highest rate",
            PLANNED_LOAD * 100.0
        )?;
        write!(out, "replicas that share this HSM: ")?;
        match self.bound {
            _ if max * PLANNED_LOAD >= wanted => writeln!(out, "2; it does {max:.0}/s in all"),
            Bound::Hsm => writeln!(
                out,
                "they do not reach {wanted:.0}/s, however many: it does {max:.0}/s in all"
            ),
            _ => writeln!(out, "unknown, since it was not the HSM that limited"),
        }
    }

    fn advice(&self) -> &'static str {
        match self.bound {
            Bound::Broken | Bound::Errors => "",
            _ => ": begin lower",
        }
    }

    fn reason(&self) -> &'static str {
        match self.bound {
            Bound::Broken => "the end of the proxy: see its log",
            Bound::Errors => {
                "errors, as no request was answered correctly: see whether the proxy runs, and with \
                 `xks-proxy probe` whether path, key and credential are right"
            }
            Bound::Ramp => "the end of the ramp: go on with a higher one",
            Bound::Generator => {
                "the generator itself, which was late: use --threads or another machine"
            }
            Bound::Hsm => {
                "the HSM, which takes longer the more it has to do: more sessions do not help"
            }
            Bound::Sessions => {
                "the sessions, all of which are at work: raise session_pool_max_size, and measure again"
            }
            Bound::Other => "neither sessions nor HSM, as far as is known: look at the proxy's CPU",
        }
    }
}

/// The step of the highest rate within the limits.
fn best(ramp: &Ramp) -> Option<&Step> {
    ramp.steps.iter().rev().find(|step| step.is_within(&ramp.limits))
}

fn bound(ramp: &Ramp) -> Bound {
    let Some((first, last)) = ramp.steps.first().zip(ramp.steps.last()) else {
        return Bound::Other;
    };
    if !ramp.is_exceeded {
        return Bound::Ramp;
    }
    if ramp.broke_off.is_some() {
        return Bound::Broken;
    }
    if last.answered <= 0.0 {
        return Bound::Errors;
    }
    if last.late_p99_ms > ramp.limits.p99_ms * MAX_LATE {
        return Bound::Generator;
    }
    let is_slower = first
        .hsm_ms
        .zip(last.hsm_ms)
        .is_some_and(|(at_first, at_last)| at_last > at_first * HSM_SLOWER && ramp.steps.len() > 1);
    let are_busy = last.busy().zip(last.sessions).is_some_and(|(busy, all)| busy > all * ALL_BUSY);
    match (is_slower, are_busy) {
        (true, _) => Bound::Hsm,
        (false, true) => Bound::Sessions,
        (false, false) => Bound::Other,
    }
}

fn write_break(ramp: &Ramp, out: &mut String) -> std::fmt::Result {
    match &ramp.broke_off {
        Some(why) => writeln!(out, "the ramp broke off: {why}"),
        None => Ok(()),
    }
}

fn write_table(ramp: &Ramp, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>14}",
        "offered/s",
        "answered/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "failed",
        "HSM ms",
        "queue ms",
        "busy sessions"
    )?;
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for step in &ramp.steps {
        let busy = step.busy().zip(step.sessions);
        writeln!(
            out,
            "{:>9.0} {:>10.0} {:>8.2} {:>8.2} {:>8.2} {:>7.2}% {:>8} {:>8} {:>14}{}",
            step.rate,
            step.answered,
            step.p50_ms,
            step.p99_ms,
            step.max_ms,
            step.failed_percent,
            optional(step.hsm_ms),
            optional(step.queue_ms),
            busy.map_or("-".to_owned(), |(busy, all)| format!("{busy:.1} of {all:.0}")),
            match (step.is_within(&ramp.limits), step.is_rising) {
                (true, _) => "",
                (false, true) => "  cannot keep up",
                (false, false) => "  exceeds",
            }
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ramp::Limits;

    fn step(rate: f64, p99_ms: f64, hsm_ms: f64) -> Step {
        Step {
            rate,
            answered: rate,
            p50_ms: p99_ms / 2.0,
            p99_ms,
            max_ms: p99_ms,
            failed_percent: 0.0,
            hsm_ms: Some(hsm_ms),
            queue_ms: Some(0.1),
            sessions: Some(16.0),
            late_p99_ms: 0.1,
            is_rising: false,
            has_wrong_answers: false,
        }
    }

    fn ramp(steps: Vec<Step>) -> Ramp {
        let limits = Limits { p99_ms: 100.0, failed_percent: 0.1, wanted_rate: 1800.0 };
        let is_exceeded = !steps.last().unwrap().is_within(&limits);
        Ramp { limits, steps, is_exceeded, broke_off: None }
    }

    /// An HSM of 10 ms with 16 sessions.
    #[test]
    fn sessions_are_the_limit() {
        let ramp = ramp(vec![
            step(500.0, 12.0, 10.0),
            step(1000.0, 13.0, 10.0),
            step(1500.0, 20.0, 10.0),
            step(2000.0, 240.0, 10.0),
        ]);
        let found = Recommendation::of(&ramp);
        // 1500 x 0.8 = 1200; two carry 1800, and a third may be down. 900 x 10 ms x 1.5 = 13.5.
        let expected = Recommendation {
            max_rate: Some(1500.0),
            bound: Bound::Sessions,
            sessions: Some(14.0),
            replicas: Some(3.0),
            rate_of_each: Some(900.0),
        };
        assert_eq!(found, expected);
        let text = found.text(&ramp);
        assert!(text.contains("limits (p99 <= 100 ms, 0.1 % failed): 1500/s"), "{text}");
        assert!(text.contains("session_pool_max_size: 14 for 900/s a replica"), "{text}");
        assert!(text.contains("with one down: 3,") && text.contains("exceeds"), "{text}");
        assert!(text.contains("share this HSM: unknown"), "{text}");
    }

    #[test]
    fn what_limits_is_told_apart() {
        let bound_of = |last: Step| bound(&ramp(vec![step(500.0, 12.0, 10.0), last]));
        assert_eq!(bound_of(step(1000.0, 20.0, 10.0)), Bound::Ramp);
        assert_eq!(bound_of(step(1600.0, 200.0, 25.0)), Bound::Hsm);
        assert_eq!(bound_of(step(1600.0, 200.0, 10.0)), Bound::Sessions);
        assert_eq!(bound_of(step(900.0, 200.0, 10.0)), Bound::Other);
        assert_eq!(
            bound_of(Step { late_p99_ms: 30.0, ..step(1600.0, 200.0, 10.0) }),
            Bound::Generator
        );
        assert_eq!(bound_of(Step { hsm_ms: None, ..step(1600.0, 200.0, 0.0) }), Bound::Other);
        // Failures count as much as latency does.
        let failing = Step { failed_percent: 0.2, ..step(1600.0, 20.0, 10.0) };
        assert_eq!(bound_of(failing), Bound::Sessions);
    }

    #[test]
    fn a_slow_hsm_is_not_enough_for_any_number_of_replicas() {
        let ramp = ramp(vec![step(500.0, 12.0, 10.0), step(1000.0, 240.0, 40.0)]);
        let text = Recommendation::of(&ramp).text(&ramp);
        assert!(text.contains("do not reach 1800/s, however many: it does 500/s"), "{text}");
    }

    /// One HSM is enough: two replicas, of which one may be down, and they may share it.
    #[test]
    fn a_fast_hsm_takes_two_replicas() {
        let ramp = ramp(vec![step(4000.0, 5.0, 2.0), step(8000.0, 300.0, 2.0)]);
        let found = Recommendation::of(&ramp);
        assert_eq!((found.replicas, found.rate_of_each), (Some(2.0), Some(1800.0)));
        assert_eq!(found.sessions, Some(6.0));
        assert!(found.text(&ramp).contains("share this HSM: 2"));
    }

    /// A proxy that answers nothing, or only errors, is not one that is too slow, whatever share of
    /// failures is allowed.
    #[test]
    fn nothing_but_errors() {
        let none = Step { answered: 0.0, failed_percent: 100.0, ..step(500.0, 0.0, 10.0) };
        let mut ramp = ramp(vec![none]);
        ramp.limits.failed_percent = 100.0;
        assert!(!ramp.steps[0].is_within(&ramp.limits));
        let found = Recommendation::of(&ramp);
        assert_eq!((found.max_rate, found.bound), (None, Bound::Errors));
        let text = found.text(&ramp);
        assert!(text.contains("no request was answered correctly") && !text.contains("lower"));
    }

    /// A proxy that ends is not one whose sessions or CPU are the limit; what it did before counts.
    #[test]
    fn a_ramp_that_broke_off() {
        let mut ramp = ramp(vec![step(500.0, 12.0, 10.0)]);
        (ramp.is_exceeded, ramp.broke_off) = (true, Some("connection refused".to_owned()));
        let found = Recommendation::of(&ramp);
        assert_eq!((found.max_rate, found.bound), (Some(500.0), Bound::Broken));
        let text = found.text(&ramp);
        assert!(text.contains("the ramp broke off: connection refused"), "{text}");
    }

    #[test]
    fn a_rate_that_is_too_high_from_the_start() {
        let found = Recommendation::of(&ramp(vec![step(500.0, 400.0, 40.0)]));
        assert_eq!((found.max_rate, found.replicas, found.sessions), (None, None, None));
    }
}
