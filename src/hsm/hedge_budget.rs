//! The budget for second attempts at slow calls: a percentage of calls.

use crate::limits::MAX_HEDGE_BURST;
use crate::sync::atomic::{AtomicI64, Ordering};

/// The price of a hedge. Each call earns as many units as the percentage.
const HEDGE_PRICE: i64 = 100;

/// One fleet's budget, whose unit is a hundredth of a hedge.
pub struct HedgeBudget {
    percent: i64,
    max: i64,
    balance: AtomicI64,
}

impl HedgeBudget {
    /// Creates a budget of `percent` hedges in a hundred calls, which starts with a full burst.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        let max = if percent == 0 { 0 } else { i64::from(MAX_HEDGE_BURST) * HEDGE_PRICE };
        Self { percent: i64::from(percent), max, balance: AtomicI64::new(max) }
    }

    /// Adds the earnings of that many queued calls.
    pub fn earn(&self, calls: usize) {
        let earned = i64::try_from(calls).unwrap_or(self.max) * self.percent;
        // The budget is usually full; then nothing is written, and the cache line stays shared.
        let balance = self.balance.load(Ordering::Relaxed);
        if balance < self.max {
            self.balance.fetch_add(earned.min(self.max - balance), Ordering::Relaxed);
        }
    }

    /// Pays for a hedge. Returns false if the budget does not allow it.
    pub fn spend(&self) -> bool {
        let less = |balance: i64| (balance >= HEDGE_PRICE).then_some(balance - HEDGE_PRICE);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Refunds the payment for a hedge that was not made.
    pub fn refund(&self) {
        self.balance.fetch_add(HEDGE_PRICE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After an initial burst, the budget allows the configured percentage of calls; the burst does
    /// not grow.
    #[test]
    fn the_budget_holds() {
        let budget = HedgeBudget::new(5);
        let spent = |budget: &HedgeBudget| (0..10_000).filter(|_| budget.spend()).count();
        assert_eq!(spent(&budget), MAX_HEDGE_BURST as usize);
        budget.earn(100);
        assert_eq!(spent(&budget), 5);
        for _ in 0..1000 {
            budget.earn(1);
        }
        assert_eq!(spent(&budget), MAX_HEDGE_BURST as usize, "a thousand calls are fifty hedges");
        budget.earn(usize::MAX);
        assert_eq!(spent(&budget), MAX_HEDGE_BURST as usize);
    }

    /// There are no hedges if the settings allow none.
    #[test]
    fn no_budget() {
        let budget = HedgeBudget::new(0);
        budget.earn(1_000_000);
        assert!(!budget.spend());
    }
}
