//! Shuttle's simulations, behind the interfaces of the originals. They work only inside a scenario.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::{Duration, Instant};

use shuttle::future::batch_semaphore::{BatchSemaphore, Fairness};
use shuttle::rand::RngCore as _;

pub use shuttle::sync::{atomic, mpsc};
pub use shuttle::thread;

/// A mutex like `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// The guard of a [`Mutex`].
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// `None` only while a [`Condvar`] waits.
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// Creates an unlocked mutex.
    #[track_caller]
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks the mutex.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, inner: Some(self.lock_inner()) }
    }

    fn lock_inner(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mutex")
    }
}

#[expect(clippy::expect_used, reason = "models run in tests only")]
impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("a locked mutex")
    }
}

#[expect(clippy::expect_used, reason = "models run in tests only")]
impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("a locked mutex")
    }
}

/// A condition variable like `parking_lot::Condvar`. Time-outs come from [`clock::advance`].
#[derive(Default)]
pub struct Condvar(Plain<VecDeque<Arc<Waiter>>>);

/// A thread that waits for a notification or for the end of its time.
struct Waiter {
    permit: BatchSemaphore,
    end: Option<Instant>,
    /// Set by whichever comes first; contains true if that was the end of its time.
    outcome: Plain<Option<bool>>,
}

impl Waiter {
    /// Wakes the thread. Returns false if it was woken before.
    fn wake(&self, is_end: bool) -> bool {
        if plain(&self.outcome).is_some() {
            return false;
        }
        *plain(&self.outcome) = Some(is_end);
        self.permit.release(1);
        true
    }
}

/// The reason why a wait ended.
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Returns whether the time ended before there was a notification.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Creates a condition variable that no thread waits for.
    #[must_use]
    pub const fn new() -> Self {
        Self(Plain::new(VecDeque::new()))
    }

    /// Waits for a notification, until `end`.
    pub fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        end: Instant,
    ) -> WaitTimeoutResult {
        if clock::now() >= end {
            return WaitTimeoutResult(true);
        }
        WaitTimeoutResult(self.wait_for_either(guard, Some(end)))
    }

    /// Waits for a notification.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_for_either(guard, None);
    }

    fn wait_for_either<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        end: Option<Instant>,
    ) -> bool {
        let waiter = Arc::new(Waiter {
            permit: BatchSemaphore::new(0, Fairness::Unfair),
            end,
            outcome: Plain::new(None),
        });
        // Other threads may go on before the release, but not between it and the next lines: a
        // notification that comes too early is lost, as it would be in earnest.
        guard.inner = None;
        plain(&self.0).push_back(Arc::clone(&waiter));
        clock::add(&waiter);
        let _ = waiter.permit.acquire_blocking(1);
        let is_end = plain(&waiter.outcome).unwrap_or(false);
        plain(&self.0).retain(|other| !Arc::ptr_eq(other, &waiter));
        clock::remove(&waiter);
        guard.inner = Some(guard.mutex.lock_inner());
        is_end
    }

    /// Wakes one of the threads that wait, if there is any.
    pub fn notify_one(&self) {
        switch();
        loop {
            let woken = {
                let mut waiters = plain(&self.0);
                let place = match waiters.len() {
                    0 => return,
                    1 => 0,
                    count => usize::try_from(random()).unwrap_or(0) % count,
                };
                waiters.remove(place)
            };
            if woken.is_some_and(|waiter| waiter.wake(false)) {
                return;
            }
        }
    }

    /// Wakes all threads that wait.
    pub fn notify_all(&self) {
        switch();
        let waiters = std::mem::take(&mut *plain(&self.0));
        for waiter in waiters {
            waiter.wake(false);
        }
    }
}

fn plain<T>(mutex: &Plain<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets another thread go on.
fn switch() {
    thread::sleep(Duration::ZERO);
}

/// A clock that stands still until a scenario moves it.
pub mod clock {
    use std::cell::{Cell, RefCell};
    use std::sync::{Arc, LazyLock};
    use std::time::{Duration, Instant};

    use super::{Waiter, switch};

    /// Time at which every scenario begins.
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    thread_local! {
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static WAITERS: RefCell<Vec<Arc<Waiter>>> = const { RefCell::new(Vec::new()) };
    }

    /// Returns the current time.
    #[must_use]
    pub fn now() -> Instant {
        *START + PASSED.get()
    }

    /// Returns zero: no thread computes.
    #[must_use]
    pub fn thread_cpu_time() -> Duration {
        Duration::ZERO
    }

    /// Sets the clock back for the next scenario.
    pub fn reset() {
        PASSED.set(Duration::ZERO);
        WAITERS.take();
    }

    /// Moves the clock, and ends the waits that end by then.
    pub fn advance(time: Duration) {
        switch();
        PASSED.set(PASSED.get() + time);
        let now = now();
        let due: Vec<_> = WAITERS.with_borrow(|waiters| {
            let is_due = |waiter: &&Arc<Waiter>| waiter.end.is_some_and(|end| now >= end);
            waiters.iter().filter(is_due).cloned().collect()
        });
        for waiter in due {
            waiter.wake(true);
        }
    }

    /// Moves the clock to the next end of a wait, if one ends within `max`.
    pub fn advance_to_next(max: Duration) {
        switch();
        let next = WAITERS.with_borrow(|all| all.iter().filter_map(|waiter| waiter.end).min());
        let time = next.map(|next| next.saturating_duration_since(now()));
        if let Some(time) = time.filter(|time| *time <= max) {
            advance(time);
        }
    }

    pub(super) fn add(waiter: &Arc<Waiter>) {
        WAITERS.with_borrow_mut(|waiters| waiters.push(Arc::clone(waiter)));
    }

    pub(super) fn remove(waiter: &Arc<Waiter>) {
        WAITERS.with_borrow_mut(|waiters| waiters.retain(|other| !Arc::ptr_eq(other, waiter)));
    }
}

/// Returns a number of cores that no event loop uses up.
#[must_use]
pub fn cores() -> usize {
    4
}

/// Returns a random number that the scheduler chooses.
#[must_use]
pub fn random() -> u64 {
    shuttle::rand::thread_rng().next_u64()
}
