//! The difference between this machine's clock and that of the clients, estimated from the times at
//! which authentic requests were signed.
//!
//! It is the median of the latest requests. Nobody without the credential can add a sample: a
//! request that is replayed is known by its signature, or by coming later than others did
//! ([`super::signing_delay`]). All event loops add to the same samples, and none of them waits: a
//! reader may see a sample a moment late.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::signing_delay::SigningDelay;
use crate::limits::{
    CLOCK_SAMPLE_INTERVAL, CLOCK_SKEW_WARNING, CLOCK_SKEW_WINDOW, MAX_CLOCK_OFF_TIME,
    MAX_CLOCK_SAMPLES, MIN_CLOCK_SAMPLES, MIN_CLOCK_STEP,
};

/// The samples, and the estimate that is made of them once a second.
#[derive(Debug)]
pub struct ClockSkew {
    /// The times below are counted from here, on the monotonic clock.
    base: Instant,
    samples: [Sample; MAX_CLOCK_SAMPLES],
    delay: SigningDelay,
    /// Number of samples taken; the next one replaces the oldest.
    taken: AtomicUsize,
    /// Number of samples in the window, as of the last estimate, and those taken since.
    usable: AtomicU32,
    /// Time of the last sample.
    last_milli: AtomicU64,
    /// The second of the last estimate, and the estimate: see [`pack`].
    estimate: AtomicU64,
    /// Wall clock minus monotonic clock; [`i64::MIN`] before the first reading.
    wall_offset_milli: AtomicI64,
    /// The clock is off from this difference on; 0 means never.
    unready_at_secs: AtomicU64,
    /// The clock was off when it was last known, and stays so: see [`ClockSkew::judge`].
    is_off: AtomicBool,
    /// How often it was found off since it was last right, or stepped.
    times_off: AtomicU32,
    /// The second in which it was last known to be off.
    last_off: AtomicU32,
    /// A warning has been logged, and the clock has not been right since.
    is_warned: AtomicBool,
}

/// The time at which a request was signed.
#[derive(Clone, Copy, Debug)]
pub struct SignedAt {
    /// Seconds by which our clock is ahead of it.
    pub ahead_secs: i64,
    /// Seconds since 1970, by the clock of whoever signed.
    pub unix_secs: i64,
    /// A part of the signature, by which a repeated request is recognised.
    pub tag: u64,
}

#[derive(Debug, Default)]
struct Sample {
    /// The second in which it was taken, and the difference: see [`pack`]. 0 means none.
    value: AtomicU64,
    /// A part of the signature, by which a replayed request is recognised.
    tag: AtomicU64,
}

/// An estimate that is not known.
const UNKNOWN: i32 = i32::MIN;

/// Combines a second, counted from [`ClockSkew::base`], and a difference in one word, so that they
/// change together. The word is never 0.
fn pack(second: u32, ahead_secs: i32) -> u64 {
    u64::from(second.saturating_add(1)) << 32 | u64::from(ahead_secs.cast_unsigned())
}

fn unpack(word: u64) -> Option<(u32, i32)> {
    let [.., a, b, c, d] = word.to_be_bytes();
    let second = u32::try_from(word >> 32).ok()?.checked_sub(1)?;
    Some((second, i32::from_be_bytes([a, b, c, d])))
}

impl Default for ClockSkew {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            samples: std::array::from_fn(|_| Sample::default()),
            delay: SigningDelay::default(),
            taken: AtomicUsize::default(),
            usable: AtomicU32::default(),
            last_milli: AtomicU64::default(),
            estimate: AtomicU64::default(),
            wall_offset_milli: AtomicI64::new(i64::MIN),
            unready_at_secs: AtomicU64::default(),
            is_off: AtomicBool::default(),
            times_off: AtomicU32::default(),
            last_off: AtomicU32::default(),
            is_warned: AtomicBool::default(),
        }
    }
}

