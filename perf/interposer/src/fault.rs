//! What goes wrong, when, and for whom.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cryptoki_sys::{CK_RV, CK_SLOT_ID};

use crate::functions::Function;
use crate::latency::Latency;
use crate::random;

/// What a fault does to a call.
#[derive(Debug)]
pub enum Action {
    /// Fails it, unforwarded.
    Return(CK_RV),
    /// Holds it until it is released; then fails it, or lets it go on.
    Hang(Option<CK_RV>),
    /// Makes it slower.
    Delay(Latency),
    /// Closes its session before it is forwarded.
    CloseSession,
    /// Fails it, for the token is not there: with this, or as PKCS#11 has it.
    RemoveToken(Option<CK_RV>),
    /// Makes its output wrong.
    FlipBit,
}

/// One `[[fault]]`.
#[derive(Debug)]
pub struct Fault {
    pub action: Action,
    /// Empty: all that have no need to be named.
    pub functions: Vec<Function>,
    pub slot: Option<CK_SLOT_ID>,
    pub skip: u64,
    pub count: u64,
    pub probability: f64,
    pub from: Duration,
    pub until: Duration,
    /// Calls that fitted, calls acted upon.
    pub fitted: AtomicU64,
    pub acted: AtomicU64,
}

impl Fault {
    /// Whether function, slot and time since the settings were read fit.
    pub fn fits(&self, function: Function, slot: Option<CK_SLOT_ID>, age: Duration) -> bool {
        let fits_function = if self.functions.is_empty() {
            !function.must_be_named()
        } else {
            self.functions.contains(&function)
        };
        fits_function
            && (self.slot.is_none() || self.slot == slot)
            && (self.from..self.until).contains(&age)
    }

    /// The number of this call, which fits, if the fault acts on it. `index` is the fault's place
    /// in the settings.
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

    /// The first calls are spared, then exactly so many are struck.
    #[test]
    fn skip_and_count() {
        assert_eq!(acted(&Fault { skip: 3, count: 2, ..fault() }, 1), [3, 4]);
    }

    /// The same seed strikes the same calls, another one others.
    #[test]
    fn a_seed_replays() {
        let unlikely = || Fault { probability: 0.1, ..fault() };
        let first = acted(&unlikely(), 1);
        assert!((50..150).contains(&first.len()), "{}", first.len());
        assert_eq!(acted(&unlikely(), 1), first);
        assert_ne!(acted(&unlikely(), 2), first);
    }

    /// Function, slot and time each keep a fault from calls that they don't fit.
    #[test]
    fn fits() {
        let second = Duration::from_secs(1);
        let limited = Fault { slot: Some(7), from: second, until: 2 * second, ..fault() };
        assert!(limited.fits(Function::C_Encrypt, Some(7), second));
        assert!(!limited.fits(Function::C_Decrypt, Some(7), second));
        assert!(!limited.fits(Function::C_Encrypt, Some(8), second));
        assert!(!limited.fits(Function::C_Encrypt, None, second));
        assert!(!limited.fits(Function::C_Encrypt, Some(7), second / 2));
        assert!(!limited.fits(Function::C_Encrypt, Some(7), 2 * second));
        let any = Fault { functions: Vec::new(), ..fault() };
        assert!(any.fits(Function::C_Login, None, second));
        assert!(!any.fits(Function::C_Initialize, None, second));
    }
}
