//! Faults: which calls they apply to, and their effect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cryptoki_sys::{CK_RV, CK_SLOT_ID};

use crate::functions::Function;
use crate::keys::{KEYED, KeySet, Label};
use crate::latency::Latency;
use crate::random;

/// Effect of a fault on a call.
#[derive(Debug)]
pub enum Action {
    /// Fails the call without forwarding it.
    Return(CK_RV),
    /// Holds the call until released, or for this time; then fails it, or lets it continue.
    Hang { time: Duration, code: Option<CK_RV> },
    /// Delays the call.
    Delay(Latency),
    /// Closes the call's session before the call is forwarded.
    CloseSession,
    /// Fails the call as if the token were removed: with this code, or the one that PKCS#11
    /// specifies.
    RemoveToken(Option<CK_RV>),
    /// Corrupts the call's output.
    FlipBit,
    /// Leaks that many bytes of memory, and a descriptor.
    Leak(usize),
}

/// The properties of a call on which faults depend.
#[derive(Clone, Debug)]
pub struct About {
    pub function: Function,
    pub slot: Option<CK_SLOT_ID>,
    pub key: Option<Label>,
}

/// One `[[fault]]`.
#[derive(Debug)]
pub struct Fault {
    pub action: Action,
    /// Functions it applies to. If empty: all that need not be named or, with keys, all about a
    /// key.
    pub functions: Vec<Function>,
    pub slot: Option<CK_SLOT_ID>,
    /// Limits it to calls about these keys.
    pub keys: Option<KeySet>,
    pub skip: u64,
    pub count: u64,
    pub probability: f64,
    pub from: Duration,
    pub until: Duration,
    /// Numbers of calls that fitted and of calls that were acted upon.
    pub fitted: AtomicU64,
    pub acted: AtomicU64,
}

impl Fault {
    /// Returns whether the fault fits this function, slot, key and time since settings were read.
    pub fn fits(&self, call: &About, age: Duration) -> bool {
        let fits_function = match (self.functions.as_slice(), &self.keys) {
            ([], None) => !call.function.must_be_named(),
            ([], Some(_)) => KEYED.contains(&call.function),
            (functions, _) => functions.contains(&call.function),
        };
        let fits_key = |keys: &KeySet| call.key.as_ref().is_some_and(|key| keys.contains(key));
        fits_function
            && (self.slot.is_none() || self.slot == call.slot)
            && self.keys.as_ref().is_none_or(fits_key)
            && (self.from..self.until).contains(&age)
    }

    /// Counts a fitting call, and returns its number if the fault acts on it. `index` is the
    /// fault's position in the settings.
    pub fn strike(&self, seed: u64, index: usize) -> Option<u64> {
        let number = self.fitted.fetch_add(1, Ordering::Relaxed);
        let is_spared = number < self.skip
            || (self.probability < 1.0
                && random::draw(seed, index as u64, number) >= self.probability);
        if is_spared {
            return None;
        }
        let more = |acted| (acted < self.count).then_some(acted + 1);
        let acted = self.acted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        acted.is_ok().then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            action: Action::FlipBit,
            functions: vec![Function::C_Encrypt],
            slot: None,
            keys: None,
            skip: 0,
            count: u64::MAX,
            probability: 1.0,
            from: Duration::ZERO,
            until: Duration::MAX,
            fitted: AtomicU64::new(0),
            acted: AtomicU64::new(0),
        }
    }

    fn acted(fault: &Fault, seed: u64) -> Vec<u64> {
        (0..1000).filter_map(|_| fault.strike(seed, 0)).collect()
    }

    /// The first calls are skipped, then exactly the given number are acted upon.
    #[test]
    fn skip_and_count() {
        assert_eq!(acted(&Fault { skip: 3, count: 2, ..fault() }, 1), [3, 4]);
    }

    /// The same seed selects the same calls; another seed selects others.
    #[test]
    fn a_seed_replays() {
        let unlikely = || Fault { probability: 0.1, ..fault() };
        let first = acted(&unlikely(), 1);
        assert!((50..150).contains(&first.len()), "{}", first.len());
        assert_eq!(acted(&unlikely(), 1), first);
        assert_ne!(acted(&unlikely(), 2), first);
    }

    /// Function, slot and time each exclude calls that do not fit.
    #[test]
    fn fits() {
        let second = Duration::from_secs(1);
        let about = |function, slot| About { function, slot, key: None };
        let limited = Fault { slot: Some(7), from: second, until: 2 * second, ..fault() };
        assert!(limited.fits(&about(Function::C_Encrypt, Some(7)), second));
        assert!(!limited.fits(&about(Function::C_Decrypt, Some(7)), second));
        assert!(!limited.fits(&about(Function::C_Encrypt, Some(8)), second));
        assert!(!limited.fits(&about(Function::C_Encrypt, None), second));
        assert!(!limited.fits(&about(Function::C_Encrypt, Some(7)), second / 2));
        assert!(!limited.fits(&about(Function::C_Encrypt, Some(7)), 2 * second));
        let any = Fault { functions: Vec::new(), ..fault() };
        assert!(any.fits(&about(Function::C_Login, None), second));
        assert!(!any.fits(&about(Function::C_Initialize, None), second));
    }

    /// A fault of some keys fits no call about another key or about none.
    #[test]
    fn fits_keys() {
        let keys = KeySet { labels: [b"bad".to_vec()].into(), prefix: None };
        let bad = Fault { keys: Some(keys), functions: Vec::new(), ..fault() };
        let fits = |function, key: Option<&str>| {
            let key = key.map(|key| Label::from(key.as_bytes()));
            bad.fits(&About { function, slot: Some(7), key }, Duration::ZERO)
        };
        assert!(KEYED.into_iter().all(|function| fits(function, Some("bad"))));
        assert!(!fits(Function::C_Encrypt, Some("good")));
        assert!(!fits(Function::C_Encrypt, None));
        assert!(!fits(Function::C_Login, None));
    }
}
