//! Queue and worker pool by themselves: workers that sleep, and those who wake them.

use std::sync::Arc;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::LONG;
use crate::hsm::queue::Queue;
use crate::hsm::queued::Queued;
use crate::hsm::signal::Signal;
use crate::hsm::worker_pool::{Parker, Wakeup, WorkerPool};
use crate::job::{Job, ReplyTo, Request};
use crate::sync::atomic::AtomicBool;
use crate::sync::check::check;
use crate::sync::{clock, thread};

fn job(serial: u64) -> Job {
    let now = clock::now();
    Job {
        request: Arc::new(Request::default()),
        output: Vec::new().into(),
        reply_to: ReplyTo { event_loop: 0, slot: 0, serial },
        queued_at: now,
        deadline: now + LONG,
    }
}

/// A pool with its queue, and what its workers have taken.
struct Work {
    pool: WorkerPool,
    queue: Queue,
    taken: Plain<Vec<u64>>,
    progress: Signal,
    most_running: AtomicUsize,
    is_out_of_use: AtomicBool,
}

impl Work {
    fn new(workers: usize, max_jobs: usize) -> Arc<Self> {
        let work = Self {
            pool: WorkerPool::new(workers),
            queue: Queue::new(2, max_jobs),
            taken: Plain::default(),
            progress: Signal::default(),
            most_running: AtomicUsize::new(0),
            is_out_of_use: AtomicBool::new(false),
        };
        assert_eq!(work.pool.grow(workers), workers);
        Arc::new(work)
    }

    /// Takes jobs as a session's worker does.
    fn run(&self) {
        let parker = Parker::current();
        self.pool.start_running();
        let may_sleep = || !self.is_out_of_use.load(Ordering::SeqCst);
        while may_sleep() {
            self.most_running.fetch_max(self.pool.counts().running, Ordering::Relaxed);
            let wakeup = match self.queue.take() {
                Some(queued) => {
                    self.taken.lock().unwrap().push(queued.job.reply_to.serial);
                    self.progress.notify();
                    if !self.pool.is_over_limit() {
                        continue;
                    }
                    self.pool.wait_for_work(&parker, &self.queue, may_sleep)
                }
                None => self.pool.wait_for_work(&parker, &self.queue, may_sleep),
            };
            if wakeup == Wakeup::Leave {
                break;
            }
        }
        self.pool.stop_running();
        self.pool.leave();
    }

    fn start(self: &Arc<Self>, workers: usize) -> Vec<thread::JoinHandle<()>> {
        let spawn = |_| {
            let work = Arc::clone(self);
            thread::spawn(move || work.run())
        };
        (0..workers).map(spawn).collect()
    }

    fn submit(&self, serials: &[u64]) {
        for serial in serials {
            assert!(self.queue.push(job(*serial), false).is_ok());
        }
        self.pool.wake(serials.len());
    }

    fn wait_for(&self, jobs: usize) {
        while self.taken.lock().unwrap().len() < jobs {
            self.progress.wait_until(clock::now() + LONG);
        }
    }

    /// Asserts that each job was taken once, and that nothing is left.
    fn finish(&self, workers: Vec<thread::JoinHandle<()>>, jobs: u64) {
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let mut taken = self.taken.lock().unwrap().clone();
        taken.sort_unstable();
        assert_eq!(taken, (1..=jobs).collect::<Vec<_>>());
        let counts = self.pool.counts();
        assert_eq!((counts.running, counts.idle, counts.workers), (0, 0, 0));
        assert_eq!((self.queue.len(), self.pool.signed_counts()), (0, (0, 0)));
    }
}

/// A job that is pushed while workers go to sleep wakes one of them.
#[test]
fn no_wakeup_is_lost() {
    check(4000, || {
        let work = Work::new(2, 10);
        let workers = work.start(2);
        let other = thread::spawn({
            let work = Arc::clone(&work);
            move || {
                work.submit(&[1]);
                work.submit(&[2]);
            }
        });
        work.submit(&[3, 4]);
        other.join().unwrap();
        work.wait_for(4);
        work.pool.close();
        work.finish(workers, 4);
    });
}

/// A pool that is closed while jobs wait ends when they are done.
#[test]
fn closing_finishes_what_waits() {
    check(4000, || {
        let work = Work::new(2, 10);
        let workers = work.start(2);
        work.submit(&[1, 2, 3]);
        work.pool.close();
        work.finish(workers, 3);
    });
}

/// With one worker allowed to run, the others sleep; once more are allowed, they are woken.
#[test]
fn the_limit_changes() {
    check(4000, || {
        let work = Work::new(2, 10);
        work.pool.set_limit(1);
        let workers = work.start(2);
        work.submit(&[1, 2]);
        work.pool.set_limit(2);
        work.pool.wake(work.queue.len());
        work.submit(&[3]);
        work.wait_for(3);
        assert!(work.most_running.load(Ordering::Relaxed) <= 2);
        work.pool.close();
        work.finish(workers, 3);
    });
}

/// Workers of a token that goes out of use do not sleep through it.
#[test]
fn going_out_of_use_wakes_all() {
    check(4000, || {
        let work = Work::new(2, 10);
        let workers = work.start(2);
        work.submit(&[1]);
        work.wait_for(1);
        work.is_out_of_use.store(true, Ordering::SeqCst);
        work.pool.wake_all();
        work.finish(workers, 1);
    });
}

/// The queue never holds more than it may, and neither loses nor doubles a job, whether jobs are
/// taken, drained or put back.
#[test]
fn the_queue_is_bounded() {
    check(4000, || {
        const MAX: usize = 2;
        let queue = Arc::new(Queue::new(2, MAX));
        let pushers: Vec<_> = [1, 3]
            .map(|first| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let push = |serial: &u64| queue.push(job(*serial), false).is_ok();
                    [first, first + 1].into_iter().filter(push).collect::<Vec<_>>()
                })
            })
            .into();
        let taker = thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let taken = queue.take();
                match taken.map(|queued| queue.push_front(queued)) {
                    Some(Err(queued)) => vec![queued],
                    Some(Ok(())) | None => Vec::new(),
                }
            }
        });
        let mut out = queue.drain();
        let mut pushed: Vec<u64> = Vec::new();
        for pusher in pushers {
            pushed.extend(pusher.join().unwrap());
        }
        out.extend(taker.join().unwrap());
        assert!(queue.len() <= MAX);
        out.extend(queue.drain());
        let serial = |queued: &Queued| queued.job.reply_to.serial;
        let mut out: Vec<_> = out.iter().map(serial).collect();
        out.sort_unstable();
        pushed.sort_unstable();
        assert_eq!(out, pushed);
        assert_eq!(queue.len(), 0);
    });
}
