//! A caller of the HSM side that waits for each answer.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sha2::Sha256;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::config::Config;
use xks_proxy::job::{
    Completion, CompletionQueue, Failure, HsmAad, Iv, Job, KeyIndex, Operation, ReplyTo, Request,
    Success,
};
use zeroize::Zeroizing;

/// A caller that waits for its answers on one completion queue, as an event loop would.
pub struct Caller {
    /// The HSM side under test.
    pub hsm: Arc<Hsm>,
    inbox: Arc<CompletionQueue>,
    woken: Receiver<()>,
    serial: u64,
}

impl Caller {
    /// Starts the fleet.
    pub fn start(config: Config) -> Self {
        Self::with(|inboxes| Hsm::start(config, inboxes).unwrap())
    }

    /// Starts the HSM side that `start` returns.
    pub fn with(start: impl FnOnce(Vec<Arc<CompletionQueue>>) -> Arc<Hsm>) -> Self {
        Self::try_with(|inboxes| Some(start(inboxes))).unwrap()
    }

    /// Starts the HSM side that `start` returns, if it succeeds.
    pub fn try_with(
        start: impl FnOnce(Vec<Arc<CompletionQueue>>) -> Option<Arc<Hsm>>,
    ) -> Option<Self> {
        let (sender, woken) = channel();
        let sender = std::sync::Mutex::new(sender);
        let inbox = Arc::new(CompletionQueue::new(move || {
            let _ = sender.lock().unwrap().send(());
        }));
        let hsm = start(vec![Arc::clone(&inbox)])?;
        Some(Self { hsm, inbox, woken, serial: 0 })
    }

    /// Makes a job of this caller with a deadline in that many milliseconds.
    pub fn job(&mut self, request: Request, deadline_milli: u64) -> Job {
        self.serial += 1;
        let now = Instant::now();
        Job {
            output: Zeroizing::new(Vec::with_capacity(request.max_output_bytes())),
            request: Arc::new(request),
            reply_to: ReplyTo { event_loop: 0, slot: 0, serial: self.serial },
            queued_at: now,
            deadline: now + Duration::from_millis(deadline_milli),
        }
    }

    /// Waits for answers until there are that many, or for ten seconds.
    pub fn wait(&self, count: usize) -> Vec<Completion> {
        self.wait_for(count, Duration::from_secs(10))
    }

    /// Waits for answers until there are that many, or until that time has passed.
    pub fn wait_for(&self, count: usize, time: Duration) -> Vec<Completion> {
        let end = Instant::now() + time;
        let mut all = Vec::new();
        while all.len() < count && Instant::now() < end {
            let _ = self.woken.recv_timeout(time.min(Duration::from_millis(100)));
            let mut some = Vec::new();
            self.inbox.take(&mut some);
            all.append(&mut some);
        }
        all
    }

    /// Submits a request and waits for its answer.
    pub fn ask(&mut self, request: Request) -> Result<(Success, Vec<u8>), Failure> {
        let mut jobs = vec![self.job(request, 5_000)];
        let mut refused = Vec::new();
        self.hsm.submit(&mut jobs, &mut refused);
        if let Some((_, failure)) = refused.pop() {
            return Err(failure);
        }
        let completion = self.wait(1).pop().expect("no answer");
        assert_eq!(completion.reply_to.serial, self.serial);
        let output = completion.output.to_vec();
        if completion.outcome.is_err() {
            assert!(output.is_empty(), "a failure has no output");
        }
        completion.outcome.map(|success| (success, output))
    }

    /// Submits a request and waits for its answer, while answers to other jobs may arrive too.
    pub fn ask_any(&mut self, request: Request) -> Result<(Success, Vec<u8>), Failure> {
        let mut jobs = vec![self.job(request, 5_000)];
        self.hsm.submit(&mut jobs, &mut Vec::new());
        loop {
            let answers = self.wait(1);
            assert!(!answers.is_empty(), "no answer");
            let is_it = |answer: &Completion| answer.reply_to.serial == self.serial;
            if let Some(it) = answers.into_iter().find(is_it) {
                return it.outcome.map(|success| (success, it.output.to_vec()));
            }
        }
    }

    /// Asks for a key's attributes.
    pub fn describe(&mut self, key: u32) -> Result<Success, Failure> {
        self.ask(request(key, Operation::Describe, &[])).map(|(success, _)| success)
    }

    /// Encrypts; returns the IV, and the ciphertext with its tag.
    pub fn encrypt(&mut self, key: u32, plaintext: &[u8]) -> Result<(Iv, Vec<u8>), Failure> {
        let operation = Operation::Encrypt { cdiv: None };
        let (success, mut output) = self.ask(request(key, operation, plaintext))?;
        let Success::Encrypted { iv, tag, cdiv: None } = success else { panic!("{success:?}") };
        assert_eq!(output.len(), plaintext.len());
        output.extend_from_slice(&tag);
        Ok((iv, output))
    }

    /// Encrypts with a CDIV over that prefix; returns IV, ciphertext with tag, and CDIV.
    pub fn encrypt_with_cdiv(
        &mut self,
        key: u32,
        prefix: Sha256,
        plaintext: &[u8],
    ) -> Result<(Iv, Vec<u8>, [u8; 32]), Failure> {
        let operation = Operation::Encrypt { cdiv: Some(prefix) };
        let (success, mut output) = self.ask(request(key, operation, plaintext))?;
        let Success::Encrypted { iv, tag, cdiv: Some(cdiv) } = success else {
            panic!("{success:?}")
        };
        output.extend_from_slice(&tag);
        Ok((iv, output, cdiv))
    }

    /// Decrypts a ciphertext with its tag.
    pub fn decrypt(&mut self, key: u32, iv: &[u8], input: &[u8]) -> Result<Vec<u8>, Failure> {
        let operation = Operation::Decrypt { iv: Iv::from_slice(iv).unwrap() };
        let (success, output) = self.ask(request(key, operation, input))?;
        assert_eq!(success, Success::Decrypted);
        Ok(output)
    }
}

/// The AAD of all test requests.
pub fn aad() -> HsmAad {
    HsmAad::new(Some((3, &[0xaa; 32])), b"metadata")
}

/// A request with [`aad`].
pub fn request(key: u32, operation: Operation, input: &[u8]) -> Request {
    Request { operation, key: KeyIndex(key), aad: aad(), input: input.to_vec() }
}

/// Returns whether a ciphertext made with [`aad`] decrypts with a key of that value.
pub fn opens_with(value: &[u8; 32], (iv, sealed): &(Iv, Vec<u8>)) -> bool {
    use aes_gcm::aead::{Aead as _, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
    let nonce = Nonce::try_from(iv.as_slice()).unwrap();
    let aad = aad();
    let payload = Payload { msg: sealed, aad: aad.as_slice() };
    Aes256Gcm::new_from_slice(value).unwrap().decrypt(&nonce, payload).is_ok()
}

/// Waits, with patience for slow machines, until a condition holds.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
