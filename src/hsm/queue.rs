//! The jobs that wait for one token: bounded, in shards with a lock each.
//!
//! A worker takes a job out at the moment it begins it, and not before: what waits can be taken by
//! any other worker of the token, so a call that hangs captures one job and no job waits behind
//! another while a session is free. Workers go round the shards, so that none is left behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::job::{Failure, Job};

/// A job, and what has been tried so far.
pub struct Queued {
    /// The attempt at hand.
    pub job: Job,
    /// Attempts that failed.
    pub attempts: u32,
    /// A bit for each token that failed at it or lacks the key.
    pub tried: u32,
    /// Microseconds in the HSM so far.
    pub hsm_micros: u32,
    /// The first failure that was a token's fault.
    pub failure: Option<Failure>,
}

impl Queued {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(job: Job) -> Self {
        Self { job, attempts: 0, tried: 0, hsm_micros: 0, failure: None }
    }
}

/// One token's queue.
pub struct Queue {
    shards: Box<[Shard]>,
    /// Jobs in all shards.
    length: AtomicUsize,
    max_length: usize,
    next_shard: AtomicUsize,
}

/// A lock to a cache line (pair), or two shards would be as one.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<VecDeque<Queued>>);

/// One shard, locked to take the jobs of one turn of an event loop.
pub struct Batch<'a> {
    jobs: MutexGuard<'a, VecDeque<Queued>>,
    queue: &'a Queue,
    pushed: usize,
}

impl Queue {
    /// An empty one for `max_length` jobs.
    #[must_use]
    pub fn new(shards: usize, max_length: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            length: AtomicUsize::new(0),
            max_length,
            next_shard: AtomicUsize::new(0),
        }
    }

    /// How many jobs wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the shard whose turn it is.
    pub fn batch(&self) -> Batch<'_> {
        let turn = self.next_shard.fetch_add(1, Ordering::Relaxed);
        let jobs = self.shards[turn % self.shards.len()].0.lock();
        Batch { jobs, queue: self, pushed: 0 }
    }

    /// Puts a job that was tried already before all others of a shard.
    ///
    /// # Errors
    /// There is no room; the job comes back.
    pub fn push_front(&self, queued: Queued) -> Result<(), Queued> {
        let mut batch = self.batch();
        if !batch.has_room() {
            return Err(queued);
        }
        batch.jobs.push_front(queued);
        batch.pushed += 1;
        Ok(())
    }

    /// The oldest job of the next shard that has one. `cursor` is the worker's own.
    pub fn take(&self, cursor: &mut usize) -> Option<Queued> {
        if self.is_empty() {
            return None;
        }
        for _ in 0..self.shards.len() {
            *cursor = (*cursor + 1) % self.shards.len();
            if let Some(queued) = self.shards[*cursor].0.lock().pop_front() {
                self.length.fetch_sub(1, Ordering::SeqCst);
                return Some(queued);
            }
        }
        None
    }

    /// Takes all jobs out.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut jobs = shard.0.lock();
            self.length.fetch_sub(jobs.len(), Ordering::SeqCst);
            all.extend(jobs.drain(..));
        }
        all
    }
}

impl Batch<'_> {
    /// Whether the queue takes one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.len() + self.pushed < self.queue.max_length
    }

    /// Adds a job; see [`Self::has_room`].
    pub fn push(&mut self, job: Job) {
        self.jobs.push_back(Queued::new(job));
        self.pushed += 1;
    }

    /// Jobs added so far.
    #[must_use]
    pub fn pushed(&self) -> usize {
        self.pushed
    }
}

impl Drop for Batch<'_> {
    /// The shard is still locked, so nobody takes what is not counted yet.
    fn drop(&mut self) {
        self.queue.length.fetch_add(self.pushed, Ordering::SeqCst);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::{ReplyTo, Request};
    use std::sync::Arc;
    use std::time::Instant;

    fn job(serial: u64) -> Job {
        let now = Instant::now();
        Job {
            request: Arc::new(Request::default()),
            output: Vec::new().into(),
            reply_to: ReplyTo { event_loop: 0, slot: 0, serial },
            queued_at: now,
            deadline: now,
        }
    }

    fn push(queue: &Queue, serials: &[u64]) {
        let mut batch = queue.batch();
        serials.iter().for_each(|serial| batch.push(job(*serial)));
    }

    fn take(queue: &Queue, cursor: &mut usize) -> Option<u64> {
        queue.take(cursor).map(|queued| queued.job.reply_to.serial)
    }

    /// In the order of their coming, with one shard.
    #[test]
    fn first_come_first_served() {
        let (queue, mut cursor) = (Queue::new(1, 100), 0);
        push(&queue, &[1, 2]);
        push(&queue, &[3]);
        queue.push_front(Queued::new(job(0))).ok().unwrap();
        assert_eq!(queue.len(), 4);
        for serial in 0..4 {
            assert_eq!(take(&queue, &mut cursor), Some(serial));
        }
        assert_eq!(take(&queue, &mut cursor), None);
        assert!(queue.is_empty());
    }

    /// A worker that always finds work does not leave a shard behind, and one worker alone gets
    /// at all shards.
    #[test]
    fn no_shard_is_left_behind() {
        let (queue, mut cursor) = (Queue::new(4, 1000), 0);
        for turn in 0..4 {
            push(&queue, &[turn * 100; 50]);
        }
        let first: Vec<_> = (0..4).map(|_| take(&queue, &mut cursor).unwrap()).collect();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 100, 200, 300]);
        let rest = std::iter::from_fn(|| take(&queue, &mut cursor)).count();
        assert_eq!(rest, 196);
    }

    /// It has an end, for new jobs and for those that come back, and each job is in it once.
    #[test]
    fn bounded() {
        let queue = Queue::new(2, 3);
        push(&queue, &[1, 2]);
        {
            let mut batch = queue.batch();
            assert!(batch.has_room());
            batch.push(job(3));
            assert!(!batch.has_room());
            assert_eq!(batch.pushed(), 1);
        }
        assert!(queue.push_front(Queued::new(job(4))).is_err());
        let mut all: Vec<_> = queue.drain().iter().map(|q| q.job.reply_to.serial).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert!(queue.is_empty() && queue.batch().has_room());
    }
}
