//! Reproducible random choices.

/// Returns a number from 0 up to but excluding 1, the same for the same seed, purpose and number.
pub fn draw(seed: u64, purpose: u64, number: u64) -> f64 {
    let mixed = mix(mix(mix(seed) ^ purpose) ^ number);
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    {
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Returns a random seed.
pub fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // TOML's integers have 63 bits.
    RandomState::new().hash_one(std::process::id()) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another seed, purpose or number gives another choice, the same ones give the same, and
    /// choices are spread evenly.
    #[test]
    fn choices() {
        assert!((draw(1, 2, 3) - draw(1, 2, 3)).abs() < f64::EPSILON);
        for other in [draw(0, 2, 3), draw(1, 0, 3), draw(1, 2, 0)] {
            assert!((draw(1, 2, 3) - other).abs() > f64::EPSILON);
        }
        let hits = (0..100_000).filter(|number| draw(7, 1, *number) < 0.01).count();
        assert!((900..1100).contains(&hits), "{hits}");
    }
}
