//! The choices of one episode, drawn from its seed.
//!
//! A choice is a number that is interpreted by whatever state the simulation is in then, so that any
//! part of a list is a list too: that is what makes shrinking possible.

use std::fmt;
use std::fmt::Write as _;

/// One step of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Something happens: the lowest byte says what, the next one on which connection, the rest how.
    Event(u64),
    /// The process begins to drain.
    Drain,
    /// Accepting ends soon.
    SendAway,
    /// The process stops accepting.
    Stop,
}

impl Choice {
    /// The connection that the choice is about, among `slots`.
    pub fn slot(self, slots: usize) -> Option<usize> {
        match self {
            Self::Event(word) => Some(usize::from(byte(word, 1)) % slots),
            _ => None,
        }
    }
}

/// Byte number `at` of a choice, from the lowest.
pub fn byte(word: u64, at: usize) -> u8 {
    word.to_le_bytes()[at]
}

/// A generator of numbers: splitmix64, which a seed of any value suits.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

/// The seed of the episode after the one with `seed`.
pub fn next_seed(seed: u64) -> u64 {
    Numbers(seed ^ 0x5eed).next()
}

/// The choices of the episode with `seed`. Most episodes are short, so that a failure is near its
/// cause and many ends are seen; some are long.
pub fn choices(seed: u64) -> Vec<Choice> {
    let mut numbers = Numbers(seed);
    let steps = match numbers.next() % 8 {
        0 => 16_000,
        1 => 500,
        _ => 3_000,
    };
    // Half of the episodes end without a drain.
    let drains = numbers.next().is_multiple_of(2);
    (0..steps)
        .map(|step| match step {
            _ if drains && step == steps / 10 * 7 => Choice::Drain,
            _ if drains && step == steps / 10 * 8 => Choice::SendAway,
            _ if step == steps / 10 * 9 => Choice::Stop,
            _ => Choice::Event(numbers.next()),
        })
        .collect()
}

/// Numbers of choices that are kept, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept(pub Vec<usize>);

impl Kept {
    /// Reads a list such as `0-6,9`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut kept = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            kept.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
        }
        Some(Self(kept))
    }

    /// The kept ones among `choices`.
    pub fn of(&self, choices: &[Choice]) -> Vec<Choice> {
        self.0.iter().filter_map(|at| choices.get(*at).copied()).collect()
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut rest = &self.0[..];
        while let [first, ..] = *rest {
            let run = rest.iter().zip(first..).take_while(|(at, next)| **at == *next).count();
            let separator = if text.is_empty() { "" } else { "," };
            write!(text, "{separator}{first}")?;
            if run > 1 {
                write!(text, "-{}", first + run - 1)?;
            }
            rest = &rest[run..];
        }
        formatter.write_str(&text)
    }
}

/// The smallest list that `fails` is found to fail with, by delta debugging: parts of the list are
/// left out as long as it still fails, first all of a connection's, then larger and smaller runs.
/// All lists that `fails` is asked about have at most `budget` choices together.
pub fn shrink(
    kept: &Kept,
    choices: &[Choice],
    slots: usize,
    mut budget: usize,
    fails: impl Fn(&Kept) -> bool,
) -> Kept {
    let mut best = kept.clone();
    let mut attempt = |best: &mut Kept, without: &dyn Fn(usize, usize) -> bool| {
        let left = best.0.iter().enumerate();
        let left = left.filter(|(place, at)| !without(*place, **at)).map(|(_, at)| *at);
        let smaller = Kept(left.collect());
        if smaller.0.len() < best.0.len() && budget > smaller.0.len() {
            budget -= smaller.0.len();
            if fails(&smaller) {
                *best = smaller;
                return true;
            }
        }
        false
    };
    for slot in 0..slots {
        attempt(&mut best, &|_, at| choices[at].slot(slots) == Some(slot));
    }
    let mut size = best.0.len() / 2;
    while size > 0 {
        let (mut from, mut any) = (0, false);
        while from < best.0.len() {
            if attempt(&mut best, &|place, _| (from..from + size).contains(&place)) {
                any = true;
            } else {
                from += size;
            }
        }
        // The last size is tried until nothing more can be left out.
        if !(size == 1 && any) {
            size /= 2;
        }
    }
    best
}

/// A list is read as it is written, and shrinking finds the choices that a failure needs.
#[test]
fn lists_and_shrinking() {
    let kept = Kept(vec![0, 1, 2, 5, 7, 8]);
    assert_eq!(kept.to_string(), "0-2,5,7-8");
    assert_eq!(Kept::parse("0-2,5,7-8"), Some(kept));
    assert_eq!(Kept::parse("x"), None);
    let choices = choices(7);
    let all = Kept((0..choices.len()).collect());
    let needed = [3, 100, 101, 401];
    let fails = |kept: &Kept| needed.iter().all(|at| kept.0.contains(at));
    assert_eq!(shrink(&all, &choices, 32, 1_000_000, fails).0, needed);
    assert!(shrink(&all, &choices, 32, 5, fails).0.len() >= needed.len());
}
