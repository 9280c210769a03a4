//! Latency added to calls.

use std::cell::Cell;
use std::time::Duration;

use crate::random;

/// A constant latency with a tail of rare values, each with its probability.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    usual: Duration,
    tail: Vec<(f64, Duration)>,
}

impl Latency {
    /// Makes a constant latency.
    pub fn constant(usual: Duration) -> Self {
        Self { usual, tail: Vec::new() }
    }

    /// Reads `2ms, p=0.01:200ms`.
    ///
    /// # Errors
    /// Description of the mistake in the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let usual = parse_duration(parts.next().unwrap_or_default())?;
        let mut tail = Vec::new();
        for part in parts {
            let (probability, duration) = part
                .strip_prefix("p=")
                .and_then(|part| part.split_once(':'))
                .ok_or_else(|| format!("{part:?} is not of the form p=0.01:200ms"))?;
            let probability = parse_probability(probability)?;
            tail.push((probability, parse_duration(duration)?));
        }
        if tail.iter().map(|(probability, _)| probability).sum::<f64>() > 1.0 {
            return Err(format!("the probabilities in {text:?} are more than 1 in all"));
        }
        Ok(Self { usual, tail })
    }

    /// Returns whether the latency has no tail.
    pub fn is_constant(&self) -> bool {
        self.tail.is_empty()
    }

    /// Returns the latency of call number `number`.
    pub fn draw(&self, seed: u64, purpose: u64, number: u64) -> Duration {
        if self.tail.is_empty() {
            return self.usual;
        }
        let mut left = random::draw(seed, purpose, number);
        for (probability, duration) in &self.tail {
            if left < *probability {
                return *duration;
            }
            left -= probability;
        }
        self.usual
    }
}

fn parse_probability(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|probability| (0.0..=1.0).contains(probability))
        .ok_or_else(|| format!("{text:?} is not a probability"))
}

/// Reads `150us`.
///
/// # Errors
/// Description of the mistake in the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return Err(format!("{text:?} is not a time such as 150us, 2ms, 1.5s")),
    };
    number
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds_per_unit).ok())
        .ok_or_else(|| format!("{text:?} is not a time such as 150us, 2ms, 1.5s"))
}

/// Sleeps, accurate to a few microseconds: the kernel's default slack of 50 us is removed for this
/// thread once.
#[expect(unsafe_code, reason = "prctl")]
pub fn sleep(duration: Duration) {
    thread_local! {
        static IS_PRECISE: Cell<bool> = const { Cell::new(false) };
    }
    if duration.is_zero() {
        return;
    }
    if !IS_PRECISE.replace(true) {
        let one_nanosecond: libc::c_ulong = 1;
        // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, one_nanosecond) };
    }
    // clock_nanosleep on the monotonic clock, resumed for the remaining time after a signal.
    std::thread::sleep(duration);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The forms shown in the documentation are accepted.
    #[test]
    fn forms() {
        let constant = |text| Latency::parse(text).unwrap().draw(1, 1, 1);
        assert_eq!(constant("150us"), Duration::from_micros(150));
        assert_eq!(constant(" 2 ms "), Duration::from_millis(2));
        assert_eq!(constant("1.5s"), Duration::from_millis(1500));
        for wrong in ["", "2", "ms", "-1ms", "2 m", "2ms, 0.1:3ms", "2ms, p=2:3ms", "2ms,p=x:3ms"] {
            assert!(Latency::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Latency::parse("1ms, p=0.6:2ms, p=0.6:3ms").is_err());
    }

    /// Each value of a tail occurs as often as specified.
    #[test]
    fn tails() {
        let latency = Latency::parse("1ms, p=0.1:2ms, p=0.01:3ms").unwrap();
        let share = |millis| {
            (0..100_000)
                .filter(|number| latency.draw(9, 0, *number) == Duration::from_millis(millis))
                .count()
        };
        assert!((9_500..10_500).contains(&share(2)));
        assert!((850..1_150).contains(&share(3)));
        assert_eq!(share(1) + share(2) + share(3), 100_000);
    }
}
