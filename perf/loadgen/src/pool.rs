//! Ciphertexts of the run itself, for decrypts: each one soon after it was made, and a sample of
//! each `ciphertextMetadata` for the rest of the run. A proxy names the key version there, so that
//! those of an older version are decrypted as often as those of the latest.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ciphertext::Ciphertext;

/// Maximum number of distinct metadata; ciphertexts with further ones are decrypted once.
pub const MAX_KINDS: usize = 16;
/// Maximum number of ciphertexts that have not been decrypted; the oldest is then left out.
const MAX_WAITING: usize = 4096;
/// Number of ciphertexts kept for each metadata.
const MAX_KEPT: usize = 256;

/// The ciphertexts of one thread.
#[derive(Debug, Default)]
pub struct Pool {
    waiting: VecDeque<Arc<Ciphertext>>,
    kinds: Vec<Kind>,
    is_turn_of_waiting: bool,
    /// Ciphertexts left out because too many were waiting.
    pub left_out: u64,
}

/// A sample of the ciphertexts with the same metadata, each equally likely (reservoir sampling).
#[derive(Debug)]
struct Kind {
    metadata: Vec<u8>,
    kept: Vec<Arc<Ciphertext>>,
    seen: usize,
}

impl Pool {
    /// Makes a pool that has these to begin with.
    #[must_use]
    pub fn new(made_before: &[Arc<Ciphertext>], random: &mut fastrand::Rng) -> Self {
        let mut pool = Self::default();
        for ciphertext in made_before {
            pool.keep(ciphertext, random);
        }
        pool
    }

    /// Adds a ciphertext.
    pub fn add(&mut self, ciphertext: Ciphertext, random: &mut fastrand::Rng) {
        let ciphertext = Arc::new(ciphertext);
        self.keep(&ciphertext, random);
        self.waiting.push_back(ciphertext);
        if self.waiting.len() > MAX_WAITING {
            self.waiting.pop_front();
            self.left_out += 1;
        }
    }

    fn keep(&mut self, ciphertext: &Arc<Ciphertext>, random: &mut fastrand::Rng) {
        let is_it = |kind: &Kind| kind.metadata == ciphertext.metadata;
        if self.kinds.len() < MAX_KINDS && !self.kinds.iter().any(is_it) {
            let metadata = ciphertext.metadata.clone();
            self.kinds.push(Kind { metadata, kept: Vec::new(), seen: 0 });
        }
        let Some(kind) = self.kinds.iter_mut().find(|kind| is_it(kind)) else { return };
        kind.seen += 1;
        if kind.kept.len() < MAX_KEPT {
            kind.kept.push(Arc::clone(ciphertext));
        } else if let Some(place) = kind.kept.get_mut(random.usize(..kind.seen)) {
            *place = Arc::clone(ciphertext);
        }
    }

    /// Returns the next ciphertext to decrypt, alternately the oldest that was not decrypted yet
    /// and one of a random metadata; `None` if there is none at all. If there are fewer than two
    /// decrypts for each encrypt, some are left out.
    pub fn next(&mut self, random: &mut fastrand::Rng) -> Option<Arc<Ciphertext>> {
        self.is_turn_of_waiting = !self.is_turn_of_waiting;
        if self.is_turn_of_waiting
            && let Some(ciphertext) = self.waiting.pop_front()
        {
            return Some(ciphertext);
        }
        let kind = self.kinds.get(random.usize(..self.kinds.len().max(1)))?;
        kind.kept.get(random.usize(..kind.kept.len().max(1))).cloned()
    }

    /// Returns the number of ciphertexts that were not decrypted.
    #[must_use]
    pub fn not_decrypted(&self) -> u64 {
        self.left_out + u64::try_from(self.waiting.len()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::check::tests::unchecked_ciphertext;

    fn of_kind(metadata: &str, number: usize) -> Ciphertext {
        let (metadata, plaintext) = (metadata.into(), number.to_string().into());
        Ciphertext { metadata, plaintext, ..unchecked_ciphertext() }
    }

    /// A version that encrypts no more is decrypted as often as the one that does.
    #[test]
    fn old_kinds_are_decrypted_throughout() {
        let mut random = fastrand::Rng::with_seed(1);
        let before: Vec<_> = (0..10).map(|number| Arc::new(of_kind("", number))).collect();
        let mut pool = Pool::new(&before, &mut random);
        for number in 0..5000 {
            pool.add(of_kind("AGsAAAAC", number), &mut random);
        }
        assert!(pool.left_out > 0);
        let mut old = 0;
        for _ in 0..4000 {
            old += usize::from(pool.next(&mut random).unwrap().metadata.is_empty());
        }
        // Half of every other one.
        assert!((800..1200).contains(&old), "{old}");
    }

    #[test]
    fn each_is_decrypted_once_before_any_is_left_waiting() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut pool = Pool::default();
        assert!(pool.next(&mut random).is_none());
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            pool.add(of_kind("", number), &mut random);
            for _ in 0..2 {
                seen.insert(pool.next(&mut random).unwrap().plaintext.clone());
            }
        }
        assert_eq!((seen.len(), pool.not_decrypted()), (1000, 0));
    }

    #[test]
    fn kinds_and_samples_are_bounded() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut pool = Pool::default();
        for number in 0..20_000 {
            pool.add(of_kind(&(number % 40).to_string(), number), &mut random);
        }
        assert_eq!(pool.kinds.len(), MAX_KINDS);
        assert!(pool.kinds.iter().all(|kind| kind.kept.len() == MAX_KEPT));
        assert_eq!(pool.waiting.len(), MAX_WAITING);
        // Late ones are as likely to be kept as early ones.
        let number =
            |one: &Arc<Ciphertext>| String::from_utf8_lossy(&one.plaintext).parse::<usize>();
        let late = pool.kinds[0].kept.iter().filter(|one| number(one).unwrap() > 10_000).count();
        assert!((64..192).contains(&late), "{late}");
    }
}