impl ClockSkew {
    /// Records by how much our clock was ahead of the time at which a request was signed. Its
    /// signature must be right. Many requests in a short time are one sample, and so is a request
    /// that is repeated. One that was kept and is sent later is none. Returns true if the caller need
    /// not offer another sample within [`CLOCK_SAMPLE_INTERVAL`].
    pub fn note(&self, now: Instant, SignedAt { ahead_secs, unix_secs, tag }: SignedAt) -> bool {
        let milli = self.milli(now);
        let has_enough = self.usable.load(Ordering::Relaxed) as usize >= MIN_CLOCK_SAMPLES;
        let since = milli.saturating_sub(self.last_milli.load(Ordering::Relaxed));
        if has_enough && u128::from(since) < CLOCK_SAMPLE_INTERVAL.as_millis() {
            return true;
        }
        let second = second_of(milli);
        let is_known = |sample: &Sample| {
            sample.tag.load(Ordering::Relaxed) == tag
                && self.is_in_window(sample.value.load(Ordering::Relaxed), second)
        };
        if !self.delay.is_usual(unix_secs, second) || self.samples.iter().any(is_known) {
            return false;
        }
        if !has_enough {
            self.usable.fetch_add(1, Ordering::Relaxed);
        }
        self.last_milli.store(milli, Ordering::Relaxed);
        // The lowest value is the one for none.
        let clamped = ahead_secs.clamp(i64::from(i32::MIN) + 1, i64::from(i32::MAX));
        let ahead_secs = i32::try_from(clamped).unwrap_or(0);
        let index = self.taken.fetch_add(1, Ordering::Relaxed) % MAX_CLOCK_SAMPLES;
        if let Some(sample) = self.samples.get(index) {
            sample.tag.store(tag, Ordering::Relaxed);
            sample.value.store(pack(second, ahead_secs), Ordering::Relaxed);
        }
        has_enough
    }

    /// Takes note of the time: forgets all samples if the wall clock has been stepped, and renews
    /// the estimate if a second has passed.
    pub fn follow(&self, now: Instant, wall: SystemTime) {
        let milli = self.milli(now);
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let offset = i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            - i64::try_from(milli).unwrap_or(i64::MAX);
        let before = self.wall_offset_milli.load(Ordering::Relaxed);
        let change = Duration::from_millis(offset.abs_diff(before));
        // A clock that is slewed moves slowly, so the comparison follows it.
        if change >= MIN_CLOCK_STEP / 16 {
            self.wall_offset_milli.store(offset, Ordering::Relaxed);
        }
        if before != i64::MIN && change >= MIN_CLOCK_STEP {
            self.forget();
        }
        let second = second_of(milli);
        let estimated = unpack(self.estimate.load(Ordering::Relaxed));
        if estimated.is_none_or(|(estimated, _)| estimated != second) {
            self.renew(second);
        }
    }

    /// Seconds by which this machine's clock is ahead of the clients'; negative if it is behind.
    /// `None` if there were too few requests lately.
    #[must_use]
    pub fn ahead_secs(&self) -> Option<i64> {
        let (_, ahead_secs) = unpack(self.estimate.load(Ordering::Relaxed))?;
        (ahead_secs != UNKNOWN).then_some(ahead_secs.into())
    }

    /// Returns whether the clock is so far off that this process should not be ready.
    #[must_use]
    pub fn is_off(&self) -> bool {
        match self.ahead_secs() {
            Some(ahead_secs) => self.is_too_much(ahead_secs),
            None => self.is_off.load(Ordering::Relaxed) && self.is_too_much(i64::MAX),
        }
    }

    fn is_too_much(&self, ahead_secs: i64) -> bool {
        let unready_at_secs = self.unready_at_secs.load(Ordering::Relaxed);
        unready_at_secs > 0 && ahead_secs.unsigned_abs() >= unready_at_secs
    }

    /// Sets the difference from which on the process should not be ready; 0 means never.
    pub fn set_unready_at(&self, difference: Duration) {
        self.unready_at_secs.store(difference.as_secs(), Ordering::Relaxed);
    }

