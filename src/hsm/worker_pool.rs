//! The workers of a token: which of them run, which are idle, and how many there may be.

use std::sync::Arc;

use super::queue::Queue;
use crate::limits::MAX_ABANDONED_PER_TOKEN;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread::{self, Thread};

/// A means by which a thread sleeps until it is woken.
pub struct Parker {
    thread: Thread,
    is_awake: AtomicBool,
}

impl Parker {
    /// Creates the calling thread's parker.
    #[must_use]
    pub fn current() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), is_awake: AtomicBool::new(false) })
    }

    fn wake(&self) {
        self.is_awake.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn sleep(&self) {
        while !self.is_awake.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

/// The workers of one token.
pub struct WorkerPool {
    inner: Mutex<Inner>,
    /// Copies of the fields with the same names in `inner`, readable without the lock.
    running: AtomicUsize,
    limit: AtomicUsize,
}

struct Inner {
    /// Idle workers. The last one is woken first, since its memory is still cached.
    idle: Vec<Arc<Parker>>,
    /// Workers with a session that are awake and not stalled.
    running: usize,
    /// Workers in a call that takes long, so that others may run in their place. Briefly negative if
    /// a call returns before it is counted.
    stalled: isize,
    /// Threads that are not abandoned: running, stalled, idle, or about to open a session.
    workers: usize,
    /// Threads stuck in a call. Briefly negative if one returns before it is counted.
    abandoned: isize,
    /// Maximum number that may run at once.
    limit: usize,
    max_workers: usize,
    /// Number allowed beyond `max_workers`, to replace workers occupied by slow calls of one key.
    extra: usize,
    configured_workers: usize,
    is_closed: bool,
}

impl Inner {
    fn stalled(&self) -> usize {
        usize::try_from(self.stalled).unwrap_or(0)
    }

    /// Returns how many workers may be added.
    fn free_slots(&self) -> usize {
        let max_abandoned = isize::try_from(MAX_ABANDONED_PER_TOKEN).unwrap_or(isize::MAX);
        if self.abandoned >= max_abandoned {
            return 0;
        }
        if self.is_closed {
            // If no worker is left, one is needed for the remaining jobs.
            return usize::from(self.workers == 0);
        }
        (self.limit + self.stalled())
            .min(self.max_workers + self.extra)
            .saturating_sub(self.workers)
    }
}

/// The reason why a worker stopped waiting for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The worker looks for a job.
    Work,
    /// The worker ends: there will be no more jobs, or there are too many workers.
    Leave,
}

/// The state of a worker at the time its call is abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// The worker was running.
    Running,
    /// The worker was in a call that takes long, so that another worker could run in its place.
    Stalled,
    /// The worker was about to open or close a session.
    NotRunning,
}

/// The numbers of workers at a given time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Number of workers that are awake and have a session.
    pub running: usize,
    /// Number of workers in a call that takes long.
    pub stalled: usize,
    /// Number of workers that are asleep and have a session.
    pub idle: usize,
    /// Number of workers that have a session or are about to open one, excluding abandoned workers.
    pub workers: usize,
    /// Number of workers stuck in a call.
    pub abandoned: usize,
    /// Maximum number of workers that may run at once.
    pub limit: usize,
    /// Number of workers that may be added.
    pub free_slots: usize,
}

impl WorkerPool {
    /// Creates an empty pool for `max_workers`, all of which may run.
    #[must_use]
    pub fn new(max_workers: usize) -> Self {
        let max_workers = max_workers.max(1);
        Self {
            inner: Mutex::new(Inner {
                idle: Vec::with_capacity(max_workers),
                running: 0,
                stalled: 0,
                workers: 0,
                abandoned: 0,
                limit: max_workers,
                max_workers,
                extra: 0,
                configured_workers: max_workers,
                is_closed: false,
            }),
            running: AtomicUsize::new(0),
            limit: AtomicUsize::new(max_workers),
        }
    }

    fn publish(&self, inner: &Inner) {
        self.running.store(inner.running, Ordering::Relaxed);
        self.limit.store(inner.limit, Ordering::Relaxed);
    }

    /// Returns the current numbers.
    #[must_use]
    pub fn counts(&self) -> WorkerCounts {
        let inner = self.inner.lock();
        WorkerCounts {
            running: inner.running,
            stalled: inner.stalled(),
            idle: inner.idle.len(),
            workers: inner.workers,
            abandoned: usize::try_from(inner.abandoned).unwrap_or(0),
            limit: inner.limit,
            free_slots: inner.free_slots(),
        }
    }

    /// Returns the numbers of stalled and abandoned workers, which other threads see below zero if a
    /// call returns before it is counted.
    #[cfg(all(test, feature = "models"))]
    #[must_use]
    pub fn signed_counts(&self) -> (isize, isize) {
        let inner = self.inner.lock();
        (inner.stalled, inner.abandoned)
    }

