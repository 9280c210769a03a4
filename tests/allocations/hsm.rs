//! The path from an event loop's job to the HSM and back does not allocate once it is warm.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../hsm/support/caller.rs"]
mod caller;
#[path = "../hsm/support/tokens.rs"]
mod tokens;
#[path = "../common/tools.rs"]
mod tools;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caller::*;
use sha2::{Digest as _, Sha256};
use tokens::*;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::config::TokenSelector;
use xks_proxy::job::{CompletionQueue, Iv, Job, Operation, ReplyTo, Request};
use zeroize::Zeroizing;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is delegated to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An event loop that keeps sixteen jobs under way.
struct Loop {
    hsm: Arc<Hsm>,
    inbox: Arc<CompletionQueue>,
    jobs: Vec<Job>,
    refused: Vec<(Job, xks_proxy::job::Failure)>,
    completions: Vec<xks_proxy::job::Completion>,
    outputs: Vec<Zeroizing<Vec<u8>>>,
}

impl Loop {
    fn answer(&mut self, request: &Arc<Request>, count: usize) {
        let mut answered = 0;
        let mut under_way = 0;
        while answered < count {
            let now = Instant::now();
            while let Some(output) = self.outputs.pop() {
                self.jobs.push(Job {
                    request: Arc::clone(request),
                    output,
                    reply_to: ReplyTo { event_loop: 0, slot: 0, serial: 0 },
                    queued_at: now,
                    deadline: now + Duration::from_secs(10),
                });
                under_way += 1;
            }
            self.hsm.submit(&mut self.jobs, &mut self.refused);
            assert!(self.refused.is_empty());
            self.inbox.take(&mut self.completions);
            if self.completions.is_empty() {
                thread::park_timeout(Duration::from_secs(1));
            }
            for completion in self.completions.drain(..) {
                assert!(completion.outcome.is_ok());
                let mut output = completion.output;
                output.clear();
                self.outputs.push(output);
                answered += 1;
                under_way -= 1;
            }
        }
        while under_way > 0 {
            thread::park_timeout(Duration::from_millis(10));
            self.inbox.take(&mut self.completions);
            for completion in self.completions.drain(..) {
                let mut output = completion.output;
                output.clear();
                self.outputs.push(output);
                under_way -= 1;
            }
        }
    }
}

#[test]
fn the_warm_path_does_not_allocate() {
    in_child!("the_warm_path_does_not_allocate", softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        let slot = make_token(&pkcs11, "token");
        add_key(&login(&pkcs11, slot), "key", &[1; 32], ENCRYPT | DECRYPT, true);
        pkcs11.finalize().unwrap();
        let config = config(vec![token(module, TokenSelector::First, PIN, 4)], &["key"]);
        let mut caller = Caller::start(config.clone());
        let (iv, sealed) = caller.encrypt(0, &[7; 32]).unwrap();
        drop(caller);

        let this = thread::current();
        let inbox = Arc::new(CompletionQueue::new(move || this.unpark()));
        let mut event_loop = Loop {
            hsm: Hsm::start(config, vec![Arc::clone(&inbox)]).unwrap(),
            inbox,
            jobs: Vec::with_capacity(16),
            refused: Vec::new(),
            completions: Vec::with_capacity(64),
            outputs: (0..16).map(|_| Zeroizing::new(Vec::with_capacity(128))).collect(),
        };
        let iv = Iv::from_slice(iv.as_slice()).unwrap();
        for (name, operation, input) in [
            ("decrypt", Operation::Decrypt { iv }, sealed),
            ("encrypt", Operation::Encrypt { cdiv: None }, vec![7; 32]),
            ("encrypt with CDIV", Operation::Encrypt { cdiv: Some(Sha256::new()) }, vec![7; 32]),
            ("describe", Operation::Describe, Vec::new()),
        ] {
            let asked = Arc::new(request(0, operation, &input));
            event_loop.answer(&asked, 2000);
            // A health check, or a new session because the machine is busy, may allocate in
            // between.
            let is_free = (0..10).any(|_| {
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                event_loop.answer(&asked, 1000);
                ALLOCATIONS.load(Ordering::SeqCst) == before
            });
            assert!(is_free, "{name} allocates");
        }
    });
}
