//! The queue of one token: bounded, and divided into shards that have a lock each.
//!
//! Jobs are pushed to the shards in rotation, and workers take from them in the same rotation, so
//! the order is that of a single queue, and no shard is neglected. A worker takes a job only when
//! it begins it. Until then any other worker of the token can take the job, so a call that hangs
//! holds up only its own job, and no job waits behind another while a session is free.

use std::collections::VecDeque;
use std::time::Instant;

use super::queued::Queued;
use crate::job::Job;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};

/// The queue of one token.
pub struct Queue {
    shards: Box<[Shard]>,
    /// Number of jobs in all shards, including those about to be pushed.
    length: Counter,
    max_length: usize,
    next_push: Counter,
    next_take: Counter,
}

/// A shard, whose lock has a separate cache line (pair), since two locks on one would contend.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<VecDeque<Queued>>);

/// A counter on a separate cache line (pair).
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicUsize);

impl Queue {
    /// Creates an empty queue for `max_length` jobs.
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

    /// Returns the number of waiting jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.0.load(Ordering::SeqCst)
    }

    /// Returns whether no job waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether there appears to be room for one more job; only [`Self::push`] is certain.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.len() < self.max_length
    }

    /// Queues a job. For `is_trial`, see [`Queued::is_trial`].
    ///
    /// # Errors
    /// Returns the job if there is no room.
    pub fn push(&self, job: Job, is_trial: bool) -> Result<(), Job> {
        if !self.reserve() {
            return Err(job);
        }
        let queued = Queued { is_trial, ..Queued::new(job) };
        self.shard(&self.next_push).0.lock().push_back(queued);
        Ok(())
    }

    /// Puts a job that has been tried at the front of a shard.
    ///
    /// # Errors
    /// Returns the job if there is no room.
    pub fn push_front(&self, queued: Queued) -> Result<(), Queued> {
        if !self.reserve() {
            return Err(queued);
        }
        // The shard from which the next job is taken.
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

    /// Takes the oldest job of the shard whose turn it is, or of the next shard that has one.
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
        // A job is counted before it is pushed, and until after it is taken. The thread that does so
        // may need this core.
        thread::yield_now();
        None
    }

    /// Removes and returns the oldest jobs whose deadline has passed.
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

    /// Removes and returns all jobs.
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

    /// Jobs are taken in the order in which they were pushed, with any number of shards and batches
    /// of uneven size: a job must not wait behind later ones.
    #[test]
    fn first_come_first_served() {
        for shards in 1..=8 {
            let queue = Queue::new(shards, 1000);
            let mut serials = 1..=500;
            for turn in [1, 30, 1, 1, 200, 7, 260] {
                push(&queue, &serials.by_ref().take(turn).collect::<Vec<_>>());
            }
            queue.push_front(Queued::new(job(0))).ok().unwrap();
            assert_eq!(take(&queue), Some(0), "a job that was tried is first");
            let mut taken: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
            assert_eq!(taken.len(), 500);
            // The job put at the front takes one turn, which shifts the rest by one shard at most.
            assert!(taken.iter().zip(1..).all(|(serial, place)| serial.abs_diff(place) <= 8));
            taken.sort_unstable();
            assert_eq!(taken, (1..=500).collect::<Vec<_>>());
            assert!(queue.is_empty());
        }
    }

    /// A single worker reaches all shards.
    #[test]
    fn no_shard_is_left_behind() {
        let queue = Queue::new(4, 1000);
        for serial in 0..100 {
            push(&queue, &[serial]);
            assert_eq!(take(&queue), Some(serial));
            assert_eq!(take(&queue), None);
        }
    }

    /// Expired jobs are removed even if no worker takes them.
    #[test]
    fn expired_jobs_are_taken_out() {
        let (queue, now) = (Queue::new(2, 10), Instant::now());
        push(&queue, &[1, 2, 3]);
        let later = Job { deadline: now + Duration::from_secs(60), ..job(4) };
        queue.push(later, false).ok().unwrap();
        assert_eq!(queue.take_expired(now + Duration::from_secs(1)).len(), 3);
        assert_eq!((queue.len(), take(&queue)), (1, Some(4)));
    }

    /// The length is limited for new and returned jobs, and no job is lost or duplicated.
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
