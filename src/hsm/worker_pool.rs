//! Which of a token's workers run, which rest, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;

use parking_lot::Mutex;

use super::queue::Queue;
use crate::limits::MAX_ABANDONED_PER_TOKEN;

/// A worker's bed: it sleeps until it is woken.
pub struct Parker {
    thread: Thread,
    is_awake: AtomicBool,
}

impl Parker {
    /// The calling thread's.
    #[must_use]
    pub fn current() -> Arc<Self> {
        Arc::new(Self { thread: std::thread::current(), is_awake: AtomicBool::new(false) })
    }

    fn wake(&self) {
        self.is_awake.store(true, Ordering::Release);
        self.thread.unpark();
    }

    fn sleep(&self) {
        while !self.is_awake.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

/// The workers of one token.
pub struct WorkerPool {
    inner: Mutex<Inner>,
    /// Copies of the members of that name, for a look without the lock.
    running: AtomicUsize,
    limit: AtomicUsize,
}

struct Inner {
    /// The one that went to rest last is woken first: its memory is warm.
    idle: Vec<Arc<Parker>>,
    /// Those with a session that are awake, but for those that stalled their place.
    running: usize,
    /// Those whose call takes long, so that another runs in their place.
    stalled: usize,
    /// Threads that are not written off: running, stalled, idle, or about to open a session.
    workers: usize,
    /// Threads that are stuck in a call. One may come back before it is counted.
    abandoned: isize,
    /// How many may run at once.
    limit: usize,
    max_workers: usize,
    /// Beyond `max_workers`, in the place of those that slow calls of one key hold.
    extra: usize,
    configured_workers: usize,
    is_closed: bool,
}

impl Inner {
    /// How many more workers there may be.
    fn free_slots(&self) -> usize {
        let max_abandoned = isize::try_from(MAX_ABANDONED_PER_TOKEN).unwrap_or(isize::MAX);
        if self.abandoned >= max_abandoned {
            return 0;
        }
        if self.is_closed {
            // What waits is still to be done, by one if there is none left.
            return usize::from(self.workers == 0);
        }
        (self.limit + self.stalled).min(self.max_workers + self.extra).saturating_sub(self.workers)
    }
}

/// What a worker does after it asked to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// Look for a job.
    Work,
    /// End: there will be no more.
    Leave,
}

/// What a worker that is written off counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Running.
    Running,
    /// Running, but slow, and its place stalled.
    Stalled,
    /// About to open or close a session.
    NotRunning,
}

/// A look at a [`WorkerPool`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Awake, with a session.
    pub running: usize,
    /// In a call that takes long.
    pub stalled: usize,
    /// Asleep, with a session.
    pub idle: usize,
    /// With a session or about to have one; not written off.
    pub workers: usize,
    /// Stuck in a call.
    pub abandoned: usize,
    /// How many may run at once.
    pub limit: usize,
    /// How many more there may be.
    pub free_slots: usize,
}

impl WorkerPool {
    /// Nobody yet; at most `max_workers`, all of which may run.
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

    /// A look at it.
    #[must_use]
    pub fn counts(&self) -> WorkerCounts {
        let inner = self.inner.lock();
        WorkerCounts {
            running: inner.running,
            stalled: inner.stalled,
            idle: inner.idle.len(),
            workers: inner.workers,
            abandoned: usize::try_from(inner.abandoned).unwrap_or(0),
            limit: inner.limit,
            free_slots: inner.free_slots(),
        }
    }