    fn milli(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn is_in_window(&self, sample: u64, second: u32) -> bool {
        let window = CLOCK_SKEW_WINDOW.as_secs();
        unpack(sample).is_some_and(|(taken, _)| u64::from(second.saturating_sub(taken)) < window)
    }

    fn forget(&self) {
        for sample in &self.samples {
            sample.value.store(0, Ordering::Relaxed);
        }
        self.usable.store(0, Ordering::Relaxed);
        self.estimate.store(0, Ordering::Relaxed);
        self.is_off.store(false, Ordering::Relaxed);
        self.times_off.store(0, Ordering::Relaxed);
        self.is_warned.store(false, Ordering::Relaxed);
    }

    fn renew(&self, second: u32) {
        let mut differences = [0; MAX_CLOCK_SAMPLES];
        let mut count = 0;
        let samples = self.samples.iter().map(|sample| sample.value.load(Ordering::Relaxed));
        let usable = samples.filter(|sample| self.is_in_window(*sample, second));
        for (slot, (_, ahead_secs)) in differences.iter_mut().zip(usable.filter_map(unpack)) {
            *slot = ahead_secs;
            count += 1;
        }
        self.usable.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        let median = match differences.get_mut(..count) {
            Some(usable) if count >= MIN_CLOCK_SAMPLES => {
                let (_, median, _) = usable.select_nth_unstable(count / 2);
                Some(*median)
            }
            _ => None,
        };
        self.judge(second, median);
        self.estimate.store(pack(second, median.unwrap_or(UNKNOWN)), Ordering::Relaxed);
        if let Some(ahead_secs) = median {
            self.warn(ahead_secs);
        }
    }

    /// Decides whether the clock is off. A process that is not ready gets no requests that would show
    /// that the clock is still wrong. So it is tried again, after twice the time each time: a load
    /// balancer needs seconds to notice, and all requests until then are refused.
    fn judge(&self, second: u32, ahead_secs: Option<i32>) {
        match ahead_secs.map(|ahead_secs| self.is_too_much(ahead_secs.into())) {
            Some(true) => {
                if !self.is_off.swap(true, Ordering::Relaxed) {
                    self.times_off.fetch_add(1, Ordering::Relaxed);
                }
                self.last_off.store(second, Ordering::Relaxed);
            }
            Some(false) => {
                self.is_off.store(false, Ordering::Relaxed);
                self.times_off.store(0, Ordering::Relaxed);
            }
            None => {
                let doublings = self.times_off.load(Ordering::Relaxed).saturating_sub(1).min(16);
                let off_secs = CLOCK_SKEW_WINDOW.as_secs() << doublings;
                let off_secs = off_secs.min(MAX_CLOCK_OFF_TIME.as_secs());
                // The samples themselves have lasted for the first minute of it.
                let since = u64::from(second.saturating_sub(self.last_off.load(Ordering::Relaxed)));
                if since + CLOCK_SKEW_WINDOW.as_secs() > off_secs {
                    self.is_off.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// Logs once that the clock is wrong, until it has been right.
    fn warn(&self, ahead_secs: i32) {
        let is_wrong = u64::from(ahead_secs.unsigned_abs()) >= CLOCK_SKEW_WARNING.as_secs();
        let was_warned = self.is_warned.swap(is_wrong, Ordering::Relaxed);
        if is_wrong && !was_warned {
            tracing::warn!(
                ahead_secs,
                "the clock of this machine differs from that of the signed requests; from 300 s on \
                 all of them are refused: see to its time synchronisation (timedatectl, chronyc \
                 tracking)"
            );
        }
    }
}

fn second_of(milli: u64) -> u32 {
    u32::try_from(milli / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A clock under test, with both of its readings.
    struct Rig {
        skew: ClockSkew,
        now: Instant,
        wall: SystemTime,
        tag: u64,
    }

    impl Rig {
        fn new() -> Self {
            let skew = ClockSkew::default();
            skew.set_unready_at(Duration::from_secs(270));
            let now = skew.base;
            let rig = Self { skew, now, wall: SystemTime::UNIX_EPOCH + MIN_CLOCK_STEP, tag: 0 };
            rig.skew.follow(rig.now, rig.wall);
            rig
        }

        /// Lets time pass by both clocks.
        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.wall += time;
            self.skew.follow(self.now, self.wall);
        }

        fn note_one(&self, ahead_secs: i64, tag: u64) {
            let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let unix_secs = i64::try_from(since).unwrap() - ahead_secs;
            self.skew.note(self.now, SignedAt { ahead_secs, unix_secs, tag });
        }

        /// Notes `count` different requests at once, and lets a second pass.
        fn note(&mut self, count: usize, ahead_secs: i64) {
            for _ in 0..count {
                self.tag += 1;
                self.note_one(ahead_secs, self.tag);
            }
            self.pass(Duration::from_secs(1));
        }
    }

    /// Nineteen requests say nothing, twenty do, and they are forgotten after a minute.
    #[test]
    fn enough_samples_for_a_minute() {
        let mut rig = Rig::new();
        rig.note(MIN_CLOCK_SAMPLES - 1, -600);
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (None, false));
        rig.note(1, -600);
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (Some(-600), true));
        rig.pass(CLOCK_SKEW_WINDOW - Duration::from_secs(3));
        assert_eq!(rig.skew.ahead_secs(), Some(-600));
        rig.pass(Duration::from_secs(3));
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (None, false));
    }

    /// A load balancer sends no requests to a process that is not ready. It is tried again after one
    /// minute, two, four, and so on to a quarter of an hour, until the clock is right or stepped.
    #[test]
    fn rarer_trials() {
        let mut rig = Rig::new();
        let off_for = |rig: &mut Rig| {
            rig.note(MIN_CLOCK_SAMPLES, 600);
            assert!(rig.skew.is_off());
            let seconds = (1..).find(|_| {
                rig.pass(Duration::from_secs(1));
                !rig.skew.is_off()
            });
            assert_eq!(rig.skew.ahead_secs(), None);
            seconds.unwrap()
        };
        let near = |found: u32, expected: u32| assert!(found.abs_diff(expected) <= 2, "{found}");
        for expected in [60, 120, 240, 480, 900, 900] {
            near(off_for(&mut rig), expected);
        }
        // Slewed until it is right, and wrong again.
        for is_ahead in [false, true] {
            for _ in 0..1_200 {
                let part = Duration::from_millis(500);
                rig.wall = if is_ahead { rig.wall + part } else { rig.wall - part };
                rig.pass(Duration::from_secs(1));
            }
            if !is_ahead {
                rig.note(MIN_CLOCK_SAMPLES, 0);
                assert!(!rig.skew.is_off());
            }
        }
        near(off_for(&mut rig), 60);
        near(off_for(&mut rig), 120);
        rig.note(MIN_CLOCK_SAMPLES, 600);
        rig.pass(CLOCK_SKEW_WINDOW + Duration::from_secs(5));
        assert!(rig.skew.is_off());
        rig.skew.set_unready_at(Duration::ZERO);
        assert!(!rig.skew.is_off());
        rig.skew.set_unready_at(Duration::from_secs(270));
        assert!(rig.skew.is_off());
        for is_right in [true, false] {
            let step = Duration::from_secs(600);
            rig.wall = if is_right { rig.wall - step } else { rig.wall + step };
            rig.pass(Duration::from_secs(1));
            assert!(!rig.skew.is_off());
        }
        near(off_for(&mut rig), 60);
    }

    /// Requests come slowly, or thousands at a time; the estimate is that of the last minute.
    #[test]
    fn any_rate() {
        let mut rig = Rig::new();
        for _ in 0..MIN_CLOCK_SAMPLES {
            rig.note(1, 61);
            rig.pass(Duration::from_millis(1_500));
        }
        assert_eq!(rig.skew.ahead_secs(), Some(61));
        for _ in 0..200 {
            rig.note(1_000, 2);
        }
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (Some(2), false));
    }

    /// A request that is repeated is one sample, even if there are no others.
    #[test]
    fn one_request_repeated() {
        let mut rig = Rig::new();
        for _ in 0..10 * MIN_CLOCK_SAMPLES {
            rig.note_one(280, 4_711);
        }
        rig.pass(Duration::from_secs(1));
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (None, false));
    }

