//! Number of calls of each function.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::functions::{FUNCTIONS, Function};

/// Threads count apart from each other, so that they don't take a cache line from one another
/// at every call: this many do.
const SHARDS: usize = 32;

/// Calls of each function since the start.
pub struct Calls([Shard; SHARDS]);

#[repr(align(128))]
struct Shard([AtomicU64; FUNCTIONS.len()]);

impl Calls {
    pub const fn new() -> Self {
        Self([const { Shard([const { AtomicU64::new(0) }; FUNCTIONS.len()]) }; SHARDS])
    }

    pub fn count(&self, function: Function) {
        thread_local! {
            static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = SHARD.get().unwrap_or_else(|| {
            let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            SHARD.set(Some(shard));
            shard
        });
        self.0[shard].0[function as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(&self, function: Function) -> u64 {
        let of = |shard: &Shard| shard.0[function as usize].load(Ordering::Relaxed);
        self.0.iter().map(of).sum()
    }
}
