//! The simulated HSM side: it holds jobs as long as the simulation wants, and then completes, fails,
//! repeats or forgets them.

use std::sync::Arc;

use xks_proxy::job::{
    Completion, Failure, Iv, Job, KeyAttributes, Operation, Request, ReturnCode, Success,
    TokenIndex,
};

use crate::choices::byte;
use crate::requests::{MARKER_BYTES, push_marker};

/// Each class of failures.
pub const FAILURES: [Failure; 16] = [
    Failure::KeyNotFound,
    Failure::KeyAmbiguous(2),
    Failure::MayNotEncrypt,
    Failure::MayNotDecrypt,
    Failure::KeysDiffer,
    Failure::LimitReached(1 << 32),
    Failure::InvalidCiphertext,
    Failure::TooLarge,
    Failure::Overloaded,
    Failure::TimedOut,
    Failure::NoToken,
    Failure::CdivMismatch,
    Failure::Malformed,
    // An attempt that panicked.
    Failure::Defect,
    Failure::Pkcs11(ReturnCode::Other(0x30)),
    Failure::Pkcs11(ReturnCode::Other(0x8000_0001)),
];

/// Most jobs that the HSM side holds; more are forgotten.
const MAX_JOBS: usize = 256;

/// A request that an attempt still holds after its job has been answered, with its content then.
struct Held {
    request: Arc<Request>,
    length: usize,
    first: Option<u8>,
}

/// Jobs that are not completed.
#[derive(Default)]
pub struct Hsm {
    pub jobs: Vec<Job>,
    held: Vec<Held>,
    /// Number of jobs that were completed, from which each result is made.
    number: u64,
}

/// A result that differs from every other one.
pub struct Done {
    pub completion: Completion,
    pub number: u64,
}

impl Hsm {
    pub fn submit(&mut self, job: Job) {
        if self.jobs.len() >= MAX_JOBS {
            self.jobs.swap_remove(0);
        }
        self.jobs.push(job);
    }

    /// Takes a job, in any order.
    pub fn take(&mut self, choice: usize) -> Option<Job> {
        let at = choice % self.jobs.len().max(1);
        (at < self.jobs.len()).then(|| self.jobs.swap_remove(at))
    }

    /// Keeps a job's request as an attempt that hangs does.
    pub fn hold(&mut self, choice: usize) {
        if let Some(job) = self.jobs.get(choice % self.jobs.len().max(1)) {
            let request = Arc::clone(&job.request);
            let (length, first) = (request.input.len(), request.input.first().copied());
            self.held.push(Held { request, length, first });
        }
        if self.held.len() > 8 {
            self.release();
        }
    }

    /// Lets all attempts that hang return. Nobody has written into what they read.
    pub fn release(&mut self) {
        for held in self.held.drain(..) {
            let input = &held.request.input;
            assert!(
                input.len() == held.length && input.first().copied() == held.first,
                "a request was changed while an attempt at it was under way"
            );
        }
    }

    /// Does a job.
    pub fn work(&mut self, job: Job, word: u64) -> Done {
        self.number += 1;
        let number = self.number;
        let Job { request, mut output, reply_to, .. } = job;
        let length = request.input.len();
        let success = match &request.operation {
            Operation::Describe => Success::Described(attributes(word)),
            Operation::Encrypt { cdiv } => {
                push_ciphertext(&mut output, number, length);
                Success::Encrypted {
                    iv: iv(number),
                    tag: tag(number),
                    cdiv: cdiv.as_ref().map(|_| cdiv_of(number)),
                }
            }
            Operation::Decrypt { .. } => {
                push_plaintext(&mut output, number, length.saturating_sub(16));
                Success::Decrypted
            }
        };
        let completion = Completion {
            reply_to,
            outcome: Ok(success),
            output,
            token: Some(TokenIndex(0)),
            queue_micros: 3,
            hsm_micros: 25,
        };
        Done { completion, number }
    }

    /// Fails a job, after some of its output was written.
    pub fn fail(job: Job, failure: Failure) -> Completion {
        let mut output = job.output;
        push_plaintext(&mut output, 0, 200);
        Completion {
            reply_to: job.reply_to,
            outcome: Err(failure),
            output,
            token: None,
            queue_micros: 3,
            hsm_micros: 25,
        }
    }
}

/// Attributes of a key: it decrypts in most cases.
fn attributes(word: u64) -> KeyAttributes {
    KeyAttributes {
        bits: 256,
        encrypt: !byte(word, 6).is_multiple_of(16),
        decrypt: !byte(word, 7).is_multiple_of(3),
        wrap: byte(word, 6).is_multiple_of(2),
        ..KeyAttributes::UNREPORTED
    }
}

fn push_number(bytes: &mut Vec<u8>, number: u64, length: usize) {
    let digits = number.to_le_bytes();
    bytes.extend_from_slice(&digits[..length.min(digits.len())]);
}

/// Appends the ciphertext that job `number` made.
pub fn push_ciphertext(bytes: &mut Vec<u8>, number: u64, length: usize) {
    let end = bytes.len() + length;
    push_number(bytes, number, length);
    bytes.resize(end, 0xc7);
}

/// Appends the plaintext that job `number` made: the marked text, if it fits, and the number.
pub fn push_plaintext(bytes: &mut Vec<u8>, number: u64, length: usize) {
    // Growing would leave a copy behind; a worker reserves the memory too.
    bytes.reserve_exact(length + MARKER_BYTES);
    let end = bytes.len() + length;
    if length >= MARKER_BYTES {
        push_marker(bytes);
    }
    push_number(bytes, number, end - bytes.len());
    bytes.resize(end, 0xd1);
}

pub fn iv(number: u64) -> Iv {
    let mut bytes = [0x1f; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let length = if number.is_multiple_of(2) { 12 } else { 16 };
    Iv::from_slice(&bytes[..length]).expect("12 or 16 bytes")
}

pub fn tag(number: u64) -> [u8; 16] {
    let mut tag = [0x7a; 16];
    tag[..8].copy_from_slice(&number.to_le_bytes());
    tag
}

pub fn cdiv_of(number: u64) -> [u8; 32] {
    let mut cdiv = [0xcd; 32];
    cdiv[..8].copy_from_slice(&number.to_le_bytes());
    cdiv
}
