//! The trace id of a call, and whether it is sampled.
//!
//! The trace id is the `kmsRequestId`, a UUID, which has the 16 bytes of a trace id: a call that
//! CloudTrail shows is found by its `requestID` without hyphens, and when KMS repeats a call, both
//! attempts are in one trace, on whichever proxies they arrive. The decision to sample depends on
//! the trace id alone (on its last 56 bits, which are random in a UUID of version 4, as in
//! OpenTelemetry's consistent sampling), so all proxies sample the same calls.

use crate::limits::MILLION;

/// A trace id; never zero, which OpenTelemetry reserves.
pub(super) type TraceId = [u8; 16];

/// Values of the bits that decide.
const RANDOM_BITS: u32 = 56;

/// Returns the trace id of a call with this `kmsRequestId`, if that is a UUID.
pub(super) fn of_request(kms_request_id: &str) -> Option<TraceId> {
    let text: &[u8; 36] = kms_request_id.as_bytes().try_into().ok()?;
    let mut id = [0; 16];
    let mut digits = 0;
    for (place, byte) in text.iter().enumerate() {
        if matches!(place, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = u8::try_from(char::from(*byte).to_digit(16)?).ok()?;
        let target = id.get_mut(digits / 2)?;
        *target = *target << 4 | digit;
        digits += 1;
    }
    (id != [0; 16]).then_some(id)
}

/// The part of all calls that is sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleRate {
    /// Calls whose random bits are below this are not sampled.
    threshold: u64,
}

impl SampleRate {
    pub(super) fn per_million(rate: u32) -> Self {
        let rate = u64::from(rate).min(MILLION);
        let all = 1_u128 << RANDOM_BITS;
        let threshold = all - all * u128::from(rate) / u128::from(MILLION);
        Self { threshold: u64::try_from(threshold).unwrap_or(u64::MAX) }
    }

    /// Returns whether a call is sampled.
    pub(super) fn samples(self, id: &TraceId) -> bool {
        let [.., a, b, c, d, e, f, g] = *id;
        u64::from_be_bytes([0, a, b, c, d, e, f, g]) >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = of_request("4112f4d6-db54-4af4-ae30-c55a22a8dfae");
        let bytes = [
            0x41, 0x12, 0xf4, 0xd6, 0xdb, 0x54, 0x4a, 0xf4, 0xae, 0x30, 0xc5, 0x5a, 0x22, 0xa8,
            0xdf, 0xae,
        ];
        assert_eq!(id, Some(bytes));
        assert_eq!(of_request("4112F4D6-DB54-4AF4-AE30-C55A22A8DFAE"), Some(bytes));
        for no in [
            "",
            "4112f4d6-db54-4af4-ae30-c55a22a8dfa",
            "4112f4d6-db54-4af4-ae30-c55a22a8dfaef",
            "4112f4d6xdb54-4af4-ae30-c55a22a8dfae",
            "4112f4d6-db54-4af4-ae30-c55a22a8dfag",
            "4112f4d6-db54-4af4-ae30-c55a22a8d-ae",
            "00000000-0000-0000-0000-000000000000",
            "4112f4d6-db54-4af4-ae30-c55a22a8dé",
        ] {
            assert_eq!(of_request(no), None, "{no}");
        }
    }

    /// None, all, and about the right part of random ids.
    #[test]
    fn rates() {
        let mut ids = [[0; 16]; 20_000];
        for id in &mut ids {
            crate::random::fill(id).unwrap_or_default();
        }
        let sampled = |rate| {
            let rate = SampleRate::per_million(rate);
            ids.iter().filter(|id| rate.samples(id)).count()
        };
        assert_eq!((sampled(0), sampled(1_000_000), sampled(u32::MAX)), (0, 20_000, 20_000));
        let tenth = sampled(100_000);
        assert!((1_700..2_300).contains(&tenth), "{tenth}");
        // A lower rate samples a subset.
        let (low, high) = (SampleRate::per_million(1_000), SampleRate::per_million(100_000));
        assert!(ids.iter().all(|id| !low.samples(id) || high.samples(id)));
        assert!(!SampleRate::per_million(0).samples(&[0xff; 16]));
        assert!(SampleRate::per_million(1_000_000).samples(&[0; 16]));
    }
}
