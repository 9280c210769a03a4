//! The jobs that wait for one token: bounded, in shards with a lock each.
//!
//! Jobs are dealt to the shards in turn, and workers take from the shards in the same turn, so the
//! order is that of one queue, and no shard is left behind. A worker takes a job out at the moment
//! it begins it, and not before: what waits can be taken by any other worker of the token, so a
//! call that hangs captures one job and no job waits behind another while a session is free.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::queued::Queued;
use crate::job::Job;

/// One token's queue.
pub struct Queue {
    shards: Box<[Shard]>,
    /// Jobs in all shards, and those about to be.
    length: Counter,
    max_length: usize,
    next_push: Counter,
    next_take: Counter,
}

/// A lock to a cache line (pair), or two shards would be as one.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<VecDeque<Queued>>);

/// On a cache line (pair) of its own.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicUsize);

impl Queue {
    /// An empty one for `max_length` jobs.
    #[must_use]
    pub fn new(shards: usize, max_length: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            length: Counter::default(),
            max_length,
            next_push: Counter::default(),
            next_take: Counter::default(),
        }
    }

    /// How many jobs wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.0.load(Ordering::SeqCst)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is room for one more; [`Self::push`] decides.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.len() < self.max_length
    }

    /// Queues a job. `is_trial`: see [`Queued::is_trial`].
    ///
    /// # Errors
    /// There is no room; the job comes back.
    pub fn push(&self, job: Job, is_trial: bool) -> Result<(), Job> {
        if !self.reserve() {
            return Err(job);
        }
        let queued = Queued { is_trial, ..Queued::new(job) };
        self.shard(&self.next_push).0.lock().push_back(queued);
        Ok(())
    }

    /// Puts a job that was tried already before all others of a shard.
    ///
    /// # Errors
    /// There is no room; the job comes back.
    pub fn push_front(&self, queued: Queued) -> Result<(), Queued> {
        if !self.reserve() {
            return Err(queued);
        }
        // Its place is where the next is taken from.
        let turn = self.next_take.0.load(Ordering::Relaxed);
        self.shards[turn % self.shards.len()].0.lock().push_front(queued);
        Ok(())
    }

    fn reserve(&self) -> bool {
        let has_room = self.length.0.fetch_add(1, Ordering::SeqCst) < self.max_length;
        if !has_room {
            self.length.0.fetch_sub(1, Ordering::SeqCst);
        }
        has_room
    }

    fn shard(&self, turn: &Counter) -> &Shard {
        let turn = turn.0.fetch_add(1, Ordering::Relaxed);
        &self.shards[turn % self.shards.len()]
    }

    /// The oldest job of the shard whose turn it is, or of the next one that has any.
    pub fn take(&self) -> Option<Queued> {
        for _ in 0..self.shards.len() {
            if self.is_empty() {
                return None;
            }
            if let Some(queued) = self.shard(&self.next_take).0.lock().pop_front() {
                self.length.0.fetch_sub(1, Ordering::SeqCst);
                return Some(queued);
            }
        }
        None
    }

    /// Takes out the oldest jobs that nobody waits for any more.
    #[must_use]
    pub fn take_expired(&self, now: Instant) -> Vec<Queued> {
        let mut expired = Vec::new();
        for shard in &self.shards {
            let mut jobs = shard.0.lock();
            while jobs.front().is_some_and(|queued| now >= queued.job.deadline) {
                self.length.0.fetch_sub(1, Ordering::SeqCst);
                expired.extend(jobs.pop_front());
            }
        }
        expired
    }

    /// Takes all jobs out.
    #[must_use]
    pub fn drain(&self) -> Vec<Queued> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let mut jobs = shard.0.lock();
            self.length.0.fetch_sub(jobs.len(), Ordering::SeqCst);
            all.extend(jobs.drain(..));
        }
        all
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::{ReplyTo, Request};
    use std::sync::Arc;
    use std::time::Duration;

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
        serials.iter().for_each(|serial| queue.push(job(*serial), false).ok().unwrap());
    }

    fn take(queue: &Queue) -> Option<u64> {
        queue.take().map(|queued| queued.job.reply_to.serial)
    }

    /// In the order of their coming, however many shards and however uneven the turns that
    /// brought them: a job must not wait behind those that came after it.
    #[test]
    fn first_come_first_served() {
        for shards in 1..=8 {
            let queue = Queue::new(shards, 1000);
            let mut serials = 1..=500;
            for turn in [1, 30, 1, 1, 200, 7, 260] {
                push(&queue, &serials.by_ref().take(turn).collect::<Vec<_>>());
            }
            queue.push_front(Queued::new(job(0))).ok().unwrap();
            assert_eq!(take(&queue), Some(0), "what was tried already is first");
            let mut taken: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
            assert_eq!(taken.len(), 500);
            // The turn that the one in front took up shifts the rest by one shard at most.
            assert!(taken.iter().zip(1..).all(|(serial, place)| serial.abs_diff(place) <= 8));
            taken.sort_unstable();
            assert_eq!(taken, (1..=500).collect::<Vec<_>>());
            assert!(queue.is_empty());
        }
    }

    /// One worker alone gets at all shards.
    #[test]
    fn no_shard_is_left_behind() {
        let queue = Queue::new(4, 1000);
        for serial in 0..100 {
            push(&queue, &[serial]);
            assert_eq!(take(&queue), Some(serial));
            assert_eq!(take(&queue), None);
        }
    }

    /// Jobs that nobody waits for are found where no worker takes them.
    #[test]
    fn expired_jobs_are_taken_out() {
        let (queue, now) = (Queue::new(2, 10), Instant::now());
        push(&queue, &[1, 2, 3]);
        let later = Job { deadline: now + Duration::from_secs(60), ..job(4) };
        queue.push(later, false).ok().unwrap();
        assert_eq!(queue.take_expired(now + Duration::from_secs(1)).len(), 3);
        assert_eq!((queue.len(), take(&queue)), (1, Some(4)));
    }

    /// It has an end, for new jobs and for those that come back, and each job is in it once.
    #[test]
    fn bounded() {
        let queue = Queue::new(2, 3);
        push(&queue, &[1, 2, 3]);
        assert!(!queue.has_room());
        assert!(queue.push(job(4), false).is_err());
        assert!(queue.push_front(Queued::new(job(5))).is_err());
        assert_eq!(queue.len(), 3);
        let mut all: Vec<_> = queue.drain().iter().map(|q| q.job.reply_to.serial).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert!(queue.is_empty() && queue.has_room());
    }
}