    /// Any number of old requests do not move the estimate, nor make one, once a request has come
    /// that was signed later than they were.
    #[test]
    fn replays() {
        let mut rig = Rig::new();
        rig.note(MIN_CLOCK_SAMPLES, 0);
        for _ in 0..60 {
            for _ in 0..10 {
                for _ in 0..100 {
                    rig.tag += 1;
                    rig.note_one(280, rig.tag);
                }
                rig.tag += 1;
                rig.note_one(0, rig.tag);
                rig.pass(Duration::from_millis(100));
            }
            assert_eq!(rig.skew.ahead_secs(), Some(0));
        }
        rig.pass(CLOCK_SKEW_WINDOW);
        rig.note(2 * MIN_CLOCK_SAMPLES, 280);
        assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (None, false));
    }

    /// A step of the wall clock, in either direction, invalidates what was measured before; a clock
    /// that is slewed does not.
    #[test]
    fn steps_and_slews() {
        for is_forwards in [true, false] {
            let mut rig = Rig::new();
            rig.pass(Duration::from_secs(1_000));
            rig.note(MIN_CLOCK_SAMPLES, 300);
            assert!(rig.skew.is_off());
            for _ in 0..20 {
                rig.wall += Duration::from_millis(500);
                rig.pass(Duration::from_millis(1_000));
            }
            assert!(rig.skew.is_off());
            let step = Duration::from_secs(300);
            rig.wall = if is_forwards { rig.wall + step } else { rig.wall - step };
            rig.skew.follow(rig.now, rig.wall);
            assert_eq!((rig.skew.ahead_secs(), rig.skew.is_off()), (None, false));
            rig.note(MIN_CLOCK_SAMPLES, 0);
            assert_eq!(rig.skew.ahead_secs(), Some(0));
        }
    }

    /// The limit is inclusive, works both ways, and can be switched off.
    #[test]
    fn unready_from_a_limit_on() {
        for (ahead_secs, is_off) in [(269, false), (270, true), (-269, false), (-270, true)] {
            let mut rig = Rig::new();
            rig.note(MIN_CLOCK_SAMPLES, ahead_secs);
            assert_eq!(rig.skew.is_off(), is_off, "{ahead_secs}");
            rig.skew.set_unready_at(Duration::ZERO);
            assert!(!rig.skew.is_off());
        }
    }

    /// Differences of any size survive, and so does the time of any uptime.
    #[test]
    fn words() {
        for (second, ahead_secs) in
            [(0, 0), (0, -1), (7, i32::MAX), (u32::MAX - 1, UNKNOWN), (1, UNKNOWN + 1)]
        {
            assert_eq!(unpack(pack(second, ahead_secs)).unwrap(), (second, ahead_secs));
        }
        assert_eq!(unpack(0), None);
    }
}