    /// Whether there is a worker, or room for one.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        let inner = self.inner.lock();
        inner.workers > 0 || inner.free_slots() > 0 || inner.is_closed
    }

    /// Wakes one worker for each new job, no more than may run. Says whether more workers are
    /// wanted than there are.
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
            // Not under the lock: the woken one wants it soon.
            woken.wake();
        }
        false
    }

    /// How many workers to add for the jobs that wait; they count from now on.
    pub fn grow(&self, waiting: usize) -> usize {
        let mut inner = self.inner.lock();
        // Idle, or about to have a session.
        let available = inner.workers.saturating_sub(inner.running + inner.stalled);
        let wanted = match waiting.saturating_sub(available) {
            0 if inner.workers == 0 && !inner.is_closed => 1,
            wanted => wanted,
        };
        let added = wanted.min(inner.free_slots());
        inner.workers += added;
        added
    }

    /// A worker has its session and begins to run.
    pub fn start_running(&self) {
        let mut inner = self.inner.lock();
        inner.running += 1;
        self.publish(&inner);
    }

    /// A running worker stops running, for as long as it opens another session.
    pub fn stop_running(&self) {
        let mut inner = self.inner.lock();
        inner.running = inner.running.saturating_sub(1);
        self.publish(&inner);
    }

    /// A worker that isn't running is gone.
    pub fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.workers = inner.workers.saturating_sub(1);
    }

    /// Whether more run than may. Just a look; [`Self::rest`] decides.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.running.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }

    /// A running worker found no job, or is one too many: it sleeps until it is woken, unless it
    /// must not. `may_sleep` is asked under the lock that [`Self::wake_all`] takes.
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
            // A job that comes after this look finds this worker in `idle`: whoever queues one
            // takes this lock afterwards.
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

    /// A running worker's call takes long: another may run in its place.
    pub fn mark_stalled(&self) {
        let mut inner = self.inner.lock();
        inner.running = inner.running.saturating_sub(1);
        inner.stalled += 1;
        self.publish(&inner);
    }

    /// Its call came back.
    pub fn mark_resumed(&self) {
        let mut inner = self.inner.lock();
        inner.running += 1;
        inner.stalled = inner.stalled.saturating_sub(1);
        self.publish(&inner);
    }

    /// A worker's call hangs: it is not counted any more.
    pub fn abandon(&self, was: WorkerState) {
        let mut inner = self.inner.lock();
        match was {
            WorkerState::Running => inner.running = inner.running.saturating_sub(1),
            WorkerState::Stalled => inner.stalled = inner.stalled.saturating_sub(1),
            WorkerState::NotRunning => {}
        }
        inner.workers = inner.workers.saturating_sub(1);
        inner.abandoned += 1;
        self.publish(&inner);
    }

    /// The thread of a written-off worker came back and ends.
    pub fn abandoned_returned(&self) {
        let mut inner = self.inner.lock();
        inner.abandoned -= 1;
    }

    /// A thread beside the workers (a token's health checker) is stuck.
    pub fn abandon_other(&self) {
        self.inner.lock().abandoned += 1;
    }

    /// How many may run at once from now on.
    pub fn set_limit(&self, limit: usize) {
        let mut inner = self.inner.lock();
        inner.limit = limit.clamp(1, inner.configured_workers);
        self.publish(&inner);
    }

    /// How many workers there may be beyond the configured ones.
    pub fn set_extra(&self, extra: usize) {
        self.inner.lock().extra = extra;
    }

    /// The token has no more sessions to give than there are, but for the one that asked.
    pub fn cap(&self) {
        let mut inner = self.inner.lock();
        inner.max_workers = inner.workers.saturating_sub(1).max(1);
    }

    /// It may have more by now.
    pub fn uncap(&self) {
        let mut inner = self.inner.lock();
        inner.max_workers = inner.configured_workers;
    }

    /// Workers end when the queue is empty.
    pub fn close(&self) {
        self.inner.lock().is_closed = true;
        self.wake_all();
    }

    /// Wakes all who sleep: something has changed.
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

    /// As many workers as jobs wait for, not more than may run; one at least.
    #[test]
    fn grows_with_load() {
        let pool = WorkerPool::new(8);
        assert_eq!(pool.grow(0), 1, "there is always one");
        assert_eq!(pool.grow(0), 0);
        assert_eq!(pool.grow(3), 2, "one is on its way");
        for _ in 0..3 {
            pool.start_running();
        }
        assert_eq!(pool.grow(100), 5, "eight at the most");
        pool.set_limit(1);
        assert_eq!(pool.grow(100), 0);
        assert!(pool.is_over_limit());
        pool.set_limit(100);
        assert_eq!(pool.counts().limit, 8);
    }

    /// One that computes here runs alone; when its call hangs, another takes its place at once,
    /// and when it is written off, still one runs.
    #[test]
    fn a_stalled_worker_frees_its_place() {
        let pool = WorkerPool::new(8);
        pool.set_limit(1);
        assert_eq!(pool.grow(5), 1);
        pool.start_running();
        assert!(!pool.wake(1), "one may run, and one does");
        pool.mark_stalled();
        assert!(pool.wake(1), "another one is wanted");
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

    /// Threads that hang are replaced up to a limit, or a dead HSM would eat all memory.
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

    /// Where slow calls of one key hold more than their share, there are sessions for the others;
    /// they go when that is over.
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

    /// Whoever rests is woken by a job, one for each, last come first, and by the end.
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