    /// Returns whether there is a worker, or one may be added.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        let inner = self.inner.lock();
        inner.workers > 0 || inner.free_slots() > 0 || inner.is_closed
    }

    /// Wakes a worker for each new job, up to the number that may run. Returns whether more workers
    /// are needed than there are.
    pub fn wake(&self, jobs: usize) -> bool {
        for _ in 0..jobs {
            let woken = {
                let mut inner = self.inner.lock();
                if inner.running >= inner.limit {
                    return false;
                }
                let Some(woken) = inner.idle.pop() else {
                    return inner.free_slots() > 0;
                };
                inner.running += 1;
                self.publish(&inner);
                woken
            };
            // The lock has been released, because the woken worker will soon need it.
            woken.wake();
        }
        false
    }

    /// Returns the number of workers to add for the waiting jobs, and counts them as workers.
    pub fn grow(&self, waiting: usize) -> usize {
        let mut inner = self.inner.lock();
        // Idle workers, and those about to open a session.
        let available = inner.workers.saturating_sub(inner.running + inner.stalled());
        let wanted = match waiting.saturating_sub(available) {
            0 if inner.workers == 0 && !inner.is_closed => 1,
            wanted => wanted,
        };
        let added = wanted.min(inner.free_slots());
        inner.workers += added;
        added
    }

    /// Records that a worker has opened its session and begins to run.
    pub fn start_running(&self) {
        let mut inner = self.inner.lock();
        inner.running += 1;
        self.publish(&inner);
    }

    /// Records that a running worker has stopped running, to close its session or open another.
    pub fn stop_running(&self) {
        let mut inner = self.inner.lock();
        inner.running = inner.running.saturating_sub(1);
        self.publish(&inner);
    }

    /// Records that a worker which was not running has ended.
    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.workers = inner.workers.saturating_sub(1);
    }

    /// Returns whether more workers run than the limit allows. This is only a hint;
    /// [`Self::wait_for_work`] decides.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.running.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }

    /// Puts a running worker that found no job or exceeds the limit to sleep until it is woken.
    /// `may_sleep` is called under the lock that [`Self::wake_all`] takes.
    pub fn wait_for_work(
        &self,
        parker: &Arc<Parker>,
        queue: &Queue,
        may_sleep: impl FnOnce() -> bool,
    ) -> Wakeup {
        {
            let mut inner = self.inner.lock();
            if !may_sleep() {
                return Wakeup::Work;
            }
            // A job pushed after this check finds the worker among `idle`, because its pusher takes
            // the lock after the push.
            if !queue.is_empty() && inner.running <= inner.limit {
                return Wakeup::Work;
            }
            if inner.is_closed || inner.workers > inner.max_workers + inner.extra {
                return Wakeup::Leave;
            }
            inner.running = inner.running.saturating_sub(1);
            inner.idle.push(Arc::clone(parker));
            self.publish(&inner);
        }
        parker.sleep();
        Wakeup::Work
    }

    /// Records that a running worker's call takes long: another may run in its place.
    pub fn mark_stalled(&self) {
        let mut inner = self.inner.lock();
        inner.running = inner.running.saturating_sub(1);
        inner.stalled += 1;
        self.publish(&inner);
    }

    /// Records that the call of a stalled worker returned.
    pub fn mark_resumed(&self) {
        let mut inner = self.inner.lock();
        inner.running += 1;
        inner.stalled -= 1;
        self.publish(&inner);
    }

    /// Counts a worker whose call hangs as abandoned.
    pub fn abandon(&self, was: WorkerState) {
        let mut inner = self.inner.lock();
        match was {
            WorkerState::Running => inner.running = inner.running.saturating_sub(1),
            WorkerState::Stalled => inner.stalled -= 1,
            WorkerState::NotRunning => {}
        }
        inner.workers = inner.workers.saturating_sub(1);
        inner.abandoned += 1;
        self.publish(&inner);
    }

    /// Records that the thread of an abandoned worker has returned and is ending.
    pub fn abandoned_returned(&self) {
        let mut inner = self.inner.lock();
        inner.abandoned -= 1;
    }

    /// Records that a thread other than a worker (a token's health checker) is stuck.
    pub fn abandon_other(&self) {
        self.inner.lock().abandoned += 1;
    }

    /// Sets how many workers may run at once.
    pub fn set_limit(&self, limit: usize) {
        let mut inner = self.inner.lock();
        inner.limit = limit.clamp(1, inner.configured_workers);
        self.publish(&inner);
    }

    /// Sets how many workers may exist beyond the configured number.
    pub fn set_extra(&self, extra: usize) {
        self.inner.lock().extra = extra;
    }

    /// Limits the pool to the sessions that are open now, excluding the calling worker, since the
    /// token allows no more.
    pub fn cap(&self) {
        let mut inner = self.inner.lock();
        inner.max_workers = inner.workers.saturating_sub(1).max(1);
    }

    /// Removes the limit set by [`Self::cap`], since the token may allow more sessions by now.
    pub fn uncap(&self) {
        let mut inner = self.inner.lock();
        inner.max_workers = inner.configured_workers;
    }

    /// Makes the workers end when the queue is empty.
    pub fn close(&self) {
        self.inner.lock().is_closed = true;
        self.wake_all();
    }

    /// Wakes all idle workers, because something has changed.
    pub fn wake_all(&self) {
        let idle = {
            let mut inner = self.inner.lock();
            inner.running += inner.idle.len();
            let idle: Vec<_> = inner.idle.drain(..).collect();
            self.publish(&inner);
            idle
        };
        for parker in idle {
            parker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool grows with the waiting jobs up to the limit, and has at least one worker.
    #[test]
    fn grows_with_load() {
        let pool = WorkerPool::new(8);
        assert_eq!(pool.grow(0), 1, "there is always one");
        assert_eq!(pool.grow(0), 0);
        assert_eq!(pool.grow(3), 2, "one is starting");
        for _ in 0..3 {
            pool.start_running();
        }
        assert_eq!(pool.grow(100), 5, "eight at most");
        pool.set_limit(1);
        assert_eq!(pool.grow(100), 0);
        assert!(pool.is_over_limit());
        pool.set_limit(100);
        assert_eq!(pool.counts().limit, 8);
    }

    /// If only one worker may run and its call stalls, another takes its place at once; after the
    /// call is abandoned, still only one runs.
    #[test]
    fn a_stalled_worker_frees_its_place() {
        let pool = WorkerPool::new(8);
        pool.set_limit(1);
        assert_eq!(pool.grow(5), 1);
        pool.start_running();
        assert!(!pool.wake(1), "only one may run, and one does");
        pool.mark_stalled();
        assert!(pool.wake(1), "another one is needed");
        assert_eq!(pool.grow(5), 1);
        pool.start_running();
        pool.mark_resumed();
        assert!(pool.is_over_limit());
        pool.mark_stalled();
        pool.abandon(WorkerState::Stalled);
        let counts = pool.counts();
        assert_eq!((counts.running, counts.workers, counts.abandoned), (1, 1, 1));
        pool.abandoned_returned();
        assert_eq!(pool.counts().abandoned, 0);
    }

    /// Threads that hang are replaced up to a limit, so that a dead HSM does not exhaust the
    /// memory.
    #[test]
    fn abandoned_workers_are_limited() {
        let pool = WorkerPool::new(1);
        for _ in 0..MAX_ABANDONED_PER_TOKEN {
            assert_eq!(pool.grow(1), 1);
            pool.abandon(WorkerState::NotRunning);
        }
        assert_eq!(pool.grow(1), 0);
        assert!(!pool.has_sessions());
        pool.abandoned_returned();
        assert!(pool.has_sessions());
        assert_eq!(pool.grow(1), 1);
    }

    /// If slow calls with one key occupy more than the key's share, other keys get additional
    /// sessions, which close when they are no longer needed.
    #[test]
    fn extra_workers() {
        let (pool, queue) = (WorkerPool::new(4), Queue::new(1, 10));
        assert_eq!(pool.grow(10), 4);
        for _ in 0..4 {
            pool.start_running();
            pool.mark_stalled();
        }
        assert_eq!(pool.grow(10), 0);
        pool.set_extra(2);
        assert_eq!(pool.grow(10), 2);
        pool.start_running();
        pool.set_extra(0);
        assert_eq!(pool.wait_for_work(&Parker::current(), &queue, || true), Wakeup::Leave);
    }

    /// Each job wakes one idle worker, the last to become idle first, and closing the pool wakes
    /// all.
    #[test]
    fn wakes_one_a_job() {
        let pool = Arc::new(WorkerPool::new(4));
        let queue = Arc::new(Queue::new(1, 10));
        let (sender, receiver) = std::sync::mpsc::channel();
        for number in 0..2 {
            pool.grow(number + 1);
            let (pool2, queue2, sender) = (pool.clone(), queue.clone(), sender.clone());
            std::thread::spawn(move || {
                let parker = Parker::current();
                pool2.start_running();
                while pool2.wait_for_work(&parker, &queue2, || true) == Wakeup::Work {
                    let _ = sender.send(number);
                }
                let _ = sender.send(100 + number);
            });
            while pool.counts().idle <= number {
                std::thread::yield_now();
            }
        }
        assert!(!pool.wake(1));
        assert_eq!(receiver.recv(), Ok(1));
        while pool.counts().idle < 2 {
            std::thread::yield_now();
        }
        pool.close();
        let mut ends: Vec<_> = receiver.iter().take(4).collect();
        ends.sort_unstable();
        assert_eq!(ends, [0, 1, 100, 101]);
    }
}
